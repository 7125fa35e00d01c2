//! The threads that the partitions of a task have between them.

use crate::Result;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::task::spawn_blocking;

/// Pools that no task has now. A task may be over sooner than threads are started.
static UNUSED: Mutex<Vec<ThreadPool>> = Mutex::new(Vec::new());

/// As many threads as a task has partitions. What one partition works on is cut into pieces for all of them: threads that
/// have no block left go on with the last blocks of the others, and while a partition writes what it has, its thread
/// computes for another.
#[derive(Debug)]
pub struct Threads {
    count: usize,
    /// Taken when they are wanted: most kernels never do.
    pool: OnceLock<ThreadPool>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            UNUSED.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
        }
    }
}

impl Threads {
    /// So many threads.
    pub fn new(count: usize) -> Self {
        Self { count, pool: OnceLock::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `work`, which puts pieces of itself into the pool. It waits for them elsewhere: a thread of the pool that
    /// waited would begin with another partition's block, and keep its own from being done.
    pub async fn run<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&ThreadPool) -> R + Send + 'static,
    ) -> Result<R> {
        let threads = Arc::clone(self);
        let run = move || {
            let pool = match threads.pool.get() {
                Some(pool) => pool,
                None => {
                    let pool = pool_of(threads.count)?;
                    // Another partition may have been faster.
                    threads.pool.get_or_init(|| pool)
                }
            };
            Ok(work(pool))
        };
        spawn_blocking(run).await?
    }
}

fn pool_of(count: usize) -> Result<ThreadPool> {
    let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
    match unused.iter().position(|pool| pool.current_num_threads() == count) {
        Some(at) => Ok(unused.swap_remove(at)),
        None => {
            let pool = ThreadPoolBuilder::new().num_threads(count);
            Ok(pool.thread_name(|at| format!("task-{at}")).build()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, Mutex};

    /// Two pieces that wait for each other are done by two threads, and there are no more than two.
    #[tokio::test]
    async fn all_threads_share_the_work_of_one_partition() {
        let threads = Arc::new(Threads::new(2));
        let work = |pool: &ThreadPool| {
            let (barrier, leaders) = (Barrier::new(2), Mutex::<Vec<bool>>::default());
            pool.in_place_scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|_| {
                        let leads = barrier.wait().is_leader();
                        leaders.lock().unwrap().push(leads);
                    });
                }
            });
            (leaders.into_inner().unwrap(), pool.current_num_threads())
        };
        let (mut leaders, count) = threads.run(work).await.unwrap();
        leaders.sort_unstable();
        assert_eq!((leaders, count), (vec![false, true], 2));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let threads = Arc::new(Threads::new(1));
        let bug = |pool: &ThreadPool| {
            pool.in_place_scope(|scope| scope.spawn(|_| panic!("a bug")));
        };
        assert!(threads.run(bug).await.is_err());
        let sum = |pool: &ThreadPool| pool.install(|| 7);
        assert_eq!(threads.run(sum).await.unwrap(), 7);
    }
}
