//! Bad records of files: rows of a table, and no failure of the run that reads the files.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::*;

const ORDERS: &str = "CREATE EXTERNAL TABLE raw.orders (id BIGINT NOT NULL, name VARCHAR, price DOUBLE) \
                      STORED AS CSV LOCATION '*.csv' \
                      OPTIONS ('quarantine' 'shop.rejected', 'quarantine_share' '0.5')";
const FILES: [(&str, &str); 6] = [
    ("1.csv", "id,name,price\n1,ann,1.5\n2,\"b,ob\",2\n"),
    ("2.csv", "id,name,price\n3,cyd,x\n\n4,dan\n5,eve,5\n,fay,6\n"),
    ("raw.sql", ORDERS),
    ("a.sql", "CREATE OR REPLACE TABLE shop.orders AS SELECT * FROM raw.orders"),
    ("b.sql", "CREATE OR REPLACE TABLE shop.wrong AS SELECT count(*) AS n FROM shop.rejected"),
    ("checks/k.sql", "SELECT * FROM shop.rejected WHERE line < 2 OR record IS NULL"),
];
/// A table of the name that the quarantine has.
const SAME: &str = "CREATE OR REPLACE TABLE shop.rejected AS SELECT 1 AS y";
const REJECTED: &str =
    "SELECT file, line, \"column\", reason, record FROM shop.rejected ORDER BY file, line";

fn write(folder: &Path, file: &str, text: &str) {
    std::fs::write(folder.join("p").join(file), text).unwrap();
}

/// The steps that would be executed, with the reasons.
fn plan(folder: &Path) -> Vec<(String, String)> {
    let out = succeed(nightshift(folder).args(["plan", "p", "--format", "json"]));
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let runs = rows.iter().filter(|row| row["plan"] == "runs");
    let mut steps: Vec<_> = runs.map(|row| (text(&row["step"]), text(&row["because"]))).collect();
    steps.sort();
    steps
}

fn names(plan: &[(String, String)]) -> Vec<&str> {
    plan.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn bad_records_become_rows_of_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    pipeline(here, "p", &FILES);
    let parts = succeed(nightshift(here).args(["check", "p", "--format", "json"]));
    let parts: Vec<Value> = serde_json::from_str(&parts).unwrap();
    assert!(parts.iter().any(|part| part["makes"] == "raw.orders, shop.rejected"), "{parts:?}");
    let output = nightshift(here).args(["run", "p"]).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("3 of 6 records of raw.orders are in shop.rejected"), "{said}");
    let good = json!([
        {"id": 1, "name": "ann", "price": 1.5},
        {"id": 2, "name": "b,ob", "price": 2.0},
        {"id": 5, "name": "eve", "price": 5.0},
    ]);
    let orders = "SELECT * FROM shop.orders ORDER BY id";
    assert_eq!(Value::from(query(here, orders)), good);
    let rejected = query(here, REJECTED);
    let place = |row: &Value| (row["line"].clone(), row["column"].clone(), row["record"].clone());
    let places: Vec<_> = rejected.iter().map(place).collect();
    let expected = [
        (json!(2), json!("price"), json!("3,cyd,x")),
        (json!(4), Value::Null, json!("4,dan")),
        (json!(6), json!("id"), json!(",fay,6")),
    ];
    assert_eq!(places, expected);
    let reasons = [
        "Error while parsing value 'x' as type 'Float64' for column price",
        "incorrect number of fields, expected 3 got 2",
        "there is no value for column id, which is NOT NULL",
    ];
    for (row, reason) in rejected.iter().zip(reasons) {
        assert_eq!(row["reason"], reason);
        assert!(row["file"].as_str().unwrap().ends_with("/p/2.csv"), "{row}");
    }
    assert_eq!(query(here, "SELECT n FROM shop.wrong")[0]["n"], 3);
    assert!(!here.join("warehouse/_nightshift/runs").exists(), "copies are left");

    // Nothing has changed; then somebody changes the quarantine; then the file is mended.
    assert!(plan(here).is_empty());
    succeed(nightshift(here).args(["sql", "-c", "DELETE FROM shop.rejected WHERE line = 4"]));
    let again = plan(here);
    assert_eq!(names(&again), ["checks/k.sql", "raw.orders", "shop.wrong"]);
    assert_eq!(again[1].1, "somebody has changed what it made");
    succeed(nightshift(here).args(["run", "p"]));
    assert_eq!(query(here, REJECTED), rejected);
    write(here, "2.csv", "id,name,price\n3,cyd,3\n");
    assert_eq!(names(&plan(here)), ["checks/k.sql", "raw.orders", "shop.orders", "shop.wrong"]);
    succeed(nightshift(here).args(["run", "p"]));
    assert!(query(here, REJECTED).is_empty());
    assert_eq!(query(here, "SELECT n FROM shop.wrong")[0]["n"], 0);
    assert_eq!(query(here, "SELECT count(*) AS n FROM shop.orders")[0]["n"], 3);
    let before = "SELECT count(*) AS n FROM shop.rejected VERSION AS OF 0";
    assert_eq!(query(here, before)[0]["n"], 3);

    // The step that makes the quarantine can be named by it.
    let only = ["plan", "p", "--all", "--only", "shop.rejected", "--format", "json"];
    let steps: Vec<Value> = serde_json::from_str(&succeed(nightshift(here).args(only))).unwrap();
    let runs = steps.iter().filter(|step| step["plan"] == "runs").map(|step| &step["step"]);
    assert_eq!(runs.collect::<Vec<_>>(), ["raw.orders", "checks/k.sql"], "{steps:?}");
}

#[test]
fn more_than_the_share_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeed(nightshift(here).args(["sql", "-c", "CREATE TABLE x.kept AS SELECT 1 AS y"]));
    let before = data(&here.join("warehouse"));
    pipeline(here, "p", &FILES);
    write(here, "raw.sql", &ORDERS.replace(", 'quarantine_share' '0.5'", ""));
    let output = nightshift(here).args(["run", "p"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "raw.sql:1:",
        "raw.orders: 3 of 6 records can't be read, more than the share of 0.01",
        "2.csv: Error while parsing value 'x' as type 'Float64' for column price in line 2",
    ] {
        assert!(said.contains(part), "{said}\n--- does not say: {part}");
    }
    assert_eq!(data(&here.join("warehouse")), before, "{said}");
    // A check over the quarantine can be stricter.
    write(here, "raw.sql", ORDERS);
    write(here, "checks/k.sql", "SELECT file, line FROM shop.rejected");
    let output = nightshift(here).args(["run", "p"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let unpublished = "SELECT count(*) AS n FROM system.registry WHERE name LIKE 'shop.%'";
    assert_eq!(query(here, unpublished)[0]["n"], 0);
}

#[test]
fn options_are_checked_before_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    pipeline(here, "p", &FILES);
    let refused = |file: &str, sql: &str, expected: &str| {
        pipeline(here, "p", &FILES);
        write(here, file, sql);
        let output = nightshift(here).args(["check", "p"]).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{sql}: {said}");
        assert!(said.contains(expected), "{sql}: {said}");
        // Those that read the table are not blamed.
        let named = sql.contains("shop.rejected");
        assert!(!named || !said.contains("there is no table shop.rejected"), "{sql}: {said}");
    };
    let changed = |from: &str, to: &str| ORDERS.replace(from, to);
    for (sql, expected) in [
        (changed("'0.5'", "'2'"), "option quarantine_share: '2' is not a share"),
        (changed("'shop.rejected'", "'raw.orders'"), "the name of the files themselves"),
        (changed("AS CSV", "AS PARQUET"), "only CSV and JSON files"),
        (changed("'0.5'", "'0.5', heder true"), "option heder"),
        (
            changed(
                "STORED AS CSV LOCATION '*.csv'",
                "STORED AS CSV PARTITIONED BY (name) LOCATION '.'",
            ),
            "PARTITIONED BY",
        ),
        (format!("{ORDERS};\n{}", changed("raw.orders", "raw.again")), "created twice"),
        (format!("{ORDERS};\n{SAME}"), "shop.rejected is created twice"),
        (format!("{SAME};\n{ORDERS}"), "shop.rejected is created twice"),
    ] {
        refused("raw.sql", &sql, expected);
    }
    refused("c.sql", SAME, "create shop.rejected");
    std::fs::remove_file(here.join("p/c.sql")).unwrap();
    refused("b.sql", "CREATE OR REPLACE TABLE shop.b AS SELECT nope FROM shop.rejected", "nope");
    assert!(!here.join("warehouse").exists());
    // By itself, a statement has no run that lasts.
    std::fs::write(here.join("nightshift.toml"), "locations = ['p']").unwrap();
    let sql = ORDERS.replace("'*.csv'", "'p/*.csv'");
    let output = nightshift(here).args(["sql", "-c", &sql]).output().unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("statements of a pipeline"), "{said}");
}

#[test]
fn executors_read_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("nightshift.toml"), "locations = ['data']").unwrap();
    std::fs::create_dir(here.join("data")).unwrap();
    let rows = "FROM (SELECT unnest(generate_series(1, 10000)) AS value)";
    for (file, n) in [
        ("1.csv.gz", "CASE WHEN value % 100 = 7 THEN 'x' ELSE CAST(value AS VARCHAR) END"),
        ("2.csv.gz", "value"),
    ] {
        let copy = format!("COPY (SELECT {n} AS n, 'a' AS s {rows}) TO 'data/{file}'");
        succeed(nightshift(here).args(["sql", "-c", &copy]));
    }
    std::fs::write(here.join("data/1.json"), "{\"n\": 1}\n{\"n\": \"one\"}\n[2]\n{\"n\": 3}\n")
        .unwrap();
    let raw = "CREATE EXTERNAL TABLE raw.c (n BIGINT, s VARCHAR) STORED AS CSV \
               LOCATION '../data/*.csv.gz' OPTIONS (quarantine 'x.bad');\n\
               CREATE EXTERNAL TABLE raw.j (n BIGINT) STORED AS JSON \
               LOCATION '../data/*.json' OPTIONS (quarantine 'x.bad_json', quarantine_share 0.5)";
    let made = "CREATE OR REPLACE TABLE x.c AS SELECT * FROM raw.c;\n\
                CREATE OR REPLACE TABLE x.j AS SELECT * FROM raw.j";
    pipeline(here, "p", &[("raw.sql", raw), ("made.sql", made)]);
    let cluster = Cluster::start(here, &[2, 2]);
    succeed(nightshift(here).args(["run", "p", "--cluster", &cluster.address]));
    // Each file has the numbers from 1 to 10,000, and in one of them a hundred are missing.
    let sums = query(here, "SELECT count(*) AS n, sum(n) AS s, count(DISTINCT s) AS d FROM x.c");
    let missing: i64 = (0..100).map(|hundred| hundred * 100 + 7).sum();
    assert_eq!(sums, [json!({"n": 19900, "s": 2 * 50_005_000 - missing, "d": 1})]);
    let bad =
        "SELECT count(*) AS n, min(line) AS first, max(line) AS last, min(record) AS r FROM x.bad";
    assert_eq!(query(here, bad), [json!({"n": 100, "first": 8, "last": 9908, "r": "x,a"})]);
    assert_eq!(query(here, "SELECT sum(n) AS n FROM x.j")[0]["n"], 4);
    let bad = query(here, "SELECT line, \"column\" FROM x.bad_json ORDER BY line");
    assert_eq!(bad, [json!({"line": 2, "column": "n"}), json!({"line": 3, "column": null})]);
}
