//! What a session can tell of the cluster that runs its plans.

use crate::Result;
use async_trait::async_trait;
use datafusion::prelude::SessionConfig;
use std::fmt::Debug;

/// A cluster that can say which executors it has.
#[async_trait]
pub trait ClusterView: Debug + Send + Sync {
    /// The executors that are registered now.
    async fn executors(&self) -> Result<Vec<ExecutorInfo>>;

    /// The configuration of a query whose rows are only looked at, as the executors that are there now run
    /// it best.
    async fn for_query(&self, config: SessionConfig) -> Result<SessionConfig>;
}

/// Tasks that the cluster can run at the same time, as an extension of the configuration that its scheduler
/// plans with.
#[derive(Debug, Clone, Copy)]
pub struct Cores(pub usize);

/// What is known of an executor.
#[derive(Debug, Clone)]
pub struct ExecutorInfo {
    /// Its id, which it has until it ends.
    pub id: String,
    /// Where others fetch its results.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Tasks that it can run at the same time.
    pub cores: u64,
    /// How many of these are taken.
    pub busy_cores: u64,
    /// Bytes of memory that its process has.
    pub memory: Option<u64>,
    /// When it was heard of last, in microseconds since 1970.
    pub last_heartbeat: Option<i64>,
    /// `active`, `terminating`, `dead` or `unknown`.
    pub state: &'static str,
}
