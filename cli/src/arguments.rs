//! The command line.

use chrono::NaiveDate;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nightshift_jobs::pipeline::Given;
use std::path::PathBuf;

/// Retrains recommenders while their users sleep: SQL pipelines, matrix factorization and PageRank on
/// a cluster, published as versioned tables.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 a check found \
wrong rows, 4 a gate has kept a run from being published, 130 interrupted.\nLogs go to standard error; NIGHTSHIFT_LOG sets what is logged, such as \
NIGHTSHIFT_LOG=nightshift=debug."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pipeline: a folder of .sql files
    Run(RunNowArguments),
    /// Say what a run of a pipeline would execute and why, what it would leave as it is, and which columns would change
    Plan(RunAllArguments),
    /// Run a pipeline for each day of a time
    Backfill(BackfillArguments),
    /// Say everything that is wrong in a pipeline, without running it; if nothing is, in which order its statements run
    Check(RunArguments),
    /// Let schedulers run a pipeline by themselves, at the times of its pipeline.toml; again for a new version
    Deploy(RunArguments),
    /// List deployed pipelines
    Pipelines(Place),
    /// Let a deployed pipeline not be run until it is resumed
    Pause(NamedPipeline),
    /// Let a pipeline that was paused be run again
    Resume(NamedPipeline),
    /// Let a deployed pipeline be run no more
    Undeploy(NamedPipeline),
    /// List runs of pipelines, look at one, end it, go on with it
    Runs(RunsArguments),
    /// List models and their versions, compare two, go back to an earlier one, publish one that was held
    Models(ModelsArguments),
    /// Execute SQL and print what it returns; on a terminal, a shell
    Sql(SqlArguments),
    /// Start a cluster on this machine: a scheduler and executors, each a process
    Up(UpArguments),
    /// Start a scheduler
    Scheduler(SchedulerArguments),
    /// Start an executor
    Executor(ExecutorArguments),
}

/// Where a command works.
#[derive(Debug, Args)]
pub struct Place {
    /// The warehouse: a folder, or a URL such as s3://bucket/warehouse [default: ./warehouse]
    #[arg(long, value_name = "URL", env = "NIGHTSHIFT_WAREHOUSE", global = true)]
    pub warehouse: Option<String>,
    /// The cluster, such as grpc://127.0.0.1:50050; if several schedulers stand by for each other, all of them with
    /// commas between [default: one embedded in this process]
    #[arg(long, value_name = "URL", env = "NIGHTSHIFT_CLUSTER", global = true)]
    pub cluster: Option<String>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    pub format: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns and lines, to read
    Table,
    /// A line for each column
    Vertical,
    /// Comma-separated values with a header
    Csv,
    /// One array of objects
    Json,
    /// An object in each line
    Jsonl,
    /// A Parquet file
    Parquet,
    /// An Arrow IPC file, or stream if it goes to standard output
    Arrow,
}

/// What is run, checked or deployed.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The pipeline's folder
    #[arg(value_name = "FOLDER")]
    pub pipeline: PathBuf,
    /// A value for the parameter ${NAME} of its statements; can be given several times
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// The day that it is run for, ${run_date} in its statements [default: today]
    #[arg(long, value_name = "DATE")]
    pub date: Option<NaiveDate>,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
}

/// Arguments of `backfill`.
#[derive(Debug, Args)]
pub struct BackfillArguments {
    /// The pipeline's folder
    #[arg(value_name = "FOLDER")]
    pub pipeline: PathBuf,
    /// The first day
    #[arg(long, value_name = "DATE")]
    pub from: NaiveDate,
    /// The last day
    #[arg(long, value_name = "DATE")]
    pub to: NaiveDate,
    /// Days that are run at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64).map(usize::from))]
    pub parallel: usize,
    /// A value for the parameter ${NAME} of its statements; can be given several times
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunNowArguments {
    /// Go on with the last run of the pipeline, which has failed: what is done and would be made again from the same is
    /// not done again, and it is run for the same day with the same values
    #[arg(long, conflicts_with_all = ["all", "only", "parameters", "date"])]
    pub from_failed: bool,
    /// What is executed
    #[command(flatten)]
    pub steps: RunAllArguments,
    /// Who is told of it
    #[command(flatten)]
    pub lineage: LineageArguments,
}

/// Arguments of `run` and `plan`.
#[derive(Debug, Args)]
pub struct RunAllArguments {
    /// Execute all steps, those among them that would make again what is published
    #[arg(long)]
    pub all: bool,
    /// Leave out all steps but these, which are named by what they make or by their file: x.a, x.a+ with what follows
    /// from it, +x.a with what it needs
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// What is run, and where
    #[command(flatten)]
    pub run: RunArguments,
}

/// Who is told what runs read and make.
#[derive(Debug, Args)]
pub struct LineageArguments {
    /// Where OpenLineage events of runs go: an https:// or http:// URL, or a file that they are added to; a key for it is
    /// taken from OPENLINEAGE_API_KEY
    #[arg(long, value_name = "TARGET", env = "NIGHTSHIFT_LINEAGE", hide_env_values = true)]
    pub lineage: Option<String>,
    /// The namespace of jobs and tables in them [default: nightshift]
    #[arg(long, value_name = "NAME", env = "NIGHTSHIFT_LINEAGE_NAMESPACE")]
    pub lineage_namespace: Option<String>,
}

impl RunArguments {
    /// What the run is given.
    pub fn given(&self) -> Given {
        Given::Day(self.date, self.parameters.iter().cloned().collect())
    }
}

/// Arguments of what is done with a deployed pipeline.
#[derive(Debug, Args)]
pub struct NamedPipeline {
    /// The pipeline's name
    pub name: String,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
}

/// Arguments of `models`.
#[derive(Debug, Args)]
pub struct ModelsArguments {
    /// What to do instead of listing models
    #[command(subcommand)]
    pub command: Option<ModelsCommand>,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
}

/// What can be done with a model.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the versions of a model
    Versions {
        /// The model
        model: String,
    },
    /// Show what is different in two versions of a model
    Diff {
        /// The model
        model: String,
        /// A version
        one: u64,
        /// Another version
        other: u64,
        /// Show what is the same, too
        #[arg(long)]
        all: bool,
    },
    /// Let everybody read an earlier version of a model
    Rollback {
        /// The model
        model: String,
        /// The version [default: the one that was published before]
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
    },
    /// Publish a version of a model that a gate has held
    Promote {
        /// The model
        model: String,
        /// The version [default: the last one, if it is held]
        version: Option<u64>,
    },
}

/// Arguments of `runs`.
#[derive(Debug, Args)]
#[command(
    after_help = "RUN is the id of a run, the beginning or the end of one, or the word last: for cancel and resume, \
                  the last run that is not over."
)]
pub struct RunsArguments {
    /// How many runs are listed, the latest first
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
    /// List runs of this pipeline only
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// List only runs that are running, lost (nobody drives them any more), publishing, published, held, failed or
    /// cancelled
    #[arg(long, value_name = "STATUS",
          value_parser = ["running", "lost", "publishing", "published", "held", "failed", "cancelled"])]
    pub status: Option<String>,
    /// What to do instead
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
}

/// What can be done with a run.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Show a run: its steps, what its gates have found, how its trainings went, why it has failed
    Show {
        /// The run
        run: String,
        /// List only what its gates have found
        #[arg(long)]
        gates: bool,
    },
    /// Print the events of a run
    Logs {
        /// The run
        run: String,
        /// Go on printing until the run has ended
        #[arg(long)]
        follow: bool,
    },
    /// Ask whoever drives a run to end it
    Cancel {
        /// The run
        run: String,
    },
    /// Go on with a run whose process is gone; what is done is not done again
    Resume {
        /// The run
        run: String,
        /// Even if its process may still be there, or a run of the pipeline that has begun later is published, whose tables
        /// it may replace
        #[arg(long)]
        anyway: bool,
    },
    /// Run again what a run that is over has run: the same text, on the data of now
    Retry {
        /// The run
        run: String,
    },
}

/// Arguments of `sql`.
#[derive(Debug, Args)]
pub struct SqlArguments {
    /// The statements; without -c and -f they are read from standard input, or, if that is a terminal,
    /// typed in
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    pub command: Option<String>,
    /// A file of statements
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A value for the parameter $NAME of statements; can be given several times
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// The file that results are written to, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
}

/// A parameter's name and value.
fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is written NAME=VALUE")?;
    if !is_parameter(name) {
        return Err(format!("'{name}' is no name: letters, digits and _ make one"));
    }
    Ok((name.to_string(), value.to_string()))
}

/// Whether `$name` is a parameter.
pub fn is_parameter(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArguments {
    /// Number of executors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub executors: u16,
    /// Port of the scheduler
    #[arg(long, default_value_t = 50050)]
    pub port: u16,
    /// Port for SQL clients; 0 takes any that is free [default: the one after --port]
    #[arg(long)]
    pub flight_port: Option<u16>,
    /// Port for HTTP; 0 takes any that is free [default: the one after --flight-port]
    #[arg(long)]
    pub http_port: Option<u16>,
    /// The warehouse of SQL clients [default: ./warehouse]
    #[arg(long, value_name = "URL", env = "NIGHTSHIFT_WAREHOUSE")]
    pub warehouse: Option<String>,
    /// Tasks that an executor runs at the same time [default: the machine's cores, divided]
    #[arg(long)]
    pub cores: Option<usize>,
    /// Let deployed pipelines run programs on this machine to tell somebody of their runs ([[notify]] command)
    #[arg(long)]
    pub notify_commands: bool,
}

/// Arguments of `scheduler`.
#[derive(Debug, Args)]
pub struct SchedulerArguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, default_value_t = 50050)]
    pub port: u16,
    /// Port for SQL clients, which connect with Flight SQL; 0 takes any that is free
    /// [default: the one after --port, or any if that is 0]
    #[arg(long)]
    pub flight_port: Option<u16>,
    /// Port for HTTP; 0 takes any that is free
    /// [default: the one after --flight-port, or any if that is 0]
    #[arg(long)]
    pub http_port: Option<u16>,
    /// The warehouse of SQL clients: a folder, or a URL such as s3://bucket/warehouse
    /// [default: ./warehouse]
    #[arg(long, value_name = "URL", env = "NIGHTSHIFT_WAREHOUSE")]
    pub warehouse: Option<String>,
    /// The host under which executors reach it, and a name that HTTP clients may use
    /// [default: that of --host]
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Seconds without a sign of life after which an executor counts as lost
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(3..))]
    pub executor_timeout: u64,
    /// Seconds of silence after which another scheduler of the warehouse runs the deployed pipelines
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..))]
    pub lease: u64,
    /// Serve only while no other scheduler of the warehouse does: executors and clients are given the addresses of
    /// both
    #[arg(long)]
    pub stand_by: bool,
    /// Let deployed pipelines run programs on this machine to tell somebody of their runs ([[notify]] command)
    #[arg(long)]
    pub notify_commands: bool,
    /// Who is told of the runs of deployed pipelines
    #[command(flatten)]
    pub lineage: LineageArguments,
    /// Listen beyond this machine although connections are neither encrypted nor authenticated
    #[arg(long)]
    pub insecure: bool,
    /// Stop when standard input is closed, as it is when the parent process ends
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Arguments of `executor`.
#[derive(Debug, Args)]
pub struct ExecutorArguments {
    /// The scheduler; if several stand by for each other, all of them with commas between
    #[arg(
        long,
        value_name = "URL",
        default_value = "grpc://127.0.0.1:50050",
        value_delimiter = ','
    )]
    pub scheduler: Vec<String>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port for results; 0 takes any that is free
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Port for tasks; 0 takes any that is free
    #[arg(long, default_value_t = 0)]
    pub task_port: u16,
    /// Tasks that run at the same time; 0 means one for each core
    #[arg(long, default_value_t = 0)]
    pub cores: usize,
    /// Folder for intermediate results; executors of one machine that share it read each other's results
    /// from there and not over the network [default: a temporary one]
    #[arg(long)]
    pub work_dir: Option<PathBuf>,
    /// Megabytes that it may use [default: 70 % of the machine's memory]
    #[arg(long, value_name = "MB")]
    pub memory: Option<u64>,
    /// Megabytes of these for training data and states that are kept between supersteps; what doesn't fit is
    /// read again [default: a quarter, and not more than 2048]
    #[arg(long, value_name = "MB")]
    pub resident_memory: Option<u64>,
    /// Listen beyond this machine although connections are neither encrypted nor authenticated
    #[arg(long)]
    pub insecure: bool,
    /// Stop when standard input is closed, as it is when the parent process ends
    #[arg(long, hide = true)]
    pub with_parent: bool,
}
