//! What runs read and make, told in the form of OpenLineage: to a file, to a receiver, by a scheduler.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use support::*;

const FILES: [(&str, &str); 5] = [
    ("visits.csv", "user_id,seconds\n1,2.5\n2,4\n1,0\n"),
    (
        "a.sql",
        "CREATE EXTERNAL TABLE raw.visits (user_id BIGINT, seconds DOUBLE) STORED AS CSV \
         LOCATION 'visits.csv'",
    ),
    (
        "b.sql",
        "CREATE OR REPLACE TABLE x.users AS \
         SELECT * FROM (VALUES (1, 'ann'), (2, 'bob')) AS v(id, name)",
    ),
    (
        "c.sql",
        "CREATE OR REPLACE TABLE x.totals AS SELECT u.name, sum(v.seconds) AS total \
         FROM x.users AS u JOIN raw.visits AS v ON u.id = v.user_id \
         WHERE v.seconds > 0 GROUP BY u.name",
    ),
    ("checks/k.sql", "SELECT * FROM x.totals WHERE total < 0"),
];

/// The events in a file.
fn events(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The last line may be one that is just being written.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events of a job.
fn of<'a>(events: &'a [Value], job: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["job"]["name"] == job).collect()
}

fn types(events: &[&Value]) -> Vec<String> {
    events.iter().map(|event| event["eventType"].as_str().unwrap().to_string()).collect()
}

/// The ends of the names of some datasets.
fn names(datasets: &Value) -> Vec<&str> {
    let names = datasets.as_array().unwrap().iter().map(|dataset| &dataset["name"]);
    names.map(|name| name.as_str().unwrap().rsplit('/').next().unwrap()).collect()
}

/// What columns come from: the field, and the kinds of all transformations.
fn fields(inputs: &Value) -> BTreeSet<String> {
    let field = |input: &Value| {
        let kinds = input["transformations"].as_array().unwrap().iter();
        let kinds: Vec<_> = kinds.map(|kind| kind["subtype"].as_str().unwrap()).collect();
        format!("{} {}", input["field"].as_str().unwrap(), kinds.join("+"))
    };
    inputs.as_array().unwrap().iter().map(field).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

#[test]
fn a_file_has_what_each_step_reads_and_makes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let pipeline = pipeline(here, "p", &FILES);
    let run = |arguments: &[&str]| {
        succeed(nightshift(here).arg("run").arg(&pipeline).args(arguments));
    };
    run(&["--lineage", "events.jsonl", "--lineage-namespace", "shop"]);
    let file = here.join("events.jsonl");
    let all = events(&file);
    let jobs: BTreeSet<_> =
        all.iter().map(|event| event["job"]["name"].as_str().unwrap()).collect();
    assert_eq!(
        jobs,
        BTreeSet::from(["p", "p.checks/k.sql", "p.raw.visits", "p.x.totals", "p.x.users"])
    );
    for job in jobs {
        assert_eq!(types(&of(&all, job)), ["START", "COMPLETE"], "{job}");
    }
    let run_id = &of(&all, "p")[0]["run"]["runId"];
    assert!(
        all.first().unwrap()["job"]["name"] == "p" && all.last().unwrap()["job"]["name"] == "p"
    );

    let totals = of(&all, "p.x.totals")[1];
    assert_eq!(&totals["run"]["facets"]["parent"]["run"]["runId"], run_id);
    assert_eq!(totals["job"]["namespace"], "shop");
    assert_eq!(names(&totals["inputs"]), ["visits.csv", "x.users"]);
    assert_eq!(totals["inputs"][0]["namespace"], "file");
    assert_eq!(names(&totals["outputs"]), ["x.totals"]);
    let output = &totals["outputs"][0];
    assert_eq!(output["outputFacets"]["outputStatistics"]["rowCount"], 2);
    assert!(output["facets"]["version"]["datasetVersion"].is_string());
    let schema = &output["facets"]["schema"]["fields"];
    assert_eq!((&schema[0]["name"], &schema[0]["type"]), (&"name".into(), &"VARCHAR".into()));
    assert_eq!((&schema[1]["name"], &schema[1]["type"]), (&"total".into(), &"DOUBLE".into()));
    let columns = &output["facets"]["columnLineage"];
    assert_eq!(fields(&columns["fields"]["name"]["inputFields"]), set(&["name IDENTITY"]));
    assert_eq!(fields(&columns["fields"]["total"]["inputFields"]), set(&["seconds AGGREGATION"]));
    let expected = set(&["id JOIN", "name GROUP_BY", "seconds FILTER", "user_id JOIN"]);
    assert_eq!(fields(&columns["dataset"]), expected);

    // Files that are given a name, a table of no other, a check.
    assert_eq!(names(&of(&all, "p.raw.visits")[1]["inputs"]), ["visits.csv"]);
    assert_eq!(names(&of(&all, "p.x.users")[1]["inputs"]), [] as [&str; 0]);
    assert_eq!(names(&of(&all, "p.checks/k.sql")[1]["inputs"]), ["x.totals"]);
    let end = of(&all, "p")[1];
    assert_eq!(names(&end["inputs"]), ["visits.csv"]);
    assert_eq!(names(&end["outputs"]), ["x.totals", "x.users"]);

    // Nothing is told unless somebody wants it.
    run(&["--all"]);
    assert_eq!(events(&file).len(), all.len());
}

#[test]
fn a_run_that_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let wrong = ("checks/k.sql", "SELECT * FROM x.totals WHERE total > 0");
    let files: Vec<_> = FILES[..4].iter().copied().chain([wrong]).collect();
    let pipeline = pipeline(here, "p", &files);
    std::fs::write(here.join("nightshift.toml"), "lineage = 'events.jsonl'\n").unwrap();
    let failed = nightshift(here).arg("run").arg(&pipeline).output().unwrap();
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    let all = events(&here.join("events.jsonl"));
    assert_eq!(types(&of(&all, "p.x.totals")), ["START", "COMPLETE"]);
    for job in ["p.checks/k.sql", "p"] {
        let events = of(&all, job);
        assert_eq!(types(&events), ["START", "FAIL"], "{job}");
        let message = &events[1]["run"]["facets"]["errorMessage"]["message"];
        assert!(message.as_str().unwrap().contains("checks/k.sql"), "{message}");
    }
    // Nothing of it is published.
    let totals = &of(&all, "p.x.totals")[1]["outputs"][0];
    assert!(totals["facets"].get("version").is_none(), "{totals}");

    // A target that can't be one is known before anything is run.
    let command = &mut nightshift(here);
    let refused = command.args(["run", "--lineage", "ftp://x"]).arg(&pipeline).output().unwrap();
    assert!(text(&refused).contains("lineage target"), "{}", text(&refused));
    assert_eq!(refused.status.code(), Some(1));
    // One that can't be reached changes nothing of what becomes of the run.
    std::fs::write(pipeline.join("checks/k.sql"), FILES[4].1).unwrap();
    let command = &mut nightshift(here);
    let done =
        command.args(["run", "--lineage", "missing/x.jsonl"]).arg(&pipeline).output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("lineage is not told"), "{}", text(&done));
}

/// A receiver that refuses the first request: where it listens, and what it accepts, with the key that came with it.
fn receiver() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_ascii_lowercase());
            }
            let value = |name: &str| {
                let found = head.iter().find_map(|line| line.strip_prefix(name));
                found.unwrap_or_default().trim().to_string()
            };
            let mut body = vec![0; value("content-length:").parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let answer = if number == 0 { "503 Service Unavailable" } else { "201 Created" };
            let answer =
                format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if number > 0 {
                assert!(head[0].starts_with("post /api/v1/lineage "), "{}", head[0]);
                let event = serde_json::from_slice(&body).unwrap();
                if sender.send((value("authorization:"), event)).is_err() {
                    return;
                }
            }
            // When it has the answer, the program may end.
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, received)
}

#[test]
fn a_receiver_that_refuses_once_is_told_all() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path(), "p", &FILES);
    let (url, received) = receiver();
    let mut command = nightshift(folder.path());
    command.arg("run").arg(&pipeline).args(["--lineage", &url]);
    succeed(command.env("OPENLINEAGE_API_KEY", "the-key"));
    let told: Vec<_> = received.try_iter().collect();
    assert!(told.iter().all(|(key, _)| key == "bearer the-key"));
    let told: Vec<_> = told.into_iter().map(|(_, event)| event).collect();
    assert_eq!(told.len(), 10);
    assert_eq!(types(&of(&told, "p")), ["START", "COMPLETE"]);
    assert_eq!(told[0]["job"]["namespace"], "nightshift");
}

#[test]
fn a_scheduler_tells_of_the_runs_that_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("nightshift.toml"), "lineage = 'events.jsonl'\n").unwrap();
    let _cluster = Cluster::start(here, &[2]);
    succeed(nightshift(here).args(["sql", "-c", "CREATE TABLE x.a AS SELECT 0 AS y"]));
    let files = [
        ("pipeline.toml", "[schedule]\nwhen = 'x.a'\n"),
        ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT y + 1 AS z FROM x.a"),
    ];
    let follower = pipeline(here, "follower", &files);
    succeed(nightshift(here).arg("deploy").arg(&follower));
    succeed(nightshift(here).args(["sql", "-c", "INSERT INTO x.a SELECT 1"]));
    let file = here.join("events.jsonl");
    let is_told = || {
        let all = events(&file);
        types(&of(&all, "follower")).contains(&"COMPLETE".to_string())
    };
    wait_for(is_told, "the scheduler has told nothing");
    let all = events(&file);
    let made = of(&all, "follower.x.b");
    assert_eq!(types(&made), ["START", "COMPLETE"]);
    let columns = &made[1]["outputs"][0]["facets"]["columnLineage"]["fields"];
    assert_eq!(fields(&columns["z"]["inputFields"]), set(&["y TRANSFORMATION"]));
}
