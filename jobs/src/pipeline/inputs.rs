//! The inputs of a deployed pipeline: files of its folder, kept in the warehouse with it, where every executor finds
//! them.

use super::{Given, Pipeline, Source};
use crate::{JobError, Result};
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder of inputs within the warehouse.
const KEPT: &str = "_nightshift/inputs";

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
        // Written last, so that what was only copied in part is copied again.
        let complete = "_complete";
        if !kept.exists(complete).await? {
            for file in &files {
                let bytes =
                    std::fs::read(self.folder().join(file)).map_err(|e| self.wrong(file, &e))?;
                kept.put(&slashed(file), bytes).await?;
            }
            kept.put(complete, bytes::Bytes::new()).await?;
        }
        let name = Some(self.name());
        let source = Source { folder: location(&kept), name, files: self.source().files.clone() };
        Self::of(source, &Given::Recorded(self.values().clone()))
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

        std::fs::write(p.join("pipeline.toml"), "inputs = ['../w']").unwrap();
        let outside = Pipeline::read(&p).unwrap().with_kept_inputs(&warehouse).await;
        assert!(outside.unwrap_err().to_string().contains("within the folder"));
    }
}
