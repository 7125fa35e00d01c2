//! Publication: what a run has staged becomes what everybody reads, all of it or nothing.

use super::{Name, Warehouse};
use crate::delta::{self, CommitNote, Contents, DataFile};
use crate::registry::{Change, Details, Entry, Kind, ModelDetails, NewEntry, Registry};
use crate::{CatalogError, Result};
use std::collections::{BTreeMap, BTreeSet};

/// How often a publication is tried against others of the same tables.
const ATTEMPTS: usize = 100;

/// What a run has made of a table and not yet published.
#[derive(Debug, Clone, PartialEq)]
pub struct StagedTable {
    /// The table's folder within the warehouse.
    pub folder: String,
    /// All that it is to consist of.
    pub contents: Contents,
    /// The published version that it was computed from, if it must still be that; `None` inside if
    /// there must be no table.
    pub base: Option<Option<u64>>,
    /// The files that are new, if all that was done is to add them: then it doesn't matter which
    /// version they are added to.
    pub appended: Option<Vec<DataFile>>,
}

impl StagedTable {
    /// Rows in all files.
    pub fn rows(&self) -> u64 {
        self.contents.rows()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.contents.bytes()
    }
}

/// A model version that a run has trained and not yet published.
#[derive(Debug, Clone)]
pub struct StagedModel {
    /// Its tables by their names.
    pub tables: BTreeMap<String, StagedTable>,
    /// What is known about it.
    pub details: ModelDetails,
}

/// What a run has made.
#[derive(Debug, Clone, Default)]
pub struct Staged {
    /// Tables.
    pub tables: BTreeMap<Name, StagedTable>,
    /// Models.
    pub models: BTreeMap<Name, StagedModel>,
    /// Names that change without a table being written: schemas, views, drops, rollbacks.
    pub names: Vec<NewEntry>,
    /// Whether models are only kept, and not what readers see.
    pub held: bool,
}

impl Staged {
    /// The names of all files.
    pub fn files(&self) -> BTreeSet<String> {
        let of_models = self.models.values().flat_map(|model| model.tables.values());
        let tables = self.tables.values().chain(of_models);
        tables.flat_map(|table| &table.contents.files).map(|file| file.path.clone()).collect()
    }

    /// Whether there is nothing to publish.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.models.is_empty() && self.names.is_empty()
    }
}

fn unsettled(run: &str, error: CatalogError) -> CatalogError {
    CatalogError::Unsettled { run: run.to_string(), source: Box::new(error) }
}

impl Warehouse {
    /// Publishes all that a run has staged. Each table gets a Delta commit; then one commit to the
    /// registry makes all of them what readers see. After any error but [`CatalogError::Unsettled`]
    /// nothing of it is published. What the run has published already is not published again.
    pub async fn publish(&self, run: &str, operation: &str, staged: &Staged) -> Result<Vec<Entry>> {
        let note = CommitNote { operation: operation.to_string(), run: run.to_string() };
        let mut staged = staged.clone();
        let _turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS {
            // What is bound to fail had better fail before anything is committed to a table.
            let registry = self.registry().await?;
            let already = registry.of_run(run);
            if !already.is_empty() {
                return Ok(already);
            }
            for (name, table) in &mut staged.tables {
                self.rebase(&registry, name, table).await?;
            }
            match self.try_publish(run, &staged, &note).await {
                Err(error @ CatalogError::Unsettled { .. }) => return Err(error),
                Err(error) => {
                    // As long as other programs may read the commits, their files must stay.
                    let taken_back = self.take_back(&staged, &note).await;
                    taken_back.map_err(|error| unsettled(run, error))?;
                    if !matches!(error, CatalogError::Conflict { .. }) {
                        return Err(error);
                    }
                }
                published => return published,
            }
        }
        Err(CatalogError::Contention { url: self.storage.url().to_string(), attempts: ATTEMPTS })
    }

    /// Makes a staged table a successor of what is published now, which it is already unless another
    /// writer came first.
    async fn rebase(
        &self,
        registry: &Registry,
        name: &Name,
        table: &mut StagedTable,
    ) -> Result<()> {
        let whole = name.to_string();
        let current = registry.current(Kind::Table, &whole).map(|entry| entry.version);
        let conflict = || CatalogError::Conflict { name: whole.clone() };
        match (&table.base, &table.appended, current) {
            (None, _, _) => Ok(()),
            (Some(base), _, current) if *base == current => Ok(()),
            (_, Some(appended), Some(version)) => {
                let snapshot = self.snapshot(&table.folder, version).await?;
                let (old, new) = (&table.contents, &snapshot.contents);
                if (&old.schema, &old.partition_columns) != (&new.schema, &new.partition_columns) {
                    return Err(conflict());
                }
                let files = new.files.iter().chain(appended).cloned().collect();
                table.contents = Contents { files, ..new.clone() };
                table.base = Some(Some(version));
                Ok(())
            }
            _ => Err(conflict()),
        }
    }

    async fn try_publish(
        &self,
        run: &str,
        staged: &Staged,
        note: &CommitNote,
    ) -> Result<Vec<Entry>> {
        let mut entries = staged.names.clone();
        for (name, table) in &staged.tables {
            entries.push(NewEntry {
                kind: Kind::Table,
                name: name.to_string(),
                change: Change::Table(self.commit(table, note).await?),
                base: table.base,
            });
        }
        for (name, model) in &staged.models {
            let mut versions = BTreeMap::new();
            for (table, staged) in &model.tables {
                versions.insert(table.clone(), self.commit(staged, note).await?);
            }
            let details = Some(Details::Model(model.details.clone()));
            let change = match staged.held {
                true => Change::Hold(versions, details),
                false => Change::New(versions, details),
            };
            let (kind, name) = (Kind::Model, name.to_string());
            entries.push(NewEntry { kind, name, change, base: None });
        }
        match Registry::publish(&self.storage, run, &entries).await {
            Err(error @ CatalogError::Undecided { .. }) => Err(unsettled(run, error)),
            published => published,
        }
    }

    /// Commits once more what is published, after commits that could not be published, so that other
    /// programs don't read them.
    async fn take_back(&self, staged: &Staged, note: &CommitNote) -> Result<()> {
        let registry = self.registry().await?;
        for (name, table) in &staged.tables {
            let contents = match registry.current(Kind::Table, &name.to_string()) {
                Some(entry) => self.snapshot(&table.folder, entry.version).await?.contents.clone(),
                None => Contents { files: Vec::new(), ..table.contents.clone() },
            };
            let folder = self.storage.folder(&table.folder);
            delta::commit(&folder, &contents, note, None).await?;
        }
        Ok(())
    }

    async fn commit(&self, table: &StagedTable, note: &CommitNote) -> Result<u64> {
        let folder = self.storage.folder(&table.folder);
        let committed = delta::commit(&folder, &table.contents, note, None).await?;
        committed.ok_or(CatalogError::Contention { url: folder.url().to_string(), attempts: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::{Fault, Request, storage};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use url::Url;

    #[tokio::test]
    async fn a_publication_that_may_have_been_made_is_not_called_failed() {
        // The registry's commit is made, and then the store is gone.
        let gone = AtomicBool::new(false);
        let (_, stores) = storage(Duration::ZERO, move |request, path| {
            let commit = path.as_ref().contains("system/registry/_delta_log/");
            match (gone.load(Ordering::SeqCst), request, commit) {
                (false, Request::Create, true) => {
                    gone.store(true, Ordering::SeqCst);
                    Fault::Lost
                }
                (false, ..) => Fault::None,
                (true, ..) => Fault::Cut,
            }
        });
        let warehouse =
            Warehouse::open(&Url::parse("s3://bucket/warehouse").unwrap(), &stores).unwrap();
        let names = vec![NewEntry {
            kind: Kind::Schema,
            name: "x".to_string(),
            change: Change::New(BTreeMap::new(), None),
            base: None,
        }];
        let staged = Staged { names, ..Staged::default() };
        let error = warehouse.publish("r1", "CREATE SCHEMA", &staged).await.unwrap_err();
        assert!(matches!(error, CatalogError::Unsettled { .. }), "{error}");
        assert!(error.to_string().contains("run r1"), "{error}");
    }
}
