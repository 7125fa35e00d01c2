//! What can go wrong in statements, trainings and runs.

use crate::counted;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use nightshift_catalog::{CatalogError, store_can_recover};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// A result of this crate.
pub type Result<T, E = JobError> = std::result::Result<T, E>;

/// What went wrong, where, and what to do.
#[derive(Debug, Error)]
pub enum JobError {
    /// A statement that can't be parsed.
    #[error("{file}:{line}:{column}: {reason}")]
    Syntax {
        /// The file, or another name for where the text came from.
        file: String,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What was found and what was expected.
        reason: String,
    },
    /// A statement that can be parsed and not executed.
    #[error("{0}")]
    Statement(String),
    /// An error of one statement of a file.
    #[error("{file}:{}: {source}", position(*line, .source))]
    At {
        /// The file.
        file: String,
        /// The line that the statement starts on.
        line: u64,
        /// What went wrong.
        #[source]
        source: Box<JobError>,
    },
    /// An option of a model that is unknown or has a wrong value.
    #[error("model {model}: option {option}: {reason}")]
    Option {
        /// The model.
        model: String,
        /// The option.
        option: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// Training data that has no defined meaning.
    #[error("model {model}: {reason}")]
    TrainingData {
        /// The model.
        model: String,
        /// The column and value.
        reason: String,
    },
    /// A value of a file that can't be read as its column's type.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// The line, the column and the value.
        reason: String,
    },
    /// More records than may be can't be read.
    #[error(
        "{table}: {bad} of {} can't be read, more than the share of {share} that may go to \
         quarantine; the first is in {first}",
        counted(*records, "record")
    )]
    Quarantine {
        /// The table that is read in place.
        table: String,
        /// Records that can't be read.
        bad: u64,
        /// All records.
        records: u64,
        /// The share of them that may be bad.
        share: f64,
        /// The file, the column, the value and the line.
        first: String,
    },
    /// A pipeline folder that can't be run.
    #[error("pipeline {folder}: {reason}")]
    Pipeline {
        /// The folder.
        folder: String,
        /// What is wrong, and in which file.
        reason: String,
    },
    /// A check that found wrong rows.
    #[error(
        "check {check} found {}, nothing is published:\n{sample}",
        counted(*rows, "wrong row")
    )]
    Check {
        /// The check's file.
        check: String,
        /// How many rows it returned.
        rows: usize,
        /// The first of them.
        sample: String,
    },
    /// A run that a gate has kept from being published.
    #[error("not published: {}; {}", reasons.join("; "), kept_models(kept))]
    Held {
        /// What the gates say.
        reasons: Vec<String>,
        /// The models that are kept.
        kept: String,
    },
    /// Somebody asked to stop.
    #[error("interrupted, nothing is published")]
    Interrupted,
    /// Somebody has cancelled the run.
    #[error("cancelled by {who}, nothing is published")]
    RunCancelled {
        /// Who.
        who: String,
    },
    /// Somebody has cancelled the query.
    #[error("the statement was cancelled")]
    Cancelled,
    /// A run that another process goes on with.
    #[error("run {run} was taken over by another process: nothing more of it is done here")]
    Fenced {
        /// The run.
        run: String,
    },
    /// An id that no run has.
    #[error("there is no run {id}; `nightshift runs` lists them")]
    UnknownRun {
        /// The id as given.
        id: String,
    },
    /// Something that has taken longer than it may.
    #[error("{what} has taken more than {limit:?}, nothing is published")]
    TimedOut {
        /// What has.
        what: String,
        /// What it may take.
        limit: Duration,
    },
    /// The text of a pipeline that was deleted because nobody had run it for long.
    #[error(
        "the pipeline's text {name} is no longer kept: texts are kept for {} days after their last run",
        crate::pipeline::TEXT_DAYS
    )]
    NotKept {
        /// What it was kept under.
        name: String,
    },
    /// Blocks or states that are not what they should be.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// The object.
        what: String,
        /// How it shows.
        reason: String,
    },
    /// A kernel can't go on.
    #[error(transparent)]
    Als(#[from] nightshift_udfs::als::AlsError),
    /// A task was stopped.
    #[error("a task was stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
    /// The system has no room for more threads.
    #[error("no thread can be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// An error that several tasks wait for.
    #[error(transparent)]
    Shared(Arc<JobError>),
    /// Tables and object storage.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The engine.
    #[error("{}", engine_message(.0))]
    Engine(#[source] DataFusionError),
    /// Arrow.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

impl JobError {
    /// Whether it says only that something was stopped because somebody wanted that.
    pub fn is_cancellation(&self) -> bool {
        match self {
            JobError::Interrupted | JobError::Cancelled | JobError::RunCancelled { .. } => true,
            JobError::At { source, .. } => source.is_cancellation(),
            JobError::Shared(error) => error.is_cancellation(),
            _ => false,
        }
    }

    /// Whether the same may succeed when it is tried again: a store that didn't answer, a lost executor, another
    /// writer who was faster. What is wrong with a statement or with data is so for good.
    pub fn can_pass(&self) -> bool {
        match self {
            JobError::At { source, .. } => source.can_pass(),
            JobError::Shared(error) => error.can_pass(),
            JobError::Catalog(error) => error.can_pass(),
            JobError::Engine(error) => engine_can_recover(error),
            _ => false,
        }
    }
}

/// Whether an error of the engine is one of a store or a lost executor. What comes from an executor is the text of
/// the error, as programmers read it.
fn engine_can_recover(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ObjectStore(error) => store_can_recover(error),
        DataFusionError::External(inner) => {
            inner.downcast_ref::<CatalogError>().is_some_and(CatalogError::can_pass)
                || crate::session::is_lost_executor(error)
                || error.to_string().contains("nobody has led the cluster")
        }
        _ => {
            let store = "ObjectStore(Generic";
            crate::session::is_lost_executor(error) || error.to_string().contains(store)
        }
    }
}

/// An error of ours that the engine has only passed on is itself again.
impl From<DataFusionError> for JobError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(error) => match error.downcast::<JobError>() {
                Ok(error) => *error,
                Err(error) => JobError::Engine(DataFusionError::External(error)),
            },
            error => JobError::Engine(error),
        }
    }
}

impl From<JobError> for DataFusionError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Engine(error) => error,
            error => Self::External(Box::new(error)),
        }
    }
}

/// The line, and the column where the engine knows it.
fn exact_place(line: u64, source: &JobError) -> (u64, Option<u64>) {
    let span = match source {
        JobError::Engine(error) => error.diagnostic().and_then(|about| about.span),
        _ => None,
    };
    match span {
        Some(span) => (span.start.line, Some(span.start.column)),
        None => (line, None),
    }
}

fn kept_models(kept: &str) -> String {
    match kept.is_empty() {
        true => "what was published stays".to_string(),
        false => format!("what was published stays, and {kept} can be looked at and promoted"),
    }
}

fn position(line: u64, source: &JobError) -> String {
    match exact_place(line, source) {
        (line, Some(column)) => format!("{line}:{column}"),
        (line, None) => line.to_string(),
    }
}

impl JobError {
    /// The file that it is about, the line in it, and the column where that is known.
    pub fn place(&self) -> Option<(&str, u64, Option<u64>)> {
        match self {
            Self::Syntax { file, line, column, .. } => Some((file, *line, Some(*column))),
            Self::At { file, line, source } => {
                let (line, column) = exact_place(*line, source);
                Some((file, line, column))
            }
            _ => None,
        }
    }

    /// What is wrong, without the place.
    pub fn reason(&self) -> String {
        match self {
            Self::Syntax { reason, .. } => reason.clone(),
            Self::At { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

impl JobError {
    /// The same error without the place where the engine says that it is: the text that it has planned
    /// is not the one that somebody wrote.
    pub(crate) fn without_position(self) -> Self {
        match self {
            Self::Engine(DataFusionError::Diagnostic(_, inner)) => {
                Self::Engine(*inner).without_position()
            }
            Self::Engine(DataFusionError::Context(text, inner)) => {
                match Self::Engine(*inner).without_position() {
                    Self::Engine(inner) => {
                        Self::Engine(DataFusionError::Context(text, Box::new(inner)))
                    }
                    other => other,
                }
            }
            other => other,
        }
    }
}

/// What the engine says of arithmetic that has no result, here and in what comes from executors, which is the text as
/// programmers read it; and what it means.
const ARITHMETIC: [(&str, &str); 4] = [
    ("Divide by zero error", "division by zero"),
    ("DivideByZero", "division by zero"),
    ("Arithmetic overflow: ", OVERFLOW),
    ("ArithmeticOverflow(", OVERFLOW),
];

const OVERFLOW: &str = "arithmetic overflow, a result is too large for its type";

/// The engine's message without the wrapping that means nothing to the one who reads it.
fn engine_message(error: &DataFusionError) -> String {
    let text = error.to_string();
    if text.contains("RecursionLimitReached") {
        return "the statement is nested too deeply to be sent to the cluster: put its parts into \
                tables, with CREATE TABLE … AS"
            .to_string();
    }
    let mut text = text.as_str();
    for wrapping in [
        "type_coercion\ncaused by\n",
        "DataFusion error: ",
        "Execution error: ",
        "External error: ",
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
    ] {
        text = text.strip_prefix(wrapping).unwrap_or(text);
    }
    let text = text.trim();
    let arithmetic = match error.find_root() {
        DataFusionError::ArrowError(error, _) => {
            matches!(**error, ArrowError::DivideByZero | ArrowError::ArithmeticOverflow(_))
        }
        _ => text.contains("ArrowError("),
    };
    if !arithmetic {
        return text.to_string();
    }
    let Some((sign, words)) = ARITHMETIC.iter().find(|(sign, _)| text.contains(sign)) else {
        return text.to_string();
    };
    let text = text.strip_prefix("Arrow error: ").unwrap_or(text);
    match text.strip_prefix(*sign) {
        None | Some("") => words.to_string(),
        Some(more) => format!("{words}: {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn arithmetic_is_said_in_words() {
        let here = |error: ArrowError| JobError::from(DataFusionError::from(error));
        assert_eq!(here(ArrowError::DivideByZero).to_string(), "division by zero");
        let overflow = ArrowError::ArithmeticOverflow("Overflow happened on: 8 * 9".to_string());
        assert_eq!(
            here(overflow).to_string(),
            "arithmetic overflow, a result is too large for its type: Overflow happened on: 8 * 9"
        );
        // What an executor says besides means nothing to who reads it.
        let there = "Job 1 failed: DataFusionError(Shared(ArrowError(DivideByZero, None)))";
        let error = JobError::from(DataFusionError::Execution(there.to_string()));
        assert_eq!(error.to_string(), "division by zero");
        assert!(error.source().is_some_and(|source| source.to_string().ends_with(there)));
        let other = DataFusionError::Plan("there is no column DivideByZero".to_string());
        assert_eq!(JobError::from(other).to_string(), "there is no column DivideByZero");
    }

    #[test]
    fn one_row_is_no_plural() {
        let check = |rows| {
            JobError::Check { check: "k.sql".into(), rows, sample: "| 1 |".into() }.to_string()
        };
        assert_eq!(check(1), "check k.sql found 1 wrong row, nothing is published:\n| 1 |");
        assert_eq!(check(2), "check k.sql found 2 wrong rows, nothing is published:\n| 1 |");
    }
}
