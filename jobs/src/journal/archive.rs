//! Runs of long ago, many in one object: so that nobody has to list and read all that there ever was.
//!
//! An archive is two objects under the id of its last run: what is known of each run in short, and all events. Runs in
//! it are over, and nobody goes on with them, so what only that needs is left out.

use super::history::Brief;
use super::{Event, RunState, Status, journal, runs};
use crate::run::EffectRecord;
use crate::{JobError, Result};
use chrono::{DateTime, Utc};
use nightshift_catalog::journal::Record;
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The folder of archives within the warehouse.
const FOLDER: &str = "_nightshift/archive/runs";

/// Runs that are put into one archive at least: few are read as fast one by one.
const LEAST: usize = 100;

/// Runs that are put into one archive at most.
const MOST: usize = 1000;

/// A run with all its events.
#[derive(Serialize, Deserialize)]
pub(super) struct Archived {
    pub(super) id: String,
    pub(super) events: Vec<Record<Event>>,
}

fn folder(warehouse: &Warehouse) -> Storage {
    warehouse.storage().folder(FOLDER)
}

fn briefs_object(last: &str) -> String {
    format!("{last}.briefs.json")
}

fn events_object(last: &str) -> String {
    format!("{last}.events.json")
}

fn damaged(name: &str, error: &serde_json::Error) -> JobError {
    JobError::Damaged { what: format!("the archive {FOLDER}/{name}"), reason: error.to_string() }
}

async fn read<T: DeserializeOwned>(warehouse: &Warehouse, name: &str) -> Result<T> {
    let bytes = folder(warehouse).get(name).await?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(name, &error))
}

/// The ids of the last runs of all archives, sorted.
pub(super) async fn archives(warehouse: &Warehouse) -> Result<Vec<String>> {
    let listed = folder(warehouse).list().await?;
    let names = listed.iter().filter_map(|object| object.location.filename());
    let mut last: Vec<_> =
        names.filter_map(|name| Some(name.strip_suffix(".briefs.json")?.to_string())).collect();
    last.sort_unstable();
    Ok(last)
}

/// The runs of an archive in short, in the order of their ids.
pub(super) async fn briefs(warehouse: &Warehouse, last: &str) -> Result<Vec<Brief>> {
    read(warehouse, &briefs_object(last)).await
}

/// The runs of an archive with their events, in the order of their ids.
pub(super) async fn whole(warehouse: &Warehouse, last: &str) -> Result<Vec<Archived>> {
    read(warehouse, &events_object(last)).await
}

/// The archives that a run can be in. One that took long is in a later one than its neighbours.
async fn candidates(warehouse: &Warehouse, id: &str) -> Result<Vec<String>> {
    let all = archives(warehouse).await?;
    Ok(all.into_iter().filter(|last| last.as_str() >= id).collect())
}

/// Whether a run is in an archive.
pub(super) async fn has(warehouse: &Warehouse, id: &str) -> Result<bool> {
    for last in candidates(warehouse, id).await? {
        if briefs(warehouse, &last).await?.iter().any(|brief| brief.id == id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The events of a run that is in an archive; none if it is in no archive.
pub(super) async fn events(warehouse: &Warehouse, id: &str) -> Result<Vec<Record<Event>>> {
    for last in candidates(warehouse, id).await? {
        if briefs(warehouse, &last).await?.iter().any(|brief| brief.id == id) {
            let found = whole(warehouse, &last).await?.into_iter().find(|whole| whole.id == id);
            return Ok(found.map(|whole| whole.events).unwrap_or_default());
        }
    }
    Ok(Vec::new())
}

/// Puts runs that were over before a moment into an archive, if there are enough of them; says how many.
pub async fn archive(warehouse: &Warehouse, before: DateTime<Utc>) -> Result<usize> {
    let with_data: BTreeSet<_> = warehouse.runs_with_data().await?.into_iter().collect();
    let (mut whole, mut brief) = (Vec::new(), Vec::new());
    for id in runs(warehouse).await? {
        if whole.len() == MOST {
            break;
        }
        // One that can't be read stays where people can look at it.
        let Ok(mut events) = journal(warehouse, &id).read::<Event>(1).await else { continue };
        let Ok(state) = RunState::fold(&id, &events) else { continue };
        // Somebody may go on with one that has failed.
        if state.status == Status::Failed && with_data.contains(&id) {
            continue;
        }
        if state.ended_at.is_none_or(|ended_at| ended_at >= before) {
            continue;
        }
        for record in &mut events {
            if let Event::StepDone { effect, .. } = &mut record.event {
                *effect = EffectRecord::default();
            }
        }
        brief.push(Brief::of(&state));
        whole.push(Archived { id, events });
    }
    let Some(last) = whole.last().map(|whole| whole.id.clone()).filter(|_| whole.len() >= LEAST)
    else {
        return Ok(0);
    };
    let folder = folder(warehouse);
    let encode = |error| damaged(&last, &error);
    // The briefs say that the archive is there, so they come last.
    let (events, briefs) = (serde_json::to_vec(&whole), serde_json::to_vec(&brief));
    let events = folder.create(&events_object(&last), events.map_err(encode)?).await?;
    if !events || !folder.create(&briefs_object(&last), briefs.map_err(encode)?).await? {
        // Another leader has archived them, or is about to.
        return Ok(0);
    }
    for whole in &whole {
        journal(warehouse, &whole.id).delete().await?;
    }
    Ok(whole.len())
}

/// The ids of runs that are in an archive and have a journal all the same, because whoever archived them was stopped.
pub(super) async fn left_behind(warehouse: &Warehouse, ids: &[String]) -> Result<BTreeSet<String>> {
    let mut left = BTreeSet::new();
    let Some(last) = archives(warehouse).await?.pop() else { return Ok(left) };
    if ids.first().is_none_or(|first| *first > last) {
        return Ok(left);
    }
    let archived = briefs(warehouse, &last).await?.into_iter().map(|brief| brief.id);
    let archived: BTreeSet<_> = archived.collect();
    left.extend(ids.iter().filter(|id| archived.contains(*id)).cloned());
    Ok(left)
}
