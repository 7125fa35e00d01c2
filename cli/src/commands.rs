//! What each command does.

use crate::arguments::{Arguments, Command, Place, RunAllArguments, RunNowArguments};
use crate::cluster::{self, Embedded, Executing};
use crate::output::Output;
use crate::pipelines::{self, Change};
use crate::progress::Shown;
use crate::settings::Settings;
use crate::{Failure, backfill, check, models, plan, progress, runs, shell};
use nightshift_catalog::registry::{Entry, Kind};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_executor::told_to_stop;
use nightshift_jobs::journal::{self, Cause, Driver};
use nightshift_jobs::pipeline::{Done, Pipeline, Source, Start, reopen};
use nightshift_jobs::queries::{Caller, Via};
use nightshift_jobs::session::Session;
use nightshift_jobs::{JobError, counted};
use nightshift_scheduler::LineageReceiver;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

/// Executes a command.
pub async fn execute(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Run(arguments) => run(arguments).await,
        Command::Check(arguments) => check::check(arguments).await,
        Command::Plan(arguments) => plan::plan(arguments).await,
        Command::Backfill(arguments) => backfill::backfill(arguments).await,
        Command::Deploy(arguments) => pipelines::deploy(arguments).await,
        Command::Pipelines(place) => pipelines::list(place).await,
        Command::Pause(arguments) => pipelines::change(arguments, Change::Pause).await,
        Command::Resume(arguments) => pipelines::change(arguments, Change::Resume).await,
        Command::Undeploy(arguments) => pipelines::change(arguments, Change::Undeploy).await,
        Command::Models(arguments) => models::models(arguments).await,
        Command::Runs(arguments) => runs::runs(arguments).await,
        Command::Sql(arguments) => shell::sql(arguments).await,
        Command::Up(arguments) => cluster::up(arguments).await,
        Command::Scheduler(arguments) => cluster::scheduler(arguments).await,
        Command::Executor(arguments) => cluster::executor(arguments).await,
    }
}

/// A session, and the embedded cluster that it runs on if there is one.
pub struct Opened {
    /// The session.
    pub session: Session,
    _embedded: Option<Embedded>,
}

/// The warehouse of a command that needs no cluster.
pub fn warehouse_of(place: &Place) -> Result<Warehouse, Failure> {
    let settings = Settings::read()?;
    let url = settings.warehouse(place.warehouse.as_deref())?;
    Ok(Warehouse::open(&url, &settings.stores()?)?)
}

/// Opens the warehouse and the cluster of a command; `executing` is for one that is embedded.
pub async fn open(
    place: &Place,
    pipeline: Option<&Path>,
    executing: Executing,
) -> Result<Opened, Failure> {
    let settings = Settings::read()?;
    let stores = settings.stores()?;
    let warehouse = Warehouse::open(&settings.warehouse(place.warehouse.as_deref())?, &stores)?;
    let locations = settings.locations(pipeline)?;
    if let Some(address) = place.cluster.as_ref().or(settings.cluster.as_ref()) {
        let state = nightshift_scheduler::connect(address, &stores).await?;
        return Ok(Opened { session: Session::new(state, warehouse, locations), _embedded: None });
    }
    let embedded = cluster::embedded(&stores, executing).await?;
    let session = Session::new(embedded.state.clone(), warehouse, locations);
    let session = session.with_cluster(Arc::clone(&embedded.cluster));
    Ok(Opened { session, _embedded: Some(embedded) })
}

async fn run(arguments: RunNowArguments) -> Result<(), Failure> {
    let RunNowArguments { from_failed, steps, lineage } = arguments;
    let RunAllArguments { all, only, run: arguments } = steps;
    let lineage = Settings::read()?.lineage(&lineage)?;
    let source = Source::read(&arguments.pipeline)?;
    // What can't be printed is not run.
    drop(Output::new(arguments.place.format, None)?);
    let progress = progress::to_standard_error();
    if from_failed {
        let opened = open(&arguments.place, Some(&source.folder), Executing::Within).await?;
        let (session, driver) = (opened.session.clone(), Driver::this(false));
        let reopened = reopen(session, source, driver, progress.clone()).await?;
        let id = reopened.state().await.id;
        let done = reopened.finish(told_to_stop()).await;
        if let Some(lineage) = lineage {
            tell_lineage(&opened.session, &lineage, &id, progress.as_ref()).await;
        }
        return report(&arguments.place, &done?);
    }
    let pipeline = Pipeline::of(source, &arguments.given())?;
    fetch_inputs(&pipeline)?;
    let opened = open(&arguments.place, Some(pipeline.folder()), Executing::Within).await?;
    let cause = Cause::Command { who: Caller::of_this_process(Via::Pipeline).who };
    let (session, driver) = (opened.session.clone(), Driver::this(false));
    let start = Start { only, ..Start::now(cause, driver, all) };
    let id = start.id.clone();
    let done = pipeline.run(session, start, progress.clone(), told_to_stop()).await;
    if let Some(lineage) = lineage {
        tell_lineage(&opened.session, &lineage, &id, progress.as_ref()).await;
    }
    report(&arguments.place, &done?)
}

/// Tells what a run has read and made. Whether that succeeds is not what becomes of the run.
async fn tell_lineage(
    session: &Session,
    lineage: &LineageReceiver,
    run: &str,
    progress: &dyn Shown,
) {
    let told = async {
        let state = journal::state(session.warehouse(), run).await?;
        lineage.deliver(&state).await?;
        Ok::<(), Failure>(())
    };
    match told.await {
        Ok(()) => {}
        // What has not begun has no lineage.
        Err(error)
            if matches!(error.downcast_ref::<JobError>(), Some(JobError::UnknownRun { .. })) => {}
        Err(error) => progress.note(&format!("lineage is not told: {error}")),
    }
}

/// Runs the program that provides a pipeline's inputs, if one of them is missing.
pub fn fetch_inputs(pipeline: &Pipeline) -> Result<(), Failure> {
    if let Some(fetch) = pipeline.missing_inputs()? {
        eprintln!("fetching the inputs of {}: {}", pipeline.name(), fetch.display());
        let fetch = std::path::absolute(fetch)?;
        // What it prints is for people; standard output is for results.
        let status =
            Process::new(&fetch).current_dir(pipeline.folder()).stdout(Stdio::null()).status();
        let status = status.map_err(|error| format!("{}: {error}", fetch.display()))?;
        if !status.success() {
            return Err(format!("{} failed: {status}", fetch.display()).into());
        }
        if let Some(missing) = pipeline.missing_inputs()? {
            return Err(format!("{} has not provided all inputs", missing.display()).into());
        }
    }
    Ok(())
}

/// Says what a run has made and published.
pub fn report(place: &Place, done: &Done) -> Result<(), Failure> {
    let mut output = Output::new(place.format, None)?;
    output.steps(&done.steps)?;
    match (done.unchanged, done.steps.is_empty()) {
        (0, _) => {}
        (unchanged, true) => {
            let steps = counted(unchanged, "step");
            eprintln!("nothing has changed: {steps} would make again what is published");
        }
        (1, false) => eprintln!("1 step is unchanged and was not executed"),
        (unchanged, false) => eprintln!("{unchanged} steps are unchanged and were not executed"),
    }
    tell_published(&done.published);
    output.close()
}

/// Says what everybody sees now.
pub fn tell_published(entries: &[Entry]) {
    let models = entries.iter().filter(|entry| entry.kind == Kind::Model);
    let models: Vec<_> =
        models.map(|entry| format!("{} version {}", entry.name, entry.version)).collect();
    let tables = entries.iter().filter(|entry| entry.kind == Kind::Table).count();
    let tables = counted(tables, "table");
    match entries.first() {
        None => {}
        Some(entry) if models.is_empty() => {
            eprintln!("publication {}: {tables}", entry.publication);
        }
        Some(entry) => {
            eprintln!("publication {}: {tables}, {}", entry.publication, models.join(", "));
        }
    }
}
