//! What a leader does.

mod tidying;

use super::lineage::LineageFeed;
use super::notices;
use super::telling::Telling;
use super::told::ToLog;
use crate::lineage::LineageReceiver;
use chrono::{DateTime, Utc};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::journal::{self, Driver, RunState, Status};
use nightshift_jobs::pipeline::{
    self, AllDeployed, Concurrency, Deployed, Done, Due, Given, Happened, Pipeline, Positions,
    Source, Start, Trigger,
};
use nightshift_jobs::session::Session;
use nightshift_jobs::{JobError, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidying::Turns;
use tokio::task::{Id, JoinError, JoinSet};

/// The time between two looks at what is due.
const LOOK: Duration = Duration::from_secs(1);

/// The pause before a run is gone on with that could not be driven to its end.
const REST: Duration = Duration::from_secs(10);

/// Runs that are under way at the same time at most; others wait for their turn.
const MOST_AT_ONCE: usize = 8;

/// The time between two looks whether somebody goes on with runs that had failed.
const BETWEEN_FAILED: Duration = Duration::from_secs(15);

/// A leader at work.
pub struct Leading {
    session: Session,
    /// Deployed pipelines as they were read, by what their texts are kept under; those that can't be read as errors.
    parsed: BTreeMap<String, Result<Arc<Pipeline>, String>>,
    positions: Positions,
    /// The states of runs that are of interest: those that are not over, and those that ended lately.
    runs: BTreeMap<String, RunState>,
    /// Runs whose journals can't be read, with the reason: each is told once.
    unreadable: BTreeMap<String, String>,
    /// Runs that this process drives.
    driven: JoinSet<(String, Result<Done>)>,
    ids: BTreeMap<String, Id>,
    /// Runs of commands that were killed long ago, and are to be ended.
    killed: Vec<String>,
    /// Runs that could not be driven to their end, and when that is tried again.
    resting: BTreeMap<String, Instant>,
    /// The last published run of each pipeline, and when it was published, however long ago: what follows on it may
    /// have had to wait.
    published: BTreeMap<String, (String, DateTime<Utc>)>,
    /// The pipelines whose last published run was looked for.
    known: BTreeSet<String>,
    telling: Telling,
    /// When it was looked whether somebody goes on with runs that had failed.
    looked: Option<Instant>,
    turns: Turns,
    lineage: Option<LineageFeed>,
}

impl Leading {
    /// A leader that knows nothing yet. `commands` says whether pipelines can have programs run by this process.
    pub fn new(session: Session, commands: bool) -> Self {
        Self {
            telling: Telling::new(session.warehouse(), commands),
            published: BTreeMap::new(),
            known: BTreeSet::new(),
            session,
            parsed: BTreeMap::new(),
            positions: Positions::default(),
            runs: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            driven: JoinSet::new(),
            ids: BTreeMap::new(),
            resting: BTreeMap::new(),
            killed: Vec::new(),
            looked: None,
            turns: Turns::default(),
            lineage: None,
        }
    }

    /// The same, which tells somebody of runs.
    pub fn with_lineage(self, receiver: Option<LineageReceiver>) -> Self {
        let warehouse = self.warehouse().clone();
        let lineage = receiver.map(|receiver| LineageFeed::new(warehouse, receiver));
        Self { lineage, ..self }
    }

    /// Leads. A store that can't be reached is tried again; runs end when this is dropped, and the next leader goes on
    /// with them.
    pub async fn lead(mut self) {
        let mut deployed = loop {
            let read = async {
                self.positions = Positions::read(self.warehouse()).await?;
                self.telling.go_on().await?;
                AllDeployed::read(self.warehouse()).await
            };
            match read.await {
                Ok(deployed) => break deployed,
                Err(error) => tracing::error!(%error, "deployed pipelines can't be read"),
            }
            tokio::time::sleep(LOOK).await;
        };
        loop {
            let started = Instant::now();
            if let Err(error) = self.look(&mut deployed).await {
                tracing::error!(%error, "what is due could not be found out");
            }
            let (seconds, runs) = (started.elapsed().as_secs_f64(), self.runs.len());
            tracing::debug!(seconds, runs, "looked at what is due");
            let next = tokio::time::sleep(LOOK);
            tokio::select! {
                () = next => {}
                Some(ended) = self.driven.join_next_with_id() => match ended {
                    Ok((_, (run, done))) => self.ended(&run, done),
                    Err(error) => self.stopped(&error),
                },
            }
        }
    }

    fn warehouse(&self) -> &Warehouse {
        self.session.warehouse()
    }

    fn ended(&mut self, run: &str, done: Result<Done>) {
        self.ids.remove(run);
        match done {
            Ok(done) => {
                let publication = done.published.first().map(|entry| entry.publication);
                tracing::info!(run, publication, "run published");
            }
            Err(error) => {
                tracing::error!(run, %error, "run not published");
                self.resting.insert(run.to_string(), Instant::now() + REST);
            }
        }
    }

    /// A run's task has ended without a word.
    fn stopped(&mut self, error: &JoinError) {
        let of_task = self.ids.iter().find(|(_, id)| **id == error.id());
        let Some(run) = of_task.map(|(run, _)| run.clone()) else { return };
        tracing::error!(run, %error, "a run has been stopped");
        self.ids.remove(&run);
        self.resting.insert(run, Instant::now() + REST);
    }

    /// Begins what is due, and goes on with what was left.
    async fn look(&mut self, deployed: &mut AllDeployed) -> Result<()> {
        deployed.refresh().await?;
        self.refresh_runs().await?;
        if let Some(lineage) = &mut self.lineage {
            lineage.look(&self.runs);
        }
        self.take_over();
        let before = self.positions.clone();
        let begun = self.begin_due(deployed).await;
        if self.positions != before {
            self.positions.save(self.warehouse()).await?;
        }
        begun?;
        self.telling.look(&self.runs).await?;
        self.tidy(deployed).await
    }

    /// Reads the journals of runs that are new or were not over.
    async fn refresh_runs(&mut self) -> Result<()> {
        let ids = journal::runs(self.warehouse()).await?;
        self.runs.retain(|id, _| ids.binary_search(id).is_ok());
        self.resting.retain(|_, until| *until > Instant::now());
        let reopened = self.may_be_reopened().await?;
        for id in ids {
            let is_over = self.runs.get(&id).is_some_and(RunState::is_over);
            if is_over && !reopened.contains(&id) || self.ids.contains_key(&id) {
                continue;
            }
            let known = self.runs.get(&id).cloned();
            match journal::state_since(self.warehouse(), &id, known).await {
                Ok(state) => {
                    self.note_published(&state);
                    self.runs.insert(id, state);
                }
                // One that can't be read holds up no others.
                Err(error) if error.can_pass() => return Err(error),
                Err(error) => {
                    let reason = error.to_string();
                    if self.unreadable.insert(id.clone(), reason.clone()) != Some(reason) {
                        tracing::error!(run = id, %error, "the journal of a run can't be read");
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs that have failed, and that somebody may have gone on with since the last look.
    async fn may_be_reopened(&mut self) -> Result<BTreeSet<String>> {
        let failed = |run: &RunState| run.status == Status::Failed;
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= BETWEEN_FAILED);
        if !is_time || !self.runs.values().any(failed) {
            return Ok(BTreeSet::new());
        }
        self.looked = Some(Instant::now());
        let with_data = self.warehouse().runs_with_data().await?.into_iter();
        Ok(with_data.filter(|id| self.runs.get(id).is_some_and(failed)).collect())
    }

    /// Goes on with runs of schedulers that drive them no more, and ends those of commands that were killed long ago.
    fn take_over(&mut self) {
        let is_left = |run: &&RunState| {
            !run.is_over() && (run.driver.scheduler || self.killed.contains(&run.id))
        };
        let left = self.runs.values().filter(is_left);
        let left: Vec<_> = left.map(|run| run.id.clone()).collect();
        for run in left {
            let rests = self.resting.get(&run).is_some_and(|until| *until > Instant::now());
            if rests || self.ids.contains_key(&run) || self.driven.len() >= MOST_AT_ONCE {
                continue;
            }
            tracing::info!(run, "a run that was left is taken over");
            let (session, id) = (self.session.clone(), run.clone());
            let progress = Arc::new(ToLog { run: run.clone() });
            let handle = self.driven.spawn(async move {
                let driver = Driver::this(true);
                let never = std::future::pending();
                let done = pipeline::go_on(session, &id, driver, progress, never).await;
                (id, done)
            });
            self.ids.insert(run, handle.id());
        }
    }

    async fn begin_due(&mut self, deployed: &AllDeployed) -> Result<()> {
        let registry = self.warehouse().registry().await?;
        let now = Utc::now();
        for deployed in deployed.pipelines().filter(|deployed| deployed.paused_by.is_none()) {
            let Some(pipeline) = self.parsed(&deployed.source).await? else { continue };
            let Some(schedule) = &pipeline.settings().schedule else { continue };
            let since = self.positions.of(&deployed.name);
            if let Trigger::After(other) = &schedule.trigger {
                self.know_last(other).await?;
            }
            let happened = Happened { registry: &registry, runs: &self.published };
            for due in pipeline::due(deployed, schedule, since, now, &happened) {
                let (run, name) = (due.id.clone(), &deployed.name);
                let late = notices::due_of_waiting(&due, &pipeline, now);
                match self.begin(deployed, &pipeline, schedule.concurrency, due).await {
                    Ok(true) => {}
                    Ok(false) => {
                        if let Some(notice) = late {
                            self.telling.tell(&notice, &pipeline, &deployed.source).await?;
                        }
                        break;
                    }
                    Err(error) if error.can_pass() => return Err(error),
                    // What is wrong with one pipeline is none of the others'.
                    Err(error) => {
                        if let Some(notice) = late {
                            self.telling.tell(&notice, &pipeline, &deployed.source).await?;
                        }
                        let reason = error.to_string();
                        if self.unreadable.insert(run.clone(), reason.clone()) != Some(reason) {
                            tracing::error!(run, pipeline = name, %error, "a run that is due can't be begun");
                        }
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds out which run of a pipeline was published last, as long as nobody has told it here.
    async fn know_last(&mut self, pipeline: &str) -> Result<()> {
        if self.known.contains(pipeline) {
            return Ok(());
        }
        if let Some(last) = journal::last_published(self.warehouse(), pipeline).await? {
            self.note_published(&last);
        }
        self.known.insert(pipeline.to_string());
        Ok(())
    }

    fn note_published(&mut self, run: &RunState) {
        if let (Status::Published, Some(at)) = (run.status, run.ended_at) {
            let last = self.published.entry(run.begun.pipeline.clone());
            let last = last.or_insert_with(|| (run.id.clone(), at));
            if last.1 < at {
                *last = (run.id.clone(), at);
            }
        }
    }

    /// The pipeline of a text; `None` if it can't be read, which is told once.
    async fn parsed(&mut self, source: &str) -> Result<Option<Arc<Pipeline>>> {
        if !self.parsed.contains_key(source) {
            let read = async {
                let text = Source::kept(self.warehouse(), source).await?;
                Pipeline::of(text, &Given::default()).map(Arc::new)
            };
            let read = match read.await {
                Err(error) if error.can_pass() => return Err(error),
                read => read.map_err(|error| error.to_string()),
            };
            match &read {
                // Somebody can mend it before there is anything to tell.
                Ok(pipeline) => self.telling.say_lacking(pipeline),
                Err(error) => {
                    tracing::error!(source, error, "the text of a pipeline can't be read");
                }
            }
            self.parsed.insert(source.to_string(), read);
        }
        Ok(self.parsed.get(source).and_then(|read| read.as_ref().ok().cloned()))
    }

    /// Begins a run that is due, or decides that it is not run; `false` if it has to wait.
    async fn begin(
        &mut self,
        deployed: &Deployed,
        pipeline: &Arc<Pipeline>,
        concurrency: Concurrency,
        due: Due,
    ) -> Result<bool> {
        let name = &deployed.name;
        let Due { id, cause, at } = due;
        if self.runs.contains_key(&id) || self.ids.contains_key(&id) {
            self.positions.go_to(name, at);
            return Ok(true);
        }
        let other = self.under_way(name);
        match (&other, concurrency) {
            (Some(_), Concurrency::Queue) => return Ok(false),
            (Some(other), Concurrency::Replace) => {
                let by = format!("run {id}, which replaces it");
                journal::cancel(self.warehouse(), other, &by).await?;
                return Ok(false);
            }
            (Some(_), Concurrency::Skip) => {}
            (None, _) if self.driven.len() >= MOST_AT_ONCE => return Ok(false),
            (None, _) => {}
        }
        // Where it was noted how far the schedule was followed, nobody may know any more.
        if journal::was_begun(self.warehouse(), &id).await? {
            self.positions.go_to(name, at);
            return Ok(true);
        }
        let start = Start {
            id: id.clone(),
            cause,
            driver: Driver::this(true),
            all: false,
            only: Vec::new(),
        };
        let progress = Arc::new(ToLog { run: id.clone() });
        let given = Given::Due(at);
        let pipeline = Pipeline::of(pipeline.source().clone(), &given)?;
        // What is due counts as begun when that is written down, and not before.
        let session = self.session.clone();
        let told = Arc::clone(&progress);
        let begun = match pipeline.begin(session.clone(), start.clone(), told).await {
            // Then the run itself says in its journal what is wrong.
            Err(error) if !error.can_pass() && !matches!(error, JobError::Fenced { .. }) => {
                let start = Start { all: true, ..start };
                pipeline.begin(session, start, progress).await
            }
            begun => begun,
        };
        let begun = match begun {
            Ok(begun) => begun,
            // Another leader has begun it: it is taken over when its journal is read.
            Err(JobError::Fenced { .. }) => {
                self.positions.go_to(name, at);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.positions.go_to(name, at);
        if let Some(other) = other {
            let reason = format!("skipped: run {other} is still under way");
            tracing::warn!(run = id, pipeline = name, reason);
            begun.decline(reason).await?;
            return Ok(true);
        }
        tracing::info!(run = id, pipeline = name, version = deployed.version, "a run is due");
        self.runs.insert(id.clone(), begun.state().await);
        let run = id.clone();
        let driven = self.driven.spawn(async move {
            let done = begun.finish(std::future::pending()).await;
            (run, done)
        });
        self.ids.insert(id, driven.id());
        Ok(true)
    }

    /// A run of a pipeline that is not over.
    fn under_way(&self, pipeline: &str) -> Option<String> {
        // Those of commands end when somebody wants that; nobody can tell whether they are still driven.
        let open = |run: &&RunState| {
            run.begun.pipeline == pipeline && !run.is_over() && run.driver.scheduler
        };
        self.runs.values().find(open).map(|run| run.id.clone())
    }
}
