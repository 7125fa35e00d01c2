//! What each command does.

use crate::arguments::{Arguments, Command, Format, Place, RunArguments, SqlArguments};
use crate::cluster::{self, Embedded};
use crate::settings::Settings;
use crate::{Failure, output, progress};
use arrow::array::RecordBatch;
use futures::TryStreamExt;
use nightshift_catalog::registry::{Entry, Kind};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::connection::{Connection, Outcome};
use nightshift_jobs::pipeline::Pipeline;
use nightshift_jobs::run::explain;
use nightshift_jobs::session::Session;
use nightshift_jobs::statement::{Located, parse};
use std::io::Read;
use std::path::Path;
use std::process::{Command as Process, Stdio};

/// Executes a command.
pub async fn execute(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Run(arguments) => run(arguments).await,
        Command::Sql(arguments) => sql(arguments).await,
        Command::Up(arguments) => cluster::up(arguments).await,
        Command::Scheduler(arguments) => cluster::scheduler(arguments).await,
        Command::Executor(arguments) => cluster::executor(arguments).await,
    }
}

/// A session, and the embedded cluster that it runs on if there is one.
struct Opened {
    session: Session,
    _embedded: Option<Embedded>,
}

async fn open(place: &Place, pipeline: Option<&Path>) -> Result<Opened, Failure> {
    let settings = Settings::read()?;
    let warehouse = Warehouse::open(&settings.warehouse(place.warehouse.as_deref())?)?;
    let locations = settings.locations(pipeline)?;
    let (state, embedded) = match place.cluster.as_ref().or(settings.cluster.as_ref()) {
        Some(address) => (nightshift_scheduler::connect(address).await?, None),
        None => {
            let embedded = cluster::embedded().await?;
            (embedded.state.clone(), Some(embedded))
        }
    };
    Ok(Opened { session: Session::new(state, warehouse, locations), _embedded: embedded })
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
    let opened = open(&arguments.place, Some(pipeline.folder())).await?;
    let progress = progress::to_standard_error();
    let (steps, published) =
        pipeline.run(opened.session.clone(), progress, cluster::interrupted()).await?;
    output::print_steps(&steps, arguments.place.format)?;
    tell_published(&published);
    Ok(())
}

fn tell_published(entries: &[Entry]) {
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

async fn sql(arguments: SqlArguments) -> Result<(), Failure> {
    let (name, text) = match (&arguments.command, &arguments.file) {
        (Some(text), _) => ("command".to_string(), text.clone()),
        (None, Some(file)) => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
            (name, text)
        }
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            ("standard input".to_string(), text)
        }
    };
    let statements = parse(&name, &text)?;
    let opened = open(&arguments.place, None).await?;
    let folder = std::env::current_dir().ok();
    let progress = progress::to_standard_error();
    let mut connection = Connection::new(opened.session.clone(), folder, progress);
    for statement in &statements {
        print_outcome(&mut connection, statement, arguments.place.format).await?;
    }
    Ok(())
}

async fn print_outcome(
    connection: &mut Connection,
    statement: &Located,
    format: Format,
) -> Result<(), Failure> {
    match connection.execute(statement, cluster::interrupted()).await? {
        Outcome::Rows(rows) => {
            let schema = rows.schema();
            let batches: Vec<RecordBatch> = tokio::select! {
                batches = rows.try_collect::<Vec<_>>() => match batches {
                    Ok(batches) => batches,
                    Err(error) => {
                        let externals = connection.externals();
                        let error = explain(connection.session(), externals, statement, error.into());
                        return Err(statement.locate(error.await).into());
                    }
                },
                () = cluster::interrupted() => return Err("interrupted".into()),
            };
            output::print(schema, &batches, format)
        }
        Outcome::Made(made) => {
            if !made.steps.is_empty() {
                output::print_steps(&made.steps, format)?;
            }
            tell_published(&made.published);
            Ok(())
        }
    }
}
