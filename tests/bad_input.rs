//! Bad input: a message that names the file, the column and the value; an exit code; no change.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};
use support::*;

const RATINGS: &str = "CREATE EXTERNAL TABLE raw.r (user_id BIGINT, item_id BIGINT, rating DOUBLE) \
                       STORED AS CSV LOCATION 'r.csv' OPTIONS ('format.has_header' 'true')";
const GOOD: &str = "user_id,item_id,rating\n1,10,3\n1,11,4\n2,10,5\n";
const MODEL: &str = "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'matrix_factorization') AS \
                     SELECT user_id, item_id, rating FROM raw.r";

/// Runs a pipeline that must fail, on a warehouse that has something in it, and returns what it said.
fn failure(files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let create = "CREATE TABLE x.kept AS SELECT 1 AS y";
    succeed(nightshift(folder.path()).args(["sql", "-c", create]));
    let before = data(&folder.path().join("warehouse"));
    pipeline(folder.path(), "p", files);
    let output = nightshift(folder.path()).args(["run", "p"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(data(&folder.path().join("warehouse")), before, "{said}");
    said
}

fn assert_says(files: &[(&str, &str)], expected: &[&str]) {
    let said = failure(files);
    for part in expected {
        assert!(said.contains(part), "{said}\n--- does not say: {part}");
    }
}

fn with_data(rows: &str, model: &str) -> String {
    failure(&[("r.csv", rows), ("raw.sql", RATINGS), ("m.sql", model)])
}

#[test]
fn files_and_values() {
    assert_says(&[("raw.sql", RATINGS)], &["raw.sql:1:", "r.csv", "no such file"]);
    let data = GOOD.replace("11,4", "11,four");
    let said = with_data(&data, MODEL);
    for part in ["m.sql:1:", "r.csv", "'four'", "column rating in line 3"] {
        assert!(said.contains(part), "{said}\n--- does not say: {part}");
    }
    // The line is that of the file, with or without a header.
    let bare = RATINGS.replace("'true'", "'false'");
    let data = "1,10,3\n1,eleven,4\n";
    let said = failure(&[("r.csv", data), ("raw.sql", &bare), ("m.sql", MODEL)]);
    assert!(said.contains("'eleven'") && said.contains("column item_id in line 2"), "{said}");
    let elsewhere = RATINGS.replace("r.csv", "/etc/hostname");
    assert_says(&[("raw.sql", &elsewhere)], &["/etc/hostname", "declared location"]);
}

#[test]
fn weights_and_ids_without_a_meaning() {
    for (row, expected) in [
        ("2,,5", "column item_id is NULL in 1 of 4 rows, such as the one with user_id = 2"),
        (",10,5", "column user_id is NULL in 1 of 4 rows"),
        ("2,12,", "column rating is NULL in 1 of 4 rows"),
        (
            "2,12,NaN",
            "column rating is NaN in 1 of 4 rows, such as the one with user_id = 2, item_id = 12",
        ),
        ("2,12,-inf", "column rating is infinite in 1 of 4 rows"),
    ] {
        let said = with_data(&format!("{GOOD}{row}\n"), MODEL);
        assert!(said.contains("m.sql:1: model x.m: ") && said.contains(expected), "{row}: {said}");
    }
    let text_weight = MODEL.replace("rating FROM", "'good' AS rating FROM");
    assert!(
        with_data(GOOD, &text_weight).contains("column rating is a Utf8 and can't be a weight")
    );
    let float_id = MODEL.replace("SELECT user_id", "SELECT 0.5 AS user_id");
    assert!(with_data(GOOD, &float_id).contains("column user_id is a Float64 and can't be an id"));
    let empty = MODEL.replace("raw.r", "raw.r WHERE rating > 9");
    assert!(with_data(GOOD, &empty).contains("the training query returns no rows"));
    let pagerank = "CREATE MODEL x.p OPTIONS (model_type = 'pagerank', source_col = 'user_id', \
                    target_col = 'item_id', weight_col = 'rating') AS SELECT * FROM raw.r";
    let said = with_data(&format!("{GOOD}2,12,-1\n"), pagerank);
    assert!(said.contains("column rating is negative in 1 of 4 rows"), "{said}");
}

#[test]
fn options() {
    let option = |option: &str| with_data(GOOD, &MODEL.replace("'matrix_factorization'", option));
    for (given, expected) in [
        ("'kmeans'", "option model_type: 'kmeans' is not 'matrix_factorization' or 'pagerank'"),
        ("'matrix_factorization', num_factors = 0", "option num_factors: 0 is not a whole number"),
        ("'matrix_factorization', depth = 3", "option depth: there is none of that name"),
        (
            "'matrix_factorization', user_col = 'customer'",
            "option user_col: the training query has no column customer, only user_id, item_id, rating",
        ),
    ] {
        let said = option(given);
        assert!(said.contains("m.sql:1: model x.m: ") && said.contains(expected), "{said}");
    }
}

#[test]
fn files_that_can_not_be_put_in_order() {
    assert_says(
        &[
            ("a.sql", "CREATE TABLE x.a AS SELECT * FROM x.b"),
            ("b.sql", "CREATE TABLE x.b AS SELECT * FROM x.a"),
        ],
        &["p/a.sql:1: ", "a.sql reads x.b of b.sql, b.sql reads x.a of a.sql"],
    );
    assert_says(
        &[
            ("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y"),
            ("b.sql", "CREATE TABLE x.a AS SELECT 2 AS y"),
        ],
        &["both a.sql and b.sql create x.a"],
    );
    assert_says(&[("a.sql", "CREATE TABLE x.a AS\n  SELECT 1 AS y,\n  FORM x.b")], &["p/a.sql:3:"]);
    assert_says(&[("a.sql", "CREATE TABLE x.a AS SELECT * FROM x.none")], &["a.sql:1:", "x.none"]);
    assert_says(&[("a.sql", "CREATE TABLE x.kept AS SELECT 1 AS y")], &["x.kept exists already"]);
    assert_says(
        &[("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y;\nTRUNCATE TABLE x.kept")],
        &["a.sql:2:", "TRUNCATE TABLE is not supported"],
    );
    assert_says(
        &[("a.sql", "CREATE TABLE x.a AS SELECT count(*) FROM x.kept")],
        &["a.sql:1: column count(*)", "AS"],
    );
}

#[test]
fn places_that_can_not_be_used() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), "p", &[("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y")]);
    let fails = |arguments: &[&str], expected: &str| {
        let started = Instant::now();
        let output = nightshift(folder.path()).args(arguments).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains(expected), "{said}");
        // The limit that users are promised.
        assert!(started.elapsed() < Duration::from_secs(10), "{said}");
    };
    // The file system itself refuses there, whoever asks.
    fails(&["run", "p", "--warehouse", "/proc/nightshift"], "/proc/nightshift/ can't be written");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("grpc://127.0.0.1:{port}");
    fails(&["run", "p", "--cluster", &address], &format!("cluster {address} can't be reached"));
    fails(&["run", "p", "--cluster", "127.0.0.1:1"], "an address looks like grpc://");
    fails(&["run", "nowhere"], "there is no such folder");
    fails(&["scheduler", "--host", "0.0.0.0"], "--insecure");
    fails(&["scheduler", "--host", "0.0.0.0", "--insecure"], "--advertise");
    let all_is_kept = ["executor", "--memory", "400", "--resident-memory", "390"];
    fails(
        &all_is_kept,
        "400 MB of memory are not enough: 390 MB of them are for blocks and states",
    );
    // Somebody listens and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("grpc://{}", silent.local_addr().unwrap());
    fails(&["run", "p", "--cluster", &address], &format!("cluster {address} can't be reached"));
    // Statements that would write elsewhere.
    let target = folder.path().join("x.csv");
    let copy =
        format!("EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{}' STORED AS CSV", target.display());
    fails(&["sql", "-c", &copy], "is not supported");
    assert!(!target.exists());
    std::fs::write(folder.path().join("nightshift.toml"), "warehose = 'x'").unwrap();
    fails(&["sql", "-c", "SELECT 1"], "warehose");
    assert!(!Path::new("/proc/nightshift").exists());
}
