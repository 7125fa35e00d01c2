//! A text as a pipeline, with everything that is wrong in it.

use super::directives::Directives;
use super::order::Ordered;
use super::parameters::{Mistake, Value, substitute, used};
use super::settings::NoValue;
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
        let first_use = |name: &str| {
            files.iter().chain(&checks).find_map(|(file, text)| {
                let (_, line, column) = used(text).into_iter().find(|(other, ..)| other == name)?;
                Some((folder.join(file).display().to_string(), line, column))
            })
        };
        let values = given.values(&settings).unwrap_or_else(|wrong| {
            mistakes.extend(wrong.into_iter().map(|NoValue { name, missing, reason }| {
                match first_use(&name).filter(|_| missing) {
                    Some((file, line, column)) => JobError::Syntax { file, line, column, reason },
                    // No file is wrong if a value is given that can't be one.
                    None => {
                        let file = folder.join(SETTINGS).display().to_string();
                        let source = Box::new(JobError::Statement(reason));
                        JobError::At { file, line: 1, source }
                    }
                }
            }));
            // What uses them is not wrong as well.
            settings.stand_ins()
        });
        let mut unknown = BTreeSet::new();
        let (mut warnings, mut incomplete) = (BTreeSet::new(), BTreeSet::new());
        let directives = Directives { settings: &settings, values: &values };
        let mut parsed = |files: Vec<(&str, &str)>| -> Vec<File> {
            let parse = |(name, text): (&str, &str)| {
                let shown = folder.join(name).display().to_string();
                let (text, without) = substituted(&shown, text, &values, &mut mistakes);
                let mut statements = parse_all(&shown, &text, &mut mistakes, &mut unknown);
                // Nobody is told what else is wrong in one that has no value for a parameter.
                for one in &statements {
                    if without.iter().any(|line| (one.line..=one.last_line()).contains(line)) {
                        incomplete.insert((one.file.clone(), one.line));
                        unknown.extend(one.object());
                    }
                }
                let check = name.starts_with(CHECKS);
                let lines = directives.apply(&shown, &text, check, &mut statements, &mut mistakes);
                warnings.extend(lines.into_iter().map(|line| (shown.clone(), line)));
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
        let Ordered { files, mistakes: unordered, circular, mut refused } = Ordered::new(files);
        refused.extend(incomplete);
        mistakes.extend(unordered);
        unknown.extend(circular);
        let pipeline = Pipeline { source, settings, values, files, checks, warnings };
        Ok(Self { pipeline, mistakes, unknown, refused })
    }
}

/// A text with values in the places of its parameters, and the lines on which NULL is instead, because there is none.
fn substituted(
    file: &str,
    text: &str,
    values: &BTreeMap<String, Value>,
    mistakes: &mut Vec<JobError>,
) -> (String, Vec<u64>) {
    let wrong = match substitute(text, values) {
        Ok(text) => return (text, Vec::new()),
        Err(wrong) => wrong,
    };
    let lines = wrong.iter().map(|wrong| wrong.line).collect();
    let mut text = text.to_string();
    for Mistake { line, column, reason, .. } in wrong {
        text = without_place(text, line, column);
        mistakes.push(JobError::Syntax { file: file.to_string(), line, column, reason });
    }
    // The others get their values, if the places of mistakes in what is left are right all the same.
    (substitute(&text, values).unwrap_or(text), lines)
}

/// A text with NULL in the place of a `${name}` that has no value, as long as that is: what comes after it stays where it
/// is, and nobody is told once more that it can't be parsed.
fn without_place(text: String, line: u64, column: u64) -> String {
    let before = usize::try_from(line - 1).unwrap_or(0);
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    let within = text[start..].char_indices().nth(usize::try_from(column - 1).unwrap_or(0));
    let Some((offset, _)) = within else { return text };
    let at = start + offset;
    match text[at..].find('}') {
        Some(length) if text[at..].starts_with("${") => {
            let (width, after) = (length + 1, at + length + 1);
            format!("{}{:<width$}{}", &text[..at], "NULL", &text[after..])
        }
        _ => text,
    }
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
