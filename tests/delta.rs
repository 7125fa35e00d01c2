//! Delta tables that other programs write and read, and writers at the same time.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::*;

fn execute(folder: &Path, sql: &str) {
    succeed(nightshift(folder).args(["sql", "-c", sql]));
}

#[test]
fn a_table_that_another_program_wrote_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("theirs");
    python("delta_write.py", &[&table]);
    std::fs::write(folder.path().join("nightshift.toml"), "locations = ['theirs']").unwrap();
    let rows = |query: &str| -> Vec<Value> {
        let external = "CREATE EXTERNAL TABLE raw.t STORED AS DELTA LOCATION 'theirs'";
        let sql = format!("{external}; {query}");
        let out = succeed(nightshift(folder.path()).args(["sql", "--format", "json", "-c", &sql]));
        serde_json::from_str(&out).unwrap()
    };
    let all = "SELECT id, CAST(day AS VARCHAR) AS day, CAST(amount AS VARCHAR) AS amount, \
               CAST(at AS VARCHAR) AS at, name, tags, place['city'] AS city, more FROM raw.t ORDER BY id";
    let long = "a".repeat(50);
    let expected = [
        json!({"id": 1, "day": "2026-01-01", "amount": "1.500", "at": "2026-01-01T03:04:05.678901Z",
               "name": long, "tags": ["x", null], "city": "Rom", "more": null}),
        json!({"id": 2, "day": "2026-01-01", "amount": null, "at": null, "name": null, "tags": null,
               "city": null, "more": null}),
        json!({"id": 3, "day": null, "amount": "-7.125", "at": "1969-12-31T00:00:00Z", "name": "ß%/=",
               "tags": [], "city": null, "more": null}),
        json!({"id": 4, "day": "2026-01-01", "amount": null, "at": null, "name": null, "tags": null,
               "city": null, "more": "new"}),
    ];
    assert_eq!(rows(all), expected);
    // By partition, by statistics, by what statistics are rounded for.
    for (condition, ids) in [
        ("day IS NULL", vec![3]),
        ("day = DATE '2026-01-01' AND id > 1", vec![2, 4]),
        ("name = repeat('a', 50)", vec![1]),
        ("at >= TIMESTAMP '2026-01-01T03:04:05.6789Z'", vec![1]),
    ] {
        let found = rows(&format!("SELECT id FROM raw.t WHERE {condition} ORDER BY id"));
        let found: Vec<_> = found.iter().map(|row| row["id"].as_i64().unwrap()).collect();
        assert_eq!(found, ids, "{condition}");
    }
    assert_eq!(rows("SELECT count(*) AS n, max(id) AS m FROM raw.t"), [json!({"n": 4, "m": 4})]);
}

#[test]
fn what_would_be_misread_is_refused_by_name() {
    for (action, feature) in [
        (
            json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["typeWidening"], "writerFeatures": ["typeWidening"]}}),
            "typeWidening",
        ),
        (
            json!({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5},
                "columnMapping": true}),
            "column mapping",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("theirs/_delta_log")).unwrap();
        std::fs::write(folder.path().join("nightshift.toml"), "locations = ['theirs']").unwrap();
        let mapped = action["columnMapping"] == json!(true);
        let column = json!({"name": "a", "type": "long", "nullable": true, "metadata": if mapped {
            json!({"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"})
        } else {
            json!({})
        }});
        let schema = json!({"type": "struct", "fields": [column]});
        let configuration =
            if mapped { json!({"delta.columnMapping.mode": "name"}) } else { json!({}) };
        let metadata = json!({"metaData": {"id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9",
            "format": {"provider": "parquet", "options": {}}, "partitionColumns": [],
            "schemaString": schema.to_string(), "configuration": configuration}});
        let protocol = json!({"protocol": action["protocol"]});
        let log = format!("{protocol}\n{metadata}\n");
        std::fs::write(folder.path().join("theirs/_delta_log/00000000000000000000.json"), log)
            .unwrap();
        let external = "CREATE EXTERNAL TABLE raw.t STORED AS DELTA LOCATION 'theirs'";
        let output = nightshift(folder.path()).args(["sql", "-c", external]).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(feature) && said.contains("theirs"), "{said}");
    }
}

#[test]
fn a_table_that_was_changed_is_read_by_another_program() {
    let folder = tempfile::tempdir().unwrap();
    let statements = [
        "CREATE TABLE x.t PARTITIONED BY (day) AS SELECT * FROM (VALUES \
            (1, DATE '2026-01-01', 'one'), (2, DATE '2026-01-02', 'two'), (3, NULL, 'ß%/=')) AS v(n, day, name)",
        "INSERT INTO x.t VALUES (4, DATE '2026-01-01', NULL)",
        "UPDATE x.t SET name = upper(name), day = DATE '2026-01-03' WHERE n = 2",
        "DELETE FROM x.t WHERE n = 1",
        "ALTER TABLE x.t ADD COLUMN more BIGINT",
        "COMMENT ON TABLE x.t IS 'tested'",
        "INSERT INTO x.t VALUES (5, DATE '2026-01-01', 'five', 55)",
    ];
    execute(folder.path(), &statements.join(";"));
    let read = python("delta_read.py", &[&folder.path().join("warehouse/x/t")]);
    let read: Value = serde_json::from_str(&read).unwrap();
    let row = |n: i64, day: Value, name: Value, more: Value| json!({"n": n, "day": day, "name": name, "more": more});
    let null = Value::Null;
    let expected = json!([
        row(2, json!("2026-01-03"), json!("TWO"), null.clone()),
        row(3, null.clone(), json!("ß%/="), null.clone()),
        row(4, json!("2026-01-01"), null.clone(), null.clone()),
        row(5, json!("2026-01-01"), json!("five"), json!(55)),
    ]);
    assert_eq!(read["rows"], expected);
    assert_eq!(read["partitions"], json!(["day"]));
    assert_eq!(read["description"], json!("tested"));
    let operations =
        ["CREATE TABLE", "INSERT", "UPDATE", "DELETE", "ADD COLUMN", "COMMENT", "INSERT"];
    assert_eq!(read["operations"], json!(operations));
    // The same rows here.
    let ours = query(
        folder.path(),
        "SELECT n, CAST(day AS VARCHAR) AS day, name, more FROM x.t ORDER BY n",
    );
    let ours: Vec<_> = ours
        .iter()
        .map(|r| {
            row(r["n"].as_i64().unwrap(), r["day"].clone(), r["name"].clone(), r["more"].clone())
        })
        .collect();
    assert_eq!(json!(ours), expected);
}

#[test]
fn writers_at_the_same_time_lose_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &[2]);
    let run = |sql: String| {
        let mut command = nightshift(folder.path());
        command.args(["sql", "--cluster", &cluster.address, "-c", &sql]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{sql}\n{}", text(&output));
    };
    run("CREATE TABLE x.t AS SELECT 0 AS writer, 0 AS n, 0 AS changes".to_string());
    let (writers, each) = (6, 4);
    std::thread::scope(|scope| {
        for writer in 1..=writers {
            let run = &run;
            scope.spawn(move || {
                for n in 0..each {
                    run(format!("INSERT INTO x.t VALUES ({writer}, {n}, 0)"));
                    // Every writer changes the same row.
                    run("UPDATE x.t SET changes = changes + 1 WHERE writer = 0".to_string());
                }
            });
        }
    });
    let rows = query(folder.path(), "SELECT count(*) AS n, sum(changes) AS changes FROM x.t");
    assert_eq!(rows, [json!({"n": writers * each + 1, "changes": writers * each})]);
    let versions = query(folder.path(), "SELECT count(*) AS n FROM table_history('x.t')");
    assert_eq!(versions, [json!({"n": 2 * writers * each + 1})]);
}
