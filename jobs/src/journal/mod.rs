//! Journals of runs.
//!
//! A run of a pipeline is a sequence of events in the warehouse, each created if absent under the next number. Its state
//! is what they amount to ([`RunState`]). Whoever drives the run writes each event before what follows from it; when
//! another process has written the event of that number, the run is no longer its own to drive.

mod archive;
mod event;
mod heartbeat;
mod history;
mod recorder;
mod state;
pub mod tables;

pub use archive::archive;
pub use event::{Begun, Cause, Driver, Event, Planned, PublishedVersion};
pub use heartbeat::is_lost;
pub(crate) use heartbeat::is_lost_at;
pub use history::{Brief, Kept, LOST, Whole, all, find, find_under_way, latest};
pub(crate) use recorder::{Recorded, Recorder};
pub use state::{RunState, Status, StepState, StepStatus};

use crate::{JobError, Result};
use chrono::{DateTime, Utc};
use heartbeat::Heartbeat;
use nightshift_catalog::journal::{Journal, Record};
use nightshift_catalog::warehouse::Warehouse;
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Runs among the kinds of journals.
const RUNS: &str = "runs";

/// How often a driver looks whether somebody else has written an event of its run.
const LOOK: Duration = Duration::from_secs(1);

/// The id of a run that a pipeline is due for: the same, whoever begins the run. Ids are in the order of time.
pub fn due_id(pipeline: &str, due_for: &str, at: DateTime<Utc>) -> String {
    let hash = blake3::hash(format!("{pipeline}\n{due_for}").as_bytes());
    let mut random = [0; 10];
    random.copy_from_slice(&hash.as_bytes()[..10]);
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
}

fn journal(warehouse: &Warehouse, run: &str) -> Journal {
    Journal::open(warehouse, RUNS, run)
}

/// The ids of all runs that have a journal, in the order in which they began.
pub async fn runs(warehouse: &Warehouse) -> Result<Vec<String>> {
    Ok(Journal::names(warehouse, RUNS).await?)
}

/// The events of a run from a number on.
pub async fn events(warehouse: &Warehouse, run: &str, from: u64) -> Result<Vec<Record<Event>>> {
    let events = journal(warehouse, run).read(from).await?;
    if from > 1 || !events.is_empty() {
        return Ok(events);
    }
    archive::events(warehouse, run).await
}

/// Whether a run of an id was begun, however long ago.
pub async fn was_begun(warehouse: &Warehouse, run: &str) -> Result<bool> {
    Ok(journal(warehouse, run).has(1).await? || archive::has(warehouse, run).await?)
}

/// Deletes the journals of runs that are in an archive: whoever has archived them was stopped before.
pub async fn tidy(warehouse: &Warehouse) -> Result<()> {
    let ids = runs(warehouse).await?;
    for run in archive::left_behind(warehouse, &ids).await? {
        journal(warehouse, &run).delete().await?;
    }
    Ok(())
}

/// The state of a run.
///
/// # Errors
/// [`JobError::UnknownRun`] if there is none of that id.
pub async fn state(warehouse: &Warehouse, run: &str) -> Result<RunState> {
    RunState::fold(run, &events(warehouse, run, 1).await?)
}

/// The state of a run of which something is known already: only what has happened since is read.
pub async fn state_since(
    warehouse: &Warehouse,
    run: &str,
    known: Option<RunState>,
) -> Result<RunState> {
    let Some(mut known) = known else { return state(warehouse, run).await };
    if !journal(warehouse, run).has(known.next).await? {
        return Ok(known);
    }
    for record in events(warehouse, run, known.next).await? {
        if !known.apply(&record) {
            return state(warehouse, run).await;
        }
    }
    Ok(known)
}

/// The folder in which is noted which run of each pipeline was published last.
const LAST: &str = "_nightshift/published";

/// The name of any pipeline as that of an object.
fn last_object(pipeline: &str) -> String {
    format!("{}.txt", blake3::hash(pipeline.as_bytes()).to_hex())
}

/// The last run of a pipeline that was published, as far as that was noted.
pub async fn last_published(warehouse: &Warehouse, pipeline: &str) -> Result<Option<RunState>> {
    let noted = match warehouse.storage().folder(LAST).get(&last_object(pipeline)).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match state(warehouse, &noted).await {
        Ok(state) => Ok(Some(state)),
        // What can't be compared with is as good as nothing: everything is made again.
        Err(error) if error.can_pass() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Notes that a run of a pipeline was published.
async fn note_published(warehouse: &Warehouse, pipeline: &str, run: &str) -> Result<()> {
    Ok(warehouse.storage().folder(LAST).put(&last_object(pipeline), run.to_string()).await?)
}

/// Asks whoever drives a run to end it. What is published already stays.
pub async fn cancel(warehouse: &Warehouse, run: &str, who: &str) -> Result<RunState> {
    let journal = journal(warehouse, run);
    let writer = Uuid::now_v7().to_string();
    loop {
        let state = state(warehouse, run).await?;
        if state.is_over() || state.status == Status::Publishing || state.cancelled_by.is_some() {
            return Ok(state);
        }
        let event = Event::Cancelling { who: who.to_string() };
        if journal.append(state.next, &writer, &event).await?.is_some() {
            return self::state(warehouse, run).await;
        }
    }
}

/// Writes down that what a run that is over has made is deleted; `false` if somebody goes on with it.
pub async fn discard(warehouse: &Warehouse, run: &RunState) -> Result<bool> {
    if run.discarded {
        return Ok(true);
    }
    let writer = Uuid::now_v7().to_string();
    let written = journal(warehouse, &run.id).append(run.next, &writer, &Event::Discarded).await?;
    Ok(written.is_some())
}

/// A run's journal in the hands of the process that drives the run.
pub struct RunJournal {
    warehouse: Warehouse,
    journal: Journal,
    /// Who this is, in all its events.
    writer: String,
    state: Mutex<RunState>,
    /// Until the run is over.
    heartbeat: Mutex<Option<Heartbeat>>,
}

impl RunJournal {
    /// Begins a run.
    pub async fn begin(warehouse: &Warehouse, run: &str, begun: Begun) -> Result<Self> {
        let journal = journal(warehouse, run);
        let writer = Uuid::now_v7().to_string();
        let record = journal.append(1, &writer, &Event::Begun(Box::new(begun))).await?;
        let record = record.ok_or_else(|| fenced(run))?;
        let state = RunState::fold(run, &[record])?;
        Ok(Self::driving(warehouse, journal, writer, state))
    }

    fn driving(warehouse: &Warehouse, journal: Journal, writer: String, state: RunState) -> Self {
        let heartbeat = Mutex::new(Some(Heartbeat::start(warehouse, &state.id)));
        let (warehouse, state) = (warehouse.clone(), Mutex::new(state));
        Self { warehouse, journal, writer, state, heartbeat }
    }

    /// Goes on with a run that another process has begun, which can't write events from now on.
    ///
    /// # Errors
    /// If the run is over, or a third process is faster.
    pub async fn take_over(warehouse: &Warehouse, run: &str, driver: Driver) -> Result<Self> {
        let journal = journal(warehouse, run);
        let writer = Uuid::now_v7().to_string();
        let mut state = state(warehouse, run).await?;
        if state.is_over() {
            let status = state.status.as_str();
            return Err(JobError::Statement(format!("run {run} is over: it is {status}")));
        }
        let event = Event::TakenOver { driver };
        let record = journal.append(state.next, &writer, &event).await?;
        let record = record.ok_or_else(|| fenced(run))?;
        if !state.apply(&record) {
            return Err(fenced(run));
        }
        Ok(Self::driving(warehouse, journal, writer, state))
    }

    /// Goes on with a run that is over, in the state that it is in.
    ///
    /// # Errors
    /// If somebody else is faster.
    pub async fn reopen(warehouse: &Warehouse, mut state: RunState, event: Event) -> Result<Self> {
        let journal = journal(warehouse, &state.id);
        let writer = Uuid::now_v7().to_string();
        let record = journal.append(state.next, &writer, &event).await?;
        let record = record.ok_or_else(|| fenced(&state.id))?;
        if !state.apply(&record) {
            return Err(fenced(&state.id));
        }
        Ok(Self::driving(warehouse, journal, writer, state))
    }

    /// The state of the run, as far as it is known here.
    pub async fn state(&self) -> RunState {
        self.state.lock().await.clone()
    }

    /// Writes the next event.
    ///
    /// # Errors
    /// [`JobError::Fenced`] if another process drives the run.
    pub async fn append(&self, event: Event) -> Result<()> {
        // It is where the run's intermediate data is, which is deleted when the run is over.
        if event.ends_run()
            && let Some(heartbeat) = self.heartbeat.lock().await.take()
        {
            heartbeat.stop().await;
        }
        let mut state = self.state.lock().await;
        loop {
            // What somebody has cancelled is not published after that.
            if let (Event::Publishing { .. }, Some(who)) = (&event, &state.cancelled_by) {
                return Err(JobError::RunCancelled { who: who.clone() });
            }
            match self.journal.append(state.next, &self.writer, &event).await? {
                Some(record) if state.apply(&record) => return Ok(()),
                Some(_) => return Err(fenced(&state.id)),
                None => self.catch_up(&mut state).await?,
            }
        }
    }

    /// Fails if another process drives the run.
    pub async fn ensure_ours(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        match self.journal.has(state.next).await? {
            true => self.catch_up(&mut state).await,
            false => Ok(()),
        }
    }

    /// Notes that the run is the last one of its pipeline that was published, so that the next need not make again what
    /// it has made.
    pub async fn note_published(&self) -> Result<()> {
        let state = self.state.lock().await;
        note_published(&self.warehouse, &state.begun.pipeline, &state.id).await
    }

    /// Takes note of the next event, which somebody else has written, or this process when it was interrupted.
    async fn catch_up(&self, state: &mut RunState) -> Result<()> {
        let Some(record) = self.journal.get::<Event>(state.next).await? else { return Ok(()) };
        let harmless = matches!(record.event, Event::Cancelling { .. });
        if !harmless && record.writer != self.writer || !state.apply(&record) {
            return Err(fenced(&state.id));
        }
        Ok(())
    }

    /// Waits until the run is to end, or is no longer this process's to drive: says which.
    pub async fn disturbed(&self) -> JobError {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut state = self.state.lock().await;
            let looked = async {
                if self.journal.has(state.next).await? {
                    self.catch_up(&mut state).await?;
                }
                Ok::<_, JobError>(())
            };
            match looked.await {
                Err(error @ JobError::Fenced { .. }) => return error,
                // The next look may find the store again; an event that can't be written ends the run.
                Err(error) => tracing::warn!(run = state.id, %error, "the journal can't be read"),
                Ok(()) => {
                    if let Some(who) = &state.cancelled_by {
                        return JobError::RunCancelled { who: who.clone() };
                    }
                }
            }
        }
    }
}

fn fenced(run: &str) -> JobError {
    JobError::Fenced { run: run.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_catalog::storage::Stores;
    use url::Url;

    #[tokio::test]
    async fn what_somebody_has_cancelled_is_not_published() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let begun = Begun::without_steps(false);
        let first = RunJournal::begin(&warehouse, "r", begun).await.unwrap();
        cancel(&warehouse, "r", "bob").await.unwrap();
        let next = RunJournal::take_over(&warehouse, "r", Driver::this(false)).await.unwrap();
        let publishing = || Event::Publishing { gates: Vec::new() };
        // One that has known it from its beginning, and one that has not.
        let error = next.append(publishing()).await.unwrap_err();
        assert!(matches!(error, JobError::RunCancelled { .. }), "{error}");
        let error = first.append(publishing()).await.unwrap_err();
        assert!(matches!(error, JobError::RunCancelled { .. }), "{error}");
        let ended = Event::Cancelled { reason: error.to_string() };
        assert!(matches!(first.append(ended).await.unwrap_err(), JobError::Fenced { .. }));
        let kinds: Vec<_> = events(&warehouse, "r", 1).await.unwrap();
        let kinds: Vec<_> = kinds.iter().map(|record| record.event.word()).collect();
        assert_eq!(kinds, ["begun", "cancelling", "taken_over"]);
    }
}
