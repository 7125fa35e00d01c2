//! What runs have left behind that are over, or whose process is gone for good.
//!
//! A run deletes what it doesn't need when it comes to its end. One that was killed can't: its folder of intermediate data
//! stays, with the mark that keeps its files from being deleted as long as it may go on.

use crate::Result;
use crate::change::RETAIN_HOURS;
use crate::journal::{self, RunState, Status};
use crate::pipeline::{Given, Pipeline, Source};
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::warehouse::{Warehouse, run_folder, upload_folder};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How long ago a run must be over whose folder is deleted by others.
const OVER: TimeDelta = TimeDelta::minutes(10);

/// How long somebody can go on with a run of a pipeline that has failed.
const FAILED: TimeDelta = TimeDelta::hours(24);

/// How long ago a statement must have begun that counts as killed, and a run have been heard of that nobody but its own
/// process goes on with.
const KILLED: TimeDelta = TimeDelta::days(7);

/// How long ago somebody must have written to a file that is not whole to come to no end with it.
const UNFINISHED: TimeDelta = TimeDelta::days(1);

/// Deletes intermediate data of runs that are over, and of statements that were killed long ago. Returns how many.
pub async fn forget_runs(warehouse: &Warehouse, now: DateTime<Utc>) -> Result<usize> {
    let mut forgotten = 0;
    for run in warehouse.runs_with_data().await? {
        let is_garbage = if journal::was_begun(warehouse, &run).await? {
            // One whose journal can't be read may be of use to who repairs it.
            let state = journal::state(warehouse, &run).await.ok();
            let Some((state, ended_at)) =
                state.and_then(|state| Some((state.clone(), state.ended_at?)))
            else {
                continue;
            };
            let failed = state.status == Status::Failed;
            if failed && now - ended_at > FAILED {
                forget(warehouse, &state).await?;
                forgotten += 1;
            }
            !failed && now - ended_at > OVER
        } else {
            begun_at(&run).is_some_and(|begun_at| now - begun_at > KILLED)
        };
        if is_garbage {
            tracing::info!(run, "what a run has left is deleted");
            warehouse.close_run(&run).await?;
            warehouse.forget(&run_folder(&run)).await?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// Asks for the end of runs of commands of whose processes nothing was heard for long: otherwise what they have left
/// would stay for ever. Returns which there are: nobody but who has asked will end them.
pub async fn cancel_killed(
    warehouse: &Warehouse,
    runs: &BTreeMap<String, RunState>,
    now: DateTime<Utc>,
) -> Result<Vec<String>> {
    // One that is being published may be published already: that is for those to find out who go on with it.
    let is_killed = |run: &&RunState| {
        run.status == Status::Running && !run.driver.scheduler && now - run.last_at > KILLED
    };
    let mut killed = Vec::new();
    for run in runs.values().filter(is_killed).collect::<Vec<_>>() {
        if !journal::is_lost_at(warehouse, run, now).await? {
            continue;
        }
        let days = KILLED.num_days();
        let who = format!("the leader: nothing was heard of its process for {days} days");
        let state = journal::cancel(warehouse, &run.id, &who).await?;
        if state.status == Status::Running && state.cancelled_by.is_some() {
            killed.push(run.id.clone());
        }
    }
    Ok(killed)
}

/// Deletes what clients have sent to schedulers that were killed before it was in a table. Returns how many there were.
pub async fn forget_uploads(warehouse: &Warehouse, now: DateTime<Utc>) -> Result<usize> {
    let mut forgotten = 0;
    for upload in warehouse.uploads().await? {
        if begun_at(&upload).is_some_and(|begun_at| now - begun_at > KILLED) {
            tracing::info!(upload, "what a client has sent is deleted");
            warehouse.forget(&upload_folder(&upload)).await?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// Deletes what earlier runs of a pipeline have left that have failed: nobody goes on with them after one is published.
pub async fn forget_failed(warehouse: &Warehouse, pipeline: &str, published: &str) -> Result<()> {
    for run in warehouse.runs_with_data().await? {
        if run.as_str() >= published || !journal::was_begun(warehouse, &run).await? {
            continue;
        }
        let Ok(state) = journal::state(warehouse, &run).await else { continue };
        if state.status == Status::Failed && state.begun.pipeline == pipeline {
            forget(warehouse, &state).await?;
        }
    }
    Ok(())
}

/// Deletes what a run of a pipeline has made and not published.
async fn forget(warehouse: &Warehouse, run: &RunState) -> Result<()> {
    // Somebody may have gone on with it at this moment.
    if !journal::discard(warehouse, run).await? {
        return Ok(());
    }
    tracing::info!(run = run.id, "what a failed run has made is deleted");
    let effects = run.steps.iter().filter_map(|step| step.effect.as_ref());
    let mut folders: BTreeSet<_> = effects.flat_map(|effect| effect.folders()).collect();
    // A step that has failed, or is there no more, has left files too.
    for source in run.earlier.iter().chain([&run.begun.source]) {
        match Source::kept(warehouse, source).await {
            Ok(source) => {
                let given = Given::Recorded(run.begun.parameters.clone());
                folders.extend(Pipeline::of(source, &given).iter().flat_map(Pipeline::folders));
            }
            Err(error) if error.can_pass() => return Err(error),
            Err(error) => tracing::warn!(run = run.id, %error, "the text of a run can't be read"),
        }
    }
    warehouse.close_run(&run.id).await?;
    warehouse.discard(&run.id, &folders, &BTreeSet::new()).await?;
    Ok(warehouse.forget(&run_folder(&run.id)).await?)
}

/// Deletes files that no version needs, and none that was current in the last week. Returns how many.
pub async fn vacuum(warehouse: &Warehouse) -> Result<usize> {
    let mut deleted = 0;
    for cleaning in warehouse.unneeded(None, RETAIN_HOURS).await? {
        match cleaning {
            Ok(cleaning) => {
                warehouse.clean(&cleaning).await?;
                deleted += cleaning.files.len();
            }
            // A table that can't be read holds up no others.
            Err(error) => tracing::error!(%error, "files of a table are not deleted"),
        }
    }
    Ok(deleted)
}

/// Deletes parts of files that were on their way to the warehouse when a process was killed, if it is on a file system.
/// Returns how many.
pub async fn forget_unfinished(warehouse: &Warehouse, now: DateTime<Utc>) -> Result<usize> {
    Ok(warehouse.storage().forget_unfinished((now - UNFINISHED).into()).await?)
}

/// Deletes what logs of tables have of versions that were replaced long ago. Returns how many objects there were.
pub async fn shorten_logs(warehouse: &Warehouse, now: DateTime<Utc>) -> Result<usize> {
    Ok(warehouse.shorten_logs(now).await?)
}

/// When a run, or what a client sends, began, which its id says.
fn begun_at(id: &str) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(seconds as i64, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, Event, RunJournal};
    use crate::run::Run;
    use nightshift_catalog::storage::Stores;
    use url::Url;

    async fn states(warehouse: &Warehouse) -> BTreeMap<String, RunState> {
        let mut states = BTreeMap::new();
        for id in journal::runs(warehouse).await.unwrap() {
            let state = journal::state(warehouse, &id).await.unwrap();
            states.insert(id, state);
        }
        states
    }

    #[tokio::test]
    async fn a_statement_that_may_go_on_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let run = Run::new_id();
        warehouse.open_run(&run).await.unwrap();
        let now = Utc::now();
        assert_eq!(forget_runs(&warehouse, now + TimeDelta::days(6)).await.unwrap(), 0);
        assert_eq!(warehouse.runs_with_data().await.unwrap(), [run]);
        assert_eq!(forget_runs(&warehouse, now + TimeDelta::days(8)).await.unwrap(), 1);
        assert!(warehouse.runs_with_data().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_end_of_a_run_is_asked_for_whose_process_is_gone_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        for (id, scheduler) in [("a", false), ("b", true), ("c", false)] {
            RunJournal::begin(&warehouse, id, Begun::without_steps(scheduler)).await.unwrap();
        }
        let publishing =
            RunJournal::begin(&warehouse, "d", Begun::without_steps(false)).await.unwrap();
        publishing.append(Event::Publishing { gates: Vec::new() }).await.unwrap();
        journal::cancel(&warehouse, "c", "ann").await.unwrap();
        let now = Utc::now();
        let (soon, later) = (now + TimeDelta::days(6), now + TimeDelta::days(8));
        let before = states(&warehouse).await;
        let nobody = Vec::<String>::new();
        assert_eq!(cancel_killed(&warehouse, &before, soon).await.unwrap(), nobody);
        // One has come to its end since.
        let ended = RunJournal::begin(&warehouse, "e", Begun::without_steps(false)).await.unwrap();
        let before = states(&warehouse).await;
        ended.append(Event::Failed { error: "no".to_string() }).await.unwrap();
        assert_eq!(cancel_killed(&warehouse, &before, later).await.unwrap(), ["a", "c"]);
        let after = states(&warehouse).await;
        let who: Vec<_> = after.values().map(|run| run.cancelled_by.as_deref()).collect();
        let leader = Some("the leader: nothing was heard of its process for 7 days");
        assert_eq!(who, [leader, None, Some("ann"), None, None]);
        // They are those to end, as long as they have not ended.
        assert_eq!(cancel_killed(&warehouse, &after, later).await.unwrap(), ["a", "c"]);
    }

    #[tokio::test]
    async fn what_a_client_has_sent_is_deleted_when_nobody_can_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let upload = Uuid::now_v7().simple().to_string();
        let file = format!("{}/part-00000.parquet", upload_folder(&upload));
        warehouse.storage().put(&file, "x").await.unwrap();
        let now = Utc::now();
        assert_eq!(forget_uploads(&warehouse, now + TimeDelta::days(6)).await.unwrap(), 0);
        assert_eq!(warehouse.uploads().await.unwrap(), [upload]);
        assert_eq!(forget_uploads(&warehouse, now + TimeDelta::days(8)).await.unwrap(), 1);
        assert!(warehouse.storage().list().await.unwrap().is_empty());
    }
}
