//! What is wrong in a pipeline, found out without running it.

use super::settings::position;
use super::source::SETTINGS;
use super::{Draft, Pipeline};
use crate::progress::Silent;
use crate::run::Rehearsal;
use crate::session::Session;
use crate::statement::{Located, Statement};
use crate::suggestion::did_you_mean;
use crate::{JobError, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A statement of a pipeline, and what it has to do with the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its file.
    pub file: String,
    /// The line it begins on.
    pub line: u64,
    /// The words it begins with, such as CREATE MODEL.
    pub action: &'static str,
    /// What it creates or changes: files that are read in place can have a table of bad records besides.
    pub makes: Vec<String>,
    /// The tables, views and models that it reads.
    pub reads: Vec<String>,
}

/// What a check has found.
#[derive(Debug)]
pub struct Checked {
    /// The pipeline's name.
    pub name: String,
    /// Its statements in the order in which they run, checks last.
    pub parts: Vec<Part>,
    /// Everything that is wrong, in the order of files and lines.
    pub mistakes: Vec<JobError>,
}

impl Draft {
    /// Checks the pipeline as a whole: the plan of each statement, over the tables that there are and those that
    /// statements before it would make, besides what reading has found. Nothing is run.
    ///
    /// # Errors
    /// If the warehouse can't be read.
    pub async fn check(self, session: Session) -> Result<Checked> {
        let Self { pipeline, mut mistakes, mut unknown, refused } = self;
        let inputs = pipeline.missing_inputs();
        let fetched = matches!(inputs, Ok(Some(_)));
        match inputs {
            Ok(None) => {}
            Ok(Some(fetch)) => mistakes.push(JobError::Pipeline {
                folder: pipeline.folder().display().to_string(),
                reason: format!(
                    "inputs are missing, so what reads them is not checked; {} provides them, and a run runs it",
                    fetch.display()
                ),
            }),
            Err(error) => mistakes.push(error),
        }
        let mut rehearsal = Rehearsal::start(session, Arc::new(Silent)).await?;
        let mut parts = Vec::new();
        for (statement, check) in pipeline.statements() {
            // What could not be planned is not missed once more by each statement that reads it.
            let created = statement.creates_all().unwrap_or_default();
            let reads: Vec<String> = match statement.reads() {
                Ok(reads) => reads.created_names().into_iter().collect(),
                Err(error) => {
                    // Those of files were read before, to put them in order.
                    mistakes.extend(check.map(|_| error));
                    unknown.extend(created);
                    continue;
                }
            };
            let makes = statement.object();
            parts.push(part(&pipeline, statement, &reads));
            if refused.contains(&(statement.file.clone(), statement.line)) {
                continue;
            }
            let in_place = matches!(statement.statement, Statement::CreateExternalTable(_));
            if waits(&reads, makes.as_deref(), &unknown) || fetched && in_place {
                unknown.extend(created);
                continue;
            }
            let planned = match check {
                Some(_) => rehearsal.check(statement).await,
                None => rehearsal.execute(statement, Some(pipeline.folder().to_path_buf())).await,
            };
            if let Err(error) = planned {
                mistakes.push(statement.locate(error));
                let columns = matches!(statement.statement, Statement::AddColumns { .. });
                unknown.extend(created.into_iter().chain(makes.filter(|_| columns)));
            }
        }
        mistakes.extend(wrong_gates(&pipeline, &rehearsal, &unknown).await);
        mistakes.sort_by_key(|mistake| {
            let place = mistake.place();
            place.map(|(file, line, column)| (file.to_string(), line, column))
        });
        Ok(Checked { name: pipeline.name(), parts, mistakes })
    }
}

/// The gates that could not measure what they are about, as it would be.
async fn wrong_gates(
    pipeline: &Pipeline,
    rehearsal: &Rehearsal,
    unknown: &BTreeSet<String>,
) -> Vec<JobError> {
    let file = pipeline.folder().join(SETTINGS).display().to_string();
    let text = pipeline.source.settings().unwrap_or_default();
    let of_files = pipeline.statements().filter(|(_, check)| check.is_none());
    let made = of_files.flat_map(|(one, _)| one.object().into_iter().chain(one.quarantine()));
    let made: BTreeSet<String> = made.collect();
    let mut wrong = Vec::new();
    for gate in &pipeline.settings.gates {
        let subject = gate.of.subject();
        if waits(&gate.of.reads(), Some(subject), unknown) {
            continue;
        }
        let reason = match made.contains(subject) {
            true => rehearsal.gate(gate).await.err().map(|error| error.reason()),
            false => {
                let hint = did_you_mean(subject, made.iter().map(String::as_str));
                Some(format!(
                    "the pipeline makes no {subject}, which nothing would be measured of{hint}"
                ))
            }
        };
        if let Some(reason) = reason {
            let (line, column) = position(text, gate.at);
            wrong.push(JobError::Syntax { file: file.clone(), line, column, reason });
        }
    }
    wrong
}

/// Whether a statement is about something that is not known.
fn waits(reads: &[String], makes: Option<&str>, unknown: &BTreeSet<String>) -> bool {
    let is_unknown = |name: &str| {
        // `recs.als.user_factors` is of the model `recs.als`.
        unknown.contains(name)
            || name.rsplit_once('.').is_some_and(|(model, _)| unknown.contains(model))
    };
    reads.iter().any(|name| is_unknown(name)) || makes.is_some_and(|name| unknown.contains(name))
}

fn part(pipeline: &Pipeline, statement: &Located, reads: &[String]) -> Part {
    let within = Path::new(&statement.file).strip_prefix(pipeline.folder());
    let file = within.map_or(statement.file.clone(), |file| file.display().to_string());
    let (line, action, reads) = (statement.line, statement.statement.word(), reads.to_vec());
    let makes = statement.object().into_iter().chain(statement.quarantine()).collect();
    Part { file, line, action, makes, reads }
}
