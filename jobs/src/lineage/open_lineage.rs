//! Runs as OpenLineage tells of them: events of the run and of each of its steps, which follow from its state alone.
//!
//! The same state makes the same events, with the same ids: whoever receives one twice knows it again. Events of a run
//! that goes on are all among those of a later state, apart from what is known later only.

use super::{How, Lineage, Source};
use crate::journal::{Cause, RunState, Status, StepState, StepStatus};
use crate::run::Step;
use chrono::{DateTime, SecondsFormat, Utc};
use nightshift_catalog::registry::Kind;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Who tells it.
const PRODUCER: &str = env!("CARGO_PKG_REPOSITORY");

/// The form of an event.
const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// The events of a run and its steps so far, in the order in which they happened. Jobs and tables are in `namespace`.
pub fn events(state: &RunState, namespace: &str) -> Vec<Value> {
    let teller = Teller { state, namespace };
    let mut events = vec![(state.begun_at, teller.begun())];
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &state.steps {
        let name = step.planned.name.as_str();
        let times = names.entry(name).and_modify(|times| *times += 1).or_insert(1);
        // What makes a table and what adds rows to it are different jobs.
        let job = match *times {
            1 => format!("{}.{name}", state.begun.pipeline),
            times => format!("{}.{name}.{times}", state.begun.pipeline),
        };
        events.extend(teller.step(step, &job));
    }
    events.sort_by_key(|(at, _)| *at);
    let end = state.ended_at.map(|at| teller.ended(at));
    events.into_iter().map(|(_, event)| event).chain(end).collect()
}

/// What of an event tells it from the others of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Start,
    Complete,
    Fail,
    Abort,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Type::Start => "START",
            Type::Complete => "COMPLETE",
            Type::Fail => "FAIL",
            Type::Abort => "ABORT",
        }
    }
}

struct Teller<'a> {
    state: &'a RunState,
    namespace: &'a str,
}

impl Teller<'_> {
    fn run_id(&self) -> String {
        match Uuid::parse_str(&self.state.id) {
            Ok(id) => id.to_string(),
            Err(_) => id_of(&self.state.id),
        }
    }

    fn event(&self, kind: Type, at: DateTime<Utc>, run: Value, job: Value) -> Map<String, Value> {
        let event = json!({
            "eventType": kind.as_str(),
            "eventTime": time(at),
            "run": run,
            "job": job,
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
            "inputs": [],
            "outputs": [],
        });
        object(event)
    }

    fn job(&self, name: &str, kind: &str) -> Value {
        let job_type = json!({
            "processingType": "BATCH",
            "integration": "NIGHTSHIFT",
            "jobType": kind,
        });
        json!({
            "namespace": self.namespace,
            "name": name,
            "facets": { "jobType": facet("JobTypeJobFacet", "2-0-3", job_type) },
        })
    }

    /// What is known of how a run or step has begun.
    fn run_facets(&self) -> Map<String, Value> {
        let engine = json!({ "name": "Nightshift", "version": self.state.begun.driver.version });
        let mut facets = Map::new();
        facets.insert(
            "processing_engine".to_string(),
            facet("ProcessingEngineRunFacet", "1-1-1", engine),
        );
        if let Cause::Schedule { due } = self.state.begun.cause {
            let due = json!({ "nominalStartTime": time(due) });
            facets.insert("nominalTime".to_string(), facet("NominalTimeRunFacet", "1-0-1", due));
        }
        facets
    }

    fn begun(&self) -> Value {
        let run = json!({ "runId": self.run_id(), "facets": self.run_facets() });
        let job = self.job(&self.state.begun.pipeline, "PIPELINE");
        Value::Object(self.event(Type::Start, self.state.begun_at, run, job))
    }

    fn ended(&self, at: DateTime<Utc>) -> Value {
        let state = self.state;
        let held = state.gates.iter().flatten().filter_map(|gate| gate.held.clone());
        let (kind, error) = match state.status {
            Status::Held => (Type::Fail, Some(held.collect::<Vec<_>>().join("; "))),
            Status::Failed => (Type::Fail, state.error.clone()),
            Status::Cancelled => (Type::Abort, state.error.clone()),
            Status::Running | Status::Publishing | Status::Published => (Type::Complete, None),
        };
        let mut facets = self.run_facets();
        add_error(&mut facets, error.as_deref());
        let run = json!({ "runId": self.run_id(), "facets": facets });
        let mut event = self.event(kind, at, run, self.job(&state.begun.pipeline, "PIPELINE"));
        if kind == Type::Complete {
            let lineages = || state.steps.iter().filter_map(|step| step.lineage.as_ref());
            let made: BTreeSet<&String> = lineages().flat_map(|one| &one.outputs).collect();
            let read: BTreeSet<&String> = lineages().flat_map(|one| &one.inputs).collect();
            let read = read.difference(&made).map(|name| self.dataset(name));
            event.insert("inputs".to_string(), read.collect());
            let made = made.iter().map(|name| self.output(name, Map::new()));
            event.insert("outputs".to_string(), made.collect());
        }
        Value::Object(event)
    }

    /// The events of a step with their times.
    fn step(&self, step: &StepState, job: &str) -> Vec<(DateTime<Utc>, Value)> {
        let Some(begun_at) = step.begun_at else { return Vec::new() };
        let id = id_of(&format!("{}\n{job}", self.state.id));
        let parent = json!({
            "run": { "runId": self.run_id() },
            "job": { "namespace": self.namespace, "name": self.state.begun.pipeline },
        });
        let mut facets = self.run_facets();
        facets.insert("parent".to_string(), facet("ParentRunFacet", "1-0-1", parent));
        let run = json!({ "runId": id, "facets": facets });
        let start = self.event(Type::Start, begun_at, run, self.job(job, "STEP"));
        let mut events = vec![(begun_at, Value::Object(start))];
        let (kind, at, error) = match (step.status, self.state.ended_at) {
            (StepStatus::Done, _) => (Type::Complete, step.ended_at.unwrap_or(begun_at), None),
            // Before the run is over, it may be tried again.
            (_, None) => return events,
            (StepStatus::Failed, Some(_)) if self.state.status == Status::Failed => {
                let ended_at = step.ended_at.unwrap_or(begun_at);
                (Type::Fail, ended_at, step.error.as_deref())
            }
            (_, Some(ended_at)) => (Type::Abort, ended_at, self.state.error.as_deref()),
        };
        add_error(&mut facets, error);
        let run = json!({ "runId": id, "facets": facets });
        let mut event = self.event(kind, at, run, self.job(job, "STEP"));
        if let (Type::Complete, Some(lineage)) = (kind, &step.lineage) {
            let inputs = lineage.inputs.iter().map(|name| self.dataset(name));
            event.insert("inputs".to_string(), inputs.collect());
            let outputs = self.outputs(lineage, step.made.as_ref());
            event.insert("outputs".to_string(), Value::Array(outputs));
        }
        events.push((at, Value::Object(event)));
        events
    }

    fn outputs(&self, lineage: &Lineage, made: Option<&Step>) -> Vec<Value> {
        let mut facets = Map::new();
        let column = |column: &super::ColumnLineage| json!({ "name": column.name, "type": column.data_type });
        let columns: Vec<_> = lineage.columns.iter().map(column).collect();
        if !columns.is_empty() {
            let schema = json!({ "fields": columns });
            facets.insert("schema".to_string(), facet("SchemaDatasetFacet", "1-1-1", schema));
        }
        if let Some(columns) = self.column_lineage(lineage) {
            let columns = facet("ColumnLineageDatasetFacet", "1-2-0", columns);
            facets.insert("columnLineage".to_string(), columns);
        }
        let names = lineage.outputs.iter();
        let mut outputs: Vec<_> = names.map(|name| self.output(name, facets.clone())).collect();
        // What is known of a model's tables is only known of all together.
        if let ([output], Some(made)) = (outputs.as_mut_slice(), made) {
            let counts =
                json!({ "rowCount": made.rows, "size": made.bytes, "fileCount": made.files });
            let counts = facet("OutputStatisticsOutputDatasetFacet", "1-0-2", counts);
            output["outputFacets"] = json!({ "outputStatistics": counts });
        }
        outputs
    }

    fn column_lineage(&self, lineage: &Lineage) -> Option<Value> {
        let known = lineage.columns.iter().filter(|column| !column.from.is_empty());
        let field = |column: &super::ColumnLineage| {
            let from: Vec<_> = column.from.iter().map(|source| self.source(source)).collect();
            (column.name.clone(), json!({ "inputFields": from }))
        };
        let fields: Map<_, _> = known.map(field).collect();
        let all: Vec<_> = lineage.indirect.iter().map(|source| self.source(source)).collect();
        if fields.is_empty() && all.is_empty() {
            return None;
        }
        let mut facet = json!({ "fields": fields });
        if !all.is_empty() {
            facet["dataset"] = Value::Array(all);
        }
        Some(facet)
    }

    fn source(&self, source: &Source) -> Value {
        let mut field = self.dataset(&source.table);
        field["field"] = json!(source.column);
        field["transformations"] = source.how.iter().map(|how| transformation(*how)).collect();
        field
    }

    /// A dataset that is made, with the version under which it is published.
    fn output(&self, name: &str, mut facets: Map<String, Value>) -> Value {
        let of_model =
            |model: &str| name.strip_prefix(model).is_some_and(|table| table.starts_with('.'));
        let version = self.state.versions.iter().find(|version| {
            version.name == name || version.kind == Kind::Model && of_model(&version.name)
        });
        if let Some(version) = version {
            let version = json!({ "datasetVersion": version.version.to_string() });
            let version = facet("DatasetVersionDatasetFacet", "1-0-1", version);
            facets.insert("version".to_string(), version);
        }
        let mut dataset = self.dataset(name);
        dataset["facets"] = Value::Object(facets);
        dataset
    }

    /// The name of a dataset: files are in the namespace of their store.
    fn dataset(&self, name: &str) -> Value {
        let (namespace, name) = match name.split_once("://") {
            Some(("file", path)) => ("file".to_string(), path),
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                (format!("{scheme}://{host}"), if path.is_empty() { "/" } else { path })
            }
            None => (self.namespace.to_string(), name),
        };
        json!({ "namespace": namespace, "name": name })
    }
}

/// How something comes from a column. What models do to their data is none of the kinds that there are.
fn transformation(how: How) -> Value {
    let kind = if how.is_direct() { "DIRECT" } else { "INDIRECT" };
    let subtype = match how {
        How::Identity => "IDENTITY",
        How::Transformation => "TRANSFORMATION",
        How::Aggregation => "AGGREGATION",
        How::Join => "JOIN",
        How::GroupBy => "GROUP_BY",
        How::Filter => "FILTER",
        How::Sort => "SORT",
        How::Window => "WINDOW",
        How::Conditional => "CONDITIONAL",
        How::Training => {
            return json!({
                "type": kind,
                "description": "the model is trained on it",
                "masking": false,
            });
        }
    };
    json!({ "type": kind, "subtype": subtype, "description": "", "masking": false })
}

fn add_error(facets: &mut Map<String, Value>, error: Option<&str>) {
    if let Some(message) = error {
        let error = json!({ "message": message, "programmingLanguage": "SQL" });
        facets.insert("errorMessage".to_string(), facet("ErrorMessageRunFacet", "1-0-1", error));
    }
}

/// A facet of the specification, by its name and version.
fn facet(name: &str, version: &str, content: Value) -> Value {
    let mut facet = object(content);
    let schema = format!("https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}");
    facet.insert("_producer".to_string(), json!(PRODUCER));
    facet.insert("_schemaURL".to_string(), json!(schema));
    Value::Object(facet)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The same id for the same text, and another for each other.
fn id_of(text: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests;
