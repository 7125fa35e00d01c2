//! `check`: what is wrong in a pipeline, all of it at once, without running anything.

use crate::Failure;
use crate::arguments::{Format, RunArguments};
use crate::cluster::Executing;
use crate::commands::open;
use crate::output::Output;
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use nightshift_jobs::pipeline::{Checked, Draft, Part, Source};
use nightshift_jobs::{JobError, counted};
use std::sync::Arc;
use std::time::Instant;

/// Prints the statements in their order if nothing is wrong, and everything that is wrong if something is.
pub async fn check(arguments: RunArguments) -> Result<(), Failure> {
    let started = Instant::now();
    let folder = &arguments.pipeline;
    let mut output = Output::new(arguments.place.format, None)?;
    let draft = Draft::of(Source::read(folder)?, &arguments.given())?;
    let opened = open(&arguments.place, Some(folder), Executing::Within).await?;
    let checked = draft.check(opened.session.clone()).await?;
    let Checked { name, parts, mistakes } = &checked;
    if mistakes.is_empty() {
        output.all(&of_parts(parts)?)?;
        let seconds = started.elapsed().as_secs_f64();
        let count = counted(parts.len(), "statement");
        eprintln!("{name}: {count}, nothing is wrong ({seconds:.1} s)");
        return output.close();
    }
    if arguments.place.format != Format::Table {
        output.all(&of_mistakes(mistakes)?)?;
    }
    output.close()?;
    match arguments.place.format {
        Format::Table => refuse(&checked),
        _ => Err(count(&checked).into()),
    }
}

/// Fails if something is wrong, and says what.
pub fn refuse(checked: &Checked) -> Result<(), Failure> {
    if checked.mistakes.is_empty() {
        return Ok(());
    }
    checked.mistakes.iter().for_each(|mistake| eprintln!("error: {mistake}"));
    Err(count(checked).into())
}

fn count(checked: &Checked) -> String {
    let count = counted(checked.mistakes.len(), "mistake");
    format!("{count} in the pipeline {}; nothing was run", checked.name)
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn of_parts(parts: &[Part]) -> Result<RecordBatch, Failure> {
    let makes = parts.iter().map(|part| (!part.makes.is_empty()).then(|| part.makes.join(", ")));
    let reads: Vec<String> = parts.iter().map(|part| part.reads.join(", ")).collect();
    Ok(RecordBatch::try_from_iter([
        ("file", texts(parts.iter().map(|part| part.file.as_str()))),
        ("line", Arc::new(UInt64Array::from_iter_values(parts.iter().map(|part| part.line)))),
        ("statement", texts(parts.iter().map(|part| part.action))),
        ("makes", Arc::new(StringArray::from_iter(makes))),
        ("reads", texts(reads.iter().map(String::as_str))),
    ])?)
}

fn of_mistakes(mistakes: &[JobError]) -> Result<RecordBatch, Failure> {
    let places: Vec<_> = mistakes.iter().map(JobError::place).collect();
    let files = places.iter().map(|place| place.map(|(file, ..)| file));
    let lines = places.iter().map(|place| place.map(|(_, line, _)| line));
    let columns = places.iter().map(|place| place.and_then(|(.., column)| column));
    let reasons: Vec<String> = mistakes.iter().map(JobError::reason).collect();
    Ok(RecordBatch::try_from_iter([
        ("file", Arc::new(StringArray::from_iter(files)) as ArrayRef),
        ("line", Arc::new(UInt64Array::from_iter(lines))),
        ("column", Arc::new(UInt64Array::from_iter(columns))),
        ("mistake", texts(reasons.iter().map(String::as_str))),
    ])?)
}
