//! What the scheduler knows of its jobs, and what becomes of jobs whose client goes away.

use async_trait::async_trait;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::JobStatus;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::{JobId, JobStatusSubscriber};
use ballista_scheduler::cluster::memory::InMemoryJobState;
use ballista_scheduler::cluster::{JobState, JobStateEventStream};
use ballista_scheduler::scheduler_server::JobIdGenerator;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel};
use uuid::Uuid;

/// Updates of a job's status that wait to be sent.
const UPDATES: usize = 16;

/// How long until a job that should have been cancelled is named again: a client can be gone before
/// its job can be found.
const AGAIN: Duration = Duration::from_millis(100);

/// Ballista's in-memory state of jobs, which notices when nobody waits for a job any more.
///
/// In Ballista a job whose client is gone runs to its end, and holds its executors until then. Here
/// the id of such a job is sent to [`Self::abandoned`], to be cancelled.
pub(crate) struct WatchedJobState {
    inner: InMemoryJobState,
    abandoned: UnboundedSender<JobId>,
}

impl WatchedJobState {
    /// Sends the ids of jobs whose client is gone to `abandoned`.
    pub(crate) fn new(inner: InMemoryJobState, abandoned: UnboundedSender<JobId>) -> Self {
        Self { inner, abandoned }
    }
}

/// Names jobs. Ballista's own ids may be those of another scheduler too, and for them a thread wakes up a thousand times a
/// second to see what time it is.
pub(crate) struct JobIds;

#[async_trait]
impl JobIdGenerator for JobIds {
    async fn next_id(&self) -> String {
        Uuid::now_v7().simple().to_string()
    }
}

fn has_ended(status: &JobStatus) -> bool {
    matches!(status.status, Some(Status::Successful(_) | Status::Failed(_)))
}

/// Hands a job's statuses on to its client until the job ends or the client is gone.
async fn watch(
    job: JobId,
    mut statuses: Receiver<JobStatus>,
    client: JobStatusSubscriber,
    abandoned: UnboundedSender<JobId>,
) {
    loop {
        let status = tokio::select! {
            // A job that has ended is not abandoned by a client that leaves at the same moment.
            biased;
            status = statuses.recv() => status,
            () = client.closed() => break,
        };
        let Some(status) = status else { return };
        let ended = has_ended(&status);
        let gone = client.send(status).await.is_err();
        if ended {
            return;
        }
        if gone {
            break;
        }
    }
    while abandoned.send(job.clone()).is_ok() {
        match tokio::time::timeout(AGAIN, statuses.recv()).await {
            Ok(Some(status)) if has_ended(&status) => return,
            Ok(None) => return,
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

#[async_trait]
impl JobState for WatchedJobState {
    fn accept_job(&self, job_id: &JobId, job_name: &str, queued_at: u64) -> Result<()> {
        self.inner.accept_job(job_id, job_name, queued_at)
    }

    fn pending_job_number(&self) -> usize {
        self.inner.pending_job_number()
    }

    async fn submit_job(
        &self,
        job_id: JobId,
        graph: &ExecutionGraphBox,
        subscriber: Option<JobStatusSubscriber>,
    ) -> Result<()> {
        let Some(client) = subscriber else {
            return self.inner.submit_job(job_id, graph, None).await;
        };
        let (updates, statuses) = channel(UPDATES);
        self.inner.submit_job(job_id.clone(), graph, Some(updates)).await?;
        tokio::spawn(watch(job_id, statuses, client, self.abandoned.clone()));
        Ok(())
    }

    async fn get_jobs(&self) -> Result<HashSet<JobId>> {
        self.inner.get_jobs().await
    }

    async fn get_all_jobs(&self) -> Result<HashSet<JobId>> {
        self.inner.get_all_jobs().await
    }

    async fn get_job_status(&self, job_id: &JobId) -> Result<Option<JobStatus>> {
        self.inner.get_job_status(job_id).await
    }

    async fn get_execution_graph(&self, job_id: &JobId) -> Result<Option<ExecutionGraphBox>> {
        self.inner.get_execution_graph(job_id).await
    }

    async fn save_job(&self, job_id: &JobId, graph: &ExecutionGraphBox) -> Result<()> {
        self.inner.save_job(job_id, graph).await
    }

    async fn fail_unscheduled_job(&self, job_id: &JobId, reason: String) -> Result<()> {
        self.inner.fail_unscheduled_job(job_id, reason).await
    }

    async fn remove_job(&self, job_id: &JobId) -> Result<()> {
        self.inner.remove_job(job_id).await
    }

    async fn try_acquire_job(&self, job_id: &JobId) -> Result<Option<ExecutionGraphBox>> {
        self.inner.try_acquire_job(job_id).await
    }

    async fn job_state_events(&self) -> Result<JobStateEventStream> {
        self.inner.job_state_events().await
    }

    async fn create_or_update_session(
        &self,
        session_id: &str,
        config: &SessionConfig,
    ) -> Result<Arc<SessionContext>> {
        self.inner.create_or_update_session(session_id, config).await
    }

    async fn remove_session(&self, session_id: &str) -> Result<()> {
        self.inner.remove_session(session_id).await
    }

    fn produce_config(&self) -> SessionConfig {
        self.inner.produce_config()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_core::serde::protobuf::{FailedJob, RunningJob};
    use tokio::sync::mpsc::unbounded_channel;

    fn status(status: Status) -> JobStatus {
        JobStatus { job_id: "j".into(), job_name: String::new(), status: Some(status) }
    }

    #[tokio::test]
    async fn a_job_is_abandoned_when_its_client_leaves_before_its_end() {
        let (updates, statuses) = channel(UPDATES);
        let (client, mut waiting) = channel(UPDATES);
        let (abandoned, mut jobs) = unbounded_channel();
        let watching = tokio::spawn(watch(JobId::new("j"), statuses, client, abandoned));
        updates.send(status(Status::Running(RunningJob::default()))).await.unwrap();
        assert!(waiting.recv().await.is_some());
        drop(waiting);
        // It is named until it has ended.
        for _ in 0..2 {
            assert_eq!(jobs.recv().await.unwrap().as_str(), "j");
        }
        updates.send(status(Status::Failed(FailedJob::default()))).await.unwrap();
        watching.await.unwrap();
    }

    #[tokio::test]
    async fn a_job_that_has_ended_is_not_abandoned() {
        let (updates, statuses) = channel(UPDATES);
        let (client, mut waiting) = channel(UPDATES);
        let (abandoned, mut jobs) = unbounded_channel();
        updates.send(status(Status::Failed(FailedJob::default()))).await.unwrap();
        watch(JobId::new("j"), statuses, client, abandoned).await;
        assert!(waiting.recv().await.is_some());
        assert!(jobs.recv().await.is_none());
    }
}
