//! The data plane process: a Ballista executor that knows Nightshift's operators and keeps blocks
//! and states of trainings in memory.

pub mod memory;
mod results;
mod work_dir;

use ballista_core::RuntimeProducer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::extension::{
    ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions,
};
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use futures::future::BoxFuture;
use memory::Memory;
use nightshift_catalog::storage::Stores;
use nightshift_jobs::operator::{LogicalCodec, PhysicalCodec};
use nightshift_jobs::superstep::Resident;
use nightshift_udfs::functions::with_functions;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use work_dir::WorkDir;

/// Bytes of the largest message between processes: a task with its plan, or rows that can't be divided.
const MESSAGE_BYTES: u32 = 16 << 20;

/// Seconds between two signs of life that an executor sends to its scheduler.
const HEARTBEAT_SECONDS: u64 = 1;

/// How long the results of a job may stay as they are before they count as forgotten.
const UNCHANGED: Duration = Duration::from_secs(24 * 3600);

/// The time between two searches for forgotten results.
const LOOK_FOR_UNCHANGED: Duration = Duration::from_secs(600);

/// Why an executor could not start or go on.
#[derive(Debug, Error)]
#[error("executor at {address}, port {task_port} for tasks, scheduler {scheduler}: {source}")]
pub struct ExecutorError {
    /// Where the executor listens.
    pub address: String,
    /// Where it listens for tasks.
    pub task_port: u16,
    /// The scheduler it belongs to.
    pub scheduler: String,
    /// What Ballista said.
    #[source]
    pub source: Box<BallistaError>,
}

/// How an executor runs.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// Address to listen on.
    pub host: String,
    /// Port for results that other executors and clients fetch.
    pub port: u16,
    /// Port for tasks that the scheduler sends.
    pub task_port: u16,
    /// The scheduler's host.
    pub scheduler_host: String,
    /// The scheduler's port.
    pub scheduler_port: u16,
    /// Tasks that run at the same time; all cores if it is 0.
    pub cores: usize,
    /// Folder for intermediate results: those of shuffles, and rows that don't fit into memory. Executors of
    /// one machine can share it.
    pub work_dir: PathBuf,
    /// What it may use of the machine's memory.
    pub memory: Memory,
    /// Seconds to wait for the scheduler to answer at the start.
    pub connect_seconds: u16,
    /// How object stores are reached.
    pub stores: Stores,
}

/// Runs an executor until it is told to stop by a signal.
///
/// The future is boxed so that Ballista's generic servers are compiled once, here, and not in every
/// program that runs one.
pub fn run(options: ExecutorOptions) -> BoxFuture<'static, Result<(), ExecutorError>> {
    Box::pin(run_process(options))
}

async fn run_process(options: ExecutorOptions) -> Result<(), ExecutorError> {
    let resident = Resident::new(options.memory.resident);
    let failed = |source| ExecutorError {
        address: format!("{}:{}", options.host, options.port),
        task_port: options.task_port,
        scheduler: format!("{}:{}", options.scheduler_host, options.scheduler_port),
        source: Box::new(source),
    };
    let scheduler = format!("{}_{}", options.scheduler_host, options.scheduler_port);
    let work_dir = WorkDir::open(&options.work_dir, &scheduler).map_err(|error| {
        let folder = options.work_dir.display();
        failed(BallistaError::Configuration(format!("folder for results {folder}: {error}")))
    })?;
    let work_dir = Arc::new(work_dir);
    // Ballista would listen when it has told the scheduler of itself, and stop without a word if it can't.
    let listener = TcpListener::bind((options.host.as_str(), options.port)).await;
    let listener = listener.map_err(|error| failed(BallistaError::IoError(error)))?;
    let listener = Mutex::new(Some(listener));
    // To make one for each task would take as long as to start a small one.
    let runtime = RuntimeEnvBuilder::new()
        .with_temp_file_path(work_dir.spilled())
        .with_object_store_registry(Arc::new(options.stores.clone()))
        .build_arc()
        .map_err(|error| failed(BallistaError::DataFusionError(Box::new(error))))?;
    let runtime: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&runtime)));
    let logical = LogicalCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()));
    let physical =
        PhysicalCodec::new(Arc::new(BallistaPhysicalExtensionCodec::default()), resident);
    let config = ExecutorProcessConfig {
        bind_host: options.host.clone(),
        port: options.port,
        grpc_port: options.task_port,
        scheduler_host: options.scheduler_host.clone(),
        scheduler_port: options.scheduler_port,
        scheduler_connect_timeout_seconds: options.connect_seconds,
        vcores: options.cores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work_dir.shuffles().to_string_lossy().into_owned()),
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        memory_pool_size: Some(options.memory.tasks),
        // Ballista would delete what other executors in the same folder need.
        job_data_clean_up_interval_seconds: 0,
        override_function_registry: Some(Arc::new(functions())),
        override_runtime_producer: Some(runtime),
        override_arrow_flight_service: Some(Arc::new(move |work_dir, _, shutdown, config| {
            let listener = listener.lock().unwrap_or_else(PoisonError::into_inner).take();
            results::serve(work_dir, listener, shutdown, config, MESSAGE_BYTES as usize)
        })),
        grpc_max_encoding_message_size: MESSAGE_BYTES,
        grpc_max_decoding_message_size: MESSAGE_BYTES,
        override_logical_codec: Some(Arc::new(logical)),
        override_physical_codec: Some(Arc::new(physical)),
        ..Default::default()
    };
    tracing::info!(host = options.host, port = options.port, "executor starts");
    let serve = async {
        let mut executor = pin!(start_executor_process(Arc::new(config)));
        tokio::select! {
            ended = &mut executor => {
                ended?;
                Err(BallistaError::General("it has stopped, and nobody has told it to".to_string()))
            }
            () = told_to_stop() => executor.await,
        }
    };
    tokio::select! {
        ended = serve => ended.map_err(failed),
        never = delete_unchanged(work_dir) => match never {},
    }
}

/// Waits for a signal to which a process stops: Ctrl-C, or a request to terminate.
pub async fn told_to_stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = ctrl_c() => {}
        },
        Err(_) => {
            let _ = ctrl_c().await;
        }
    }
}

/// Deletes what schedulers that were killed have not had deleted, again and again.
async fn delete_unchanged(work_dir: Arc<WorkDir>) -> Infallible {
    let mut round = tokio::time::interval(LOOK_FOR_UNCHANGED);
    loop {
        round.tick().await;
        let work_dir = Arc::clone(&work_dir);
        let deleted = spawn_blocking(move || work_dir.delete_unchanged(UNCHANGED)).await;
        if let Err(error) = deleted.unwrap_or_else(|error| Err(error.into())) {
            tracing::warn!(%error, "old intermediate results are not deleted; the next round tries again");
        }
    }
}

/// Every function that a session of the scheduler or of a client knows.
fn functions() -> BallistaFunctionRegistry {
    let builder = SessionStateBuilder::new()
        .with_default_features()
        .with_scalar_functions(ballista_scalar_functions())
        .with_aggregate_functions(ballista_aggregate_functions())
        .with_window_functions(ballista_window_functions());
    BallistaFunctionRegistry::from(&with_functions(builder).build())
}
