//! Files in and out: what is read in place and what `COPY` writes, on executors that are processes of
//! their own; and what `OPTIMIZE` and `VACUUM` make of a table's files.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::*;

/// A folder with `locations = ['data']`, and a cluster.
struct Place {
    folder: tempfile::TempDir,
    cluster: Cluster,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nightshift.toml"), "locations = ['data']").unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let cluster = Cluster::start(folder.path(), &[2, 2]);
        Self { folder, cluster }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join("data").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn output(&self, sql: &str) -> std::process::Output {
        let mut command = nightshift(self.folder.path());
        let arguments = ["sql", "--format", "json", "--cluster", &self.cluster.address, "-c", sql];
        command.args(arguments).output().unwrap()
    }

    fn execute(&self, sql: &str) -> String {
        let output = self.output(sql);
        assert!(output.status.success(), "{sql}\n{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The rows of the last statement, a query.
    fn rows(&self, sql: &str) -> Value {
        let out = self.execute(sql);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{sql}: {error}\n{out}"))
    }

    fn failure(&self, sql: &str) -> String {
        let output = self.output(sql);
        assert_eq!(output.status.code(), Some(1), "{sql}\n{}", text(&output));
        text(&output)
    }

    /// The names of the files in a folder of `data`, sorted.
    fn names(&self, name: &str) -> Vec<String> {
        let root = self.folder.path().join("data").join(name);
        let files = contents(&root).into_iter();
        files.map(|(path, _)| path.strip_prefix(&root).unwrap().display().to_string()).collect()
    }
}

#[test]
fn copies_come_back_in_every_format() {
    let place = Place::new();
    place.execute(
        "CREATE TABLE x.t AS SELECT value AS n, 'text, \"' || value AS s, CAST(value AS DOUBLE) / 4 AS d \
         FROM (SELECT unnest(generate_series(1, 1000)) AS value)",
    );
    for (location, stored, options) in [
        ("data/a/", "STORED AS PARQUET", ""),
        ("data/b", "STORED AS CSV", ""),
        ("data/c.csv", "", ""),
        ("data/d.csv.gz", "", ""),
        ("data/e.json.zst", "", ""),
        ("data/f", "STORED AS JSON", "OPTIONS ('format.compression' 'bzip2')"),
        ("data/g", "STORED AS CSV", "OPTIONS (compression 'xz', delimiter '|', has_header false)"),
        ("data/h.parquet", "", "OPTIONS ('format.compression' 'snappy')"),
    ] {
        place.execute(&format!("COPY x.t TO '{location}' {stored} {options}"));
        let format =
            if stored.is_empty() { location.split('.').nth(1).unwrap() } else { &stored[10..] };
        let external = format!(
            "CREATE EXTERNAL TABLE raw.t (n BIGINT, s VARCHAR, d DOUBLE) STORED AS {format} \
             LOCATION '{location}' {options}"
        );
        // Executors read what is written to a table.
        let copy = "CREATE OR REPLACE TABLE x.back AS SELECT * FROM raw.t";
        let same = "SELECT count(*) AS n FROM x.back AS a JOIN x.t AS b ON a.n = b.n AND a.s = b.s AND \
                    a.d = b.d";
        place.execute(&format!("{external}; {copy}"));
        let rows = place.rows(same);
        assert_eq!(rows, json!([{"n": 1000}]), "{location} {stored} {options}");
        let again = place.failure(&format!("COPY x.t TO '{location}' {stored} {options}"));
        assert!(again.contains("there is something already"), "{again}");
    }
    assert!(
        std::fs::read(place.folder.path().join("data/d.csv.gz")).unwrap().starts_with(b"\x1f\x8b")
    );
    // A single file keeps the order of the rows, and is replaced as a whole.
    place.execute(
        "COPY (SELECT n FROM x.t WHERE n <= 3 ORDER BY n DESC) TO 'data/c.csv' OPTIONS (overwrite true)",
    );
    let text = std::fs::read_to_string(place.folder.path().join("data/c.csv")).unwrap();
    assert_eq!(text, "n\n3\n2\n1\n");
    place.execute("COPY (SELECT n FROM x.t WHERE n < 0) TO 'data/none.csv'");
    let text = std::fs::read_to_string(place.folder.path().join("data/none.csv")).unwrap();
    assert_eq!(text, "n\n");
    let before = place.names("b");
    place.execute("COPY (SELECT 1 AS n) TO 'data/b' STORED AS CSV OPTIONS (overwrite true)");
    let after = place.names("b");
    assert!(after.len() == 1 && !before.contains(&after[0]), "{before:?} {after:?}");
}

#[test]
fn folders_of_partitions_are_written_and_read() {
    let place = Place::new();
    place.execute(
        "COPY (SELECT * FROM (VALUES (1, DATE '2026-01-01', 'a/b=c %'), (2, DATE '2026-01-02', NULL), \
         (3, NULL, 'ü')) AS v(n, day, kind)) TO 'data/p' STORED AS PARQUET PARTITIONED BY (day, kind)",
    );
    let names = place.names("p");
    assert!(
        names.iter().any(|name| name.starts_with("day=2026-01-01/kind=a%2Fb%3Dc %25/")),
        "{names:?}"
    );
    assert!(
        names.iter().any(|name| name.starts_with("day=__HIVE_DEFAULT_PARTITION__/")),
        "{names:?}"
    );
    let external = "CREATE EXTERNAL TABLE raw.p (n BIGINT, day DATE, kind VARCHAR) STORED AS PARQUET \
                    PARTITIONED BY (day, kind) LOCATION 'data/p'";
    let query = "SELECT n, CAST(day AS VARCHAR) AS day, kind FROM raw.p ORDER BY n";
    let expected = json!([
        {"n": 1, "day": "2026-01-01", "kind": "a/b=c %"},
        {"n": 2, "day": "2026-01-02", "kind": null},
        {"n": 3, "day": null, "kind": "ü"},
    ]);
    assert_eq!(place.rows(&format!("{external}; {query}")), expected);
    let inferred = "CREATE EXTERNAL TABLE raw.p STORED AS PARQUET PARTITIONED BY (day, kind) LOCATION 'data/p/'";
    let query = "SELECT n FROM raw.p WHERE day = '2026-01-02'";
    assert_eq!(place.rows(&format!("{inferred}; {query}")), json!([{"n": 2}]));
    let said = place.failure("COPY (SELECT 1 AS a) TO 'data/q' STORED AS CSV PARTITIONED BY (b)");
    assert!(said.contains("column b"), "{said}");
    let said = place.failure("COPY (SELECT 1 AS a, 2 AS b) TO 'data/q.csv' PARTITIONED BY (b)");
    assert!(said.contains("a folder"), "{said}");
}

#[test]
fn a_copy_that_fails_or_may_not_be_leaves_nothing() {
    let place = Place::new();
    place.write("n/1.csv", "n\n1\n");
    place.write("n/2.csv", "n\n2\nthree\n");
    let external = "CREATE EXTERNAL TABLE raw.n (n BIGINT) STORED AS CSV LOCATION 'data/n'";
    let said = place.failure(&format!("{external}; COPY raw.n TO 'data/out' STORED AS PARQUET"));
    assert!(said.contains("n/2.csv: ") && said.contains("in line 3"), "{said}");
    let said = place.failure(&format!("{external}; COPY raw.n TO 'data/one.parquet'"));
    assert!(said.contains("'three'"), "{said}");
    assert_eq!(place.names(""), ["n/1.csv", "n/2.csv"]);
    place.execute("CREATE TABLE x.t AS SELECT 1 AS n");
    for (copy, expected) in [
        ("COPY x.t TO 'warehouse/x/t' STORED AS PARQUET", "written into the warehouse"),
        ("COPY x.t TO 'warehouse/other/a.csv'", "written into the warehouse"),
        ("COPY x.t TO '.' STORED AS CSV OPTIONS (overwrite true)", "written into the warehouse"),
        ("COPY x.t TO '/tmp/nightshift-elsewhere.csv'", "declared location"),
        ("COPY x.t TO 'data/../../x.csv'", "declared location"),
        ("COPY x.t TO 'data/x'", "STORED AS"),
        ("COPY x.t TO 'data/x.avro'", "avro is not a format that can be written"),
        ("COPY x.t TO 'data/x.csv' OPTIONS (delimeter ',')", "option delimeter: there is none"),
        ("COPY x.t TO 'data/x.csv' OPTIONS (compression 'rar')", "option compression"),
        ("COPY (SELECT [1] AS l) TO 'data/x.csv'", "column l: a CSV file can't hold lists"),
        ("COPY x.none TO 'data/x.csv'", "there is no table x.none"),
        ("EXPLAIN COPY x.t TO 'data/x.csv'", "is not supported"),
    ] {
        let said = place.failure(copy);
        assert!(said.contains(expected), "{copy}: {said}");
    }
    assert_eq!(place.names(""), ["n/1.csv", "n/2.csv"]);
    // A pipeline whose check fails publishes nothing, files for others included.
    pipeline(
        place.folder.path(),
        "p",
        &[
            ("a.sql", "COPY (SELECT 1 AS a) TO 'out' STORED AS CSV"),
            ("checks/wrong.sql", "SELECT 1 AS a"),
        ],
    );
    let output = nightshift(place.folder.path()).args(["run", "p"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(!place.folder.path().join("p/out").exists());
}

/// An Avro file of `(id, name)`, as the format's specification has it, without compression.
fn avro(rows: &[(i64, &str)]) -> Vec<u8> {
    fn long(value: i64, out: &mut Vec<u8>) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            out.push((rest as u8) | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    fn bytes(text: &str, out: &mut Vec<u8>) {
        long(text.len() as i64, out);
        out.extend_from_slice(text.as_bytes());
    }
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "id", "type": "long"}, {"name": "name", "type": "string"}]});
    let mut out = b"Obj\x01".to_vec();
    long(2, &mut out);
    for (key, value) in [("avro.schema", schema.to_string().as_str()), ("avro.codec", "null")] {
        bytes(key, &mut out);
        bytes(value, &mut out);
    }
    long(0, &mut out);
    out.extend_from_slice(&[7; 16]);
    let mut block = Vec::new();
    for (id, name) in rows {
        long(*id, &mut block);
        bytes(name, &mut block);
    }
    long(rows.len() as i64, &mut out);
    long(block.len() as i64, &mut out);
    out.extend(block);
    out.extend_from_slice(&[7; 16]);
    out
}

#[test]
fn files_of_others_are_read_where_they_are() {
    let place = Place::new();
    place.write("a/1.avro", avro(&[(1, "one"), (-2, "zwei ß")]));
    place.write("a/2.avro", avro(&[(300, "")]));
    place.write("a/_SUCCESS", "");
    let rows = place.rows(
        "CREATE EXTERNAL TABLE raw.a STORED AS AVRO LOCATION 'data/a'; SELECT * FROM raw.a ORDER BY id",
    );
    let expected =
        json!([{"id": -2, "name": "zwei ß"}, {"id": 1, "name": "one"}, {"id": 300, "name": ""}]);
    assert_eq!(rows, expected);
    place.write("logs/2026-01/a.csv", "n;s\n1;'x;y'\n2;'a\nb'\n");
    place.write("logs/2026-02/b.csv", "n;s\n3;z\n");
    place.write("logs/2025-12/c.csv", "n;s\n4;old\n");
    place.write("logs/2026-02/readme.txt", "not data");
    let rows = place.rows(
        "CREATE EXTERNAL TABLE raw.l STORED AS CSV LOCATION 'data/logs/2026-*/*.csv' OPTIONS \
         ('format.delimiter' ';', 'format.quote' '''', 'format.newlines_in_values' true); \
         SELECT * FROM raw.l ORDER BY n",
    );
    let expected = json!([{"n": 1, "s": "x;y"}, {"n": 2, "s": "a\nb"}, {"n": 3, "s": "z"}]);
    assert_eq!(rows, expected);
    place.write("j/1.json", "{\"a\": 1, \"b\": {\"c\": [1, 2]}}\n{\"a\": 2}\n");
    let rows = place.rows(
        "CREATE EXTERNAL TABLE raw.j STORED AS JSON LOCATION 'data/j/1.json'; \
         SELECT a, b['c'][2] AS c FROM raw.j ORDER BY a",
    );
    assert_eq!(rows, json!([{"a": 1, "c": 2}, {"a": 2, "c": null}]));
    for (statement, expected) in [
        ("STORED AS ORC LOCATION 'data/j'", "ORC is not a format that can be read"),
        ("STORED AS CSV LOCATION 'data/j/1.json' OPTIONS (heder true)", "option heder"),
        ("STORED AS CSV LOCATION 'data/none-*.csv'", "there is no such file"),
        ("STORED AS CSV LOCATION 'data/[.csv'", "data/[.csv: "),
        ("STORED AS PARQUET LOCATION 'data/j/1.json'", "data/j/1.json: "),
        ("STORED AS CSV LOCATION '/etc/*'", "declared location"),
        ("STORED AS AVRO LOCATION 'data/a' OPTIONS (x 1)", "option x: there are no options"),
        ("STORED AS CSV PARTITIONED BY (k) LOCATION 'data/logs/2026-*/*.csv'", "in a folder"),
    ] {
        let said = place.failure(&format!("CREATE EXTERNAL TABLE raw.x {statement}"));
        assert!(said.contains(expected), "{statement}: {said}");
    }
}

#[test]
fn what_is_wrong_in_a_file_is_found() {
    let place = Place::new();
    let good = "n,s\n1,x\n2,y\n";
    place.write("c/1.csv", good);
    let external = "CREATE EXTERNAL TABLE raw.t (n BIGINT, s VARCHAR) STORED AS";
    for (bad, expected) in [
        (
            &b"n,s\n1,x\n\n\"2x\",y\n"[..],
            "Error while parsing value '2x' as type 'Int64' for column n in line 4",
        ),
        (b"n,s\n1,x\n2,y,z\n", "expected 2 got 3 in line 3"),
        (b"n,s\n1,x\n2\n", "expected 2 got 1 in line 3"),
        (b"n,s\n1,x\n2,\xff\xfe\n", "in line 3"),
    ] {
        place.write("c/2.csv", bad);
        // In a query, in the first rows or later, and in a statement that writes.
        for statement in
            ["SELECT sum(n), max(s) FROM raw.t", "CREATE TABLE x.t AS SELECT * FROM raw.t"]
        {
            let said = place.failure(&format!("{external} CSV LOCATION 'data/c'; {statement}"));
            assert!(said.contains("c/2.csv: ") && said.contains(expected), "{statement}: {said}");
        }
    }
    place.write("j/1.json", "{\"n\": 1}\n{\"n\": \"two\"}\n");
    let said =
        place.failure(&format!("{external} JSON LOCATION 'data/j'; SELECT sum(n) FROM raw.t"));
    assert!(said.contains("j/1.json: ") && said.contains("in line 2"), "{said}");
    place.execute(
        "COPY (SELECT value AS n, 'x' AS s FROM (SELECT unnest(generate_series(1, 100000)) AS value)) TO 'data/p/1.parquet'",
    );
    let path = place.folder.path().join("data/p/1.parquet");
    let bytes = std::fs::read(&path).unwrap();
    place.write("p/2.parquet", &bytes[..bytes.len() / 2]);
    for columns in ["(n BIGINT, s VARCHAR) ", ""] {
        let said = place.failure(&format!(
            "CREATE EXTERNAL TABLE raw.t {columns}STORED AS PARQUET LOCATION 'data/p'; SELECT sum(n) FROM raw.t"
        ));
        assert!(said.contains("p/2.parquet: "), "{said}");
    }
}

/// The files of a table and what its log says of them.
fn live_files(table: &Path) -> Vec<(String, Value)> {
    let mut live = std::collections::BTreeMap::new();
    for (path, text) in contents(&table.join("_delta_log")) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        for line in String::from_utf8(text).unwrap().lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            let name = |kind: &str| action[kind]["path"].as_str().map(str::to_string);
            if let Some(name) = name("remove") {
                live.remove(&name);
            }
            if let Some(name) = name("add") {
                let stats = action["add"]["stats"].as_str().unwrap();
                live.insert(name, serde_json::from_str(stats).unwrap());
            }
        }
    }
    live.into_iter().collect()
}

#[test]
fn rows_in_z_order_let_queries_skip_files() {
    let place = Place::new();
    // Two columns that have nothing to do with each other: in the order of one, each file has all
    // values of the other.
    place.execute(
        "CREATE TABLE x.z AS SELECT value AS id, (value * 7919) % 1000003 AS a, 'k' || \
         lpad(CAST((value * 104729) % 999983 AS VARCHAR), 6, '0') AS b, \
         CASE WHEN value % 50 = 0 THEN NULL ELSE random() END AS c FROM (SELECT unnest(generate_series(1, 1000000)) AS value)",
    );
    let sums = "SELECT count(*) AS n, sum(a) AS a, count(c) AS c, count(DISTINCT b) AS b FROM x.z";
    let ranges = [
        ("a", json!(1000), json!(2000), "a BETWEEN 1000 AND 2000"),
        ("b", json!("k001000"), json!("k002000"), "b BETWEEN 'k001000' AND 'k002000'"),
    ];
    let count =
        |condition: &str| place.rows(&format!("SELECT sum(id) AS s FROM x.z WHERE {condition}"));
    let before = (place.rows(sums), ranges.clone().map(|(_, _, _, condition)| count(condition)));
    place.execute("OPTIMIZE x.z ZORDER BY (a, b)");
    assert_eq!(place.rows(sums), before.0);
    let table = place.folder.path().join("warehouse/x/z");
    let files = live_files(&table);
    assert!(files.len() >= 8, "{files:?}");
    for (at, (column, low, high, condition)) in ranges.iter().enumerate() {
        let less = |a: &Value, b: &Value| match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a < b,
            _ => a.as_str().unwrap() < b.as_str().unwrap(),
        };
        let outside = files.iter().filter(|(_, stats)| {
            less(&stats["maxValues"][column], low) || less(high, &stats["minValues"][column])
        });
        let outside: Vec<_> = outside.map(|(name, _)| table.join(name)).collect();
        assert!(
            outside.len() * 8 >= files.len() * 3,
            "{condition}: {} of {}",
            outside.len(),
            files.len()
        );
        // Files that aren't there can't be read.
        let away = |path: &Path| path.with_extension("away");
        outside.iter().for_each(|path| std::fs::rename(path, away(path)).unwrap());
        assert_eq!(count(condition), before.1[at]);
        outside.iter().for_each(|path| std::fs::rename(away(path), path).unwrap());
    }
    for (statement, expected) in [
        ("OPTIMIZE x.z ZORDER BY (nope)", "x.z has no column nope"),
        ("OPTIMIZE x.z ZORDER BY ()", "Expected"),
    ] {
        let said = place.failure(statement);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn files_of_dropped_tables_go() {
    let place = Place::new();
    let data = |name: &str| {
        let folder: &Path = &place.folder.path().join("warehouse").join(name);
        contents(folder)
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "parquet"))
            .count()
    };
    place.execute(
        "CREATE TABLE x.gone AS SELECT 1 AS a; CREATE TABLE x.kept AS SELECT 1 AS a; \
         CREATE OR REPLACE TABLE x.kept AS SELECT 2 AS a; DROP TABLE x.gone",
    );
    assert_eq!((data("x/gone"), data("x/kept")), (1, 2));
    place.execute("VACUUM");
    assert_eq!((data("x/gone"), data("x/kept")), (1, 2));
    place.execute("VACUUM RETAIN 0 HOURS DRY RUN");
    assert_eq!((data("x/gone"), data("x/kept")), (1, 2));
    place.execute("VACUUM RETAIN 0 HOURS");
    assert_eq!((data("x/gone"), data("x/kept")), (0, 1));
    assert_eq!(place.rows("SELECT a FROM x.kept"), json!([{"a": 2}]));
    place.execute("CREATE TABLE x.gone AS SELECT 3 AS a");
    assert_eq!(place.rows("SELECT a FROM x.gone"), json!([{"a": 3}]));
}
