//! A pipeline: a folder of SQL files whose order follows from what they read and create.

use crate::audit;
use crate::external::Externals;
use crate::progress::Progress;
use crate::queries::{Caller, Via};
use crate::run::{Run, Step};
use crate::session::Session;
use crate::statement::{Located, Statement, parse};
use crate::{JobError, Result};
use nightshift_catalog::registry::Entry;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `pipeline.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The pipeline's name; that of its folder if it is missing.
    pub name: Option<String>,
    /// Files that must be there before it runs, relative to the folder.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
    /// A program in the folder that provides the inputs, run when one of them is missing.
    pub fetch: Option<PathBuf>,
}

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
    pub fn read(folder: &Path) -> Result<Self> {
        let error =
            |reason: String| JobError::Pipeline { folder: folder.display().to_string(), reason };
        if !folder.is_dir() {
            return Err(error("there is no such folder".to_string()));
        }
        let settings = folder.join("pipeline.toml");
        let settings = match std::fs::read_to_string(&settings) {
            Ok(text) => {
                toml::from_str(&text).map_err(|wrong| error(format!("pipeline.toml: {wrong}")))?
            }
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Settings::default(),
            Err(wrong) => return Err(error(format!("pipeline.toml: {wrong}"))),
        };
        let files = read_files(folder, "").map_err(error)?;
        let checks = read_files(folder, "checks").map_err(error)?;
        if files.is_empty() {
            return Err(error("it has no .sql file".to_string()));
        }
        let parsed = |files: Vec<(String, String)>| {
            let parse = |(name, text): (String, String)| {
                let shown = folder.join(&name).display().to_string();
                Ok(File { statements: parse(&shown, &text)?, name })
            };
            files.into_iter().map(parse).collect::<Result<Vec<_>>>()
        };
        let (files, checks) = (parsed(files)?, parsed(checks)?);
        for check in checks.iter().flat_map(|file| &file.statements) {
            if !matches!(check.statement, Statement::Query(_)) {
                let reason = "a check is a query that returns the rows that are wrong".to_string();
                return Err(check.locate(JobError::Statement(reason)));
            }
        }
        let files = in_order(files)?.map_err(error)?;
        Ok(Self { folder: folder.to_path_buf(), settings, files, checks })
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

/// The `.sql` files of a folder by name, with their text.
fn read_files(folder: &Path, within: &str) -> Result<Vec<(String, String)>, String> {
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

/// Puts files in an order in which each comes after those that create or change what it reads, and
/// after those that create what it changes. Among files that could come next, the first by name does.
fn in_order(files: Vec<File>) -> Result<Result<Vec<File>, String>> {
    let mut creators: BTreeMap<String, usize> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for statement in &file.statements {
            let Some(name) = statement.creates()? else { continue };
            if let Some(other) = creators.insert(name.clone(), index)
                && other != index
            {
                let other = &files[other].name;
                return Ok(Err(format!("both {other} and {} create {name}", file.name)));
            }
        }
    }
    let mut changers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for name in file.statements.iter().filter_map(Located::changes) {
            changers.entry(name).or_default().push(index);
        }
    }
    let mut needs: Vec<BTreeMap<usize, String>> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let mut of_file = BTreeMap::new();
        for statement in &file.statements {
            for name in statement.reads()?.created_names() {
                let makers = creators
                    .get(&name)
                    .into_iter()
                    .chain(changers.get(&name).into_iter().flatten());
                for maker in makers.filter(|maker| **maker != index) {
                    of_file.insert(*maker, name.clone());
                }
            }
            if let Some(name) = statement.changes()
                && let Some(creator) = creators.get(&name)
                && *creator != index
            {
                of_file.insert(*creator, name);
            }
        }
        needs.push(of_file);
    }
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    while order.len() < files.len() {
        let ready = (0..files.len()).find(|index| {
            !done.contains(index) && needs[*index].keys().all(|needed| done.contains(needed))
        });
        match ready {
            Some(index) => {
                done.insert(index);
                order.push(index);
            }
            None => return Ok(Err(cycle(&files, &needs, &done))),
        }
    }
    let mut files: Vec<Option<File>> = files.into_iter().map(Some).collect();
    Ok(Ok(order.into_iter().filter_map(|index| files[index].take()).collect()))
}

/// Follows what files need, among those that can't run, until one comes again.
fn cycle(files: &[File], needs: &[BTreeMap<usize, String>], done: &BTreeSet<usize>) -> String {
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..files.len()).find(|index| !done.contains(index)).unwrap_or(0);
    while !path.contains(&at) {
        path.push(at);
        at = needs[at].keys().copied().find(|needed| !done.contains(needed)).unwrap_or(at);
    }
    let start = path.iter().position(|index| *index == at).unwrap_or(0);
    let mut steps: Vec<String> = Vec::new();
    for (position, index) in path[start..].iter().enumerate() {
        let next = path[start..].get(position + 1).unwrap_or(&at);
        steps.push(format!(
            "{} reads {} of {}",
            files[*index].name, needs[*index][next], files[*next].name
        ));
    }
    format!("its files wait for each other: {}", steps.join(", "))
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
