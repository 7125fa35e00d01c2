//! Tells of the runs of schedulers as they happen, in a task of its own: a receiver that is down delays its events, and
//! nothing else.
//!
//! What is told follows from the journals. So nothing has to be kept while a receiver is down, and a new leader tells
//! again what is not noted as told to the end.

use crate::lineage::{LineageError, LineageReceiver};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::JobError;
use nightshift_jobs::journal::{self, RunState};
use nightshift_jobs::lineage::{self, events};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

/// The time between two looks at what has happened to the runs.
const LOOK: Duration = Duration::from_secs(1);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The time between two searches for notes of runs of long ago.
const BETWEEN_TIDYING: Duration = Duration::from_secs(600);

/// Who is told of runs by this process. It stops when this is dropped.
pub struct LineageFeed {
    runs: UnboundedSender<String>,
    /// The runs that the task knows of, or has come to the end of.
    known: BTreeSet<String>,
    _task: JoinSet<()>,
}

impl LineageFeed {
    /// Nobody is told of anything yet.
    pub fn new(warehouse: Warehouse, receiver: LineageReceiver) -> Self {
        let (runs, new) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        let feed = Feed { warehouse, receiver, following: BTreeMap::new(), tidied: Instant::now() };
        task.spawn(feed.follow(new));
        Self { runs, known: BTreeSet::new(), _task: task }
    }

    /// Lets the task follow runs that are new. Those that commands have begun are told of by these.
    pub fn look(&mut self, runs: &BTreeMap<String, RunState>) {
        self.known.retain(|id| runs.contains_key(id));
        for run in runs.values().filter(|run| run.begun.driver.scheduler) {
            if self.known.insert(run.id.clone()) && self.runs.send(run.id.clone()).is_err() {
                tracing::error!(run = run.id, "nobody is told of a run any more");
            }
        }
    }
}

/// Why a run is not told of to the end.
#[derive(Debug, Error)]
enum Fault {
    /// What has happened to it can't be found out, or noted.
    #[error(transparent)]
    Journal(#[from] JobError),
    /// The receiver doesn't take it.
    #[error(transparent)]
    Receiver(#[from] LineageError),
}

/// What is known of a run that is followed.
#[derive(Default)]
struct Followed {
    /// Its state when all of it was told.
    told: Option<RunState>,
    /// Its events that were told: whose run, and which.
    sent: BTreeSet<(String, String)>,
}

struct Feed {
    warehouse: Warehouse,
    receiver: LineageReceiver,
    following: BTreeMap<String, Followed>,
    tidied: Instant,
}

impl Feed {
    /// Follows all runs whose ids come, until none can come any more.
    async fn follow(mut self, mut new: UnboundedReceiver<String>) {
        let mut failures = 0;
        loop {
            if self.following.is_empty() {
                let Some(run) = new.recv().await else { return };
                self.following.entry(run).or_default();
            }
            while let Ok(run) = new.try_recv() {
                self.following.entry(run).or_default();
            }
            let pause = match self.tell_all().await {
                Ok(()) => {
                    failures = 0;
                    LOOK
                }
                Err(error) => {
                    failures += 1;
                    let pause = pause(failures);
                    tracing::warn!(%error, failures, ?pause, "lineage is not told yet");
                    pause
                }
            };
            if self.tidied.elapsed() >= BETWEEN_TIDYING {
                self.tidied = Instant::now();
                if let Err(error) = lineage::forget(&self.warehouse).await {
                    tracing::warn!(%error, "notes about lineage can't be deleted");
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Tells what has happened to all runs, up to the first fault that can pass.
    async fn tell_all(&mut self) -> Result<(), Fault> {
        let runs: Vec<_> = self.following.keys().cloned().collect();
        for run in runs {
            match self.tell(&run).await {
                Ok(false) => {}
                Ok(true) => drop(self.following.remove(&run)),
                Err(Fault::Journal(error)) if !error.can_pass() => {
                    tracing::error!(run, %error, "a run can't be told of");
                    self.following.remove(&run);
                }
                Err(error) => {
                    // Until it passes, runs may be put into archives: what is known of them then leads nowhere.
                    for followed in self.following.values_mut() {
                        followed.told = None;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Tells what has happened to a run; `true` if that is all of it.
    async fn tell(&mut self, run: &str) -> Result<bool, Fault> {
        let Some(followed) = self.following.get_mut(run) else { return Ok(true) };
        let told = followed.told.take();
        if told.is_none() && followed.sent.is_empty() {
            // Another leader has told all of it.
            if lineage::was_delivered(&self.warehouse, run).await? {
                return Ok(true);
            }
        }
        let before = told.as_ref().map(|told| told.next);
        let state = journal::state_since(&self.warehouse, run, told).await?;
        if before != Some(state.next) {
            for event in events(&state, &self.receiver.namespace) {
                let key = key(&event);
                if followed.sent.contains(&key) {
                    continue;
                }
                match self.receiver.target.emit(&event).await {
                    Ok(()) => {}
                    Err(error) if error.can_pass() => return Err(error.into()),
                    // It holds up no others.
                    Err(error) => tracing::error!(run, %error, "an event of a run can't be told"),
                }
                followed.sent.insert(key);
            }
        }
        if state.is_over() {
            lineage::note_delivered(&self.warehouse, run, followed.sent.len()).await?;
            return Ok(true);
        }
        followed.told = Some(state);
        Ok(false)
    }
}

/// What tells an event from all others: each run, and each step, begins once and ends once.
fn key(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    (text(&event["run"]["runId"]), text(&event["eventType"]))
}

/// The pause after as many attempts as have failed: it doubles.
fn pause(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    LOOK.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::LineageTarget;
    use nightshift_catalog::storage::{Stores, parse_url};
    use nightshift_jobs::journal::{Begun, Cause, Driver, Event, RunJournal};
    use std::path::Path;

    fn begun(scheduler: bool) -> Begun {
        Begun {
            pipeline: "p".to_string(),
            source: "s".to_string(),
            cause: Cause::Command { who: "ann".to_string() },
            parameters: BTreeMap::new(),
            publication: 0,
            steps: Vec::new(),
            driver: Driver::this(scheduler),
        }
    }

    fn warehouse(folder: &Path) -> Warehouse {
        let url = parse_url(&folder.join("warehouse").to_string_lossy()).unwrap();
        Warehouse::open(&url, &Stores::new(&[]).unwrap()).unwrap()
    }

    /// The types of events in a file, with the ends of the ids of their runs.
    fn told(file: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let short = |line: &str| {
            let (run, kind) = key(&serde_json::from_str(line).unwrap());
            format!("{kind} {}", &run[35..])
        };
        text.lines().map(short).collect()
    }

    async fn wait_for(mut happened: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !happened().await {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn id(number: u8) -> String {
        format!("01938a6c-0000-7000-8000-00000000000{number}")
    }

    #[tokio::test]
    async fn a_run_is_told_of_once_and_as_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (warehouse, file) = (warehouse(folder.path()), folder.path().join("events.jsonl"));
        let target = LineageTarget::parse(file.to_str().unwrap()).unwrap();
        let receiver = LineageReceiver { target, namespace: "ns".to_string() };
        let feed = || LineageFeed::new(warehouse.clone(), receiver.clone());
        let begin = async |number, scheduler| {
            let run = RunJournal::begin(&warehouse, &id(number), begun(scheduler)).await.unwrap();
            let state = run.state().await;
            (run, (state.id.clone(), state))
        };
        let (first, state) = begin(1, true).await;
        let mut runs = BTreeMap::from([state]);
        // One that a command has begun.
        runs.extend([begin(2, false).await.1]);
        let mut telling = feed();
        telling.look(&runs);
        wait_for(async || told(&file) == ["START 1"]).await;
        first.append(Event::Failed { error: "no".to_string() }).await.unwrap();
        wait_for(async || told(&file) == ["START 1", "FAIL 1"]).await;
        wait_for(async || lineage::was_delivered(&warehouse, &id(1)).await.unwrap()).await;
        drop(telling);

        // Another leader tells of others only.
        runs.extend([begin(3, true).await.1]);
        let mut telling = feed();
        telling.look(&runs);
        wait_for(async || told(&file).len() > 2).await;
        assert_eq!(told(&file), ["START 1", "FAIL 1", "START 3"]);

        // What is noted of runs that have no journal any more is of no use.
        lineage::note_delivered(&warehouse, "gone", 2).await.unwrap();
        lineage::forget(&warehouse).await.unwrap();
        assert!(!lineage::was_delivered(&warehouse, "gone").await.unwrap());
        assert!(lineage::was_delivered(&warehouse, &id(1)).await.unwrap());
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = |failures| pause(failures).as_secs();
        assert_eq!([1, 2, 3, 9, 10, u32::MAX].map(seconds), [1, 2, 4, 256, 300, 300]);
    }
}
