//! Runs of pipelines as journals: what is written down of them, and who goes on with them when their process is gone.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::*;

/// A pipeline whose training takes some seconds. One step after another, so that events have one order.
const FILES: [(&str, &str); 5] = [
    ("pipeline.toml", "parallel = 1\n"),
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
         rating_col = 'weight', num_factors = 32, max_iterations = 3000, early_stop = false) \
         AS SELECT user_id, item_id, weight FROM x.pairs",
    ),
    ("c.sql", "CREATE OR REPLACE TABLE x.sums AS SELECT count(*) AS pairs FROM x.pairs"),
    ("checks/k.sql", "SELECT * FROM x.sums WHERE pairs <> 20000"),
];

fn rows(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let out = succeed(nightshift(folder).args(arguments).args(["--format", "json"]));
    serde_json::from_str(&out).unwrap()
}

/// The events of the last run, by number: their words, and what they say.
fn events(folder: &Path) -> Vec<Value> {
    let mut rows = rows(folder, &["runs", "logs", "last"]);
    for row in &mut rows {
        row["details"] = serde_json::from_str(row["details"].as_str().unwrap()).unwrap();
    }
    rows
}

fn words(events: &[Value]) -> Vec<String> {
    let step =
        |event: &Value| event["step"].as_u64().map_or(String::new(), |step| format!(" {step}"));
    events.iter().map(|e| format!("{}{}", e["event"].as_str().unwrap(), step(e))).collect()
}

/// Lets the events of all runs, and the signs of life of their processes, be as old as if they had been killed long ago.
fn make_old(folder: &Path) {
    let folder = folder.join("warehouse/_nightshift");
    for (path, bytes) in objects(&folder.join("journals/runs")) {
        let mut event: Value = serde_json::from_slice(&bytes).unwrap();
        event["at"] = "2026-01-01T00:00:00Z".into();
        std::fs::write(path, event.to_string()).unwrap();
    }
    for (path, _) in
        contents(&folder.join("runs")).into_iter().filter(|(p, _)| p.ends_with("alive"))
    {
        std::fs::remove_file(path).unwrap();
    }
}

/// Waits until the journal of the only run that there is has an event of a kind.
fn wait_for(folder: &Path, kind: &str, process: &mut Child) {
    let journals = folder.join("warehouse/_nightshift/journals/runs");
    let sign = format!("\"type\":\"{kind}\"");
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let events = objects(&journals);
        if events.iter().any(|(_, text)| String::from_utf8_lossy(text).contains(&sign)) {
            return;
        }
        assert!(matches!(process.try_wait(), Ok(None)), "it has ended before {kind}");
        assert!(Instant::now() < deadline, "no {kind}");
        std::thread::yield_now();
    }
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn kill(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

/// What users were given, to the last bit.
fn factors(folder: &Path) -> Vec<Value> {
    query(folder, "SELECT user_id, factors, bias FROM x.als.user_factors ORDER BY user_id")
}

fn published(folder: &Path) -> Vec<Value> {
    query(
        folder,
        "SELECT name, version, run FROM system.registry WHERE kind <> 'schema' ORDER BY name, version",
    )
}

fn setting() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path(), "p", &FILES);
    (folder, pipeline)
}

#[test]
fn what_a_run_does_is_written_down() {
    let (folder, pipeline) = setting();
    succeed(nightshift(folder.path()).arg("run").arg(&pipeline));
    let events = events(folder.path());
    let words = words(&events);
    let steps: Vec<_> = words.iter().filter(|word| !word.starts_with("iterated")).collect();
    let expected = [
        "begun",
        "step_begun 1",
        "step_done 1",
        "step_begun 2",
        "step_done 2",
        "step_begun 3",
        "step_done 3",
        "step_begun 4",
        "step_done 4",
        "publishing",
        "committed",
        "published",
    ];
    assert_eq!(steps, expected);
    let iterations: Vec<u64> = iterations(&events);
    assert_eq!(iterations, (1..=3000).collect::<Vec<_>>());

    let runs = rows(folder.path(), &["runs"]);
    assert_eq!(runs.len(), 1);
    let run = &runs[0];
    assert_eq!((&run["pipeline"], &run["status"]), (&"p".into(), &"published".into()));
    assert_eq!(
        (&run["steps"], &run["steps_done"], &run["publication"]),
        (&4.into(), &4.into(), &1.into())
    );
    let id = run["run"].as_str().unwrap();
    let show = succeed(nightshift(folder.path()).args(["runs", "show", &id[30..]]));
    // Who reads the first lines only is no fault.
    let mut cut = nightshift(folder.path());
    cut.args(["runs", "show", "last"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut cut = cut.spawn().unwrap();
    drop(cut.stdout.take());
    let cut = cut.wait_with_output().unwrap();
    assert!(!text(&cut).contains("panicked"), "{}", text(&cut));
    for part in [
        "x.als",
        "CREATE MODEL",
        "x.als <- x.pairs",
        "loss ",
        "in 3000 iterations",
        "published  1, x.als version 1",
    ] {
        assert!(show.contains(part), "{part} in\n{show}");
    }
    // The same is in tables.
    let sql = "SELECT r.pipeline, count(*) AS done FROM system.runs AS r JOIN system.run_steps AS s USING (run) \
               WHERE s.status = 'done' GROUP BY r.pipeline";
    assert_eq!(query(folder.path(), sql)[0]["done"], 4);
    let sql = "SELECT count(*) AS n FROM system.run_events WHERE event = 'published'";
    assert_eq!(query(folder.path(), sql)[0]["n"], 1);
    // What is left of it besides is its text.
    let left = contents(&folder.path().join("warehouse/_nightshift"));
    let left = left
        .iter()
        .map(|(path, _)| path.strip_prefix(folder.path().join("warehouse/_nightshift")).unwrap());
    let mut kinds: Vec<_> =
        left.map(|path| path.iter().next().unwrap().to_str().unwrap().to_string()).collect();
    kinds.dedup();
    assert_eq!(kinds, ["journals", "published", "sources"]);
}

fn iterations(events: &[Value]) -> Vec<u64> {
    let values = events.iter().filter_map(|event| event["details"]["values"].as_array());
    values.flatten().map(|value| value[0].as_u64().unwrap()).collect()
}

#[test]
fn a_run_goes_on_after_its_process_was_killed() {
    let (folder, pipeline) = setting();
    let mut process = start(nightshift(folder.path()).arg("run").arg(&pipeline));
    wait_for(folder.path(), "iterated", &mut process);
    let kept = || {
        let files = objects(&folder.path().join("warehouse/_nightshift/runs"));
        files.iter().any(|(path, _)| path.to_string_lossy().contains("checkpoints/iteration-"))
    };
    wait_until(kept, "nothing is written down of the training");
    kill(process);
    let before = events(folder.path());
    assert_eq!(words(&before)[..4], ["begun", "step_begun 1", "step_done 1", "step_begun 2"]);
    let run = rows(folder.path(), &["runs"]);
    assert_eq!((&run[0]["status"], &run[0]["steps_done"]), (&"lost".into(), &1.into()));
    assert!(!folder.path().join("warehouse/system").exists());
    let lost = rows(folder.path(), &["runs", "--status", "lost"]);
    assert_eq!((lost.len(), &lost[0]["status"]), (1, &"lost".into()));
    let show = succeed(nightshift(folder.path()).args(["runs", "show", "last"]));
    assert!(show.contains("nobody drives it any more"), "{show}");

    succeed(nightshift(folder.path()).args(["runs", "resume", "last"]));
    let all = events(folder.path());
    let after = &all[before.len()..];
    let words: Vec<_> =
        words(after).into_iter().filter(|word| !word.starts_with("iterated")).collect();
    let expected = [
        "taken_over",
        "step_begun 2",
        "step_done 2",
        "step_begun 3",
        "step_done 3",
        "step_begun 4",
        "step_done 4",
        "publishing",
        "committed",
        "published",
    ];
    assert_eq!(words, expected);
    // The training went on where it was: not from its beginning, and to the same end.
    let rest = iterations(after);
    assert!(rest[0] > 1, "{rest:?}");
    assert_eq!(rest, (rest[0]..=3000).collect::<Vec<_>>());

    let (other, pipeline) = setting();
    succeed(nightshift(other.path()).arg("run").arg(&pipeline));
    assert_eq!(factors(folder.path()), factors(other.path()));
    let versions = |folder: &Path| -> Vec<(Value, Value)> {
        published(folder)
            .into_iter()
            .map(|row| (row["name"].clone(), row["version"].clone()))
            .collect()
    };
    assert_eq!(versions(folder.path()), versions(other.path()));
    // No file is left that nobody needs.
    succeed(nightshift(folder.path()).args(["sql", "-c", "VACUUM RETAIN 0 HOURS"]));
    let files = |folder: &Path| {
        let all = contents(&folder.join("warehouse/x"));
        all.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "parquet")).count()
    };
    assert_eq!(files(folder.path()), files(other.path()));
    let run = run[0]["run"].as_str().unwrap();
    for (meant, said) in [(run, "it is published"), ("last", "no run is under way")] {
        let again = nightshift(folder.path()).args(["runs", "resume", meant]).output().unwrap();
        assert!(!again.status.success() && text(&again).contains(said), "{}", text(&again));
    }
}

/// Two processes that think they drive the same run: the one that was there first can't do anything any more.
#[test]
fn a_process_that_was_stopped_meanwhile_writes_nothing() {
    let (folder, pipeline) = setting();
    let output = folder.path().join("output");
    let log = std::fs::File::create(&output).unwrap();
    let mut process = nightshift(folder.path())
        .arg("run")
        .arg(&pipeline)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    wait_for(folder.path(), "iterated", &mut process);
    let signal = |name: &str| succeed(Command::new("kill").args([name, &process.id().to_string()]));
    signal("-STOP");
    // It is still there, and nobody can tell whether it goes on before a minute has passed.
    let early = nightshift(folder.path()).args(["runs", "resume", "last"]).output().unwrap();
    assert!(!early.status.success() && text(&early).contains("seems to drive"), "{}", text(&early));
    assert_eq!(rows(folder.path(), &["runs"])[0]["status"], "running");
    make_old(folder.path());
    succeed(nightshift(folder.path()).args(["runs", "resume", "last"]));
    let (journal, tables) = (events(folder.path()), published(folder.path()));
    let files = contents(&folder.path().join("warehouse/x"));
    signal("-CONT");
    let status = process.wait().unwrap();
    let said = std::fs::read_to_string(&output).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("was taken over by another process"), "{said}");
    assert_eq!(events(folder.path()), journal);
    assert_eq!(published(folder.path()), tables);
    assert_eq!(contents(&folder.path().join("warehouse/x")), files);
}

#[test]
fn a_run_ends_when_somebody_asks_for_it() {
    let (folder, pipeline) = setting();
    let process =
        nightshift(folder.path()).arg("run").arg(&pipeline).stderr(Stdio::piped()).spawn();
    let mut process = process.unwrap();
    wait_for(folder.path(), "iterated", &mut process);
    succeed(nightshift(folder.path()).args(["runs", "cancel", "last"]));
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("cancelled by "), "{}", text(&output));
    let run = rows(folder.path(), &["runs", "--status", "cancelled"]);
    assert_eq!(run.len(), 1);
    assert_eq!(words(&events(folder.path())).last().unwrap(), "cancelled");
    assert!(!folder.path().join("warehouse/system").exists());
    assert_eq!(contents(&folder.path().join("warehouse/x")), []);
    let run = run[0]["run"].as_str().unwrap();
    let resumed = nightshift(folder.path()).args(["runs", "resume", run]).output().unwrap();
    assert!(text(&resumed).contains("it is cancelled"), "{}", text(&resumed));
    let again = nightshift(folder.path()).args(["runs", "cancel", "last"]).output().unwrap();
    assert!(
        !again.status.success() && text(&again).contains("no run is under way"),
        "{}",
        text(&again)
    );
}

#[test]
fn a_run_whose_process_is_gone_is_ended_by_whoever_wants_that() {
    let (folder, pipeline) = setting();
    let mut process = start(nightshift(folder.path()).arg("run").arg(&pipeline));
    wait_for(folder.path(), "iterated", &mut process);
    kill(process);
    succeed(nightshift(folder.path()).args(["runs", "cancel", "last"]));
    assert_eq!(rows(folder.path(), &["runs"])[0]["status"], "cancelled");
    // Nothing is executed for that.
    let words = words(&events(folder.path()));
    assert_eq!(words[words.len() - 3..], ["cancelling", "taken_over", "cancelled"]);
    assert_eq!(contents(&folder.path().join("warehouse/x")), []);
    assert_eq!(contents(&folder.path().join("warehouse/_nightshift/runs")), []);
}

#[test]
fn a_failed_run_says_why_and_can_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    succeed(nightshift(folder.path()).args(["sql", "-c", "CREATE TABLE x.wrong AS SELECT 1 AS y"]));
    let files = [
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT y FROM x.wrong"),
        ("checks/none.sql", "SELECT y, 'too small' AS reason FROM x.a WHERE y < 2"),
    ];
    let pipeline = pipeline(folder.path(), "p", &files);
    let failed = nightshift(folder.path()).arg("run").arg(&pipeline).output().unwrap();
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    let run = rows(folder.path(), &["runs"]).remove(0);
    assert_eq!((&run["status"], &run["steps_done"]), (&"failed".into(), &1.into()));
    assert!(run["error"].as_str().unwrap().contains("checks/none.sql found 1 wrong row,"), "{run}");
    let show = succeed(nightshift(folder.path()).args(["runs", "show", "last"]));
    assert!(show.contains("too small") && show.contains("failed"), "{show}");
    // A mistake of the check is not tried three times.
    let begun = words(&events(folder.path())).iter().filter(|word| *word == "step_begun 2").count();
    assert_eq!(begun, 1);

    succeed(nightshift(folder.path()).args(["sql", "-c", "UPDATE x.wrong SET y = 2"]));
    // What is run again is what was run, whatever has become of the folder.
    std::fs::remove_dir_all(&pipeline).unwrap();
    succeed(nightshift(folder.path()).args(["runs", "retry", "last"]));
    let runs = rows(folder.path(), &["runs"]);
    let status: Vec<_> = runs.iter().map(|run| run["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["published", "failed"]);
    assert!(runs[0]["cause"].as_str().unwrap().starts_with("retry of "), "{}", runs[0]);
    assert_eq!(query(folder.path(), "SELECT y FROM x.a")[0]["y"], 2);
    // When its text was deleted, that is said.
    std::fs::remove_dir_all(folder.path().join("warehouse/_nightshift/sources")).unwrap();
    let gone = "no longer kept: texts are kept for 90 days after their last run";
    let shown = succeed(nightshift(folder.path()).args(["runs", "show", "last"]));
    assert!(shown.contains(gone), "{shown}");
    let retried = nightshift(folder.path()).args(["runs", "retry", "last"]).output().unwrap();
    assert!(!retried.status.success() && text(&retried).contains(gone), "{}", text(&retried));
}

#[test]
fn a_damaged_journal_is_named_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let files = [("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y")];
    let pipeline = pipeline(folder.path(), "p", &files);
    for _ in 0..3 {
        succeed(nightshift(folder.path()).arg("run").arg(&pipeline));
    }
    let runs = rows(folder.path(), &["runs"]);
    let journal = |at: usize, event: &str| {
        let run = runs[at]["run"].as_str().unwrap();
        folder.path().join(format!("warehouse/_nightshift/journals/runs/{run}/{event}.json"))
    };
    std::fs::write(journal(0, "00000003"), "{").unwrap();
    std::fs::remove_file(journal(1, "00000002")).unwrap();
    let now = rows(folder.path(), &["runs"]);
    let status: Vec<_> = now.iter().map(|run| run["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["damaged", "damaged", "published"]);
    let error = |at: usize| now[at]["error"].as_str().unwrap();
    assert!(error(0).contains("00000003.json: EOF"), "{}", error(0));
    assert!(error(1).contains("00000002.json: it is missing"), "{}", error(1));
    assert_eq!(
        query(folder.path(), "SELECT count(*) AS n FROM system.runs WHERE status = 'published'")[0]
            ["n"],
        1
    );
    let show = nightshift(folder.path()).args(["runs", "show", "nothing"]).output().unwrap();
    assert!(text(&show).contains("there is no run nothing"), "{}", text(&show));
}
