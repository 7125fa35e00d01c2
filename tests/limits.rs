//! Statements that could bring a process down: each is answered or refused, and the processes stay.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::*;

/// Sends statements as files, for they are longer than arguments can be.
struct Place {
    folder: tempfile::TempDir,
    cluster: Cluster,
}

impl Place {
    /// Whether the statement was answered, and what was said. It may not end in a crash.
    fn send(&self, sql: &[u8]) -> (bool, String) {
        std::fs::write(self.folder.path().join("statement.sql"), sql).unwrap();
        let mut command = nightshift(self.folder.path());
        command.env("NIGHTSHIFT_LOG", "warn").args([
            "sql",
            "--format",
            "csv",
            "--cluster",
            &self.cluster.address,
        ]);
        let output = command.args(["-f", "statement.sql"]).output().unwrap();
        let code = output.status.code();
        let said = text(&output);
        let end: String = said.chars().take(500).collect();
        assert!(
            matches!(code, Some(0 | 1)),
            "{:.80}: {code:?} {end}",
            String::from_utf8_lossy(sql)
        );
        assert!(!said.contains("panicked"), "{end}");
        (code == Some(0), said)
    }

    /// The same processes as at the start answer.
    fn is_there(&mut self, after: &str) {
        for process in self.cluster.processes() {
            assert!(process.runs(), "a process has ended after {after}");
        }
        let (answered, said) = self.send(b"SELECT 40 + 2 AS n");
        assert!(answered && said.contains("n\n42\n"), "after {after}: {said}");
    }
}

fn repeated(first: &str, part: &str, times: usize, last: &str) -> String {
    format!("{first}{}{last}", part.repeat(times))
}

fn nested(times: usize, before: &str, inner: &str, after: &str) -> String {
    format!("{}{inner}{}", before.repeat(times), after.repeat(times))
}

fn joined(tables: usize) -> String {
    let join = |n: usize| format!(" JOIN (VALUES (1)) AS t{n}(x) ON t{n}.x = t{}.x", n - 1);
    let joins: String = (1..tables).map(join).collect();
    format!("SELECT count(*) FROM (VALUES (1)) AS t0(x){joins}")
}

/// Sends statements that must be answered, refused, or either; after each, everything is still there.
fn sent(statements: &[(&str, Option<bool>, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[2]);
    let mut place = Place { folder, cluster };
    for (name, answered, sql) in statements {
        let (was, said) = place.send(sql.as_bytes());
        let said: String = said.chars().take(400).collect();
        assert!(answered.is_none_or(|answered| answered == was), "{name}: {said}");
        if !was {
            assert!(said.starts_with("error: statement.sql:"), "{name}: {said}");
        }
        place.is_there(name);
    }
}

const FROM: &str = " FROM (VALUES (1), (2)) AS v(x)";

#[test]
fn long_statements_end_nothing() {
    let where_one = format!("SELECT count(*){FROM} WHERE x = 1");
    let wide: Vec<String> = (0..1000).map(|n| format!("x AS c{n}")).collect();
    let values = |rows: usize| vec!["(12345)"; rows].join(", ");
    sent(&[
        ("1,000 terms", Some(true), repeated(&where_one, " OR x = 2", 999, "")),
        ("10,000 ORs", Some(false), repeated(&where_one, " OR x = 2", 10_000, "")),
        ("10,000 ANDs", Some(false), repeated(&where_one, " AND x < 2", 10_000, "")),
        ("400 operators", Some(true), format!("SELECT {} AS n{FROM}", vec!["x"; 400].join(" + "))),
        ("a million", Some(false), format!("SELECT {}{FROM}", vec!["x"; 1_000_000].join(" + "))),
        (
            "5,000 WHENs",
            Some(true),
            format!("SELECT max(CASE {} END) AS n{FROM}", "WHEN x = 3 THEN 4 ".repeat(5_000)),
        ),
        (
            "a long IN",
            Some(true),
            format!("{where_one} AND x IN ({})", vec!["1"; 20_000].join(", ")),
        ),
        ("1,000 columns", Some(true), format!("SELECT {}{FROM}", wide.join(", "))),
        ("10,000 unions", Some(false), repeated("SELECT 1", " UNION ALL SELECT 1", 10_000, "")),
        ("200 unions", Some(true), repeated("SELECT 1", " UNION ALL SELECT 1", 200, "")),
        ("10 MB", Some(true), format!("SELECT length('{}') AS n", "a".repeat(10 << 20))),
        ("100 MB", Some(false), format!("SELECT length('{}') AS n", "a".repeat(100 << 20))),
        ("50,000 rows", Some(true), format!("SELECT count(*) FROM (VALUES {})", values(50_000))),
        (
            "2,000,000 rows",
            Some(false),
            format!("SELECT count(*) FROM (VALUES {})", values(1_700_000)),
        ),
    ]);
}

#[test]
fn deep_statements_end_nothing() {
    let case = nested(1_000, "CASE WHEN x = 1 THEN 1 ELSE ", "0", " END");
    let inner = nested(1_000, "SELECT * FROM (", "SELECT 1 AS x", ") AS t");
    let types = nested(100_000, "STRUCT<a ", "INT", ">");
    sent(&[
        ("brackets", Some(false), nested(1_000, "(", "SELECT 1", ")")),
        ("brackets of values", Some(false), format!("SELECT {}", nested(1_000, "(", "1", ")"))),
        ("subqueries", Some(false), inner),
        ("CASE in CASE", Some(false), format!("SELECT {case}{FROM}")),
        ("functions", Some(false), format!("SELECT {}", nested(1_000, "abs(", "1", ")"))),
        ("lists", Some(false), format!("SELECT {}", nested(1_000, "[", "1", "]"))),
        ("10 joins", Some(true), joined(10)),
        ("1,000 joins", Some(false), joined(1_000)),
        ("NOT", Some(false), repeated("SELECT ", "NOT ", 100_000, "true")),
        ("EXPLAIN", Some(false), repeated("", "EXPLAIN ", 100_000, "SELECT 1")),
        ("types", Some(false), format!("SELECT CAST(NULL AS {types})")),
    ]);
}

#[test]
fn bytes_that_are_no_text_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[1]);
    let mut place = Place { folder, cluster };
    let (answered, said) = place.send(b"SELECT '\xff\xfe'");
    assert!(!answered && said.contains("statement.sql: "), "{said}");
    let (answered, said) = place.send(b"SELECT '\0' AS n");
    assert!(answered, "{said}");
    place.is_there("bytes that are no text");
}

#[test]
fn joins_of_many_tables_are_right_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[2]);
    let mut place = Place { folder, cluster };
    for tables in [5, 10, 15, 30, 60, 190] {
        let (answered, said) = place.send(joined(tables).as_bytes());
        let end: String = said.chars().take(400).collect();
        match answered {
            true => assert_eq!(said, "count(*)\n1\n", "{tables}"),
            false => assert!(tables > 15 && said.starts_with("error: statement.sql:"), "{end}"),
        }
        place.is_there(&format!("{tables} joins"));
    }
}

#[test]
fn joins_that_do_not_fit_into_memory_are_run_in_smaller_parts() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[]);
    let mut executor = nightshift(folder.path());
    executor.args(["executor", "--scheduler", &cluster.address, "--cores", "2", "--memory", "96"]);
    let (mut executor, _) = Process::start(&mut executor);
    let mut place = Place { folder, cluster };
    let rows = "SELECT value AS id, repeat(md5(CAST(value AS VARCHAR)), 6) AS s FROM";
    for (table, last) in [("a", 2_000_000), ("b", 2_100_000)] {
        let sql = format!("CREATE TABLE x.{table} AS {rows} generate_series(1, {last})");
        let (created, said) = place.send(sql.as_bytes());
        assert!(created, "{said}");
    }
    let join = b"SELECT count(*) AS n, min(length(concat(a.s, b.s))) AS least FROM x.a JOIN x.b ON a.id = b.id";
    let (answered, said) = place.send(join);
    assert!(answered && said.contains("n,least\n2000000,384\n"), "{said}");
    assert!(said.contains("memory was short"), "the memory was enough: {said}");
    assert!(!said.contains("hash_joins=false"), "smaller parts were not enough: {said}");
    assert!(executor.runs());
    place.is_there("a large join");
}
