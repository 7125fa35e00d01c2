//! What runs have left behind that are over, or whose process is gone for good.
//!
//! A run deletes what it doesn't need when it comes to its end. One that was killed can't: its folder of intermediate data
//! stays, with the mark that keeps its files from being deleted as long as it may go on.

use crate::Result;
use crate::change::RETAIN_HOURS;
use crate::journal;
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::warehouse::{Warehouse, run_folder};
use uuid::Uuid;

/// How long ago a run must be over whose folder is deleted by others.
const OVER: TimeDelta = TimeDelta::minutes(10);

/// How long ago a statement must have begun that counts as killed.
const KILLED: TimeDelta = TimeDelta::days(7);

/// Deletes intermediate data of runs that are over, and of statements that were killed long ago. Returns how many.
pub async fn forget_runs(warehouse: &Warehouse, now: DateTime<Utc>) -> Result<usize> {
    let mut forgotten = 0;
    for run in warehouse.runs_with_data().await? {
        let is_garbage = if journal::was_begun(warehouse, &run).await? {
            // One whose journal can't be read may be of use to who repairs it.
            let state = journal::state(warehouse, &run).await.ok();
            state.and_then(|state| state.ended_at).is_some_and(|ended_at| now - ended_at > OVER)
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
