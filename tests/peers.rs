//! The same training by Nightshift and by a peer, on the same data.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use support::*;

/// Features of MovieLens in a new warehouse: the pipeline's own files, without its models.
fn features() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = movielens();
    let text = |file: &str| std::fs::read_to_string(source.join(file)).unwrap();
    let data = source.join("data");
    let raw = text("raw.sql").replace("'data/", &format!("'{}/", data.display()));
    let settings = format!("locations = ['{}']", data.display());
    std::fs::write(folder.path().join("nightshift.toml"), settings).unwrap();
    let (ratings, links) = (text("ratings.sql"), text("movie_links.sql"));
    let files = [("raw.sql", &*raw), ("ratings.sql", &*ratings), ("links.sql", &*links)];
    pipeline(folder.path(), "features", &files);
    succeed(nightshift(folder.path()).args(["run", "features"]));
    folder
}

fn sql(folder: &Path, statements: &str) {
    succeed(nightshift(folder).args(["sql", "-c", statements]));
}

/// Compares, and shows the figures in the test's output.
fn compare(script: &str, folder: &Path) {
    println!("{}", python(script, &[&folder.join("warehouse")]));
}

#[test]
fn als_agrees_with_implicit() {
    let folder = features();
    sql(
        folder.path(),
        "CREATE MODEL peer.als OPTIONS (model_type = 'matrix_factorization', \
         feedback_type = 'implicit', item_col = 'movie_id', num_factors = 32, l2_reg = 5, \
         wals_alpha = 2, max_iterations = 8, early_stop = false, seed = 7) \
         AS SELECT user_id, movie_id, rating FROM features.ratings WHERE split = 'train'",
    );
    compare("compare_implicit.py", folder.path());
}

#[test]
fn explicit_als_agrees_with_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, bias: bool| {
        format!(
            "CREATE MODEL {name} OPTIONS (model_type = 'matrix_factorization', num_factors = 3, \
             bias = {bias}, l2_reg = 0.3, max_iterations = 6, early_stop = false, seed = 5) \
             AS SELECT user_id, item_id, rating FROM small.ratings"
        )
    };
    let ratings = "CREATE TABLE small.ratings AS \
        SELECT u.n AS user_id, i.n AS item_id, CAST(1 + (u.n * 7 + i.n * 5 + u.n * i.n) % 5 AS DOUBLE) AS rating \
        FROM (SELECT unnest(generate_series(1, 20)) AS n) AS u \
        CROSS JOIN (SELECT unnest(generate_series(1, 15)) AS n) AS i \
        WHERE (u.n * 3 + i.n * 11) % 4 <> 0";
    sql(
        folder.path(),
        &[ratings, &model("peer.plain", false), &model("peer.biased", true)].join(";"),
    );
    compare("compare_explicit.py", folder.path());
}

#[test]
fn pagerank_agrees_with_networkx() {
    let folder = features();
    let graphs = [
        ("dangling", "('a', 'b', 1.0), ('a', 'c', 1.0), ('d', 'c', 2.0)"),
        ("loops", "('a', 'a', 1.0), ('a', 'b', 1.0), ('b', 'b', 3.0), ('b', 'a', 1.0)"),
        (
            "components",
            "('a', 'b', 1.0), ('b', 'a', 1.0), ('c', 'd', 1.0), ('d', 'e', 1.0), ('e', 'c', 1.0)",
        ),
        ("single", "('a', 'a', 1.0)"),
        (
            "parallel",
            "('a', 'b', 1.0), ('a', 'b', 2.5), ('a', 'c', 1.0), ('b', 'a', 0.5), ('c', 'a', 0.0)",
        ),
        (
            "personal",
            "('a', 'b', 1.0), ('b', 'c', 1.0), ('c', 'a', 1.0), ('c', 'd', 1.0), ('e', 'a', 1.0)",
        ),
    ];
    let mut statements = vec![
        "CREATE TABLE graphs.teleport AS SELECT * FROM (VALUES ('a', 1.0), ('d', 3.0)) AS v(node, weight)"
            .to_string(),
    ];
    let model = |name: &str, edges: &str, more: &str| {
        format!(
            "CREATE MODEL ranked.{name} OPTIONS (model_type = 'pagerank', weight_col = 'weight', \
             tolerance = 1e-12, max_iterations = 1000{more}) AS SELECT source, target, weight FROM {edges}"
        )
    };
    statements.push(model("movies", "features.movie_links", ""));
    for (name, edges) in graphs {
        statements.push(format!(
            "CREATE TABLE graphs.{name} AS SELECT * FROM (VALUES {edges}) AS v(source, target, weight)"
        ));
        let more = if name == "personal" { ", teleport_table = 'graphs.teleport'" } else { "" };
        statements.push(model(name, &format!("graphs.{name}"), more));
    }
    sql(folder.path(), &statements.join(";"));
    compare("compare_networkx.py", folder.path());
}
