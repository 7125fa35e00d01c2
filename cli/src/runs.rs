//! `runs`: what runs of pipelines have done, and what is to become of them.

use crate::Failure;
use crate::arguments::{Format, Place, RunsArguments, RunsCommand};
use crate::cluster::Executing;
use crate::commands::{open, report, warehouse_of};
use crate::output::{Output, say};
use crate::progress;
use arrow::array::RecordBatch;
use nightshift_catalog::warehouse::Warehouse;
use nightshift_executor::told_to_stop;
use nightshift_jobs::journal::{
    self, Brief, Cause, Driver, RunState, Status, StepState, StepStatus,
};
use nightshift_jobs::pipeline::{self, Done, Given, Pipeline, Source, Start};
use nightshift_jobs::queries::{Caller, Via};
use nightshift_jobs::{JobError, audit, counted};
use std::time::Duration;

/// The time between two looks for new events.
const LOOK: Duration = Duration::from_millis(500);

/// The width of the picture of a training, in characters.
const PICTURE: usize = 40;

/// Does what a subcommand says; lists runs if there is none.
pub async fn runs(arguments: RunsArguments) -> Result<(), Failure> {
    let RunsArguments { limit, pipeline, status, command, place } = arguments;
    let warehouse = warehouse_of(&place)?;
    match command {
        None => {
            let wanted = |run: &Brief| {
                pipeline.as_ref().is_none_or(|name| *name == run.pipeline)
                    && status.as_ref().is_none_or(|status| *status == run.word())
            };
            let found = journal::latest(&warehouse, limit, wanted).await?;
            let rows = journal::tables::runs(&found)?;
            let rows = match place.format {
                Format::Table => short(&rows, &["taken_over", "ended_at"])?,
                _ => rows,
            };
            print(&place, &rows)
        }
        Some(RunsCommand::Show { run, gates: false }) => show(&warehouse, &place, &run).await,
        Some(RunsCommand::Show { run, gates: true }) => gates(&warehouse, &place, &run).await,
        Some(RunsCommand::Logs { run, follow }) => logs(&warehouse, &place, &run, follow).await,
        Some(RunsCommand::Cancel { run }) => cancel(&warehouse, &place, &run).await,
        Some(RunsCommand::Resume { run, anyway }) => resume(&place, &run, anyway).await,
        Some(RunsCommand::Retry { run }) => retry(&place, &run).await,
    }
}

fn print(place: &Place, rows: &RecordBatch) -> Result<(), Failure> {
    let mut output = Output::new(place.format, None)?;
    output.all(rows)?;
    output.close()
}

/// Rows without some of their columns.
fn short(rows: &RecordBatch, without: &[&str]) -> Result<RecordBatch, Failure> {
    let fields = rows.schema_ref().fields().iter().enumerate();
    let kept = fields.filter(|(_, field)| !without.contains(&field.name().as_str()));
    Ok(rows.project(&kept.map(|(at, _)| at).collect::<Vec<_>>())?)
}

async fn show(warehouse: &Warehouse, place: &Place, run: &str) -> Result<(), Failure> {
    let id = journal::find(warehouse, run).await?;
    let state = journal::state(warehouse, &id).await?;
    let steps = journal::tables::steps(std::iter::once(&state))?;
    if place.format != Format::Table {
        return print(place, &steps);
    }
    say!("run        {id}");
    say!("pipeline   {}", state.begun.pipeline);
    let lost = journal::is_lost(warehouse, &state).await?;
    say!("status     {}", if lost { journal::LOST } else { state.status.as_str() });
    say!("cause      {}", state.begun.cause);
    if !Source::is_kept(warehouse, &state.begun.source).await? {
        say!(
            "text       no longer kept: texts are kept for {} days after their last run",
            pipeline::TEXT_DAYS
        );
    }
    say!("begun      {}", state.begun_at.format("%Y-%m-%d %H:%M:%S UTC"));
    if state.reopened > 0 {
        let times = counted(state.reopened, "time");
        say!(
            "gone on    {times} after it had failed, since {}",
            state.since.format("%H:%M:%S UTC")
        );
    }
    match state.ended_at {
        Some(at) => {
            let seconds = state.seconds();
            say!("ended      {} ({seconds:.1} s)", at.format("%Y-%m-%d %H:%M:%S UTC"));
        }
        None => say!("driver     process {}", state.driver),
    }
    if let (Some(who), None) = (&state.cancelled_by, state.ended_at) {
        say!("cancelled  by {who}, it has not ended yet");
    }
    if state.taken_over > 0 {
        say!("taken over {}", counted(state.taken_over, "time"));
    }
    let versions = state.versions.iter().filter(|version| version.kind.as_str() == "model");
    let models: Vec<_> = versions.map(|v| format!("{} version {}", v.name, v.version)).collect();
    for gate in state.gates.iter().flatten() {
        let (of, measure) = (&gate.of, &gate.measure);
        let number =
            |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.6}"));
        let (measured, published) = (number(gate.measured), number(gate.published));
        let outcome = if gate.held.is_some() { "HELD" } else { gate.outcome() };
        say!("gate       {of} {measure} {measured} (published {published}) {outcome}");
    }
    if let Some(publication) = state.publication {
        let models =
            if models.is_empty() { String::new() } else { format!(", {}", models.join(", ")) };
        let word = if state.status == Status::Held { "held     " } else { "published" };
        say!("{word}  {publication}{models}");
    }
    say!("");
    print(place, &short(&steps, &["run", "files", "begun_at", "error"])?)?;
    for (number, step) in state.steps.iter().enumerate() {
        tell_more(number, step, &state)?;
    }
    if let Some(error) = &state.error {
        say!("\nerror: {error}");
    }
    if lost {
        let (what, does) = match state.cancelled_by {
            Some(_) => ("cancel", "ends it"),
            None => ("resume", "goes on with it"),
        };
        say!("\nnobody drives it any more: `nightshift runs {what} {id}` {does}");
    } else if state.status == Status::Running {
        say!("\nwhat it does: nightshift runs logs {id} --follow");
    }
    Ok(())
}

/// Prints what the gates of a run have found.
async fn gates(warehouse: &Warehouse, place: &Place, run: &str) -> Result<(), Failure> {
    let id = journal::find(warehouse, run).await?;
    let state = journal::state(warehouse, &id).await?;
    let rows = journal::tables::gates(std::iter::once(&state))?;
    match place.format {
        Format::Table => print(place, &short(&rows, &["run", "pipeline"])?),
        _ => print(place, &rows),
    }
}

/// What a table of steps has no room for: what they read, how a training went, why one has failed.
fn tell_more(number: usize, step: &StepState, state: &RunState) -> Result<(), Failure> {
    let number = number + 1;
    let name = &step.planned.name;
    let after: Vec<_> =
        step.planned.after.iter().map(|at| state.steps[*at].planned.name.as_str()).collect();
    if !after.is_empty() {
        say!("{number:>3} {name} <- {}", after.join(", "));
    }
    if let (Some(measure), Some((first, last))) = (&step.measure, ends(&step.iterations)) {
        let values: Vec<f64> = step.iterations.iter().map(|(_, value)| *value).collect();
        let picture = picture(&values);
        let count = counted(step.iterations.len(), "iteration");
        say!("    {measure} {first:.4e} {picture} {last:.4e} in {count}");
    }
    if let Some(wrong) = &step.wrong
        && step.status == StepStatus::Done
    {
        say!("    warning: {}, such as\n{}", counted(wrong.rows, "wrong row"), wrong.sample);
    }
    if step.status == StepStatus::Failed
        && state.error.is_none()
        && let Some(error) = &step.error
    {
        say!("    {error}");
    }
    Ok(())
}

fn ends(iterations: &[(usize, f64)]) -> Option<(f64, f64)> {
    Some((iterations.first()?.1, iterations.last()?.1))
}

/// Values as a line of blocks, the largest the highest. Measures fall by orders of magnitude, so heights are
/// logarithms where all values are positive.
fn picture(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let positive = values.iter().all(|value| *value > 0.0);
    let height = |value: f64| if positive { value.ln() } else { value };
    let finite = values.iter().map(|value| height(*value)).filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let width = values.len().min(PICTURE);
    let block = |at: usize| {
        let value = height(values[at * (values.len() - 1) / (width - 1).max(1)]);
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        let last = BLOCKS.len() - 1;
        BLOCKS[((share * last as f64).round().max(0.0) as usize).min(last)]
    };
    (0..width).map(block).collect()
}

/// Prints the events of a run; if they are followed, until its end.
async fn logs(
    warehouse: &Warehouse,
    place: &Place,
    run: &str,
    follow: bool,
) -> Result<(), Failure> {
    let id = journal::find(warehouse, run).await?;
    let mut events = journal::events(warehouse, &id, 1).await?;
    let mut state = RunState::fold(&id, &events)?;
    if !follow {
        let rows = journal::tables::events(events.iter().map(|event| (id.as_str(), event)))?;
        return match place.format {
            Format::Table => print(place, &short(&rows, &["run", "writer"])?),
            _ => print(place, &rows),
        };
    }
    loop {
        for record in &events {
            let (at, event) = (record.at.format("%H:%M:%S%.3f"), record.event.json());
            say!("{at} {:>4} {event}", record.number);
        }
        if state.is_over() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = told_to_stop() => return Err(crate::Interrupted.into()),
        }
        events = journal::events(warehouse, &id, state.next).await?;
        for record in &events {
            if !state.apply(record) {
                return Err(format!("event {} is none of this run", record.number).into());
            }
        }
    }
}

async fn cancel(warehouse: &Warehouse, place: &Place, run: &str) -> Result<(), Failure> {
    let id = journal::find_under_way(warehouse, run).await?;
    let caller = Caller::of_this_process(Via::Pipeline);
    let lost = journal::is_lost(warehouse, &journal::state(warehouse, &id).await?).await?;
    let state = journal::cancel(warehouse, &id, &caller.who).await?;
    let outcome = match (state.is_over(), state.status) {
        (true, status) => Err(format!("run {id} is over: it is {}", status.as_str())),
        (_, Status::Publishing) => {
            Err(format!("run {id} is being published, which can't be cancelled"))
        }
        _ => Ok(()),
    };
    let word = if outcome.is_ok() { "asked" } else { "refused" };
    audit::record(&caller, &id, "CANCEL RUN", &state.begun.pipeline, word);
    outcome?;
    if !lost {
        eprintln!(
            "run {id} is asked to end; if it has not ended in a minute, its process is gone: cancel it once more"
        );
        return Ok(());
    }
    eprintln!("nobody drives run {id} any more: it is ended here");
    match go_on(place, &state).await? {
        Err(error) if !error.is_cancellation() => {
            // A scheduler may have been faster.
            match journal::state(warehouse, &id).await?.status {
                Status::Cancelled => Ok(()),
                _ => Err(error.into()),
            }
        }
        _ => Ok(()),
    }
}

async fn resume(place: &Place, run: &str, anyway: bool) -> Result<(), Failure> {
    let warehouse = warehouse_of(place)?;
    let id = journal::find_under_way(&warehouse, run).await?;
    let state = journal::state(&warehouse, &id).await?;
    if state.is_over() {
        return Err(format!("run {id} is over: it is {}", state.status.as_str()).into());
    }
    if !anyway && !journal::is_lost(&warehouse, &state).await? {
        return Err(format!(
            "process {} seems to drive run {id}, it was heard of in the last minute: try again in a minute, or go on \
             with it --anyway, and that process can do nothing more",
            state.driver
        )
        .into());
    }
    // One that is being published may be published already, and one that somebody has ended only ends.
    if state.status == Status::Running && state.cancelled_by.is_none() && !anyway {
        let last = journal::last_published(&warehouse, &state.begun.pipeline).await?;
        if let Some(last) = last.filter(|last| last.id > id) {
            return Err(format!(
                "run {} of {} has begun later and is published, and what it has made would be replaced: end this one \
                 with `nightshift runs cancel {id}`, or go on with it --anyway",
                last.id, state.begun.pipeline
            )
            .into());
        }
    }
    report(place, &go_on(place, &state).await??)
}

/// Goes on with a run that nobody drives.
async fn go_on(place: &Place, run: &RunState) -> Result<Result<Done, JobError>, Failure> {
    let source = Source::kept(&warehouse_of(place)?, &run.begun.source).await?;
    let folder = source.is_in_its_folder().then_some(source.folder.as_path());
    let opened = open(place, folder, Executing::Within).await?;
    let (session, driver) = (opened.session.clone(), Driver::this(false));
    let progress = progress::to_standard_error();
    Ok(pipeline::go_on(session, &run.id, driver, progress, told_to_stop()).await)
}

async fn retry(place: &Place, run: &str) -> Result<(), Failure> {
    let warehouse = warehouse_of(place)?;
    let id = journal::find(&warehouse, run).await?;
    let state = journal::state(&warehouse, &id).await?;
    if !state.is_over() {
        let reason = format!("run {id} is not over: `nightshift runs resume {id}` goes on with it");
        return Err(reason.into());
    }
    let source = Source::kept(&warehouse, &state.begun.source).await?;
    let left_out = state.begun.steps.iter().any(|step| step.left_out);
    let executed = state.begun.steps.iter().filter(|step| left_out && !step.left_out);
    let only = executed.map(|step| step.place()).collect();
    // The same day, and the same values.
    let pipeline = Pipeline::of(source, &Given::Recorded(state.begun.parameters))?;
    let source = pipeline.source();
    let folder = source.is_in_its_folder().then_some(source.folder.as_path());
    let opened = open(place, folder, Executing::Within).await?;
    let progress = progress::to_standard_error();
    let start = Start::now(Cause::Retry { of: id }, Driver::this(false), false);
    let start = Start { only, ..start };
    let done = pipeline.run(opened.session.clone(), start, progress, told_to_stop()).await?;
    report(place, &done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_as_high_as_its_values() {
        assert_eq!(picture(&[1e-8, 1e-4, 1.0]), "▁▅█");
        assert_eq!(picture(&[1.0]), "▁");
        assert_eq!(picture(&[-1.0, 0.0, f64::NAN]), "▁█▁");
        assert_eq!(picture(&vec![2.0; 1000]).chars().count(), PICTURE);
    }
}
