//! Going on with a run that has failed, with statements that may be others now: what it has made stays, as long as it
//! would be made again from the same.

use super::drive::Drive;
use super::{Given, Pipeline, Settings, Source};
use crate::journal::{
    self, Brief, Driver, Event, Planned, Recorded, RunJournal, RunState, Status, StepStatus,
};
use crate::progress::Progress;
use crate::run::Run;
use crate::session::Session;
use crate::statement::{Located, Statement};
use crate::{JobError, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The latest runs that are looked at, for one whose journal can be read.
const MOST: usize = 20;

/// Goes on with the last run of the pipeline of a text, which has failed: with this text, the run's
/// values, and what was published when it began. Steps that are done are not done again, unless their text or what they
/// read is another.
///
/// # Errors
/// If the last run is none that can be gone on with.
pub async fn reopen(
    session: Session,
    source: Source,
    driver: Driver,
    progress: Arc<dyn Progress>,
) -> Result<Drive> {
    let warehouse = session.warehouse().clone();
    // What is wrong in the settings is said when the whole is read.
    let name = source.name(&Settings::of_source(&source));
    let failed = last_failed(&session, &name).await?;
    let pipeline = Pipeline::of(source, &Given::Recorded(failed.begun.parameters.clone()))?;
    let earlier = Source::kept(&warehouse, &failed.begun.source).await?;
    let earlier = Pipeline::of(earlier, &Given::Recorded(failed.begun.parameters.clone()))?;
    let publication = failed.begun.publication;
    let registry = warehouse.registry().await?.as_of(publication);
    let mut steps = pipeline.planned()?;
    let before: BTreeMap<usize, Option<String>> = steps
        .iter()
        .enumerate()
        .filter_map(|(at, step)| {
            let (_, old) = same(&failed, &steps[..at], step)?;
            old.left_out.then(|| (at, old.fingerprint.clone()))
        })
        .collect();
    let fingerprints = pipeline.fingerprints(&session, &registry, &before).await?;
    let mut kept = Vec::new();
    for (at, fingerprint) in fingerprints.into_iter().enumerate() {
        let (earlier, rest) = steps.split_at_mut(at);
        let Some(step) = rest.first_mut() else { continue };
        step.fingerprint = fingerprint;
        step.left_out = before.contains_key(&at);
        let Some((number, old)) = same(&failed, earlier, step) else { continue };
        let unchanged = step.fingerprint.is_some() && step.fingerprint == old.fingerprint;
        if step.left_out || unchanged {
            step.unchanged.clone_from(&old.unchanged);
        }
        if unchanged && failed.steps[number].status == StepStatus::Done {
            kept.push((at, number));
        }
    }
    execute_whole(&pipeline, &failed, &kept, &mut steps);
    let source = pipeline.source().keep(&warehouse).await?;
    let reopened = Event::Reopened { source, steps, kept, driver };
    let journal = RunJournal::reopen(&warehouse, failed, reopened).await?;
    let (progress, recorder) = Recorded::new(progress);
    let progress: Arc<dyn Progress> = Arc::new(progress);
    let id = journal.state().await.id;
    let operation = format!("RUN {}", pipeline.name());
    let told = Arc::clone(&progress);
    let mut run = Run::go_on(session, id, operation, publication, false, told).await?;
    // Of steps that are there no more, files are left.
    for (statement, _) in earlier.statements() {
        run.touch(statement)?;
    }
    Ok(Drive { pipeline, run, journal, recorder, progress })
}

/// Lets steps that would not be executed be executed after all: those that make or change something of which another
/// part is made again or is there no more, and those that open files for others.
fn execute_whole(
    pipeline: &Pipeline,
    failed: &RunState,
    kept: &[(usize, usize)],
    steps: &mut [Planned],
) {
    let of_name = |steps: &[Planned], name: &str| -> Vec<(Option<String>, bool)> {
        let named = steps.iter().filter(|step| step.name == name);
        named.map(|step| (step.fingerprint.clone(), step.unchanged.is_some())).collect()
    };
    for at in 0..steps.len() {
        let name = steps[at].name.clone();
        let now = of_name(steps, &name);
        let whole = now.iter().all(|(_, unchanged)| *unchanged);
        let same = whole && now == of_name(&failed.begun.steps, &name);
        if !same && !steps[at].left_out {
            for step in steps.iter_mut().filter(|step| step.name == name && !step.left_out) {
                step.unchanged = None;
            }
        }
    }
    let in_place = |(statement, _): (&Located, Option<&str>)| {
        matches!(statement.statement, Statement::CreateExternalTable(_))
    };
    let in_place: Vec<bool> = pipeline.statements().map(in_place).collect();
    for at in (0..steps.len()).filter(|at| in_place[*at]) {
        let executed = |(number, step): (usize, &Planned)| {
            let done = kept.iter().any(|(kept, _)| *kept == number);
            step.after.contains(&at) && step.unchanged.is_none() && !step.left_out && !done
        };
        if steps.iter().enumerate().any(executed) {
            (steps[at].unchanged, steps[at].left_out) = (None, false);
        }
    }
}

/// The last run of a pipeline, if it has failed and what it has made is still there.
async fn last_failed(session: &Session, pipeline: &str) -> Result<RunState> {
    let warehouse = session.warehouse();
    let error = |reason: String| JobError::Pipeline { folder: pipeline.to_string(), reason };
    // Those that were skipped, or that somebody has ended, are none to go on with.
    let wanted = |run: &Brief| run.pipeline == pipeline && run.status != Status::Cancelled;
    let latest = journal::latest(warehouse, MOST, wanted).await?;
    let Some(id) = latest.into_iter().find(|kept| kept.run.is_ok()).map(|kept| kept.id) else {
        return Err(error("it has no run to go on with: run it anew".to_string()));
    };
    let state = journal::state(warehouse, &id).await?;
    match state.status {
        // The journal of one that is in an archive has come to its end.
        Status::Failed if !journal::runs(warehouse).await?.contains(&id) => {
            Err(error(format!("its last run {id} was long ago: run it anew")))
        }
        Status::Failed if !state.discarded && (warehouse.is_open(&id).await? || !made(&state)) => {
            Ok(state)
        }
        Status::Failed => Err(error(format!("of its last run {id} nothing is left: run it anew"))),
        Status::Running | Status::Publishing => Err(error(format!(
            "its run {id} is not over: `nightshift runs resume {id}` goes on with it"
        ))),
        status => Err(error(format!(
            "its last run that nobody has cancelled, {id}, has not failed, but is {}: run it anew",
            status.as_str()
        ))),
    }
}

/// Whether a run has made something that whoever goes on with it would read.
fn made(run: &RunState) -> bool {
    let effects = run.steps.iter().filter_map(|step| step.effect.as_ref());
    effects.into_iter().any(|effect| !effect.is_empty())
}

/// The step of a run that is the same as one that comes after `earlier`, whatever its text.
fn same<'a>(
    run: &'a RunState,
    earlier: &[Planned],
    step: &Planned,
) -> Option<(usize, &'a Planned)> {
    let is_like = |other: &Planned| other.name == step.name && other.action == step.action;
    let place = earlier.iter().filter(|other| is_like(other)).count();
    run.begun.steps.iter().enumerate().filter(|(_, other)| is_like(other)).nth(place)
}
