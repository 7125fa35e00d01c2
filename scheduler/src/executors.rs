//! The executors of a scheduler, for whoever asks about the cluster.

use crate::cluster_state::running_tasks;
use async_trait::async_trait;
use ballista_core::config::BALLISTA_SHUFFLE_COMPRESSION_CODEC;
use ballista_core::serde::protobuf::ExecutorStatus;
use ballista_core::serde::protobuf::executor_metric::Metric;
use ballista_core::serde::protobuf::executor_status::Status;
use ballista_core::serde::scheduler::ExecutorMetadata;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::PhysicalPlanNode;
use nightshift_jobs::Result;
use nightshift_jobs::cluster::{ClusterView, ExecutorInfo};
use nightshift_jobs::operator::DeepLogicalPlan;
use std::collections::HashMap;
use std::fmt::{self, Debug};

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;

/// The view of the cluster that its scheduler has.
pub(crate) struct Executors {
    server: SchedulerServer<DeepLogicalPlan, PhysicalPlanNode>,
}

impl Executors {
    /// Those of a scheduler.
    pub(crate) fn new(server: SchedulerServer<DeepLogicalPlan, PhysicalPlanNode>) -> Self {
        Self { server }
    }

    /// The cores of each executor that tasks hold.
    async fn busy(&self) -> HashMap<String, u64> {
        let mut busy = HashMap::new();
        for job in self.server.state.task_manager.get_running_job_cache().values() {
            let graph = job.execution_graph.read().await;
            for stage in graph.stages().values() {
                for (executor, cores) in running_tasks(stage) {
                    *busy.entry(executor.to_string()).or_default() += u64::from(cores);
                }
            }
        }
        busy
    }
}

impl Debug for Executors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Executors").field(&self.server.scheduler_endpoint).finish()
    }
}

fn state(status: Option<ExecutorStatus>) -> &'static str {
    match status.and_then(|status| status.status) {
        Some(Status::Active(_)) => "active",
        Some(Status::Terminating(_)) => "terminating",
        Some(Status::Dead(_)) => "dead",
        Some(Status::Unknown(_)) | None => "unknown",
    }
}

#[async_trait]
impl ClusterView for Executors {
    async fn executors(&self) -> Result<Vec<ExecutorInfo>> {
        let manager = &self.server.state.executor_manager;
        let known = manager.get_executors_state().await;
        let known = known.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let busy = self.busy().await;
        let info = |metadata: ExecutorMetadata| {
            let heartbeat = manager.get_executor_hearbeat(&metadata.id);
            let metrics = heartbeat.as_ref().map_or(&[][..], |heartbeat| &heartbeat.metrics);
            let memory = metrics.iter().find_map(|metric| match metric.metric {
                Some(Metric::ProcPhysicalMemory(bytes)) => Some(bytes),
                _ => None,
            });
            let last_heartbeat = heartbeat
                .as_ref()
                .and_then(|heartbeat| i64::try_from(heartbeat.timestamp).ok()?.checked_mul(SECOND));
            ExecutorInfo {
                host: metadata.host,
                port: metadata.port,
                cores: u64::from(metadata.specification.vcores),
                busy_cores: busy.get(&metadata.id).copied().unwrap_or(0),
                memory,
                last_heartbeat,
                state: state(heartbeat.and_then(|heartbeat| heartbeat.status)),
                id: metadata.id,
            }
        };
        Ok(known.into_iter().map(|(metadata, _, _)| info(metadata)).collect())
    }

    /// As many partitions as there are cores. Between executors of one machine, to compress what they
    /// exchange takes longer than to write it.
    async fn for_query(&self, config: SessionConfig) -> Result<SessionConfig> {
        let executors = self.executors().await?;
        let Some(first) = executors.first() else { return Ok(config) };
        let cores: u64 = executors.iter().map(|executor| executor.cores).sum();
        let mut config = config.with_target_partitions(usize::try_from(cores).unwrap_or(1).max(1));
        if executors.iter().all(|executor| executor.host == first.host) {
            config.options_mut().set(BALLISTA_SHUFFLE_COMPRESSION_CODEC, "none")?;
        }
        Ok(config)
    }
}
