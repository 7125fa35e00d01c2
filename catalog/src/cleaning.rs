//! What no version needs any more: files of versions that were replaced, of tables and models that were dropped, and of
//! runs that never came to their end; and what logs have of versions of long ago.

use crate::Result;
use crate::delta;
use crate::registry::{Entry, FOLDER, Kind, Registry};
use crate::warehouse::{Name, Warehouse, run_mark};
use crate::write::run_of_file;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// How many days a version stays in its table's log after it was replaced, as Delta tables have it by default.
pub const LOG_DAYS: i64 = 30;

/// How long files of the registry stay after they were replaced, at least: whoever reads anything reads them.
const REGISTRY_KEPT: TimeDelta = TimeDelta::days(7);

/// How long before its commit a file of the registry can have been written.
const UNCOMMITTED: TimeDelta = TimeDelta::days(1);

/// Files of a table that can be deleted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cleaning {
    /// The table's folder within the warehouse.
    pub folder: String,
    /// Their paths within it.
    pub files: Vec<String>,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Warehouse {
    /// The files that belong to no version which is published, or was in the last `retain_hours`, and
    /// to no run that is under way: those of one table, or of all tables, of the models and tables
    /// that were dropped, and of the registry. Logs stay, so that a name can be used again. Of a table that can't be read
    /// there is what is wrong with it.
    pub async fn unneeded(
        &self,
        name: Option<&Name>,
        retain_hours: u64,
    ) -> Result<Vec<Result<Cleaning>>> {
        loop {
            let registry = self.registry().await?;
            let found = self.unneeded_by(&registry, name, retain_hours).await?;
            // A run that was under way when the files were listed may have been published since.
            if self.registry().await?.publication() == registry.publication() {
                return Ok(found);
            }
        }
    }

    async fn unneeded_by(
        &self,
        registry: &Registry,
        name: Option<&Name>,
        retain_hours: u64,
    ) -> Result<Vec<Result<Cleaning>>> {
        let (now, hours) = (Utc::now(), i64::try_from(retain_hours).unwrap_or(i64::MAX));
        let retained = TimeDelta::try_hours(hours).and_then(|hours| now.checked_sub_signed(hours));
        let retained = retained.unwrap_or(DateTime::<Utc>::MIN_UTC);
        let mut folders = folders(registry, retained.timestamp_micros());
        let of_registry = retained.min(now - REGISTRY_KEPT);
        if name.is_none() {
            let versions = self.registry_versions(registry, of_registry).await?;
            folders.insert(FOLDER.to_string(), versions);
        }
        let written_before = of_registry.checked_sub_signed(UNCOMMITTED);
        let written_before = written_before.unwrap_or(DateTime::<Utc>::MIN_UTC);
        let mut open_runs: BTreeMap<String, bool> = BTreeMap::new();
        let mut cleanings = Vec::new();
        for folder in folders.keys() {
            if name.is_some_and(|name| *folder != Self::table_folder(name)) {
                continue;
            }
            let written_before = (folder == FOLDER).then_some(written_before);
            match self.unneeded_in(folder, &folders, written_before, &mut open_runs).await {
                Ok(cleaning) if cleaning.files.is_empty() => {}
                Err(error) if error.can_pass() => return Err(error),
                cleaning => cleanings.push(cleaning),
            }
        }
        Ok(cleanings)
    }

    /// The files in one of `folders` that belong to none of its versions, and to no run that is under way. If a moment is
    /// given, those that were written since and by no run are kept: somebody may be about to commit them.
    async fn unneeded_in(
        &self,
        folder: &str,
        folders: &BTreeMap<String, BTreeSet<u64>>,
        written_before: Option<DateTime<Utc>>,
        open_runs: &mut BTreeMap<String, bool>,
    ) -> Result<Cleaning> {
        let mut needed = BTreeSet::new();
        for version in folders.get(folder).into_iter().flatten() {
            let snapshot = self.snapshot(folder, *version).await?;
            needed.extend(snapshot.contents.files.iter().map(|file| file.path.clone()));
        }
        let storage = self.storage().folder(folder);
        let root = storage.path("");
        let mut cleaning = Cleaning { folder: folder.to_string(), ..Cleaning::default() };
        for object in storage.list().await? {
            let parts = object.location.prefix_match(&root).into_iter().flatten();
            let path = parts.map(|part| part.as_ref().to_string()).collect::<Vec<_>>().join("/");
            // A model's tables are in folders within that of a table of the same name.
            let others = folders.keys().filter_map(|other| other.strip_prefix(folder));
            let of_other = |other: &str| {
                other.strip_prefix('/').is_some_and(|other| path.starts_with(&format!("{other}/")))
            };
            if path.starts_with("_delta_log/")
                || needed.contains(&path)
                || others.into_iter().any(of_other)
            {
                continue;
            }
            // What a run has written is in no version until it is published.
            if let Some(run) = run_of_file(&path) {
                let open = match open_runs.get(run) {
                    Some(open) => *open,
                    None => {
                        let open = self.storage().exists(&run_mark(run)).await?;
                        open_runs.insert(run.to_string(), open);
                        open
                    }
                };
                if open {
                    continue;
                }
            } else if written_before.is_some_and(|before| object.last_modified >= before) {
                continue;
            }
            cleaning.bytes += object.size;
            cleaning.files.push(path);
        }
        Ok(cleaning)
    }

    /// The version of the registry that was the current one at a moment, and the one that is it now. Files of versions
    /// between them belong to one of the two, or were written since.
    async fn registry_versions(
        &self,
        registry: &Registry,
        moment: DateTime<Utc>,
    ) -> Result<BTreeSet<u64>> {
        let then = delta::version_at(&self.storage().folder(FOLDER), moment).await?;
        Ok(then.into_iter().chain(registry.version()).collect())
    }

    /// Deletes what the logs of all tables and of the registry have of versions that were replaced more than
    /// [`LOG_DAYS`] ago. A model's versions can be read until it is dropped, so nothing of its tables' logs is deleted
    /// before. Returns how many objects there were.
    pub async fn shorten_logs(&self, now: DateTime<Utc>) -> Result<usize> {
        let before = now - TimeDelta::days(LOG_DAYS);
        let registry = self.registry().await?;
        let mut logs = folders(&registry, before.timestamp_micros());
        logs.insert(FOLDER.to_string(), self.registry_versions(&registry, before).await?);
        let mut deleted = 0;
        for (folder, versions) in logs {
            // A dropped table's log goes on where it ends when its name is used again.
            let oldest = versions.first().copied().unwrap_or(u64::MAX);
            match delta::shorten(&self.storage().folder(&folder), oldest, before).await {
                Ok(objects) => deleted += objects,
                Err(error) if error.can_pass() => return Err(error),
                // One that can't be read holds up no others.
                Err(error) => {
                    tracing::error!(folder, %error, "the log of a table is not shortened");
                }
            }
        }
        Ok(deleted)
    }

    /// Deletes files of a table.
    pub async fn clean(&self, cleaning: &Cleaning) -> Result<()> {
        let folder = self.storage().folder(&cleaning.folder);
        for file in &cleaning.files {
            folder.delete(file).await?;
        }
        Ok(())
    }
}

/// The folders of all tables that there are or were, with the versions that somebody may read:
/// tables' current ones and those that were replaced after `retained`, in microseconds since 1970; of
/// models all to which one can go back.
fn folders(registry: &Registry, retained: i64) -> BTreeMap<String, BTreeSet<u64>> {
    let mut by_name: BTreeMap<(Kind, &str), Vec<&Entry>> = BTreeMap::new();
    for entry in registry.entries() {
        by_name.entry((entry.kind, &entry.name)).or_default().push(entry);
    }
    let mut folders: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for ((kind, name), rows) in by_name {
        let folder = name.replacen('.', "/", 1);
        for (at, entry) in rows.iter().enumerate() {
            let next = match kind {
                Kind::Table => rows.get(at + 1),
                // A model's versions stay until it is dropped.
                _ => rows[at + 1..].iter().find(|next| next.dropped),
            };
            let readable = !entry.dropped && next.is_none_or(|next| next.published_at >= retained);
            let tables: Vec<(String, u64)> = match kind {
                Kind::Table => vec![(folder.clone(), entry.version)],
                Kind::Model => {
                    let tables = entry.tables.iter();
                    tables.map(|(table, version)| (format!("{folder}/{table}"), *version)).collect()
                }
                Kind::Schema | Kind::View => Vec::new(),
            };
            for (folder, version) in tables {
                let versions = folders.entry(folder).or_default();
                if readable {
                    versions.insert(version);
                }
            }
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CatalogError;
    use crate::delta::{CommitNote, Contents, DataFile};
    use crate::registry::{Change, MOST_FILES, NewEntry};
    use crate::storage::{Storage, Stores};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;
    use url::Url;

    const WEEK: u64 = 168;

    fn warehouse(folder: &tempfile::TempDir) -> Warehouse {
        let url = Url::from_file_path(folder.path()).unwrap();
        Warehouse::open(&url, &Stores::default()).unwrap()
    }

    /// Makes everything in a folder older.
    fn age(folder: &Path, days: u64) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                age(&path, days);
                continue;
            }
            let file = File::options().write(true).open(&path).unwrap();
            let written_at = file.metadata().unwrap().modified().unwrap();
            file.set_modified(written_at - Duration::from_secs(days * 24 * 3600)).unwrap();
        }
    }

    async fn publish(warehouse: &Warehouse, run: u64, changes: &[(Kind, &str, Change)]) {
        let entry = |(kind, name, change): &(Kind, &str, Change)| NewEntry {
            kind: *kind,
            name: name.to_string(),
            change: change.clone(),
            base: None,
        };
        let entries: Vec<_> = changes.iter().map(entry).collect();
        Registry::publish(warehouse.storage(), &format!("r{run}"), &entries).await.unwrap();
    }

    async fn commit(table: &Storage, file: u64) -> u64 {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        let file = DataFile {
            path: format!("file-{file}"),
            bytes: 1,
            rows: Some(1),
            stats: None,
            written_at: 1,
            partition: BTreeMap::new(),
        };
        let contents = Contents::plain(Arc::new(schema), vec![file]);
        let note = CommitNote::default();
        delta::commit(table, &contents, &note, None).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn files_of_the_registry_go_when_no_version_of_the_last_week_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let registry = warehouse.storage().folder(FOLDER);
        let new = || [(Kind::Schema, "x", Change::New(BTreeMap::new(), None))];
        let unneeded = async |hours| {
            let found = warehouse.unneeded(None, hours).await.unwrap();
            found.into_iter().collect::<Result<Vec<_>>>().unwrap()
        };
        // All rows are written into one file, and 7 more follow.
        let most = MOST_FILES as u64;
        for run in 1..=most + 8 {
            publish(&warehouse, run, &new()).await;
        }
        registry.put("part-left.parquet", "x").await.unwrap();
        assert!(unneeded(0).await.is_empty());
        age(&folder.path().join(FOLDER), 20);
        // That becomes another file, and one more follows.
        for run in most + 9..=2 * most + 2 {
            publish(&warehouse, run, &new()).await;
        }
        registry.put("part-new.parquet", "x").await.unwrap();
        let found = unneeded(WEEK).await;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].folder.as_str(), found[0].files.len()), (FOLDER, MOST_FILES + 1));
        assert!(found[0].files.iter().any(|file| file == "part-left.parquet"));
        assert_eq!(unneeded(0).await, found);
        let name = Name::new("a", "t").unwrap();
        assert!(warehouse.unneeded(Some(&name), 0).await.unwrap().is_empty());
        warehouse.clean(&found[0]).await.unwrap();
        assert!(unneeded(WEEK).await.is_empty());

        // Whoever has read the registry a week ago, or since, still finds its files.
        for version in most + 7..=2 * most + 1 {
            let snapshot = delta::load(&registry, Some(version)).await.unwrap().unwrap();
            for file in &snapshot.contents.files {
                assert!(registry.exists(&file.path).await.unwrap(), "{version}: {}", file.path);
            }
        }
        let entries = Registry::load(warehouse.storage()).await.unwrap().entries().len();
        assert_eq!(entries, 2 * MOST_FILES + 2);
        assert!(registry.exists("part-new.parquet").await.unwrap());
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_read_holds_up_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        for (run, name) in ["a.damaged", "a.t"].into_iter().enumerate() {
            let table = warehouse.storage().folder(&name.replacen('.', "/", 1));
            let version = commit(&table, 1).await;
            table.put("part-left.parquet", "x").await.unwrap();
            publish(&warehouse, run as u64, &[(Kind::Table, name, Change::Table(version))]).await;
        }
        let log = "a/damaged/_delta_log/00000000000000000000.json";
        warehouse.storage().put(log, "{").await.unwrap();
        let found = warehouse.unneeded(None, WEEK).await.unwrap();
        let [Err(error), Ok(cleaning)] = found.as_slice() else { panic!("{found:?}") };
        assert!(error.to_string().contains("/a/damaged/"), "{error}");
        assert_eq!((cleaning.folder.as_str(), cleaning.files.len()), ("a/t", 1));
    }

    #[tokio::test]
    async fn logs_keep_what_is_read_and_what_was_replaced_lately() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let table = warehouse.storage().folder("a/t");
        let factors = warehouse.storage().folder("a/m/factors");
        let mut middle = Utc::now();
        for night in 0..25 {
            if night == 13 {
                // The times of files can be some milliseconds behind.
                tokio::time::sleep(Duration::from_millis(50)).await;
                middle = Utc::now();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let version = commit(&table, night).await;
            let tables = BTreeMap::from([("factors".to_string(), commit(&factors, night).await)]);
            let changes = [
                (Kind::Table, "a.t", Change::Table(version)),
                (Kind::Model, "a.m", Change::New(tables, None)),
            ];
            publish(&warehouse, night, &changes).await;
        }
        let kept = TimeDelta::days(LOG_DAYS);
        assert_eq!(warehouse.shorten_logs(Utc::now()).await.unwrap(), 0);
        // Version 12 was replaced since then, and is read from checkpoint 10: commits before that go.
        assert_eq!(warehouse.shorten_logs(middle + kept).await.unwrap(), 2 * 10);
        for version in 10..25 {
            let snapshot = delta::load(&table, Some(version)).await.unwrap().unwrap();
            assert_eq!(snapshot.contents.files[0].path, format!("file-{version}"));
        }
        // Only the last version is left to be read: of the table 10 commits go, and a checkpoint; nothing of the model.
        let later = Utc::now() + kept + TimeDelta::days(10);
        assert_eq!(warehouse.shorten_logs(later).await.unwrap(), 2 * 11);
        assert_eq!(warehouse.shorten_logs(later).await.unwrap(), 0);
        for version in [0, 12, 24] {
            let snapshot = warehouse.snapshot("a/m/factors", version).await.unwrap();
            assert_eq!(snapshot.contents.files[0].path, format!("file-{version}"));
        }
        assert_eq!(warehouse.snapshot("a/t", 24).await.unwrap().version, 24);
        let gone = warehouse.snapshot("a/t", 12).await.unwrap_err();
        assert!(matches!(gone, CatalogError::NotKept { version: 12, .. }), "{gone}");
        assert!(gone.to_string().contains("for 30 days"), "{gone}");
        assert_eq!(Registry::load(warehouse.storage()).await.unwrap().entries().len(), 50);

        // Nobody can read a model that was dropped; its name can be used again.
        publish(&warehouse, 25, &[(Kind::Model, "a.m", Change::Drop)]).await;
        assert_eq!(warehouse.shorten_logs(later).await.unwrap(), 21);
        assert_eq!(commit(&factors, 25).await, 25);
    }
}
