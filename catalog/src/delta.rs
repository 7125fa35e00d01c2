//! Snapshots and commits of one Delta table.
//!
//! The log is read by delta-rs. A commit is one object, created if absent under the next version
//! number: whoever comes second starts again from the new snapshot.

use crate::storage::Storage;
use crate::{CatalogError, Result};
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use deltalake_core::checkpoints::{cleanup_expired_logs_for, create_checkpoint};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::{Action, Add, Remove, StructType, new_metadata};
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// How often a commit is tried against other writers.
const ATTEMPTS: usize = 100;

/// Commits between two checkpoints of the log.
const CHECKPOINT_INTERVAL: u64 = 10;

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path within the table's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of rows, if whoever wrote the file has said it.
    pub rows: Option<u64>,
    /// Column statistics in Delta's JSON form.
    pub stats: Option<String>,
    /// When it was written, in milliseconds since 1970.
    pub written_at: i64,
    /// The values of the partition columns, the same in all rows, in Delta's text form. The columns
    /// are not in the file.
    #[serde(default)]
    pub partition: BTreeMap<String, Option<String>>,
}

impl DataFile {
    /// Where the file is on its store.
    pub fn location(&self, table: &Storage) -> Path {
        Self::located(&self.path, table)
    }

    /// Where the file of a path within a folder is on its store.
    pub fn located(path: &str, folder: &Storage) -> Path {
        // Names can have percent signs in them, which are not to be encoded again.
        let path = Path::parse(path).unwrap_or_else(|_| Path::from(path));
        folder.path("").parts().chain(path.parts()).collect()
    }
}

/// Everything that one version of a table consists of.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The columns; a comment on one is the entry `comment` of its metadata.
    pub schema: SchemaRef,
    /// Columns whose values are the same in all rows of a file, and recorded with it.
    pub partition_columns: Vec<String>,
    /// The comment on the table.
    pub description: Option<String>,
    /// The files that hold its rows, sorted by path.
    pub files: Vec<DataFile>,
}

impl Contents {
    /// A table without partitions and comments.
    pub fn plain(schema: SchemaRef, files: Vec<DataFile>) -> Self {
        Self { schema, partition_columns: Vec::new(), description: None, files }
    }

    /// Rows in all files, as far as it is known.
    pub fn rows(&self) -> u64 {
        self.files.iter().filter_map(|file| file.rows).sum()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A table at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The version.
    pub version: u64,
    /// What it consists of.
    pub contents: Contents,
}

/// What is said about a commit in the log.
#[derive(Debug, Clone, Default)]
pub struct CommitNote {
    /// The statement that is committed, such as `CREATE TABLE`.
    pub operation: String,
    /// The run that commits.
    pub run: String,
}

/// A commit of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The version that it made.
    pub version: u64,
    /// When, in milliseconds since 1970.
    pub at: Option<i64>,
    /// The statement.
    pub operation: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// The program that committed.
    pub engine: Option<String>,
}

/// Reads the table in a folder at a version, or at its latest; `None` if there is no table.
pub async fn load(table: &Storage, version: Option<u64>) -> Result<Option<Snapshot>> {
    match open(table, version).await? {
        Some(delta) => snapshot(table, &delta).map(Some),
        None => Ok(None),
    }
}

/// Whether the log of the table in a folder has a version.
pub async fn has_version(table: &Storage, version: u64) -> Result<bool> {
    table.exists(&format!("_delta_log/{version:020}.json")).await
}

/// The version that was the latest of the table in a folder at a moment, by the store's clock; `None` if the log doesn't
/// reach back so far.
pub async fn version_at(table: &Storage, moment: DateTime<Utc>) -> Result<Option<u64>> {
    let listed = table.folder("_delta_log").list().await?;
    let earlier = listed.iter().filter(|object| object.last_modified < moment);
    let names = earlier.filter_map(|object| object.location.filename());
    Ok(names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).max())
}

/// Deletes what the log of the table in a folder has of versions before `oldest`, as far as it was written before a
/// moment: nothing that the versions from `oldest` on, those that were committed since, or the latest are read from.
/// Returns how many objects there were.
pub async fn shorten(table: &Storage, oldest: u64, before: DateTime<Utc>) -> Result<usize> {
    // Delta's own function takes a log that can't be listed for one that is short.
    let listed = table.folder("_delta_log").list().await?;
    if !listed.iter().any(|object| object.last_modified < before) {
        return Ok(0);
    }
    let log = log_of(table);
    let deleted =
        cleanup_expired_logs_for(oldest, log.as_ref(), before.timestamp_millis(), None).await;
    deleted.map_err(|source| delta_error(table, source))
}

fn snapshot(table: &Storage, delta: &DeltaTable) -> Result<Snapshot> {
    let state = delta.snapshot().map_err(|source| delta_error(table, source))?;
    refuse_unsupported(table, delta)?;
    let metadata = state.metadata();
    let state = state.snapshot();
    let mut files = Vec::new();
    for view in state.log_data().iter() {
        if view.deletion_vector_descriptor().is_some() {
            return Err(unsupported(table, "deletion vectors"));
        }
        let path = view.path().into_owned();
        if path.contains("://") || path.starts_with('/') {
            return Err(unsupported(table, "files outside its folder"));
        }
        files.push(DataFile {
            path,
            bytes: view.size() as u64,
            rows: view.num_records().map(|rows| rows as u64),
            stats: view.stats(),
            written_at: view.modification_time(),
            partition: view.partition_values_map().into_iter().collect(),
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let contents = Contents {
        schema: state.arrow_schema(),
        partition_columns: metadata.partition_columns().to_vec(),
        description: metadata.description().map(str::to_string),
        files,
    };
    Ok(Snapshot { version: state.version(), contents })
}

async fn open(table: &Storage, version: Option<u64>) -> Result<Option<DeltaTable>> {
    if table.folder("_delta_log").list().await?.is_empty() {
        return Ok(None);
    }
    let mut delta = DeltaTable::new(log_of(table));
    let loaded = match version {
        Some(version) => delta.load_version(version).await,
        None => delta.load().await,
    };
    let Err(source) = loaded else { return Ok(Some(delta)) };
    if let Some(version) = version
        && !has_version(table, version).await?
    {
        return Err(CatalogError::NotKept { url: table.url().to_string(), version });
    }
    match source {
        DeltaTableError::NotATable(_) => Ok(None),
        source => Err(delta_error(table, source)),
    }
}

fn log_of(table: &Storage) -> LogStoreRef {
    let store = Arc::clone(table.store());
    let folder = Arc::new(PrefixStore::new(Arc::clone(&store), table.path("")));
    default_logstore(folder, store, table.url(), &StorageConfig::default())
}

fn delta_error(table: &Storage, source: DeltaTableError) -> CatalogError {
    CatalogError::Delta { url: table.url().to_string(), source: Box::new(source) }
}

fn unsupported(table: &Storage, feature: &str) -> CatalogError {
    CatalogError::Unsupported { url: table.url().to_string(), feature: feature.to_string() }
}

/// Our scan reads plain files: what would make it misread them is refused by name.
fn refuse_unsupported(table: &Storage, delta: &DeltaTable) -> Result<()> {
    let state = delta.snapshot().map_err(|source| delta_error(table, source))?;
    let (metadata, protocol) = (state.metadata(), state.protocol());
    let mapping = metadata.configuration().get("delta.columnMapping.mode");
    if mapping.is_some_and(|mode| mode != "none") {
        return Err(unsupported(table, "column mapping"));
    }
    // Features that change nothing for a reader of files that don't use them: each file with a
    // deletion vector is refused by itself, and mapped columns are refused above.
    let harmless = ["timestampNtz", "columnMapping", "deletionVectors", "vacuumProtocolCheck"];
    if let Some(features) = protocol.reader_features()
        && let Some(feature) =
            features.iter().find(|feature| !harmless.contains(&feature.to_string().as_str()))
    {
        return Err(unsupported(table, &format!("the feature {feature}")));
    }
    Ok(())
}

/// Makes `contents` the next version of the table and returns that version. The table is created if
/// need be; what is in its latest version and not in `contents` is removed. `expected` is the version
/// that `contents` was computed from, if it matters: then `None` is returned when another writer came
/// first.
pub async fn commit(
    table: &Storage,
    contents: &Contents,
    note: &CommitNote,
    expected: Option<Option<u64>>,
) -> Result<Option<u64>> {
    for _ in 0..ATTEMPTS {
        let current = open(table, None).await?;
        let version = current.as_ref().and_then(DeltaTable::version);
        if expected.is_some_and(|expected| expected != version) {
            return Ok(None);
        }
        let next = version.map_or(0, |version| version + 1);
        let actions = actions(table, current.as_ref(), contents, note)?;
        let mut lines = Vec::new();
        for action in &actions {
            lines.extend_from_slice(action.to_string().as_bytes());
            lines.push(b'\n');
        }
        if table.create(&format!("_delta_log/{next:020}.json"), lines).await? {
            if next > 0 && next % CHECKPOINT_INTERVAL == 0 {
                checkpoint(table, next).await;
            }
            return Ok(Some(next));
        }
        if expected.is_some() {
            return Ok(None);
        }
    }
    Err(CatalogError::Contention { url: table.url().to_string(), attempts: ATTEMPTS })
}

/// Shortens the log for readers. The commit stands without it, so a failure is only reported.
async fn checkpoint(table: &Storage, version: u64) {
    let made = async {
        let Some(delta) = open(table, Some(version)).await? else { return Ok(()) };
        let made = create_checkpoint(&delta, None).await;
        made.map_err(|source| delta_error(table, source))
    };
    if let Err(error) = made.await {
        tracing::warn!(table = %table.url(), version, %error, "no checkpoint of the log was made");
    }
}

/// What leads from the current version to `contents`.
fn actions(
    table: &Storage,
    current: Option<&DeltaTable>,
    contents: &Contents,
    note: &CommitNote,
) -> Result<Vec<Value>> {
    let value = |action: Action| {
        serde_json::to_value(action).map_err(|reason| CatalogError::Damaged {
            url: table.url().to_string(),
            reason: reason.to_string(),
        })
    };
    let now = Utc::now().timestamp_millis();
    let mut actions = vec![json!({"commitInfo": {
        "timestamp": now,
        "operation": note.operation,
        "operationParameters": {},
        "engineInfo": concat!("nightshift/", env!("CARGO_PKG_VERSION")),
        "runId": note.run,
        // No two commits have the same text, so a commit is known by it.
        "txnId": uuid::Uuid::now_v7().to_string(),
    }})];
    let old = current.map(|delta| snapshot(table, delta)).transpose()?;
    if old.is_none() {
        actions.push(json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}));
    }
    let old = old.map(|snapshot| snapshot.contents);
    let same_metadata = old.as_ref().is_some_and(|old| {
        (&old.schema, &old.partition_columns, &old.description)
            == (&contents.schema, &contents.partition_columns, &contents.description)
    });
    if !same_metadata {
        actions.push(metadata(table, current, contents, value)?);
    }
    let old_files = old.map(|old| old.files).unwrap_or_default();
    let (old_paths, new_paths) = (paths(&old_files), paths(&contents.files));
    for file in old_files.iter().filter(|file| !new_paths.contains(file.path.as_str())) {
        actions.push(value(Action::Remove(Remove {
            path: file.path.clone(),
            data_change: true,
            deletion_timestamp: Some(now),
            extended_file_metadata: Some(true),
            size: Some(file.bytes as i64),
            partition_values: Some(file.partition.clone().into_iter().collect()),
            ..Default::default()
        }))?);
    }
    for file in contents.files.iter().filter(|file| !old_paths.contains(file.path.as_str())) {
        actions.push(value(Action::Add(Add {
            path: file.path.clone(),
            size: file.bytes as i64,
            modification_time: file.written_at,
            data_change: true,
            stats: file.stats.clone(),
            partition_values: file.partition.clone().into_iter().collect(),
            ..Default::default()
        }))?);
    }
    Ok(actions)
}

fn paths(files: &[DataFile]) -> BTreeSet<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

fn metadata(
    table: &Storage,
    current: Option<&DeltaTable>,
    contents: &Contents,
    value: impl Fn(Action) -> Result<Value>,
) -> Result<Value> {
    let error = |source: DeltaTableError| delta_error(table, source);
    let structure: StructType = contents.schema.as_ref().try_into_kernel()?;
    let columns = &contents.partition_columns;
    let made = new_metadata(&structure, columns, HashMap::<String, String>::new());
    let mut metadata = value(Action::Metadata(made.map_err(|source| error(source.into()))?))?;
    metadata["metaData"]["description"] = json!(contents.description);
    if let Some(delta) = current {
        // A table keeps its identity when its contents and columns are replaced.
        let state = delta.snapshot().map_err(error)?;
        metadata["metaData"]["id"] = json!(state.metadata().id());
    }
    Ok(metadata)
}

/// The commits that are in the log, the latest first.
pub async fn history(table: &Storage) -> Result<Vec<Commit>> {
    let log = table.folder("_delta_log");
    let mut commits = Vec::new();
    for object in log.list().await? {
        let name = object.location.filename().unwrap_or_default();
        let Some(version) = name.strip_suffix(".json").and_then(|number| number.parse().ok())
        else {
            continue;
        };
        let text = log.get(name).await?;
        let lines = text.split(|byte| *byte == b'\n');
        let mut actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let info = actions.find_map(|mut action| action.get_mut("commitInfo").map(Value::take));
        let info = info.unwrap_or_default();
        let text = |name: &str| info[name].as_str().map(str::to_string);
        commits.push(Commit {
            version,
            at: info["timestamp"].as_i64(),
            operation: text("operation"),
            run: text("runId"),
            engine: text("engineInfo"),
        });
    }
    commits.sort_by_key(|commit| std::cmp::Reverse(commit.version));
    Ok(commits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};

    fn file(name: &str) -> DataFile {
        DataFile {
            path: name.to_string(),
            bytes: 10,
            rows: Some(3),
            stats: Some(r#"{"numRecords":3}"#.to_string()),
            written_at: 1,
            partition: BTreeMap::new(),
        }
    }

    fn contents(column: &str, files: &[&str]) -> Contents {
        let schema = Schema::new(vec![Field::new(column, DataType::Int64, true)]);
        Contents::plain(Arc::new(schema), files.iter().map(|name| file(name)).collect())
    }

    fn storage(folder: &tempfile::TempDir) -> Storage {
        let url = url::Url::from_file_path(folder.path()).unwrap();
        Storage::open(&url, &Default::default()).unwrap()
    }

    #[tokio::test]
    async fn versions_stay_readable_after_an_overwrite() {
        let folder = tempfile::tempdir().unwrap();
        let table = storage(&folder);
        assert!(load(&table, None).await.unwrap().is_none());
        let commit = async |operation: &str, contents: &Contents| {
            let note = CommitNote { operation: operation.to_string(), run: "r".to_string() };
            commit(&table, contents, &note, None).await.unwrap()
        };
        assert_eq!(commit("one", &contents("a", &["one"])).await, Some(0));
        assert_eq!(commit("two", &contents("a", &["one", "two"])).await, Some(1));
        assert_eq!(commit("three", &contents("b", &["three"])).await, Some(2));

        let latest = load(&table, None).await.unwrap().unwrap();
        assert_eq!((latest.version, &latest.contents), (2, &contents("b", &["three"])));
        let earlier = load(&table, Some(1)).await.unwrap().unwrap();
        assert_eq!(earlier.contents, contents("a", &["one", "two"]));
        let history = history(&table).await.unwrap();
        let operations: Vec<_> =
            history.iter().map(|c| (c.version, c.operation.as_deref().unwrap())).collect();
        assert_eq!(operations, [(2, "three"), (1, "two"), (0, "one")]);
        // What is there stays as it is.
        let log =
            std::fs::read_to_string(folder.path().join("_delta_log/00000000000000000001.json"));
        assert!(!log.unwrap().contains("\"one\""));
    }

    #[tokio::test]
    async fn partitions_and_comments_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let table = storage(&folder);
        let comment = [("comment".to_string(), "a day".to_string())].into();
        let fields = vec![
            Field::new("day", DataType::Date32, true).with_metadata(comment),
            Field::new("n", DataType::Int64, true),
        ];
        let partition = BTreeMap::from([("day".to_string(), Some("2026-11-22".to_string()))]);
        let missing = BTreeMap::from([("day".to_string(), None)]);
        let contents = Contents {
            schema: Arc::new(Schema::new(fields)),
            partition_columns: vec!["day".to_string()],
            description: Some("events".to_string()),
            files: vec![
                DataFile { partition, ..file("one") },
                DataFile { partition: missing, ..file("two") },
            ],
        };
        commit(&table, &contents, &CommitNote::default(), None).await.unwrap();
        assert_eq!(load(&table, None).await.unwrap().unwrap().contents, contents);
    }

    #[tokio::test]
    async fn a_commit_computed_from_an_old_version_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let table = storage(&folder);
        let commit = async |expected| {
            let contents = contents("a", &[]);
            commit(&table, &contents, &CommitNote::default(), Some(expected)).await.unwrap()
        };
        assert_eq!(commit(None).await, Some(0));
        assert_eq!(commit(None).await, None);
        assert_eq!(commit(Some(0)).await, Some(1));
    }

    #[tokio::test]
    async fn a_long_log_is_checkpointed_and_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let table = storage(&folder);
        let names: Vec<_> = (0..=CHECKPOINT_INTERVAL).map(|n| format!("file-{n:02}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for count in 1..=names.len() {
            let contents = contents("a", &names[..count]);
            commit(&table, &contents, &CommitNote::default(), None).await.unwrap();
        }
        assert!(folder.path().join("_delta_log/_last_checkpoint").exists());
        let snapshot = load(&table, None).await.unwrap().unwrap();
        assert_eq!(snapshot.contents, contents("a", &names));
    }
}
