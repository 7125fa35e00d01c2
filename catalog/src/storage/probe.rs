//! Finds out whether several can write to a store without losing each other's commits.

use super::Storage;
use crate::{CatalogError, Result};
use object_store::Error;
use uuid::Uuid;

/// Where the objects of probes are.
const FOLDER: &str = "_nightshift/probe";

impl Storage {
    /// Fails if the store does not refuse to create an object that is there, as a store may that doesn't
    /// know the condition on a request: there, of two commits at the same time one would be lost. On the
    /// local file system it is known to.
    pub async fn probe(&self) -> Result<()> {
        if self.local_path().is_some() {
            return Ok(());
        }
        let name = format!("{FOLDER}/{}", Uuid::now_v7());
        let ignored = self.ignores_conditions(&name).await?;
        self.delete(&name).await?;
        match ignored {
            None => Ok(()),
            Some(reason) => {
                Err(CatalogError::Unconditional { url: self.url().to_string(), reason })
            }
        }
    }

    /// How it shows that conditions are not honoured.
    async fn ignores_conditions(&self, name: &str) -> Result<Option<String>> {
        match self.create(name, "first").await {
            Ok(_) => {}
            Err(CatalogError::Store { source, .. } | CatalogError::Undecided { source, .. })
                if is_unimplemented(&source) =>
            {
                return Ok(Some(source.to_string()));
            }
            Err(error) => return Err(error),
        }
        match self.create(name, "second").await? {
            true => Ok(Some("an object was created that was there already".to_string())),
            false => Ok(None),
        }
    }
}

/// Whether a store, or what was set for it, says that it knows no conditions.
fn is_unimplemented(error: &Error) -> bool {
    // S3's code for a header that a store doesn't know, which is in the text of the answer only.
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || error.to_string().contains("<Code>NotImplemented</Code>")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fault, Request, storage};
    use super::*;
    use crate::storage::Stores;
    use crate::warehouse::Warehouse;
    use object_store::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use url::Url;

    #[tokio::test]
    async fn a_store_that_ignores_conditions_is_refused_before_a_run() {
        let ignore = |request, _: &Path| match request {
            Request::Create => Fault::Unconditional,
            _ => Fault::None,
        };
        let (storage, stores) = storage(Duration::ZERO, ignore);
        let warehouse = Warehouse::open(storage.url(), &stores).unwrap();
        let error = warehouse.open_run("r").await.unwrap_err();
        assert!(matches!(error, CatalogError::Unconditional { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("s3://bucket/warehouse/") && message.contains("If-None-Match"));
        assert!(storage.list().await.unwrap().is_empty(), "something is left");
    }

    #[tokio::test]
    async fn a_store_that_honours_them_is_probed_once() {
        let creations = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&creations);
        let (storage, stores) = storage(Duration::ZERO, move |request, _| {
            count.fetch_add(usize::from(request == Request::Create), Ordering::SeqCst);
            Fault::None
        });
        let warehouse = Warehouse::open(storage.url(), &stores).unwrap();
        warehouse.check_writable().await.unwrap();
        warehouse.clone().open_run("r").await.unwrap();
        assert_eq!(creations.load(Ordering::SeqCst), 2);
        let left = storage.list().await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[tokio::test]
    async fn a_folder_is_not_probed() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path()).unwrap();
        Storage::open(&url, &Stores::default()).unwrap().probe().await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
