//! `nightshift sql`: results in every format, parameters, exit codes, and the shell on a terminal.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::*;

/// Takes longer than a test may take.
const ENDLESS: &str = "SELECT sum((a.n * 31 + b.n * 17) % 1009) AS total \
                       FROM (SELECT unnest(generate_series(1, 300000)) AS n) AS a \
                       CROSS JOIN (SELECT unnest(generate_series(1, 300000)) AS n) AS b";

const TABLE: &str = "CREATE TABLE shop.orders AS SELECT * FROM (VALUES \
                     (1, 'first', DATE '2026-01-01', 0.5, [1, 2]), \
                     (2, NULL, DATE '2026-02-01', NULL, NULL), \
                     (3, 'it''s \"it\", or', DATE '2026-03-01', -2.25, [3])) \
                     AS v(id, name, day, weight, list)";

/// A cluster, and a warehouse with a table of three rows.
fn shop(folder: &Path) -> Cluster {
    let cluster = Cluster::start(folder, &[1]);
    succeed(sql(folder, &cluster).args(["-c", TABLE]));
    cluster
}

fn sql(folder: &Path, cluster: &Cluster) -> Command {
    let mut command = nightshift(folder);
    command.args(["sql", "--cluster", &cluster.address]);
    command
}

/// Runs a command that must fail, and returns its exit code and what it said.
fn fail(command: &mut Command) -> (Option<i32>, String) {
    let output: Output = command.output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    (output.status.code(), text(&output))
}

#[test]
fn results_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = shop(folder.path());
    let query = "SELECT * FROM shop.orders ORDER BY id";
    for format in ["csv", "json", "jsonl", "parquet", "arrow"] {
        let file = format!("orders.{format}");
        let mut command = sql(folder.path(), &cluster);
        succeed(command.args(["--format", format, "-o", &file, "-c", query]));
    }
    // To standard output Arrow goes as a stream.
    let output = sql(folder.path(), &cluster).args(["--format", "arrow", "-c", query]).output();
    std::fs::write(folder.path().join("orders.arrows"), output.unwrap().stdout).unwrap();
    python("result_files.py", &[folder.path()]);

    let jsonl = std::fs::read_to_string(folder.path().join("orders.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["list"], serde_json::json!([1, 2]));
    assert!(rows[1]["name"].is_null() && rows[1].get("name").is_some(), "{jsonl}");
    let json = std::fs::read_to_string(folder.path().join("orders.json")).unwrap();
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&json).unwrap(), rows);

    let table = succeed(sql(folder.path(), &cluster).args(["-c", query]));
    assert!(table.contains("| 2  | NULL ") && !table.contains("rows)"), "{table}");
    let vertical =
        succeed(sql(folder.path(), &cluster).args(["--format", "vertical", "-c", query]));
    assert!(
        vertical.contains("-[ RECORD 3 ]--") && vertical.contains("weight | -2.25\n"),
        "{vertical}"
    );

    // A result that fails leaves the file as it was.
    let before = std::fs::read(folder.path().join("orders.csv")).unwrap();
    let wrong = "SELECT * FROM shop.orders; SELECT CAST(name AS BIGINT) FROM shop.orders";
    let mut command = sql(folder.path(), &cluster);
    let (code, said) = fail(command.args(["--format", "csv", "-o", "orders.csv", "-c", wrong]));
    assert!(code == Some(1) && said.contains("command:1: "), "{said}");
    assert_eq!(std::fs::read(folder.path().join("orders.csv")).unwrap(), before);
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
    let mut command = sql(folder.path(), &cluster);
    let two = "SELECT 1 AS a; SELECT 2 AS a";
    let (_, said) = fail(command.args(["--format", "parquet", "-o", "two.parquet", "-c", two]));
    assert!(said.contains("holds one result") && !folder.path().join("two.parquet").exists());
}

#[test]
fn parameters_are_values_and_never_text() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = shop(folder.path());
    let run = |parameters: &[&str], statement: &str| {
        let mut command = sql(folder.path(), &cluster);
        for parameter in parameters {
            command.args(["--param", parameter]);
        }
        command.args(["--format", "csv", "-c", statement]);
        command
    };
    let ids = |parameters: &[&str], condition: &str| {
        let query = format!("SELECT id FROM shop.orders WHERE {condition} ORDER BY id");
        let out = succeed(&mut run(parameters, &query));
        out.lines().skip(1).map(|line| line.parse().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!(ids(&["n=2"], "id >= $n"), [2, 3]);
    assert_eq!(ids(&["day=2026-02-01"], "day <= $day"), [1, 2]);
    assert_eq!(ids(&["w=-2.25"], "weight = $w"), [3]);
    assert_eq!(ids(&["a=1", "b=3"], "id IN ($a, $b)"), [1, 3]);
    assert_eq!(ids(&["name=it's \"it\", or"], "name = $name"), [3]);
    // Whatever is tried, it is a name that no order has.
    for attempt in ["x' OR true --", "\\' OR true --", "'; DROP TABLE shop.orders; --", "$n", "''"]
    {
        assert_eq!(ids(&[&format!("name={attempt}")], "name = $name"), Vec::<u64>::new());
        // Statements that are written out and planned again.
        succeed(&mut run(
            &[&format!("name={attempt}")],
            "DELETE FROM shop.orders WHERE name = $name; \
             CREATE OR REPLACE TABLE shop.kept AS SELECT $name AS name",
        ));
        let kept = format!(
            "SELECT count(*) AS n FROM shop.kept WHERE name = '{}'",
            attempt.replace('\'', "''")
        );
        assert_eq!(query_with(folder.path(), &cluster, &kept), "n\n1\n");
    }
    assert_eq!(ids(&[], "true"), [1, 2, 3]);
    // A text column takes a text even if it looks like a number.
    succeed(&mut run(&["name=42", "id=2"], "UPDATE shop.orders SET name = $name WHERE id = $id"));
    assert_eq!(ids(&["name=42"], "name = $name"), [2]);

    let says = |parameters: &[&str], statement: &str, expected: &str| {
        let (code, said) = fail(&mut run(parameters, statement));
        assert!(code == Some(1) && said.contains(expected), "{said}\n--- does not say: {expected}");
    };
    says(&[], "SELECT $n", "command:1: the parameter $n has no value");
    says(&["n=1", "m=2"], "SELECT $n", "no statement has the parameter $m; there are: $n");
    let wrong = "SELECT * FROM shop.orders WHERE id = $n";
    says(&["n=1 OR true"], wrong, "the parameter $n is '1 OR true': not a whole number");
    let (code, said) = fail(&mut run(&["n"], "SELECT $n"));
    assert!(code == Some(2) && said.contains("NAME=VALUE"), "{said}");
}

fn query_with(folder: &Path, cluster: &Cluster, query: &str) -> String {
    succeed(sql(folder, cluster).args(["--format", "csv", "-c", query]))
}

#[test]
fn files_and_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = shop(folder.path());
    let script = "\\set n 2\n-- two; statements\nSELECT id FROM shop.orders WHERE id = $n;\n\
                  SELECT name\nFROM shop.nothing;\nSELECT 3 AS id;\n";
    std::fs::write(folder.path().join("script.sql"), script).unwrap();
    let output = sql(folder.path(), &cluster)
        .args(["--format", "csv", "-f", "script.sql"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "id\n2\n");
    assert!(text(&output).contains("script.sql:5:6: "), "{}", text(&output));
    // What can't be parsed is found before anything is done.
    let mut command = sql(folder.path(), &cluster);
    let (code, said) = fail(command.args(["-c", "DROP TABLE shop.orders;\nSELECT 1 +"]));
    assert!(code == Some(1) && said.contains("command:2:"), "{said}");

    let mut command = sql(folder.path(), &cluster);
    command.args(["--format", "csv"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT ';' AS a;\n\\dn sh*\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n;\nschema_name\nshop\n");
}

#[test]
fn whoever_has_read_enough_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = shop(folder.path());
    let many = "SELECT a.n AS a, b.n AS b FROM (SELECT unnest(generate_series(1, 1000)) AS n) AS a \
                CROSS JOIN (SELECT unnest(generate_series(1, 200)) AS n) AS b; \
                CREATE TABLE shop.after AS SELECT 1 AS n";
    for format in ["csv", "jsonl", "vertical", "table"] {
        let mut command = sql(folder.path(), &cluster);
        command.args(["--format", format, "-c", many]).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(out);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{format}");
    }
    // It ends like other programs that nobody listens to: what comes later is not done.
    let tables = query_with(folder.path(), &cluster, "SHOW TABLES IN shop");
    assert_eq!(tables.lines().count(), 2, "{tables}");
}

#[test]
fn an_interrupted_statement_leaves_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = shop(folder.path());
    let runs = folder.path().join("warehouse/_nightshift/runs");
    let before = contents(&folder.path().join("warehouse"));
    let statements = format!("CREATE TABLE shop.endless AS {ENDLESS}; DROP TABLE shop.orders");
    let mut command = sql(folder.path(), &cluster);
    command.args(["-c", &statements]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_until(|| !contents(&runs).is_empty(), "the statement does not begin");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    let after = contents(&folder.path().join("warehouse"));
    assert_eq!(after.len(), before.len(), "{after:?}");
    assert_eq!(
        query_with(folder.path(), &cluster, "SELECT count(*) AS n FROM shop.orders"),
        "n\n3\n"
    );
}

/// A pseudo-terminal, and somebody who types.
#[test]
fn a_shell_on_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_nightshift"));
    println!("{}", python("shell_terminal.py", &[binary, folder.path()]));
    // A cancelled statement leaves nothing.
    let left = contents(&folder.path().join("warehouse/_nightshift"));
    assert!(left.is_empty(), "{:?}", left.iter().map(|(path, _)| path).collect::<Vec<_>>());
}
