//! What the end-to-end tests share: the binary, clusters of real processes, folders, Python.

#![allow(dead_code)]

pub mod proxy;
pub mod s3;

use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The binary under test, with nothing of the caller's configuration.
pub fn nightshift(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
    command.current_dir(folder);
    for provider in ["AWS_", "GOOGLE_", "AZURE_"] {
        let named = |(name, _): &(OsString, _)| name.to_string_lossy().starts_with(provider);
        for (name, _) in std::env::vars_os().filter(named) {
            command.env_remove(name);
        }
    }
    for name in ["WAREHOUSE", "CLUSTER", "LOG", "PSEUDONYM_KEY", "PAGER", "HISTORY"] {
        command.env_remove(format!("NIGHTSHIFT_{name}"));
    }
    for name in ["NIGHTSHIFT_LINEAGE", "NIGHTSHIFT_LINEAGE_NAMESPACE", "OPENLINEAGE_API_KEY"] {
        command.env_remove(name);
    }
    command
}

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Runs a command that must succeed and returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that a command has printed.
pub fn text(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
}

/// The rows of a query.
pub fn query(folder: &Path, sql: &str) -> Vec<Value> {
    let out = succeed(nightshift(folder).args(["sql", "--format", "json", "-c", sql]));
    serde_json::from_str(&out).unwrap()
}

/// Runs a Python script of `tests/python` with the packages of `requirements.txt`.
pub fn python(script: &str, arguments: &[&Path]) -> String {
    let python = std::env::var("NIGHTSHIFT_TEST_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let script = repository().join("tests/python").join(script);
    succeed(Command::new(python).arg(script).args(arguments))
}

/// The MovieLens pipeline of the repository, with its data.
pub fn movielens() -> PathBuf {
    let folder = repository().join("sql/movielens");
    if !folder.join("data/users.tsv").exists() {
        succeed(&mut Command::new(folder.join("fetch")));
    }
    folder
}

/// Writes a pipeline's files into `folder/name`.
pub fn pipeline(folder: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let pipeline = folder.join(name);
    std::fs::create_dir_all(pipeline.join("checks")).unwrap();
    for (file, text) in files {
        std::fs::write(pipeline.join(file), text).unwrap();
    }
    pipeline
}

/// All files of a folder with their contents, apart from what `ignored` names.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            // One that is gone since is not there.
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// The files in a folder whose writers have come to their end with them: those on their way have a `#` after their names.
pub fn objects(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let is_whole = |path: &PathBuf| !path.to_string_lossy().contains('#');
    contents(folder).into_iter().filter(|(path, _)| is_whole(path)).collect()
}

/// All files of a warehouse, apart from what is written down of runs.
pub fn data(warehouse: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let records = ["journals", "sources", "published", "lineage"]
        .map(|name| warehouse.join("_nightshift").join(name));
    let is_data = |path: &PathBuf| !records.iter().any(|record| path.starts_with(record));
    contents(warehouse).into_iter().filter(|(path, _)| is_data(path)).collect()
}

/// A process that is killed at the end of the test.
pub struct Process(Child);

impl Process {
    /// Starts a command and waits for the line that says that it is ready, which it returns.
    pub fn start(command: &mut Command) -> (Self, String) {
        Self::start_logging(command, Stdio::null())
    }

    /// The same, with its log going somewhere.
    pub fn start_logging(command: &mut Command, log: impl Into<Stdio>) -> (Self, String) {
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut process = Self(child);
        let line = process.line();
        (process, line.trim().to_string())
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let mut byte = [0];
        let out = self.0.stdout.as_mut().unwrap();
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0] as char);
        }
        line
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }

    /// Sends it a signal, such as -STOP.
    pub fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A scheduler and executors, each a process.
pub struct Cluster {
    /// Where the scheduler listens.
    pub address: String,
    /// Where it listens for SQL clients.
    pub flight: String,
    /// Where it listens for HTTP.
    pub http: String,
    /// What the scheduler logs.
    pub log: PathBuf,
    /// The executors.
    pub executors: Vec<Process>,
    scheduler: Process,
}

impl Cluster {
    /// Starts a cluster whose executors run `cores` tasks at a time each, and share a folder as those of
    /// `nightshift up` do.
    pub fn start(folder: &Path, cores: &[usize]) -> Self {
        Self::start_with(folder, cores, &[])
    }

    /// The same, with environment variables for the executors alone.
    pub fn start_with(folder: &Path, cores: &[usize], environment: &[(&str, &str)]) -> Self {
        let mut command = nightshift(folder);
        command.args(["scheduler", "--port", "0", "--executor-timeout", "3"]);
        let log = folder.join("scheduler.log");
        let file = std::fs::File::create(&log).unwrap();
        let (mut scheduler, line) = Process::start_logging(&mut command, file);
        let address = line.strip_prefix("scheduler ").unwrap().to_string();
        let flight = scheduler.line().strip_prefix("flight ").unwrap().to_string();
        let http = scheduler.line().strip_prefix("http ").unwrap().to_string();
        let executors = cores.iter().map(|cores| {
            let mut command = nightshift(folder);
            command.args(["executor", "--scheduler", &address, "--cores", &cores.to_string()]);
            command.arg("--work-dir").arg(folder.join("work"));
            command.envs(environment.iter().copied());
            Process::start(&mut command).0
        });
        let executors = executors.collect();
        Self { executors, address, flight, http, log, scheduler }
    }
}

impl Cluster {
    /// The scheduler and the executors.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        std::iter::once(&mut self.scheduler).chain(&mut self.executors)
    }

    /// Starts one more executor, which keeps its intermediate results in `work`.
    pub fn executor(&self, folder: &Path, cores: usize, work: &Path) -> Process {
        self.executor_with(folder, cores, work, &[])
    }

    /// The same, with more arguments.
    pub fn executor_with(
        &self,
        folder: &Path,
        cores: usize,
        work: &Path,
        arguments: &[&str],
    ) -> Process {
        let mut command = nightshift(folder);
        command.args(["executor", "--scheduler", &self.address, "--cores", &cores.to_string()]);
        Process::start(command.args(arguments).arg("--work-dir").arg(work)).0
    }
}

/// Waits for something that must happen soon.
pub fn wait_until(happened: impl FnMut() -> bool, otherwise: &str) {
    wait(20, happened, otherwise);
}

/// Waits for something that takes some seconds.
pub fn wait_for(happened: impl FnMut() -> bool, otherwise: &str) {
    wait(120, happened, otherwise);
}

fn wait(seconds: u64, mut happened: impl FnMut() -> bool, otherwise: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !happened() {
        assert!(std::time::Instant::now() < deadline, "{otherwise}");
        std::thread::yield_now();
    }
}

/// Runs a pipeline, calls `watch` with each line of its progress, and returns everything it printed.
pub fn run_watched(command: &mut Command, mut watch: impl FnMut(&str)) -> (bool, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut printed = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        watch(&line);
        printed.push_str(&line);
        printed.push('\n');
    }
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    (child.wait().unwrap().success(), printed)
}
