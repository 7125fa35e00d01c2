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
        command.args(["sql", "--format", "csv", "--cluster", &self.cluster.address]);
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

#[test]
fn statements_that_are_too_large_are_refused_and_nothing_ends() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[2]);
    let mut place = Place { folder, cluster };
    let from = " FROM (VALUES (1), (2)) AS v(x)";
    let wide: Vec<String> = (0..1000).map(|n| format!("x AS c{n}")).collect();
    let statements = [
        (
            "1,000 terms",
            true,
            repeated("SELECT count(*) FROM (VALUES (1)) AS v(x) WHERE x = 1", " OR x = 2", 999, ""),
        ),
        (
            "10,000 ORs",
            false,
            repeated(
                "SELECT count(*) FROM (VALUES (1)) AS v(x) WHERE x = 1",
                " OR x = 2",
                10_000,
                "",
            ),
        ),
        (
            "10,000 ANDs",
            false,
            repeated(
                "SELECT count(*) FROM (VALUES (1)) AS v(x) WHERE x = 1",
                " AND x < 2",
                10_000,
                "",
            ),
        ),
        ("400 operators", true, format!("SELECT {}{from}", vec!["x"; 400].join(" + "))),
        (
            "a million operators",
            false,
            format!("SELECT {}{from}", vec!["x"; 1_000_000].join(" + ")),
        ),
        ("brackets", false, nested(1_000, "(", "SELECT 1", ")")),
        ("brackets in an expression", false, format!("SELECT {}", nested(1_000, "(", "1", ")"))),
        ("subqueries", false, nested(1_000, "SELECT * FROM (", "SELECT 1 AS x", ") AS t")),
        (
            "CASE in CASE",
            false,
            format!("SELECT {}{from}", nested(1_000, "CASE WHEN x = 1 THEN 1 ELSE ", "0", " END")),
        ),
        (
            "10,000 WHENs",
            true,
            format!("SELECT max(CASE {} END){from}", "WHEN x = 3 THEN 4 ".repeat(10_000)),
        ),
        ("functions", false, format!("SELECT {}", nested(1_000, "abs(", "1", ")"))),
        ("lists", false, format!("SELECT {}", nested(1_000, "[", "1", "]"))),
        ("1,000 joins", false, joined(1_000)),
        ("100 joins", false, joined(100)),
        ("10 joins", true, joined(10)),
        (
            "200 columns in a list",
            true,
            format!("SELECT count(*){from} WHERE x IN ({})", vec!["1"; 20_000].join(", ")),
        ),
        ("1,000 columns", true, format!("SELECT {}{from}", wide.join(", "))),
        ("unions", false, repeated("SELECT 1", " UNION ALL SELECT 1", 10_000, "")),
        ("200 unions", true, repeated("SELECT 1", " UNION ALL SELECT 1", 200, "")),
        ("NOT", false, repeated("SELECT ", "NOT ", 100_000, "true")),
        ("EXPLAIN", false, repeated("", "EXPLAIN ", 100_000, "SELECT 1")),
        (
            "types",
            false,
            format!("SELECT CAST(NULL AS {})", nested(100_000, "STRUCT<a ", "INT", ">")),
        ),
        ("a text of 10 MB", true, format!("SELECT length('{}')", "a".repeat(10 << 20))),
        ("100 MB", false, format!("SELECT length('{}')", "a".repeat(100 << 20))),
        (
            "10 MB of rows",
            true,
            format!(
                "SELECT count(*) FROM (VALUES {}) AS v(x)",
                vec!["(12345)"; 200_000].join(", ")
            ),
        ),
    ];
    for (name, answered, sql) in &statements {
        let (was, said) = place.send(sql.as_bytes());
        let said: String = said.chars().take(400).collect();
        assert_eq!(was, *answered, "{name}: {said}");
        if !answered {
            assert!(said.starts_with("error: statement.sql:"), "{name}: {said}");
        }
        place.is_there(name);
    }
    // Not text at all, and text that is none.
    let (answered, said) = place.send(b"SELECT '\xff\xfe'");
    assert!(!answered && said.contains("statement.sql: "), "{said}");
    let (answered, said) = place.send(b"SELECT '\0'");
    assert!(answered, "{said}");
    place.is_there("bytes that are no text");
}
