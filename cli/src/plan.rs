//! `plan`: what a run of a pipeline would do.

use crate::Failure;
use crate::arguments::{Format, RunAllArguments};
use crate::cluster::Executing;
use crate::commands::open;
use crate::output::{Output, say};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use nightshift_jobs::counted;
use nightshift_jobs::pipeline::{Pipeline, PlannedStep, Source};
use std::sync::Arc;

/// Prints the steps of a run with what would become of them, and which columns of published tables would change.
pub async fn plan(arguments: RunAllArguments) -> Result<(), Failure> {
    let RunAllArguments { all, only, run } = arguments;
    let pipeline = Pipeline::of(Source::read(&run.pipeline)?, &run.given())?;
    let mut output = Output::new(run.place.format, None)?;
    let opened = open(&run.place, Some(pipeline.folder()), Executing::Within).await?;
    let mut steps = pipeline.plan(&opened.session, all, &only).await?;
    pipeline.estimate(&opened.session, &mut steps).await?;
    output.all(&rows(&steps)?)?;
    output.close()?;
    if run.place.format == Format::Table {
        for change in pipeline.column_changes(opened.session.clone(), &steps).await? {
            say!("{change}");
        }
        let runs = steps.iter().filter(|step| step.why.is_some()).count();
        let all = counted(steps.len(), "step");
        eprintln!("{}: {runs} of {all} would be executed", pipeline.name());
    }
    Ok(())
}

fn rows(steps: &[PlannedStep]) -> Result<RecordBatch, Failure> {
    let texts = |of: fn(&PlannedStep) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(steps.iter().map(of)))
    };
    let lines = UInt64Array::from_iter_values(steps.iter().map(|step| step.step.line));
    let bytes = UInt64Array::from_iter_values(steps.iter().map(|step| step.bytes));
    let executed = |step: &PlannedStep| match (&step.why, step.step.left_out) {
        (Some(_), _) => "runs",
        (None, true) => "left out",
        (None, false) => "unchanged",
    };
    let executed = StringArray::from_iter_values(steps.iter().map(executed));
    Ok(RecordBatch::try_from_iter([
        ("step", texts(|step| step.step.name.clone())),
        ("statement", texts(|step| step.step.action.clone())),
        ("file", texts(|step| step.step.file.clone())),
        ("line", Arc::new(lines) as ArrayRef),
        ("plan", Arc::new(executed)),
        ("because", texts(|step| step.why.as_ref().map_or(String::new(), |why| why.text()))),
        ("reads", texts(|step| step.reads.join(", "))),
        ("published_bytes_read", Arc::new(bytes)),
    ])?)
}
