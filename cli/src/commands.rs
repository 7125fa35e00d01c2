//! What each command does.

use crate::arguments::{Arguments, Command, Place, RunArguments, SqlArguments};
use crate::cluster::{self, Embedded};
use crate::settings::Settings;
use crate::{Failure, output, progress};
use arrow::array::RecordBatch;
use futures::TryStreamExt;
use nightshift_catalog::registry::{Entry, Kind};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::JobError;
use nightshift_jobs::external::Externals;
use nightshift_jobs::pipeline::Pipeline;
use nightshift_jobs::run::Run;
use nightshift_jobs::session::Session;
use nightshift_jobs::statement::{Located, Statement, parse};
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
    let mut externals = Externals::new();
    for statement in &statements {
        statement_alone(&opened.session, &mut externals, statement, &arguments).await?;
    }
    Ok(())
}

/// Executes a statement as a run of its own. External tables live as long as the command.
async fn statement_alone(
    session: &Session,
    externals: &mut Externals,
    statement: &Located,
    arguments: &SqlArguments,
) -> Result<(), Failure> {
    if matches!(statement.statement, Statement::Query(_)) {
        let collect = async {
            let stream = nightshift_jobs::run::query(session, externals, statement).await?;
            let schema = stream.schema();
            let batches: Result<Vec<RecordBatch>, _> = stream.try_collect().await;
            let batches = batches.map_err(|error| statement.locate(error.into()))?;
            Ok::<_, JobError>((schema, batches))
        };
        let (schema, batches) = tokio::select! {
            collected = collect => collected?,
            () = cluster::interrupted() => return Err("interrupted".into()),
        };
        return output::print(schema, &batches, arguments.place.format);
    }
    let progress = progress::to_standard_error();
    let mut run =
        Run::start(session.clone(), "SQL".to_string(), externals.clone(), progress).await?;
    let folder = std::env::current_dir().ok();
    let executed = tokio::select! {
        executed = run.execute(statement, folder) => executed,
        () = cluster::interrupted() => Err(JobError::Interrupted),
    };
    match executed {
        Ok(()) => {
            *externals = run.externals().clone();
            let (steps, published) = run.publish().await?;
            if !steps.is_empty() {
                output::print_steps(&steps, arguments.place.format)?;
            }
            tell_published(&published);
            Ok(())
        }
        Err(error) => {
            run.abandon().await?;
            Err(error.into())
        }
    }
}
