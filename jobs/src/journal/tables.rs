//! Runs, their steps and their events as tables.

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

/// Seconds as they are read: to the millisecond.
fn seconds(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    let rounded = values.map(|value| value.map(|value| (value * 1000.0).round() / 1000.0));
    Arc::new(rounded.collect::<Float64Array>())
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
    let word = |brief: Option<&Brief>| brief.map_or("damaged", |brief| brief.status.as_str());
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
