//! Notices of runs, written down before anybody is told: whoever leads next delivers what is not delivered yet, and
//! nothing twice that it knows of. What nobody takes is kept for people to look at.
//!
//! How notices are delivered is known to schedulers alone.

use crate::pipeline::Event;
use crate::{JobError, Result};
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The folder within the warehouse.
const FOLDER: &str = "_nightshift/notices";

/// The folder in it of notices that are to be delivered, and the word for that.
const WAITING: &str = "waiting";

/// The folder of those that nobody takes, and the word for that.
const UNDELIVERABLE: &str = "undeliverable";

/// The folder of marks that notices need no more deliveries.
const TOLD: &str = "told";

/// What the names of notices end with.
const SUFFIX: &str = ".json";

/// The object that says how the last run of each pipeline has ended.
const FAILING: &str = "failing.json";

/// How long it is remembered what has become of a notice: longer than anybody is told of it for the first time.
const REMEMBERED: TimeDelta = TimeDelta::days(7);

/// Where notices are written down.
#[derive(Debug, Clone)]
pub struct Outbox(Storage);

/// A notice as it is written down. To whom it goes is said by the pipeline, whose text may have secrets: which receiver
/// it is, only the notice's id tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What the pipeline's text is kept under.
    pub source: String,
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run: String,
    /// What has happened to it.
    pub about: Event,
    /// Who the pipeline belongs to.
    pub owner: Option<String>,
    /// Why it has happened.
    pub reason: String,
    /// When it has happened.
    pub at: DateTime<Utc>,
    /// Who is told, as everybody may see it.
    #[serde(default)]
    pub receiver: String,
    /// How often it was tried in vain.
    #[serde(default)]
    pub attempts: u32,
    /// Why the last attempt has failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// How the last run of a pipeline has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it was not published although it should have been, or one before it that none was published after.
    pub failing: bool,
}

impl Outbox {
    /// That of a warehouse.
    pub fn of(warehouse: &Warehouse) -> Self {
        Self(warehouse.storage().folder(FOLDER))
    }

    /// Writes down that a notice is to be delivered; `false` if it needs no more deliveries.
    pub async fn put(&self, id: &str, pending: &Pending) -> Result<bool> {
        if self.0.exists(&told(id)).await? {
            return Ok(false);
        }
        self.note(id, pending).await?;
        Ok(true)
    }

    /// Writes down how the attempts to deliver a notice have gone so far.
    pub async fn note(&self, id: &str, pending: &Pending) -> Result<()> {
        Ok(self.0.put(&notice(WAITING, id), json(pending)?).await?)
    }

    /// Writes down that a notice needs no more deliveries.
    pub async fn done(&self, id: &str) -> Result<()> {
        self.0.put(&told(id), Vec::new()).await?;
        Ok(self.0.delete(&notice(WAITING, id)).await?)
    }

    /// Writes down that nobody takes a notice.
    pub async fn give_up(&self, id: &str, pending: &Pending) -> Result<()> {
        self.0.put(&notice(UNDELIVERABLE, id), json(pending)?).await?;
        self.done(id).await
    }

    /// All that is to be delivered, by its ids. What can't be read is told, and left alone.
    pub async fn waiting(&self) -> Result<BTreeMap<String, Pending>> {
        let mut waiting = self.read(WAITING).await?;
        // Whoever has lost the lead in the middle of an attempt may have noted that it has failed, after another has
        // delivered the notice.
        for object in self.0.folder(TOLD).list().await? {
            waiting.remove(object.location.filename().unwrap_or_default());
        }
        Ok(waiting)
    }

    /// All that is to be delivered, and what nobody has taken in the last days, each with the word for which it is, in
    /// the order in which it has happened.
    pub async fn all(&self) -> Result<Vec<(&'static str, Pending)>> {
        let waiting = self.waiting().await?;
        let mut undeliverable = self.read(UNDELIVERABLE).await?;
        undeliverable.retain(|id, _| !waiting.contains_key(id));
        let waiting = waiting.into_values().map(|pending| (WAITING, pending));
        let undeliverable = undeliverable.into_values().map(|pending| (UNDELIVERABLE, pending));
        let mut all: Vec<_> = waiting.chain(undeliverable).collect();
        all.sort_by_key(|(_, pending)| pending.at);
        Ok(all)
    }

    async fn read(&self, kind: &str) -> Result<BTreeMap<String, Pending>> {
        let folder = self.0.folder(kind);
        let mut found = BTreeMap::new();
        for object in folder.list().await? {
            let name = object.location.filename().unwrap_or_default();
            let Some(id) = name.strip_suffix(SUFFIX) else { continue };
            match folder.get(name).await {
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

    /// Forgets notices that were delivered, or given up, long ago.
    pub async fn tidy(&self, now: DateTime<Utc>) -> Result<()> {
        for kind in [UNDELIVERABLE, TOLD] {
            let folder = self.0.folder(kind);
            for object in folder.list().await? {
                if now - object.last_modified > REMEMBERED
                    && let Some(name) = object.location.filename()
                {
                    if kind == TOLD {
                        // Without the mark it would be delivered once more.
                        self.0.delete(&notice(WAITING, name)).await?;
                    }
                    folder.delete(name).await?;
                }
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

fn notice(kind: &str, id: &str) -> String {
    format!("{kind}/{id}{SUFFIX}")
}

fn told(id: &str) -> String {
    format!("{TOLD}/{id}")
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
    use super::*;
    use nightshift_catalog::storage::Stores;
    use std::path::Path;
    use url::Url;

    fn outbox(folder: &Path) -> Outbox {
        let url = Url::from_file_path(folder).unwrap();
        Outbox::of(&Warehouse::open(&url, &Stores::default()).unwrap())
    }

    /// A notice of a run that has failed at a second.
    fn pending(second: i64) -> Pending {
        Pending {
            source: "text".to_string(),
            pipeline: "taste".to_string(),
            run: "r".to_string(),
            about: Event::Failure,
            owner: None,
            reason: "no".to_string(),
            at: DateTime::from_timestamp(second, 0).unwrap(),
            receiver: "mail to team@example.com".to_string(),
            attempts: 0,
            error: None,
        }
    }

    #[tokio::test]
    async fn what_is_not_delivered_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(folder.path());
        assert!(outbox.waiting().await.unwrap().is_empty());
        for id in ["a", "b"] {
            assert!(outbox.put(id, &pending(1)).await.unwrap());
        }
        outbox.done("a").await.unwrap();
        assert!(!outbox.put("a", &pending(1)).await.unwrap());
        let path = folder.path().join(FOLDER).join("waiting/c.json");
        std::fs::write(path, "{").unwrap();
        let waiting = outbox.waiting().await.unwrap();
        assert_eq!(waiting.into_iter().collect::<Vec<_>>(), [("b".to_string(), pending(1))]);

        outbox.tidy(Utc::now() + TimeDelta::days(6)).await.unwrap();
        assert!(!outbox.put("a", &pending(1)).await.unwrap());
        outbox.tidy(Utc::now() + TimeDelta::days(8)).await.unwrap();
        assert!(outbox.put("a", &pending(1)).await.unwrap());

        assert!(outbox.failing().await.unwrap().is_empty());
        let ended = Ended { at: pending(1).at, failing: true };
        let failing = BTreeMap::from([("taste".to_string(), ended)]);
        outbox.note_failing(&failing).await.unwrap();
        assert_eq!(outbox.failing().await.unwrap(), failing);
    }

    #[tokio::test]
    async fn what_nobody_takes_is_kept_for_a_week() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(folder.path());
        for (id, second) in [("a", 2), ("b", 1)] {
            outbox.put(id, &pending(second)).await.unwrap();
        }
        let tried = Pending { attempts: 1, error: Some("gone".to_string()), ..pending(2) };
        outbox.give_up("a", &tried).await.unwrap();
        let expected = [(WAITING, pending(1)), (UNDELIVERABLE, tried)];
        assert_eq!(outbox.all().await.unwrap(), expected);
        assert!(!outbox.put("a", &pending(2)).await.unwrap());

        outbox.tidy(Utc::now() + TimeDelta::days(6)).await.unwrap();
        assert_eq!(outbox.all().await.unwrap(), expected);
        outbox.tidy(Utc::now() + TimeDelta::days(8)).await.unwrap();
        assert_eq!(outbox.all().await.unwrap(), expected[..1]);
    }

    #[tokio::test]
    async fn an_attempt_that_is_noted_too_late_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(folder.path());
        outbox.put("a", &pending(1)).await.unwrap();
        outbox.done("a").await.unwrap();
        outbox.note("a", &Pending { attempts: 1, ..pending(1) }).await.unwrap();
        assert!(outbox.waiting().await.unwrap().is_empty());
        outbox.tidy(Utc::now() + TimeDelta::days(8)).await.unwrap();
        assert!(outbox.all().await.unwrap().is_empty());
    }

    #[test]
    fn what_was_written_down_before_can_be_read() {
        let text = r#"{"source": "text", "pipeline": "taste", "run": "r", "about": "failure", "owner": null,
                       "reason": "no", "at": "1970-01-01T00:00:01Z"}"#;
        let expected = Pending { receiver: String::new(), ..pending(1) };
        assert_eq!(serde_json::from_str::<Pending>(text).unwrap(), expected);
    }
}
