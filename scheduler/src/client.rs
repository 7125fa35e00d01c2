//! The client side of a cluster.

mod connections;
mod job;

use crate::SchedulerError;
use crate::addresses::{Leader, Place};
use async_trait::async_trait;
use ballista_core::config::{
    BALLISTA_CLIENT_GRPC_HTTP2_KEEPALIVE_INTERVAL_SECONDS, BallistaConfig,
};
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use ballista_core::planner::BallistaQueryPlanner;
use ballista_core::serde::BallistaLogicalExtensionCodec;
use connections::Connections;
use datafusion::catalog::Session;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use job::JobExec;
use nightshift_catalog::storage::Stores;
use nightshift_jobs::operator::{DeepLogicalPlan, LogicalCodec};
use nightshift_udfs::functions::with_functions;
use std::sync::Arc;

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

/// How often a scheduler has to show that it is there while a client is connected, and an executor while it sends rows: one
/// that was stopped, or whose machine is gone, closes no connection.
const KEEPALIVE_SECONDS: u64 = 5;

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

/// Sends plans to whichever scheduler leads when they are run.
#[derive(Debug)]
struct ToTheLeader {
    leader: Leader,
    config: BallistaConfig,
    codec: Arc<dyn LogicalExtensionCodec>,
    connections: Arc<Connections>,
}

#[async_trait]
impl QueryPlanner for ToTheLeader {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let found = self.leader.find().await;
        let scheduler = found.map_err(|error| DataFusionError::External(Box::new(error)))?.url();
        let (config, codec) = (self.config.clone(), Arc::clone(&self.codec));
        match plan {
            LogicalPlan::Analyze(_) | LogicalPlan::EmptyRelation(_) => {
                let planner = BallistaQueryPlanner::<DeepLogicalPlan>::with_extension(
                    scheduler, config, codec,
                );
                planner.create_physical_plan(plan, session).await
            }
            _ => {
                let connections = Arc::clone(&self.connections);
                Ok(Arc::new(JobExec::new(scheduler, plan.clone(), codec, connections)))
            }
        }
    }
}

/// A session whose plans run on the cluster at `address`, such as `grpc://127.0.0.1:50050`; of several addresses with
/// commas between, at the one that leads when a plan is run. Fails within seconds if there is one address and nobody
/// listens there; waits for a while where another scheduler may be about to lead. `stores` are those of this process.
pub async fn connect(address: &str, stores: &Stores) -> Result<SessionState, SchedulerError> {
    let leader = Leader::among(Place::all(address.split(','))?);
    let scheduler = leader.find_first().await?.url();
    let codec: Arc<dyn LogicalExtensionCodec> =
        Arc::new(LogicalCodec::new(Arc::new(BallistaLogicalExtensionCodec::default())));
    // The adaptive planner of Ballista 55 answers some plans that write with the columns of a stage
    // before the last, so plans are cut into stages beforehand.
    let config = SessionConfig::new_with_ballista()
        .with_ballista_logical_extension_codec(Arc::clone(&codec))
        .with_ballista_adaptive_query_planner(false)
        .set_u64(BALLISTA_CLIENT_GRPC_HTTP2_KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_SECONDS);
    let ballista = config.clone().upgrade_for_ballista().ballista_config();
    let connections = Arc::new(Connections::new(&ballista));
    let config = config.with_ballista_query_planner(Arc::new(ToTheLeader {
        leader,
        config: ballista,
        codec,
        connections,
    }));
    let state = builder(config, stores)?.build();
    let state = state.upgrade_for_ballista(scheduler)?;
    // Ballista replaces the functions of the state that it upgrades by its own.
    Ok(with_functions(SessionStateBuilder::new_from_existing(state)).build())
}
