//! What tests of steps have in common.

use super::exec::Task;
use super::resident::{Resident, Reuse};
use crate::threads::Threads;
use datafusion::execution::runtime_env::RuntimeEnv;
use std::sync::Arc;

/// What a task has.
pub struct Executor {
    pub runtime: RuntimeEnv,
    pub resident: Resident,
    reuse: Reuse,
    threads: Arc<Threads>,
}

impl Executor {
    /// One whose tasks have so many threads.
    pub fn new(resident: Resident, threads: usize) -> Self {
        let threads = Arc::new(Threads::new(threads));
        Self { runtime: RuntimeEnv::default(), resident, reuse: Reuse::default(), threads }
    }

    pub fn task(&self, block: u32) -> Task<'_> {
        let Self { runtime, resident, reuse, threads } = self;
        Task { block, runtime, resident, reuse, threads }
    }
}
