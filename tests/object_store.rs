//! A warehouse in a bucket: the main job and writers at the same time, over a network that breaks.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::json;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use support::proxy::{Fault, Proxy, Request};
use support::s3::S3;
use support::*;
use tempfile::TempDir;

/// A folder whose warehouse is behind a proxy.
fn behind(proxy: &Proxy, s3: &S3, more: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    s3.configure(folder.path(), &proxy.address.to_string(), more);
    folder
}

/// Breaks one request in eight, each in another way, and the first answer to every commit.
fn unreliable(request: &Request) -> Fault {
    if request.conditional && request.first {
        return if request.number.is_multiple_of(2) { Fault::CutAfter } else { Fault::ResetAfter };
    }
    match request.number % 64 {
        7 => Fault::SlowDown,
        15 => Fault::InternalError,
        23 => Fault::CutBefore,
        31 => Fault::CutAfter,
        39 => Fault::ResetAfter,
        47 => Fault::CutWithin,
        55 => Fault::SlowDown,
        63 => Fault::Delay,
        _ => Fault::None,
    }
}

/// The log of every table in the bucket, by the number of commits.
fn commits(s3: &S3, log: &str) -> usize {
    let log = format!("warehouse/{log}/_delta_log/");
    s3.objects(&log).iter().filter(|name| name.ends_with(".json")).count()
}

#[test]
fn the_main_job_on_an_unreliable_store_makes_what_it_makes_in_a_folder() {
    let local = tempfile::tempdir().unwrap();
    succeed(nightshift(local.path()).arg("run").arg(movielens()));

    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address, unreliable);
    let folder = behind(&proxy, &s3, "");
    succeed(nightshift(folder.path()).arg("run").arg(movielens()));
    for fault in [
        Fault::SlowDown,
        Fault::InternalError,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ResetAfter,
        Fault::CutWithin,
        Fault::Delay,
    ] {
        assert!(proxy.count(fault) > 0, "{fault:?}");
    }

    for table in [
        "SELECT * FROM recs.als.user_factors ORDER BY user_id",
        "SELECT * FROM recs.als_explicit.item_factors ORDER BY movie_id",
        "SELECT * FROM graph.movie_rank.ranks ORDER BY node",
        "SELECT * FROM recs.top_items ORDER BY user_id, rank",
    ] {
        let (left, right) = (query(local.path(), table), query(folder.path(), table));
        assert!(!left.is_empty() && left == right, "{table} differs");
    }
    // Everything was published once, by one commit each.
    let published =
        "SELECT kind, name, publication, dropped FROM system.registry ORDER BY kind, name";
    assert_eq!(query(folder.path(), published), query(local.path(), published));
    for log in ["system/registry", "recs/top_items", "recs/als/user_factors", "features/ratings"] {
        assert_eq!(commits(&s3, log), 1, "{log}");
    }
    // Nothing is left of the run but what it has published.
    let records =
        ["journals", "sources", "published"].map(|name| format!("warehouse/_nightshift/{name}/"));
    let mut left = s3.objects("warehouse/_nightshift");
    left.retain(|object| !records.iter().any(|record| object.starts_with(record.as_str())));
    assert_eq!(left, [""; 0]);
    let logs =
        contents(&s3.bucket()).into_iter().filter(|(path, _)| path.extension().unwrap() == "json");
    let logs: String = logs.map(|(_, log)| String::from_utf8(log).unwrap()).collect();
    let files = s3.objects("warehouse/").into_iter().filter(|name| name.ends_with(".parquet"));
    let files: Vec<_> = files.collect();
    assert!(files.len() > 10);
    for file in files {
        assert!(logs.contains(file.rsplit('/').next().unwrap()), "{file} is in no version");
    }
}

#[test]
fn writers_at_the_same_time_over_an_unreliable_network_lose_and_repeat_no_row() {
    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address, unreliable);
    let folder = behind(&proxy, &s3, "");
    let run = |sql: &str| {
        succeed(nightshift(folder.path()).args(["sql", "-c", sql]));
    };
    run("CREATE TABLE x.t AS SELECT 0 AS writer, 0 AS n, 0 AS changes");
    let (writers, each) = (2, 5);
    std::thread::scope(|scope| {
        for writer in 1..=writers {
            let insert = |n| format!("INSERT INTO x.t VALUES ({writer}, {n}, 0)");
            // Both writers change the same row.
            let change = "UPDATE x.t SET changes = changes + 1 WHERE writer = 0";
            let sql: Vec<_> = (0..each).map(|n| format!("{};{change}", insert(n))).collect();
            scope.spawn(move || run(&sql.join(";")));
        }
    });
    let rows = query(
        folder.path(),
        "SELECT count(*) AS n, count(DISTINCT writer * 100 + n) AS different, \
         sum(changes) AS changes FROM x.t",
    );
    let all = writers * each;
    assert_eq!(rows, [json!({"n": all + 1, "different": all + 1, "changes": all})]);
    let versions = query(folder.path(), "SELECT count(*) AS n FROM table_history('x.t')");
    assert_eq!(versions, [json!({"n": 2 * all + 1})]);
    assert!(proxy.count(Fault::CutAfter) > 0 && proxy.count(Fault::ResetAfter) > 0);
}

#[test]
fn a_request_that_hangs_is_given_up_and_made_again() {
    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address, |request| {
        let read = request.method == "GET" && request.target.contains("_delta_log");
        match request.first && (request.conditional || read) {
            true => Fault::Hang,
            false => Fault::None,
        }
    });
    let folder = behind(&proxy, &s3, "timeout = '500ms'");
    let sql = "CREATE TABLE x.t AS SELECT 1 AS n";
    succeed(nightshift(folder.path()).args(["sql", "-c", sql]));
    assert_eq!(query(folder.path(), "SELECT n FROM x.t"), [json!({"n": 1})]);
    assert_eq!((commits(&s3, "x/t"), commits(&s3, "system/registry")), (1, 1));
    // Two probes, two commits, and at least one list.
    assert!(proxy.count(Fault::Hang) >= 5, "{}", proxy.count(Fault::Hang));
}

fn fail(folder: &Path, arguments: &[&str]) -> String {
    let output = nightshift(folder).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

#[test]
fn a_store_that_ignores_conditions_is_refused_at_the_start() {
    let s3 = S3::start_unsigned();
    for fault in [Fault::Unconditional, Fault::NotImplemented] {
        let proxy = Proxy::start(&s3.address, move |request| match request.conditional {
            true => fault,
            false => Fault::None,
        });
        let folder = behind(&proxy, &s3, "retry_timeout = '1s'");
        let change = ["sql", "-c", "CREATE TABLE x.t AS SELECT 1 AS n"];
        for command in [&change[..], &["scheduler", "--port", "0"]] {
            let said = fail(folder.path(), command);
            assert!(said.contains("s3://bucket/warehouse/: the store doesn't honour"), "{said}");
            assert!(said.contains("If-None-Match"), "{said}");
        }
        assert_eq!(s3.objects(""), [""; 0]);
        // Who only reads loses nothing there.
        assert_eq!(query(folder.path(), "SELECT 40 + 2 AS n"), [json!({"n": 42})]);
    }
}

#[test]
fn a_store_that_is_not_there_or_refuses_is_named() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let change = ["sql", "-c", "CREATE TABLE x.t AS SELECT 1 AS n"];
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    s3.configure(folder.path(), &nobody, "retry_timeout = '1s'");
    let started = Instant::now();
    let said = fail(folder.path(), &change);
    assert!(started.elapsed() < Duration::from_secs(60), "{said}");
    assert!(said.contains(&nobody) && said.contains("s3://bucket/warehouse/"), "{said}");

    s3.configure(folder.path(), &s3.address, "");
    std::fs::write(folder.path().join("secret"), "another").unwrap();
    let said = fail(folder.path(), &change);
    assert!(said.contains("s3://bucket/warehouse/") && said.contains("403"), "{said}");

    let settings = "[[store]]\nurl = 's3://bucket'\nsecret_access_key = 'hush'";
    std::fs::write(folder.path().join("nightshift.toml"), settings).unwrap();
    for command in [&change[..], &["scheduler", "--port", "0"], &["executor"]] {
        let said = fail(folder.path(), command);
        assert!(said.contains("secret_access_key_env") && !said.contains("hush"), "{said}");
    }
}

#[test]
fn files_in_a_bucket_are_read_in_place_by_every_process() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().unwrap();
    s3.configure(folder.path(), &s3.address, "");
    let raw = s3.bucket().join("raw");
    std::fs::create_dir_all(raw.join("csv")).unwrap();
    for file in 0..4 {
        std::fs::write(raw.join(format!("csv/{file}.csv")), format!("n\n{file}\n10\n")).unwrap();
    }
    let cluster = Cluster::start(folder.path(), &[1, 1]);
    let run = |sql: &str| {
        let mut command = nightshift(folder.path());
        command.args(["sql", "--cluster", &cluster.address, "--format", "json", "-c", sql]);
        succeed(&mut command)
    };
    let csv = "CREATE EXTERNAL TABLE raw.csv (n BIGINT) STORED AS CSV LOCATION 's3://bucket/raw/csv/' \
               OPTIONS ('format.has_header' 'true')";
    run(&format!("{csv}; CREATE TABLE x.t AS SELECT n FROM raw.csv"));
    // A Parquet file is that of a table.
    let table = s3.objects("warehouse/x/t/part-");
    std::fs::create_dir(raw.join("parquet")).unwrap();
    for (number, name) in table.iter().enumerate() {
        let to = raw.join(format!("parquet/{number}.parquet"));
        std::fs::copy(s3.bucket().join(name), to).unwrap();
    }
    let parquet =
        "CREATE EXTERNAL TABLE raw.parquet STORED AS PARQUET LOCATION 's3://bucket/raw/parquet/'";
    let sum = "SELECT sum(a.n) AS a, (SELECT sum(n) FROM raw.parquet) AS b FROM raw.csv AS a";
    let out = run(&format!("{csv}; {parquet}; {sum}"));
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(rows, json!([{"a": 46, "b": 46}]));

    // What is wrong in a file is said with its name, and other places stay closed.
    std::fs::write(raw.join("csv/2.csv"), "n\ntwo\n").unwrap();
    let wrong = fail(
        folder.path(),
        &["sql", "-c", &format!("{csv}; CREATE TABLE x.u AS SELECT n FROM raw.csv")],
    );
    assert!(wrong.contains("2.csv") && wrong.contains("'two'"), "{wrong}");
    let elsewhere = csv.replace("raw/csv", "elsewhere");
    let refused = fail(folder.path(), &["sql", "-c", &elsewhere]);
    assert!(refused.contains("locations"), "{refused}");
}
