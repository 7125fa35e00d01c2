//! What is published: tables and model versions.
//!
//! The registry is itself a Delta table, `system.registry`. A publication is one commit to it, with
//! a row for everything that it publishes, so that readers see all of it or none. A reader resolves
//! names against one snapshot of the registry; a rollback is one more publication. Rows are never
//! changed: what a name stands for is what was published last under it.

use crate::delta::{self, CommitNote, Contents, DataFile};
use crate::storage::Storage;
use crate::{CatalogError, Result};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where the registry is within the warehouse.
pub const FOLDER: &str = "system/registry";

/// Publications are kept in one file each until there are this many; then in one file together, so that
/// a reader of a registry that has grown for months has little to fetch.
pub(crate) const MOST_FILES: usize = 32;

/// How often a publication is tried against others.
const ATTEMPTS: usize = 50;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A schema that was created by itself; others exist because something is in them.
    Schema,
    /// A table.
    Table,
    /// A model: a set of tables.
    Model,
    /// A query under a name.
    View,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Schema, Kind::Table, Kind::Model, Kind::View];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Schema => "schema",
            Kind::Table => "table",
            Kind::Model => "model",
            Kind::View => "view",
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
    /// How long each iteration of the training took, in seconds.
    #[serde(default)]
    pub iteration_seconds: Vec<f64>,
    /// The gates that have kept the version from being published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<String>,
}

/// What is known about something published, besides its version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Details {
    /// A model.
    Model(ModelDetails),
    /// A view's query.
    View {
        /// The text of the query.
        view: String,
    },
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
    /// What it is.
    pub kind: Kind,
    /// `schema.name`, or the name of a schema.
    pub name: String,
    /// A table's Delta version; a model's or view's version, counted from 1.
    pub version: u64,
    /// Whether the name was given up.
    pub dropped: bool,
    /// Whether this version is only kept: nobody reads it until it is published by a later row.
    pub held: bool,
    /// A model's tables with their Delta versions.
    pub tables: BTreeMap<String, u64>,
    /// What is known about a model version or a view.
    pub details: Option<Details>,
}

impl Entry {
    /// Whether it is about a name.
    fn is(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && self.name == name
    }

    /// What is known about a model version.
    pub fn model(&self) -> Option<&ModelDetails> {
        match &self.details {
            Some(Details::Model(details)) => Some(details),
            _ => None,
        }
    }
}

/// All publications up to one moment.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Version of the registry's own table.
    version: Option<u64>,
    /// Files that its rows are in.
    files: Vec<DataFile>,
    entries: Vec<Entry>,
}

/// What is to be published under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewEntry {
    /// What it is.
    pub kind: Kind,
    /// `schema.name`, or the name of a schema.
    pub name: String,
    /// What becomes of the name.
    pub change: Change,
    /// The version that must be the current one, because this was computed from it; `None` inside if
    /// nothing may be published under the name.
    pub base: Option<Option<u64>>,
}

/// What becomes of a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It stands for this Delta version of its table.
    Table(u64),
    /// It gets a new version: a model's tables with their Delta versions, and what is known.
    New(BTreeMap<String, u64>, Option<Details>),
    /// There is a new version, and it stands for the one before as long as nobody publishes the new one.
    Hold(BTreeMap<String, u64>, Option<Details>),
    /// It stands for a version again that was published before.
    Again(u64),
    /// It stands for nothing.
    Drop,
}

impl Registry {
    /// Reads the registry of a warehouse; an empty one if nothing was ever published.
    pub async fn load(warehouse: &Storage) -> Result<Self> {
        let folder = warehouse.folder(FOLDER);
        let Some(snapshot) = delta::load(&folder, None).await? else { return Ok(Self::default()) };
        let mut entries = Vec::new();
        for file in &snapshot.contents.files {
            let bytes = folder.get(&file.path).await?;
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
                entries.extend(decode(&folder, &batch?)?);
            }
        }
        entries.sort_by(|a, b| {
            (a.publication, a.kind, &a.name).cmp(&(b.publication, b.kind, &b.name))
        });
        Ok(Self { version: Some(snapshot.version), files: snapshot.contents.files, entries })
    }

    /// The version of the registry's own table; `None` if nothing was ever published.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// The registry as it was after a publication.
    #[must_use]
    pub fn as_of(&self, publication: u64) -> Self {
        let entries = self.entries.iter().filter(|entry| entry.publication <= publication);
        Self {
            version: self.version,
            files: self.files.clone(),
            entries: entries.cloned().collect(),
        }
    }

    /// The number of the last publication; 0 if nothing was ever published.
    pub fn publication(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.publication)
    }

    /// What a run has published.
    pub fn of_run(&self, run: &str) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.run == run).cloned().collect()
    }

    /// Every row, in the order of publication.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What is published under a name now.
    pub fn current(&self, kind: Kind, name: &str) -> Option<&Entry> {
        let last = self.entries.iter().rev().find(|e| e.is(kind, name) && !e.held);
        last.filter(|entry| !entry.dropped)
    }

    /// Everything that is published now, sorted by kind and name.
    pub fn all_current(&self) -> Vec<&Entry> {
        let mut last: BTreeMap<(Kind, &str), &Entry> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| !entry.held) {
            last.insert((entry.kind, &entry.name), entry);
        }
        last.into_values().filter(|entry| !entry.dropped).collect()
    }

    /// The schemas that exist, sorted.
    pub fn schemas(&self) -> BTreeSet<String> {
        let schema = |entry: &Entry| match entry.kind {
            Kind::Schema => entry.name.clone(),
            _ => entry.name.split('.').next().unwrap_or_default().to_string(),
        };
        self.all_current().into_iter().map(schema).collect()
    }

    /// The row that published, or kept, a version of what a name stands for now.
    pub fn version_of(&self, kind: Kind, name: &str, version: u64) -> Option<&Entry> {
        let rows = self.entries.iter().rev().filter(|e| e.is(kind, name));
        rows.take_while(|entry| !entry.dropped).find(|entry| entry.version == version)
    }

    /// What a name stood for at a moment, in microseconds since 1970.
    pub fn current_at(&self, kind: Kind, name: &str, at: i64) -> Option<&Entry> {
        let mut rows = self.entries.iter().rev();
        let last = rows.find(|e| e.is(kind, name) && e.published_at <= at && !e.held);
        last.filter(|entry| !entry.dropped)
    }

    /// Why an entry can't be published after what this registry has.
    fn refuses(&self, new: &NewEntry) -> Option<CatalogError> {
        if matches!(new.change, Change::Drop) {
            return None;
        }
        let other = Kind::ALL.into_iter().find(|kind| {
            let names = *kind != Kind::Schema && new.kind != Kind::Schema;
            names && *kind != new.kind && self.current(*kind, &new.name).is_some()
        });
        if let Some(other) = other {
            let reason = format!("it is the name of a {}, use another", other.as_str());
            return Some(CatalogError::Name { name: new.name.clone(), reason });
        }
        let current = self.current(new.kind, &new.name).map(|entry| entry.version);
        match new.base {
            Some(base) if base != current => {
                Some(CatalogError::Conflict { name: new.name.clone() })
            }
            _ => None,
        }
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
            // Another process may go on with the run, and be faster.
            let already = registry.of_run(run);
            if !already.is_empty() {
                return Ok(already);
            }
            if let Some(refused) = entries.iter().find_map(|entry| registry.refuses(entry)) {
                return Err(refused);
            }
            let rows = registry.next(run, entries)?;
            let (mut files, batch) = if registry.files.len() < MOST_FILES {
                (registry.files.clone(), encode(&rows)?)
            } else {
                (Vec::new(), encode(&[registry.entries.as_slice(), rows.as_slice()].concat())?)
            };
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
            writer.write(&batch)?;
            let bytes = writer.into_inner()?;
            let file = DataFile {
                path: format!("part-{}.parquet", uuid::Uuid::now_v7()),
                bytes: bytes.len() as u64,
                rows: Some(batch.num_rows() as u64),
                stats: Some(format!(r#"{{"numRecords":{}}}"#, batch.num_rows())),
                written_at: chrono::Utc::now().timestamp_millis(),
                partition: BTreeMap::new(),
            };
            let path = file.path.clone();
            folder.put(&path, bytes).await?;
            files.push(file);
            let note = CommitNote { operation: "PUBLISH".to_string(), run: run.to_string() };
            let contents = Contents::plain(batch.schema(), files);
            let expected = Some(registry.version);
            if delta::commit(&folder, &contents, &note, expected).await?.is_some() {
                return Ok(rows);
            }
            folder.delete(&path).await?;
        }
        Err(CatalogError::Contention { url: folder.url().to_string(), attempts: ATTEMPTS })
    }

    fn next(&self, run: &str, entries: &[NewEntry]) -> Result<Vec<Entry>> {
        let publication = self.publication() + 1;
        let published_at = chrono::Utc::now().timestamp_micros();
        let row = |new: &NewEntry| {
            let rows = || self.entries.iter().filter(|e| e.is(new.kind, &new.name));
            let latest = rows().map(|entry| entry.version).max();
            let (version, tables, details) = match &new.change {
                Change::Table(version) => (*version, BTreeMap::new(), None),
                Change::New(tables, details) | Change::Hold(tables, details) => {
                    (latest.unwrap_or(0) + 1, tables.clone(), details.clone())
                }
                Change::Drop => (latest.unwrap_or(0), BTreeMap::new(), None),
                Change::Again(version) => {
                    let missing = || CatalogError::Name {
                        name: new.name.clone(),
                        reason: format!("there is no version {version}"),
                    };
                    let found = self.version_of(new.kind, &new.name, *version);
                    let found = found.ok_or_else(missing)?;
                    (found.version, found.tables.clone(), found.details.clone())
                }
            };
            Ok(Entry {
                publication,
                published_at,
                run: run.to_string(),
                kind: new.kind,
                name: new.name.clone(),
                version,
                dropped: matches!(new.change, Change::Drop),
                held: matches!(new.change, Change::Hold(..)),
                tables,
                details,
            })
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
        ("dropped", Arc::new(rows.iter().map(|row| Some(row.dropped)).collect::<BooleanArray>())),
        ("held", Arc::new(rows.iter().map(|row| Some(row.held)).collect::<BooleanArray>())),
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
    let dropped = typed::<BooleanArray>(batch, "dropped").ok_or_else(|| damaged("dropped"))?;
    // Registries of before there were gates don't have it.
    let held = typed::<BooleanArray>(batch, "held");
    let row = |row: usize| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == kinds.value(row));
        let unknown = || damaged(&format!("a row is of the unknown kind {}", kinds.value(row)));
        let kind = kind.ok_or_else(unknown)?;
        let json = |error: serde_json::Error| damaged(&error.to_string());
        let details = details.is_valid(row).then(|| serde_json::from_str(details.value(row)));
        Ok(Entry {
            publication: publications.value(row) as u64,
            published_at: times.value(row),
            run: runs.value(row).to_string(),
            kind,
            name: names.value(row).to_string(),
            version: versions.value(row) as u64,
            dropped: dropped.value(row),
            held: held.is_some_and(|held| held.is_valid(row) && held.value(row)),
            tables: serde_json::from_str(tables.value(row)).map_err(json)?,
            details: details.transpose().map_err(json)?,
        })
    };
    (0..batch.num_rows()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn model(name: &str, factors: u64) -> NewEntry {
        let details = ModelDetails { model_type: "pagerank".into(), ..Default::default() };
        let tables = BTreeMap::from([("factors".to_string(), factors)]);
        let change = Change::New(tables, Some(Details::Model(details)));
        NewEntry { kind: Kind::Model, name: name.to_string(), change, base: None }
    }

    fn table(name: &str, version: u64, base: Option<Option<u64>>) -> NewEntry {
        let change = Change::Table(version);
        NewEntry { kind: Kind::Table, name: name.to_string(), change, base }
    }

    fn storage(folder: &tempfile::TempDir) -> Storage {
        let url = url::Url::from_file_path(folder.path()).unwrap();
        Storage::open(&url, &Default::default()).unwrap()
    }

    #[tokio::test]
    async fn versions_count_up_and_the_last_publication_is_current() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = storage(&folder);
        let publish = async |run: &str, entries: &[NewEntry]| {
            Registry::publish(&warehouse, run, entries).await
        };
        let first = publish("r1", &[model("a.m", 0), table("a.t", 7, None)]).await.unwrap();
        assert_eq!(first.iter().map(|row| row.version).collect::<Vec<_>>(), [1, 7]);
        let second = publish("r2", &[model("a.m", 4)]).await.unwrap();
        let registry = Registry::load(&warehouse).await.unwrap();
        assert_eq!(registry.current(Kind::Model, "a.m"), Some(&second[0]));
        assert_eq!(registry.current(Kind::Table, "a.t"), Some(&first[1]));
        let taken = publish("r3", &[model("a.t", 0)]).await;
        assert!(matches!(taken, Err(CatalogError::Name { .. })));
        assert_eq!((second[0].version, second[0].publication), (2, 2));
        assert_eq!(second[0].tables["factors"], 4);
        assert_eq!(registry.current(Kind::Table, "a.other"), None);
        assert_eq!(registry.current_at(Kind::Model, "a.m", first[0].published_at), Some(&first[0]));

        // Back to an earlier version, away with the name, and on with the numbers.
        let entry = |change| NewEntry { change, ..model("a.m", 0) };
        let again = publish("r4", &[entry(Change::Again(1))]).await.unwrap();
        assert_eq!((again[0].version, again[0].tables["factors"]), (1, 0));
        assert!(publish("r5", &[entry(Change::Again(9))]).await.is_err());
        publish("r6", &[entry(Change::Drop)]).await.unwrap();
        let registry = Registry::load(&warehouse).await.unwrap();
        assert_eq!(registry.current(Kind::Model, "a.m"), None);
        assert_eq!(registry.all_current(), [&first[1]]);
        assert_eq!(registry.schemas().into_iter().collect::<Vec<_>>(), ["a"]);
        assert_eq!(publish("r7", &[model("a.m", 5)]).await.unwrap()[0].version, 3);
    }

    #[tokio::test]
    async fn what_was_computed_from_an_old_version_is_not_published() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = storage(&folder);
        let publish = async |version, base| {
            let run = Uuid::now_v7().to_string();
            Registry::publish(&warehouse, &run, &[table("a.t", version, Some(base))]).await
        };
        publish(0, None).await.unwrap();
        publish(1, Some(0)).await.unwrap();
        for base in [None, Some(0)] {
            assert!(matches!(publish(2, base).await, Err(CatalogError::Conflict { .. })));
        }
        publish(3, Some(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_held_version_is_read_by_nobody_until_it_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = storage(&folder);
        let publish = async |run: &str, change: Change| {
            let entry = NewEntry { change, ..model("a.m", 0) };
            Registry::publish(&warehouse, run, &[entry]).await.unwrap().remove(0)
        };
        let tables = |version| BTreeMap::from([("factors".to_string(), version)]);
        let held = publish("r1", Change::Hold(tables(1), None)).await;
        assert_eq!((held.version, held.held), (1, true));
        let registry = Registry::load(&warehouse).await.unwrap();
        assert_eq!(registry.current(Kind::Model, "a.m"), None);
        assert!(registry.all_current().is_empty());
        let first = publish("r2", Change::New(tables(2), None)).await;
        publish("r3", Change::Hold(tables(3), None)).await;
        let registry = Registry::load(&warehouse).await.unwrap();
        assert_eq!(registry.current(Kind::Model, "a.m"), Some(&first));
        assert_eq!(registry.version_of(Kind::Model, "a.m", 3).unwrap().tables, tables(3));
        let promoted = publish("r4", Change::Again(3)).await;
        assert_eq!((promoted.version, promoted.held), (3, false));
        let registry = Registry::load(&warehouse).await.unwrap();
        assert_eq!(registry.current(Kind::Model, "a.m"), Some(&promoted));
        assert_eq!(publish("r5", Change::New(tables(4), None)).await.version, 4);
    }

    /// Two processes that both think that they publish a run publish it once.
    #[tokio::test]
    async fn a_run_is_published_once() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = storage(&folder);
        let publish = |_| {
            let warehouse = warehouse.clone();
            tokio::spawn(async move {
                Registry::publish(&warehouse, "r1", &[model("a.m", 0)]).await.unwrap()
            })
        };
        let mut published = Vec::new();
        for task in (0..6).map(publish).collect::<Vec<_>>() {
            published.push(task.await.unwrap());
        }
        assert!(published.iter().all(|rows| *rows == published[0]));
        assert_eq!(Registry::load(&warehouse).await.unwrap().entries(), published[0]);
    }

    #[tokio::test]
    async fn a_registry_of_months_stays_in_few_files() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = storage(&folder);
        let nights = 2 * MOST_FILES as u64 + 3;
        for night in 1..=nights {
            let run = format!("r{night}");
            let published =
                Registry::publish(&warehouse, &run, &[model("a.m", night)]).await.unwrap();
            assert_eq!((published[0].version, published[0].publication), (night, night));
        }
        let registry = Registry::load(&warehouse).await.unwrap();
        assert!(registry.files.len() <= MOST_FILES);
        let versions: Vec<_> = registry.entries.iter().map(|entry| entry.version).collect();
        assert_eq!(versions, (1..=nights).collect::<Vec<_>>());
        assert_eq!(registry.current(Kind::Model, "a.m").unwrap().tables["factors"], nights);
    }

    #[tokio::test]
    async fn publications_at_the_same_time_all_get_a_version_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = storage(&folder);
        let publish = |_| {
            let warehouse = warehouse.clone();
            tokio::spawn(async move {
                let run = Uuid::now_v7().to_string();
                Registry::publish(&warehouse, &run, &[model("a.m", 0)]).await.unwrap()[0].version
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

    #[tokio::test]
    async fn publications_whose_answers_are_lost_are_made_once() {
        use crate::storage::testing::{Fault, Request, storage};
        // Every commit is made, and its writer isn't told.
        let lose = |request, _: &object_store::path::Path| match request {
            Request::Create => Fault::Lost,
            _ => Fault::None,
        };
        let (warehouse, _) = storage(std::time::Duration::from_secs(20), lose);
        let publish = |writer: u64| {
            let warehouse = warehouse.clone();
            tokio::spawn(async move {
                let name = format!("a.m{writer}");
                for number in 0..3 {
                    let run = format!("r{writer}-{number}");
                    Registry::publish(&warehouse, &run, &[model(&name, writer)]).await.unwrap();
                }
            })
        };
        for writer in (0..4).map(publish).collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let registry = Registry::load(&warehouse).await.unwrap();
        let publications: Vec<_> = registry.entries.iter().map(|e| e.publication).collect();
        assert_eq!(publications, (1..=12).collect::<Vec<_>>());
        assert_eq!(registry.version(), Some(11));
        assert!(
            (0..4).all(|m| registry.current(Kind::Model, &format!("a.m{m}")).unwrap().version == 3)
        );
    }
}
