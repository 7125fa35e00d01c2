//! The main job on an embedded cluster: what it makes, what others read of it, what is published.

mod support;

use std::process::Stdio;
use support::*;

#[test]
fn retrains_a_recommender_and_another_program_reads_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = nightshift(folder.path());
        let out = succeed(command.arg("run").arg(movielens()).args(["--format", "json"]));
        let steps: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        assert!(steps.iter().any(|step| step["step"] == "recs.top_items" && step["rows"] == 9430));
    };
    run();
    let top = "SELECT user_id, rank, movie_id, title, score FROM recs.top_items \
               ORDER BY user_id, rank";
    let rows = query(folder.path(), top);
    assert_eq!(rows.len(), 9430);
    std::fs::write(folder.path().join("rows.json"), serde_json::to_string(&rows).unwrap()).unwrap();
    let table = folder.path().join("warehouse/recs/top_items");
    python("read_table.py", &[&table, &folder.path().join("rows.json")]);

    let metrics = query(folder.path(), "SELECT * FROM recs.metrics");
    let ndcg = metrics.iter().find(|row| row["metric"] == "ndcg@20").unwrap();
    assert!(ndcg["difference"].as_f64().unwrap() >= 0.6, "{ndcg}");
    assert_eq!(metrics.len(), 7);

    // The second run publishes the second version, from the same data the same to the last bit.
    let factors = "SELECT * FROM recs.als.user_factors ORDER BY user_id";
    let first = query(folder.path(), factors);
    run();
    assert_eq!(query(folder.path(), factors), first);
    let registry = folder.path().join("warehouse/system/registry");
    let versions = python("model_versions.py", &[&registry]);
    for model in ["graph.movie_rank", "recs.als", "recs.als_explicit"] {
        assert!(versions.contains(&format!("{model} [1, 2]")), "{versions}");
    }
    // Nothing is left of the runs but what they have published.
    let left = contents(&folder.path().join("warehouse/_nightshift"));
    assert!(left.is_empty(), "{:?}", left.iter().map(|file| &file.0).collect::<Vec<_>>());
}

const GENERATION: &str = "CREATE OR REPLACE TABLE x.a AS SELECT 'GEN' AS generation";
const DERIVED: &str = "CREATE OR REPLACE TABLE x.b AS SELECT generation FROM x.a";
const MODEL: &str = "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'pagerank') \
                     AS SELECT generation AS source, generation AS target FROM x.a";

fn generation(number: usize) -> String {
    GENERATION.replace("GEN", &format!("g{number}"))
}

#[test]
fn a_failed_check_publishes_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = generation(1);
    let files = [("a.sql", first.as_str()), ("b.sql", DERIVED), ("m.sql", MODEL)];
    pipeline(folder.path(), "p", &files);
    succeed(nightshift(folder.path()).args(["run", "p"]));
    let before = contents(&folder.path().join("warehouse"));

    let second = generation(2);
    let check = "SELECT generation FROM x.b WHERE generation = 'g2'";
    pipeline(folder.path(), "p", &[("a.sql", &second), ("checks/wrong.sql", check)]);
    let output = nightshift(folder.path()).args(["run", "p"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let printed = text(&output);
    assert!(printed.contains("check checks/wrong.sql found 1 wrong rows"), "{printed}");
    assert!(printed.contains("| g2"), "{printed}");
    assert_eq!(contents(&folder.path().join("warehouse")), before);
}

#[test]
fn readers_never_see_two_versions_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let publish = |number| {
        let text = generation(number);
        let files = [("a.sql", text.as_str()), ("b.sql", DERIVED), ("m.sql", MODEL)];
        pipeline(folder.path(), "p", &files);
        let mut command = nightshift(folder.path());
        command.args(["run", "p"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    assert!(publish(0).wait().unwrap().success());
    let mut seen = Vec::new();
    let mut reads = 0;
    for number in 1..=4 {
        let mut run = publish(number);
        loop {
            let done = run.try_wait().unwrap();
            let rows = query(
                folder.path(),
                "SELECT a.generation AS a, b.generation AS b, m.node AS m \
                 FROM x.a AS a CROSS JOIN x.b AS b CROSS JOIN x.m.ranks AS m",
            );
            assert_eq!(rows.len(), 1);
            let row = &rows[0];
            assert!(row["a"] == row["b"] && row["b"] == row["m"], "{row}");
            seen.push(row["a"].as_str().unwrap().to_string());
            reads += 1;
            if let Some(status) = done {
                assert!(status.success());
                break;
            }
        }
    }
    seen.dedup();
    assert_eq!(seen, ["g0", "g1", "g2", "g3", "g4"]);
    assert!(reads > 8, "{reads} reads are too few to have seen anything");
}
