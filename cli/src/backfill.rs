//! `backfill`: a pipeline for each day of a time.

use crate::Failure;
use crate::arguments::BackfillArguments;
use crate::cluster::Executing;
use crate::commands::{fetch_inputs, open};
use crate::output::Output;
use arrow::array::{ArrayRef, Date32Array, RecordBatch, StringArray, UInt64Array};
use chrono::NaiveDate;
use futures::StreamExt;
use nightshift_catalog::CatalogError;
use nightshift_executor::told_to_stop;
use nightshift_jobs::journal::{Cause, Driver};
use nightshift_jobs::pipeline::{Done, Given, Pipeline, Source, Start};
use nightshift_jobs::progress::Silent;
use nightshift_jobs::queries::{Caller, Via};
use nightshift_jobs::session::Session;
use nightshift_jobs::{JobError, counted};
use std::sync::Arc;

/// How often a day is run when others have changed the same tables meanwhile.
const ATTEMPTS: usize = 20;

/// Runs a pipeline for each day, some at the same time, and prints what has become of each. Days that can't be run don't
/// keep others from it.
pub async fn backfill(arguments: BackfillArguments) -> Result<(), Failure> {
    let BackfillArguments { pipeline, from, to, parallel, parameters, place } = arguments;
    if to < from {
        return Err(format!("--to {to} is before --from {from}").into());
    }
    let source = Source::read(&pipeline)?;
    let given = |day| Given::Day(Some(day), parameters.iter().cloned().collect());
    // What is wrong is wrong on all days.
    let first = Pipeline::of(source.clone(), &given(from))?;
    fetch_inputs(&first)?;
    let opened = open(&place, Some(first.folder()), Executing::Within).await?;
    let days: Vec<NaiveDate> = from.iter_days().take_while(|day| *day <= to).collect();
    let total = days.len();
    let runs = futures::stream::iter(days).map(|day| {
        let (session, source, given) = (opened.session.clone(), source.clone(), given(day));
        async move { (day, run(session, source, given).await) }
    });
    let mut runs = std::pin::pin!(runs.buffer_unordered(parallel));
    let mut done = Vec::new();
    loop {
        let next = tokio::select! {
            next = runs.next() => next,
            () = told_to_stop() => return Err(crate::Interrupted.into()),
        };
        let Some((day, outcome)) = next else { break };
        match &outcome {
            Ok(_) => eprintln!("[{}/{total}] {day}", done.len() + 1),
            Err(error) => eprintln!("[{}/{total}] {day} has failed: {error}", done.len() + 1),
        }
        done.push((day, outcome));
    }
    done.sort_by_key(|(day, _)| *day);
    let mut output = Output::new(place.format, None)?;
    output.all(&rows(&done)?)?;
    output.close()?;
    match done.iter().filter(|(_, outcome)| outcome.is_err()).count() {
        0 => Ok(()),
        1 => Err(format!("1 of {} has failed", counted(total, "day")).into()),
        failed => Err(format!("{failed} of {total} days have failed").into()),
    }
}

/// Runs a day, and again if another day was published in between that has changed the same tables.
async fn run(session: Session, source: Source, given: Given) -> Result<Done, JobError> {
    let mut attempt = 1;
    loop {
        let pipeline = Pipeline::of(source.clone(), &given)?;
        let cause = Cause::Command { who: Caller::of_this_process(Via::Pipeline).who };
        let start = Start::now(cause, Driver::this(false), false);
        let never = std::future::pending();
        match pipeline.run(session.clone(), start, Arc::new(Silent), never).await {
            Err(JobError::Catalog(CatalogError::Conflict { .. })) if attempt < ATTEMPTS => {
                attempt += 1
            }
            done => return done,
        }
    }
}

fn rows(done: &[(NaiveDate, Result<Done, JobError>)]) -> Result<RecordBatch, Failure> {
    let epoch = NaiveDate::default();
    let days = done.iter().map(|(day, _)| (*day - epoch).num_days() as i32);
    let run = |outcome: &Result<Done, JobError>| outcome.as_ref().ok().map(|done| done.run.clone());
    let rows = |outcome: &Result<Done, JobError>| {
        outcome.as_ref().ok().map(|done| done.steps.iter().map(|step| step.rows).sum::<u64>())
    };
    let error = |outcome: &Result<Done, JobError>| outcome.as_ref().err().map(ToString::to_string);
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("day", Arc::new(Date32Array::from_iter_values(days)) as ArrayRef, false),
        ("run", Arc::new(done.iter().map(|(_, o)| run(o)).collect::<StringArray>()), true),
        ("rows", Arc::new(done.iter().map(|(_, o)| rows(o)).collect::<UInt64Array>()), true),
        ("error", Arc::new(done.iter().map(|(_, o)| error(o)).collect::<StringArray>()), true),
    ])?)
}
