//! A pipeline: a folder of SQL files whose order follows from what they read and create.

mod check;
mod draft;
mod order;
mod settings;

pub use check::{Checked, Part};
pub use draft::Draft;
pub use settings::Settings;

use crate::audit;
use crate::external::Externals;
use crate::progress::Progress;
use crate::queries::{Caller, Via};
use crate::run::{Run, Step};
use crate::session::Session;
use crate::statement::Located;
use crate::{JobError, Result};
use nightshift_catalog::registry::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    folder: PathBuf,
    settings: Settings,
    /// In the order in which they can run.
    files: Vec<File>,
    checks: Vec<File>,
}

impl Pipeline {
    /// Reads a folder. Nothing is run: all files are parsed, and what they create and read is put in
    /// order.
    ///
    /// # Errors
    /// The first thing that is wrong; [`Draft`] knows all.
    pub fn read(folder: &Path) -> Result<Self> {
        let Draft { pipeline, mistakes, .. } = Draft::read(folder)?;
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

    /// The pipeline's name.
    pub fn name(&self) -> String {
        let folder = || self.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        self.settings.name.clone().or_else(folder).unwrap_or_else(|| "pipeline".to_string())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program that provides the inputs, if one of them is missing.
    pub fn missing_inputs(&self) -> Result<Option<PathBuf>> {
        let missing = self.settings.inputs.iter().find(|input| !self.folder.join(input).exists());
        match (missing, &self.settings.fetch) {
            (None, _) => Ok(None),
            (Some(_), Some(fetch)) => Ok(Some(self.folder.join(fetch))),
            (Some(missing), None) => Err(JobError::Pipeline {
                folder: self.folder.display().to_string(),
                reason: format!("the input {} is missing", missing.display()),
            }),
        }
    }

    /// Runs all files and checks, then publishes. If anything fails, nothing is published and what
    /// was written is deleted. When `interrupted` comes to its end first, that counts as a failure.
    pub async fn run(
        &self,
        session: Session,
        progress: Arc<dyn Progress>,
        interrupted: impl Future<Output = ()>,
    ) -> Result<(Vec<Step>, Vec<Entry>)> {
        let operation = format!("RUN {}", self.name());
        let mut run =
            Run::start(session, operation, Externals::new(), Arc::clone(&progress)).await?;
        let id = run.id().to_string();
        let executed = tokio::select! {
            executed = self.steps(&mut run, progress.as_ref()) => executed,
            () = interrupted => Err(JobError::Interrupted),
        };
        let done = match executed {
            Ok(()) => run.publish().await,
            Err(error) => {
                if let Err(left) = run.abandon().await {
                    progress.note(&format!("some of the run's files could not be deleted: {left}"));
                }
                Err(error)
            }
        };
        let outcome = match &done {
            Ok(_) => "done",
            Err(error) if error.is_cancellation() => "cancelled",
            Err(_) => "failed",
        };
        let caller = Caller::of_this_process(Via::Pipeline);
        audit::record(&caller, id, "RUN", &self.name(), outcome);
        done
    }

    async fn steps(&self, run: &mut Run, progress: &dyn Progress) -> Result<()> {
        let statements = || self.files.iter().flat_map(|file| &file.statements);
        let total = statements().count() + self.checks.len();
        for (index, statement) in statements().enumerate() {
            let name = statement.creates()?.or_else(|| statement.changes());
            let name = name.unwrap_or_else(|| statement.file.clone());
            progress.step(index + 1, total, &name);
            run.execute(statement, Some(self.folder.clone())).await?;
        }
        let done = total - self.checks.len();
        for (index, check) in self.checks.iter().enumerate() {
            progress.step(done + index + 1, total, &check.name);
            for statement in &check.statements {
                run.check(&check.name, statement).await?;
            }
        }
        Ok(())
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
