//! A plan that runs on the cluster as a job: a scheduler gets it, and executors have the rows that it comes to.
//!
//! Ballista has such a plan as well, which connects anew for each job and, one after another, to each executor. A training
//! can be hundreds of short jobs, to each of whose results each executor contributes.

use super::connections::{Connections, as_text};
use ballista_core::BALLISTA_VERSION;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecuteQueryParams, KeyValuePair, PartitionLocation};
use ballista_core::version::{check_compatibility, insert_version_header, version_from_metadata};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigEntry;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use datafusion_proto::logical_plan::{AsLogicalPlan, LogicalExtensionCodec};
use futures::{StreamExt, TryStreamExt};
use nightshift_jobs::operator::DeepLogicalPlan;
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Parts of a small result that are asked for at the same time. They are handed on in their order.
const PARTS_AT_ONCE: usize = 16;

/// Bytes of a result up to which it is small. Of a large one, each part would fill buffers of this process and keep a thread
/// of its executor, while those before it are read.
const SMALL: u64 = 1 << 20;

/// How many parts of a result are asked for at the same time.
fn parts_at_once(parts: &[PartitionLocation]) -> usize {
    let bytes = |part: &PartitionLocation| {
        // A number that is negative is not known.
        let bytes = part.partition_stats.as_ref().map(|stats| stats.num_bytes);
        bytes.and_then(|bytes| u64::try_from(bytes).ok())
    };
    match parts.iter().map(bytes).sum::<Option<u64>>() {
        Some(bytes) if bytes <= SMALL => PARTS_AT_ONCE,
        _ => 1,
    }
}

/// A plan that runs as a job.
#[derive(Debug)]
pub(super) struct JobExec {
    /// The scheduler's URL.
    scheduler: String,
    plan: LogicalPlan,
    codec: Arc<dyn LogicalExtensionCodec>,
    connections: Arc<Connections>,
    properties: Arc<PlanProperties>,
}

impl JobExec {
    /// A job of the scheduler with this URL.
    pub(super) fn new(
        scheduler: String,
        plan: LogicalPlan,
        codec: Arc<dyn LogicalExtensionCodec>,
        connections: Arc<Connections>,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(plan.schema().inner())),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { scheduler, plan, codec, connections, properties }
    }

    /// What the scheduler is asked to run.
    fn query(&self, context: &TaskContext) -> PlanResult<ExecuteQueryParams> {
        let mut plan = Vec::new();
        let codec = self.codec.as_ref();
        DeepLogicalPlan::try_from_logical_plan(&self.plan, codec)?.try_encode(&mut plan)?;
        let setting = |ConfigEntry { key, value, .. }| KeyValuePair { key, value };
        let settings = context.session_config().options().entries();
        Ok(ExecuteQueryParams {
            query: Some(Query::LogicalPlan(plan)),
            settings: settings.into_iter().map(setting).collect(),
            session_id: context.session_id(),
            operation_id: Uuid::now_v7().to_string(),
        })
    }
}

impl Connections {
    /// Has a scheduler run a query, and returns the parts of its result when it is done. The scheduler finds out when
    /// nobody waits for that any more.
    async fn run(
        &self,
        url: &str,
        query: ExecuteQueryParams,
    ) -> PlanResult<Vec<PartitionLocation>> {
        let channel = self.scheduler(url).await?;
        let mut request = tonic::Request::new(query);
        insert_version_header(request.metadata_mut());
        let mut scheduler = SchedulerGrpcClient::new(channel.clone())
            .max_encoding_message_size(self.message_bytes())
            .max_decoding_message_size(self.message_bytes());
        let answer = scheduler.execute_query_push(request).await.map_err(as_text)?;
        let version = version_from_metadata(answer.metadata());
        check_compatibility(Some(BALLISTA_VERSION), version).map_err(DataFusionError::Execution)?;
        let mut news = answer.into_inner();
        loop {
            let status = news.try_next().await;
            let status = status.map_err(|status| DataFusionError::Execution(status.to_string()))?;
            let Some(status) = status else {
                let text = "Stream closed without job completing".to_string();
                return Err(DataFusionError::Execution(text));
            };
            let Some(status) = status.status else { continue };
            match status.status {
                None | Some(Status::Queued(_) | Status::Running(_)) => {}
                Some(Status::Failed(failed)) => {
                    let text = format!("Job {} failed: {}", status.job_id, failed.error);
                    return Err(DataFusionError::Execution(text));
                }
                Some(Status::Successful(job)) => {
                    self.schedulers.keep(url.to_string(), channel);
                    return Ok(job.partition_location);
                }
            }
        }
    }

    /// The rows of a part of a result, as they come from the executor that has them.
    async fn rows(
        self: Arc<Self>,
        part: PartitionLocation,
    ) -> PlanResult<SendableRecordBatchStream> {
        let layout = part.layout();
        let (Some(executor), Some(id)) = (part.executor_meta, part.partition_id) else {
            let text = "the scheduler names a part of a result without its executor or its id";
            return Err(DataFusionError::Internal(text.to_string()));
        };
        let port = u16::try_from(executor.port).map_err(|_| {
            let (host, port) = (&executor.host, executor.port);
            DataFusionError::Internal(format!(
                "the scheduler names {host}:{port}, which is no port"
            ))
        })?;
        let (address, client) = self.executor(&executor.host, port).await?;
        let (id, mut asking) = (id.into(), client.clone());
        let rows = asking.fetch_partition(&executor.id, &id, part.file_id, layout, true);
        let rows = rows.await.map_err(BallistaError::into_datafusion)?;
        let schema = rows.schema();
        // Only when the last has come is the connection free again.
        let mut used = Some((address, client));
        let done = futures::stream::poll_fn(move |_| {
            if let Some((address, client)) = used.take() {
                self.executors.keep(address, client);
            }
            std::task::Poll::Ready(None)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.chain(done))))
    }
}

impl DisplayAs for JobExec {
    fn fmt_as(&self, _: DisplayFormatType, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "JobExec: scheduler={}", self.scheduler)
    }
}

impl ExecutionPlan for JobExec {
    fn name(&self) -> &str {
        "JobExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        _: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let query = self.query(&context)?;
        let (connections, scheduler) = (Arc::clone(&self.connections), self.scheduler.clone());
        let result = async move {
            let parts = connections.run(&scheduler, query).await?;
            let at_once = parts_at_once(&parts);
            let rows = move |part| Arc::clone(&connections).rows(part);
            let rows = futures::stream::iter(parts).map(rows).buffered(at_once);
            Ok::<_, DataFusionError>(rows.try_flatten())
        };
        let rows = futures::stream::once(result).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_core::serde::protobuf::PartitionStats;

    #[test]
    fn only_parts_of_a_small_result_are_asked_for_at_once() {
        let part = |num_bytes| PartitionLocation {
            partition_stats: Some(PartitionStats { num_bytes, ..Default::default() }),
            ..Default::default()
        };
        let half = SMALL as i64 / 2;
        assert_eq!(parts_at_once(&[part(half), part(half)]), PARTS_AT_ONCE);
        assert_eq!(parts_at_once(&[part(half), part(half + 1)]), 1);
        // Nobody knows how large it is.
        assert_eq!(parts_at_once(&[part(1), part(-1)]), 1);
        assert_eq!(parts_at_once(&[part(1), PartitionLocation::default()]), 1);
    }
}
