//! The main job on an embedded cluster: what it makes, what others read of it, what is published.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::process::Stdio;
use support::*;

#[test]
fn retrains_a_recommender_and_another_program_reads_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = nightshift(folder.path());
        let out = succeed(command.args(["run", "--all", "--format", "json"]).arg(movielens()));
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
    let published = "SELECT name, array_agg(version ORDER BY version) AS versions, count(DISTINCT run) AS runs \
                     FROM system.registry WHERE kind = 'model' GROUP BY name ORDER BY name";
    let models = query(folder.path(), published);
    let names: Vec<_> = models.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["graph.movie_rank", "recs.als", "recs.als_explicit"]);
    for model in models {
        assert_eq!((&model["versions"], &model["runs"]), (&[1, 2].into(), &2.into()), "{model}");
    }
    // Nothing is left of the runs but what they have published.
    let left = data(&folder.path().join("warehouse"));
    let left: Vec<_> =
        left.into_iter().filter(|file| file.0.to_string_lossy().contains("_nightshift")).collect();
    assert!(left.is_empty(), "{:?}", left.iter().map(|file| &file.0).collect::<Vec<_>>());
}

#[test]
fn ratings_in_grouplens_own_layout_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("ml-100k");
    std::fs::create_dir(&theirs).unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(theirs.join(name), text).unwrap();
    write("u.data", b"196\t242\t3\t881250949\n");
    // Latin-1, and a title whose year is missing.
    write("u.item", b"1|Caf\xe9 (1995)|01-Jan-1995||http://x|0|0|0|1|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n2|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n");
    write("u.user", b"1|24|M|technician|85711\n");
    std::fs::copy(movielens().join("fetch"), folder.path().join("fetch")).unwrap();
    succeed(std::process::Command::new(folder.path().join("fetch")).arg(&theirs));
    let read = |name: &str| std::fs::read_to_string(folder.path().join("data").join(name)).unwrap();
    let header = |text: &str| text.lines().next().unwrap().to_string();
    assert_eq!(read("ratings.tsv").lines().nth(1), Some("196\t242\t3\t881250949"));
    assert_eq!(
        read("movies.tsv"),
        "movie_id\ttitle\tyear\tgenres\n1\tCaf\u{e9}\t1995\tAnimation Comedy\n2\tunknown\t\tunknown\n"
    );
    // The other source has the same columns.
    for name in ["ratings.tsv", "movies.tsv", "users.tsv"] {
        let ours = std::fs::read_to_string(movielens().join("data").join(name)).unwrap();
        assert_eq!(header(&read(name)), header(&ours));
    }
}

#[test]
fn files_are_read_in_place_and_folders_are_named_as_people_do() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner dir");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(folder.path().join("n.csv"), "n\n1\n2\n").unwrap();
    std::fs::write(inner.join("nightshift.toml"), "locations = ['..']").unwrap();
    let statements = "CREATE EXTERNAL TABLE raw.n (n BIGINT) STORED AS CSV LOCATION '../n.csv' \
                      OPTIONS ('format.has_header' 'true'); CREATE TABLE x.n AS SELECT n FROM raw.n; \
                      SELECT sum(a.n) AS sum FROM raw.n AS a JOIN x.n AS b ON a.n = b.n";
    let mut command = nightshift(&inner);
    command.args(["sql", "--warehouse", "../ware house", "--format", "csv", "-c", statements]);
    assert!(succeed(&mut command).ends_with("sum\n3\n"));
    assert!(folder.path().join("ware house/x/n/_delta_log").exists());
    // The environment wins over the file, and the flag over both.
    std::fs::write(inner.join("nightshift.toml"), "warehouse = 'empty'").unwrap();
    let read = |flag: Option<&str>| {
        let mut command = nightshift(&inner);
        command.env("NIGHTSHIFT_WAREHOUSE", "../ware house").args([
            "sql",
            "-c",
            "SELECT * FROM x.n",
        ]);
        command.args(flag.map(|flag| ["--warehouse", flag]).iter().flatten());
        command.output().unwrap().status.success()
    };
    assert!(read(None) && !read(Some("empty")));
}

#[test]
fn a_failed_write_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let good: String = (0..200).map(|row| format!("{row}\n")).collect();
    let raw = "CREATE EXTERNAL TABLE raw.n (n BIGINT) STORED AS CSV LOCATION 'n' \
               OPTIONS ('format.has_header' 'false')";
    let table = "CREATE TABLE x.n AS SELECT n FROM raw.n";
    pipeline(folder.path(), "p", &[("raw.sql", raw), ("n.sql", table)]);
    std::fs::create_dir(folder.path().join("p/n")).unwrap();
    // Each file is a partition; all but one of them are written.
    for file in 0..8 {
        let text = if file == 5 { "1\ntwo\n".to_string() } else { good.clone() };
        std::fs::write(folder.path().join(format!("p/n/{file}.csv")), text).unwrap();
    }
    let output = nightshift(folder.path()).args(["run", "p"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("5.csv: ") && said.contains("'two'") && said.contains("column n"),
        "{said}"
    );
    let left = data(&folder.path().join("warehouse"));
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
fn a_failed_check_publishes_nothing_and_keeps_what_is_done_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let first = generation(1);
    let files = [("a.sql", first.as_str()), ("b.sql", DERIVED), ("m.sql", MODEL)];
    pipeline(folder.path(), "p", &files);
    succeed(nightshift(folder.path()).args(["run", "p"]));
    let before = data(&folder.path().join("warehouse"));

    let second = generation(2);
    let check = "SELECT generation FROM x.b WHERE generation = 'g2'";
    pipeline(folder.path(), "p", &[("a.sql", &second), ("checks/wrong.sql", check)]);
    let mut command = nightshift(folder.path());
    command.args(["run", "p"]).env("NIGHTSHIFT_LOG", "audit=info");
    let output = command.env("USER", "ada").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let printed = text(&output);
    let audited = printed.lines().find(|line| line.contains("audit")).unwrap();
    for part in
        ["who=\"ada\"", "via=pipeline", "action=\"RUN\"", "object=\"p\"", "outcome=\"failed\""]
    {
        assert!(audited.contains(part), "{part}: {audited}");
    }
    assert!(printed.contains("check checks/wrong.sql found 1 wrong row,"), "{printed}");
    assert!(printed.contains("| g2"), "{printed}");
    let published = |folder: &std::path::Path| {
        let mut all = data(folder);
        all.retain(|(path, _)| !before.iter().any(|(other, _)| other == path));
        all.iter().all(|(path, _)| {
            let path = path.to_string_lossy();
            // Of the run that has failed, and in no log.
            path.contains("_nightshift/runs/") || path.ends_with(".parquet")
        })
    };
    let now = data(&folder.path().join("warehouse"));
    assert!(before.iter().all(|file| now.contains(file)));
    assert!(published(&folder.path().join("warehouse")));
    let generations = query(folder.path(), "SELECT DISTINCT generation FROM x.b");
    assert_eq!(generations.len(), 1);
    assert_eq!(generations[0]["generation"], "g1");
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
    let read = || {
        let rows = query(
            folder.path(),
            "SELECT a.generation AS a, b.generation AS b, m.node AS m \
             FROM x.a AS a CROSS JOIN x.b AS b CROSS JOIN x.m.ranks AS m",
        );
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert!(row["a"] == row["b"] && row["b"] == row["m"], "{row}");
        row["a"].as_str().unwrap().to_string()
    };
    assert!(publish(0).wait().unwrap().success());
    let mut seen = vec![read()];
    for number in 1..=4 {
        let mut run = publish(number);
        loop {
            let done = run.try_wait().unwrap();
            seen.push(read());
            if let Some(status) = done {
                assert!(status.success());
                break;
            }
        }
    }
    let reads = seen.len();
    seen.dedup();
    assert_eq!(seen, ["g0", "g1", "g2", "g3", "g4"]);
    // One is before all runs, and one after each of them.
    assert!(reads > 5, "no read was made during a run");
}
