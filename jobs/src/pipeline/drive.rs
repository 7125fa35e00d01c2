//! A pipeline's run, driven from its beginning, or from wherever another process has left it, to its end.

use super::{Given, Pipeline, Source};
use crate::journal::{
    Begun, Cause, Driver, Event, Planned, PublishedVersion, Recorded, Recorder, RunJournal,
    RunState, Status,
};
use crate::progress::Progress;
use crate::queries::{Caller, Via};
use crate::run::{Measured, Run, Step};
use crate::session::Session;
use crate::statement::{Located, Statement};
use crate::{JobError, Result, audit};
use chrono::{DateTime, Utc};
use nightshift_catalog::CatalogError;
use nightshift_catalog::registry::Entry;
use nightshift_catalog::warehouse::Warehouse;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run that has been published.
#[derive(Debug)]
pub struct Done {
    /// The run's id.
    pub run: String,
    /// What its statements have made.
    pub steps: Vec<Step>,
    /// What everybody sees now.
    pub published: Vec<Entry>,
    /// How many steps were not executed, because they would have made again what was published.
    pub unchanged: usize,
}

/// How a run begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its id.
    pub id: String,
    /// Why.
    pub cause: Cause,
    /// Who drives it.
    pub driver: Driver,
    /// Whether steps are executed that would make again what is published.
    pub all: bool,
}

impl Start {
    /// A run that somebody wants now.
    pub fn now(cause: Cause, driver: Driver, all: bool) -> Self {
        Self { id: Run::new_id(), cause, driver, all }
    }
}

impl Pipeline {
    /// Runs all files and checks, then publishes, and writes down each step of it. If anything fails, nothing is
    /// published and what was written is deleted. When `interrupted` comes to its end first, that counts as a failure.
    pub async fn run(
        &self,
        session: Session,
        start: Start,
        progress: Arc<dyn Progress>,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Done> {
        self.begin(session, start, progress).await?.finish(interrupted).await
    }

    /// Writes down that a run begins. Whoever finds that can go on with it.
    ///
    /// # Errors
    /// [`JobError::Fenced`] if a run of that id was begun before.
    pub async fn begin(
        &self,
        session: Session,
        start: Start,
        progress: Arc<dyn Progress>,
    ) -> Result<Drive> {
        let (progress, recorder) = Recorded::new(progress);
        let progress: Arc<dyn Progress> = Arc::new(progress);
        let Start { id, cause, driver, all } = start;
        let warehouse = session.warehouse().clone();
        let steps =
            self.plan(&session, all).await?.into_iter().map(|planned| planned.step).collect();
        let run = Run::prepare(session, id, self.operation(), Arc::clone(&progress)).await?;
        // It is the first thing that is written.
        let kept = self.source().keep(&warehouse).await;
        let begun = Begun {
            pipeline: self.name(),
            source: kept.map_err(|error| not_writable(&warehouse, error))?,
            cause,
            parameters: self.values().clone(),
            publication: run.publication(),
            steps,
            driver,
        };
        let journal = RunJournal::begin(&warehouse, run.id(), begun).await?;
        Ok(Drive { pipeline: self.clone(), run, journal, recorder, progress })
    }

    fn operation(&self) -> String {
        format!("RUN {}", self.name())
    }

    /// Its statements as they are written down.
    pub(super) fn planned(&self) -> Result<Vec<Planned>> {
        let mut planned: Vec<Planned> = Vec::new();
        for (statement, check) in self.statements() {
            let file = Path::new(&statement.file).strip_prefix(self.folder());
            let file = file.map_or(statement.file.clone(), |file| file.display().to_string());
            let reads = statement.reads()?.created_names();
            let object = statement.object();
            let made_by = |(at, other): (usize, &Planned)| {
                let name = Some(&other.name);
                (reads.contains(&other.name) || object.as_ref() == name).then_some(at)
            };
            let after = planned.iter().enumerate().filter_map(made_by).collect();
            planned.push(Planned {
                name: check.map(str::to_string).or(object).unwrap_or_else(|| file.clone()),
                action: check.map_or(statement.statement.word(), |_| "CHECK").to_string(),
                file,
                line: statement.line,
                after,
                fingerprint: None,
                unchanged: None,
            });
        }
        Ok(planned)
    }
}

fn not_writable(warehouse: &Warehouse, error: JobError) -> JobError {
    match error {
        JobError::Catalog(error) => JobError::Catalog(CatalogError::NotWritable {
            url: warehouse.storage().url().to_string(),
            source: Box::new(error),
        }),
        error => error,
    }
}

/// Goes on with a run of a pipeline that another process has left. What is written down as done is not done again. A
/// run that nobody can go on with has failed.
pub async fn go_on(
    session: Session,
    run: &str,
    driver: Driver,
    progress: Arc<dyn Progress>,
    interrupted: impl Future<Output = ()>,
) -> Result<Done> {
    let warehouse = session.warehouse().clone();
    let journal = RunJournal::take_over(&warehouse, run, driver).await?;
    let left = journal.state().await;
    let (progress, recorder) = Recorded::new(progress);
    let progress: Arc<dyn Progress> = Arc::new(progress);
    let run = Run::go_on(
        session,
        run.to_string(),
        format!("RUN {}", left.begun.pipeline),
        left.begun.publication,
        left.status == Status::Publishing,
        Arc::clone(&progress),
    );
    let run = run.await?;
    let publishing = left.status == Status::Publishing;
    match read_again(&warehouse, &left).await {
        Ok(pipeline) => {
            let drive = Drive { pipeline, run, journal, recorder, progress };
            match publishing && drive.is_committed(&left).await? {
                true => drive.complete().await,
                false => drive.finish(interrupted).await,
            }
        }
        Err(error) if error.can_pass() || publishing => Err(error),
        Err(error) => fail(run, journal, progress.as_ref(), error).await,
    }
}

/// The pipeline of a run that another process has begun.
async fn read_again(warehouse: &Warehouse, left: &RunState) -> Result<Pipeline> {
    let source = Source::kept(warehouse, &left.begun.source).await?;
    let pipeline = Pipeline::of(source, &Given::Recorded(left.begun.parameters.clone()))?;
    let planned = pipeline.planned()?;
    let same = planned.iter().zip(&left.begun.steps).all(|(one, other)| one.is_like(other));
    if same && planned.len() == left.begun.steps.len() {
        return Ok(pipeline);
    }
    let reason = "this version of the program puts its statements into another order than the one \
                  that has begun the run";
    let folder = pipeline.folder().display().to_string();
    Err(JobError::Pipeline { folder, reason: reason.to_string() })
}

/// A run in the hands of this process.
pub struct Drive {
    pipeline: Pipeline,
    run: Run,
    journal: RunJournal,
    recorder: Recorder,
    progress: Arc<dyn Progress>,
}

impl Drive {
    /// The state of the run.
    pub async fn state(&self) -> RunState {
        self.journal.state().await
    }

    /// Ends the run before anything is executed.
    pub async fn decline(self, reason: String) -> Result<()> {
        self.journal.append(Event::Cancelled { reason }).await
    }

    /// Executes what is not done yet, and publishes it.
    pub async fn finish(mut self, interrupted: impl Future<Output = ()>) -> Result<Done> {
        let (id, name) = (self.run.id().to_string(), self.pipeline.name());
        let left = self.journal.state().await;
        // Whoever has begun to publish it may have come to its end.
        let publishing = left.status == Status::Publishing;
        let executed = {
            let (run, journal) = (&mut self.run, &self.journal);
            let (pipeline, recorder) = (&self.pipeline, &mut self.recorder);
            let progress = self.progress.as_ref();
            let steps = async {
                steps(pipeline, run, journal, recorder, progress).await?;
                gates(pipeline, run, journal).await
            };
            tokio::select! {
                executed = steps => executed,
                () = interrupted, if !publishing => Err(JobError::Interrupted),
                limit = timed_out(&self.pipeline, left.begun_at), if !publishing => {
                    Err(JobError::TimedOut { what: format!("a run of {name}"), limit })
                }
                reason = journal.disturbed(), if !publishing => Err(reason),
            }
        };
        let done = match executed {
            Ok(gates) => self.publish(gates).await,
            Err(error) if publishing && error.can_pass() => Err(error),
            Err(error) => fail(self.run, self.journal, self.progress.as_ref(), error).await,
        };
        let outcome = match &done {
            Ok(_) => "done",
            Err(error) if error.is_cancellation() => "cancelled",
            Err(JobError::Fenced { .. }) => "taken over",
            Err(JobError::Held { .. }) => "held",
            Err(_) => "failed",
        };
        let caller = Caller::of_this_process(Via::Pipeline);
        audit::record(&caller, id, "RUN", &name, outcome);
        done
    }

    /// Publishes what the run has made, or keeps its models if a gate says so.
    async fn publish(mut self, gates: Vec<Measured>) -> Result<Done> {
        let id = self.run.id().to_string();
        if gates.iter().any(|gate| gate.held.is_some()) {
            self.run.hold(&gates);
        }
        let publishing = Event::Publishing { gates };
        if let Err(error) = self.journal.append(publishing).await {
            return match error.can_pass() {
                true => Err(error),
                false => fail(self.run, self.journal, self.progress.as_ref(), error).await,
            };
        }
        match self.run.commit().await {
            Ok(published) => {
                let publication = published.first().map(|entry| entry.publication);
                self.journal.append(Event::Committed { publication }).await?;
                self.conclude(published).await
            }
            // Whether it is published will be known when the store answers again.
            Err(error) if error.can_pass() => {
                self.progress.note(&format!(
                    "`nightshift runs resume {id}` finds out whether it is published, and publishes it if it is not"
                ));
                Err(error)
            }
            Err(error) => fail(self.run, self.journal, self.progress.as_ref(), error).await,
        }
    }

    /// Whether another process has published the run.
    async fn is_committed(&self, left: &RunState) -> Result<bool> {
        Ok(left.committed || !self.run.committed().await?.is_empty())
    }

    /// Does what is left to do of a run that another process has published. Nothing of it can make it fail.
    async fn complete(mut self) -> Result<Done> {
        let state = self.journal.state().await;
        let gates = state.gates.clone().unwrap_or_default();
        let copies = |(statement, _): (&Located, Option<&str>)| {
            matches!(statement.statement, Statement::Copy(_))
        };
        if self.pipeline.statements().any(copies) {
            let (pipeline, run) = (&self.pipeline, &mut self.run);
            let recorder = &mut self.recorder;
            steps(pipeline, run, &self.journal, recorder, self.progress.as_ref()).await?;
        } else {
            // For what is told in the end.
            for (number, step) in state.steps.iter().enumerate() {
                if let Some(effect) = &step.effect
                    && let Err(error) = self.run.restore(effect, step.made.clone()).await
                {
                    tracing::debug!(number, %error, "what a step has staged is gone already");
                }
            }
        }
        if gates.iter().any(|gate| gate.held.is_some()) {
            self.run.hold(&gates);
        }
        let published = self.run.committed().await?;
        if !state.committed {
            let publication = published.first().map(|entry| entry.publication);
            self.journal.append(Event::Committed { publication }).await?;
        }
        self.conclude(published).await
    }

    /// Gives files their places and tells that the run is published, which it is.
    async fn conclude(self, published: Vec<Entry>) -> Result<Done> {
        let Self { run, journal, progress, .. } = self;
        journal.ensure_ours().await?;
        if let Err(error) = run.export().await {
            progress
                .note(&format!("files for other programs are not all in their places: {error}"));
            tracing::error!(run = run.id(), %error, "files for other programs are not all in their places");
        }
        let state = journal.state().await;
        let held: Vec<_> = state.gates.into_iter().flatten().filter_map(|gate| gate.held).collect();
        let publication = published.first().map(|entry| entry.publication);
        let versions = published.iter().map(PublishedVersion::of).collect();
        let is_held = !held.is_empty();
        journal.append(Event::Published { publication, versions, held: is_held }).await?;
        run.tidy().await;
        if is_held {
            return Err(JobError::Held { reasons: held, kept: names(&published) });
        }
        if let Err(error) = journal.note_published().await {
            progress.note(&format!("the next run will make everything again: {error}"));
        }
        let unchanged = journal.state().await.unchanged();
        let (run, steps) = (run.id().to_string(), run.steps().to_vec());
        Ok(Done { run, steps, published, unchanged })
    }
}

/// The models that are kept and not published.
fn names(kept: &[Entry]) -> String {
    let names = kept.iter().map(|entry| format!("{} version {}", entry.name, entry.version));
    names.collect::<Vec<_>>().join(", ")
}

/// Measures what the pipeline's gates are about. What another process has found counts.
async fn gates(pipeline: &Pipeline, run: &Run, journal: &RunJournal) -> Result<Vec<Measured>> {
    if let Some(found) = journal.state().await.gates {
        return Ok(found);
    }
    let mut found = Vec::new();
    for gate in &pipeline.settings.gates {
        found.push(run.measure(gate).await?);
    }
    Ok(found)
}

/// Ends a run without publishing anything. What it has written is deleted when everybody can know that.
async fn fail(
    run: Run,
    journal: RunJournal,
    progress: &dyn Progress,
    error: JobError,
) -> Result<Done> {
    if matches!(error, JobError::Fenced { .. }) {
        return Err(error);
    }
    // What is published can't fail any more, whoever has published it.
    let publishing = journal.state().await.status == Status::Publishing;
    if publishing && !run.committed().await.is_ok_and(|entries| entries.is_empty()) {
        return Err(error);
    }
    let reason = error.to_string();
    let event = match error.is_cancellation() {
        true => Event::Cancelled { reason },
        false => Event::Failed { error: reason },
    };
    if let Err(unwritten) = journal.append(event).await {
        let id = run.id();
        progress.note(&format!(
            "that the run has failed could not be written down: {unwritten}; `nightshift runs resume {id}` \
             goes on with it"
        ));
        return Err(error);
    }
    if let Err(left) = run.abandon().await {
        progress.note(&format!("some of the run's files could not be deleted: {left}"));
    }
    Err(error)
}

/// Waits until a run has taken longer than it may, and says what that is; for ever if it may take any time.
async fn timed_out(pipeline: &Pipeline, begun_at: DateTime<Utc>) -> Duration {
    let Some(limit) = pipeline.settings.timeout else { return std::future::pending().await };
    let taken = (Utc::now() - begun_at).to_std().unwrap_or_default();
    tokio::time::sleep(limit.saturating_sub(taken)).await;
    limit
}

/// Executes all steps that are not done.
async fn steps(
    pipeline: &Pipeline,
    run: &mut Run,
    journal: &RunJournal,
    recorder: &mut Recorder,
    progress: &dyn Progress,
) -> Result<()> {
    run.open().await?;
    let left = journal.state().await;
    let total = left.steps.len();
    for (number, (statement, check)) in pipeline.statements().enumerate() {
        let planned = &left.steps[number].planned;
        let name = &planned.name;
        match planned.unchanged {
            Some(_) => progress.step(number + 1, total, &format!("{name} is unchanged")),
            None => progress.step(number + 1, total, name),
        }
        if restore(pipeline, run, &left, number, statement).await? {
            continue;
        }
        let mut attempt = left.steps[number].attempts + 1;
        let mut failures = 0;
        loop {
            journal.append(Event::StepBegun { step: number, attempt }).await?;
            let started = Instant::now();
            let executed = {
                let step = execute(pipeline, run, statement, check);
                tokio::select! {
                    executed = step => executed,
                    error = recorder.record(journal, number) => Err(error),
                }
            };
            recorder.flush(journal, number).await?;
            match executed {
                Ok((made, effect)) => {
                    let seconds = started.elapsed().as_secs_f64();
                    let done = Event::StepDone { step: number, seconds, made, effect };
                    journal.append(done).await?;
                    break;
                }
                Err(error @ JobError::Fenced { .. }) => return Err(error),
                Err(error) => {
                    failures += 1;
                    let retries = &pipeline.settings.retries;
                    let again = error.can_pass() && failures < retries.attempts;
                    let pause = retries.delay(failures, random());
                    let again_in = again.then_some(pause.as_secs_f64());
                    let reason = error.to_string();
                    let failed = Event::StepFailed { step: number, error: reason, again_in };
                    journal.append(failed).await?;
                    if !again {
                        return Err(error);
                    }
                    progress.note(&format!("{error}; it is tried again in {pause:?}"));
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
            }
        }
    }
    Ok(())
}

/// A number from 0 to 1, another one each time.
fn random() -> f64 {
    f64::from(RandomState::new().hash_one(Instant::now()) as u32) / f64::from(u32::MAX)
}

async fn execute(
    pipeline: &Pipeline,
    run: &mut Run,
    statement: &Located,
    check: Option<&str>,
) -> Result<(Option<Step>, crate::run::EffectRecord)> {
    match check {
        Some(name) => run.check(name, statement).await.map(|()| Default::default()),
        None => {
            let folder = pipeline.folder().to_path_buf();
            let executed = run.execute(statement, Some(folder)).await?;
            Ok((executed.step, executed.effect))
        }
    }
}

/// Takes over what another process has done in a step; `false` if it is to be done.
async fn restore(
    pipeline: &Pipeline,
    run: &mut Run,
    left: &RunState,
    number: usize,
    statement: &Located,
) -> Result<bool> {
    let state = &left.steps[number];
    if state.planned.unchanged.is_some() {
        return Ok(true);
    }
    match (&state.effect, &statement.statement) {
        (None, _) => Ok(false),
        // Files for other programs are complete when the run is published, and have been the other process's.
        (Some(_), Statement::Copy(_)) => Ok(false),
        // To open files is no work, and nothing is written down of them.
        (Some(_), Statement::CreateExternalTable(_)) => {
            execute(pipeline, run, statement, None).await?;
            Ok(true)
        }
        (Some(effect), _) => {
            run.restore(effect, state.made.clone()).await?;
            Ok(true)
        }
    }
}
