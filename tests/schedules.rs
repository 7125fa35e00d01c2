//! Deployed pipelines: schedulers run them by themselves, once, whoever is killed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::*;

fn rows(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let out = succeed(nightshift(folder).args(arguments).args(["--format", "json"]));
    serde_json::from_str(&out).unwrap()
}

fn runs_of(folder: &Path, pipeline: &str) -> Vec<Value> {
    rows(folder, &["runs", "--pipeline", pipeline])
}

fn published(folder: &Path, pipeline: &str) -> usize {
    let runs = runs_of(folder, pipeline);
    runs.iter().filter(|run| run["status"] == "published").count()
}

/// Whether an event of a kind was written to any journal of a run.
fn was_written(folder: &Path, kind: &str) -> bool {
    let events = objects(&folder.join("warehouse/_nightshift/journals/runs"));
    let sign = format!("\"type\":\"{kind}\"");
    events.iter().any(|(_, text)| String::from_utf8_lossy(text).contains(&sign))
}

fn deploy(folder: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let pipeline = pipeline(folder, name, files);
    succeed(nightshift(folder).arg("deploy").arg(&pipeline));
    pipeline
}

#[test]
fn pipelines_run_when_what_they_wait_for_has_happened() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let _cluster = Cluster::start(here, &[2]);
    let source =
        pipeline(here, "source", &[("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y")]);
    // What is deployed is checked, and so what it reads has to be there.
    let first = "CREATE TABLE x.a AS SELECT 0 AS y; CREATE TABLE x.b AS SELECT 0 AS y, '' AS name";
    succeed(nightshift(here).args(["sql", "-c", first]));
    // Its input is a file of its folder, which is gone when it runs.
    let raw = "CREATE EXTERNAL TABLE raw.names (name VARCHAR) STORED AS CSV LOCATION 'names.csv'";
    let names = pipeline(here, "follower", &[("names.csv", "name\nann\nbob\n")]);
    let files = [
        ("pipeline.toml", "inputs = ['names.csv']\nowner = 'ann'\n[schedule]\nwhen = 'x.a'\n"),
        ("raw.sql", raw),
        ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT y, name FROM x.a CROSS JOIN raw.names"),
    ];
    deploy(here, "follower", &files);
    std::fs::remove_dir_all(names).unwrap();
    let last = [
        ("pipeline.toml", "[schedule]\nafter = 'follower'\n"),
        ("c.sql", "CREATE OR REPLACE TABLE x.c AS SELECT count(*) AS n FROM x.b"),
    ];
    deploy(here, "last", &last);
    let listed = rows(here, &["pipelines"]);
    let about =
        |row: &Value| (row["pipeline"].clone(), row["version"].clone(), row["schedule"].clone());
    assert_eq!(
        about(&listed[0]),
        ("follower".into(), 1.into(), "when x.a has a new version".into())
    );
    assert_eq!(about(&listed[1]), ("last".into(), 1.into(), "after follower".into()));
    assert_eq!(listed[0]["owner"], "ann");

    for round in 1..=2 {
        succeed(nightshift(here).args(["run", "--all"]).arg(&source));
        wait_for(|| published(here, "last") == round, "the last pipeline has not run");
        assert_eq!(published(here, "follower"), round);
    }
    assert_eq!(query(here, "SELECT n FROM x.c")[0]["n"], 2);
    let run = &runs_of(here, "follower")[0];
    assert!(run["cause"].as_str().unwrap().contains("of x.a"), "{run}");
    assert!(runs_of(here, "last")[0]["cause"].as_str().unwrap().starts_with("after run "));

    // What is paused does not run, and catches up on nothing when it is resumed.
    succeed(nightshift(here).args(["pause", "follower"]));
    succeed(nightshift(here).args(["run", "--all"]).arg(&source));
    succeed(nightshift(here).args(["resume", "follower"]));
    succeed(nightshift(here).args(["run", "--all"]).arg(&source));
    wait_for(|| published(here, "last") == 3, "the last pipeline has not run again");
    assert_eq!(runs_of(here, "follower").len(), 3);
    succeed(nightshift(here).args(["undeploy", "last"]));
    assert_eq!(rows(here, &["pipelines"]).len(), 1);
    let unknown = nightshift(here).args(["pause", "last"]).output().unwrap();
    assert!(
        text(&unknown).contains("no deployed pipeline last; deployed are follower"),
        "{}",
        text(&unknown)
    );
}

#[test]
fn what_is_wrong_is_not_deployed() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("pipeline.toml", "[schedule]\ncron = '0 3 * * *'\ntime_zone = 'Europe/Berlin'\n"),
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT z FROM (SELECT 1 AS y)"),
    ];
    let wrong = pipeline(folder.path(), "p", &files);
    let refused = nightshift(folder.path()).arg("deploy").arg(&wrong).output().unwrap();
    assert!(!refused.status.success());
    assert!(text(&refused).contains("a.sql:1"), "{}", text(&refused));
    assert_eq!(rows(folder.path(), &["pipelines"]), [] as [Value; 0]);
    std::fs::write(wrong.join("a.sql"), "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y").unwrap();
    let deployed = nightshift(folder.path()).arg("deploy").arg(&wrong).output().unwrap();
    assert!(
        text(&deployed).contains("p version 1 is deployed; it is due next at 20"),
        "{}",
        text(&deployed)
    );
}

/// A scheduler that was down when runs were due: what becomes of them is said by `catch_up`.
#[test]
fn runs_that_were_missed_are_caught_up() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for policy in ["none", "latest", "all"] {
        // Twelve hours from now, so that none is due while the test runs.
        let hour = (chrono_hour() + 12) % 24;
        let toml = format!(
            "[schedule]\ncron = '0 {hour} * * *'\ncatch_up = '{policy}'\nconcurrency = 'queue'\n"
        );
        let sql = format!(
            "CREATE OR REPLACE TABLE x.{policy} AS SELECT CAST('${{run_date}}' AS DATE) AS day"
        );
        deploy(here, policy, &[("pipeline.toml", &toml), ("a.sql", &sql)]);
    }
    // They were deployed four days ago.
    let journal = here.join("warehouse/_nightshift/journals/pipelines/all");
    for (path, text) in contents(&journal) {
        let mut event: Value = serde_json::from_slice(&text).unwrap();
        event["at"] = days_ago(4).into();
        std::fs::write(path, serde_json::to_vec(&event).unwrap()).unwrap();
    }
    let _cluster = Cluster::start(here, &[2]);
    wait_for(|| published(here, "all") == 4 && published(here, "latest") == 1, "not all have run");
    assert_eq!(runs_of(here, "none").len(), 0);
    // Each was run for its own day, and once; the last one was for the last.
    let causes = runs_of(here, "all");
    let mut causes: Vec<_> = causes.iter().map(|run| run["cause"].as_str().unwrap()).collect();
    causes.dedup();
    assert_eq!(causes.len(), 4);
    let same = "SELECT (SELECT day FROM x.\"all\") = (SELECT day FROM x.latest) AS same";
    assert_eq!(query(here, same)[0]["same"], true);
    let parameters = "SELECT count(DISTINCT details) AS n FROM system.run_events WHERE event = 'begun' \
                      AND details LIKE '%\"pipeline\":\"all\"%'";
    assert_eq!(query(here, parameters)[0]["n"], 4);
}

fn chrono_hour() -> u64 {
    let out = succeed(Command::new("date").args(["-u", "+%H"]));
    out.trim().parse().unwrap()
}

fn days_ago(days: u32) -> String {
    succeed(Command::new("date").args([
        "-u",
        "-d",
        &format!("{days} days ago"),
        "+%Y-%m-%dT%H:%M:%SZ",
    ]))
    .trim()
    .to_string()
}

/// Two schedulers that stand by for each other, and executors that know both.
struct Pair {
    schedulers: [Option<Process>; 2],
    addresses: [String; 2],
    http: [String; 2],
    logs: [PathBuf; 2],
    _executors: Vec<Process>,
}

impl Pair {
    fn start(folder: &Path) -> Self {
        let free = |_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports: [u16; 4] = [0; 4].map(free);
        let addresses = [0, 1].map(|at| format!("grpc://127.0.0.1:{}", ports[at]));
        let http = [0, 1].map(|at| format!("127.0.0.1:{}", ports[at + 2]));
        let logs = [0, 1].map(|at| folder.join(format!("scheduler-{at}.log")));
        let start = |at: usize| Self::scheduler(folder, ports[at], ports[at + 2], &logs[at]);
        let schedulers = [0, 1].map(|at| Some(start(at)));
        let executors = [1, 1].map(|cores: u16| {
            let mut command = nightshift(folder);
            command.args([
                "executor",
                "--scheduler",
                &addresses.join(","),
                "--cores",
                &cores.to_string(),
            ]);
            Process::start(command.arg("--work-dir").arg(folder.join("work"))).0
        });
        Self { schedulers, addresses, http, logs, _executors: executors.into() }
    }

    fn scheduler(folder: &Path, port: u16, http: u16, log: &Path) -> Process {
        let mut command = nightshift(folder);
        command.args(["scheduler", "--stand-by", "--lease", "2", "--executor-timeout", "3"]);
        command.args([
            "--port",
            &port.to_string(),
            "--flight-port",
            "0",
            "--http-port",
            &http.to_string(),
        ]);
        Process::start_logging(&mut command, std::fs::File::create(log).unwrap()).0
    }

    /// What one of them says of itself.
    fn health(&self, at: usize) -> String {
        let url = format!("http://{}/healthz", self.http[at]);
        let out = Command::new("curl").args(["-s", "-m", "1", &url]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    /// Which of them answers that it is ready.
    fn leader(&self) -> Option<usize> {
        [0, 1].into_iter().find(|at| self.health(*at).contains("\"ok\""))
    }

    fn wait_for_leader(&self) -> usize {
        let mut leader = None;
        let leads = || {
            leader = self.leader();
            leader.is_some()
        };
        wait_for(leads, "nobody leads");
        leader.unwrap()
    }
}

/// What the schedulers were doing is told of a test that fails.
impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (at, log) in self.logs.iter().enumerate() {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                eprintln!("scheduler {at} answers {:?}, and has logged:\n{said}", self.health(at));
            }
        }
    }
}

/// A pipeline whose training takes some seconds.
const TRAINING: [(&str, &str); 3] = [
    ("pipeline.toml", "[schedule]\nwhen = 'x.start'\n"),
    (
        "a.sql",
        "CREATE OR REPLACE TABLE x.pairs AS \
         SELECT u.value AS user_id, (u.value * 7 + i.value * i.value) % 211 AS item_id, \
         1.0 + (u.value + i.value) % 5 AS weight \
         FROM generate_series(1, 500) AS u CROSS JOIN generate_series(1, 40) AS i",
    ),
    (
        "b.sql",
        "CREATE OR REPLACE MODEL x.als OPTIONS (model_type = 'matrix_factorization', \
         feedback_type = 'implicit', user_col = 'user_id', item_col = 'item_id', \
         rating_col = 'weight', num_factors = 32, max_iterations = 300, early_stop = false) \
         AS SELECT user_id, item_id, weight FROM x.pairs",
    ),
];

fn start_training(folder: &Path) {
    deploy(folder, "p", &TRAINING);
    let start =
        pipeline(folder, "start", &[("a.sql", "CREATE OR REPLACE TABLE x.start AS SELECT 1 AS y")]);
    succeed(nightshift(folder).arg("run").arg(start));
}

#[test]
fn a_standby_goes_on_with_what_the_leader_was_doing() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut pair = Pair::start(here);
    let leader = pair.wait_for_leader();
    start_training(here);
    wait_for(|| was_written(here, "iterated"), "no training has begun");
    pair.schedulers[leader].as_mut().unwrap().kill();
    // Clients that know both wait for the other to lead.
    let cluster = pair.addresses.join(",");
    succeed(nightshift(here).args(["sql", "--cluster", &cluster, "-c", "SELECT 1 AS one"]));
    wait_for(|| published(here, "p") == 1, "the run was not published");
    assert_eq!(pair.leader(), Some(1 - leader));
    let runs = runs_of(here, "p");
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0]["taken_over"], 1);
    // Each iteration is in the journal once: the training went on where it was.
    let sql = "SELECT details FROM system.run_events WHERE event = 'iterated' ORDER BY number";
    let values = query(here, sql).into_iter().flat_map(|row| {
        let details: Value = serde_json::from_str(row["details"].as_str().unwrap()).unwrap();
        details["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value[0].as_u64().unwrap())
            .collect::<Vec<_>>()
    });
    let values: Vec<u64> = values.collect();
    let again = values.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    assert!(again <= 1 && *values.last().unwrap() == 300, "{values:?}");
    let models = "SELECT version FROM system.registry WHERE kind = 'model'";
    assert_eq!(query(here, models).len(), 1);
    // Clients that know both find the one that leads.
    let out = succeed(nightshift(here).args([
        "sql",
        "--cluster",
        &cluster,
        "--format",
        "json",
        "-c",
        "SELECT count(*) AS n FROM x.pairs",
    ]));
    assert!(out.contains("20000"), "{out}");
}

#[test]
fn a_command_goes_on_with_the_scheduler_that_leads_now() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut pair = Pair::start(here);
    let leader = pair.wait_for_leader();
    let pipeline = pipeline(here, "p", &TRAINING);
    let log = std::fs::File::create(here.join("run.log")).unwrap();
    let mut run = nightshift(here)
        .args(["run", "--cluster", &pair.addresses.join(",")])
        .arg(pipeline)
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    wait_for(|| was_written(here, "iterated"), "no training has begun");
    pair.schedulers[leader].as_mut().unwrap().kill();
    let status = run.wait().unwrap();
    let said = || std::fs::read_to_string(here.join("run.log")).unwrap();
    assert!(status.success(), "{}", said());
    assert_eq!(pair.leader(), Some(1 - leader));
    let runs = runs_of(here, "p");
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!((&runs[0]["status"], &runs[0]["taken_over"]), (&"published".into(), &0.into()));
}

#[test]
fn a_leader_that_was_stopped_writes_nothing_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let pair = Pair::start(here);
    let leader = pair.wait_for_leader();
    start_training(here);
    wait_for(|| was_written(here, "iterated"), "no training has begun");
    let signal = |name: &str| pair.schedulers[leader].as_ref().unwrap().signal(name);
    signal("-STOP");
    wait_for(|| published(here, "p") == 1, "the run was not published");
    let journals = || objects(&here.join("warehouse/_nightshift/journals/runs"));
    let (events, tables) = (journals(), contents(&here.join("warehouse/x")));
    signal("-CONT");
    // It finds out, and stands by from now on.
    wait_for(|| pair.health(leader).contains("standing by"), "it does not stand by");
    assert_eq!(journals(), events);
    assert_eq!(contents(&here.join("warehouse/x")), tables);
    assert_eq!(runs_of(here, "p").len(), 1);
}
