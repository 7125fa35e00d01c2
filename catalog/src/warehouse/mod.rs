//! A warehouse: names to tables, and what runs write into it.
//!
//! A run writes its files into the tables' folders without committing them. Its own statements read
//! them through staged file lists; everybody else sees nothing until [`Warehouse::publish`].

mod publication;
mod record;

pub use publication::{Staged, StagedModel, StagedTable};
pub use record::{ModelRecord, ReadableModel, ReadableTable, TableRecord};

use crate::cache::{self, LatestRegistry};
use crate::delta::{self, Commit, Contents, Snapshot};
use crate::registry::{Kind, Registry};
use crate::scan::{FileList, WarehouseTable};
use crate::storage::{Storage, Stores};
use crate::write::{WriteTarget, file_prefix};
use crate::{CatalogError, Result};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};
use url::Url;

/// Schemas that users can't create anything in.
const RESERVED: &[&str] = &["system", "information_schema", "_nightshift"];

/// The folder of all runs' intermediate data within the warehouse.
const RUNS: &str = "_nightshift/runs";

/// The folder of a run's intermediate data within the warehouse.
pub fn run_folder(run: &str) -> String {
    format!("{RUNS}/{run}")
}

/// The folder of what clients send, until it is in a table, within the warehouse.
const UPLOADS: &str = "_nightshift/ingest";

/// The folder of what a client sends at once within the warehouse.
pub fn upload_folder(upload: &str) -> String {
    format!("{UPLOADS}/{upload}")
}

/// The object that says that a run is under way.
pub(crate) fn run_mark(run: &str) -> String {
    format!("{}/open", run_folder(run))
}

/// The object that is written again and again by the process that drives a run.
fn run_alive(run: &str) -> String {
    format!("{}/alive", run_folder(run))
}

/// The name of a table or model: `schema.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The table or model within the schema.
    pub name: String,
}

impl Name {
    /// Checks a name that something is to be created under.
    pub fn new(schema: &str, name: &str) -> Result<Self> {
        let whole = format!("{schema}.{name}");
        check_part(schema, &whole)?;
        check_part(name, &whole)?;
        not_reserved(schema, &whole)?;
        Ok(Self { schema: schema.to_string(), name: name.to_string() })
    }
}

fn name_error(whole: &str, reason: &str) -> CatalogError {
    CatalogError::Name { name: whole.to_string(), reason: reason.to_string() }
}

fn check_part(part: &str, whole: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !part.is_empty() && part.chars().all(allowed) && !part.starts_with('_') {
        return Ok(());
    }
    Err(name_error(
        whole,
        "names are made of the letters a to z, digits, - and _, and don't start with _",
    ))
}

fn not_reserved(schema: &str, whole: &str) -> Result<()> {
    match RESERVED.contains(&schema) {
        true => Err(name_error(whole, "the schema is reserved, use another")),
        false => Ok(()),
    }
}

/// Checks the name of a schema that is to be created.
pub fn check_schema(name: &str) -> Result<()> {
    check_part(name, name)?;
    not_reserved(name, name)
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for Name {
    type Error = CatalogError;

    fn try_from(whole: String) -> Result<Self> {
        match whole.split_once('.') {
            Some((schema, name)) => Self::new(schema, name),
            None => Err(name_error(&whole, "a name looks like schema.table")),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// One URL that holds tables and models.
#[derive(Debug, Clone)]
pub struct Warehouse {
    storage: Storage,
    latest: LatestRegistry,
    /// Set once the store is known to honour conditions.
    probed: Arc<OnceCell<()>>,
    /// Held by whoever of this process publishes. Others would only find that they came too late.
    turn: Arc<Mutex<()>>,
}

impl Warehouse {
    /// Opens the warehouse at a URL. Nothing is read or written yet.
    pub fn open(url: &Url, stores: &Stores) -> Result<Self> {
        let storage = Storage::open(url, stores)?;
        Ok(Self {
            storage,
            latest: LatestRegistry::default(),
            probed: Arc::default(),
            turn: Arc::default(),
        })
    }

    /// The warehouse's folder.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// What is published now.
    pub async fn registry(&self) -> Result<Arc<Registry>> {
        self.latest.get(&self.storage).await
    }

    /// Fails if the warehouse can't be written, or could lose commits. This writes, so it is done before
    /// the first change and not for those who only read; once in the life of a process.
    pub async fn check_writable(&self) -> Result<()> {
        let probed = self.probed.get_or_try_init(|| self.storage.probe()).await;
        probed.map(drop).map_err(|error| self.not_writable(error))
    }

    fn not_writable(&self, error: CatalogError) -> CatalogError {
        match error {
            error @ CatalogError::Unconditional { .. } => error,
            error => CatalogError::NotWritable {
                url: self.storage.url().to_string(),
                source: Box::new(error),
            },
        }
    }

    /// Begins a run: puts a mark into the warehouse that stands until [`Self::close_run`]. A task that
    /// finishes a file after that deletes it, so that closing a run and then listing what it has
    /// written finds everything, however late a cancelled task comes to its end.
    pub async fn open_run(&self, run: &str) -> Result<()> {
        self.check_writable().await?;
        let marked = self.storage.put(&run_mark(run), Bytes::from_static(b"open")).await;
        marked.map_err(|error| self.not_writable(error))
    }

    /// Ends a run: what its tasks finish from now on is deleted by them.
    pub async fn close_run(&self, run: &str) -> Result<()> {
        self.storage.delete(&run_mark(run)).await
    }

    /// Whether nobody has ended a run: all that it has written is still there.
    pub async fn is_open(&self, run: &str) -> Result<bool> {
        self.storage.exists(&run_mark(run)).await
    }

    /// Leaves a sign of life of the process that drives a run.
    pub async fn show_alive(&self, run: &str) -> Result<()> {
        self.storage.put(&run_alive(run), Bytes::from_static(b"alive")).await
    }

    /// When the last sign of life of the process was written that drives a run, by the clock of the store.
    pub async fn seen_alive(&self, run: &str) -> Result<Option<DateTime<Utc>>> {
        self.storage.written_at(&run_alive(run)).await
    }

    /// The runs that have intermediate data, or are under way.
    pub async fn runs_with_data(&self) -> Result<Vec<String>> {
        self.storage.folder(RUNS).folders().await
    }

    /// The ids of what clients have sent, or are sending, as far as it is still there.
    pub async fn uploads(&self) -> Result<Vec<String>> {
        self.storage.folder(UPLOADS).folders().await
    }

    /// Where a run writes files of the table in `folder`.
    pub fn write_target(
        &self,
        run: &str,
        folder: &str,
        partition_columns: &[String],
    ) -> Result<WriteTarget> {
        let mark = self.url_of(&run_mark(run))?;
        let table = self.storage.folder(folder).url().clone();
        let partition_columns = partition_columns.to_vec();
        let run = run.to_string();
        Ok(WriteTarget {
            table,
            run,
            mark,
            partition_columns,
            export: None,
            ordered: false,
            file_bytes: None,
        })
    }

    /// The folder of a table within the warehouse.
    pub fn table_folder(name: &Name) -> String {
        format!("{}/{}", name.schema, name.name)
    }

    /// The folder of one of a model's tables within the warehouse.
    pub fn model_table_folder(model: &Name, table: &str) -> String {
        format!("{}/{}/{table}", model.schema, model.name)
    }

    /// The published table of a name.
    pub async fn table(
        &self,
        registry: &Registry,
        schema: &str,
        name: &str,
    ) -> Result<Option<WarehouseTable>> {
        let whole = format!("{schema}.{name}");
        match registry.current(Kind::Table, &whole) {
            Some(entry) => self.pinned(&format!("{schema}/{name}"), entry.version).await.map(Some),
            None => Ok(None),
        }
    }

    /// A table of the published version of a model.
    pub async fn model_table(
        &self,
        registry: &Registry,
        model: &Name,
        table: &str,
    ) -> Result<Option<WarehouseTable>> {
        let entry = registry.current(Kind::Model, &model.to_string());
        match entry.and_then(|entry| entry.tables.get(table)) {
            Some(version) => {
                self.pinned(&Self::model_table_folder(model, table), *version).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// The registry itself as a table.
    pub async fn registry_table(&self, registry: &Registry) -> Result<Option<WarehouseTable>> {
        match registry.version() {
            Some(version) => self.pinned(crate::registry::FOLDER, version).await.map(Some),
            None => Ok(None),
        }
    }

    async fn pinned(&self, folder: &str, version: u64) -> Result<WarehouseTable> {
        let snapshot = self.snapshot(folder, version).await?;
        let table = self.storage.folder(folder).url().clone();
        Ok(WarehouseTable::of(table, FileList::Version(version), &snapshot.contents))
    }

    /// A published version of the table in a folder.
    pub async fn snapshot(&self, folder: &str, version: u64) -> Result<Arc<Snapshot>> {
        let folder = self.storage.folder(folder);
        let snapshot = cache::snapshot(&folder, version).await?;
        snapshot.ok_or_else(|| CatalogError::Damaged {
            url: folder.url().to_string(),
            reason: format!("version {version} is published, but there is no table"),
        })
    }

    /// A published version of a table, as a table.
    pub async fn table_version(&self, name: &Name, version: u64) -> Result<WarehouseTable> {
        self.pinned(&Self::table_folder(name), version).await
    }

    /// The commits of a table, the latest first.
    pub async fn history(&self, name: &Name) -> Result<Vec<Commit>> {
        delta::history(&self.storage.folder(&Self::table_folder(name))).await
    }

    /// A table that nothing has been written of: plans can read it, and find no rows.
    pub fn planned(&self, folder: &str, contents: &Contents) -> WarehouseTable {
        WarehouseTable::of(self.storage.folder(folder).url().clone(), FileList::Planned, contents)
    }

    /// Makes a staged table readable by plans: writes its list of files to `list`, a name within the
    /// warehouse.
    pub async fn stage(
        &self,
        folder: &str,
        contents: &Contents,
        list: &str,
    ) -> Result<WarehouseTable> {
        let json = serde_json::to_vec(&contents.files).map_err(|error| CatalogError::Damaged {
            url: list.to_string(),
            reason: error.to_string(),
        })?;
        self.storage.put(list, json).await?;
        let table = self.storage.folder(folder).url().clone();
        Ok(WarehouseTable::of(table, FileList::Staged(self.url_of(list)?), contents))
    }

    /// Makes what a run has staged readable by plans.
    pub async fn make_readable(&self, staged: StagedTable, list: &str) -> Result<ReadableTable> {
        let provider = self.stage(&staged.folder, &staged.contents, list).await?;
        Ok(ReadableTable { staged, provider, list: list.to_string() })
    }

    /// The URL of an object within the warehouse.
    fn url_of(&self, name: &str) -> Result<Url> {
        let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
        let url = self.storage.folder(above).url().join(last);
        url.map_err(|error| CatalogError::Location {
            url: name.to_string(),
            reason: error.to_string(),
        })
    }

    /// Deletes whatever a run has written into tables' folders, apart from the files in `kept`: all of
    /// it when the run has failed, and what was written twice when a job was run again.
    pub async fn discard(
        &self,
        run: &str,
        folders: &BTreeSet<String>,
        kept: &BTreeSet<String>,
    ) -> Result<()> {
        let prefix = file_prefix(run);
        for name in folders {
            let folder = self.storage.folder(name);
            for object in folder.list().await? {
                let file = object.location.filename().unwrap_or_default();
                let own = file.starts_with(&prefix) && object.location == folder.path(file);
                if own && !kept.contains(file) {
                    folder.delete(file).await?;
                }
            }
            self.remove_empty(name);
        }
        Ok(())
    }

    /// Deletes a folder of intermediate data, and the folders above it if nothing else is in them.
    pub async fn forget(&self, folder: &str) -> Result<()> {
        self.storage.folder(folder).delete_all().await?;
        if let Some((above, _)) = folder.rsplit_once('/') {
            self.remove_empty(above);
        }
        Ok(())
    }

    /// On a file system, removes a table's folder and those above it if nothing is in them.
    fn remove_empty(&self, folder: &str) {
        let Some(root) = self.storage.local_path() else { return };
        let mut folder = root.join(folder);
        // `remove_dir` refuses a folder that has something in it, which ends the walk upwards.
        while folder != root && std::fs::remove_dir(&folder).is_ok() {
            if !folder.pop() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Name::new("recs", "als").unwrap().to_string(), "recs.als");
        for (schema, name) in
            [("system", "x"), ("a", "_x"), ("a", "../x"), ("", "x"), ("a", "b.c"), ("a", "größe")]
        {
            assert!(Name::new(schema, name).is_err(), "{schema}.{name}");
        }
    }

    #[tokio::test]
    async fn an_unwritable_warehouse_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let url = Url::from_file_path(folder.path().join("file/warehouse")).unwrap();
        let error =
            Warehouse::open(&url, &Stores::default()).unwrap().open_run("r").await.unwrap_err();
        assert!(matches!(error, CatalogError::NotWritable { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_discarded_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse =
            Warehouse::open(&Url::from_file_path(folder.path()).unwrap(), &Stores::default())
                .unwrap();
        let written = ["a/t/part-r1-x.parquet", "a/m/factors/part-r1-y.parquet"];
        let others = ["b/t/part-r1-z.parquet", "b/t/part-r1-kept.parquet", "b/t/part-r0-z.parquet"];
        for name in written.iter().chain(&others) {
            warehouse.storage().put(name, "x").await.unwrap();
        }
        let folders = ["a/t", "a/m/factors", "b/t", "c/never"].map(String::from);
        let kept = BTreeSet::from(["part-r1-kept.parquet".to_string()]);
        warehouse.discard("r1", &BTreeSet::from(folders), &kept).await.unwrap();
        let left = warehouse.storage().list().await.unwrap();
        let mut left: Vec<_> =
            left.iter().filter_map(|object| object.location.filename()).collect();
        left.sort();
        assert_eq!(left, ["part-r0-z.parquet", "part-r1-kept.parquet"]);
        assert!(!folder.path().join("a").exists());
    }
}
