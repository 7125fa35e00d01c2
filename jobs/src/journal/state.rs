//! The state of a run: what its events amount to.

use super::event::{Begun, Driver, Event, Planned, PublishedVersion};
use crate::lineage::Lineage;
use crate::run::{EffectRecord, Measured, Step, Wrong};
use crate::{JobError, Result};
use chrono::{DateTime, Utc};
use nightshift_catalog::journal::Record;
use serde::{Deserialize, Serialize};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its steps are executed.
    Running,
    /// What its steps have made is published.
    Publishing,
    /// It has published what it has made.
    Published,
    /// A gate has kept it from being published. Its models are kept.
    Held,
    /// It has failed.
    Failed,
    /// Somebody has ended it.
    Cancelled,
}

impl Status {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Publishing => "publishing",
            Status::Published => "published",
            Status::Held => "held",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStatus {
    /// It was not begun.
    Waiting,
    /// It is not executed: what it would make is there already.
    Unchanged,
    /// It is not executed: somebody wanted others only.
    LeftOut,
    /// It is executed.
    Running,
    /// It has come to its end.
    Done,
    /// It has failed, and is perhaps tried again.
    Failed,
}

impl StepStatus {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            StepStatus::Waiting => "waiting",
            StepStatus::Unchanged => "unchanged",
            StepStatus::LeftOut => "left out",
            StepStatus::Running => "running",
            StepStatus::Done => "done",
            StepStatus::Failed => "failed",
        }
    }
}

/// The state of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// What it is.
    pub planned: Planned,
    /// How far it is.
    pub status: StepStatus,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was begun the last time.
    pub begun_at: Option<DateTime<Utc>>,
    /// When it was done, or has failed, the last time.
    pub ended_at: Option<DateTime<Utc>>,
    /// How long it has taken, when it is done.
    pub seconds: Option<f64>,
    /// What it has made.
    pub made: Option<Step>,
    /// Why it has failed the last time.
    pub error: Option<String>,
    /// What was measured in the iterations of a training.
    pub measure: Option<String>,
    /// Iterations with what was measured in each.
    pub iterations: Vec<(usize, f64)>,
    /// What it has done, for whoever goes on with the run.
    pub effect: Option<EffectRecord>,
    /// What a check has found.
    pub wrong: Option<Wrong>,
    /// What it has read and made, if that is known.
    pub lineage: Option<Lineage>,
}

/// The state of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// Its id.
    pub id: String,
    /// How it began.
    pub begun: Begun,
    /// When.
    pub begun_at: DateTime<Utc>,
    /// When somebody has gone on with it after it had failed, the last time; otherwise when it has begun.
    pub since: DateTime<Utc>,
    /// How often that was.
    pub reopened: u32,
    /// The texts that it had before.
    pub earlier: Vec<String>,
    /// Whether what it has made is deleted, or about to be.
    pub discarded: bool,
    /// How far it is.
    pub status: Status,
    /// When it has come to its end.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it has failed.
    pub error: Option<String>,
    /// Who wants it to end.
    pub cancelled_by: Option<String>,
    /// Its steps.
    pub steps: Vec<StepState>,
    /// Whether what it has made is in the registry, as far as that is written down.
    pub committed: bool,
    /// What its gates have found, when all steps are done.
    pub gates: Option<Vec<Measured>>,
    /// The publication that it has made.
    pub publication: Option<u64>,
    /// What it has published.
    pub versions: Vec<PublishedVersion>,
    /// Who drives it.
    pub driver: Driver,
    /// How often another process has gone on with it.
    pub taken_over: u32,
    /// The number of the next event.
    pub next: u64,
    /// When the last event was written of those that only who drives it writes.
    pub last_at: DateTime<Utc>,
}

impl RunState {
    /// Adds up the events of a run.
    ///
    /// # Errors
    /// If they can't be events of one run.
    pub fn fold(id: &str, events: &[Record<Event>]) -> Result<Self> {
        let damaged = |number: u64, reason: &str| JobError::Damaged {
            what: format!("the journal of run {id}"),
            reason: format!("event {number}: {reason}"),
        };
        let Some((first, rest)) = events.split_first() else {
            return Err(JobError::UnknownRun { id: id.to_string() });
        };
        let Event::Begun(begun) = &first.event else {
            return Err(damaged(first.number, "it doesn't begin the run"));
        };
        let mut state = Self {
            id: id.to_string(),
            begun: begun.as_ref().clone(),
            begun_at: first.at,
            since: first.at,
            reopened: 0,
            earlier: Vec::new(),
            discarded: false,
            status: Status::Running,
            ended_at: None,
            error: None,
            cancelled_by: None,
            steps: begun.steps.iter().map(StepState::new).collect(),
            committed: false,
            gates: None,
            publication: None,
            versions: Vec::new(),
            driver: begun.driver.clone(),
            taken_over: 0,
            next: first.number + 1,
            last_at: first.at,
        };
        for record in rest {
            if !state.apply(record) {
                return Err(damaged(record.number, "it is about a step that there is not"));
            }
        }
        Ok(state)
    }

    /// Adds the next event; `false` if it can't be one of this run.
    #[must_use]
    pub fn apply(&mut self, record: &Record<Event>) -> bool {
        self.next = record.number + 1;
        // Who wants it to end is not who drives it.
        if !matches!(record.event, Event::Cancelling { .. }) {
            self.last_at = record.at;
        }
        if let Some(step) = record.event.step() {
            let Some(step) = self.steps.get_mut(step) else { return false };
            step.apply(record);
            return true;
        }
        match &record.event {
            Event::TakenOver { driver } => {
                self.driver = driver.clone();
                self.taken_over += 1;
                self.stop_steps();
            }
            Event::Reopened { source, steps, kept, driver } => {
                let mut states: Vec<_> = steps.iter().map(StepState::new).collect();
                for (at, old) in kept {
                    let (Some(state), Some(old)) = (states.get_mut(*at), self.steps.get(*old))
                    else {
                        return false;
                    };
                    let planned = state.planned.clone();
                    *state = StepState { planned, ..old.clone() };
                }
                self.steps = states;
                self.earlier.push(std::mem::replace(&mut self.begun.source, source.clone()));
                self.since = record.at;
                self.reopened += 1;
                self.begun.steps.clone_from(steps);
                self.driver = driver.clone();
                self.status = Status::Running;
                (self.ended_at, self.error, self.cancelled_by, self.gates) = Default::default();
            }
            Event::Discarded => self.discarded = true,
            Event::Publishing { gates } => {
                self.status = Status::Publishing;
                self.gates = Some(gates.clone());
            }
            Event::Committed { publication } => {
                self.committed = true;
                self.publication = *publication;
            }
            Event::Published { publication, versions, held } => {
                let status = if *held { Status::Held } else { Status::Published };
                self.end(status, record.at);
                self.publication = *publication;
                self.versions = versions.clone();
            }
            Event::Failed { error } => {
                self.end(Status::Failed, record.at);
                self.error = Some(error.clone());
            }
            Event::Cancelling { who } => self.cancelled_by = Some(who.clone()),
            Event::Cancelled { reason } => {
                self.end(Status::Cancelled, record.at);
                self.error = Some(reason.clone());
            }
            _ => return false,
        }
        true
    }

    /// What is being executed is lost with whoever executes it.
    fn stop_steps(&mut self) {
        for step in &mut self.steps {
            if step.status == StepStatus::Running {
                step.status = StepStatus::Waiting;
            }
        }
    }

    fn end(&mut self, status: Status, at: DateTime<Utc>) {
        self.stop_steps();
        self.status = status;
        self.ended_at = Some(at);
    }

    /// Whether it has come to its end.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// The word under which the training of a step leaves what can be gone on with: another one when the step is another,
    /// or when nobody can tell whether it is.
    pub fn training_of(&self, step: usize) -> String {
        let planned = self.steps.get(step).map(|step| &step.planned);
        let fingerprint = planned.and_then(|planned| planned.fingerprint.as_ref());
        // As much of it as tells the few apart that a step can have had in this run: some stores take no long names.
        let short = fingerprint.map(|text| text.chars().take(8).collect());
        short.unwrap_or_else(|| self.reopened.to_string())
    }

    /// Seconds from its beginning to its end, or to the last event; since somebody has gone on with it, if it had failed.
    pub fn seconds(&self) -> f64 {
        let end = self.ended_at.unwrap_or(self.last_at);
        (end - self.since).as_seconds_f64()
    }

    /// How many steps are not executed, because what they would make is there already.
    pub fn unchanged(&self) -> usize {
        self.steps.iter().filter(|step| step.status == StepStatus::Unchanged).count()
    }

    /// How many steps are done, those among them that need not be.
    pub fn done(&self) -> usize {
        let done = [StepStatus::Done, StepStatus::Unchanged, StepStatus::LeftOut];
        self.steps.iter().filter(|step| done.contains(&step.status)).count()
    }
}

impl StepState {
    fn new(planned: &Planned) -> Self {
        Self {
            planned: planned.clone(),
            status: match planned.unchanged {
                _ if planned.left_out => StepStatus::LeftOut,
                Some(_) => StepStatus::Unchanged,
                None => StepStatus::Waiting,
            },
            attempts: 0,
            begun_at: None,
            ended_at: None,
            seconds: None,
            made: None,
            error: None,
            measure: None,
            iterations: Vec::new(),
            effect: None,
            wrong: None,
            lineage: None,
        }
    }

    fn apply(&mut self, record: &Record<Event>) {
        match &record.event {
            Event::StepBegun { attempt, .. } => {
                self.status = StepStatus::Running;
                self.attempts = *attempt;
                self.begun_at = Some(record.at);
                self.ended_at = None;
            }
            Event::Iterated { measure, values, .. } => {
                self.measure = Some(measure.clone());
                // What is tried again goes on from what was written down of it, or from its beginning.
                if let Some((first, _)) = values.first() {
                    self.iterations.retain(|(number, _)| number < first);
                }
                self.iterations.extend(values);
            }
            Event::StepDone { seconds, made, effect, lineage, wrong, .. } => {
                self.status = StepStatus::Done;
                self.ended_at = Some(record.at);
                self.lineage = lineage.clone();
                self.seconds = Some(*seconds);
                self.made = made.clone();
                self.error = None;
                self.effect = Some(effect.clone());
                self.wrong = wrong.clone();
            }
            Event::StepFailed { error, wrong, .. } => {
                self.status = StepStatus::Failed;
                self.wrong = wrong.clone();
                self.ended_at = Some(record.at);
                self.error = Some(error.clone());
            }
            _ => {}
        }
    }
}
