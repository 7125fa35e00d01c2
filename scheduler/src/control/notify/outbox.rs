//! Notices that are to be delivered, written down before they are: whoever leads next delivers what is not delivered
//! yet, and nothing twice that it knows of.

use super::Notice;
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::pipeline::Event;
use nightshift_jobs::{JobError, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The folder within the warehouse.
const FOLDER: &str = "_nightshift/notices";

/// The object that says how the last run of each pipeline has ended.
const FAILING: &str = "failing.json";

/// How long it is remembered that a notice was delivered: longer than anybody is told of it for the first time.
const REMEMBERED: TimeDelta = TimeDelta::days(7);

/// Where notices are written down.
#[derive(Debug, Clone)]
pub struct Outbox(Storage);

/// A notice that is to be delivered. To whom is said by the pipeline, whose text may have secrets: of the receiver only
/// the notice's id tells which it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pending {
    /// What the pipeline's text is kept under.
    pub source: String,
    pipeline: String,
    run: String,
    about: Event,
    owner: Option<String>,
    reason: String,
    at: DateTime<Utc>,
}

/// How the last run of a pipeline has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it was not published although it should have been, or one before it that none was published after.
    pub failing: bool,
}

impl Pending {
    /// A notice that a run of this text has caused.
    pub fn new(source: &str, notice: &Notice) -> Self {
        let Notice { pipeline, run, about, owner, reason, at } = notice.clone();
        Self { source: source.to_string(), pipeline, run, about, owner, reason, at }
    }

    /// The notice.
    pub fn notice(self) -> Notice {
        let Self { pipeline, run, about, owner, reason, at, .. } = self;
        Notice { pipeline, run, about, owner, reason, at }
    }
}

impl Outbox {
    /// That of a warehouse.
    pub fn of(warehouse: &Warehouse) -> Self {
        Self(warehouse.storage().folder(FOLDER))
    }

    /// Writes down that a notice is to be delivered; `false` if it was delivered already.
    pub async fn put(&self, id: &str, pending: &Pending) -> Result<bool> {
        if self.0.exists(&told(id)).await? {
            return Ok(false);
        }
        self.0.put(&waiting(id), json(pending)?).await?;
        Ok(true)
    }

    /// Writes down that a notice needs no more deliveries.
    pub async fn done(&self, id: &str) -> Result<()> {
        self.0.put(&told(id), Vec::new()).await?;
        Ok(self.0.delete(&waiting(id)).await?)
    }

    /// All that is to be delivered, by its ids. What can't be read is told, and left alone.
    pub async fn waiting(&self) -> Result<BTreeMap<String, Pending>> {
        let mut found = BTreeMap::new();
        for object in self.0.folder("waiting").list().await? {
            let name = object.location.filename().unwrap_or_default();
            let Some(id) = name.strip_suffix(".json") else { continue };
            match self.0.get(&waiting(id)).await {
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(pending) => drop(found.insert(id.to_string(), pending)),
                    Err(error) => {
                        tracing::error!(id, %error, "a notice is damaged, and is not delivered");
                    }
                },
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Forgets notices that were delivered long ago.
    pub async fn tidy(&self, now: DateTime<Utc>) -> Result<()> {
        let folder = self.0.folder("told");
        for object in folder.list().await? {
            if now - object.last_modified > REMEMBERED
                && let Some(name) = object.location.filename()
            {
                folder.delete(name).await?;
            }
        }
        Ok(())
    }

    /// How the last runs of pipelines have ended, of those that have ever failed.
    pub async fn failing(&self) -> Result<BTreeMap<String, Ended>> {
        match self.0.get(FAILING).await {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "{FOLDER}/{FAILING} is damaged: nobody is told that pipelines have recovered");
                BTreeMap::new()
            })),
            Err(error) if error.is_missing() => Ok(BTreeMap::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers them.
    pub async fn note_failing(&self, pipelines: &BTreeMap<String, Ended>) -> Result<()> {
        Ok(self.0.put(FAILING, json(pipelines)?).await?)
    }
}

fn waiting(id: &str) -> String {
    format!("waiting/{id}.json")
}

fn told(id: &str) -> String {
    format!("told/{id}")
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let damaged = |error: serde_json::Error| JobError::Damaged {
        what: FOLDER.to_string(),
        reason: error.to_string(),
    };
    serde_json::to_vec(value).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::super::tests::notice;
    use super::*;
    use nightshift_catalog::storage::Stores;
    use url::Url;

    #[tokio::test]
    async fn what_is_not_delivered_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let outbox = Outbox::of(&Warehouse::open(&url, &Stores::default()).unwrap());
        assert!(outbox.waiting().await.unwrap().is_empty());
        for id in ["a", "b"] {
            assert!(outbox.put(id, &Pending::new("text", &notice())).await.unwrap());
        }
        outbox.done("a").await.unwrap();
        assert!(!outbox.put("a", &Pending::new("text", &notice())).await.unwrap());
        let path = folder.path().join(FOLDER).join("waiting/c.json");
        std::fs::write(path, "{").unwrap();
        let waiting = outbox.waiting().await.unwrap();
        assert_eq!(waiting.keys().collect::<Vec<_>>(), ["b"]);
        let found = waiting.into_values().next().unwrap();
        assert_eq!(found.source, "text");
        assert_eq!(found.notice(), notice());

        outbox.tidy(Utc::now() + TimeDelta::days(6)).await.unwrap();
        assert!(!outbox.put("a", &Pending::new("text", &notice())).await.unwrap());
        outbox.tidy(Utc::now() + TimeDelta::days(8)).await.unwrap();
        assert!(outbox.put("a", &Pending::new("text", &notice())).await.unwrap());

        assert!(outbox.failing().await.unwrap().is_empty());
        let ended = Ended { at: notice().at, failing: true };
        let failing = BTreeMap::from([("taste".to_string(), ended)]);
        outbox.note_failing(&failing).await.unwrap();
        assert_eq!(outbox.failing().await.unwrap(), failing);
    }
}
