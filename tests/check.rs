//! `nightshift check`: everything that is wrong in a pipeline, at once, and nothing is run.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::path::Path;
use support::*;
use tempfile::TempDir;

const PEOPLE: &str = "CREATE EXTERNAL TABLE raw.people (id BIGINT, name VARCHAR, born DATE) STORED AS CSV \
                      LOCATION 'people.csv' OPTIONS ('format.has_header' 'true')";
const DATA: &str = "id,name,born\n1,ann,1990-01-01\n2,bob,1991-02-02\n";

/// Checks `folder/p` and returns the exit code, the rows, and what was said besides. Nothing is written.
fn check(folder: &Path) -> (Option<i32>, Vec<Value>, String) {
    let before = contents(folder);
    let output = nightshift(folder).args(["check", "p", "--format", "json"]).output().unwrap();
    assert_eq!(contents(folder), before, "something was written");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    let rows = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), rows, said)
}

/// A folder with a warehouse that has something in it.
fn warehouse(create: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    succeed(nightshift(folder.path()).args(["sql", "-c", create]));
    folder
}

#[test]
fn the_main_job_has_no_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = nightshift(folder.path());
    let output = succeed(command.arg("check").arg(movielens()).args(["--format", "json"]));
    let parts: Vec<Value> = serde_json::from_str(&output).unwrap();
    let place = |name: &str| parts.iter().position(|part| part["makes"] == name).unwrap();
    assert!(place("raw.ratings") < place("features.ratings"));
    assert!(place("features.ratings") < place("recs.als"));
    let last = parts.last().unwrap();
    assert_eq!((&last["file"], &last["line"]), (&"checks/ten_ranks.sql".into(), &2.into()));
    assert!(!folder.path().join("warehouse").exists(), "a check has made a warehouse");
}

/// What later statements read has the columns that it will have, whatever makes it.
#[test]
fn what_is_planned_has_the_columns_that_it_gets() {
    let folder = warehouse("CREATE TABLE x.old AS SELECT 1 AS id, 'a' AS text");
    let files = [
        ("people.csv", DATA),
        ("raw.sql", PEOPLE),
        (
            "a.sql",
            "CREATE OR REPLACE TABLE x.a PARTITIONED BY (year) AS \
             SELECT id, name, CAST(date_part('year', born) AS INT) AS year FROM raw.people;\n\
             CREATE OR REPLACE VIEW x.v AS SELECT upper(name) AS name, year FROM x.a;\n\
             CREATE OR REPLACE TABLE x.declared (id BIGINT, word VARCHAR);\n\
             INSERT INTO x.declared SELECT id, name FROM x.a;\n\
             UPDATE x.declared SET word = upper(word) WHERE id > 0;\n\
             DELETE FROM x.declared WHERE word LIKE 'B%';\n\
             MERGE INTO x.declared AS d USING x.a AS s ON d.id = s.id \
             WHEN MATCHED THEN UPDATE SET word = s.name WHEN NOT MATCHED THEN INSERT (id, word) VALUES (s.id, s.name);\n\
             MERGE INTO x.declared USING x.a AS s ON declared.id = s.id \
             WHEN NOT MATCHED THEN INSERT (id, word) VALUES (s.id, s.name);\n\
             ALTER TABLE x.declared ADD COLUMN more DOUBLE;\n\
             COMMENT ON COLUMN x.declared.more IS 'later';\n\
             OPTIMIZE x.declared ZORDER BY (id);\n\
             INSERT INTO x.declared VALUES (7, 'seven', 0.5)",
        ),
        (
            "models.sql",
            "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'matrix_factorization', \
             user_col = 'who', item_col = 'what', rating_col = 'much', num_factors = 2, max_iterations = 1) \
             AS SELECT name AS who, id AS what, 1.0 AS much FROM x.a;\n\
             CREATE OR REPLACE MODEL x.r OPTIONS (model_type = 'pagerank', source_col = 'a', target_col = 'b', \
             teleport_table = 'x.start', teleport_by = 'topic') AS SELECT 1 AS a, 2 AS b",
        ),
        (
            "start.sql",
            "CREATE OR REPLACE TABLE x.start AS SELECT 1 AS node, 1.0 AS weight, DATE '2026-01-01' AS topic",
        ),
        (
            "z.sql",
            "CREATE OR REPLACE TABLE x.users AS SELECT who, user_index, factors[1] + bias AS f, seen_items[1] AS seen \
             FROM x.m.user_factors;\n\
             CREATE OR REPLACE TABLE x.items AS SELECT what + item_index AS n, factors, bias FROM x.m.item_factors;\n\
             CREATE OR REPLACE TABLE x.losses AS SELECT iteration + 1 AS i, loss FROM x.m.training_info;\n\
             CREATE OR REPLACE TABLE x.best AS SELECT who, what + rank AS n, score FROM ml_recommend('x.m', 3);\n\
             CREATE OR REPLACE TABLE x.folded AS SELECT who, factors FROM ml_fold_in('x.m', \
             (SELECT 'new' AS who, 1 AS what, 1.0 AS much));\n\
             CREATE OR REPLACE TABLE x.ranks AS SELECT node + 1 AS n, rank, date_part('year', topic) AS y FROM x.r.ranks;\n\
             CREATE OR REPLACE TABLE x.errors AS SELECT iteration, change, error_bound FROM x.r.training_info;\n\
             CREATE OR REPLACE TABLE x.from_old AS SELECT old.id + 1 AS id, v.name, d.more FROM x.old \
             JOIN x.v AS v ON v.name = text JOIN x.declared AS d ON d.word = text",
        ),
        ("checks/c.sql", "SELECT * FROM x.from_old WHERE more > 1"),
    ];
    pipeline(folder.path(), "p", &files);
    let (code, parts, said) = check(folder.path());
    assert_eq!(code, Some(0), "{said} {parts:?}");
    assert_eq!(parts.len(), 25, "{parts:?}");
    // It was right.
    succeed(nightshift(folder.path()).args(["run", "p"]));
}

#[test]
fn every_mistake_is_found_in_one_run() {
    let folder = warehouse("CREATE TABLE x.kept AS SELECT 1 AS y");
    let files = [
        ("pipeline.toml", "name = 'many'\nfetsch = 'x'\n"),
        ("people.csv", DATA),
        ("raw.sql", PEOPLE),
        ("missing.sql", "CREATE EXTERNAL TABLE raw.gone STORED AS PARQUET LOCATION 'gone.parquet'"),
        // After a mistake others are found, and what reads x.a is not blamed for it.
        (
            "a.sql",
            "CREATE OR REPLACE TABLE x.a AS SELECT id FROM raw.people;\n\
             CREATE OR REPLACE TABLE x.b AS\nSELECT id, nam FROM raw.people;\n\
             CREATE OR REPLACE TABLE x.c AS SELECT * FROM x.b WHERE id > 'many';\n\
             CREATE OR REPLACE TABLE x.d AS SELEC 1;\n\
             CREATE OR REPLACE TABLE x.e AS SELECT id AS n FROM x.a WHERE id LIKE 'a%';\n\
             CREATE OR REPLACE TABLE x.h AS SELECT n FROM x.d JOIN x.a ON true;\n\
             CREATE OR REPLACE TABLE x.i AS SELECT a.id FROM x.a JOIN raw.people AS p ON a.id = make_array(p.born);\n\
             CREATE OR REPLACE TABLE x.j AS SELECT id FROM x.a WHERE id = $day",
        ),
        ("copy.sql", "\nCREATE OR REPLACE TABLE x.a AS SELECT 1 AS id"),
        ("f.sql", "CREATE OR REPLACE TABLE x.f AS SELECT * FROM x.g"),
        ("g.sql", "CREATE OR REPLACE TABLE x.g AS SELECT * FROM x.f"),
        (
            "models.sql",
            "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'matrix_factorization', num_factor = 3) \
             AS SELECT id AS user_id, id AS item_id, 1.0 AS rating FROM x.a;\n\
             CREATE OR REPLACE MODEL x.n OPTIONS (model_type = 'matrix_factorization') \
             AS SELECT id AS user_id, id AS thing, 1.0 AS rating FROM x.a;\n\
             CREATE OR REPLACE MODEL x.r OPTIONS (model_type = 'pagerank', source_col = 'a', target_col = 'b') \
             AS SELECT 1 AS a, 'x' AS b",
        ),
        (
            "changes.sql",
            "CREATE TABLE x.kept AS SELECT 2 AS y;\n\
             CREATE OR REPLACE TABLE x.t (id BIGINT, word VARCHAR);\n\
             INSERT INTO x.t SELECT id, id AS other FROM x.a;\n\
             UPDATE x.t SET wort = 'a';\n\
             DELETE FROM x.t WHERE idd = 1;\n\
             MERGE INTO x.t USING x.a AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET word = s.missing;\n\
             OPTIMIZE x.t ZORDER BY (nothing);\n\
             DELETE FROM x.t WHERE word",
        ),
        ("checks/a.sql", "SELECT * FROM x.aa"),
        ("checks/b.sql", "CREATE TABLE x.z AS SELECT 1 AS y"),
    ];
    pipeline(folder.path(), "p", &files);
    let (code, mistakes, said) = check(folder.path());
    assert_eq!(code, Some(1), "{said}");
    let expected = [
        ("a.sql", 3, "nam"),
        ("a.sql", 5, "SELEC"),
        ("a.sql", 6, "There isn't a common type to coerce Int64 and Utf8 in LIKE"),
        ("a.sql", 8, "Cannot infer common argument type"),
        ("a.sql", 9, "$day has no value"),
        ("changes.sql", 1, "x.kept exists already"),
        ("changes.sql", 3, "cast it"),
        ("changes.sql", 4, "no column wort"),
        ("changes.sql", 5, "idd"),
        ("changes.sql", 6, "missing"),
        ("changes.sql", 7, "no column nothing"),
        ("changes.sql", 8, "boolean"),
        ("checks/a.sql", 1, "there is no table x.aa"),
        ("checks/b.sql", 1, "a check is a query"),
        ("copy.sql", 2, "both a.sql and copy.sql create x.a"),
        ("f.sql", 1, "f.sql reads x.g of g.sql, g.sql reads x.f of f.sql"),
        ("missing.sql", 1, "no such file"),
        ("models.sql", 1, "num_factor"),
        ("models.sql", 2, "no column item_id"),
        ("models.sql", 3, "cast one to the type of the other"),
        ("pipeline.toml", 2, "unknown field `fetsch`"),
    ];
    let found: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    for (mistake, (file, line, part)) in mistakes.iter().zip(expected) {
        let of_file = mistake["file"].as_str().unwrap().ends_with(&format!("p/{file}"));
        let text = mistake["mistake"].as_str().unwrap();
        assert!(of_file && mistake["line"] == line && text.contains(part), "{mistake}\n{found:#?}");
    }
    assert_eq!(mistakes.len(), expected.len(), "{found:#?}");
    assert!(said.contains("21 mistakes in the pipeline many; nothing was run"), "{said}");
    // To be read, each is a line with its place.
    let output = nightshift(folder.path()).args(["check", "p"]).output().unwrap();
    let lines = text(&output);
    assert!(lines.contains("error: p/copy.sql:2: both a.sql"), "{lines}");
    assert!(lines.contains("error: p/pipeline.toml:2:1: unknown field"), "{lines}");
}

/// What a run would fetch is not said to be missing file by file.
#[test]
fn inputs_that_are_not_there_are_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("raw.sql", PEOPLE),
        ("a.sql", "CREATE TABLE x.a AS SELECT id FROM raw.people"),
        ("b.sql", "CREATE TABLE x.b AS SELECT wrong"),
    ];
    let place = pipeline(folder.path(), "p", &files);
    let set = |text: &str| std::fs::write(place.join("pipeline.toml"), text).unwrap();
    set("inputs = ['people.csv']\nfetch = 'get'");
    let (_, mistakes, said) = check(folder.path());
    assert!(said.contains("2 mistakes"), "{mistakes:?}");
    let text = mistakes[0]["mistake"].as_str().unwrap();
    assert!(text.contains("inputs are missing") && text.contains("p/get"), "{text}");
    assert!(mistakes[1]["file"].as_str().unwrap().ends_with("p/b.sql"), "{mistakes:?}");
    set("inputs = ['people.csv']");
    let (_, mistakes, said) = check(folder.path());
    assert!(said.contains("3 mistakes"), "{mistakes:?}");
    let text = mistakes[0]["mistake"].as_str().unwrap();
    assert!(text.contains("the input people.csv is missing"), "{text}");
}

/// A model that goes on from a published version is compared with it before anything is trained.
#[test]
fn warm_starts_that_can_not_be_are_found() {
    let model = |factors: usize, item: &str, more: &str| {
        format!(
            "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'matrix_factorization', num_factors = {factors}, \
             max_iterations = 1{more}) AS SELECT 1 AS user_id, {item} AS item_id, 1.0 AS rating"
        )
    };
    let folder = warehouse(&model(2, "7", ""));
    for (factors, item, expected) in [
        (2, "7", None),
        (3, "7", Some("num_factors is 3, and 2 in the published version")),
        (2, "'seven'", Some("column item_id is a Int64 in the published version, and a Utf8")),
    ] {
        let statement = model(factors, item, ", warm_start = true");
        pipeline(folder.path(), "p", &[("m.sql", &statement)]);
        let (code, rows, said) = check(folder.path());
        assert_eq!(code, Some(i32::from(expected.is_some())), "{said} {rows:?}");
        let text = rows[0]["mistake"].as_str().unwrap_or_default();
        assert!(text.contains(expected.unwrap_or_default()), "{text}");
    }
}

/// What gates measure is planned over the tables and models that there would be.
#[test]
fn gates_that_can_not_measure_anything_are_found() {
    let folder = warehouse("CREATE TABLE x.old AS SELECT 1 AS id");
    let files = [
        (
            "pipeline.toml",
            "name = 'gated'\n\
             [[gate]]\ntable = 'x.t'\ncolumn = 'nam'\nmeasure = 'drift'\nmax = 0.25\n\
             [[gate]]\ntable = 'x.t'\ncolumn = 'name'\nmeasure = 'mean'\nmin = 0\n\
             [[gate]]\ntable = 'x.t'\ncolumn = 'tags'\nmeasure = 'drift'\nmax = 0.25\n\
             [[gate]]\ntable = 'x.old'\ncolumn = 'idd'\nmeasure = 'minimum'\nmin = 0\n\
             [[gate]]\nmodel = 'x.m'\nholdout = 'x.holdot'\nmeasure = 'rmse'\nmax = 1\n\
             [[gate]]\nmodel = 'x.m'\nholdout = 'x.holdout'\nmeasure = 'ndcg_at_5'\nmin = 0\n\
             [[gate]]\ntable = 'x.t'\ncolumn = 'id'\nmeasure = 'drift'\nmax = 0.25\n\
             [[gate]]\ntable = 'x.t'\ncolumn = 'name'\nmeasure = 'drift'\nmax = 0.25\n\
             [[gate]]\ntable = 'x.t'\ncolumn = 'tags'\nmeasure = 'distinct'\nmax = 9\n\
             [[gate]]\nmodel = 'x.m'\nholdout = 'x.holdout'\nmeasure = 'rmse'\nmax = 1\n\
             [[gate]]\ntable = 'x.broken'\ncolumn = 'id'\nmeasure = 'nulls'\nmax = 0\n\
             [[gate]]\ntable = 'x.later'\ncolumn = 'id'\nmeasure = 'nulls'\nmax = 0\n",
        ),
        (
            "a.sql",
            "CREATE OR REPLACE TABLE x.t AS SELECT 1 AS id, 'a' AS name, make_array(1, 2) AS tags;\n\
             CREATE OR REPLACE TABLE x.broken AS SELECT wrong AS id;\n\
             CREATE OR REPLACE TABLE x.holdout AS SELECT 1 AS user_id, 2 AS item_id, 1.0 AS rating;\n\
             CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'matrix_factorization', num_factors = 2, \
             max_iterations = 1) AS SELECT user_id, item_id, rating FROM x.holdout",
        ),
    ];
    pipeline(folder.path(), "p", &files);
    let (code, mistakes, said) = check(folder.path());
    assert_eq!(code, Some(1), "{said}");
    let expected = [
        ("a.sql", 2, 44, "wrong"),
        ("pipeline.toml", 4, 10, "x.t has no column nam; did you mean name?"),
        ("pipeline.toml", 9, 10, "x.t.name can't be measured: it is VARCHAR, not a number"),
        ("pipeline.toml", 14, 10, "can't be measured: it is BIGINT[], and only numbers"),
        ("pipeline.toml", 19, 10, "the pipeline makes no x.old"),
        ("pipeline.toml", 25, 11, "there is no table x.holdot; did you mean x.holdout?"),
        ("pipeline.toml", 30, 11, "ndcg_at_k"),
        ("pipeline.toml", 59, 10, "the pipeline makes no x.later"),
    ];
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for (mistake, (file, line, column, part)) in mistakes.iter().zip(expected) {
        let place = (mistake["line"].as_u64(), mistake["column"].as_u64());
        let of_file = mistake["file"].as_str().unwrap().ends_with(&format!("p/{file}"));
        let text = mistake["mistake"].as_str().unwrap();
        let expected = (Some(line), Some(column));
        assert!(of_file && place == expected && text.contains(part), "{mistake}");
    }
}

/// A parameter that has no value is told of where it is used, and not where it is declared.
#[test]
fn parameters_without_a_value_are_found_where_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[parameters]\nsince = { type = 'date' }\nunused = { type = 'text' }\n";
    let query =
        "CREATE OR REPLACE TABLE x.a AS -- ${since}\nSELECT DATE '2026-01-01' > ${since} AS late";
    let files = [
        ("pipeline.toml", settings),
        ("a.sql", query),
        ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT ${since} AS since"),
        ("checks/k.sql", "-- severty: warn\nSELECT * FROM x.a WHERE late"),
    ];
    pipeline(folder.path(), "p", &files);
    let (code, mistakes, said) = check(folder.path());
    assert_eq!(code, Some(1), "{said}");
    let expected = [
        ("a.sql", 2, Some(28), "parameter since: it has no default"),
        ("checks/k.sql", 1, None, "there is no `-- severty:`; did you mean severity?"),
        ("pipeline.toml", 1, None, "parameter unused: it has no default"),
    ];
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for (mistake, (file, line, column, part)) in mistakes.iter().zip(expected) {
        let place = (mistake["line"].as_u64(), mistake["column"].as_u64());
        let of_file = mistake["file"].as_str().unwrap().ends_with(&format!("p/{file}"));
        let text = mistake["mistake"].as_str().unwrap();
        assert!(of_file && place == (Some(line), column) && text.contains(part), "{mistake}");
    }
}

/// Mistakes of all kinds in a copy of the main job: each is said with its file and line, in one run.
#[test]
fn mistakes_of_settings_and_statements_are_found_together() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("p");
    for (path, bytes) in contents(&movielens()) {
        let path = copy.join(path.strip_prefix(movielens()).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let edit = |file: &str, change: &dyn Fn(String) -> String| {
        let text = std::fs::read_to_string(copy.join(file)).unwrap_or_default();
        std::fs::write(copy.join(file), change(text)).unwrap();
    };
    let write = |file: &str, text: &str| edit(file, &|_| text.to_string());
    edit("ratings.sql", &|text| {
        text.replacen("    rating,\n    to_timestamp", "    ratin,\n    to_timestamp", 1)
    });
    write(
        "types.sql",
        "CREATE OR REPLACE TABLE x.t AS\nSELECT * FROM raw.movies WHERE movie_id = make_array(title)",
    );
    write("one.sql", "CREATE OR REPLACE TABLE x.one AS SELECT * FROM x.two");
    write("two.sql", "CREATE OR REPLACE TABLE x.two AS SELECT * FROM x.one");
    write("least.sql", "CREATE OR REPLACE TABLE x.least AS\nSELECT ${least} AS least");
    write(
        "option.sql",
        "CREATE OR REPLACE MODEL x.m OPTIONS (model_type = 'pagerank', dampin = 0.9) AS \
         SELECT movie_id AS source, movie_id AS target FROM raw.movies",
    );
    write("twice.sql", "CREATE OR REPLACE TABLE features.ratings AS SELECT 1 AS y");
    write(
        "gone.sql",
        "CREATE EXTERNAL TABLE raw.gone STORED AS PARQUET LOCATION 'data/gone.parquet'",
    );
    let settings = "\n[schedule]\ncron = '0 25 * * *'\ntime_zone = 'Europe/Berln'\n\
                    [[gate]]\nmodel = 'recs.als'\nmeasure = 'ndgc'\nmin = 0.1\n";
    edit("pipeline.toml", &|text| text + settings);
    let lines = std::fs::read_to_string(copy.join("pipeline.toml")).unwrap().lines().count();
    let (code, found, said) = check(folder.path());
    assert_eq!(code, Some(1), "{said}");
    let cron = format!("pipeline.toml:{}", lines - 5);
    let zone = format!("pipeline.toml:{}", lines - 4);
    let gate = format!("pipeline.toml:{}", lines - 1);
    for (place, part) in [
        ("ratings.sql:23", "ratin"),
        ("types.sql:1", "comparison"),
        ("one.sql:1", "wait for each other"),
        ("least.sql:2", "there is no parameter least"),
        ("option.sql:1", "did you mean damping"),
        ("twice.sql:1", "create features.ratings"),
        ("gone.sql:1", "no such file"),
        (cron.as_str(), "no cron expression"),
        (zone.as_str(), "did you mean Europe/Berlin"),
        (gate.as_str(), "there is no measure 'ndgc'"),
    ] {
        let (file, line) = place.split_once(':').unwrap();
        let is_it = |row: &&Value| {
            row["file"].as_str().is_some_and(|name| name.ends_with(file))
                && row["line"].as_u64() == line.parse().ok()
                && row["mistake"].as_str().unwrap().contains(part)
        };
        assert!(found.iter().any(|row| is_it(&row)), "{place}: {part} in {found:#?}");
    }
    // What has no value is no mistake of another kind as well.
    let of_least =
        |row: &&Value| row["file"].as_str().is_some_and(|name| name.ends_with("least.sql"));
    assert_eq!(found.iter().filter(of_least).count(), 1, "{found:#?}");
}
