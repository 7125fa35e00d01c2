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
        // Nor does the number of files depend on the cluster: two models have factors.
        for (table, files) in [("user_factors", 16), ("item_factors", 16), ("ranks", 8)] {
            assert_eq!(files_of(&folder.path().join("warehouse"), table), files, "{table}");
        }
    }
}

/// How many data files the tables of that name have, of all models.
fn files_of(folder: &Path, table: &str) -> usize {
    let files = contents(folder);
    let of_table = files.iter().filter(|(path, _)| {
        path.extension().is_some_and(|extension| extension == "parquet")
            && path.components().any(|part| part.as_os_str() == table)
    });
    of_table.count()
}

/// Long trainings on the main job's features, so that an executor can be lost in the middle.
const ALS: &str = "CREATE OR REPLACE MODEL recs.als OPTIONS (model_type = 'matrix_factorization', \
    feedback_type = 'implicit', item_col = 'movie_id', num_factors = 32, wals_alpha = 1, \
    max_iterations = 30, early_stop = false) AS SELECT user_id, movie_id, rating FROM raw.ratings";
const PAGERANK: &str = "CREATE OR REPLACE MODEL graph.movie_rank OPTIONS (model_type = 'pagerank', \
    source_col = 'user_id', target_col = 'movie_id', weight_col = 'rating', damping = 0.99, \
    tolerance = 1e-14, max_iterations = 60) AS SELECT user_id, movie_id, rating FROM raw.ratings";

#[test]
fn trainings_that_do_not_fit_into_memory_come_to_the_same() {
    // The factors of the users are a megabyte, and the ratings two.
    let als = ALS.replace("= 32", "= 256").replace("= 30", "= 2");
    let als = als.replace("early_stop", "solver = 'exact', early_stop");
    let pagerank = PAGERANK.replace("= 60", "= 4");
    let files = [("als.sql", als.as_str()), ("pagerank.sql", pagerank.as_str())];
    let roomy = tempfile::tempdir().unwrap();
    prepare(roomy.path(), &files);
    succeed(nightshift(roomy.path()).args(["run", "p"]));
    let blocks = |folder: &Path| {
        let models =
            query(folder, "SELECT model, metrics FROM system.model_versions ORDER BY model");
        models
            .iter()
            .map(|model| {
                let metrics: serde_json::Value =
                    serde_json::from_str(model["metrics"].as_str().unwrap()).unwrap();
                let metric = |name: &str| metrics[name].as_f64().unwrap();
                assert!(0.0 < metric("prepare_seconds"));
                assert!(metric("prepare_seconds") < metric("seconds"));
                [metric("blocks_kept"), metric("blocks_read"), metric("seconds")]
            })
            .collect::<Vec<_>>()
    };
    // Eight blocks of users, as many of items, and as many of a graph are read once for all steps, which are jobs of their
    // own or not.
    let [[_, read_of_graph, _], [kept, read, seconds]] = blocks(roomy.path())[..] else { panic!() };
    assert_eq!((read_of_graph, read), (8.0, 16.0));
    // Both iterations are one job, which asks for blocks once, unless the first takes as long as a job may.
    assert!(kept == 0.0 || seconds > 3.0 && kept == 16.0, "{kept} kept in {seconds} s");
    for megabytes in ["0", "1", "100"] {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &files);
        let cluster = Cluster::start(folder.path(), &[]);
        let small = ["--resident-memory", megabytes];
        let _executors = ["work-1", "work-2"]
            .map(|name| cluster.executor_with(folder.path(), 1, &folder.path().join(name), &small));
        let mut command = nightshift(folder.path());
        succeed(command.args(["run", "p", "--cluster", &cluster.address]));
        let tables = [TABLES[0], TABLES[1], TABLES[2], TABLES[5], TABLES[6]];
        assert_same_models(roomy.path(), folder.path(), &tables);
        let [[kept_of_graph, read_of_graph, _], [kept, read, _]] = blocks(folder.path())[..] else {
            panic!()
        };
        // Steps of the graph that were done together ask for blocks once.
        assert!(kept_of_graph + read_of_graph <= 32.0);
        match megabytes {
            "0" => assert_eq!((read_of_graph, kept, read), (32.0, 0.0, 32.0)),
            "1" => assert!(kept + read == 32.0 && read > 16.0, "{kept} {read}"),
            // Every block is sent to one executor in all steps, but for steps before both were there.
            _ => assert!(read_of_graph + read < 30.0, "{read_of_graph} {read}"),
        }
    }
}

/// An item that more than a million users have: tasks make parts of its equations. What comes of them is what als_solve
/// gives for it.
#[test]
fn a_row_that_is_too_long_for_one_task_is_solved_by_several() {
    let long = "CREATE MODEL recs.long OPTIONS (model_type = 'matrix_factorization', num_factors = 3, \
        feedback_type = 'implicit', wals_alpha = 2, l2_reg = 0.5, max_iterations = 1, solver = 'exact') \
        AS SELECT value AS user_id, 7 AS item_id, 1.0 + value % 3 AS rating FROM generate_series(1, 1100000) \
        UNION ALL SELECT value, value % 5, 2.0 FROM generate_series(1, 1100000, 6)";
    let tables = [
        "SELECT * FROM recs.long.item_factors ORDER BY item_id",
        "SELECT loss FROM recs.long.training_info",
        "SELECT * FROM recs.long.user_factors WHERE user_id % 1000 = 1 ORDER BY user_id",
    ];
    let one = tempfile::tempdir().unwrap();
    prepare(one.path(), &[("long.sql", long)]);
    succeed(nightshift(one.path()).args(["run", "p"]));
    // With 4 MB of a state at a time, a slice has several parts.
    for options in [&["--resident-memory", "1000"][..], &["--resident-memory", "1"]] {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &[("long.sql", long)]);
        let cluster = Cluster::start(folder.path(), &[]);
        let _executors = ["work-1", "work-2"].map(|name| {
            cluster.executor_with(folder.path(), 1, &folder.path().join(name), options)
        });
        let mut command = nightshift(folder.path());
        succeed(command.args(["run", "p", "--cluster", &cluster.address]));
        assert_same_models(one.path(), folder.path(), &tables);
    }
    let away = query(
        one.path(),
        "SELECT max(abs(solved.f[n] - trained.factors[n])) AS away \
         FROM (SELECT als_solve(u.factors, CAST(1.0 + u.user_id % 3 AS DOUBLE), 0.5, 2, g.gram) AS f \
               FROM recs.long.user_factors AS u \
               CROSS JOIN (SELECT als_gram(factors) AS gram FROM recs.long.user_factors) AS g) AS solved \
         CROSS JOIN (SELECT factors FROM recs.long.item_factors WHERE item_id = 7) AS trained \
         CROSS JOIN generate_series(1, 3) AS s(n)",
    );
    assert!(away[0]["away"].as_f64().unwrap() < 1e-5, "{away:?}");
}

/// A query of several stages, the last of which takes most of its time: the films that a user has
/// rated, in pairs.
const PAIRS: &str = "CREATE OR REPLACE TABLE features.pairs AS \
    SELECT a.movie_id AS first, b.movie_id AS second, count(*) AS users, sum(a.rating * b.rating) AS weight \
    FROM raw.ratings a JOIN raw.ratings b ON a.user_id = b.user_id AND a.movie_id < b.movie_id \
    GROUP BY 1, 2";

/// Writes a pipeline `p` over the main job's ratings.
fn prepare(folder: &Path, files: &[(&str, &str)]) {
    let data = movielens().join("data");
    let raw = std::fs::read_to_string(movielens().join("raw.sql")).unwrap();
    let raw = raw.replace("'data/", &format!("'{}/", data.display()));
    std::fs::write(folder.join("nightshift.toml"), format!("locations = ['{}']", data.display()))
        .unwrap();
    pipeline(folder, "p", &[&[("raw.sql", raw.as_str())], files].concat());
}

#[test]
fn an_executor_killed_during_supersteps_changes_nothing() {
    // More iterations than a job does: the second job has begun when those of the first are told.
    let als = ALS.replace("= 30", "= 150");
    let files = [("als.sql", als.as_str()), ("pagerank.sql", PAGERANK)];
    let quiet = tempfile::tempdir().unwrap();
    prepare(quiet.path(), &files);
    succeed(nightshift(quiet.path()).args(["run", "p"]));

    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &files);
    let mut cluster = Cluster::start(folder.path(), &[1, 1, 1]);
    let mut command = nightshift(folder.path());
    command.args(["run", "p", "--cluster", &cluster.address]);
    let mut killed = 0;
    let (succeeded, printed) = run_watched(&mut command, |line| {
        let als = line.contains("recs.als: iteration 1/");
        let pagerank = line.contains("graph.movie_rank: iteration 1/");
        if als || pagerank {
            cluster.executors.pop().unwrap().kill();
            killed += 1;
        }
    });
    assert!(succeeded, "{printed}");
    assert_eq!(killed, 2, "{printed}");
    // Executors have waited for each other between some of the steps, so that these needed no jobs of their own.
    for model in ["recs.als", "graph.movie_rank"] {
        let seconds = format!(
            "SELECT count(*) AS iterations, count(DISTINCT seconds) AS jobs FROM ml_training_info('{model}')"
        );
        let counts = &query(folder.path(), &seconds)[0];
        let [iterations, jobs] = ["iterations", "jobs"].map(|name| counts[name].as_i64().unwrap());
        assert!(iterations > 20 && jobs < iterations, "{jobs} jobs for {iterations} of {model}");
    }
    let tables = [TABLES[0], TABLES[1], TABLES[2], TABLES[5], TABLES[6]];
    assert_same_models(quiet.path(), folder.path(), &tables);
}

/// A stage that reads what the lost executor had written is taken back while its tasks run elsewhere.
#[test]
fn an_executor_killed_during_sql_changes_nothing() {
    let files = [("pairs.sql", PAIRS)];
    let tables = ["SELECT * FROM features.pairs ORDER BY first, second"];
    let quiet = tempfile::tempdir().unwrap();
    prepare(quiet.path(), &files);
    succeed(nightshift(quiet.path()).args(["run", "p"]));
    // An executor is killed when it has written results of that stage: of one of the two scans that the
    // join reads, of the join, and of the table. None of them may be counted twice.
    for stage in ["1", "2", "3", "4"] {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &files);
        let cluster = Cluster::start(folder.path(), &[]);
        let works = ["work-1", "work-2", "work-3"].map(|name| folder.path().join(name));
        let executors = works.iter().map(|work| cluster.executor(folder.path(), 1, work));
        let mut executors: Vec<_> = executors.collect();
        let mut command = nightshift(folder.path());
        command.args(["run", "p", "--cluster", &cluster.address]);
        let mut killed = false;
        let (succeeded, printed) = run_watched(&mut command, |line| {
            if line.contains("] features.pairs") && !killed {
                let mut victim = None;
                let found = || {
                    victim = works.iter().position(|work| has_results(work, stage));
                    victim.is_some()
                };
                wait_until(found, "no results of the stage");
                executors[victim.unwrap()].kill();
                killed = true;
            }
        });
        assert!(succeeded && killed, "killed in stage {stage}\n{printed}");
        assert_same_models(quiet.path(), folder.path(), &tables);
    }
}

/// Whether an executor that works in `work` has files of a stage of any job.
fn has_results(work: &Path, stage: &str) -> bool {
    let folders = |of: &Path| std::fs::read_dir(of).into_iter().flatten().flatten();
    folders(&work.join("shuffles"))
        .flat_map(|cluster| folders(&cluster.path()))
        .any(|job| !contents(&job.path().join(stage)).is_empty())
}

/// What one executor has written the others of its folder read from there, and nobody deletes what others need.
#[test]
fn executors_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    let cluster = Cluster::start(folder.path(), &[]);
    let start = || cluster.executor(folder.path(), 1, &work);
    let mut executors = vec![start(), start()];
    let sql = |sql: &str| {
        let mut command = nightshift(folder.path());
        command.args(["sql", "--cluster", &cluster.address, "--format", "csv", "-c", sql]);
        succeed(&mut command)
    };
    let query = "SELECT count(*) AS groups, sum(n) AS rows FROM \
        (SELECT value % 50000 AS g, count(*) AS n FROM generate_series(1, 200000) GROUP BY g)";
    let answer = "groups,rows\n50000,200000";
    let analyzed = sql(&format!("EXPLAIN ANALYZE {query}"));
    let fetched = |what: &str| -> u32 {
        let counts = analyzed.split(what).skip(1).map(|rest| {
            let digits = rest.trim_start_matches('=').chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse::<u32>().unwrap()
        });
        counts.sum()
    };
    assert!(fetched("local_partitions") > 1, "{analyzed}");
    assert_eq!(fetched("remote_partitions"), 0, "{analyzed}");

    executors.pop().unwrap().kill();
    executors.push(start());
    assert!(sql(query).contains(answer));
    executors.pop().unwrap().stop();
    assert!(sql(query).contains(answer));

    std::fs::create_dir_all(work.join("shuffles/left/job")).unwrap();
    executors.pop().unwrap().kill();
    assert!(work.join("shuffles/left/job").exists());
    executors.push(start());
    wait_until(|| !work.join("shuffles/left").exists(), "the next executor deletes nothing");
    assert!(sql(query).contains(answer));
}

#[test]
fn an_executor_whose_port_is_taken_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--port", "--task-port"] {
        let mut command = nightshift(folder.path());
        command.args(["executor", "--scheduler", &cluster.address, option, &port]);
        let output = command.output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains(&port), "{option}: {said}");
    }
}

#[test]
fn up_starts_a_cluster_that_runs_queries() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = nightshift(folder.path());
    let (mut up, line) =
        Process::start(command.args(["up", "--port", &port.to_string(), "--flight-port", "0"]));
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
    wait_until(free, "the scheduler outlives `up`");
}
