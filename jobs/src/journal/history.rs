//! The runs that there were.

use super::{Cause, Event, RunState, Status, archive, events, runs};
use crate::{JobError, Result};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use nightshift_catalog::journal::Record;
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
        }
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
            let run = whole(warehouse, &id).await.map(|(state, _)| Brief::of(&state));
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

async fn whole(warehouse: &Warehouse, id: &str) -> Result<Whole> {
    let events = events(warehouse, id, 1).await?;
    Ok((RunState::fold(id, &events)?, events))
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
