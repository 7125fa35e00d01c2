//! What never changes is read once.
//!
//! A version of a table stays what it is, so a process keeps the snapshots that it has read. What is
//! published does change: the registry that was read last is good for as long as its table has no
//! newer version, which one request tells.

use crate::Result;
use crate::delta::{self, Snapshot};
use crate::registry::{FOLDER, Registry};
use crate::storage::Storage;
use moka::future::Cache;
use object_store::ObjectStore;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// Data files in all the snapshots that are kept.
const MOST_FILES: u64 = 1 << 20;

/// How long a registry can be good at most. Versions of the log that are older than a month may be
/// deleted, and with them the sign that there is a newer one.
const LONGEST: Duration = Duration::from_secs(3600);

/// A table by the address of its store's client and its URL, and a version.
type Key = (usize, Url, u64);

/// A snapshot, with the client that it was read through: for as long as it is kept, no other client has
/// that address.
#[derive(Clone)]
struct Kept {
    snapshot: Arc<Snapshot>,
    _client: Arc<dyn ObjectStore>,
}

static SNAPSHOTS: LazyLock<Cache<Key, Kept>> = LazyLock::new(|| {
    Cache::builder()
        .weigher(|_, kept: &Kept| {
            u32::try_from(kept.snapshot.contents.files.len() + 1).unwrap_or(u32::MAX)
        })
        .max_capacity(MOST_FILES)
        .build()
});

/// The table in a folder at a version; `None` if there is no table.
pub(crate) async fn snapshot(table: &Storage, version: u64) -> Result<Option<Arc<Snapshot>>> {
    let client = Arc::clone(table.store());
    let key = (Arc::as_ptr(&client).cast::<()>() as usize, table.url().clone(), version);
    if let Some(kept) = SNAPSHOTS.get(&key).await {
        return Ok(Some(kept.snapshot));
    }
    let Some(snapshot) = delta::load(table, Some(version)).await? else { return Ok(None) };
    let snapshot = Arc::new(snapshot);
    SNAPSHOTS.insert(key, Kept { snapshot: Arc::clone(&snapshot), _client: client }).await;
    Ok(Some(snapshot))
}

/// The registry of a warehouse, as it was read last.
#[derive(Debug, Clone, Default)]
pub(crate) struct LatestRegistry(Arc<Mutex<Option<Read>>>);

#[derive(Debug, Clone)]
struct Read {
    at: Instant,
    registry: Arc<Registry>,
}

impl LatestRegistry {
    /// What is published now.
    pub(crate) async fn get(&self, warehouse: &Storage) -> Result<Arc<Registry>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Read { at, registry }) = known
            && at.elapsed() < LONGEST
            && let Some(version) = registry.version()
            && !delta::has_version(&warehouse.folder(FOLDER), version + 1).await?
        {
            return Ok(registry);
        }
        let at = Instant::now();
        let registry = Arc::new(Registry::load(warehouse).await?);
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was read meanwhile can be newer.
        if latest.as_ref().is_none_or(|read| read.registry.version() <= registry.version()) {
            *latest = Some(Read { at, registry: Arc::clone(&registry) });
        }
        Ok(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Change, Kind, NewEntry};

    #[tokio::test]
    async fn a_registry_is_read_again_when_there_is_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Storage::open(&url, &Default::default()).unwrap();
        let latest = LatestRegistry::default();
        assert_eq!(latest.get(&warehouse).await.unwrap().version(), None);
        let publish = async |version| {
            let change = Change::Table(version);
            let entry = NewEntry { kind: Kind::Table, name: "a.t".into(), change, base: None };
            Registry::publish(&warehouse, &format!("r{version}"), &[entry]).await.unwrap();
        };
        for version in [0, 1] {
            publish(version).await;
            let registry = latest.get(&warehouse).await.unwrap();
            assert_eq!(registry.current(Kind::Table, "a.t").unwrap().version, version);
            assert!(Arc::ptr_eq(&registry, &latest.get(&warehouse).await.unwrap()));
        }
    }
}
