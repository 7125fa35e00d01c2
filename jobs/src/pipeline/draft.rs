//! A folder as a pipeline, with everything that is wrong in its text.

use super::order::Ordered;
use super::{File, Pipeline, Settings};
use crate::statement::{Located, Statement, parse, split};
use crate::{JobError, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// A folder that was read as a pipeline, whatever is wrong in it.
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
    /// Reads a folder. Nothing is run: all files are parsed, and what they create and read is put in order.
    ///
    /// # Errors
    /// If there is no pipeline in the folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let error =
            |reason: String| JobError::Pipeline { folder: folder.display().to_string(), reason };
        if !folder.is_dir() {
            return Err(error("there is no such folder".to_string()));
        }
        let settings = folder.join("pipeline.toml");
        let (settings, mut mistakes) = match std::fs::read_to_string(&settings) {
            Ok(text) => Settings::parse(&settings.display().to_string(), &text),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Default::default(),
            Err(wrong) => return Err(error(format!("pipeline.toml: {wrong}"))),
        };
        let files = texts(folder, "").map_err(error)?;
        let checks = texts(folder, "checks").map_err(error)?;
        if files.is_empty() {
            return Err(error("it has no .sql file".to_string()));
        }
        let mut unknown = BTreeSet::new();
        let mut parsed = |files: Vec<(String, String)>| -> Vec<File> {
            let parse = |(name, text): (String, String)| {
                let shown = folder.join(&name).display().to_string();
                let statements = parse_all(&shown, &text, &mut mistakes, &mut unknown);
                File { statements, name }
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
        let pipeline = Pipeline { folder: folder.to_path_buf(), settings, files, checks };
        Ok(Self { pipeline, mistakes, unknown, refused })
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
                    let reason = format!("${name} has no value: a pipeline has no parameters");
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

/// The `.sql` files of a folder by name, with their text.
fn texts(folder: &Path, within: &str) -> Result<Vec<(String, String)>, String> {
    let path = folder.join(within);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            files.push((if within.is_empty() { name } else { format!("{within}/{name}") }, text));
        }
    }
    files.sort();
    Ok(files)
}
