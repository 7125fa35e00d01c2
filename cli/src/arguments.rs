//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Retrains recommenders while their users sleep: SQL pipelines, matrix factorization and PageRank on
/// a cluster, published as versioned tables.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 a check found \
wrong rows, 130 interrupted.\nLogs go to standard error; NIGHTSHIFT_LOG sets what is logged, such as \
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
    Run(RunArguments),
    /// Say everything that is wrong in a pipeline, without running it; if nothing is, in which order its statements run
    Check(RunArguments),
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
    #[arg(long, value_name = "URL", env = "NIGHTSHIFT_WAREHOUSE")]
    pub warehouse: Option<String>,
    /// The cluster, such as grpc://127.0.0.1:50050 [default: one embedded in this process]
    #[arg(long, value_name = "URL", env = "NIGHTSHIFT_CLUSTER")]
    pub cluster: Option<String>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
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

/// Arguments of `run` and `check`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The pipeline's folder
    #[arg(value_name = "FOLDER")]
    pub pipeline: PathBuf,
    /// Where to work
    #[command(flatten)]
    pub place: Place,
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
    /// The scheduler
    #[arg(long, value_name = "URL", default_value = "grpc://127.0.0.1:50050")]
    pub scheduler: String,
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
