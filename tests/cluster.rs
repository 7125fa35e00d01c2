//! The same job on separate processes: equal to the last bit, whatever the cluster, whoever dies.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use support::*;

/// Model tables, in an order of their own, with every bit of every number.
const TABLES: &[&str] = &[
    "SELECT * FROM recs.als.user_factors ORDER BY user_id",
    "SELECT * FROM recs.als.item_factors ORDER BY movie_id",
    "SELECT * FROM recs.als.training_info ORDER BY iteration",
    "SELECT * FROM recs.als_explicit.user_factors ORDER BY user_id",
    "SELECT * FROM recs.als_explicit.item_factors ORDER BY movie_id",
    "SELECT * FROM graph.movie_rank.ranks ORDER BY node",
    "SELECT * FROM graph.movie_rank.training_info ORDER BY iteration",
];

fn assert_same_models(a: &Path, b: &Path, tables: &[&str]) {
    for table in tables {
        let (left, right) = (query(a, table), query(b, table));
        assert!(!left.is_empty(), "{table}");
        assert!(left == right, "{table} differs");
    }
}

#[test]
fn models_are_the_same_on_any_cluster() {
    let embedded = tempfile::tempdir().unwrap();
    succeed(nightshift(embedded.path()).arg("run").arg(movielens()));
    for cores in [&[1][..], &[1, 3], &[2, 1, 1]] {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(folder.path(), cores);
        let mut command = nightshift(folder.path());
        succeed(command.arg("run").arg(movielens()).args(["--cluster", &cluster.address]));
        assert_same_models(embedded.path(), folder.path(), TABLES);
    }
}

/// Long trainings on the main job's features, so that an executor can be lost in the middle.
const ALS: &str = "CREATE OR REPLACE MODEL recs.als OPTIONS (model_type = 'matrix_factorization', \
    feedback_type = 'implicit', item_col = 'movie_id', num_factors = 32, wals_alpha = 1, \
    max_iterations = 30, early_stop = false) AS SELECT user_id, movie_id, rating FROM raw.ratings";
const PAGERANK: &str = "CREATE OR REPLACE MODEL graph.movie_rank OPTIONS (model_type = 'pagerank', \
    source_col = 'user_id', target_col = 'movie_id', weight_col = 'rating', damping = 0.99, \
    tolerance = 1e-14, max_iterations = 60) AS SELECT user_id, movie_id, rating FROM raw.ratings";

#[test]
fn a_killed_executor_changes_nothing() {
    let raw = std::fs::read_to_string(movielens().join("raw.sql")).unwrap();
    let data = movielens().join("data");
    let raw = raw.replace("'data/", &format!("'{}/", data.display()));
    let files = [("raw.sql", raw.as_str()), ("als.sql", ALS), ("pagerank.sql", PAGERANK)];
    let prepare = |folder: &Path| {
        let settings = format!("locations = ['{}']", data.display());
        std::fs::write(folder.join("nightshift.toml"), settings).unwrap();
        pipeline(folder, "p", &files);
    };
    let quiet = tempfile::tempdir().unwrap();
    prepare(quiet.path());
    succeed(nightshift(quiet.path()).args(["run", "p"]));

    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut cluster = Cluster::start(folder.path(), &[1, 1, 1]);
    let mut command = nightshift(folder.path());
    command.args(["run", "p", "--cluster", &cluster.address]);
    let mut killed = 0;
    let (succeeded, printed) = run_watched(&mut command, |line| {
        let als = line.contains("recs.als: iteration 5/");
        let pagerank = line.contains("graph.movie_rank: iteration 8/");
        if als || pagerank {
            cluster.executors.pop().unwrap().kill();
            killed += 1;
        }
    });
    assert!(succeeded, "{printed}");
    assert_eq!(killed, 2, "{printed}");
    let tables = [TABLES[0], TABLES[1], TABLES[2], TABLES[5], TABLES[6]];
    assert_same_models(quiet.path(), folder.path(), &tables);
}

#[test]
fn up_starts_a_cluster_that_runs_queries() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = nightshift(folder.path());
    let (mut up, line) = Process::start(command.args(["up", "--port", &port.to_string()]));
    assert!(line.contains("1 scheduler, 2 executors"), "{line}");
    let address = format!("grpc://127.0.0.1:{port}");
    // `up` says where the cluster will be as soon as its processes are started.
    let answered = (0..500).any(|_| {
        let mut command = nightshift(folder.path());
        let command = command.args(["sql", "--cluster", &address, "--format", "csv"]);
        let output = command.args(["-c", "SELECT 40 + 2 AS answer"]).output().unwrap();
        output.status.success() && text(&output).contains("answer\n42")
    });
    assert!(answered);
    // However `up` ends, its processes end with it: the port becomes free.
    up.kill();
    let free = || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !free() {
        assert!(std::time::Instant::now() < deadline, "the scheduler outlives `up`");
        std::thread::yield_now();
    }
}
