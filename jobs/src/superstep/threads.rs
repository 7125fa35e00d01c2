//! The threads that the partitions of a task have between them.

use crate::Result;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Arc, OnceLock};
use tokio::task::spawn_blocking;

/// As many threads as a task has partitions. What one partition works on is cut into pieces for all of them: those that have
/// no block left go on with the last blocks of the others, and while one writes what it has computed, its thread computes.
#[derive(Debug)]
pub struct Threads {
    count: usize,
    /// Started when they are wanted: most kernels never do.
    pool: OnceLock<ThreadPool>,
}

impl Threads {
    /// So many threads.
    pub fn new(count: usize) -> Self {
        Self { count, pool: OnceLock::new() }
    }

    /// Runs `work` in one of them. What it does with the iterators of rayon, all of them do.
    pub async fn run<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        let threads = Arc::clone(self);
        let run = move || {
            let pool = match threads.pool.get() {
                Some(pool) => pool,
                None => {
                    let pool = ThreadPoolBuilder::new().num_threads(threads.count);
                    let name = |at| format!("superstep-{at}");
                    let pool = pool.thread_name(name).build()?;
                    // Another partition may have been faster.
                    threads.pool.get_or_init(|| pool)
                }
            };
            Ok(pool.install(work))
        };
        spawn_blocking(run).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    use std::sync::Barrier;

    /// Two pieces that wait for each other are done by two threads, and there are no more than two.
    #[tokio::test]
    async fn all_threads_share_the_work_of_one_partition() {
        let threads = Arc::new(Threads::new(2));
        let barrier = Arc::new(Barrier::new(2));
        let work = move || {
            let wait = |_| barrier.wait().is_leader();
            let leaders: Vec<bool> = (0..2).into_par_iter().map(wait).collect();
            (leaders, rayon::current_num_threads())
        };
        let (mut leaders, count) = threads.run(work).await.unwrap();
        leaders.sort_unstable();
        assert_eq!((leaders, count), (vec![false, true], 2));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let threads = Arc::new(Threads::new(1));
        assert!(threads.run(|| panic!("a bug")).await.is_err_and(|_: crate::JobError| true));
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }
}
