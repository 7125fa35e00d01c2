//! A pipeline's run, driven from its beginning, or from wherever another process has left it, to its end.

use super::select::CHECK;
use super::steps::Steps;
use super::{Given, Pipeline, Source};
use crate::journal::{
    Begun, Cause, Driver, Event, Planned, PublishedVersion, Recorded, Recorder, RunJournal,
    RunState, Status, StepState, StepStatus,
};
use crate::progress::Progress;
use crate::queries::{Caller, Via};
use crate::run::{Measured, Run, Step};
use crate::session::Session;
use crate::statement::{Located, Statement};
use crate::{JobError, Result, audit, garbage};
use chrono::{DateTime, Utc};
use nightshift_catalog::CatalogError;
use nightshift_catalog::registry::Entry;
use nightshift_catalog::warehouse::Warehouse;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A run that has been published.
#[derive(Debug)]
pub struct Done {
    /// The run's id.
    pub run: String,
    /// What its statements have made.
    pub steps: Vec<Step>,
    /// What everybody sees now.
    pub published: Vec<Entry>,
    /// How many steps were not executed, because they would have made again what was published.
    pub unchanged: usize,
}

/// How a run begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its id.
    pub id: String,
    /// Why.
    pub cause: Cause,
    /// Who drives it.
    pub driver: Driver,
    /// Whether steps are executed that would make again what is published.
    pub all: bool,
    /// The steps that are executed, as `select` reads them; all if there are none.
    pub only: Vec<String>,
}

impl Start {
    /// A run that somebody wants now.
    pub fn now(cause: Cause, driver: Driver, all: bool) -> Self {
        Self { id: Run::new_id(), cause, driver, all, only: Vec::new() }
    }
}

impl Pipeline {
    /// Runs all files and checks, then publishes, and writes down each step of it. If anything fails, nothing is
    /// published and what was written is deleted. When `interrupted` comes to its end first, that counts as a failure.
    pub async fn run(
        &self,
        session: Session,
        start: Start,
        progress: Arc<dyn Progress>,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Done> {
        self.begin(session, start, progress).await?.finish(interrupted).await
    }

    /// Writes down that a run begins. Whoever finds that can go on with it.
    ///
    /// # Errors
    /// [`JobError::Fenced`] if a run of that id was begun before.
    pub async fn begin(
        &self,
        session: Session,
        start: Start,
        progress: Arc<dyn Progress>,
    ) -> Result<Drive> {
        let (progress, recorder) = Recorded::new(progress);
        let progress: Arc<dyn Progress> = Arc::new(progress);
        let Start { id, cause, driver, all, only } = start;
        let warehouse = session.warehouse().clone();
        let steps = self
            .plan(&session, all, &only)
            .await?
            .into_iter()
            .map(|planned| planned.step)
            .collect();
        let run = Run::prepare(session, id, self.operation(), Arc::clone(&progress)).await?;
        // It is the first thing that is written.
        let kept = self.source().keep(&warehouse).await;
        let begun = Begun {
            pipeline: self.name(),
            source: kept.map_err(|error| not_writable(&warehouse, error))?,
            cause,
            parameters: self.values().clone(),
            publication: run.publication(),
            steps,
            driver,
        };
        let journal = RunJournal::begin(&warehouse, run.id(), begun).await?;
        Ok(Drive { pipeline: self.clone(), run, journal, recorder, progress })
    }

    fn operation(&self) -> String {
        format!("RUN {}", self.name())
    }

    /// Its statements as they are written down.
    pub(super) fn planned(&self) -> Result<Vec<Planned>> {
        let mut planned: Vec<Planned> = Vec::new();
        // Tables of bad records, by the steps that make them.
        let mut quarantines: Vec<Option<String>> = Vec::new();
        for (statement, check) in self.statements() {
            let file = Path::new(&statement.file).strip_prefix(self.folder());
            let file = file.map_or(statement.file.clone(), |file| file.display().to_string());
            let reads = statement.reads()?.created_names();
            let object = statement.object();
            let needs = |name: &String| reads.contains(name) || object.as_ref() == Some(name);
            let made = planned.iter().map(|other| &other.name).zip(&quarantines).enumerate();
            let made_by = |(at, (name, quarantine)): (usize, (&String, &Option<String>))| {
                (needs(name) || quarantine.as_ref().is_some_and(needs)).then_some(at)
            };
            let after = made.filter_map(made_by).collect();
            quarantines.push(statement.quarantine());
            planned.push(Planned {
                name: check.map(str::to_string).or(object).unwrap_or_else(|| file.clone()),
                action: check.map_or(statement.statement.word(), |_| CHECK).to_string(),
                file,
                line: statement.line,
                after,
                fingerprint: None,
                unchanged: None,
                left_out: false,
            });
        }
        Ok(planned)
    }
}

fn not_writable(warehouse: &Warehouse, error: JobError) -> JobError {
    match error {
        JobError::Catalog(error) => JobError::Catalog(CatalogError::NotWritable {
            url: warehouse.storage().url().to_string(),
            source: Box::new(error),
        }),
        error => error,
    }
}

/// Goes on with a run of a pipeline that another process has left. What is written down as done is not done again. A
/// run that nobody can go on with has failed.
pub async fn go_on(
    session: Session,
    run: &str,
    driver: Driver,
    progress: Arc<dyn Progress>,
    interrupted: impl Future<Output = ()>,
) -> Result<Done> {
    let warehouse = session.warehouse().clone();
    let journal = RunJournal::take_over(&warehouse, run, driver).await?;
    let left = journal.state().await;
    let (progress, recorder) = Recorded::new(progress);
    let progress: Arc<dyn Progress> = Arc::new(progress);
    let run = Run::go_on(
        session,
        run.to_string(),
        format!("RUN {}", left.begun.pipeline),
        left.begun.publication,
        left.status == Status::Publishing,
        Arc::clone(&progress),
    );
    let mut run = run.await?;
    let publishing = left.status == Status::Publishing;
    match read_again(&warehouse, &left).await {
        Ok(pipeline) => {
            if !publishing {
                claim(&mut run, &pipeline).await?;
            }
            let drive = Drive { pipeline, run, journal, recorder, progress };
            match publishing && drive.is_committed(&left).await? {
                true => drive.complete().await,
                false => drive.finish(interrupted).await,
            }
        }
        Err(error) if error.can_pass() || publishing => Err(error),
        Err(error) => fail(run, journal, progress.as_ref(), error).await,
    }
}

/// Lets what another process has made in a run be deleted with it, whichever of the steps it is that ends it.
async fn claim(run: &mut Run, pipeline: &Pipeline) -> Result<()> {
    for (statement, _) in pipeline.statements() {
        match run.claim(statement, pipeline.folder()).await {
            Err(error) if error.can_pass() => return Err(error),
            // Its step says so too, if it comes to that.
            Err(error) => tracing::debug!(run = run.id(), %error, "a step has made nothing"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The pipeline of a run that another process has begun.
async fn read_again(warehouse: &Warehouse, left: &RunState) -> Result<Pipeline> {
    let source = Source::kept(warehouse, &left.begun.source).await?;
    let pipeline = Pipeline::of(source, &Given::Recorded(left.begun.parameters.clone()))?;
    let planned = pipeline.planned()?;
    let same = planned.iter().zip(&left.begun.steps).all(|(one, other)| one.is_like(other));
    if same && planned.len() == left.begun.steps.len() {
        return Ok(pipeline);
    }
    let reason = "this version of the program puts its statements into another order than the one \
                  that has begun the run";
    let folder = pipeline.folder().display().to_string();
    Err(JobError::Pipeline { folder, reason: reason.to_string() })
}

/// A run in the hands of this process.
pub struct Drive {
    pub(super) pipeline: Pipeline,
    pub(super) run: Run,
    pub(super) journal: RunJournal,
    pub(super) recorder: Recorder,
    pub(super) progress: Arc<dyn Progress>,
}

impl Drive {
    /// The state of the run.
    pub async fn state(&self) -> RunState {
        self.journal.state().await
    }

    /// Ends the run before anything is executed.
    pub async fn decline(self, reason: String) -> Result<()> {
        self.journal.append(Event::Cancelled { reason }).await
    }

    /// Executes what is not done yet, and publishes it.
    pub async fn finish(mut self, interrupted: impl Future<Output = ()>) -> Result<Done> {
        let (id, name) = (self.run.id().to_string(), self.pipeline.name());
        let left = self.journal.state().await;
        // Whoever has begun to publish it may have come to its end.
        let publishing = left.status == Status::Publishing;
        let executed = if let (Some(who), false) = (&left.cancelled_by, publishing) {
            Err(JobError::RunCancelled { who: who.clone() })
        } else {
            let (run, journal, recorder) = (&mut self.run, &self.journal, &self.recorder);
            let (pipeline, progress) = (&self.pipeline, self.progress.as_ref());
            let steps = async {
                Steps { pipeline, journal, recorder, progress }.execute(run).await?;
                gates(pipeline, run, journal).await
            };
            tokio::select! {
                executed = steps => executed,
                error = recorder.record(journal) => Err(error),
                () = interrupted, if !publishing => Err(JobError::Interrupted),
                limit = timed_out(&self.pipeline, left.since), if !publishing => {
                    Err(JobError::TimedOut { what: format!("a run of {name}"), limit })
                }
                reason = journal.disturbed(), if !publishing => Err(reason),
            }
        };
        let done = match executed {
            Ok(gates) => self.publish(gates).await,
            Err(error) if publishing && error.can_pass() => Err(error),
            Err(error) => fail(self.run, self.journal, self.progress.as_ref(), error).await,
        };
        let outcome = match &done {
            Ok(_) => "done",
            Err(error) if error.is_cancellation() => "cancelled",
            Err(JobError::Fenced { .. }) => "taken over",
            Err(JobError::Held { .. }) => "held",
            Err(_) => "failed",
        };
        let caller = Caller::of_this_process(Via::Pipeline);
        audit::record(&caller, id, "RUN", &name, outcome);
        done
    }

    /// Publishes what the run has made, or keeps its models if a gate says so.
    async fn publish(mut self, gates: Vec<Measured>) -> Result<Done> {
        let id = self.run.id().to_string();
        if gates.iter().any(|gate| gate.held.is_some()) {
            self.run.hold(&gates);
        }
        let publishing = Event::Publishing { gates };
        if let Err(error) = self.journal.append(publishing).await {
            return match error.can_pass() {
                true => Err(error),
                false => fail(self.run, self.journal, self.progress.as_ref(), error).await,
            };
        }
        match self.run.commit().await {
            Ok(published) => {
                let publication = published.first().map(|entry| entry.publication);
                self.journal.append(Event::Committed { publication }).await?;
                self.conclude(published).await
            }
            // Whether it is published will be known when the store answers again.
            Err(error) if error.can_pass() => {
                self.progress.note(&format!(
                    "`nightshift runs resume {id}` finds out whether it is published, and publishes it if it is not"
                ));
                Err(error)
            }
            Err(error) => fail(self.run, self.journal, self.progress.as_ref(), error).await,
        }
    }

    /// Whether another process has published the run.
    async fn is_committed(&self, left: &RunState) -> Result<bool> {
        Ok(left.committed || !self.run.committed().await?.is_empty())
    }

    /// Does what is left to do of a run that another process has published. Nothing of it can make it fail.
    async fn complete(mut self) -> Result<Done> {
        let state = self.journal.state().await;
        let gates = state.gates.clone().unwrap_or_default();
        let copies = |(statement, _): (&Located, Option<&str>)| {
            matches!(statement.statement, Statement::Copy(_))
        };
        if self.pipeline.statements().any(copies) {
            let (pipeline, journal) = (&self.pipeline, &self.journal);
            let (recorder, progress) = (&self.recorder, self.progress.as_ref());
            Steps { pipeline, journal, recorder, progress }.execute(&mut self.run).await?;
        } else {
            // For what is told in the end.
            for (number, step) in state.steps.iter().enumerate() {
                if let Some(effect) = &step.effect
                    && let Err(error) = self.run.restore(effect, step.made.clone()).await
                {
                    if error.can_pass() {
                        return Err(error);
                    }
                    tracing::debug!(number, %error, "what a step has staged is gone already");
                    self.run.keep_all_files();
                }
            }
        }
        if gates.iter().any(|gate| gate.held.is_some()) {
            self.run.hold(&gates);
        }
        let published = self.run.committed().await?;
        if !state.committed {
            let publication = published.first().map(|entry| entry.publication);
            self.journal.append(Event::Committed { publication }).await?;
        }
        self.conclude(published).await
    }

    /// Gives files their places and tells that the run is published, which it is.
    async fn conclude(self, published: Vec<Entry>) -> Result<Done> {
        let Self { run, journal, progress, .. } = self;
        journal.ensure_ours().await?;
        if let Err(error) = run.export().await {
            progress
                .note(&format!("files for other programs are not all in their places: {error}"));
            tracing::error!(run = run.id(), %error, "files for other programs are not all in their places");
        }
        let state = journal.state().await;
        let held: Vec<_> = state.gates.into_iter().flatten().filter_map(|gate| gate.held).collect();
        let publication = published.first().map(|entry| entry.publication);
        let versions = published.iter().map(PublishedVersion::of).collect();
        let is_held = !held.is_empty();
        journal.append(Event::Published { publication, versions, held: is_held }).await?;
        run.tidy().await;
        let (warehouse, pipeline) = (run.warehouse(), &journal.state().await.begun.pipeline);
        if let Err(error) = garbage::forget_failed(warehouse, pipeline, run.id()).await {
            progress.note(&format!("what earlier runs have left could not be deleted: {error}"));
        }
        if is_held {
            return Err(JobError::Held { reasons: held, kept: names(&published) });
        }
        if let Err(error) = journal.note_published().await {
            progress.note(&format!("the next run will make everything again: {error}"));
        }
        let state = journal.state().await;
        let unchanged = state.unchanged();
        let steps = state.steps.into_iter().filter_map(|step| step.made).collect();
        Ok(Done { run: run.id().to_string(), steps, published, unchanged })
    }
}

/// The models that are kept and not published.
fn names(kept: &[Entry]) -> String {
    let names = kept.iter().map(|entry| format!("{} version {}", entry.name, entry.version));
    names.collect::<Vec<_>>().join(", ")
}

/// Measures what the pipeline's gates are about. What another process has found counts.
async fn gates(pipeline: &Pipeline, run: &Run, journal: &RunJournal) -> Result<Vec<Measured>> {
    if let Some(found) = journal.state().await.gates {
        return Ok(found);
    }
    let mut found = Vec::new();
    for gate in &pipeline.settings.gates {
        found.push(run.measure(gate).await?);
    }
    Ok(found)
}

/// Ends a run without publishing anything. What it has written is deleted when everybody can know that, unless somebody
/// may go on with it.
async fn fail(
    run: Run,
    journal: RunJournal,
    progress: &dyn Progress,
    error: JobError,
) -> Result<Done> {
    if matches!(error, JobError::Fenced { .. }) {
        return Err(error);
    }
    // What is published can't fail any more, whoever has published it.
    let state = journal.state().await;
    let publishing = state.status == Status::Publishing;
    if publishing && !run.committed().await.is_ok_and(|entries| entries.is_empty()) {
        return Err(error);
    }
    let reason = error.to_string();
    let cancelled = error.is_cancellation();
    let event = match cancelled {
        true => Event::Cancelled { reason },
        false => Event::Failed { error: reason },
    };
    if let Err(unwritten) = journal.append(event).await {
        let id = run.id();
        progress.note(&format!(
            "that the run has failed could not be written down: {unwritten}; `nightshift runs resume {id}` \
             goes on with it"
        ));
        return Err(error);
    }
    let is_of_use = |step: &StepState| {
        step.status == StepStatus::Done
            && step.effect.as_ref().is_some_and(|effect| !effect.is_empty())
    };
    // What could not be published because of others would not be next time; what somebody has ended is to be gone.
    let of_use = !publishing && !cancelled && state.steps.iter().any(is_of_use);
    let ended = match of_use {
        true => {
            progress.note(
                "what is done is kept for a day: `nightshift run … --from-failed` goes on with it",
            );
            run.suspend().await
        }
        false => run.abandon().await,
    };
    if let Err(left) = ended {
        progress.note(&format!("some of the run's files could not be deleted: {left}"));
    }
    Err(error)
}

/// Waits until a run has taken longer than it may, and says what that is; for ever if it may take any time.
async fn timed_out(pipeline: &Pipeline, since: DateTime<Utc>) -> Duration {
    let Some(limit) = pipeline.settings.timeout else { return std::future::pending().await };
    let taken = (Utc::now() - since).to_std().unwrap_or_default();
    tokio::time::sleep(limit.saturating_sub(taken)).await;
    limit
}
