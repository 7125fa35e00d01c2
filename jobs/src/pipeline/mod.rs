//! A pipeline: a folder of SQL files whose order follows from what they read and create.

mod check;
mod deployed;
mod directives;
mod draft;
mod drive;
mod due;
mod given;
mod inputs;
mod order;
pub mod parameters;
mod plan;
mod reopen;
mod schedule;
mod select;
mod settings;
mod source;
mod steps;

pub use check::{Checked, Part};
pub use deployed::{AllDeployed, Deployed};
pub use draft::Draft;
pub use drive::{Done, Drive, Start, go_on};
pub use due::{Due, Happened, Positions, due, next};
pub use given::{Given, Interval};
pub use inputs::forget_inputs;
pub use plan::{PlannedStep, Why};
pub use reopen::reopen;
pub use schedule::{CatchUp, Cron};
pub use settings::{
    Bounds, Channel, ColumnMeasure, Concurrency, Event, Gate, Gated, NoValue, Notify, Parameter,
    Retries, Schedule, Settings, Trigger,
};
pub use source::{Source, TEXT_DAYS, forget_texts};

use crate::run::folders_of;
use crate::statement::Located;
use crate::{JobError, Result};
use parameters::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file of a pipeline.
#[derive(Debug, Clone)]
struct File {
    /// Its path within the folder.
    name: String,
    statements: Vec<Located>,
}

/// A folder of SQL files that has been read and put in order.
#[derive(Debug, Clone)]
pub struct Pipeline {
    source: Source,
    settings: Settings,
    /// What is in the places of parameters.
    values: BTreeMap<String, Value>,
    /// In the order in which they can run.
    files: Vec<File>,
    checks: Vec<File>,
    /// The files and lines of checks that find nothing that keeps a run from being published.
    warnings: BTreeSet<(String, u64)>,
}

impl Pipeline {
    /// Reads a folder. Nothing is run: all files are parsed, and what they create and read is put in
    /// order.
    ///
    /// # Errors
    /// The first thing that is wrong; [`Draft`] knows all.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::of(Source::read(folder)?, &Given::default())
    }

    /// Reads the text of a pipeline with the values of a run.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of(source: Source, given: &Given) -> Result<Self> {
        let Draft { pipeline, mistakes, .. } = Draft::of(source, given)?;
        match mistakes.into_iter().next() {
            None => Ok(pipeline),
            Some(mistake) => Err(mistake),
        }
    }

    /// All statements in the order in which they run; those of checks with the check's name.
    fn statements(&self) -> impl Iterator<Item = (&Located, Option<&str>)> {
        let of_files = self.files.iter().flat_map(|file| &file.statements);
        let of_checks = self.checks.iter().flat_map(|check| {
            check.statements.iter().map(|statement| (statement, Some(check.name.as_str())))
        });
        of_files.map(|statement| (statement, None)).chain(of_checks)
    }

    /// The folders of the tables that its statements write to.
    pub fn folders(&self) -> Vec<String> {
        let folders = self.statements().filter_map(|(one, _)| folders_of(&one.statement).ok());
        folders.flatten().collect()
    }

    /// Whether what a check finds doesn't keep a run from being published.
    fn only_warns(&self, check: &Located) -> bool {
        self.warnings.contains(&(check.file.clone(), check.line))
    }

    /// The pipeline's name.
    pub fn name(&self) -> String {
        self.source.name(&self.settings)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.source.folder
    }

    /// Its text.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What is in the places of its parameters.
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }

    /// What is said of it besides its statements.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The program that provides the inputs, if one of them is missing.
    pub fn missing_inputs(&self) -> Result<Option<PathBuf>> {
        let folder = self.folder();
        if self.source.is_in_a_store() {
            // They were copied there, and are no files of this machine.
            return Ok(None);
        }
        let missing = self.settings.inputs.iter().find(|input| !folder.join(input).exists());
        match (missing, &self.settings.fetch) {
            (None, _) => Ok(None),
            (Some(_), Some(fetch)) => Ok(Some(folder.join(fetch))),
            (Some(missing), None) => Err(JobError::Pipeline {
                folder: folder.display().to_string(),
                reason: format!("the input {} is missing", missing.display()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(files: &[(&str, &str)]) -> Result<Pipeline> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("checks")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Pipeline::read(folder.path())
    }

    #[test]
    fn files_run_after_those_they_read() {
        let pipeline = pipeline(&[
            ("a.sql", "CREATE TABLE x.a AS SELECT * FROM x.m.ranks JOIN x.b ON true"),
            ("b.sql", "CREATE TABLE x.b AS SELECT * FROM x.c"),
            ("c.sql", "CREATE TABLE x.c AS SELECT 1 AS y"),
            ("m.sql", "CREATE MODEL x.m OPTIONS (model_type = 'pagerank') AS SELECT * FROM x.b"),
            ("checks/k.sql", "SELECT * FROM x.a WHERE false"),
        ])
        .unwrap();
        let order: Vec<_> = pipeline.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(order, ["c.sql", "b.sql", "m.sql", "a.sql"]);
        assert_eq!(pipeline.checks[0].name, "checks/k.sql");
    }

    #[test]
    fn files_that_change_a_table_run_between_those_that_create_and_read_it() {
        let pipeline = pipeline(&[
            ("a.sql", "CREATE TABLE x.sum AS SELECT sum(y) AS y FROM x.t"),
            ("b.sql", "INSERT INTO x.t SELECT y FROM x.u"),
            ("c.sql", "CREATE TABLE x.t AS SELECT 1 AS y"),
            ("d.sql", "DELETE FROM x.u WHERE y IN (SELECT y FROM x.t VERSION AS OF 0)"),
        ])
        .unwrap();
        let order: Vec<_> = pipeline.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(order, ["c.sql", "d.sql", "b.sql", "a.sql"]);
    }

    #[test]
    fn inputs_that_were_copied_into_a_store_are_not_missing() {
        let files = [
            ("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y"),
            ("pipeline.toml", "inputs = ['a.csv']"),
        ];
        let files = files.map(|(name, text)| (name.to_string(), text.to_string())).into();
        let folder = PathBuf::from("s3://bucket/warehouse/_nightshift/inputs/1");
        let source = Source { folder, name: Some("p".to_string()), files };
        let there = Pipeline::of(source.clone(), &Given::default()).unwrap().missing_inputs();
        assert_eq!(there.unwrap(), None);
        let source = Source { folder: PathBuf::from("somewhere"), ..source };
        let missing = Pipeline::of(source, &Given::default()).unwrap().missing_inputs();
        assert!(missing.unwrap_err().to_string().contains("a.csv is missing"));
    }

    #[test]
    fn a_quarantine_is_made_by_the_statement_that_opens_the_files() {
        let raw = "CREATE EXTERNAL TABLE x.raw (y BIGINT) STORED AS CSV LOCATION 'y.csv' \
                   OPTIONS (quarantine 'x.bad')";
        let pipeline = pipeline(&[
            ("a.sql", "CREATE TABLE x.a AS SELECT * FROM x.bad"),
            ("b.sql", "DELETE FROM x.bad WHERE line = 1"),
            ("raw.sql", raw),
            ("checks/k.sql", "SELECT * FROM x.bad WHERE false"),
        ])
        .unwrap();
        let order: Vec<_> = pipeline.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(order, ["raw.sql", "b.sql", "a.sql"]);
        let after: Vec<_> = pipeline.planned().unwrap().into_iter().map(|s| s.after).collect();
        assert_eq!(after, [vec![], vec![0], vec![0, 1], vec![0, 1]]);
    }

    #[test]
    fn what_can_not_run_is_explained() {
        let message = |files: &[(&str, &str)]| pipeline(files).unwrap_err().to_string();
        let cyclic = message(&[
            ("a.sql", "CREATE TABLE x.a AS SELECT * FROM x.b"),
            ("b.sql", "CREATE TABLE x.b AS SELECT * FROM x.a"),
        ]);
        assert!(cyclic.contains("a.sql reads x.b of b.sql, b.sql reads x.a of a.sql"), "{cyclic}");
        let twice = message(&[
            ("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y"),
            ("b.sql", "CREATE TABLE x.a AS SELECT 2 AS y"),
        ]);
        assert!(twice.contains("both a.sql and b.sql create x.a"), "{twice}");
        let syntax = message(&[("a.sql", "CREATE TABLE x.a AS\nSELECT (1 + )")]);
        assert!(syntax.contains("a.sql:2:13: "), "{syntax}");
        let check = message(&[
            ("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y"),
            ("checks/k.sql", "CREATE TABLE x.k AS SELECT 1 AS y"),
        ]);
        assert!(check.contains("a check is a query"), "{check}");
        assert!(message(&[]).contains("no .sql file"));
    }
}
