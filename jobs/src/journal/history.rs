//! The runs that there were.

use super::{Cause, Event, RunState, Status, archive, events, is_lost, runs};
use crate::{JobError, Result};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use nightshift_catalog::journal::Record;
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The word for a run that is not over, and of which nothing is heard.
pub const LOST: &str = "lost";

/// Journals that are read at the same time.
const AT_ONCE: usize = 16;

/// What is known of a run in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// Its id.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// How far it is.
    pub status: Status,
    /// Why it was begun.
    pub cause: Cause,
    /// When.
    pub begun_at: DateTime<Utc>,
    /// When it has come to its end.
    pub ended_at: Option<DateTime<Utc>>,
    /// Seconds from its beginning to its end, or to the last event.
    pub seconds: f64,
    /// How many steps it has.
    pub steps: u64,
    /// How many of them are done.
    pub steps_done: u64,
    /// The publication that it has made.
    pub publication: Option<u64>,
    /// How often another process has gone on with it.
    pub taken_over: u32,
    /// Why it has failed.
    pub error: Option<String>,
    /// Whether nothing is heard any more of the process that drives it.
    #[serde(skip)]
    pub lost: bool,
}

impl Brief {
    pub(super) fn of(state: &RunState) -> Self {
        Self {
            id: state.id.clone(),
            pipeline: state.begun.pipeline.clone(),
            status: state.status,
            cause: state.begun.cause.clone(),
            begun_at: state.begun_at,
            ended_at: state.ended_at,
            seconds: state.seconds(),
            steps: state.steps.len() as u64,
            steps_done: state.done() as u64,
            publication: state.publication,
            taken_over: state.taken_over,
            error: state.error.clone(),
            lost: false,
        }
    }

    /// How far it is, in a word: `lost` if nobody drives it any more.
    pub fn word(&self) -> &'static str {
        if self.lost { LOST } else { self.status.as_str() }
    }
}

/// A run, or why its journal can't be read: one that is damaged hides no others.
pub struct Kept<T> {
    /// The run's id.
    pub id: String,
    /// What is known of it.
    pub run: Result<T>,
}

/// A run's state and its events.
pub type Whole = (RunState, Vec<Record<Event>>);

/// The runs that `wanted` accepts, the latest first, and at most `limit` of them.
pub async fn latest(
    warehouse: &Warehouse,
    limit: usize,
    wanted: impl Fn(&Brief) -> bool,
) -> Result<Vec<Kept<Brief>>> {
    let ids = runs(warehouse).await?;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut all = futures::stream::iter(ids.into_iter().rev())
        .map(|id| async {
            let run = brief(warehouse, &id).await;
            Kept { id, run }
        })
        .buffered(AT_ONCE);
    while found.len() < limit
        && let Some(kept) = all.next().await
    {
        seen.insert(kept.id.clone());
        if kept.run.as_ref().map_or(true, &wanted) {
            found.push(kept);
        }
    }
    for last in archive::archives(warehouse).await?.iter().rev() {
        if found.len() >= limit {
            break;
        }
        let briefs = archive::briefs(warehouse, last).await?.into_iter().rev();
        let briefs = briefs.filter(|brief| wanted(brief) && seen.insert(brief.id.clone()));
        let kept = briefs.map(|brief| Kept { id: brief.id.clone(), run: Ok(brief) });
        found.extend(kept.take(limit - found.len()));
    }
    Ok(found)
}

/// All runs with their events, the latest first.
pub async fn all(warehouse: &Warehouse) -> Result<Vec<Kept<Whole>>> {
    let ids = runs(warehouse).await?.into_iter().rev();
    let read = futures::stream::iter(ids)
        .map(|id| async { Kept { run: whole(warehouse, &id).await, id } })
        .buffered(AT_ONCE);
    let mut found: Vec<_> = read.collect().await;
    let mut seen: BTreeSet<String> = found.iter().map(|kept| kept.id.clone()).collect();
    for last in archive::archives(warehouse).await?.iter().rev() {
        for archived in archive::whole(warehouse, last).await?.into_iter().rev() {
            if seen.insert(archived.id.clone()) {
                let state = RunState::fold(&archived.id, &archived.events);
                let run = state.map(|state| (state, archived.events));
                found.push(Kept { id: archived.id, run });
            }
        }
    }
    Ok(found)
}

async fn brief(warehouse: &Warehouse, id: &str) -> Result<Brief> {
    let (state, _) = whole(warehouse, id).await?;
    Ok(Brief { lost: is_lost(warehouse, &state).await?, ..Brief::of(&state) })
}

async fn whole(warehouse: &Warehouse, id: &str) -> Result<Whole> {
    let events = events(warehouse, id, 1).await?;
    Ok((RunState::fold(id, &events)?, events))
}

/// The run that somebody means who wants to end it or to go on with it: as [`find`] does, but the `last` of those that
/// are not over.
///
/// # Errors
/// If that is none, or several.
pub async fn find_under_way(warehouse: &Warehouse, meant: &str) -> Result<String> {
    if meant != "last" {
        return find(warehouse, meant).await;
    }
    // Those in archives are over.
    let ids = runs(warehouse).await?;
    let mut all = futures::stream::iter(ids.into_iter().rev())
        .map(|id| async {
            let run = whole(warehouse, &id).await;
            Kept { id, run }
        })
        .buffered(AT_ONCE);
    while let Some(Kept { id, run }) = all.next().await {
        match run {
            Ok((state, _)) if !state.is_over() => return Ok(id),
            Err(error) if error.can_pass() => return Err(error),
            // Nobody can do anything with one whose journal is damaged.
            Ok(_) | Err(_) => {}
        }
    }
    let reason = "no run is under way; `nightshift runs` lists those that there were".to_string();
    Err(JobError::Statement(reason))
}

/// The run that somebody means: by its id, by the beginning or the end of its id, or the `last`.
///
/// # Errors
/// If that is none, or several.
pub async fn find(warehouse: &Warehouse, meant: &str) -> Result<String> {
    let unknown = || JobError::UnknownRun { id: meant.to_string() };
    let ids = runs(warehouse).await?;
    if meant == "last" {
        let last = ids.into_iter().next_back();
        let archived = archive::archives(warehouse).await?.into_iter().next_back();
        return last.max(archived).ok_or_else(unknown);
    }
    let one_of = |ids: &[String]| -> Result<Option<String>> {
        let mut found = ids.iter().filter(|id| id.starts_with(meant) || id.ends_with(meant));
        match (found.next(), found.next()) {
            (Some(one), Some(other)) if one != meant && other != meant => {
                let reason = format!("{meant} can be run {one} or {other}: say more of its id");
                Err(JobError::Statement(reason))
            }
            (Some(_), Some(_)) => Ok(Some(meant.to_string())),
            (one, None) => Ok(one.cloned()),
            (None, Some(_)) => Ok(None),
        }
    };
    if let Some(found) = one_of(&ids)? {
        return Ok(found);
    }
    // Of those that were archived, the latest counts.
    for last in archive::archives(warehouse).await?.iter().rev() {
        let briefs = archive::briefs(warehouse, last).await?;
        let ids: Vec<_> = briefs.into_iter().map(|brief| brief.id).collect();
        if let Some(found) = one_of(&ids)? {
            return Ok(found);
        }
    }
    Err(unknown())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, RunJournal};
    use nightshift_catalog::storage::Stores;
    use url::Url;

    /// The last run that is not over, or what is said of it.
    async fn last(warehouse: &Warehouse) -> String {
        find_under_way(warehouse, "last").await.unwrap_or_else(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_last_run_that_can_be_ended_is_one_that_is_not_over() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        assert!(last(&warehouse).await.starts_with("no run is under way"));
        let mut journals = Vec::new();
        for id in ["r1", "r2", "r3"] {
            journals.push(
                RunJournal::begin(&warehouse, id, Begun::without_steps(false)).await.unwrap(),
            );
        }
        assert_eq!(last(&warehouse).await, "r3");
        journals[2].append(Event::Failed { error: "e".to_string() }).await.unwrap();
        assert_eq!(last(&warehouse).await, "r2");
        assert_eq!(find(&warehouse, "last").await.unwrap(), "r3");
        assert_eq!(find_under_way(&warehouse, "r3").await.unwrap(), "r3");
        // One that is damaged hides no others.
        let event = folder.path().join("_nightshift/journals/runs/r2/00000001.json");
        std::fs::write(event, "{").unwrap();
        assert_eq!(last(&warehouse).await, "r1");
        journals[0].append(Event::Cancelled { reason: "r".to_string() }).await.unwrap();
        assert!(last(&warehouse).await.starts_with("no run is under way"));
    }
}
