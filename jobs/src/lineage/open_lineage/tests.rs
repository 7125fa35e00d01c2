use super::*;
use crate::journal::Event;
use nightshift_catalog::journal::Record;

const RUN: &str = "01938a6c-0000-7000-8000-000000000001";

fn planned(name: &str, action: &str) -> Value {
    json!({ "name": name, "action": action, "file": "a.sql", "line": 1 })
}

/// The state of a run that has begun at three o'clock, a second before the first of these events.
fn state(cause: Value, steps: &[Value], events: &[Value]) -> RunState {
    let driver = json!({ "host": "h", "process": 1, "version": "0.1.0", "scheduler": true });
    let begun = json!({
        "type": "begun", "pipeline": "p", "source": "s", "cause": cause, "publication": 3,
        "steps": steps, "driver": driver,
    });
    let record = |(at, event): (usize, &Value)| -> Record<Event> {
        let record = json!({
            "format": 1, "number": at + 1, "at": format!("2026-11-26T03:00:{at:02}Z"),
            "writer": "w", "event": event,
        });
        serde_json::from_value(record).unwrap()
    };
    let all: Vec<_> = std::iter::once(&begun).chain(events).enumerate().map(record).collect();
    RunState::fold(RUN, &all).unwrap()
}

fn command() -> Value {
    json!({ "by": "command", "who": "ann" })
}

/// A run that has made `x.b` of `x.a` and of files.
fn published() -> RunState {
    let lineage = json!({
        "inputs": ["file:///data/b.csv", "x.a"],
        "outputs": ["x.b"],
        "columns": [
            { "name": "k", "data_type": "BIGINT",
              "from": [{ "table": "x.a", "column": "id", "how": ["identity"] }] },
            { "name": "one", "data_type": "BIGINT" },
        ],
        "indirect": [
            { "table": "file:///data/b.csv", "column": "id", "how": ["join", "filter"] },
        ],
    });
    let made = json!({ "name": "x.b", "rows": 5, "files": 1, "bytes": 700, "seconds": 1.0 });
    let cause = json!({ "by": "schedule", "due": "2026-11-26T03:00:00Z" });
    let events = [
        json!({ "type": "step_begun", "step": 0, "attempt": 1 }),
        json!({
            "type": "step_done", "step": 0, "seconds": 1.0, "made": made, "effect": {},
            "lineage": lineage,
        }),
        json!({ "type": "publishing" }),
        json!({ "type": "committed", "publication": 4 }),
        json!({
            "type": "published", "publication": 4,
            "versions": [{ "kind": "table", "name": "x.b", "version": 7 }],
        }),
    ];
    state(cause, &[planned("x.b", "CREATE TABLE")], &events)
}

/// What events say in short: the type, the job and the second.
fn short(events: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let second = |event: &Value| text(&event["eventTime"])[17..19].to_string();
    let short = |event: &Value| {
        let job = text(&event["job"]["name"]);
        format!("{} {job} {}", text(&event["eventType"]), second(event))
    };
    events.iter().map(short).collect()
}

#[test]
fn a_step_is_told_of_with_all_that_is_known() {
    let state = published();
    let found = events(&state, "ns");
    let expected = ["START p 00", "START p.x.b 01", "COMPLETE p.x.b 02", "COMPLETE p 05"];
    assert_eq!(short(&found), expected);
    assert_eq!(events(&state, "ns"), found);

    let producer = "https://github.com/nightshift/nightshift";
    let schema = |version: &str, name: &str| {
        format!("https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}")
    };
    let step_run = found[1]["run"]["runId"].clone();
    let expected = json!({
        "eventType": "COMPLETE",
        "eventTime": "2026-11-26T03:00:02.000000Z",
        "producer": producer,
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {
            "runId": step_run,
            "facets": {
                "processing_engine": {
                    "_producer": producer,
                    "_schemaURL": schema("1-1-1", "ProcessingEngineRunFacet"),
                    "name": "Nightshift", "version": "0.1.0",
                },
                "nominalTime": {
                    "_producer": producer,
                    "_schemaURL": schema("1-0-1", "NominalTimeRunFacet"),
                    "nominalStartTime": "2026-11-26T03:00:00.000000Z",
                },
                "parent": {
                    "_producer": producer,
                    "_schemaURL": schema("1-0-1", "ParentRunFacet"),
                    "run": { "runId": RUN },
                    "job": { "namespace": "ns", "name": "p" },
                },
            },
        },
        "job": {
            "namespace": "ns",
            "name": "p.x.b",
            "facets": { "jobType": {
                "_producer": producer,
                "_schemaURL": schema("2-0-3", "JobTypeJobFacet"),
                "processingType": "BATCH", "integration": "NIGHTSHIFT", "jobType": "STEP",
            } },
        },
        "inputs": [
            { "namespace": "file", "name": "/data/b.csv" },
            { "namespace": "ns", "name": "x.a" },
        ],
        "outputs": [{
            "namespace": "ns",
            "name": "x.b",
            "facets": {
                "schema": {
                    "_producer": producer,
                    "_schemaURL": schema("1-1-1", "SchemaDatasetFacet"),
                    "fields": [
                        { "name": "k", "type": "BIGINT" }, { "name": "one", "type": "BIGINT" },
                    ],
                },
                "columnLineage": {
                    "_producer": producer,
                    "_schemaURL": schema("1-2-0", "ColumnLineageDatasetFacet"),
                    "fields": { "k": { "inputFields": [{
                        "namespace": "ns", "name": "x.a", "field": "id",
                        "transformations": [{
                            "type": "DIRECT", "subtype": "IDENTITY", "description": "",
                            "masking": false,
                        }],
                    }] } },
                    "dataset": [{
                        "namespace": "file", "name": "/data/b.csv", "field": "id",
                        "transformations": [
                            { "type": "INDIRECT", "subtype": "JOIN", "description": "",
                              "masking": false },
                            { "type": "INDIRECT", "subtype": "FILTER", "description": "",
                              "masking": false },
                        ],
                    }],
                },
                "version": {
                    "_producer": producer,
                    "_schemaURL": schema("1-0-1", "DatasetVersionDatasetFacet"),
                    "datasetVersion": "7",
                },
            },
            "outputFacets": { "outputStatistics": {
                "_producer": producer,
                "_schemaURL": schema("1-0-2", "OutputStatisticsOutputDatasetFacet"),
                "rowCount": 5, "size": 700, "fileCount": 1,
            } },
        }],
    });
    assert_eq!(found[2], expected);
    let end = &found[3];
    assert_eq!(end["run"]["runId"], RUN);
    assert_eq!(end["inputs"][1]["name"], "x.a");
    assert_eq!(end["outputs"][0]["facets"]["version"]["datasetVersion"], "7");
}

/// What the specification requires of every event and facet.
#[test]
fn all_that_is_required_is_there() {
    fn facets(value: &Value, found: &mut Vec<Value>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if name == "facets" || name == "outputFacets" {
                        found.extend(value.as_object().unwrap().values().cloned());
                    }
                    facets(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| facets(value, found)),
            _ => {}
        }
    }
    for event in events(&published(), "ns") {
        for field in ["eventType", "eventTime", "producer", "schemaURL"] {
            assert!(event[field].is_string(), "{field}");
        }
        DateTime::parse_from_rfc3339(event["eventTime"].as_str().unwrap()).unwrap();
        Uuid::parse_str(event["run"]["runId"].as_str().unwrap()).unwrap();
        for field in ["namespace", "name"] {
            assert!(event["job"][field].is_string());
        }
        let mut found = Vec::new();
        facets(&event, &mut found);
        assert!(found.len() >= 3);
        for facet in found {
            assert!(facet["_producer"].is_string() && facet["_schemaURL"].is_string(), "{facet}");
        }
    }
}

#[test]
fn what_goes_on_is_not_told_to_have_ended() {
    let steps = [planned("x.a", "CREATE TABLE"), planned("x.b", "CREATE TABLE")];
    let begun = json!({ "type": "step_begun", "step": 0, "attempt": 1 });
    let failed = json!({ "type": "step_failed", "step": 0, "error": "no answer", "again_in": 1.0 });
    let again = json!({ "type": "step_begun", "step": 0, "attempt": 2 });
    let events_of = |journal: &[Value]| events(&state(command(), &steps, journal), "ns");
    assert_eq!(short(&events_of(std::slice::from_ref(&begun))), ["START p 00", "START p.x.a 01"]);
    // A step that is tried again has not failed yet.
    let tried = events_of(&[begun.clone(), failed.clone()]);
    assert_eq!(short(&tried), ["START p 00", "START p.x.a 01"]);
    let tried = events_of(&[begun.clone(), failed.clone(), again.clone()]);
    assert_eq!(short(&tried), ["START p 00", "START p.x.a 03"]);

    let end = json!({ "type": "failed", "error": "a.sql:1: no answer" });
    let found = events_of(&[begun.clone(), failed, end]);
    let expected = ["START p 00", "START p.x.a 01", "FAIL p.x.a 02", "FAIL p 03"];
    assert_eq!(short(&found), expected);
    let message = |event: &Value| event["run"]["facets"]["errorMessage"]["message"].clone();
    assert_eq!(message(&found[2]), "no answer");
    assert_eq!(message(&found[3]), "a.sql:1: no answer");

    let end = json!({ "type": "cancelled", "reason": "interrupted" });
    let found = events_of(&[begun, end]);
    let expected = ["START p 00", "START p.x.a 01", "ABORT p.x.a 02", "ABORT p 02"];
    assert_eq!(short(&found), expected);
    assert_eq!(message(&found[2]), "interrupted");
}

#[test]
fn a_held_run_has_failed() {
    let gate = json!({
        "of": "x.m", "measure": "rmse", "measured": 2.0, "published": 1.0, "held": "rmse is worse",
    });
    let journal = [
        json!({ "type": "publishing", "gates": [gate] }),
        json!({ "type": "published", "publication": 4, "versions": [], "held": true }),
    ];
    let found = events(&state(command(), &[], &journal), "ns");
    assert_eq!(short(&found), ["START p 00", "FAIL p 02"]);
    assert_eq!(found[1]["run"]["facets"]["errorMessage"]["message"], "rmse is worse");
}

#[test]
fn steps_have_ids_and_jobs_of_their_own() {
    let steps = [planned("x.a", "CREATE TABLE"), planned("x.a", "INSERT"), planned("k", "CHECK")];
    let begun: Vec<_> =
        (0..3).map(|step| json!({ "type": "step_begun", "step": step, "attempt": 1 })).collect();
    let found = events(&state(command(), &steps, &begun), "ns");
    let expected = ["START p 00", "START p.x.a 01", "START p.x.a.2 02", "START p.k 03"];
    assert_eq!(short(&found), expected);
    let ids: BTreeSet<_> =
        found.iter().map(|event| event["run"]["runId"].as_str().unwrap().to_string()).collect();
    assert_eq!(ids.len(), 4);
    // One that was not executed is not told of.
    let mut unchanged = planned("x.a", "CREATE TABLE");
    unchanged["unchanged"] = json!("other");
    assert_eq!(short(&events(&state(command(), &[unchanged], &[]), "ns")), ["START p 00"]);
}

#[test]
fn tables_of_models_have_the_version_of_the_model() {
    let training = json!({ "table": "x.a", "column": "id", "how": ["training"] });
    let lineage = json!({
        "inputs": ["x.a"], "outputs": ["x.m.ranks", "x.m.training_info"], "indirect": [training],
    });
    let made = json!({ "name": "x.m", "rows": 5, "files": 2, "bytes": 700, "seconds": 1.0 });
    let journal = [
        json!({ "type": "step_begun", "step": 0, "attempt": 1 }),
        json!({
            "type": "step_done", "step": 0, "seconds": 1.0, "made": made, "effect": {},
            "lineage": lineage,
        }),
        json!({
            "type": "published", "publication": 4,
            "versions": [{ "kind": "model", "name": "x.m", "version": 2 }],
        }),
    ];
    let found = events(&state(command(), &[planned("x.m", "CREATE MODEL")], &journal), "ns");
    let outputs = found[2]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 2);
    for output in outputs {
        assert_eq!(output["facets"]["version"]["datasetVersion"], "2");
        let columns = &output["facets"]["columnLineage"];
        assert_eq!(columns["fields"], json!({}));
        assert_eq!(columns["dataset"][0]["transformations"][0]["type"], "INDIRECT");
        assert!(output.get("outputFacets").is_none());
    }
}

#[test]
fn files_are_in_the_namespace_of_their_store() {
    let state = published();
    let teller = Teller { state: &state, namespace: "ns" };
    let dataset = |name: &str| {
        let dataset = teller.dataset(name);
        let text = |field: &str| dataset[field].as_str().unwrap().to_string();
        (text("namespace"), text("name"))
    };
    let pair = |namespace: &str, name: &str| (namespace.to_string(), name.to_string());
    assert_eq!(dataset("file:///data/2026-*/*.csv"), pair("file", "/data/2026-*/*.csv"));
    assert_eq!(dataset("s3://bucket/a/b.parquet"), pair("s3://bucket", "a/b.parquet"));
    assert_eq!(dataset("s3://bucket"), pair("s3://bucket", "/"));
    assert_eq!(dataset("x.m.ranks"), pair("ns", "x.m.ranks"));
}
