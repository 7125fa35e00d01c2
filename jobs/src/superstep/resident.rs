//! What an executor keeps in memory between supersteps: blocks and states, read once per process.

mod states;

use super::exec::Task;
use super::layout::Folder;
use crate::{JobError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use nightshift_udfs::csr::{Csr, CsrError, Value};
use rayon::ThreadPool;
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Blocks that were not wanted for this long make room when those of another training come.
const IDLE: Duration = Duration::from_secs(5);

/// Bytes of a state that a task reads at a time at least, however little memory there is.
const LEAST_GROUP: u64 = 4 << 20;

#[derive(Clone)]
struct Held {
    value: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

/// Values by the name of what they were read from. Tasks that want the same value at the same time
/// wait for one of them to read it.
///
/// Blocks are wanted again in every step, each as often as the others. If they don't fit, to drop what was not used
/// for longest would drop each of them before it is wanted again: some stay, and the others are read every time. Of
/// everything else (states, factors of published models), what was not used for longest is dropped.
#[derive(Clone)]
pub struct Resident {
    blocks: Cache<String, Held>,
    others: Cache<String, Held>,
    /// When a block of a folder was last wanted.
    folders: Arc<Mutex<HashMap<String, Instant>>>,
    bytes: u64,
}

/// How often blocks were in memory when they were wanted.
#[derive(Debug, Default)]
pub struct Reuse {
    /// Blocks that were.
    pub kept: AtomicU32,
    /// Blocks that were read.
    pub read: AtomicU32,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kilobytes = self.blocks.weighted_size() + self.others.weighted_size();
        f.debug_struct("Resident").field("kilobytes", &kilobytes).finish()
    }
}

impl Default for Resident {
    /// A cache of one gigabyte.
    fn default() -> Self {
        Self::new(1 << 30)
    }
}

impl Resident {
    /// A cache that holds at most this many bytes.
    pub fn new(bytes: u64) -> Self {
        let kilobytes = |held: &Held| (held.bytes / 1024 + 1).try_into().unwrap_or(u32::MAX);
        // Half for blocks, half for everything else.
        let cache = |policy: EvictionPolicy| {
            Cache::builder()
                .max_capacity(bytes / 2 / 1024)
                .eviction_policy(policy)
                .weigher(move |_, held: &Held| kilobytes(held))
                .support_invalidation_closures()
                .build()
        };
        Self {
            blocks: cache(EvictionPolicy::tiny_lfu()),
            others: cache(EvictionPolicy::lru()),
            folders: Arc::default(),
            bytes,
        }
    }

    /// Whether a state of so many bytes is kept as a whole, beside the little that a step needs besides; or blocks of so
    /// many, which have as much room of their own.
    pub fn holds(&self, bytes: usize) -> bool {
        bytes as u64 <= self.bytes / 2 / 8 * 7
    }

    /// Bytes of a state that a task reads at a time if it can't be kept as a whole.
    pub fn group_bytes(&self) -> usize {
        (self.bytes / 8).max(LEAST_GROUP) as usize
    }

    /// Makes room when the blocks of a folder are wanted for the first time. Those that were wanted often would stay
    /// otherwise, although their training is over.
    fn make_room(&self, folder: &str) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.insert(folder.to_string(), Instant::now()).is_some() {
            return;
        }
        let idle = folders.extract_if(|_, wanted| wanted.elapsed() > IDLE).map(|(name, _)| name);
        let idle: Vec<String> = idle.collect();
        if !idle.is_empty() {
            let of_idle =
                move |name: &String, _: &Held| idle.iter().any(|idle| name.starts_with(idle));
            // It fails only without what the cache was built with.
            if let Err(error) = self.blocks.invalidate_entries_if(of_idle) {
                tracing::warn!(%error, "blocks of earlier trainings stay in memory");
            }
        }
    }

    /// The value of that name, read by `read` if it isn't there; `read` also says its size.
    pub async fn get<T: Send + Sync + 'static>(
        &self,
        name: String,
        read: impl Future<Output = Result<(T, usize)>>,
    ) -> Result<Arc<T>> {
        Self::get_from(&self.others, name, read).await
    }

    async fn get_from<T: Send + Sync + 'static>(
        cache: &Cache<String, Held>,
        name: String,
        read: impl Future<Output = Result<(T, usize)>>,
    ) -> Result<Arc<T>> {
        let read = async {
            let (value, bytes) = read.await?;
            Ok::<_, JobError>(Held { value: Arc::new(value), bytes })
        };
        let held = cache.try_get_with(name.clone(), read).await.map_err(JobError::Shared)?;
        let mistyped = || JobError::Damaged { what: name, reason: "it is of another type".into() };
        held.value.downcast().map_err(|_| mistyped())
    }

    /// The task's block in a folder, after `change`, which also has a name. Blocks are decoded and changed by the threads
    /// of the task.
    pub async fn block<V: Value>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        (changed, change): (&str, impl FnOnce(&mut Csr<V>) + Send + 'static),
    ) -> Result<Arc<Csr<V>>> {
        let name = Folder::part(task.block);
        self.make_room(folder.0.as_str());
        let mut kept = true;
        let read = async {
            kept = false;
            let bytes = folder.open(task.runtime)?.get(&name).await?;
            let decode = move |pool: &ThreadPool| {
                pool.install(|| {
                    let mut csr = Csr::from_bytes(&bytes)?;
                    change(&mut csr);
                    Ok(csr)
                })
            };
            let decoded: Result<_, CsrError> = task.threads.run(decode).await?;
            let csr = decoded.map_err(|error| JobError::Damaged {
                what: format!("{}{name}", folder.0),
                reason: error.to_string(),
            })?;
            let size = csr.size();
            Ok((csr, size))
        };
        let key = format!("{}{name}{changed}", folder.0);
        let block = Self::get_from(&self.blocks, key, read).await?;
        let count = if kept { &task.reuse.kept } else { &task.reuse.read };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(block)
    }

    /// One object that is nothing but numbers.
    pub async fn numbers<V: Value>(
        &self,
        runtime: &RuntimeEnv,
        folder: &Folder,
        name: &str,
        count: usize,
    ) -> Result<Arc<Vec<V>>> {
        let read = async {
            let values = folder.numbers(runtime, name, count).await?;
            Ok((values, count * V::BYTES))
        };
        self.get(format!("{}{name}", folder.0), read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;
    use nightshift_udfs::csr::Duplicates;
    use std::sync::atomic::AtomicUsize;
    use url::Url;

    #[tokio::test]
    async fn reads_once_and_again_after_a_failure() {
        let resident = Resident::default();
        let reads = AtomicUsize::new(0);
        let reads = &reads;
        let read = |good: bool| async move {
            reads.fetch_add(1, Ordering::SeqCst);
            if good {
                Ok((7u32, 4))
            } else {
                Err(JobError::Damaged { what: "x".into(), reason: "y".into() })
            }
        };
        let name = || "x".to_string();
        assert!(resident.get(name(), read(false)).await.is_err());
        let both =
            futures::join!(resident.get(name(), read(true)), resident.get(name(), read(true)));
        assert_eq!((*both.0.unwrap(), *both.1.unwrap()), (7, 7));
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        assert!(resident.get::<u64>(name(), async { Ok((1, 8)) }).await.is_err());
    }

    #[tokio::test]
    async fn drops_what_does_not_fit() {
        let resident = Resident::new(64 << 10);
        for name in 0..100 {
            let read = async { Ok((vec![0u8; 4096], 4096)) };
            resident.get(name.to_string(), read).await.unwrap();
        }
        resident.others.run_pending_tasks().await;
        assert!(resident.others.weighted_size() <= 32);
        assert!(resident.holds(28 << 10) && !resident.holds(29 << 10));
    }

    /// Five times as many blocks as fit, one after another and all over again, of one training after another.
    #[tokio::test]
    async fn keeps_some_of_the_blocks_that_do_not_fit() {
        let entries = |block: u32| (0..2000).map(move |at| (block, at, f32::from(at as u16)));
        let block = |number| Csr::from_entries(number, 1, entries(number), Duplicates::Keep);
        let (count, size) = (100, block(0).size() as u64 + 1024);
        let resident = Resident::new(u64::from(count) / 5 * size * 2);
        let runtime = RuntimeEnv::default();
        for _ in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder(Url::from_directory_path(dir.path()).unwrap());
            for number in 0..count {
                let bytes = block(number).to_bytes();
                folder.open(&runtime).unwrap().put(&Folder::part(number), bytes).await.unwrap();
            }
            // As if time had passed since the training before.
            for wanted in resident.folders.lock().unwrap().values_mut() {
                *wanted -= 2 * IDLE;
            }
            let (reuse, threads) = (Reuse::default(), Arc::new(Threads::new(1)));
            let (passes, mut most) = (10, 0);
            for _ in 0..passes {
                for number in 0..count {
                    let (runtime, resident, reuse) = (&runtime, &resident, &reuse);
                    let task = Task { block: number, runtime, resident, reuse, threads: &threads };
                    let read = resident.block::<f32>(task, &folder, ("", |_| ()));
                    assert_eq!(*read.await.unwrap(), block(number));
                    resident.blocks.run_pending_tasks().await;
                    most = most.max(resident.blocks.weighted_size());
                }
            }
            assert!(most * 1024 <= u64::from(count) / 5 * size, "{most}");
            let (kept, read) = (reuse.kept.into_inner(), reuse.read.into_inner());
            assert_eq!(kept + read, passes * count);
            // A fifth, but for the first pass, would be best.
            assert!(kept * 10 > passes * count, "{kept} of {}", passes * count);
        }
    }
}
