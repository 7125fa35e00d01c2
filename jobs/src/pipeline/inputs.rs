//! The inputs of a deployed pipeline: files of its folder, kept in the warehouse with it, where every executor finds
//! them.

use super::{Given, Pipeline, Source};
use crate::{JobError, Result};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::CatalogError;
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;
use object_store::buffered::BufWriter;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// The folder of inputs within the warehouse.
const KEPT: &str = "_nightshift/inputs";

/// What is written when all files are there: what was only copied in part is copied again.
const COMPLETE: &str = "_complete";

/// How much of a file is read at a time.
const PIECE: u64 = 8 << 20;

/// How long ago inputs must have been copied that are deleted.
const OLD: TimeDelta = TimeDelta::days(7);

impl Pipeline {
    /// The same pipeline with its inputs in the warehouse. Inputs that are there already are not copied again.
    ///
    /// # Errors
    /// If one can't be read.
    pub async fn with_kept_inputs(&self, warehouse: &Warehouse) -> Result<Self> {
        let mut files = Vec::new();
        for input in &self.settings().inputs {
            add_files(self.folder(), input, &mut files).map_err(|reason| JobError::Pipeline {
                folder: self.folder().display().to_string(),
                reason: format!("the input {}: {reason}", input.display()),
            })?;
        }
        if files.is_empty() {
            return Ok(self.clone());
        }
        files.sort();
        let name = self.name_of(&files)?;
        let kept = warehouse.storage().folder(&format!("{KEPT}/{name}"));
        if !kept.exists(COMPLETE).await? {
            for file in &files {
                self.copy(file, &kept).await?;
            }
        }
        // Written again when it is there, so that nobody takes inputs that are needed again for old ones.
        kept.put(COMPLETE, Bytes::new()).await?;
        let name = Some(self.name());
        let source = Source { folder: location(&kept), name, files: self.source().files.clone() };
        Self::of(source, &Given::Recorded(self.values().clone()))
    }

    /// Copies a file into a folder, piece by piece.
    async fn copy(&self, file: &Path, folder: &Storage) -> Result<()> {
        let wrong = |error: std::io::Error| self.wrong(file, &error);
        let mut read = File::open(self.folder().join(file)).map_err(wrong)?;
        let name = slashed(file);
        let mut writer = BufWriter::new(Arc::clone(folder.store()), folder.path(&name));
        loop {
            let mut piece = Vec::new();
            let mut next = (&mut read).take(PIECE);
            if next.read_to_end(&mut piece).map_err(wrong)? == 0 {
                break;
            }
            if let Err(source) = writer.put(Bytes::from(piece)).await {
                let url = format!("{}{name}", folder.url());
                return Err(CatalogError::Store { url, source }.into());
            }
        }
        let written = writer.shutdown().await;
        written.map_err(|error| CatalogError::Io(error).into())
    }

    /// A name that says what the inputs are.
    fn name_of(&self, files: &[PathBuf]) -> Result<String> {
        let mut all = blake3::Hasher::new();
        for file in files {
            let mut one = blake3::Hasher::new();
            let read = File::open(self.folder().join(file));
            let read = read.and_then(|read| one.update_reader(read).map(drop));
            read.map_err(|error| self.wrong(file, &error))?;
            all.update(slashed(file).as_bytes()).update(one.finalize().as_bytes());
        }
        Ok(all.finalize().to_hex().to_string())
    }

    fn wrong(&self, file: &Path, error: &std::io::Error) -> JobError {
        let folder = self.folder().display().to_string();
        JobError::Pipeline { folder, reason: format!("{}: {error}", file.display()) }
    }
}

/// Deletes inputs that none of these texts reads, and that were not copied lately. Returns how many there were.
///
/// # Errors
/// If one of the texts can't be read: then nothing is known of what it needs.
pub async fn forget_inputs(
    warehouse: &Warehouse,
    sources: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> Result<usize> {
    let all = warehouse.storage().folder(KEPT);
    let mut needed = BTreeSet::new();
    for source in sources {
        // The name alone: the warehouse can have other addresses.
        let folder = Source::kept(warehouse, source).await?.folder;
        needed.extend(folder.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    let mut forgotten = 0;
    for name in all.folders().await? {
        let folder = all.folder(&name);
        if needed.contains(&name) {
            continue;
        }
        let newest = folder.list().await?.into_iter().map(|object| object.last_modified).max();
        if newest.is_some_and(|newest| now - newest > OLD) {
            tracing::info!(inputs = name, "inputs that no pipeline needs are deleted");
            folder.delete_all().await?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// A folder of the warehouse as relative locations are relative to it.
fn location(folder: &Storage) -> PathBuf {
    folder.local_path().unwrap_or_else(|| PathBuf::from(folder.url().as_str()))
}

fn slashed(path: &Path) -> String {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts.collect::<Vec<_>>().join("/")
}

/// Adds a file, or all files of a folder.
fn add_files(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    if path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("it has to be within the folder".to_string());
    }
    let whole = root.join(path);
    if !whole.is_dir() {
        if !whole.is_file() {
            return Err("there is no such file".to_string());
        }
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in std::fs::read_dir(&whole).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        add_files(root, &path.join(name), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_catalog::storage::Stores;
    use url::Url;

    #[tokio::test]
    async fn inputs_are_copied_once_and_known_by_their_contents() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path().join("w")).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let p = folder.path().join("p");
        std::fs::create_dir_all(p.join("data/logs")).unwrap();
        std::fs::write(p.join("a.sql"), "CREATE TABLE x.a AS SELECT 1 AS y").unwrap();
        std::fs::write(p.join("pipeline.toml"), "inputs = ['data/a.csv', 'data/logs']").unwrap();
        std::fs::write(p.join("data/a.csv"), "1").unwrap();
        std::fs::write(p.join("data/logs/b.csv"), "2").unwrap();
        let kept = Pipeline::read(&p).unwrap().with_kept_inputs(&warehouse).await.unwrap();
        assert_eq!(std::fs::read(kept.folder().join("data/a.csv")).unwrap(), b"1");
        assert_eq!(std::fs::read(kept.folder().join("data/logs/b.csv")).unwrap(), b"2");
        assert!(kept.folder().starts_with(folder.path().join("w/_nightshift/inputs")));
        let again = Pipeline::read(&p).unwrap().with_kept_inputs(&warehouse).await.unwrap();
        assert_eq!(again.folder(), kept.folder());
        std::fs::write(p.join("data/logs/b.csv"), "3").unwrap();
        let other = Pipeline::read(&p).unwrap().with_kept_inputs(&warehouse).await.unwrap();
        assert_ne!(other.folder(), kept.folder());

        let needed = BTreeSet::from([other.source().keep(&warehouse).await.unwrap()]);
        let (soon, later) = (Utc::now() + TimeDelta::days(6), Utc::now() + TimeDelta::days(8));
        assert_eq!(forget_inputs(&warehouse, &needed, soon).await.unwrap(), 0);
        assert_eq!(forget_inputs(&warehouse, &needed, later).await.unwrap(), 1);
        assert!(!kept.folder().exists() && other.folder().join("data/a.csv").exists());

        std::fs::write(p.join("pipeline.toml"), "inputs = ['../w']").unwrap();
        let outside = Pipeline::read(&p).unwrap().with_kept_inputs(&warehouse).await;
        assert!(outside.unwrap_err().to_string().contains("within the folder"));
    }
}
