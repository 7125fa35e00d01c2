//! What the scheduler knows of its executors, and what becomes of jobs that lose one.

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::protobuf::{ExecutorHeartbeat, FailedTask, RunningTask};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::execution_stage::{ExecutionStage, TaskInfo};
use ballista_scheduler::state::task_manager::JobInfoCache;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedSender;

/// Ballista's in-memory state of a cluster, strict where the loss of an executor shows that Ballista's
/// books are wrong.
///
/// *Free cores.* Ballista keeps a balance: minus when a task is handed out, plus when it reports its
/// end. When an executor is lost, the stages that read its results are taken back and their tasks on
/// other executors cancelled; these report their end to a stage that no longer knows them, and their
/// cores are never given back. Enough of them, and a job waits for ever on a cluster that is idle.
/// Here the free cores are counted from the tasks that run, each time that tasks are handed out.
///
/// *Results.* A stage that is taken back runs again from its start, but what its finished tasks had
/// already reported stays in the job's result, or in the inputs of the next stage: rows appear twice.
/// Here such a job gets no more tasks, and its id is sent to [`Self::damaged`], to be cancelled; the
/// session that submitted it runs it again, whole.
///
/// *Placement.* Ballista takes executors with as many free cores in any order. Here they come in that of their ids, and
/// get the partitions of a stage in it: an idle cluster the same in every superstep, whose blocks are in memory there.
pub(crate) struct StrictClusterState {
    inner: InMemoryClusterState,
    /// All cores of each executor. Locked while tasks are handed out, so that no core is given twice.
    total: Mutex<HashMap<String, u32>>,
    /// The sum of these.
    cores: Arc<AtomicUsize>,
    damaged: UnboundedSender<JobId>,
}

impl StrictClusterState {
    /// A cluster without executors; the ids of jobs that can't be recovered go to `damaged`.
    pub(crate) fn new(damaged: UnboundedSender<JobId>) -> Self {
        let cores = Arc::default();
        Self { inner: InMemoryClusterState::default(), total: Mutex::default(), cores, damaged }
    }

    /// All cores of all executors, now and whenever it is read.
    pub(crate) fn cores(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.cores)
    }

    fn count(&self, total: &HashMap<String, u32>) {
        let cores = total.values().map(|cores| *cores as usize).sum();
        self.cores.store(cores, Ordering::Relaxed);
    }

    /// The jobs that may have tasks, and how many cores of each executor their tasks hold. Reports
    /// the others.
    async fn survey(
        &self,
        jobs: &HashMap<JobId, JobInfoCache>,
    ) -> Result<(HashMap<JobId, JobInfoCache>, HashMap<String, u32>)> {
        let mut sound = HashMap::new();
        let mut busy: HashMap<String, u32> = HashMap::new();
        for (id, job) in jobs {
            let graph = job.execution_graph.read().await;
            for stage in graph.stages().values() {
                for (executor, cores) in running_tasks(stage) {
                    *busy.entry(executor.to_string()).or_default() += cores;
                }
            }
            if graph.stages().values().any(was_taken_back) {
                self.damaged.send(id.clone()).map_err(|_| {
                    BallistaError::Internal("nobody cancels damaged jobs".to_string())
                })?;
            } else {
                sound.insert(id.clone(), job.clone());
            }
        }
        Ok((sound, busy))
    }
}

/// The running tasks of a stage: the executor of each, and the cores that it holds.
pub(crate) fn running_tasks(stage: &ExecutionStage) -> impl Iterator<Item = (&str, u32)> {
    let running = matches!(stage, ExecutionStage::Running(_));
    let tasks = stage.task_infos().filter(|_| running).unwrap_or_default();
    tasks.iter().filter_map(|task| match &task.task_status {
        Status::Running(RunningTask { executor_id }) => {
            Some((executor_id.as_str(), task.vcores_consumed))
        }
        _ => None,
    })
}

/// Whether a stage has been started a second time, or has lost a result that it had reported. A task
/// that was lost before its end is no harm: it has reported nothing.
fn was_taken_back(stage: &ExecutionStage) -> bool {
    let attempt = match stage {
        ExecutionStage::UnResolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Resolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Running(stage) => stage.stage_attempt_num,
        ExecutionStage::Successful(stage) => stage.stage_attempt_num,
        ExecutionStage::Failed(stage) => stage.stage_attempt_num,
    };
    let lost_result = |task: &TaskInfo| {
        let lost = matches!(
            &task.task_status,
            Status::Failed(FailedTask { failed_reason: Some(FailedReason::ResultLost(_)), .. })
        );
        lost && task.finish_time > 0
    };
    attempt > 0 || stage.task_infos().unwrap_or_default().iter().any(lost_result)
}

#[async_trait]
impl ClusterState for StrictClusterState {
    async fn init(&self) -> Result<()> {
        self.inner.init().await
    }

    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let total = self.total.lock().await;
        let (jobs, busy) = self.survey(&active_jobs).await?;
        // Ballista's own distribution can only be called on a state of its own.
        let snapshot = InMemoryClusterState::default();
        let mut order = Vec::new();
        for metadata in self.inner.registered_executor_metadata().await {
            let Some(&total_vcores) = total.get(&metadata.id) else { continue };
            let held = busy.get(&metadata.id).copied().unwrap_or(0);
            let executor_id = metadata.id.clone();
            let available_vcores = total_vcores.saturating_sub(held);
            let data = ExecutorData { executor_id, total_vcores, available_vcores };
            let id = &metadata.id;
            if available_vcores > 0 && executors.as_ref().is_none_or(|given| given.contains(id)) {
                order.push((Reverse(available_vcores), id.clone()));
            }
            snapshot.register_executor(metadata, data).await?;
        }
        order.sort();
        let jobs = Arc::new(jobs);
        let mut bound = Vec::new();
        for (_, id) in order {
            let only = Some(HashSet::from([id]));
            let tasks =
                snapshot.bind_schedulable_tasks(distribution.clone(), Arc::clone(&jobs), only);
            bound.extend(tasks.await?);
        }
        Ok(bound)
    }

    /// Nothing to do: a task that has ended is not counted again.
    async fn unbind_tasks(&self, _executor_slots: Vec<ExecutorSlot>) -> Result<()> {
        Ok(())
    }

    async fn register_executor(
        &self,
        metadata: ExecutorMetadata,
        spec: ExecutorData,
    ) -> Result<()> {
        let (executor, cores) = (metadata.id.clone(), spec.total_vcores);
        self.inner.register_executor(metadata, spec).await?;
        let mut total = self.total.lock().await;
        total.insert(executor, cores);
        self.count(&total);
        Ok(())
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.inner.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        self.inner.get_executor_metadata(executor_id).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.inner.registered_executor_metadata().await
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        self.inner.save_executor_heartbeat(heartbeat).await
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        {
            let mut total = self.total.lock().await;
            total.remove(executor_id);
            self.count(&total);
        }
        self.inner.remove_executor(executor_id).await
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.inner.executor_heartbeats()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.inner.get_executor_heartbeat(executor_id)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.inner.cluster_state_events().await
    }
}
