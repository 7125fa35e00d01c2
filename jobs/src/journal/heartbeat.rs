//! Signs of life of the process that drives a run, so that everybody can see of which runs that process is gone.

use super::RunState;
use crate::Result;
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::warehouse::Warehouse;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The time between two signs of life.
const BEAT: Duration = Duration::from_secs(10);

/// How long nothing may be heard of a process that drives a run. Clocks of several machines differ by less.
const SILENT: TimeDelta = TimeDelta::seconds(60);

/// Signs of life, as long as it is there.
pub(super) struct Heartbeat {
    /// When this is dropped, there are no more.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Begins with the signs of life. The first comes later: until then the event speaks for the process that it has
    /// just written.
    pub(super) fn start(warehouse: &Warehouse, run: &str) -> Self {
        Self::every(BEAT, warehouse, run)
    }

    fn every(pause: Duration, warehouse: &Warehouse, run: &str) -> Self {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (warehouse, run) = (warehouse.clone(), run.to_string());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(pause) => {}
                }
                match tokio::time::timeout(BEAT, warehouse.show_alive(&run)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(run, %error, "a sign of life can't be written")
                    }
                    Err(_) => tracing::warn!(run, "a sign of life takes long to be written"),
                }
            }
        });
        Self { stop, task }
    }

    /// Ends the signs of life: after that, none is written.
    pub(super) async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "signs of life have ended before");
        }
    }
}

/// Whether the process that drives a run is gone: one of this machine that is there no more, or one of which nothing has
/// been heard for a minute.
pub async fn is_lost(warehouse: &Warehouse, run: &RunState) -> Result<bool> {
    is_lost_at(warehouse, run, Utc::now()).await
}

/// The same, at a moment.
pub(crate) async fn is_lost_at(
    warehouse: &Warehouse,
    run: &RunState,
    now: DateTime<Utc>,
) -> Result<bool> {
    if run.is_over() {
        return Ok(false);
    }
    if run.driver.is_gone() {
        return Ok(true);
    }
    if now - run.last_at < SILENT {
        return Ok(false);
    }
    let seen = warehouse.seen_alive(&run.id).await?;
    Ok(seen.is_none_or(|seen| now - seen >= SILENT))
}

#[cfg(test)]
mod tests {
    use super::super::{Begun, Driver, Event, RunJournal, state};
    use super::*;
    use crate::run::Run;
    use nightshift_catalog::storage::Stores;
    use nightshift_catalog::warehouse::run_folder;
    use url::Url;

    fn warehouse(folder: &tempfile::TempDir) -> Warehouse {
        let url = Url::from_file_path(folder.path()).unwrap();
        Warehouse::open(&url, &Stores::default()).unwrap()
    }

    #[tokio::test]
    async fn there_are_signs_of_life_until_they_are_ended() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let heartbeat = Heartbeat::every(Duration::from_millis(1), &warehouse, "r");
        let mut seen = None;
        for _ in 0..2 {
            let before = seen;
            while seen == before {
                tokio::task::yield_now().await;
                seen = warehouse.seen_alive("r").await.unwrap();
            }
        }
        heartbeat.stop().await;
        warehouse.forget(&run_folder("r")).await.unwrap();
        assert_eq!(warehouse.runs_with_data().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_gone() {
        let mut process = std::process::Command::new("true").spawn().unwrap();
        let driver = Driver { process: process.id(), ..Driver::this(false) };
        process.wait().unwrap();
        assert!(driver.is_gone() && !Driver::this(false).is_gone());
        assert!(!Driver { scheduler: true, ..driver.clone() }.is_gone());
        assert!(!Driver { host: "another".to_string(), ..driver }.is_gone());
    }

    #[tokio::test]
    async fn a_run_is_lost_of_which_nothing_was_heard() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let begun = Begun::without_steps(false);
        let id = Run::new_id();
        let journal = RunJournal::begin(&warehouse, &id, begun).await.unwrap();
        let lost = async |seconds| {
            let run = state(&warehouse, &id).await.unwrap();
            is_lost_at(&warehouse, &run, Utc::now() + TimeDelta::seconds(seconds)).await.unwrap()
        };
        assert!(!lost(50).await);
        assert!(lost(61).await);

        // What was written just now is as old as the file says.
        warehouse.show_alive(&id).await.unwrap();
        let seen = warehouse.seen_alive(&id).await.unwrap().unwrap();
        assert!((Utc::now() - seen).abs() < TimeDelta::seconds(30));
        assert!(!lost(20).await && lost(100).await);

        journal.append(Event::Failed { error: "it had to be".to_string() }).await.unwrap();
        assert!(!lost(1000).await);
    }
}
