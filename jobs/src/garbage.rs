//! What runs have left behind that are over, or whose process is gone for good.
//!
//! A run deletes what it doesn't need when it comes to its end. One that was killed can't: its folder of intermediate data
//! stays, with the mark that keeps its files from being deleted as long as it may go on.

use crate::Result;
use crate::change::RETAIN_HOURS;
use crate::journal::{self, RunState, Status};
use crate::pipeline::{Given, Pipeline, Source};
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::warehouse::{Warehouse, run_folder};
use std::collections::BTreeSet;
use uuid::Uuid;

/// How long ago a run must be over whose folder is deleted by others.
const OVER: TimeDelta = TimeDelta::minutes(10);

/// How long somebody can go on with a run of a pipeline that has failed.
const FAILED: TimeDelta = TimeDelta::hours(24);

/// How long ago a statement must have begun that counts as killed.
const KILLED: TimeDelta = TimeDelta::days(7);

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
        deleted += cleaning.files.len();
        warehouse.clean(&cleaning).await?;
    }
    Ok(deleted)
}

/// When a run began, which its id says.
fn begun_at(run: &str) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = Uuid::parse_str(run).ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(seconds as i64, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Run;
    use nightshift_catalog::storage::Stores;
    use url::Url;

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
}
