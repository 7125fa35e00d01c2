//! The text of a pipeline, as it is in a folder and as it is kept in the warehouse.

use super::Settings;
use crate::{JobError, Result};
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file that says what is not in statements.
pub(super) const SETTINGS: &str = "pipeline.toml";

/// What the names of checks begin with.
pub(super) const CHECKS: &str = "checks/";

/// The folder of texts within the warehouse.
const KEPT: &str = "_nightshift/sources";

/// How many days a text is kept after the last run of it has begun.
pub const TEXT_DAYS: i64 = 90;

/// How long ago a text can have been written that is used again and not written again.
const FRESH: TimeDelta = TimeDelta::days(1);

/// How long ago a text must have been written that is deleted: its last run may have found it fresh.
const OLD: TimeDelta = TimeDelta::days(TEXT_DAYS + 1);

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

    /// Keeps the text in the warehouse, under a name that says what it is: the same text is kept once. It stays for
    /// long from now on, so that there is time to write down what needs it.
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
        // Written again when it is there, so that nobody takes a text that is needed again for an old one.
        let written_at = folder.written_at(&object(&name)).await?;
        if written_at.is_none_or(|written_at| Utc::now() - written_at > FRESH) {
            folder.put(&object(&name), text).await?;
        }
        Ok(name)
    }

    /// Whether a text is still kept.
    pub async fn is_kept(warehouse: &Warehouse, name: &str) -> Result<bool> {
        Ok(warehouse.storage().folder(KEPT).exists(&object(name)).await?)
    }

    /// Whether the folder still has this text. A folder that somebody else names in the warehouse is none that may be
    /// read from.
    pub fn is_in_its_folder(&self) -> bool {
        Self::read(&self.folder).is_ok_and(|there| there.files == self.files)
    }

    /// A text that was kept.
    ///
    /// # Errors
    /// [`JobError::NotKept`] if it is no longer.
    pub async fn kept(warehouse: &Warehouse, name: &str) -> Result<Self> {
        let text = match warehouse.storage().folder(KEPT).get(&object(name)).await {
            Err(error) if error.is_missing() => {
                return Err(JobError::NotKept { name: name.to_string() });
            }
            read => read?,
        };
        if blake3::hash(&text).to_hex().as_str() != name {
            return Err(damaged(name, &"its contents are not those that were kept"));
        }
        serde_json::from_slice(&text).map_err(|error| damaged(name, &error))
    }
}

/// Deletes texts that are not among those that are needed, and of which no run has begun for long. Returns how many
/// there were.
///
/// # Errors
/// If the store can't be reached.
pub async fn forget_texts(
    warehouse: &Warehouse,
    needed: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> Result<usize> {
    let folder = warehouse.storage().folder(KEPT);
    let is_old = |written_at: DateTime<Utc>| now - written_at > OLD;
    let mut forgotten = 0;
    for text in folder.list().await? {
        let Some(file) = text.location.filename() else { continue };
        let Some(name) = file.strip_suffix(SUFFIX) else { continue };
        if needed.contains(name) || !is_old(text.last_modified) {
            continue;
        }
        // Somebody may have begun to use it since the texts were listed.
        if folder.written_at(file).await?.is_some_and(is_old) {
            tracing::info!(text = name, "a text that no run has used for long is deleted");
            folder.delete(file).await?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// What the name of a kept text ends with.
const SUFFIX: &str = ".json";

fn object(name: &str) -> String {
    format!("{name}{SUFFIX}")
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
    use std::fs::File;
    use std::time::{Duration, SystemTime};
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

    #[tokio::test]
    async fn a_text_is_deleted_long_after_its_last_run_unless_it_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let text = |name: &str| Source {
            folder: folder.path().to_path_buf(),
            name: Some(name.to_string()),
            files: BTreeMap::new(),
        };
        let (used, unused) = (text("used"), text("unused"));
        let needed = BTreeSet::from([used.keep(&warehouse).await.unwrap()]);
        let name = unused.keep(&warehouse).await.unwrap();
        let in_days = |days: i64| Utc::now() + TimeDelta::days(days);
        assert_eq!(forget_texts(&warehouse, &needed, in_days(TEXT_DAYS)).await.unwrap(), 0);

        // A run that is just about to begin, and is not written down yet, finds it as old as it can be.
        let file = folder.path().join(KEPT).join(object(&name));
        let age = |days: u64| {
            let written_at = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
            File::options().write(true).open(&file).unwrap().set_modified(written_at).unwrap();
        };
        age(100);
        assert_eq!(unused.keep(&warehouse).await.unwrap(), name);
        assert_eq!(forget_texts(&warehouse, &needed, Utc::now()).await.unwrap(), 0);
        assert_eq!(forget_texts(&warehouse, &needed, in_days(TEXT_DAYS)).await.unwrap(), 0);
        assert!(Source::is_kept(&warehouse, &name).await.unwrap());

        age(100);
        assert_eq!(forget_texts(&warehouse, &needed, Utc::now()).await.unwrap(), 1);
        assert!(!Source::is_kept(&warehouse, &name).await.unwrap());
        let error = Source::kept(&warehouse, &name).await.unwrap_err();
        assert!(matches!(error, JobError::NotKept { .. }) && !error.can_pass(), "{error}");
        assert!(error.to_string().contains("for 90 days after their last run"), "{error}");
        assert_eq!(forget_texts(&warehouse, &needed, in_days(365)).await.unwrap(), 0);
        for name in &needed {
            assert_eq!(Source::kept(&warehouse, name).await.unwrap(), used);
        }
        assert_eq!(unused.keep(&warehouse).await.unwrap(), name);
        assert_eq!(Source::kept(&warehouse, &name).await.unwrap(), unused);
    }
}
