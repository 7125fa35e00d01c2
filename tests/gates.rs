//! Gates: a model that has become worse is kept and not published, as is a table whose columns have become others;
//! promoting and rolling back.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use support::*;

/// Users of ten groups, who like the items of their group; with `shuffled`, whatever comes.
const FILES: [(&str, &str); 4] = [
    (
        "pipeline.toml",
        "name = 'taste'\n[parameters]\nshuffled = false\n\
         [[gate]]\nmodel = 'x.als'\nmeasure = 'ndcg_at_20'\nholdout = 'x.holdout'\nmin_ratio = 0.98\n\
         [[gate]]\nmodel = 'x.als'\nmeasure = 'coverage'\nholdout = 'x.holdout'\nmin = 0.3\n\
         [[gate]]\ntable = 'x.likes'\nmeasure = 'rows'\nmin_ratio = 0.5\nmax_ratio = 2\n",
    ),
    (
        "a.sql",
        "CREATE OR REPLACE TABLE x.likes AS \
         SELECT u.value AS user_id, i.value AS place, \
         CASE WHEN ${shuffled} THEN (u.value * 7919 + i.value * 104729 + u.value * i.value * 31) % 200 \
         ELSE u.value % 10 + 10 * i.value END AS item_id \
         FROM generate_series(0, 299) AS u CROSS JOIN generate_series(0, 19) AS i \
         WHERE (u.value * 13 + i.value * 7) % 3 > 0;\n\
         CREATE OR REPLACE TABLE x.holdout AS SELECT user_id, u_item AS item_id, 1.0 AS weight FROM \
         (SELECT u.value AS user_id, u.value % 10 + 10 * i.value AS u_item \
         FROM generate_series(0, 299) AS u CROSS JOIN generate_series(0, 19) AS i \
         WHERE (u.value * 13 + i.value * 7) % 3 = 0)",
    ),
    (
        "b.sql",
        "CREATE OR REPLACE MODEL x.als OPTIONS (model_type = 'matrix_factorization', \
         feedback_type = 'implicit', user_col = 'user_id', item_col = 'item_id', \
         rating_col = 'weight', num_factors = 12, max_iterations = 8) \
         AS SELECT user_id, item_id, 1.0 AS weight FROM x.likes",
    ),
    ("c.sql", "CREATE OR REPLACE TABLE x.top AS SELECT * FROM ml_recommend('x.als', 3)"),
];

fn models(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["models"], arguments, &["--format", "json"]].concat();
    serde_json::from_str(&succeed(nightshift(folder).args(arguments))).unwrap()
}

fn states(folder: &Path) -> Vec<(u64, String)> {
    let versions = models(folder, &["versions", "x.als"]);
    let state = |row: &Value| {
        (row["version"].as_u64().unwrap(), row["state"].as_str().unwrap().to_string())
    };
    versions.iter().map(state).collect()
}

fn state(version: u64, state: &str) -> (u64, String) {
    (version, state.to_string())
}

/// Everything that readers see, of the model and of what was made with it.
fn seen(folder: &Path) -> Vec<Vec<Value>> {
    let all = [
        "SELECT * FROM x.als.user_factors ORDER BY user_id",
        "SELECT * FROM x.als.item_factors ORDER BY item_id",
        "SELECT * FROM x.likes ORDER BY user_id, place",
        "SELECT * FROM x.top ORDER BY user_id, rank",
    ];
    all.iter().map(|sql| query(folder, sql)).collect()
}

#[test]
fn a_model_that_has_become_worse_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let taste = pipeline(here, "taste", &FILES);
    // Nothing is published yet that it could be compared with.
    succeed(nightshift(here).arg("run").arg(&taste));
    assert_eq!(states(here), [state(1, "published")]);
    let before = seen(here);

    let held =
        nightshift(here).arg("run").arg(&taste).args(["-p", "shuffled=true"]).output().unwrap();
    assert_eq!(held.status.code(), Some(4), "{}", text(&held));
    let said = text(&held);
    assert!(said.contains("ndcg_at_20 of x.als is 0."), "{said}");
    assert!(
        said.contains("min_ratio is 0.98") && said.contains("x.als version 2 can be looked at"),
        "{said}"
    );
    assert_eq!(seen(here), before);
    assert_eq!(states(here), [state(1, "published"), state(2, "held")]);
    let run: Vec<Value> =
        serde_json::from_str(&succeed(nightshift(here).args(["runs", "--format", "json"])))
            .unwrap();
    assert_eq!(run[0]["status"], "held");
    let show = succeed(nightshift(here).args(["runs", "show", "last"]));
    assert!(
        show.contains("x.als ndcg_at_20 0.") && show.contains("HELD") && show.contains("passed"),
        "{show}"
    );
    // Programs read it as rows, besides those of the steps.
    let last = "SELECT name, kind, column_name, measure, measured, published, outcome, reason \
                FROM system.run_gates WHERE run = (SELECT max(run) FROM system.runs) ORDER BY gate";
    let found = query(here, last);
    let about = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_string();
        [text("name"), text("kind"), text("measure")].join(" ")
    };
    let expected =
        ["x.als model ndcg_at_20", "x.als model coverage", "x.likes table rows"].map(String::from);
    assert_eq!(found.iter().map(about).collect::<Vec<_>>(), expected);
    let (worse, rows) = (&found[0], &found[2]);
    assert_eq!((&worse["outcome"], &rows["outcome"]), (&"held".into(), &"passed".into()));
    assert!(worse["measured"].as_f64().unwrap() < worse["published"].as_f64().unwrap(), "{worse}");
    assert!(worse["reason"].as_str().unwrap().contains("min_ratio is 0.98"), "{worse}");
    assert_eq!((&rows["measured"], &rows["reason"]), (&rows["published"], &Value::Null));
    assert!(found.iter().all(|row| row["column_name"].is_null()), "{found:?}");
    let show = |more: &[&str]| -> Vec<Value> {
        let arguments = [&["runs", "show", "last", "--format", "json"], more].concat();
        serde_json::from_str(&succeed(nightshift(here).args(arguments))).unwrap()
    };
    let shown = show(&["--gates"]);
    assert_eq!(shown.iter().map(about).collect::<Vec<_>>(), expected);
    assert_eq!((&shown[0]["run"], &shown[0]["pipeline"]), (&run[0]["run"], &"taste".into()));
    assert_eq!(show(&[])[0]["name"], "x.likes");
    let table = succeed(nightshift(here).args(["runs", "show", "last", "--gates"]));
    assert!(table.contains("ndcg_at_20") && !table.contains("taste"), "{table}");
    let first = "SELECT count(*) AS n FROM system.run_gates WHERE published IS NULL";
    assert_eq!(query(here, first)[0]["n"], 3);
    let because = "SELECT held_by FROM system.model_versions WHERE held";
    assert!(query(here, because)[0]["held_by"].as_str().unwrap().contains("ndcg_at_20"));
    let different = models(here, &["diff", "x.als", "1", "2"]);
    assert!(
        different.iter().any(|row| row["of"] == "metric" && row["name"] == "loss"),
        "{different:?}"
    );
    assert!(different.iter().all(|row| row["name"] != ""), "{different:?}");

    // The same data as before gives what is published, which passes.
    succeed(nightshift(here).args(["run", "--all"]).arg(&taste));
    assert_eq!(states(here), [state(1, "earlier"), state(2, "held"), state(3, "published")]);
    assert_eq!(seen(here), before);
}

#[test]
fn versions_are_promoted_and_rolled_back_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let taste = pipeline(here, "taste", &FILES);
    succeed(nightshift(here).arg("run").arg(&taste));
    nightshift(here).arg("run").arg(&taste).args(["-p", "shuffled=true"]).output().unwrap();
    let sum = "SELECT (SELECT sum(factors[1]) FROM x.als.user_factors) AS users, \
               (SELECT sum(factors[1]) FROM x.als.item_factors) AS items";
    let both = |row: &Value| (row["users"].to_string(), row["items"].to_string());
    let good = both(&query(here, sum)[0]);
    succeed(nightshift(here).args(["models", "promote", "x.als"]));
    assert_eq!(states(here), [state(1, "earlier"), state(2, "published")]);
    let worse = both(&query(here, sum)[0]);
    assert_ne!(worse, good);

    // A reader in a loop sees the one or the other, and never some of each.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::SeqCst) {
                seen.push(both(&query(here, sum)[0]));
            }
            seen
        });
        for _ in 0..5 {
            succeed(nightshift(here).args(["models", "rollback", "x.als"]));
            succeed(nightshift(here).args(["models", "rollback", "x.als", "--to", "2"]));
        }
        done.store(true, Ordering::SeqCst);
        let seen = reader.join().unwrap();
        assert!(
            !seen.is_empty() && seen.iter().all(|both| *both == good || *both == worse),
            "{seen:?}"
        );
    });
    let wrong = nightshift(here).args(["models", "promote", "x.als"]).output().unwrap();
    assert!(text(&wrong).contains("no version of x.als is held"), "{}", text(&wrong));
    let wrong =
        nightshift(here).args(["models", "rollback", "x.als", "--to", "9"]).output().unwrap();
    assert!(text(&wrong).contains("x.als has no version 9"), "{}", text(&wrong));
}

/// Ratings whose rows and values are others with each `salt`, and whose distributions are others with the rest.
const RATINGS: [(&str, &str); 2] = [
    (
        "pipeline.toml",
        "name = 'ratings'\n[parameters]\nsalt = 0\nshift = 0\nkinds = 7\nnulls = 10\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'rating'\nmeasure = 'drift'\nmax = 0.25\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'rating'\nmeasure = 'mean'\nmin = 1\nmin_ratio = 0.9\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'rating'\nmeasure = 'maximum'\nmax = 5\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'Kind'\nmeasure = 'drift'\nmax = 0.25\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'Kind'\nmeasure = 'nulls'\nmax = 0.3\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'Kind'\nmeasure = 'distinct'\nmin = 2\n\
         [[gate]]\ntable = 'x.ratings'\ncolumn = 'day'\nmeasure = 'drift'\nmax = 0.25\n",
    ),
    (
        "a.sql",
        "CREATE OR REPLACE TABLE x.ratings AS SELECT value + ${salt} AS id, \
         least(1 + (value * 3 + ${salt}) % 5 + ${shift}, 5) AS rating, \
         CASE WHEN (value + ${salt}) % ${nulls} > 0 THEN 'it''s ' || (value % ${kinds}) END AS \"Kind\", \
         CAST('2026-01-01' AS DATE) + CAST((value + ${salt}) % 100 AS INT) AS day \
         FROM generate_series(0, 6999) AS s(value)",
    ),
];

#[test]
fn a_table_whose_columns_have_become_others_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let ratings = pipeline(here, "ratings", &RATINGS);
    let run = |parameters: &[&str]| {
        let mut command = nightshift(here);
        command.arg("run").arg(&ratings);
        for parameter in parameters {
            command.args(["-p", parameter]);
        }
        command.output().unwrap()
    };
    let shown = || succeed(nightshift(here).args(["runs", "show", "last"]));
    let rows = || query(here, "SELECT * FROM x.ratings ORDER BY id");
    // Nothing is published yet that anything could have drifted from.
    let first = run(&[]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first));
    let show = shown();
    assert!(show.contains("x.ratings.rating drift - (published -) not measured"), "{show}");
    assert!(show.contains("x.ratings.rating mean 3.000000 (published -) passed"), "{show}");
    assert!(show.contains("x.ratings.Kind nulls 0.100000 (published -) passed"), "{show}");
    assert!(show.contains("x.ratings.Kind distinct 7.000000 (published -) passed"), "{show}");

    let of_kinds = "SELECT name || ' ' || kind || ' ' || measure || ' ' || outcome AS found \
                    FROM system.run_gates WHERE column_name = 'Kind' ORDER BY gate";
    let found = query(here, of_kinds);
    let found: Vec<_> = found.iter().map(|row| row["found"].as_str().unwrap()).collect();
    let expected = ["drift not measured", "nulls passed", "distinct passed"];
    assert_eq!(found, expected.map(|found| format!("x.ratings table {found}")));

    // Other rows of the same distributions.
    let same = run(&["salt=1"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    let show = shown();
    assert!(show.contains("x.ratings.rating drift 0.000000 (published -) passed"), "{show}");
    assert!(show.contains("x.ratings.rating mean 3.000000 (published 3.000000) passed"), "{show}");
    assert!(!show.contains("HELD"), "{show}");

    let before = rows();
    for (parameter, said) in [
        // The mean has only become greater, so that no other gate says anything.
        ("shift=1", "drift of x.ratings.rating is "),
        ("kinds=3", "drift of x.ratings.Kind is "),
        ("nulls=3", "nulls of x.ratings.Kind is 0.333"),
        ("kinds=1", "distinct of x.ratings.Kind is 1, min is 2"),
        ("shift=-4", "mean of x.ratings.rating is -1, min is 1"),
    ] {
        let held = run(&["salt=2", parameter]);
        assert_eq!(held.status.code(), Some(4), "{parameter}: {}", text(&held));
        assert!(text(&held).contains(said), "{parameter}: {}", text(&held));
        assert_eq!(rows(), before, "{parameter}");
    }
    let held = run(&["salt=2", "shift=1"]);
    assert!(text(&held).contains(", max is 0.25"), "{}", text(&held));
    let show = shown();
    let mut lines = show.lines().filter(|line| line.contains("x.ratings.rating drift "));
    assert!(lines.all(|line| line.ends_with("(published -) HELD")), "{show}");
    assert_eq!(show.matches("HELD").count(), 1, "{show}");
}
