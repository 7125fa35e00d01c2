//! Programs without a driver, over HTTP.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use support::*;

#[test]
fn a_program_queries_lists_and_cancels() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[1]);
    let warehouse = folder.path().join("warehouse");
    let arguments = [Path::new(&cluster.http), Path::new(&cluster.flight), warehouse.as_path()];
    println!("{}", python("http_api.py", &arguments));
    // What a cancelled change had written is deleted.
    let tidy = || contents(&warehouse.join("_nightshift")).is_empty();
    wait_until(tidy, "intermediate files are left");
    // Whoever has changed something is in the log, without values of the statement.
    let log = std::fs::read_to_string(&cluster.log).unwrap();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains(" audit: ")).collect();
    let said = |signs: &[&str]| {
        assert!(
            audit.iter().any(|line| signs.iter().all(|sign| line.contains(sign))),
            "{signs:?}: {audit:#?}"
        );
    };
    let create = "action=\"CREATE TABLE\" object=\"shop.ratings\"";
    said(&["who=\"127.0.0.1\" via=http", create, "outcome=\"done\""]);
    said(&[create, "outcome=\"failed\""]);
    said(&["action=\"CREATE TABLE\" object=\"shop.never\"", "outcome=\"cancelled\""]);
    said(&["via=http action=\"CANCEL\"", "outcome=\"requested\""]);
    assert!(!log.contains("hidden"), "{log}");
}

/// The answer to a request without a body.
fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn up_says_where_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = nightshift(folder.path());
    command.args(["up", "--executors", "1", "--port", &port.to_string(), "--flight-port", "0"]);
    let (mut up, _) = Process::start(&mut command);
    let mut lines = std::iter::from_fn(|| Some(up.line()));
    let http = lines.find_map(|line| line.strip_prefix("http http://").map(String::from)).unwrap();
    // It is printed as soon as the processes are started.
    let mut answer = String::new();
    let answers = || {
        answer = get(&http, "/healthz").unwrap_or_default();
        !answer.is_empty()
    };
    wait_until(answers, "nobody answers");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""status":"ok""#), "{answer}");
}

#[test]
fn an_embedded_session_knows_its_queries_and_its_executor() {
    let folder = tempfile::tempdir().unwrap();
    let text = "SELECT via, state, rows FROM system.queries";
    assert_eq!(query(folder.path(), text), [json!({"via": "sql", "state": "planning", "rows": 0})]);
    let sql = "SELECT cores > 0 AS cores, busy_cores, host, state FROM system.executors";
    let row = json!({"cores": true, "busy_cores": 0, "host": "127.0.0.1", "state": "active"});
    assert_eq!(query(folder.path(), sql), [row]);
    // A statement sees those before it.
    let sql = "CREATE TABLE a.t AS SELECT 1 AS x; SELECT state, rows_changed FROM system.queries \
               WHERE statement LIKE 'CREATE%'";
    let out = succeed(nightshift(folder.path()).args(["sql", "--format", "json", "-c", sql]));
    let rows: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(rows, json!([{"state": "finished", "rows_changed": 1}]));
}
