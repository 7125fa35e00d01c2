//! A text as a pipeline, with everything that is wrong in it.

use super::order::Ordered;
use super::parameters::{Value, substitute};
use super::source::{CHECKS, SETTINGS, Source};
use super::{File, Given, Pipeline, Settings};
use crate::statement::{Located, Statement, parse, split};
use crate::{JobError, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A text that was read as a pipeline, whatever is wrong in it.
pub struct Draft {
    /// What could be read of it.
    pub(super) pipeline: Pipeline,
    /// What could not, or has no order.
    pub(super) mistakes: Vec<JobError>,
    /// What statements create that can't be parsed or put in order.
    pub(super) unknown: BTreeSet<String>,
    /// Statements that create what another creates, or nothing that has a name: their files and lines.
    pub(super) refused: BTreeSet<(String, u64)>,
}

impl Draft {
    /// Reads the text of a pipeline. Nothing is run: all files are parsed, with values in the places of parameters, and
    /// what they create and read is put in order.
    ///
    /// # Errors
    /// If it has no statements.
    pub fn of(source: Source, given: &Given) -> Result<Self> {
        let folder = source.folder.as_path();
        let (settings, mut mistakes) = match source.settings() {
            Some(text) => Settings::parse(&folder.join(SETTINGS).display().to_string(), text),
            None => Default::default(),
        };
        let (checks, files): (Vec<_>, Vec<_>) =
            source.statements().partition(|(name, _)| name.starts_with(CHECKS));
        if files.is_empty() {
            let folder = folder.display().to_string();
            let reason = "it has no .sql file".to_string();
            return Err(JobError::Pipeline { folder, reason });
        }
        let values = given.values(&settings).unwrap_or_else(|wrong| {
            let file = folder.join(SETTINGS).display().to_string();
            mistakes.extend(wrong.into_iter().map(|reason| {
                let source = Box::new(JobError::Statement(reason));
                JobError::At { file: file.clone(), line: 1, source }
            }));
            // What uses them is not wrong as well.
            settings.stand_ins()
        });
        let mut unknown = BTreeSet::new();
        let mut parsed = |files: Vec<(&str, &str)>| -> Vec<File> {
            let parse = |(name, text): (&str, &str)| {
                let shown = folder.join(name).display().to_string();
                let text = substituted(&shown, text, &values, &mut mistakes);
                let statements = parse_all(&shown, &text, &mut mistakes, &mut unknown);
                File { statements, name: name.to_string() }
            };
            files.into_iter().map(parse).collect()
        };
        let (files, mut checks) = (parsed(files), parsed(checks));
        for check in &mut checks {
            check.statements.retain(|statement| {
                let query = matches!(statement.statement, Statement::Query(_));
                if !query {
                    let reason = "a check is a query that returns the rows that are wrong";
                    mistakes.push(statement.locate(JobError::Statement(reason.to_string())));
                }
                query
            });
        }
        let Ordered { files, mistakes: unordered, circular, refused } = Ordered::new(files);
        mistakes.extend(unordered);
        unknown.extend(circular);
        let pipeline = Pipeline { source, settings, values, files, checks };
        Ok(Self { pipeline, mistakes, unknown, refused })
    }
}

/// A text with values in the places of its parameters; those that can't get one stay.
fn substituted(
    file: &str,
    text: &str,
    values: &BTreeMap<String, Value>,
    mistakes: &mut Vec<JobError>,
) -> String {
    substitute(text, values).unwrap_or_else(|wrong| {
        mistakes.extend(wrong.into_iter().map(|wrong| JobError::Syntax {
            file: file.to_string(),
            line: wrong.line,
            column: wrong.column,
            reason: wrong.reason,
        }));
        // What creates something in this text is unknown, and the places of other mistakes in it are right.
        text.to_string()
    })
}

/// The statements of a text that can be parsed; what is wrong in the others, and what they would have created.
fn parse_all(
    file: &str,
    text: &str,
    mistakes: &mut Vec<JobError>,
    unknown: &mut BTreeSet<String>,
) -> Vec<Located> {
    let whole = parse(file, text);
    let Ok(statements) = split(file, text) else {
        mistakes.extend(whole.err());
        return Vec::new();
    };
    let before = mistakes.len();
    let mut parsed = Vec::new();
    // One after another, for the parser ends with the first mistake.
    for statement in &statements {
        match statement.parse() {
            Ok(located) => match statement.parameters().first() {
                None => parsed.push(located),
                Some(name) => {
                    let reason =
                        format!("${name} has no value: in a pipeline it is written ${{{name}}}");
                    mistakes.push(located.locate(JobError::Statement(reason)));
                    unknown.extend(statement.creates());
                }
            },
            Err(error) => {
                mistakes.push(error);
                unknown.extend(statement.creates());
            }
        }
    }
    if mistakes.len() == before {
        mistakes.extend(whole.err());
    }
    parsed
}
