//! Pipelines that schedulers run by themselves: which there are is a journal too.

use super::{Given, Pipeline, Source};
use crate::{JobError, Result};
use chrono::{DateTime, Utc};
use nightshift_catalog::journal::{Journal, Record};
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The kind and the name of the journal.
const KIND: &str = "pipelines";
const NAME: &str = "all";

/// What becomes of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Change {
    /// It is run from now on, or another version of it.
    Deployed {
        /// The text, as it is kept in the warehouse.
        source: String,
    },
    /// It is not run until it is resumed.
    Paused,
    /// It is run again.
    Resumed,
    /// It is not run any more.
    Undeployed,
}

/// An event of the journal of all pipelines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Event {
    pipeline: String,
    /// Who wanted it.
    who: String,
    change: Change,
}

/// A pipeline that schedulers run.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployed {
    /// Its name.
    pub name: String,
    /// Its version, from 1.
    pub version: u64,
    /// The text, as it is kept in the warehouse.
    pub source: String,
    /// When this version was deployed.
    pub deployed_at: DateTime<Utc>,
    /// Who has deployed it.
    pub deployed_by: String,
    /// Who has paused it, if it is.
    pub paused_by: Option<String>,
    /// Since when it is run at its times: when it was deployed for the first time, or resumed.
    pub since: DateTime<Utc>,
}

/// All pipelines that schedulers run.
#[derive(Debug, Clone)]
pub struct AllDeployed {
    journal: Journal,
    pipelines: BTreeMap<String, Deployed>,
    /// Versions of each name so far, those that are not deployed any more among them.
    versions: BTreeMap<String, u64>,
    /// The number of the next event.
    next: u64,
}

impl AllDeployed {
    /// Whether anything was ever deployed.
    pub async fn were_any(warehouse: &Warehouse) -> Result<bool> {
        Ok(Journal::open(warehouse, KIND, NAME).has(1).await?)
    }

    /// What is deployed now.
    pub async fn read(warehouse: &Warehouse) -> Result<Self> {
        let journal = Journal::open(warehouse, KIND, NAME);
        let (pipelines, versions) = Default::default();
        let mut all = Self { journal, pipelines, versions, next: 1 };
        all.refresh().await?;
        Ok(all)
    }

    /// Takes note of what has changed since; says whether something has.
    pub async fn refresh(&mut self) -> Result<bool> {
        if self.next > 1 && !self.journal.has(self.next).await? {
            return Ok(false);
        }
        let events = self.journal.read::<Event>(self.next).await?;
        events.iter().for_each(|record| self.apply(record));
        Ok(!events.is_empty())
    }

    fn apply(&mut self, record: &Record<Event>) {
        self.next = record.number + 1;
        let Event { pipeline, who, change } = &record.event;
        match change {
            Change::Deployed { source } => {
                let version = self.versions.entry(pipeline.clone()).or_default();
                *version += 1;
                let before = self.pipelines.get(pipeline);
                let deployed = Deployed {
                    name: pipeline.clone(),
                    version: *version,
                    source: source.clone(),
                    deployed_at: record.at,
                    deployed_by: who.clone(),
                    // What is paused stays so until it is resumed.
                    paused_by: before.and_then(|before| before.paused_by.clone()),
                    since: before.map_or(record.at, |before| before.since),
                };
                self.pipelines.insert(pipeline.clone(), deployed);
            }
            Change::Paused => {
                if let Some(deployed) = self.pipelines.get_mut(pipeline) {
                    deployed.paused_by = Some(who.clone());
                }
            }
            Change::Resumed => {
                if let Some(deployed) = self.pipelines.get_mut(pipeline)
                    && deployed.paused_by.take().is_some()
                {
                    deployed.since = record.at;
                }
            }
            Change::Undeployed => drop(self.pipelines.remove(pipeline)),
        }
    }

    /// The pipelines by name.
    pub fn pipelines(&self) -> impl Iterator<Item = &Deployed> {
        self.pipelines.values()
    }

    /// The pipeline of a name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &str) -> Result<&Deployed> {
        self.pipelines.get(name).ok_or_else(|| {
            let known: Vec<_> = self.pipelines.keys().map(String::as_str).collect();
            let known = match known.is_empty() {
                true => "none is deployed".to_string(),
                false => format!("deployed are {}", known.join(", ")),
            };
            JobError::Statement(format!("there is no deployed pipeline {name}; {known}"))
        })
    }

    /// Deploys a pipeline, or a new version of it. A text that is deployed already is not deployed again.
    pub async fn deploy(
        &mut self,
        warehouse: &Warehouse,
        pipeline: &Pipeline,
        who: &str,
    ) -> Result<&Deployed> {
        let name = pipeline.name();
        let source = pipeline.source().keep(warehouse).await?;
        let is_new =
            |all: &Self| all.pipelines.get(&name).is_none_or(|there| there.source != source);
        self.append(&name, who, Change::Deployed { source: source.clone() }, is_new).await?;
        self.get(&name)
    }

    /// Pauses a pipeline: it is not run at its times.
    pub async fn pause(&mut self, name: &str, who: &str) -> Result<&Deployed> {
        self.get(name)?;
        let runs = |all: &Self| all.get(name).is_ok_and(|there| there.paused_by.is_none());
        self.append(name, who, Change::Paused, runs).await?;
        self.get(name)
    }

    /// Lets a pipeline that was paused be run again, from its next time on.
    pub async fn resume(&mut self, name: &str, who: &str) -> Result<&Deployed> {
        self.get(name)?;
        let paused = |all: &Self| all.get(name).is_ok_and(|there| there.paused_by.is_some());
        self.append(name, who, Change::Resumed, paused).await?;
        self.get(name)
    }

    /// Lets a pipeline be run no more. A run that is under way goes on.
    pub async fn undeploy(&mut self, name: &str, who: &str) -> Result<()> {
        self.get(name)?;
        let there = |all: &Self| all.pipelines.contains_key(name);
        self.append(name, who, Change::Undeployed, there).await
    }

    /// Writes an event, as long as it makes a difference to what others have written meanwhile.
    async fn append(
        &mut self,
        pipeline: &str,
        who: &str,
        change: Change,
        differs: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let writer = Uuid::now_v7().to_string();
        let event = Event { pipeline: pipeline.to_string(), who: who.to_string(), change };
        while differs(self) {
            match self.journal.append(self.next, &writer, &event).await? {
                Some(record) => {
                    self.apply(&record);
                    break;
                }
                None => drop(self.refresh().await?),
            }
        }
        Ok(())
    }
}

impl Deployed {
    /// The pipeline itself.
    pub async fn pipeline(&self, warehouse: &Warehouse) -> Result<Pipeline> {
        Pipeline::of(Source::kept(warehouse, &self.source).await?, &Given::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_catalog::storage::Stores;
    use std::path::Path;
    use url::Url;

    fn warehouse(folder: &Path) -> Warehouse {
        Warehouse::open(&Url::from_file_path(folder).unwrap(), &Stores::default()).unwrap()
    }

    fn pipeline(folder: &Path, text: &str) -> Pipeline {
        std::fs::create_dir_all(folder.join("p")).unwrap();
        std::fs::write(folder.join("p/a.sql"), text).unwrap();
        Pipeline::read(&folder.join("p")).unwrap()
    }

    #[tokio::test]
    async fn versions_are_counted_and_what_changes_nothing_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(folder.path());
        let mut all = AllDeployed::read(&warehouse).await.unwrap();
        let mut other = all.clone();
        let one = pipeline(folder.path(), "CREATE TABLE x.a AS SELECT 1 AS y");
        let two = pipeline(folder.path(), "CREATE TABLE x.a AS SELECT 2 AS y");
        assert_eq!(all.deploy(&warehouse, &one, "ann").await.unwrap().version, 1);
        assert_eq!(all.deploy(&warehouse, &one, "ann").await.unwrap().version, 1);
        // Another process knows nothing of it yet.
        let deployed = other.deploy(&warehouse, &two, "bob").await.unwrap();
        assert_eq!((deployed.version, deployed.deployed_by.as_str()), (2, "bob"));
        assert!(all.refresh().await.unwrap() && !all.refresh().await.unwrap());
        assert_eq!(all.get("p").unwrap(), other.get("p").unwrap());
        let read = all.get("p").unwrap().pipeline(&warehouse).await.unwrap();
        assert_eq!(read.source().files, two.source().files);

        let since = all.get("p").unwrap().since;
        assert_eq!(all.pause("p", "ann").await.unwrap().paused_by.as_deref(), Some("ann"));
        assert_eq!(other.deploy(&warehouse, &one, "bob").await.unwrap().version, 3);
        assert!(other.get("p").unwrap().paused_by.is_some());
        assert!(other.resume("p", "bob").await.unwrap().since > since);
        other.undeploy("p", "bob").await.unwrap();
        let events = other.next;
        let message = other.undeploy("p", "bob").await.unwrap_err().to_string();
        assert!(message.contains("no deployed pipeline p; none is deployed"), "{message}");
        assert_eq!(other.next, events);
        assert_eq!(other.deploy(&warehouse, &one, "bob").await.unwrap().version, 4);
        all.refresh().await.unwrap();
        assert_eq!(all.pipelines().count(), 1);
    }
}
