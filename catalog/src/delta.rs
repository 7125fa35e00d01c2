//! Snapshots and commits of one Delta table.
//!
//! The log is read by delta-rs. A commit is one object, created if absent under the next version
//! number: whoever comes second starts again from the new snapshot.

use crate::storage::Storage;
use crate::{CatalogError, Result};
use arrow::datatypes::{Schema, SchemaRef};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::{Action, Add, StructType, new_metadata};
use deltalake_core::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

/// How often a commit is tried against other writers.
const ATTEMPTS: usize = 20;

/// Commits between two checkpoints of the log.
const CHECKPOINT_INTERVAL: u64 = 10;

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path within the table's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
    /// Column statistics in Delta's JSON form.
    pub stats: Option<String>,
    /// When it was written, in milliseconds since 1970.
    pub written_at: i64,
}

impl DataFile {
    /// Where the file is on its store.
    pub fn location(&self, table: &Storage) -> Path {
        table.path(&self.path)
    }
}

/// A table at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The version.
    pub version: u64,
    /// The columns.
    pub schema: SchemaRef,
    /// The files that hold its rows, sorted by path.
    pub files: Vec<DataFile>,
}

/// What a commit does to the files that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They stay.
    Append,
    /// They, and the schema, are replaced.
    Overwrite,
}

/// What is said about a commit in the log.
#[derive(Debug, Clone, Default)]
pub struct CommitNote {
    /// The statement that is committed, such as `CREATE TABLE`.
    pub operation: String,
    /// The run that commits.
    pub run: String,
}

/// Reads the table in a folder at a version, or at its latest; `None` if there is no table.
pub async fn load(table: &Storage, version: Option<u64>) -> Result<Option<Snapshot>> {
    let Some(delta) = open(table, version).await? else { return Ok(None) };
    let error = |source| delta_error(table, source);
    let state = delta.snapshot().map_err(error)?.snapshot();
    refuse_unsupported(table, &delta)?;
    let mut files = Vec::new();
    for view in state.log_data().iter() {
        if view.deletion_vector_descriptor().is_some() {
            return Err(unsupported(table, "deletion vectors"));
        }
        files.push(DataFile {
            path: view.path().into_owned(),
            bytes: view.size() as u64,
            rows: view.num_records().unwrap_or(0) as u64,
            stats: view.stats(),
            written_at: view.modification_time(),
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(Snapshot { version: state.version(), schema: state.arrow_schema(), files }))
}

async fn open(table: &Storage, version: Option<u64>) -> Result<Option<DeltaTable>> {
    if table.folder("_delta_log").list().await?.is_empty() {
        return Ok(None);
    }
    let error = |source| delta_error(table, source);
    let mut builder = DeltaTableBuilder::from_url(table.url().clone())
        .map_err(error)?
        .with_storage_backend(Arc::clone(table.store()), table.url().clone());
    if let Some(version) = version {
        builder = builder.with_version(version);
    }
    match builder.load().await {
        Ok(delta) => Ok(Some(delta)),
        Err(DeltaTableError::NotATable(_)) => Ok(None),
        Err(source) => Err(error(source)),
    }
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
    if let Some(features) = state.protocol().reader_features()
        && let Some(feature) = features.iter().find(|feature| feature.to_string() != "timestampNtz")
    {
        return Err(unsupported(table, &format!("the feature {feature}")));
    }
    if state.protocol().min_reader_version() == 2 {
        return Err(unsupported(table, "column mapping"));
    }
    if !state.metadata().partition_columns().is_empty() {
        return Err(unsupported(table, "partition columns"));
    }
    Ok(())
}

/// Commits files as the next version of the table and returns that version. The table is created
/// if need be. `expected` is the version that the commit was computed from, if it matters: then
/// `None` is returned when another writer came first.
pub async fn commit(
    table: &Storage,
    mode: Mode,
    schema: &Schema,
    files: &[DataFile],
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
        let actions = actions(table, current.as_ref(), mode, schema, files, note)?;
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
        let made = deltalake_core::checkpoints::create_checkpoint(&delta, None).await;
        made.map_err(|source| delta_error(table, source))
    };
    if let Err(error) = made.await {
        tracing::warn!(table = %table.url(), version, %error, "no checkpoint of the log was made");
    }
}

fn actions(
    table: &Storage,
    current: Option<&DeltaTable>,
    mode: Mode,
    schema: &Schema,
    files: &[DataFile],
    note: &CommitNote,
) -> Result<Vec<serde_json::Value>> {
    let error = |source: DeltaTableError| delta_error(table, source);
    let now = chrono::Utc::now().timestamp_millis();
    let value = |action: Action| {
        serde_json::to_value(action).map_err(|reason| CatalogError::Damaged {
            url: table.url().to_string(),
            reason: reason.to_string(),
        })
    };
    let mut actions = vec![json!({"commitInfo": {
        "timestamp": now,
        "operation": note.operation,
        "operationParameters": {"mode": format!("{mode:?}")},
        "engineInfo": concat!("nightshift/", env!("CARGO_PKG_VERSION")),
        "runId": note.run,
    }})];
    let structure: StructType = schema.try_into_kernel()?;
    let mut metadata = value(Action::Metadata(
        new_metadata(&structure, Vec::<String>::new(), HashMap::<String, String>::new())
            .map_err(|source| error(source.into()))?,
    ))?;
    match current {
        None => {
            actions.push(json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}));
            actions.push(metadata);
        }
        Some(delta) if mode == Mode::Overwrite => {
            let state = delta.snapshot().map_err(error)?;
            // A table keeps its identity when its contents and columns are replaced.
            metadata["metaData"]["id"] = json!(state.metadata().id());
            actions.push(metadata);
            for view in state.snapshot().log_data().iter() {
                actions.push(value(Action::Remove(view.remove_action(true)))?);
            }
        }
        Some(_) => {}
    }
    for file in files {
        actions.push(value(Action::Add(Add {
            path: file.path.clone(),
            size: file.bytes as i64,
            modification_time: file.written_at,
            data_change: true,
            stats: file.stats.clone(),
            ..Default::default()
        }))?);
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    fn file(name: &str) -> DataFile {
        DataFile {
            path: name.to_string(),
            bytes: 10,
            rows: 3,
            stats: Some(r#"{"numRecords":3}"#.to_string()),
            written_at: 1,
        }
    }

    fn schema(column: &str) -> Schema {
        Schema::new(vec![Field::new(column, DataType::Int64, true)])
    }

    #[tokio::test]
    async fn versions_stay_readable_after_an_overwrite() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(folder.path()).unwrap();
        let table = Storage::open(&url).unwrap();
        assert!(load(&table, None).await.unwrap().is_none());
        let note = CommitNote::default();
        let commit = async |mode, column: &str, name: &str| {
            commit(&table, mode, &schema(column), &[file(name)], &note, None).await.unwrap()
        };
        assert_eq!(commit(Mode::Overwrite, "a", "one").await, Some(0));
        assert_eq!(commit(Mode::Append, "a", "two").await, Some(1));
        assert_eq!(commit(Mode::Overwrite, "b", "three").await, Some(2));

        let latest = load(&table, None).await.unwrap().unwrap();
        assert_eq!((latest.version, latest.files), (2, vec![file("three")]));
        assert_eq!(latest.schema.field(0).name(), "b");
        let earlier = load(&table, Some(1)).await.unwrap().unwrap();
        assert_eq!(earlier.files, [file("one"), file("two")]);
        assert_eq!(earlier.schema.field(0).name(), "a");
    }

    #[tokio::test]
    async fn a_commit_computed_from_an_old_version_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(folder.path()).unwrap();
        let table = Storage::open(&url).unwrap();
        let note = CommitNote::default();
        let commit = async |expected| {
            commit(&table, Mode::Append, &schema("a"), &[], &note, Some(expected)).await.unwrap()
        };
        assert_eq!(commit(None).await, Some(0));
        assert_eq!(commit(None).await, None);
        assert_eq!(commit(Some(0)).await, Some(1));
    }

    #[tokio::test]
    async fn a_long_log_is_checkpointed_and_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(folder.path()).unwrap();
        let table = Storage::open(&url).unwrap();
        for version in 0..=CHECKPOINT_INTERVAL {
            let files = [file(&format!("file-{version:02}"))];
            commit(&table, Mode::Append, &schema("a"), &files, &CommitNote::default(), None)
                .await
                .unwrap();
        }
        assert!(folder.path().join("_delta_log/_last_checkpoint").exists());
        let snapshot = load(&table, None).await.unwrap().unwrap();
        assert_eq!(snapshot.files.len() as u64, CHECKPOINT_INTERVAL + 1);
        assert_eq!(snapshot.files[3], file("file-03"));
    }
}
