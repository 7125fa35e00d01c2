//! Which steps a run executes, in which order, and what becomes of those that are done when another fails.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::path::Path;
use support::*;

fn events(folder: &Path, run: &str) -> Vec<(String, Option<u64>)> {
    let rows = succeed(nightshift(folder).args(["runs", "logs", run, "--format", "json"]));
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let event = |row: &Value| (row["event"].as_str().unwrap().to_string(), row["step"].as_u64());
    rows.iter().map(event).filter(|(event, _)| event.starts_with("step_")).collect()
}

fn event(word: &str, step: u64) -> (String, Option<u64>) {
    (format!("step_{word}"), Some(step))
}

/// The names of steps by what has become of them in a run.
fn with_status(folder: &Path, status: &str) -> Vec<String> {
    let sql = format!(
        "SELECT name FROM system.run_steps WHERE status = '{status}' \
         AND run = (SELECT max(run) FROM system.runs) ORDER BY step"
    );
    query(folder, &sql).iter().map(|row| row["name"].as_str().unwrap().to_string()).collect()
}

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = nightshift(folder).args(["run", "p"]).args(arguments).output().unwrap();
    (output.status.code(), text(&output))
}

const LARGE: &str =
    "SELECT value % 1000 AS k, count(*) AS n FROM generate_series(1, 300000) GROUP BY 1";

#[test]
fn steps_that_do_not_wait_for_each_other_are_executed_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (a, b) = (
        format!("CREATE OR REPLACE TABLE x.a AS {LARGE}"),
        format!("CREATE OR REPLACE TABLE x.b AS {LARGE}"),
    );
    let both =
        "CREATE OR REPLACE TABLE x.c AS SELECT a.k, a.n + b.n AS n FROM x.a JOIN x.b ON a.k = b.k";
    let files = [("a.sql", a.as_str()), ("b.sql", &b), ("c.sql", both)];
    let p = pipeline(here, "p", &files);
    assert_eq!(run(here, &[]).0, Some(0));
    let found = events(here, "last");
    assert_eq!(found[..2], [event("begun", 1), event("begun", 2)]);
    assert_eq!(found[4..], [event("begun", 3), event("done", 3)]);
    assert_eq!(query(here, "SELECT sum(n) AS n FROM x.c")[0]["n"], 600_000);

    std::fs::write(p.join("pipeline.toml"), "parallel = 1\n").unwrap();
    assert_eq!(run(here, &["--all"]).0, Some(0));
    let one_by_one = (1..=3).flat_map(|step| [event("begun", step), event("done", step)]);
    assert_eq!(events(here, "last"), one_by_one.collect::<Vec<_>>());
    std::fs::write(p.join("pipeline.toml"), "parallel = 0\n").unwrap();
    let (code, said) = run(here, &[]);
    assert!(
        code == Some(1) && said.contains("pipeline.toml:1:12: parallel is at least 1"),
        "{said}"
    );
}

#[test]
fn steps_are_left_out_when_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let files = [
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y"),
        ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT y FROM x.a"),
        ("c.sql", "CREATE OR REPLACE TABLE x.c AS SELECT y FROM x.b"),
        ("d.sql", "CREATE OR REPLACE TABLE x.d AS SELECT 1 AS y"),
        ("checks/k.sql", "SELECT * FROM x.c WHERE y IS NULL"),
    ];
    let p = pipeline(here, "p", &files);
    let (code, said) = run(here, &["--only", "x.b"]);
    assert!(code == Some(1) && said.contains("x.a"), "{said}");
    assert_eq!(run(here, &[]).0, Some(0));
    // All but c and what it needs is as it was, whatever has become of the text.
    for (file, name) in [("a.sql", "x.a"), ("b.sql", "x.b"), ("d.sql", "x.d")] {
        let from = if name == "x.b" { " FROM x.a" } else { "" };
        let what = if name == "x.b" { "y + 10" } else { "2" };
        let sql = format!("CREATE OR REPLACE TABLE {name} AS SELECT {what} AS y{from}");
        std::fs::write(p.join(file), sql).unwrap();
    }
    assert_eq!(run(here, &["--only", "x.b+"]).0, Some(0));
    assert_eq!(with_status(here, "done"), ["x.b", "x.c", "checks/k.sql"]);
    assert_eq!(with_status(here, "left out"), ["x.a", "x.d"]);
    let values = |table: &str| query(here, &format!("SELECT y FROM {table}"))[0]["y"].clone();
    assert_eq!((values("x.a"), values("x.c"), values("x.d")), (1.into(), 11.into(), 1.into()));
    let (code, said) = run(here, &["--only", "x.bb"]);
    assert!(code == Some(1) && said.contains("it has no step x.bb; did you mean x.b?"), "{said}");

    // The next run knows what was left out, and what was not.
    let rows = succeed(nightshift(here).args(["plan", "p", "--format", "json"]));
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    assert!(rows.iter().all(|row| row["plan"] == "runs"), "{rows:#?}");
    assert_eq!(run(here, &["--only", "x.d"]).0, Some(0));
    assert_eq!(run(here, &[]).0, Some(0));
    assert_eq!(with_status(here, "unchanged"), ["x.d"]);
    assert_eq!((values("x.a"), values("x.c"), values("x.d")), (2.into(), 12.into(), 2.into()));

    // What is made is checked, whatever else is left out.
    std::fs::write(
        p.join("c.sql"),
        "CREATE OR REPLACE TABLE x.c AS SELECT CAST(NULL AS BIGINT) AS y",
    )
    .unwrap();
    let (code, said) = run(here, &["--only", "x.c"]);
    assert!(code == Some(3) && said.contains("checks/k.sql found 1 wrong row"), "{said}");
    assert_eq!(values("x.c"), 12);
}

#[test]
fn a_run_that_has_failed_goes_on_with_what_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let files = [
        ("pipeline.toml", "[parameters]\nleast = 1\n"),
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT random() AS y"),
        (
            "b.sql",
            "CREATE OR REPLACE TABLE x.b AS SELECT value AS y FROM generate_series(${least}, 5)",
        ),
        ("c.sql", "CREATE OR REPLACE TABLE x.c AS SELECT y, 10 / (y - 2) AS z FROM x.b"),
    ];
    let p = pipeline(here, "p", &files);
    let (code, said) = run(here, &["--from-failed"]);
    assert!(code == Some(1) && said.contains("it has no run to go on with"), "{said}");
    let (code, said) = run(here, &["-p", "least=2"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nightshift run … --from-failed"), "{said}");
    // What is kept is nobody's to see.
    assert!(!here.join("warehouse/system").exists());
    let (code, said) = run(here, &["--from-failed"]);
    assert!(code == Some(1), "{said}");

    std::fs::write(p.join("c.sql"), "CREATE OR REPLACE TABLE x.c AS SELECT sum(y) AS z FROM x.b")
        .unwrap();
    let (code, said) = run(here, &["--from-failed"]);
    assert_eq!(code, Some(0), "{said}");
    // With the value that the run had: 2 + 3 + 4 + 5.
    assert_eq!(query(here, "SELECT z FROM x.c")[0]["z"], 14);
    let runs = query(here, "SELECT status FROM system.runs");
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0]["status"], "published");
    let begun = |step: u64| {
        events(here, "last").iter().filter(|found| **found == event("begun", step)).count()
    };
    // What depends on more than what it reads is made again, what has failed is tried again, and nothing else is.
    assert_eq!((begun(1), begun(2), begun(3)), (3, 1, 3));
    let left = contents(&here.join("warehouse/_nightshift/runs"));
    assert!(left.is_empty(), "{left:?}");
    let tables = contents(&here.join("warehouse/x"));
    let parquet =
        tables.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "parquet"));
    assert_eq!(parquet.count(), 3, "{tables:?}");
    let (code, said) = run(here, &["--from-failed"]);
    assert!(
        code == Some(1) && said.contains("has not failed, but is published: run it anew"),
        "{said}"
    );
    let (code, said) = run(here, &["--from-failed", "--all"]);
    assert!(code == Some(2) && said.contains("cannot be used with"), "{said}");
}

#[test]
fn a_run_that_is_published_leaves_nothing_of_those_that_had_failed() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let files = [
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y"),
        ("checks/k.sql", "SELECT y FROM x.a"),
    ];
    let p = pipeline(here, "p", &files);
    assert_eq!(run(here, &[]).0, Some(3));
    let kept = contents(&here.join("warehouse/x"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    std::fs::write(p.join("checks/k.sql"), "SELECT y FROM x.a WHERE y > 1").unwrap();
    assert_eq!(run(here, &[]).0, Some(0));
    let left = contents(&here.join("warehouse/_nightshift/runs"));
    assert!(left.is_empty(), "{left:?}");
    let tables = contents(&here.join("warehouse/x"));
    assert!(!tables.iter().any(|(path, _)| *path == kept[0].0), "{tables:?}");
}

#[test]
fn a_check_can_warn() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let files = [
        ("a.sql", "CREATE OR REPLACE TABLE x.a AS SELECT value AS y FROM generate_series(1, 9)"),
        ("checks/k.sql", "-- severity: warn\nSELECT y FROM x.a WHERE y > 6 ORDER BY y"),
    ];
    let p = pipeline(here, "p", &files);
    let (code, said) = run(here, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the check checks/k.sql found 3 wrong rows"), "{said}");
    let shown = succeed(nightshift(here).args(["runs", "show", "last"]));
    assert!(shown.contains("warning: 3 wrong rows") && shown.contains("| 7 |"), "{shown}");
    let steps = query(here, "SELECT wrong_rows FROM system.run_steps WHERE name = 'checks/k.sql'");
    assert_eq!(steps[0]["wrong_rows"], 3);
    // It warns as long as there are such rows, whether or not anything has changed.
    let (code, said) = run(here, &[]);
    assert!(code == Some(0) && said.contains("found 3 wrong rows"), "{said}");
    assert!(said.contains("nothing has changed: 1 step would"), "{said}");
    std::fs::write(p.join("checks/k.sql"), "-- severity: error\nSELECT y FROM x.a WHERE y > 6")
        .unwrap();
    let (code, said) = run(here, &[]);
    assert_eq!(code, Some(3), "{said}");
    let newest = "SELECT wrong_rows, status FROM system.run_steps WHERE name = 'checks/k.sql' \
                  ORDER BY run DESC LIMIT 1";
    assert_eq!(query(here, newest)[0]["wrong_rows"], 3);
}

/// What has changed since a run has failed is made from the beginning, and all that follows from it.
#[test]
fn a_run_that_is_gone_on_with_takes_nothing_over_that_would_be_another() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'matrix_factorization', \
                 feedback_type = 'implicit', user_col = 'u', item_col = 'i', rating_col = 'w', \
                 num_factors = 4, max_iterations = 3) AS SELECT u, i, w FROM x.likes";
    let likes = |users: u32| {
        format!(
            "CREATE OR REPLACE TABLE x.likes AS SELECT u.value AS u, u.value % 3 + i.value AS i, 1.0 AS w \
             FROM generate_series(1, {users}) AS u CROSS JOIN generate_series(1, 3) AS i"
        )
    };
    let twice = "CREATE OR REPLACE TABLE x.twice AS SELECT name FROM raw.names;\n\
                 INSERT INTO x.twice SELECT upper(name) FROM raw.names";
    let raw = "CREATE EXTERNAL TABLE raw.names (name VARCHAR) STORED AS CSV LOCATION 'names.csv'";
    let first = likes(20);
    let files = [
        ("names.csv", "name\nann\nbob\n"),
        ("raw.sql", raw),
        ("twice.sql", twice),
        ("likes.sql", first.as_str()),
        ("m.sql", model),
        (
            "last.sql",
            "CREATE OR REPLACE TABLE x.last AS SELECT count(*) AS n FROM x.m.user_factors",
        ),
    ];
    let p = pipeline(here, "p", &files);
    assert_eq!(run(here, &[]).0, Some(0));

    // The model is trained, and then something fails; what is made of files is as it was.
    let write = |file: &str, text: &str| std::fs::write(p.join(file), text).unwrap();
    write("likes.sql", &likes(30));
    write(
        "last.sql",
        "CREATE OR REPLACE TABLE x.last AS SELECT 1 / (count(*) - 30) AS n FROM x.m.user_factors",
    );
    let (code, said) = run(here, &[]);
    assert_eq!(code, Some(1), "{said}");
    write("likes.sql", &likes(40));
    write("twice.sql", &twice.replace("upper(name)", "lower(name)"));
    write(
        "last.sql",
        "CREATE OR REPLACE TABLE x.last AS SELECT count(*) AS n FROM x.m.user_factors",
    );
    let (code, said) = run(here, &["--from-failed"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(query(here, "SELECT n FROM x.last")[0]["n"], 40);
    let names = query(here, "SELECT name FROM x.twice ORDER BY name");
    let names: Vec<_> = names.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "ann", "bob", "bob"]);
    let (code, said) = run(here, &[]);
    assert!(code == Some(0) && said.contains("nothing has changed"), "{said}");

    // Trained as if it had never been trained before.
    let factors = "SELECT user_id, factors FROM x.m.user_factors ORDER BY user_id";
    let factors = factors.replace("user_id", "u");
    let found = query(here, &factors);
    assert_eq!(run(here, &["--all"]).0, Some(0));
    assert_eq!(query(here, &factors), found);
}

#[test]
fn each_batch_of_ranks_is_named_while_it_is_iterated() {
    let folder = tempfile::tempdir().unwrap();
    let ring = "SELECT value AS s, (value + 1) % 20 AS t FROM generate_series(0, 19)";
    // Sixteen distributions are iterated together.
    let starts = "CREATE OR REPLACE TABLE x.starts AS \
        SELECT value AS place, value AS node, 1.0 AS weight FROM generate_series(0, 19)";
    let options = "model_type = 'pagerank', source_col = 's', target_col = 't'";
    let model = |name: &str, more: &str| {
        format!("CREATE OR REPLACE MODEL x.{name} OPTIONS ({options}{more}) AS {ring}")
    };
    let by_place = ", teleport_table = 'x.starts', teleport_by = 'place'";
    let (many, one) = (model("many", by_place), model("one", ""));
    let files = [("starts.sql", starts), ("many.sql", many.as_str()), ("one.sql", one.as_str())];
    pipeline(folder.path(), "p", &files);
    let (code, printed) = run(folder.path(), &[]);
    assert_eq!(code, Some(0), "{printed}");
    let said = |text: &str| printed.lines().filter(|line| line.contains(text)).count();
    for batch in ["batch 1 of 2, error bound", "batch 2 of 2, error bound"] {
        assert_eq!(said(&format!("x.many: iteration 1/200, {batch}")), 1, "{printed}");
    }
    assert_eq!(said("x.one: iteration 1/200, error bound"), 1, "{printed}");
}
