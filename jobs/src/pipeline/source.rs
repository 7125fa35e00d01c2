//! The text of a pipeline, as it is in a folder and as it is kept in the warehouse.

use super::Settings;
use crate::{JobError, Result};
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that says what is not in statements.
pub(super) const SETTINGS: &str = "pipeline.toml";

/// What the names of checks begin with.
pub(super) const CHECKS: &str = "checks/";

/// The folder of texts within the warehouse.
const KEPT: &str = "_nightshift/sources";

/// All that a pipeline consists of, besides the data that it reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The folder that it was read from, or its inputs were copied to, which relative locations are relative to.
    pub folder: PathBuf,
    /// The name that it has if `pipeline.toml` says none and the folder's is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// The files by their names within the folder.
    pub(super) files: BTreeMap<String, String>,
}

impl Source {
    /// Reads a folder.
    ///
    /// # Errors
    /// If there is none, or a file can't be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let error =
            |reason: String| JobError::Pipeline { folder: folder.display().to_string(), reason };
        if !folder.is_dir() {
            return Err(error("there is no such folder".to_string()));
        }
        let mut files = BTreeMap::new();
        match std::fs::read_to_string(folder.join(SETTINGS)) {
            Ok(text) => drop(files.insert(SETTINGS.to_string(), text)),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
            Err(wrong) => return Err(error(format!("{SETTINGS}: {wrong}"))),
        }
        add_statements(folder, "", &mut files).map_err(error)?;
        add_statements(&folder.join(CHECKS), CHECKS, &mut files).map_err(error)?;
        Ok(Self { folder: folder.to_path_buf(), name: None, files })
    }

    /// The name of a pipeline of these settings.
    pub(super) fn name(&self, settings: &Settings) -> String {
        let folder = || self.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = settings.name.clone().or_else(|| self.name.clone());
        name.or_else(folder).unwrap_or_else(|| "pipeline".to_string())
    }

    /// The text of `pipeline.toml`, if there is one.
    pub(super) fn settings(&self) -> Option<&str> {
        self.files.get(SETTINGS).map(String::as_str)
    }

    /// Whether its folder is one of a store, by its URL.
    pub(super) fn is_in_a_store(&self) -> bool {
        self.folder.to_string_lossy().contains("://")
    }

    /// The files of statements by their names.
    pub(super) fn statements(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter().filter(|(name, _)| *name != SETTINGS);
        files.map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Keeps the text in the warehouse, under a name that says what it is: the same text is kept once.
    pub async fn keep(&self, warehouse: &Warehouse) -> Result<String> {
        // A process that runs it again may have another current folder.
        let folder = match std::path::absolute(&self.folder) {
            Ok(folder) if !self.is_in_a_store() => folder,
            _ => self.folder.clone(),
        };
        let text = serde_json::to_vec(&Self { folder, ..self.clone() });
        let text = text.map_err(|error| damaged("it", &error))?;
        let name = blake3::hash(&text).to_hex().to_string();
        let folder = warehouse.storage().folder(KEPT);
        if !folder.exists(&object(&name)).await? {
            folder.put(&object(&name), text).await?;
        }
        Ok(name)
    }

    /// Whether the folder still has this text. A folder that somebody else names in the warehouse is none that may be
    /// read from.
    pub fn is_in_its_folder(&self) -> bool {
        Self::read(&self.folder).is_ok_and(|there| there.files == self.files)
    }

    /// A text that was kept.
    pub async fn kept(warehouse: &Warehouse, name: &str) -> Result<Self> {
        let text = warehouse.storage().folder(KEPT).get(&object(name)).await?;
        if blake3::hash(&text).to_hex().as_str() != name {
            return Err(damaged(name, &"its contents are not those that were kept"));
        }
        serde_json::from_slice(&text).map_err(|error| damaged(name, &error))
    }
}

fn object(name: &str) -> String {
    format!("{name}.json")
}

fn damaged(name: &str, reason: &dyn std::fmt::Display) -> JobError {
    JobError::Damaged {
        what: format!("the pipeline's text {KEPT}/{name}"),
        reason: reason.to_string(),
    }
}

/// Adds the `.sql` files of a folder, if there is one.
fn add_statements(
    folder: &Path,
    within: &str,
    files: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    if !folder.is_dir() {
        return Ok(());
    }
    let shown = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    for entry in std::fs::read_dir(folder).map_err(|error| shown(folder, error))? {
        let path = entry.map_err(|error| shown(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let text = std::fs::read_to_string(&path).map_err(|error| shown(&path, error))?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            files.insert(format!("{within}{}", name.unwrap_or_default()), text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_catalog::storage::Stores;
    use url::Url;

    #[tokio::test]
    async fn a_text_that_is_kept_is_the_one_that_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = folder.path().join("p");
        std::fs::create_dir_all(pipeline.join("checks")).unwrap();
        std::fs::write(pipeline.join("a.sql"), "CREATE TABLE x.a AS SELECT 1 AS y").unwrap();
        std::fs::write(pipeline.join("checks/k.sql"), "SELECT * FROM x.a WHERE false").unwrap();
        std::fs::write(pipeline.join("pipeline.toml"), "name = 'p'").unwrap();
        std::fs::write(pipeline.join("notes.txt"), "not read").unwrap();
        let source = Source::read(&pipeline).unwrap();
        assert_eq!(source.settings(), Some("name = 'p'"));
        let names: Vec<_> = source.statements().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.sql", "checks/k.sql"]);

        let url = Url::from_file_path(folder.path().join("w")).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let name = source.keep(&warehouse).await.unwrap();
        assert_eq!(source.keep(&warehouse).await.unwrap(), name);
        assert_eq!(Source::kept(&warehouse, &name).await.unwrap(), source);
        let file = folder.path().join(format!("w/{KEPT}/{name}.json"));
        std::fs::write(file, "{}").unwrap();
        let error = Source::kept(&warehouse, &name).await.unwrap_err().to_string();
        assert!(error.contains(&name), "{error}");
    }
}
