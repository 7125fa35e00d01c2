//! Files that no version needs any more: those of versions that were replaced, of tables and models
//! that were dropped, and of runs that never came to their end.

use crate::Result;
use crate::registry::{Entry, Kind, Registry};
use crate::warehouse::{Name, Warehouse, run_mark};
use crate::write::run_of_file;
use std::collections::{BTreeMap, BTreeSet};

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
    /// to no run that is under way: those of one table, or of all tables, and of the models and tables
    /// that were dropped. Logs stay, so that a name can be used again.
    pub async fn unneeded(&self, name: Option<&Name>, retain_hours: u64) -> Result<Vec<Cleaning>> {
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
    ) -> Result<Vec<Cleaning>> {
        let hours = i64::try_from(retain_hours).unwrap_or(i64::MAX);
        let retained = chrono::Duration::try_hours(hours)
            .and_then(|hours| chrono::Utc::now().checked_sub_signed(hours))
            .map_or(i64::MIN, |time| time.timestamp_micros());
        let folders = folders(registry, retained);
        let mut open_runs: BTreeMap<String, bool> = BTreeMap::new();
        let mut cleanings = Vec::new();
        for (folder, versions) in &folders {
            if name.is_some_and(|name| *folder != Self::table_folder(name)) {
                continue;
            }
            let mut needed = BTreeSet::new();
            for version in versions {
                let snapshot = self.snapshot(folder, *version).await?;
                needed.extend(snapshot.contents.files.iter().map(|file| file.path.clone()));
            }
            let storage = self.storage().folder(folder);
            let root = storage.path("");
            let mut cleaning = Cleaning { folder: folder.clone(), ..Cleaning::default() };
            for object in storage.list().await? {
                let parts = object.location.prefix_match(&root).into_iter().flatten();
                let path =
                    parts.map(|part| part.as_ref().to_string()).collect::<Vec<_>>().join("/");
                // A model's tables are in folders within that of a table of the same name.
                let others = folders.keys().filter_map(|other| other.strip_prefix(folder.as_str()));
                let of_other = |other: &str| {
                    other
                        .strip_prefix('/')
                        .is_some_and(|other| path.starts_with(&format!("{other}/")))
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
                }
                cleaning.bytes += object.size;
                cleaning.files.push(path);
            }
            if !cleaning.files.is_empty() {
                cleanings.push(cleaning);
            }
        }
        Ok(cleanings)
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
