//! SQL clients, over Flight SQL.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};
use support::*;

/// A driver that many programs use, against a cluster of processes.
#[test]
fn a_client_browses_queries_trains_and_cancels() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[1]);
    let warehouse = folder.path().join("warehouse");
    let arguments = [Path::new(&cluster.flight), warehouse.as_path()];
    println!("{}", python("flight_sql.py", &arguments));
    // Whatever was staged in the warehouse is deleted, though nobody waits for it if a client is gone.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = contents(&warehouse.join("_nightshift"));
        if left.is_empty() {
            break;
        }
        let left: Vec<_> = left.into_iter().map(|(path, _)| path).collect();
        assert!(Instant::now() < deadline, "{left:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_beyond_this_machine_must_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = nightshift(folder.path());
    command.args(["scheduler", "--host", "0.0.0.0", "--port", "0", "--flight-port", "0"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("--insecure"), "{}", text(&output));
}
