//! What can happen to a run of a pipeline.

use crate::lineage::Lineage;
use crate::pipeline::parameters::Value;
use crate::run::{EffectRecord, Measured, Step, Wrong};
use chrono::{DateTime, Utc};
use nightshift_catalog::registry::{Entry, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate};

/// Why a run was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Cause {
    /// Somebody has asked for it.
    Command {
        /// Who.
        who: String,
    },
    /// Its time had come.
    Schedule {
        /// The time.
        due: DateTime<Utc>,
    },
    /// A run of another pipeline has been published.
    After {
        /// That run.
        run: String,
    },
    /// A table or model has a new version.
    When {
        /// Its name.
        table: String,
        /// The version.
        version: u64,
    },
    /// Somebody has asked for another run to be done once more.
    Retry {
        /// The other run.
        of: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Command { who } => write!(f, "{who}"),
            Cause::Schedule { due } => write!(f, "schedule, {}", due.format("%Y-%m-%d %H:%M:%SZ")),
            Cause::After { run } => write!(f, "after run {run}"),
            Cause::When { table, version } => write!(f, "version {version} of {table}"),
            Cause::Retry { of } => write!(f, "retry of {of}"),
        }
    }
}

/// A process that drives a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Driver {
    /// The machine's name.
    pub host: String,
    /// The process on it.
    pub process: u32,
    /// The version of the program.
    pub version: String,
    /// Whether it is a scheduler: then another scheduler goes on with the run when it is lost.
    pub scheduler: bool,
}

impl Driver {
    /// This process.
    pub fn this(scheduler: bool) -> Self {
        let host = sysinfo::System::host_name().unwrap_or_else(|| "unknown".to_string());
        let version = env!("CARGO_PKG_VERSION").to_string();
        Self { host, process: std::process::id(), version, scheduler }
    }
}

impl Driver {
    /// Whether the process was one of this machine, and is gone. Of schedulers that isn't said: those of several
    /// containers can have the name of one machine.
    pub fn is_gone(&self) -> bool {
        if self.scheduler || sysinfo::System::host_name().as_ref() != Some(&self.host) {
            return false;
        }
        let process = Pid::from_u32(self.process);
        let mut system = sysinfo::System::new();
        let wanted = ProcessesToUpdate::Some(&[process]);
        system.refresh_processes_specifics(wanted, true, ProcessRefreshKind::nothing());
        let ended = |status| matches!(status, ProcessStatus::Zombie | ProcessStatus::Dead);
        system.process(process).is_none_or(|process| ended(process.status()))
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.process, self.host)
    }
}

/// A statement that a run consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// What it makes, or the name of the check.
    pub name: String,
    /// The words that it begins with, such as CREATE MODEL.
    pub action: String,
    /// Its file within the pipeline.
    pub file: String,
    /// The line that it begins on.
    pub line: u64,
    /// The steps whose results it reads, by their numbers.
    #[serde(default)]
    pub after: Vec<usize>,
    /// What tells it from others: its text and all that it reads. `None` if what it makes depends on more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The run that has made what it would make again, if it is not executed because of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchanged: Option<String>,
    /// Whether it is not executed because somebody wanted others only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
}

impl Planned {
    /// Its file and line, `a.sql:3`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Whether it is the same statement, whatever it reads.
    pub fn is_like(&self, other: &Self) -> bool {
        let place = |step: &Self| (step.file.clone(), step.line, step.after.clone());
        (&self.name, &self.action) == (&other.name, &other.action) && place(self) == place(other)
    }
}

/// The beginning of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The pipeline's name.
    pub pipeline: String,
    /// The text that is run, as it is kept in the warehouse.
    pub source: String,
    /// Why.
    pub cause: Cause,
    /// What is in the places of its parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
    /// The last publication that its statements see, beside what they make themselves.
    pub publication: u64,
    /// Its statements in the order in which they run, checks last.
    pub steps: Vec<Planned>,
    /// Who drives it.
    pub driver: Driver,
}

#[cfg(test)]
impl Begun {
    /// A run without statements that somebody has asked for, driven by this process.
    pub(crate) fn without_steps(scheduler: bool) -> Self {
        Self {
            pipeline: "p".to_string(),
            source: "s".to_string(),
            cause: Cause::Command { who: "ann".to_string() },
            parameters: BTreeMap::new(),
            publication: 0,
            steps: Vec::new(),
            driver: Driver::this(scheduler),
        }
    }
}

/// Something that was published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedVersion {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
}

impl PublishedVersion {
    /// What a row of the registry says.
    pub fn of(entry: &Entry) -> Self {
        Self { kind: entry.kind, name: entry.name.clone(), version: entry.version }
    }
}

/// An event of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The run has begun.
    Begun(Box<Begun>),
    /// Another process goes on with it.
    TakenOver {
        /// That process.
        driver: Driver,
    },
    /// Somebody goes on with a run that had failed, with other statements perhaps.
    Reopened {
        /// The text that is run from now on, as it is kept in the warehouse.
        source: String,
        /// Its statements.
        steps: Vec<Planned>,
        /// The numbers of steps that are done, each with the number that it had before.
        kept: Vec<(usize, usize)>,
        /// Who goes on with it.
        driver: Driver,
    },
    /// What a run that has failed has made is deleted from now on: nobody can go on with it.
    Discarded,
    /// A step is executed.
    StepBegun {
        /// The step's number, from 0.
        step: usize,
        /// How often it was begun, with this time.
        attempt: u32,
    },
    /// A training has come further.
    Iterated {
        /// The step's number.
        step: usize,
        /// The most iterations that there will be.
        of: usize,
        /// What was measured.
        measure: String,
        /// Iterations with what was measured in each.
        values: Vec<(usize, f64)>,
    },
    /// A step has come to its end.
    StepDone {
        /// The step's number.
        step: usize,
        /// How long it has taken.
        seconds: f64,
        /// What it has made, if that is to be told.
        made: Option<Step>,
        /// What it has done, for whoever goes on with the run.
        effect: EffectRecord,
        /// What a check has found that only warns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wrong: Option<Wrong>,
        /// What it has read and made, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lineage: Option<Lineage>,
    },
    /// A step has failed.
    StepFailed {
        /// The step's number.
        step: usize,
        /// Why.
        error: String,
        /// The seconds after which it is tried again, if it is.
        again_in: Option<f64>,
        /// What a check has found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wrong: Option<Wrong>,
    },
    /// All steps are done, and what they have made becomes what everybody sees. Whoever goes on from here finds out
    /// whether it has already.
    Publishing {
        /// What the gates have found. If one of them holds the run, only its models are kept.
        #[serde(default)]
        gates: Vec<Measured>,
    },
    /// The registry has it: everybody sees it. Files for other programs are given their places.
    Committed {
        /// The number of the publication, unless there was nothing to publish.
        publication: Option<u64>,
    },
    /// Everybody sees it.
    Published {
        /// The number of the publication, unless there was nothing to publish.
        publication: Option<u64>,
        /// What is published.
        versions: Vec<PublishedVersion>,
        /// Whether it is only kept, because of a gate.
        #[serde(default)]
        held: bool,
    },
    /// The run has ended without publishing anything.
    Failed {
        /// Why.
        error: String,
    },
    /// Somebody wants it to end.
    Cancelling {
        /// Who.
        who: String,
    },
    /// The run was ended before its time, and has published nothing.
    Cancelled {
        /// How.
        reason: String,
    },
}

impl Event {
    /// The word for it, as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Event::Begun(_) => "begun",
            Event::TakenOver { .. } => "taken_over",
            Event::Reopened { .. } => "reopened",
            Event::Discarded => "discarded",
            Event::StepBegun { .. } => "step_begun",
            Event::Iterated { .. } => "iterated",
            Event::StepDone { .. } => "step_done",
            Event::StepFailed { .. } => "step_failed",
            Event::Publishing { .. } => "publishing",
            Event::Committed { .. } => "committed",
            Event::Published { held: true, .. } => "held",
            Event::Published { .. } => "published",
            Event::Failed { .. } => "failed",
            Event::Cancelling { .. } => "cancelling",
            Event::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether the run is over with it.
    pub fn ends_run(&self) -> bool {
        matches!(self, Event::Published { .. } | Event::Failed { .. } | Event::Cancelled { .. })
    }

    /// All that it says, as it is written.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| error.to_string())
    }

    /// The number of the step that it is about.
    pub fn step(&self) -> Option<usize> {
        match self {
            Event::StepBegun { step, .. }
            | Event::Iterated { step, .. }
            | Event::StepDone { step, .. }
            | Event::StepFailed { step, .. } => Some(*step),
            _ => None,
        }
    }
}
