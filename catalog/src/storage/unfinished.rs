//! What writers have left on a file system that were killed in the middle of an object.
//!
//! A client writes an object into a file beside its place, with a `#` and a number after the object's name, and moves it
//! there when it is whole. Lists leave such files out, so nobody who deletes what he finds in a list comes to them. On an
//! object store they are uploads that are not complete, which the store itself aborts if it is told to.

use super::{Storage, location};
use crate::Result;
use std::path::Path;
use std::time::SystemTime;
use tokio::task::spawn_blocking;
use walkdir::WalkDir;

impl Storage {
    /// Deletes what is unfinished in the folder and was not written to since a moment. Whoever goes on with it after that
    /// fails. Returns how many files there were; none but on a file system.
    pub async fn forget_unfinished(&self, before: SystemTime) -> Result<usize> {
        let Some(folder) = self.local_path() else { return Ok(0) };
        let deleted = spawn_blocking(move || delete_unfinished(&folder, before)).await;
        deleted
            .map_err(|error| location(&self.url, error))?
            .map_err(|error| location(&self.url, error))
    }
}

fn delete_unfinished(folder: &Path, before: SystemTime) -> std::io::Result<usize> {
    let mut deleted = 0;
    for entry in WalkDir::new(folder) {
        // Others delete in the same folder, and come to their end with what they write.
        let Some(entry) = unless_gone(entry.map_err(std::io::Error::from))? else { continue };
        if !entry.file_type().is_file() || !is_unfinished(entry.path()) {
            continue;
        }
        let metadata = entry.metadata().map_err(std::io::Error::from);
        let Some(metadata) = unless_gone(metadata)? else { continue };
        if metadata.modified()? < before {
            deleted += usize::from(unless_gone(std::fs::remove_file(entry.path()))?.is_some());
        }
    }
    Ok(deleted)
}

/// Whether a file's name ends with a `#` and a number.
fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

fn unless_gone<T>(found: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stores, parse_url};
    use super::*;
    use object_store::ObjectStoreExt;
    use std::time::Duration;

    #[tokio::test]
    async fn what_a_killed_writer_has_left_is_deleted_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let url = parse_url(folder.path().to_str().unwrap()).unwrap();
        let storage = Storage::open(&url, &Stores::default()).unwrap();
        // An upload that nobody completes or aborts, as if its process were gone.
        let mut upload =
            storage.store().put_multipart(&storage.path("x/t/part-0.parquet")).await.unwrap();
        upload.put_part("abc".into()).await.unwrap();
        std::mem::forget(upload);
        // Names that are those of objects.
        let whole = ["x/t/part-1.parquet", "x/t/part#a.parquet", "x/t/part#1a"];
        for name in whole {
            storage.put(name, "x").await.unwrap();
        }
        let files = || {
            let found = WalkDir::new(folder.path()).into_iter().map(|entry| entry.unwrap());
            found.filter(|entry| entry.file_type().is_file()).count()
        };
        assert_eq!((files(), storage.list().await.unwrap().len()), (whole.len() + 1, whole.len()));
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(storage.forget_unfinished(now - hour).await.unwrap(), 0);
        assert_eq!(storage.forget_unfinished(now + hour).await.unwrap(), 1);
        assert_eq!((files(), storage.list().await.unwrap().len()), (whole.len(), whole.len()));
        // Nobody has written to a folder that is not there.
        assert_eq!(storage.folder("none").forget_unfinished(now).await.unwrap(), 0);
    }
}
