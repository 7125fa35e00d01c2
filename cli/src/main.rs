//! The `nightshift` binary: one entry for every role.

mod arguments;
mod cluster;
mod commands;
mod output;
mod progress;
mod settings;

use arguments::{Arguments, Command};
use clap::Parser;
use std::error::Error;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A run whose check found wrong rows.
const CHECK_FAILED: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let service = matches!(arguments.command, Command::Scheduler(_) | Command::Executor(_));
    // What an embedded cluster reports as an error is what the command reports in the end.
    let default = if service {
        "warn,nightshift=info,audit=info"
    } else {
        "error,ballista=off,datafusion=off"
    };
    let filter =
        EnvFilter::try_from_env("NIGHTSHIFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(commands::execute(arguments));
    // What still runs in the background (an embedded cluster) has nothing left to do.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let check = error.downcast_ref::<nightshift_jobs::JobError>();
            let check = matches!(check, Some(nightshift_jobs::JobError::Check { .. }));
            if check { ExitCode::from(CHECK_FAILED) } else { ExitCode::FAILURE }
        }
    }
}

/// Any error that ends the program.
type Failure = Box<dyn Error + Send + Sync>;
