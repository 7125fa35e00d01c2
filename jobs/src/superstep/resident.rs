//! What an executor keeps in memory between supersteps: blocks and states, read once per process.

use super::layout::{Folder, Partitioned, append_numbers};
use crate::{JobError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use nightshift_udfs::csr::{Csr, Value};
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// Parts of a state that are read at the same time.
const READS: usize = 16;

#[derive(Clone)]
struct Held {
    value: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

/// Values by the name of what they were read from. Tasks that want the same value at the same time
/// wait for one of them to read it. What was not used for longest is dropped when the limit is
/// reached.
#[derive(Clone)]
pub struct Resident {
    cache: Cache<String, Held>,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("kilobytes", &self.cache.weighted_size()).finish()
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
        let cache = Cache::builder()
            .max_capacity(bytes / 1024)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(move |_, held: &Held| kilobytes(held))
            .build();
        Self { cache }
    }

    /// The value of that name, read by `read` if it isn't there; `read` also says its size.
    pub async fn get<T: Send + Sync + 'static>(
        &self,
        name: String,
        read: impl Future<Output = Result<(T, usize)>>,
    ) -> Result<Arc<T>> {
        let read = async {
            let (value, bytes) = read.await?;
            Ok::<_, JobError>(Held { value: Arc::new(value), bytes })
        };
        let held = self.cache.try_get_with(name.clone(), read).await.map_err(JobError::Shared)?;
        let mistyped = || JobError::Damaged { what: name, reason: "it is of another type".into() };
        held.value.downcast().map_err(|_| mistyped())
    }

    /// A block.
    pub async fn block<V: Value>(
        &self,
        runtime: &RuntimeEnv,
        folder: &Folder,
        block: u32,
    ) -> Result<Arc<Csr<V>>> {
        let name = Folder::part(block);
        let read = async {
            let bytes = folder.open(runtime)?.get(&name).await?;
            let csr = Csr::from_bytes(&bytes).map_err(|error| JobError::Damaged {
                what: format!("{}{name}", folder.0),
                reason: error.to_string(),
            })?;
            let size = csr.size();
            Ok((csr, size))
        };
        self.get(format!("{}{name}", folder.0), read).await
    }

    /// The whole of a state: the parts of all blocks, `width` numbers a row, one after another.
    pub async fn state<V: Value>(
        &self,
        runtime: &RuntimeEnv,
        folder: &Folder,
        cut: Partitioned,
        width: usize,
    ) -> Result<Arc<Vec<V>>> {
        let read = async {
            let storage = folder.open(runtime)?;
            let parts = futures::stream::iter(0..cut.blocks()).map(|block| {
                let storage = &storage;
                async move { storage.get(&Folder::part(block)).await }
            });
            let parts: Vec<_> = parts.buffered(READS).try_collect().await?;
            let mut state = Vec::with_capacity(cut.count as usize * width);
            for (block, bytes) in parts.iter().enumerate() {
                let rows = cut.rows(block as u32);
                append_numbers(bytes, rows * width, folder.0.as_str(), &mut state)?;
            }
            let size = state.len() * V::BYTES;
            Ok((state, size))
        };
        self.get(folder.0.to_string(), read).await
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
            let bytes = folder.open(runtime)?.get(name).await?;
            let mut values = Vec::with_capacity(count);
            append_numbers(&bytes, count, folder.0.as_str(), &mut values)?;
            Ok((values, count * V::BYTES))
        };
        self.get(format!("{}{name}", folder.0), read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        resident.cache.run_pending_tasks().await;
        assert!(resident.cache.weighted_size() <= 64);
    }
}
