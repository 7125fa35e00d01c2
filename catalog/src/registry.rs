//! What is published: tables and model versions.
//!
//! The registry is itself a Delta table, `system.registry`. A publication is one commit to it, with
//! a row for each table and model version that it publishes, so that readers see all of them or
//! none. A reader resolves names against one snapshot of the registry; a rollback is one more
//! publication. Rows are never changed: the current version of a name is the one published last.

use crate::delta::{self, CommitNote, DataFile, Mode};
use crate::storage::Storage;
use crate::{CatalogError, Result};
use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the registry is within the warehouse.
pub const FOLDER: &str = "system/registry";

/// Publications are kept in one file each until there are this many; then in one file together, so that
/// a reader of a registry that has grown for months has little to fetch.
const MOST_FILES: usize = 32;

/// How often a publication is tried against others.
const ATTEMPTS: usize = 50;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A table.
    Table,
    /// A model: a set of tables.
    Model,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Table => "table",
            Kind::Model => "model",
        }
    }
}

/// What a model version was made from, and how it went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelDetails {
    /// The kind of model, as in the option `model_type`.
    pub model_type: String,
    /// The options as given.
    pub options: BTreeMap<String, serde_json::Value>,
    /// Figures of the training.
    pub metrics: BTreeMap<String, f64>,
    /// The training query.
    pub query: String,
    /// The versions of the tables that the query read.
    pub inputs: BTreeMap<String, String>,
}

/// A row of the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Number of the publication; rows of one publication share it.
    pub publication: u64,
    /// When it was published, in microseconds since 1970.
    pub published_at: i64,
    /// The run that published it.
    pub run: String,
    /// Table or model.
    pub kind: Kind,
    /// `schema.name`.
    pub name: String,
    /// A table's Delta version, or a model's version counted from 1.
    pub version: u64,
    /// A model's tables with their Delta versions.
    pub tables: BTreeMap<String, u64>,
    /// What is known about a model version.
    pub details: Option<ModelDetails>,
}

/// All publications up to one moment.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Version of the registry's own table.
    version: Option<u64>,
    /// Files that its rows are in.
    files: usize,
    entries: Vec<Entry>,
}

/// What is to be published under a name.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Table or model.
    pub kind: Kind,
    /// `schema.name`.
    pub name: String,
    /// The Delta version of a table; of a model's tables by their names.
    pub versions: BTreeMap<String, u64>,
    /// What is known about a model version.
    pub details: Option<ModelDetails>,
}

impl Registry {
    /// Reads the registry of a warehouse; an empty one if nothing was ever published.
    pub async fn load(warehouse: &Storage) -> Result<Self> {
        let folder = warehouse.folder(FOLDER);
        let Some(snapshot) = delta::load(&folder, None).await? else { return Ok(Self::default()) };
        let mut entries = Vec::new();
        for file in &snapshot.files {
            let bytes = folder.get(&file.path).await?;
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
                entries.extend(decode(&folder, &batch?)?);
            }
        }
        entries.sort_by(|a, b| {
            (a.publication, a.kind, &a.name).cmp(&(b.publication, b.kind, &b.name))
        });
        Ok(Self { version: Some(snapshot.version), files: snapshot.files.len(), entries })
    }

    /// The version of the registry's own table; `None` if nothing was ever published.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// What is published under a name now.
    pub fn current(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.kind == kind && entry.name == name)
    }

    /// What is published now under every name, in the order of names.
    pub fn all_current(&self) -> Vec<&Entry> {
        let by_name = self.entries.iter().map(|entry| (entry.name.as_str(), entry));
        by_name.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    fn is_other_kind(&self, new: &NewEntry) -> bool {
        self.entries.iter().any(|entry| entry.name == new.name && entry.kind != new.kind)
    }

    /// Publishes all of `entries` in one commit and returns their rows.
    pub async fn publish(
        warehouse: &Storage,
        run: &str,
        entries: &[NewEntry],
    ) -> Result<Vec<Entry>> {
        let folder = warehouse.folder(FOLDER);
        for _ in 0..ATTEMPTS {
            let registry = Self::load(warehouse).await?;
            if let Some(taken) = entries.iter().find(|entry| registry.is_other_kind(entry)) {
                let reason = "another run has published something of another kind under it";
                return Err(CatalogError::Name { name: taken.name.clone(), reason: reason.into() });
            }
            let rows = registry.next(run, entries);
            let (mode, batch) = if registry.files < MOST_FILES {
                (Mode::Append, encode(&rows)?)
            } else {
                (Mode::Overwrite, encode(&[registry.entries.as_slice(), rows.as_slice()].concat())?)
            };
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
            writer.write(&batch)?;
            let bytes = writer.into_inner()?;
            let file = DataFile {
                path: format!("part-{}.parquet", uuid::Uuid::now_v7()),
                bytes: bytes.len() as u64,
                rows: batch.num_rows() as u64,
                stats: Some(format!(r#"{{"numRecords":{}}}"#, batch.num_rows())),
                written_at: chrono::Utc::now().timestamp_millis(),
            };
            folder.put(&file.path, bytes).await?;
            let note = CommitNote { operation: "PUBLISH".to_string(), run: run.to_string() };
            let files = [file];
            let expected = Some(registry.version);
            let schema = batch.schema();
            let committed = delta::commit(&folder, mode, &schema, &files, &note, expected).await?;
            if committed.is_some() {
                return Ok(rows);
            }
            folder.delete(&files[0].path).await?;
        }
        Err(CatalogError::Contention { url: folder.url().to_string(), attempts: ATTEMPTS })
    }

    fn next(&self, run: &str, entries: &[NewEntry]) -> Vec<Entry> {
        let publication = self.entries.last().map_or(1, |entry| entry.publication + 1);
        let published_at = chrono::Utc::now().timestamp_micros();
        let row = |entry: &NewEntry| {
            let versions =
                self.entries.iter().filter(|e| e.kind == Kind::Model && e.name == entry.name);
            let latest = versions.map(|entry| entry.version).max();
            let (version, tables) = match entry.kind {
                Kind::Model => (latest.unwrap_or(0) + 1, entry.versions.clone()),
                Kind::Table => {
                    (entry.versions.values().copied().max().unwrap_or(0), BTreeMap::new())
                }
            };
            Entry {
                publication,
                published_at,
                run: run.to_string(),
                kind: entry.kind,
                name: entry.name.clone(),
                version,
                tables,
                details: entry.details.clone(),
            }
        };
        entries.iter().map(row).collect()
    }
}

fn encode(rows: &[Entry]) -> Result<RecordBatch> {
    fn json<T: Serialize>(value: &T) -> Option<String> {
        serde_json::to_string(value).ok()
    }
    let text = |values: Vec<Option<String>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let number = |values: Vec<u64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values.into_iter().map(|value| value as i64)))
    };
    let times = rows.iter().map(|row| row.published_at);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let column = |value: fn(&Entry) -> Option<String>| text(rows.iter().map(value).collect());
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("publication", number(rows.iter().map(|row| row.publication).collect())),
        ("published_at", Arc::new(times)),
        ("run", column(|row| Some(row.run.clone()))),
        ("kind", column(|row| Some(row.kind.as_str().to_string()))),
        ("name", column(|row| Some(row.name.clone()))),
        ("version", number(rows.iter().map(|row| row.version).collect())),
        ("tables", column(|row| json(&row.tables))),
        ("details", column(|row| row.details.as_ref().and_then(json))),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )?)
}

fn decode(folder: &Storage, batch: &RecordBatch) -> Result<Vec<Entry>> {
    let damaged = |reason: &str| CatalogError::Damaged {
        url: folder.url().to_string(),
        reason: reason.to_string(),
    };
    fn typed<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> Option<&'a T> {
        batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref())
    }
    let text = |name| typed::<StringArray>(batch, name).ok_or_else(|| damaged(name));
    let number = |name| typed::<Int64Array>(batch, name).ok_or_else(|| damaged(name));
    let times = typed::<TimestampMicrosecondArray>(batch, "published_at");
    let times = times.ok_or_else(|| damaged("published_at"))?;
    let (publications, versions) = (number("publication")?, number("version")?);
    let (runs, kinds, names) = (text("run")?, text("kind")?, text("name")?);
    let (tables, details) = (text("tables")?, text("details")?);
    let row = |row: usize| {
        let kind = match kinds.value(row) {
            "table" => Kind::Table,
            "model" => Kind::Model,
            other => return Err(damaged(&format!("a row is of the unknown kind {other}"))),
        };
        let json = |error: serde_json::Error| damaged(&error.to_string());
        let details = details.is_valid(row).then(|| serde_json::from_str(details.value(row)));
        Ok(Entry {
            publication: publications.value(row) as u64,
            published_at: times.value(row),
            run: runs.value(row).to_string(),
            kind,
            name: names.value(row).to_string(),
            version: versions.value(row) as u64,
            tables: serde_json::from_str(tables.value(row)).map_err(json)?,
            details: details.transpose().map_err(json)?,
        })
    };
    (0..batch.num_rows()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, factors: u64) -> NewEntry {
        NewEntry {
            kind: Kind::Model,
            name: name.to_string(),
            versions: BTreeMap::from([("factors".to_string(), factors)]),
            details: Some(ModelDetails { model_type: "pagerank".into(), ..Default::default() }),
        }
    }

    #[tokio::test]
    async fn versions_count_up_and_the_last_publication_is_current() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(folder.path()).unwrap();
        let warehouse = Storage::open(&url).unwrap();
        let table = NewEntry {
            kind: Kind::Table,
            name: "a.t".to_string(),
            versions: BTreeMap::from([(String::new(), 7)]),
            details: None,
        };
        let first = Registry::publish(&warehouse, "r1", &[model("a.m", 0), table]).await.unwrap();
        assert_eq!(first.iter().map(|row| row.version).collect::<Vec<_>>(), [1, 7]);
        let second = Registry::publish(&warehouse, "r2", &[model("a.m", 4)]).await.unwrap();
        let registry = Registry::load(&warehouse).await.unwrap();
        assert_eq!(registry.current(Kind::Model, "a.m"), Some(&second[0]));
        assert_eq!(registry.current(Kind::Table, "a.t"), Some(&first[1]));
        let all: Vec<_> =
            registry.all_current().iter().map(|e| (e.name.as_str(), e.version)).collect();
        assert_eq!(all, [("a.m", 2), ("a.t", 7)]);
        let taken = Registry::publish(&warehouse, "r3", &[model("a.t", 0)]).await;
        assert!(matches!(taken, Err(CatalogError::Name { .. })));
        assert_eq!((second[0].version, second[0].publication), (2, 2));
        assert_eq!(second[0].tables["factors"], 4);
        assert_eq!(registry.current(Kind::Table, "a.other"), None);
    }

    #[tokio::test]
    async fn a_registry_of_months_stays_in_few_files() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(folder.path()).unwrap();
        let warehouse = Storage::open(&url).unwrap();
        let nights = 2 * MOST_FILES as u64 + 3;
        for night in 1..=nights {
            let published =
                Registry::publish(&warehouse, "r", &[model("a.m", night)]).await.unwrap();
            assert_eq!((published[0].version, published[0].publication), (night, night));
        }
        let registry = Registry::load(&warehouse).await.unwrap();
        assert!(registry.files <= MOST_FILES);
        let versions: Vec<_> = registry.entries.iter().map(|entry| entry.version).collect();
        assert_eq!(versions, (1..=nights).collect::<Vec<_>>());
        assert_eq!(registry.current(Kind::Model, "a.m").unwrap().tables["factors"], nights);
    }

    #[tokio::test]
    async fn publications_at_the_same_time_all_get_a_version_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(folder.path()).unwrap();
        let warehouse = Storage::open(&url).unwrap();
        let publish = |_| {
            let warehouse = warehouse.clone();
            tokio::spawn(async move {
                Registry::publish(&warehouse, "r", &[model("a.m", 0)]).await.unwrap()[0].version
            })
        };
        let tasks: Vec<_> = (0..6).map(publish).collect();
        let mut versions = Vec::new();
        for task in tasks {
            versions.push(task.await.unwrap());
        }
        versions.sort();
        assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    }
}
