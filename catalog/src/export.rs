//! Files for other programs, written by a run into a folder outside the warehouse.
//!
//! Tasks write under names that have the run's id in them. When the run is published, what is to be
//! one file gets its own name, and what was there before is deleted if it is to be replaced; when the
//! run fails, all that it has written is.

use crate::delta::DataFile;
use crate::storage::Storage;
use crate::write::file_prefix;
use crate::{CatalogError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::collections::BTreeSet;
use url::Url;

/// Where a run writes files for other programs.
#[derive(Debug, Clone)]
pub struct ExportTarget {
    /// The folder.
    pub folder: Storage,
    location: Url,
    /// The name of the file within the folder, if all is to be in one.
    pub file: Option<String>,
    /// What was there before.
    replaced: Vec<Path>,
    /// What was written, and is to stay.
    written: Vec<DataFile>,
}

impl ExportTarget {
    /// A folder, or a file if the location's last part has an extension. What is there is an error
    /// unless it is to be replaced. What the run has written there before it was interrupted is deleted.
    pub async fn open(
        runtime: &RuntimeEnv,
        location: &Url,
        overwrite: bool,
        run: &str,
    ) -> Result<Self> {
        let last = location.path().rsplit('/').next().unwrap_or_default();
        let is_file = last.trim_start_matches('.').contains('.');
        let (folder, file) = match is_file {
            true => {
                let (folder, _) = Storage::of_object(runtime, location)?;
                let path = Path::from_url_path(location.path()).map_err(|error| {
                    CatalogError::Location { url: location.to_string(), reason: error.to_string() }
                })?;
                (folder, path.filename().map(str::to_string))
            }
            false => (Storage::of_session(runtime, location)?, None),
        };
        let refused = |reason: &str| {
            Err(CatalogError::Target { url: shown(location), reason: reason.to_string() })
        };
        let (replaced, written) = (Vec::new(), Vec::new());
        let mut target = Self { folder, location: location.clone(), file, replaced, written };
        target.discard(run).await?;
        let (folder, file) = (&target.folder, &target.file);
        let there: Vec<Path> = match file {
            None => folder.list().await?.into_iter().map(|object| object.location).collect(),
            Some(file) if folder.exists(file).await? => vec![folder.path(file)],
            Some(_) => Vec::new(),
        };
        if there.iter().any(|path| path.parts().any(|part| part.as_ref() == "_delta_log")) {
            return refused("a Delta table is there, which files can't be put into");
        }
        if !there.is_empty() && !overwrite {
            return refused(
                "there is something already: write elsewhere, or add OPTIONS (overwrite true)",
            );
        }
        target.replaced = there;
        Ok(target)
    }

    /// What is in the names of files that a run writes for this target, and in no others.
    pub fn tag(&self, run: &str) -> String {
        let location = blake3::hash(self.location.as_str().as_bytes()).to_hex();
        format!("{run}-{}", &location[..8])
    }

    /// Where it writes, as it was given.
    pub fn location(&self) -> &Url {
        &self.location
    }

    /// Takes note of what was written.
    pub fn keep(&mut self, files: Vec<DataFile>) {
        self.written = files;
    }

    /// Makes what was written what is there: gives a single file its name, and deletes what was there
    /// before and what was written twice.
    pub async fn publish(&self, run: &str) -> Result<()> {
        if let (Some(name), [file]) = (&self.file, self.written.as_slice()) {
            let (from, to) = (file.location(&self.folder), self.folder.path(name));
            let renamed = self.folder.store().rename(&from, &to).await;
            renamed.map_err(|source| self.error(&to, source))?;
        }
        let kept: BTreeSet<Path> =
            self.written.iter().map(|file| file.location(&self.folder)).collect();
        for path in self.of_run(run).await? {
            if self.file.is_some() || !kept.contains(&path) {
                self.delete(&path).await?;
            }
        }
        for path in self.replaced.iter().filter(|_| self.file.is_none()) {
            self.delete(path).await?;
        }
        Ok(())
    }

    /// Deletes all that the run has written.
    pub async fn discard(&self, run: &str) -> Result<()> {
        for path in self.of_run(run).await? {
            self.delete(&path).await?;
        }
        Ok(())
    }

    async fn of_run(&self, run: &str) -> Result<Vec<Path>> {
        let prefix = file_prefix(&self.tag(run));
        let objects = match &self.file {
            None => self.folder.list().await?,
            // There can be much in the folders beside it.
            Some(_) => {
                let root = self.folder.path("");
                let listed = self.folder.store().list_with_delimiter(Some(&root)).await;
                listed.map_err(|source| self.error(&root, source))?.objects
            }
        };
        let paths = objects.into_iter().map(|object| object.location);
        Ok(paths
            .filter(|path| path.filename().is_some_and(|name| name.starts_with(&prefix)))
            .collect())
    }

    /// Deletes a file, and on a file system the folders that have nothing in them without it.
    async fn delete(&self, path: &Path) -> Result<()> {
        match self.folder.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(self.error(path, source)),
        }
        let Some(root) = self.folder.local_path() else { return Ok(()) };
        let mut folder = std::path::PathBuf::from(format!("/{path}"));
        // `remove_dir` refuses a folder that has something in it, which ends the walk upwards.
        while folder.pop() && folder.starts_with(&root) && std::fs::remove_dir(&folder).is_ok() {}
        Ok(())
    }

    fn error(&self, path: &Path, source: object_store::Error) -> CatalogError {
        CatalogError::Store { url: format!("/{path}"), source }
    }
}

/// A location as people write it.
fn shown(url: &Url) -> String {
    let path = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    path.map_or_else(|| url.to_string(), |path| path.display().to_string())
}
