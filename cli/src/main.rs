//! The `nightshift` binary: one entry for every role.

mod allocator;
mod anew;
mod arguments;
mod backfill;
mod check;
mod cluster;
mod commands;
mod interrupts;
mod logs;
mod models;
mod output;
mod pipelines;
mod plan;
mod progress;
mod runs;
mod settings;
mod shell;

use arguments::{Arguments, Command};
use clap::Parser;
use nightshift_jobs::JobError;
use nightshift_jobs::statement::STACK;
use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// A run whose check found wrong rows.
const CHECK_FAILED: u8 = 3;

/// How long threads may take to end when the process does.
const THREADS_END: Duration = Duration::from_secs(1);

/// A run that a gate has kept from being published.
const HELD: u8 = 4;

/// A run or statement that was interrupted: what shells make of Ctrl-C.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    allocator::give_back_soon();
    // The stack of a process's first thread is as large as the system says.
    let main = std::thread::Builder::new().name("main".to_string()).stack_size(STACK);
    match main.spawn(run).map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // A panic has said what it was about.
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let service = matches!(arguments.command, Command::Scheduler(_) | Command::Executor(_));
    // What an embedded cluster reports as an error is what the command reports in the end.
    let default = if service {
        "warn,nightshift=info,audit=info"
    } else {
        "error,ballista=off,datafusion=off"
    };
    // Who waits for a store that doesn't answer, or for a scheduler to lead, sees what for.
    let waits = "object_store::client::retry=info,nightshift_catalog::storage::retry=info,\
                 nightshift_scheduler::addresses=info";
    logs::start(&format!("{default},{waits}"));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Executor(executor) = &arguments.command
        && executor.cores > 0
    {
        // Tasks have threads of their own. With more of these than cores, they wake each other up for
        // every message that one of them could have passed on.
        runtime.worker_threads(executor.cores);
    }
    let runtime = match runtime.enable_all().thread_stack_size(STACK).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(commands::execute(arguments));
    // What still runs in the background (an embedded cluster) has nothing left to do. Its threads are waited for: the C
    // library can crash when a thread ends while the process lets go of it.
    runtime.shutdown_timeout(THREADS_END);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says what went wrong, and which exit code says it to programs.
fn failed(error: &Failure) -> ExitCode {
    let io = error.downcast_ref::<io::Error>();
    if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // Whoever read the results has read enough.
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error}");
    if is_interrupted(error) {
        return ExitCode::from(INTERRUPTED);
    }
    match error.downcast_ref::<JobError>() {
        Some(JobError::Check { .. }) => ExitCode::from(CHECK_FAILED),
        Some(JobError::Held { .. }) => ExitCode::from(HELD),
        _ => ExitCode::FAILURE,
    }
}

/// Any error that ends the program.
type Failure = Box<dyn Error + Send + Sync>;

/// The rows of a result were interrupted.
#[derive(Debug)]
struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl Error for Interrupted {}

/// Whether an error says that somebody asked to stop.
fn is_interrupted(error: &Failure) -> bool {
    let mut job = error.downcast_ref::<JobError>();
    while let Some(JobError::At { source, .. }) = job {
        job = Some(source);
    }
    error.is::<Interrupted>() || matches!(job, Some(JobError::Interrupted))
}
