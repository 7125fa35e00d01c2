//! Sequences of events on object storage.
//!
//! An event is one object, created if absent under the next number. Whoever comes second is told so: that is what
//! keeps two processes from doing the same work. What an event says is for others to know.

use crate::storage::Storage;
use crate::warehouse::Warehouse;
use crate::{CatalogError, Result};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The folder of all journals within the warehouse.
const FOLDER: &str = "_nightshift/journals";

/// The version of the form in which events are written.
const FORMAT: u32 = 2;

/// Events that are read at the same time.
const AT_ONCE: usize = 16;

/// An event with what is known of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record<E> {
    /// The version of this form.
    format: u32,
    /// Its place in the journal, from 1.
    pub number: u64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// Who has written it: no two processes have the same.
    pub writer: String,
    /// What has happened.
    pub event: E,
}

/// The version of an event's form, whatever else is in it.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// One sequence of events.
#[derive(Debug, Clone)]
pub struct Journal {
    storage: Storage,
}

fn object(number: u64) -> String {
    format!("{number:08}.json")
}

impl Journal {
    /// The journal of a name among those of a kind.
    pub fn open(warehouse: &Warehouse, kind: &str, name: &str) -> Self {
        Self { storage: warehouse.storage().folder(&format!("{FOLDER}/{kind}/{name}")) }
    }

    /// The names of all journals of a kind, sorted.
    pub async fn names(warehouse: &Warehouse, kind: &str) -> Result<Vec<String>> {
        warehouse.storage().folder(&format!("{FOLDER}/{kind}")).folders().await
    }

    /// Writes an event under a number; `None` if another has been written under it.
    pub async fn append<E: Serialize + Clone>(
        &self,
        number: u64,
        writer: &str,
        event: &E,
    ) -> Result<Option<Record<E>>> {
        let (writer, event) = (writer.to_string(), event.clone());
        let record = Record { format: FORMAT, number, at: Utc::now(), writer, event };
        let bytes = serde_json::to_vec(&record).map_err(|error| self.damaged(number, &error))?;
        let created = self.storage.create(&object(number), bytes).await?;
        Ok(created.then_some(record))
    }

    /// The event of a number, if there is one.
    pub async fn get<E: DeserializeOwned>(&self, number: u64) -> Result<Option<Record<E>>> {
        match self.storage.get(&object(number)).await {
            Ok(bytes) => self.decode(number, &bytes).map(Some),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is an event of a number.
    pub async fn has(&self, number: u64) -> Result<bool> {
        self.storage.exists(&object(number)).await
    }

    /// All events from a number on.
    ///
    /// # Errors
    /// If an event is missing between others, can't be read, or was written by a later version.
    pub async fn read<E: DeserializeOwned>(&self, from: u64) -> Result<Vec<Record<E>>> {
        let mut numbers = Vec::new();
        for object in self.storage.list().await? {
            let name = object.location.filename().unwrap_or_default();
            let number = name.strip_suffix(".json").and_then(|number| number.parse::<u64>().ok());
            numbers.extend(number.filter(|number| *number >= from));
        }
        numbers.sort_unstable();
        for (expected, number) in (from..).zip(&numbers) {
            if expected != *number {
                return Err(self.damaged(expected, &"it is missing, and there are later ones"));
            }
        }
        futures::stream::iter(numbers)
            .map(|number| async move {
                self.decode(number, &self.storage.get(&object(number)).await?)
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Deletes all events.
    pub async fn delete(&self) -> Result<()> {
        self.storage.delete_all().await
    }

    fn decode<E: DeserializeOwned>(&self, number: u64, bytes: &[u8]) -> Result<Record<E>> {
        let Format { format } =
            serde_json::from_slice(bytes).map_err(|error| self.damaged(number, &error))?;
        if format > FORMAT {
            let reason = format!(
                "it was written by a later version of this program (form {format}, known is {FORMAT}): use \
                 that version"
            );
            return Err(self.damaged(number, &reason));
        }
        serde_json::from_slice(bytes).map_err(|error| self.damaged(number, &error))
    }

    fn damaged(&self, number: u64, reason: &dyn std::fmt::Display) -> CatalogError {
        CatalogError::Event {
            url: format!("{}{}", self.storage.url(), object(number)),
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Stores;
    use url::Url;

    fn journal(folder: &tempfile::TempDir) -> Journal {
        let url = Url::from_file_path(folder.path()).unwrap();
        Journal::open(&Warehouse::open(&url, &Stores::default()).unwrap(), "runs", "r1")
    }

    #[tokio::test]
    async fn an_event_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        assert!(journal.append(1, "a", &"begun".to_string()).await.unwrap().is_some());
        assert!(journal.append(2, "a", &"done".to_string()).await.unwrap().is_some());
        assert!(journal.append(2, "b", &"failed".to_string()).await.unwrap().is_none());
        let events = journal.read::<String>(1).await.unwrap();
        let events: Vec<_> =
            events.iter().map(|r| (r.number, r.writer.as_str(), r.event.as_str())).collect();
        assert_eq!(events, [(1, "a", "begun"), (2, "a", "done")]);
        assert_eq!(journal.read::<String>(2).await.unwrap().len(), 1);
        assert!(journal.has(2).await.unwrap() && !journal.has(3).await.unwrap());
        assert_eq!(journal.get::<String>(3).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        for number in [1, 2, 3] {
            journal.append(number, "a", &"x".to_string()).await.unwrap();
        }
        let file = |number: u64| {
            folder.path().join(format!("_nightshift/journals/runs/r1/{}", object(number)))
        };
        let message = async || journal.read::<String>(1).await.unwrap_err().to_string();
        let text = std::fs::read_to_string(file(3)).unwrap();
        std::fs::write(file(3), text.replace(&format!("\"format\":{FORMAT}"), "\"format\":9"))
            .unwrap();
        let newer = message().await;
        assert!(newer.contains("00000003.json") && newer.contains("later version"), "{newer}");
        std::fs::write(file(3), "{\"form").unwrap();
        let broken = message().await;
        assert!(broken.contains("00000003.json") && broken.contains("EOF"), "{broken}");
        std::fs::write(file(3), text).unwrap();
        std::fs::remove_file(file(2)).unwrap();
        let missing = message().await;
        assert!(missing.contains("00000002.json") && missing.contains("missing"), "{missing}");
    }
}
