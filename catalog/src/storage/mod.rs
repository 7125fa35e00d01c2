//! One URL on an object store: read, write, create if absent.
//!
//! The same code serves a local folder, S3, Google Cloud Storage and Azure. `settings` says how a store
//! is reached, `client` makes its client, `retry` makes that patient, `stores` holds the clients of a
//! process, `probe` finds out whether a store can be written to by several, and `unfinished` deletes what
//! killed writers have left.

mod client;
mod probe;
mod retry;
mod settings;
mod stores;
#[cfg(test)]
pub(crate) mod testing;
mod unfinished;

pub use settings::{OptionValue, StoreSettings};
pub use stores::Stores;

use crate::{CatalogError, Result};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use std::ops::Range;
use std::sync::Arc;
use url::Url;

/// A folder on an object store.
#[derive(Debug, Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    url: Url,
    root: Path,
}

impl Storage {
    /// Opens the folder that `url` names.
    pub fn open(url: &Url, stores: &Stores) -> Result<Self> {
        Self::on(stores.client(url)?, url)
    }

    /// Opens the folder that `url` names, on the store that a session has for it.
    pub fn of_session(runtime: &RuntimeEnv, url: &Url) -> Result<Self> {
        let store =
            runtime.object_store_registry.get_store(url).map_err(|error| location(url, error))?;
        Self::on(store, url)
    }

    /// The folder that an object is in, on the store that a session has for it, and the object's name.
    pub fn of_object(runtime: &RuntimeEnv, object: &Url) -> Result<(Self, String)> {
        let (folder, name) = object.path().rsplit_once('/').unwrap_or(("", object.path()));
        let mut parent = object.clone();
        parent.set_path(&format!("{folder}/"));
        Ok((Self::of_session(runtime, &parent)?, name.to_string()))
    }

    fn on(store: Arc<dyn ObjectStore>, url: &Url) -> Result<Self> {
        let mut url = url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let root = Path::from_url_path(url.path()).map_err(|error| location(&url, error))?;
        Ok(Self { store, url, root })
    }

    /// The folder's URL, with a slash at its end.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store, whose root is that of the bucket or file system.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The folder `name` within this one; `name` may have several parts.
    pub fn folder(&self, name: &str) -> Self {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{name}/", self.url.path()));
        Self { store: Arc::clone(&self.store), url, root: self.path(name) }
    }

    /// Where the object `name` is on the store.
    pub fn path(&self, name: &str) -> Path {
        self.root.parts().chain(Path::from(name).parts()).collect()
    }

    /// Reads a whole object.
    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let read = async { self.store.get(&self.path(name)).await?.bytes().await };
        read.await.map_err(|error| self.error(name, error))
    }

    /// Reads parts of an object. Stores that are reached over a network refuse to read nothing, and are not asked
    /// for an empty range.
    pub async fn get_ranges(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let asked: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let read = self.store.get_ranges(&self.path(name), &asked).await;
        let mut read = read.map_err(|error| self.error(name, error))?.into_iter();
        let part = |range: &Range<u64>| match range.is_empty() {
            true => Bytes::new(),
            false => read.next().unwrap_or_default(),
        };
        Ok(ranges.iter().map(part).collect())
    }

    /// Writes a whole object, over what is there.
    pub async fn put(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<()> {
        let put = self.store.put(&self.path(name), bytes.into()).await;
        put.map(drop).map_err(|error| self.error(name, error))
    }

    /// Writes a whole object if there is none of that name; `false` if there is.
    ///
    /// Whoever else may create the object must have other bytes for it. On a store that is reached over
    /// a network an answer can be lost, and the object that is there is then known for one's own by its
    /// bytes alone.
    pub async fn create(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<bool> {
        let mode = PutMode::Create.into();
        match self.store.put_opts(&self.path(name), bytes.into(), mode).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) if retry::is_undecided(&source) => {
                Err(CatalogError::Undecided { url: format!("{}{name}", self.url), source })
            }
            Err(error) => Err(self.error(name, error)),
        }
    }

    /// All objects in the folder and the folders within it.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>> {
        let listed = self.store.list(Some(&self.root)).try_collect().await;
        listed.map_err(|error| self.error("", error))
    }

    /// The names of the folders that are directly in this one, sorted.
    pub async fn folders(&self) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&self.root)).await;
        let listed = listed.map_err(|error| self.error("", error))?;
        let names = listed.common_prefixes.iter().filter_map(Path::filename);
        let mut names: Vec<_> = names.map(str::to_string).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes one object; one that is not there already is no error.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(name, error)),
        }
    }

    /// Deletes all objects in the folder, and on a file system the folder itself.
    pub async fn delete_all(&self) -> Result<()> {
        let paths = self.list().await?.into_iter().map(|object| Ok(object.location));
        let paths = futures::stream::iter(paths.collect::<Vec<_>>()).boxed();
        let mut deletions = self.store.delete_stream(paths);
        while let Some(deletion) = deletions.next().await {
            match deletion {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.error("", error)),
            }
        }
        if let Some(folder) = self.local_path() {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(location(&self.url, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The folder's path, if it is on the local file system.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    /// Whether there is an object of that name.
    pub async fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.written_at(name).await?.is_some())
    }

    /// When an object was written the last time, by the store's clock; `None` if there is none of that name.
    pub async fn written_at(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        match self.store.head(&self.path(name)).await {
            Ok(object) => Ok(Some(object.last_modified)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(name, error)),
        }
    }

    fn error(&self, name: &str, source: object_store::Error) -> CatalogError {
        CatalogError::Store { url: format!("{}{name}", self.url), source }
    }
}

fn location(url: &Url, reason: impl ToString) -> CatalogError {
    CatalogError::Location { url: url.to_string(), reason: reason.to_string() }
}

/// The URL of a warehouse or file: a URL as it is, anything else as a local path.
pub fn parse_url(text: &str) -> Result<Url> {
    // A single letter before the colon is a Windows drive, not a scheme.
    if let Ok(url) = Url::parse(text)
        && url.scheme().len() > 1
    {
        return Ok(url);
    }
    let wrong = |reason: String| CatalogError::Location { url: text.to_string(), reason };
    let path = std::path::absolute(text).map_err(|error| wrong(error.to_string()))?;
    let path = without_parents(&path);
    Url::from_file_path(&path).map_err(|()| wrong("not a path".to_string()))
}

/// Resolves `..` in an absolute path, which stores don't.
fn without_parents(path: &std::path::Path) -> std::path::PathBuf {
    let mut resolved = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                resolved.pop();
            }
            part => resolved.push(part),
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(folder: &tempfile::TempDir) -> Storage {
        let url = parse_url(folder.path().to_str().unwrap()).unwrap();
        Storage::open(&url, &Stores::default()).unwrap()
    }

    #[tokio::test]
    async fn creates_an_object_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder).folder("a/b");
        assert!(storage.create("one", "first").await.unwrap());
        assert!(!storage.create("one", "second").await.unwrap());
        assert_eq!(storage.get("one").await.unwrap(), "first");
        assert_eq!(storage.list().await.unwrap().len(), 1);
        storage.delete_all().await.unwrap();
        assert!(!folder.path().join("a/b").exists());
    }

    #[tokio::test]
    async fn a_missing_object_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = storage(&folder).get("absent").await.unwrap_err().to_string();
        assert!(message.contains("/absent"), "{message}");
    }

    #[tokio::test]
    async fn existence_is_told_from_failure() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder);
        assert!(!storage.exists("a").await.unwrap());
        assert_eq!(storage.written_at("a").await.unwrap(), None);
        storage.put("a", "x").await.unwrap();
        assert!(storage.exists("a").await.unwrap());
        let written_at = storage.written_at("a").await.unwrap().unwrap();
        assert!((Utc::now() - written_at).abs() < chrono::TimeDelta::minutes(1), "{written_at}");
    }

    #[test]
    fn paths_and_urls_both_name_locations() {
        assert_eq!(parse_url("s3://bucket/x").unwrap().scheme(), "s3");
        assert!(parse_url("some/folder").unwrap().as_str().ends_with("/some/folder"));
        assert!(parse_url("some/../other").unwrap().as_str().ends_with("/other"));
        assert_eq!(parse_url("/a/b/../../../c").unwrap().path(), "/c");
    }
}
