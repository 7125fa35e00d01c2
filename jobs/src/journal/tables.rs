//! Runs, their steps, gates and events as tables.

use super::history::{Brief, Kept};
use super::{Event, RunState};
use crate::Result;
use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use chrono::{DateTime, Utc};
use nightshift_catalog::journal::Record;
use std::sync::Arc;

fn texts<S: AsRef<str>>(values: impl Iterator<Item = Option<S>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
}

fn times(values: impl Iterator<Item = Option<DateTime<Utc>>>) -> ArrayRef {
    let values = values.map(|value| value.map(|value| value.timestamp_micros()));
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

/// Seconds as they are read: to the millisecond.
fn seconds(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    floats(values.map(|value| value.map(|value| (value * 1000.0).round() / 1000.0)))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// A row for each run.
pub fn runs(runs: &[Kept<Brief>]) -> Result<RecordBatch> {
    let of = || runs.iter().map(|kept| kept.run.as_ref().ok());
    let error = |kept: &Kept<Brief>| match &kept.run {
        Ok(brief) => brief.error.clone(),
        Err(error) => Some(error.to_string()),
    };
    let word = |brief: Option<&Brief>| brief.map_or("damaged", Brief::word);
    batch(vec![
        ("run", texts(runs.iter().map(|kept| Some(&kept.id)))),
        ("pipeline", texts(of().map(|brief| brief.map(|brief| &brief.pipeline)))),
        ("status", texts(of().map(|brief| Some(word(brief))))),
        ("cause", texts(of().map(|brief| brief.map(|brief| brief.cause.to_string())))),
        ("begun_at", times(of().map(|brief| brief.map(|brief| brief.begun_at)))),
        ("ended_at", times(of().map(|brief| brief.and_then(|brief| brief.ended_at)))),
        ("seconds", seconds(of().map(|brief| brief.map(|brief| brief.seconds)))),
        ("steps", numbers(of().map(|brief| brief.map(|brief| brief.steps)))),
        ("steps_done", numbers(of().map(|brief| brief.map(|brief| brief.steps_done)))),
        ("publication", numbers(of().map(|brief| brief.and_then(|brief| brief.publication)))),
        ("taken_over", numbers(of().map(|brief| brief.map(|brief| u64::from(brief.taken_over))))),
        ("error", texts(runs.iter().map(error))),
    ])
}

/// A row for each step of each run.
pub fn steps<'a>(runs: impl Iterator<Item = &'a RunState>) -> Result<RecordBatch> {
    let steps: Vec<_> = runs
        .flat_map(|run| run.steps.iter().enumerate().map(move |(at, step)| (run, at, step)))
        .collect();
    let of = || steps.iter().map(|(_, _, step)| *step);
    let made = || of().map(|step| step.made.as_ref());
    batch(vec![
        ("run", texts(steps.iter().map(|(run, ..)| Some(&run.id)))),
        ("step", numbers(steps.iter().map(|(_, at, _)| Some(*at as u64 + 1)))),
        ("name", texts(of().map(|step| Some(&step.planned.name)))),
        ("statement", texts(of().map(|step| Some(&step.planned.action)))),
        ("file", texts(of().map(|step| Some(&step.planned.file)))),
        ("line", numbers(of().map(|step| Some(step.planned.line)))),
        ("status", texts(of().map(|step| Some(step.status.as_str())))),
        ("attempts", numbers(of().map(|step| Some(u64::from(step.attempts))))),
        ("begun_at", times(of().map(|step| step.begun_at))),
        ("seconds", seconds(of().map(|step| step.seconds))),
        ("rows", numbers(made().map(|made| made.map(|made| made.rows)))),
        ("files", numbers(made().map(|made| made.map(|made| made.files)))),
        ("bytes", numbers(made().map(|made| made.map(|made| made.bytes)))),
        (
            "wrong_rows",
            numbers(of().map(|step| step.wrong.as_ref().map(|wrong| wrong.rows as u64))),
        ),
        ("error", texts(of().map(|step| step.error.as_ref()))),
    ])
}

/// A row for each gate of each run that has come to them.
pub fn gates<'a>(runs: impl Iterator<Item = &'a RunState>) -> Result<RecordBatch> {
    let gates: Vec<_> = runs
        .flat_map(|run| {
            run.gates.iter().flatten().enumerate().map(move |(at, gate)| (run, at, gate))
        })
        .collect();
    let of = || gates.iter().map(|(_, _, gate)| *gate);
    let kinds = gates.iter().map(|(run, _, gate)| Some(kind(run, gate.subject().0)));
    batch(vec![
        ("run", texts(gates.iter().map(|(run, ..)| Some(&run.id)))),
        ("pipeline", texts(gates.iter().map(|(run, ..)| Some(&run.begun.pipeline)))),
        ("gate", numbers(gates.iter().map(|(_, at, _)| Some(*at as u64 + 1)))),
        ("name", texts(of().map(|gate| Some(gate.subject().0)))),
        ("kind", texts(kinds)),
        ("column_name", texts(of().map(|gate| gate.subject().1))),
        ("measure", texts(of().map(|gate| Some(&gate.measure)))),
        ("measured", floats(of().map(|gate| gate.measured))),
        ("published", floats(of().map(|gate| gate.published))),
        ("outcome", texts(of().map(|gate| Some(gate.outcome())))),
        ("reason", texts(of().map(|gate| gate.held.as_ref()))),
    ])
}

/// What a gate of a run is about: a model if a step makes one of that name.
fn kind(run: &RunState, name: &str) -> &'static str {
    let makes_model = |action: &str| ["CREATE MODEL", "SET VERSION"].contains(&action);
    let mut steps = run.steps.iter().map(|step| &step.planned);
    match steps.any(|step| step.name == name && makes_model(&step.action)) {
        true => "model",
        false => "table",
    }
}

/// A row for each event of each run.
pub fn events<'a>(
    events: impl Iterator<Item = (&'a str, &'a Record<Event>)>,
) -> Result<RecordBatch> {
    let events: Vec<_> = events.collect();
    let of = || events.iter().map(|(_, record)| record);
    let step = |record: &&Record<Event>| record.event.step().map(|step| step as u64 + 1);
    batch(vec![
        ("run", texts(events.iter().map(|(run, _)| Some(run)))),
        ("number", numbers(of().map(|record| Some(record.number)))),
        ("at", times(of().map(|record| Some(record.at)))),
        ("event", texts(of().map(|record| Some(record.event.word())))),
        ("step", numbers(of().map(step))),
        ("writer", texts(of().map(|record| Some(&record.writer)))),
        ("details", texts(of().map(|record| Some(record.event.json())))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::util::display::array_value_to_string;
    use serde_json::json;

    #[test]
    fn what_gates_have_found_are_rows() {
        let step = |name: &str, action: &str| json!({"name": name, "action": action, "file": "a.sql", "line": 1});
        let events = [
            json!({
                "type": "begun", "pipeline": "p", "source": "", "publication": 1,
                "steps": [step("x.t", "CREATE TABLE"), step("x.m", "CREATE MODEL")],
                "cause": {"by": "command", "who": "ann"},
                "driver": {"host": "h", "process": 1, "version": "1", "scheduler": false},
            }),
            json!({"type": "publishing", "gates": [
                {"of": "x.m", "measure": "loss", "measured": 0.5, "published": 0.25, "held": "too much"},
                {"of": "x.t", "measure": "rows", "measured": 3.0, "published": null, "held": null},
                {"of": "x.t.a.b", "measure": "drift", "measured": null, "published": null, "held": null},
                // What has no number is written down as none.
                {"of": "x.t.c", "measure": "mean", "measured": null, "published": null, "held": "it has none"},
            ]}),
        ];
        let record = |(number, event): (usize, &serde_json::Value)| -> Record<Event> {
            let record = json!({
                "format": 1, "number": number + 1, "at": "2026-03-02T03:00:00Z", "writer": "w",
                "event": event,
            });
            serde_json::from_value(record).unwrap()
        };
        let records: Vec<_> = events.iter().enumerate().map(record).collect();
        let before = RunState::fold("r", &records[..1]).unwrap();
        assert_eq!(gates(std::iter::once(&before)).unwrap().num_rows(), 0);
        let run = RunState::fold("r", &records).unwrap();
        let rows = gates(std::iter::once(&run)).unwrap();
        let expected: [(&str, [&str; 4]); 9] = [
            ("run", ["r", "r", "r", "r"]),
            ("gate", ["1", "2", "3", "4"]),
            ("name", ["x.m", "x.t", "x.t", "x.t"]),
            ("kind", ["model", "table", "table", "table"]),
            ("column_name", ["", "", "a.b", "c"]),
            ("measured", ["0.5", "3.0", "", ""]),
            ("published", ["0.25", "", "", ""]),
            ("outcome", ["held", "passed", "not measured", "held"]),
            ("reason", ["too much", "", "", "it has none"]),
        ];
        for (name, values) in expected {
            let column = rows.column_by_name(name).unwrap();
            let found: Vec<_> = (0..rows.num_rows())
                .map(|row| array_value_to_string(column, row).unwrap())
                .collect();
            assert_eq!(found, values, "{name}");
        }
    }
}
