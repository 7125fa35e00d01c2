//! The client side of a cluster.

use crate::SchedulerError;
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use ballista_core::planner::BallistaQueryPlanner;
use ballista_core::serde::BallistaLogicalExtensionCodec;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use nightshift_catalog::storage::Stores;
use nightshift_jobs::operator::{DeepLogicalPlan, LogicalCodec};
use nightshift_udfs::functions::with_functions;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// How long a scheduler may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a scheduler may take to answer that has answered before.
const ANSWER: Duration = Duration::from_secs(2);

/// The time between two questions whether a scheduler is there.
const BETWEEN_GREETINGS: Duration = Duration::from_secs(1);

/// Questions without an answer after which a scheduler is gone.
const SILENT: usize = 2;

/// The port of a scheduler whose address has none.
const PORT: u16 = 50050;

/// Partitions that a shuffle makes.
const PARTITIONS: usize = 8;

/// Bytes of the smaller side of a join up to which it is sent whole to every task.
const BROADCAST_BYTES: u64 = 64 << 20;

/// What percentage of the rows a filter is expected to keep about which nothing is known. If that is too
/// much, small sides of joins are not sent to every task; if it is too little, too large ones are.
const FILTERED_PERCENT: u64 = 10;

/// Bytes that a task keeps of what it shuffles before it writes them to disk; 0 leaves it to the task's
/// share of the executor's memory. What is counted can be many times what is kept: texts that several
/// batches refer to count with each.
const SHUFFLE_BYTES: u64 = 0;

fn builder(config: SessionConfig, stores: &Stores) -> Result<SessionStateBuilder, SchedulerError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(stores.clone()))
        .build_arc()?;
    // Hash joins are several times faster than the sort-merge joins that Ballista prefers because they
    // can spill; a session runs a job with the latter whose hash tables don't fit.
    // A build side below the threshold is sent to every task, which hashes it again.
    let mut config = config
        .set_u64("datafusion.optimizer.hash_join_single_partition_threshold", BROADCAST_BYTES)
        .set_u64("ballista.shuffle.sort_based.memory_limit_per_task_bytes", SHUFFLE_BYTES)
        .set_u64("datafusion.optimizer.default_filter_selectivity", FILTERED_PERCENT)
        .with_target_partitions(PARTITIONS)
        .with_information_schema(false)
        .set_bool("datafusion.optimizer.prefer_hash_join", true);
    // Errors say at which column they are.
    config.options_mut().sql_parser.collect_spans = true;
    Ok(SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime))
}

/// Asks whether a scheduler is there: its port answers the same request that probes send.
async fn greet(host: &str, port: u16) -> std::io::Result<()> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((host, port)).await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: scheduler\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    if &answer == b"HTTP/1.1 200" {
        return Ok(());
    }
    Err(std::io::Error::other("what answers there is not a scheduler"))
}

/// Host and port of a scheduler's address, such as `grpc://127.0.0.1:50050`.
fn host_and_port(address: &str) -> Result<(String, u16), SchedulerError> {
    let wrong = |reason: String| SchedulerError::Address { address: address.to_string(), reason };
    let url = Url::parse(address).map_err(|error| wrong(error.to_string()))?;
    if url.scheme() != "grpc" {
        return Err(wrong(format!("{} is not a scheme for clusters", url.scheme())));
    }
    let host = url.host_str().ok_or_else(|| wrong("it has no host".to_string()))?;
    Ok((host.to_string(), url.port().unwrap_or(PORT)))
}

/// Waits until a scheduler answers no more.
pub async fn until_gone(host: &str, port: u16) {
    let mut silent = 0;
    while silent < SILENT {
        tokio::time::sleep(BETWEEN_GREETINGS).await;
        match tokio::time::timeout(ANSWER, greet(host, port)).await {
            Ok(Ok(())) => silent = 0,
            _ => silent += 1,
        }
    }
}

/// Host and port of the first scheduler that is there, of those that stand by for each other. Fails within seconds if
/// none is.
pub async fn first_reachable<'a>(
    addresses: impl IntoIterator<Item = &'a str>,
) -> Result<(String, u16), SchedulerError> {
    let mut failed = None;
    for address in addresses {
        let (host, port) = host_and_port(address)?;
        let reason = match tokio::time::timeout(CONNECT, greet(&host, port)).await {
            Ok(Ok(())) => return Ok((host, port)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT.as_secs()),
        };
        let address = address.to_string();
        failed.get_or_insert(SchedulerError::Unreachable { address, reason });
    }
    Err(failed.unwrap_or_else(|| SchedulerError::Address {
        address: String::new(),
        reason: "it is empty".to_string(),
    }))
}

/// A session whose plans run on the cluster at `address`, such as `grpc://127.0.0.1:50050`, or at the first that is
/// there of several addresses with commas between. Fails within seconds if nobody listens there. `stores` are those of
/// this process.
pub async fn connect(address: &str, stores: &Stores) -> Result<SessionState, SchedulerError> {
    let (host, port) = first_reachable(address.split(',')).await?;
    let codec: Arc<dyn LogicalExtensionCodec> =
        Arc::new(LogicalCodec::new(Arc::new(BallistaLogicalExtensionCodec::default())));
    let scheduler = format!("http://{host}:{port}");
    // The adaptive planner of Ballista 55 answers some plans that write with the columns of a stage
    // before the last, so plans are cut into stages beforehand.
    let config = SessionConfig::new_with_ballista()
        .with_ballista_logical_extension_codec(Arc::clone(&codec))
        .with_ballista_adaptive_query_planner(false);
    let planner = BallistaQueryPlanner::<DeepLogicalPlan>::with_extension(
        scheduler.clone(),
        config.clone().upgrade_for_ballista().ballista_config(),
        codec,
    );
    let config = config.with_ballista_query_planner(Arc::new(planner));
    let state = builder(config, stores)?.build();
    let state = state.upgrade_for_ballista(scheduler)?;
    // Ballista replaces the functions of the state that it upgrades by its own.
    Ok(with_functions(SessionStateBuilder::new_from_existing(state)).build())
}
