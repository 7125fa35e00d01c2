//! What each command does.

use crate::arguments::{Arguments, Command, Place, RunArguments};
use crate::cluster::{self, Embedded, Executing};
use crate::output::Output;
use crate::settings::Settings;
use crate::{Failure, check, progress, shell};
use nightshift_catalog::registry::{Entry, Kind};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_executor::told_to_stop;
use nightshift_jobs::pipeline::Pipeline;
use nightshift_jobs::session::Session;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

/// Executes a command.
pub async fn execute(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Run(arguments) => run(arguments).await,
        Command::Check(arguments) => check::check(arguments).await,
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

async fn run(arguments: RunArguments) -> Result<(), Failure> {
    let pipeline = Pipeline::read(&arguments.pipeline)?;
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
    let mut output = Output::new(arguments.place.format, None)?;
    let opened = open(&arguments.place, Some(pipeline.folder()), Executing::Within).await?;
    let progress = progress::to_standard_error();
    let (steps, published) = pipeline.run(opened.session.clone(), progress, told_to_stop()).await?;
    output.steps(&steps)?;
    tell_published(&published);
    output.close()
}

/// Says what everybody sees now.
pub fn tell_published(entries: &[Entry]) {
    let models = entries.iter().filter(|entry| entry.kind == Kind::Model);
    let models: Vec<_> =
        models.map(|entry| format!("{} version {}", entry.name, entry.version)).collect();
    let tables = entries.iter().filter(|entry| entry.kind == Kind::Table).count();
    match entries.first() {
        None => {}
        Some(entry) if models.is_empty() => {
            eprintln!("publication {}: {tables} tables", entry.publication);
        }
        Some(entry) => {
            eprintln!("publication {}: {tables} tables, {}", entry.publication, models.join(", "));
        }
    }
}
