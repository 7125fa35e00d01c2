//! Runs of long ago, many in one object: so that nobody has to list and read all that there ever was.
//!
//! An archive is two objects under the id of its last run: what is known of each run in short, and all events. Runs in
//! it are over, and nobody goes on with them, so what only that needs is left out.

use super::history::Brief;
use super::{Event, RunState, Status, journal};
use crate::run::EffectRecord;
use crate::{JobError, Result};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::journal::Record;
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The folder of archives within the warehouse.
const FOLDER: &str = "_nightshift/archive/runs";

/// Runs that are put into one archive at least: few are read as fast one by one.
const LEAST: usize = 100;

/// Runs that are put into one archive at most.
const MOST: usize = 1000;

/// How long ago the events of an archive without briefs must have been written by somebody who was stopped since.
const STOPPED: TimeDelta = TimeDelta::hours(1);

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

/// Puts runs that were over before a moment into an archive, if there are enough of them, and returns their ids. `known`
/// is what is known of runs: of those that are not over by it, and of all as long as there are too few, nothing is read.
pub async fn archive(
    warehouse: &Warehouse,
    known: &BTreeMap<String, RunState>,
    before: DateTime<Utc>,
) -> Result<Vec<String>> {
    let was_over = |state: &RunState| state.ended_at.is_some_and(|ended_at| ended_at < before);
    let mut over: Vec<_> = known.values().filter(|state| was_over(state)).collect();
    if over.len() < LEAST {
        return Ok(Vec::new());
    }
    let with_data: BTreeSet<_> = warehouse.runs_with_data().await?.into_iter().collect();
    // Somebody may go on with one that has failed.
    let may_go_on =
        |state: &RunState| state.status == Status::Failed && with_data.contains(&state.id);
    over.retain(|state| !may_go_on(state));
    if over.len() < LEAST {
        return Ok(Vec::new());
    }
    let (mut whole, mut brief) = (Vec::new(), Vec::new());
    for RunState { id, .. } in over {
        if whole.len() == MOST {
            break;
        }
        // One that can't be read stays where people can look at it.
        let Ok(mut events) = journal(warehouse, id).read::<Event>(1).await else { continue };
        let Ok(state) = RunState::fold(id, &events) else { continue };
        // Somebody may have gone on with it since it was known to be over.
        if may_go_on(&state) || !was_over(&state) {
            continue;
        }
        for record in &mut events {
            if let Event::StepDone { effect, .. } = &mut record.event {
                *effect = EffectRecord::default();
            }
        }
        brief.push(Brief::of(&state));
        whole.push(Archived { id: id.clone(), events });
    }
    let Some(last) = whole.last().map(|whole| whole.id.clone()).filter(|_| whole.len() >= LEAST)
    else {
        return Ok(Vec::new());
    };
    let folder = folder(warehouse);
    let encode = |error| damaged(&last, &error);
    // The briefs say that the archive is there, so they come last.
    let (events, briefs) = (serde_json::to_vec(&whole), serde_json::to_vec(&brief));
    let (events, briefs) = (Bytes::from(events.map_err(encode)?), briefs.map_err(encode)?);
    let (events_object, briefs_object) = (events_object(&last), briefs_object(&last));
    if !folder.create(&events_object, events.clone()).await? {
        // Another leader has archived them, or is about to, unless it was stopped before it came to the briefs.
        let written_at = folder.written_at(&events_object).await?;
        let is_left = written_at.is_some_and(|written_at| Utc::now() - written_at > STOPPED);
        if !is_left || folder.exists(&briefs_object).await? {
            return Ok(Vec::new());
        }
        folder.put(&events_object, events).await?;
    }
    if !folder.create(&briefs_object, briefs).await? {
        return Ok(Vec::new());
    }
    let archived: Vec<_> = whole.into_iter().map(|whole| whole.id).collect();
    for id in &archived {
        journal(warehouse, id).delete().await?;
    }
    Ok(archived)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, Driver, RunJournal, runs, state};
    use nightshift_catalog::storage::Stores;
    use nightshift_catalog::warehouse::run_folder;
    use std::fs::File;
    use std::path::Path;
    use std::time::{Duration, SystemTime};
    use url::Url;

    /// A warehouse with as many runs that have failed as are put into one archive at least, and what is known of them.
    async fn with_runs(folder: &Path) -> (Warehouse, BTreeMap<String, RunState>) {
        let url = Url::from_file_path(folder).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let mut known = BTreeMap::new();
        for number in 0..LEAST {
            let id = format!("{number:04}");
            let begun = Begun::without_steps(true);
            let run = RunJournal::begin(&warehouse, &id, begun).await.unwrap();
            run.append(Event::Failed { error: "no".to_string() }).await.unwrap();
            known.insert(id, run.state().await);
        }
        (warehouse, known)
    }

    #[tokio::test]
    async fn an_archive_that_was_left_half_written_is_written_by_the_next() {
        let here = tempfile::tempdir().unwrap();
        let (warehouse, known) = with_runs(here.path()).await;
        let ids: Vec<_> = known.keys().cloned().collect();
        let last = ids.last().unwrap();
        let left = events_object(last);
        folder(&warehouse).put(&left, "[").await.unwrap();
        let before = Utc::now() + TimeDelta::minutes(1);
        // Whoever has written them may just be about to go on.
        assert!(archive(&warehouse, &known, before).await.unwrap().is_empty());
        assert_eq!(runs(&warehouse).await.unwrap(), ids);

        let file = here.path().join(FOLDER).join(&left);
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();
        assert_eq!(archive(&warehouse, &known, before).await.unwrap(), ids);
        assert!(runs(&warehouse).await.unwrap().is_empty());
        assert_eq!(briefs(&warehouse, last).await.unwrap().len(), LEAST);
        assert_eq!(events(&warehouse, &ids[7]).await.unwrap().len(), 2);
        // What is known of them is no longer so.
        assert!(archive(&warehouse, &known, before).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_runs_that_are_known_to_be_over_are_archived() {
        let here = tempfile::tempdir().unwrap();
        let (warehouse, known) = with_runs(here.path()).await;
        let before = Utc::now() + TimeDelta::minutes(1);
        let mut fewer = known.clone();
        fewer.remove("0007");
        assert!(archive(&warehouse, &fewer, before).await.unwrap().is_empty());
        // Somebody can go on with one of them.
        warehouse.open_run("0007").await.unwrap();
        assert!(archive(&warehouse, &known, before).await.unwrap().is_empty());
        warehouse.forget(&run_folder("0007")).await.unwrap();
        // Somebody has gone on with it since.
        let reopened = Event::Reopened {
            source: "t".to_string(),
            steps: Vec::new(),
            kept: Vec::new(),
            driver: Driver::this(true),
        };
        RunJournal::reopen(&warehouse, known["0007"].clone(), reopened).await.unwrap();
        assert!(archive(&warehouse, &known, before).await.unwrap().is_empty());
        assert_eq!(runs(&warehouse).await.unwrap().len(), LEAST);
        assert_eq!(state(&warehouse, "0007").await.unwrap().status, Status::Running);
    }
}
