//! What a run executes, and what it leaves as it is because it would make it again.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use support::*;

const FILES: [(&str, &str); 7] = [
    ("names.csv", "name\nann\nbob\n"),
    (
        "raw.sql",
        "CREATE EXTERNAL TABLE raw.names (name VARCHAR) STORED AS CSV LOCATION 'names.csv'",
    ),
    ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT name FROM raw.names"),
    (
        "b.sql",
        "CREATE OR REPLACE TABLE x.b AS SELECT upper(name) AS name FROM x.a;\n\
         INSERT INTO x.b SELECT name FROM x.a",
    ),
    ("c.sql", "CREATE OR REPLACE VIEW x.c AS SELECT * FROM x.outside"),
    ("d.sql", "CREATE OR REPLACE TABLE x.d AS SELECT count(*) AS n FROM x.c"),
    ("checks/k.sql", "SELECT * FROM x.b WHERE name IS NULL"),
];

/// The steps that are executed, with the reasons.
fn plan(folder: &Path, arguments: &[&str]) -> BTreeMap<String, String> {
    let arguments = [&["plan", "p", "--format", "json"], arguments].concat();
    let rows: Vec<Value> =
        serde_json::from_str(&succeed(nightshift(folder).args(arguments))).unwrap();
    let runs = rows.iter().filter(|row| row["plan"] == "runs");
    let text = |value: &Value| value.as_str().unwrap().to_string();
    runs.map(|row| (text(&row["step"]), text(&row["because"]))).collect()
}

fn names(plan: &BTreeMap<String, String>) -> Vec<&str> {
    plan.keys().map(String::as_str).collect()
}

/// Runs the pipeline, which must execute what was planned, and says what it said.
fn run(folder: &Path, planned: &BTreeMap<String, String>) -> String {
    let output = nightshift(folder).args(["run", "p"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let sql = "SELECT name FROM system.run_steps WHERE status = 'done' \
               AND run = (SELECT max(run) FROM system.runs) ORDER BY name";
    let mut done: Vec<_> =
        query(folder, sql).iter().map(|row| row["name"].as_str().unwrap().to_string()).collect();
    done.dedup();
    assert_eq!(done, names(planned));
    text(&output)
}

fn write(folder: &Path, file: &str, text: &str) {
    std::fs::write(folder.join("p").join(file), text).unwrap();
}

#[test]
fn what_would_be_made_again_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let sql = |sql: &str| drop(succeed(nightshift(here).args(["sql", "-c", sql])));
    sql("CREATE TABLE x.outside AS SELECT 1 AS y");
    pipeline(here, "p", &FILES);
    let first = plan(here, &[]);
    let all = ["checks/k.sql", "raw.names", "x.a", "x.b", "x.c", "x.d"];
    assert_eq!(names(&first), all);
    assert_eq!(first["x.a"], "new");
    run(here, &first);

    // Nothing has changed.
    let none = plan(here, &[]);
    assert_eq!(names(&none), [""; 0]);
    let publications = "SELECT max(publication) AS n FROM system.registry";
    let before = query(here, publications);
    let said = run(here, &none);
    assert!(said.contains("nothing has changed: 7 steps"), "{said}");
    assert_eq!(query(here, publications), before);
    assert_eq!(names(&plan(here, &["--all"])), all);

    // One file, and what depends on it.
    write(here, "b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT lower(name) AS name FROM x.a");
    let changed = plan(here, &[]);
    assert_eq!(names(&changed), ["checks/k.sql", "x.b"]);
    assert_eq!(changed["x.b"], "text or inputs have changed");
    run(here, &changed);
    assert_eq!(query(here, "SELECT min(name) AS name FROM x.b")[0]["name"], "ann");
    assert_eq!(names(&plan(here, &[])), [""; 0]);

    // An input.
    write(here, "names.csv", "name\nann\nbob\ncyd\n");
    let changed = plan(here, &[]);
    assert_eq!(names(&changed), ["checks/k.sql", "raw.names", "x.a", "x.b"]);
    run(here, &changed);
    assert_eq!(query(here, "SELECT count(*) AS n FROM x.b")[0]["n"], 3);

    // What a view reads that somebody else makes.
    sql("INSERT INTO x.outside VALUES (2)");
    let changed = plan(here, &[]);
    assert_eq!(names(&changed), ["x.c", "x.d"]);
    run(here, &changed);
    assert_eq!(query(here, "SELECT n FROM x.d")[0]["n"], 2);

    // What somebody has changed of what it made.
    sql("DELETE FROM x.a WHERE name = 'cyd'");
    let changed = plan(here, &[]);
    assert_eq!(names(&changed), ["checks/k.sql", "raw.names", "x.a", "x.b"]);
    assert_eq!(changed["x.a"], "somebody has changed what it made");
    run(here, &changed);
    assert_eq!(query(here, "SELECT count(*) AS n FROM x.a")[0]["n"], 3);

    // What depends on more than it reads.
    write(
        here,
        "d.sql",
        "CREATE OR REPLACE TABLE x.d AS SELECT count(*) AS n, now() AS at FROM x.c",
    );
    for _ in 0..2 {
        let changed = plan(here, &[]);
        assert_eq!(names(&changed), ["x.d"]);
        run(here, &changed);
    }
}

#[test]
fn a_plan_says_which_columns_change() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let files = [
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS n, 'a' AS word"),
        ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT * FROM x.a"),
    ];
    pipeline(here, "p", &files);
    succeed(nightshift(here).args(["run", "p"]));
    write(here, "a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1.5 AS n, true AS flag");
    let said = succeed(nightshift(here).args(["plan", "p"]));
    for table in ["x.a", "x.b"] {
        for change in ["n is DOUBLE, was BIGINT", "word is gone", "flag is new, BOOLEAN"] {
            assert!(said.contains(&format!("{table}: {change}")), "{table}: {change} in\n{said}");
        }
    }
    // Nothing was written.
    assert_eq!(query(here, "SELECT max(publication) AS n FROM system.registry")[0]["n"], 1);
}

/// What a run has made of which nobody could read anything is made again.
#[test]
fn what_was_not_published_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let files = [
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS n"),
        ("checks/k.sql", "SELECT * FROM x.a WHERE n = 1"),
    ];
    pipeline(here, "p", &files);
    assert_eq!(nightshift(here).args(["run", "p"]).output().unwrap().status.code(), Some(3));
    write(here, "checks/k.sql", "SELECT * FROM x.a WHERE n = 2");
    assert_eq!(names(&plan(here, &[])), ["checks/k.sql", "x.a"]);
    succeed(nightshift(here).args(["run", "p"]));
    assert_eq!(names(&plan(here, &[])), [""; 0]);
}

/// What the pipeline makes itself counts as it is published, before it is made anew.
#[test]
fn a_plan_says_how_much_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeed(nightshift(here).args(["sql", "-c", "CREATE TABLE x.outside AS SELECT 1 AS y"]));
    pipeline(here, "p", &FILES);
    let read = || -> BTreeMap<String, u64> {
        let rows = succeed(nightshift(here).args(["plan", "p", "--format", "json"]));
        let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
        let word = |row: &Value, column: &str| row[column].as_str().unwrap().to_string();
        let step = |row: &Value| format!("{} {}", word(row, "statement"), word(row, "step"));
        rows.iter().map(|row| (step(row), row["published_bytes_read"].as_u64().unwrap())).collect()
    };
    let first = read();
    let file = FILES[0].1.len() as u64;
    let files = (first["CREATE EXTERNAL TABLE raw.names"], first["CREATE TABLE x.a"]);
    assert_eq!(files, (file, file), "{first:?}");
    assert_eq!((first["CREATE TABLE x.b"], first["CHECK checks/k.sql"]), (0, 0), "{first:?}");
    assert!(first["CREATE VIEW x.c"] > 0, "{first:?}");
    assert_eq!(first["CREATE TABLE x.d"], first["CREATE VIEW x.c"]);
    succeed(nightshift(here).args(["run", "p"]));
    let second = read();
    let (a, b) = (second["CREATE TABLE x.b"], second["CHECK checks/k.sql"]);
    assert!(a > 0 && b > 0, "{second:?}");
    // It changes the one and reads the other.
    assert_eq!(second["INSERT x.b"], a + b, "{second:?}");
}
