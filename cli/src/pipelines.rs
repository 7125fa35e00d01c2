//! `deploy`, `pipelines`, `pause`, `resume`, `undeploy`: the pipelines that schedulers run by themselves.

use crate::Failure;
use crate::arguments::{NamedPipeline, Place, RunArguments};
use crate::check;
use crate::cluster::Executing;
use crate::commands::{fetch_inputs, open, warehouse_of};
use crate::output::Output;
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampSecondArray, UInt64Array};
use chrono::Utc;
use nightshift_jobs::audit;
use nightshift_jobs::pipeline::{AllDeployed, Deployed, Draft, Given, Pipeline, next};
use nightshift_jobs::queries::{Caller, Via};
use std::sync::Arc;

/// Deploys the pipeline in a folder, if nothing is wrong in it.
pub async fn deploy(arguments: RunArguments) -> Result<(), Failure> {
    if !arguments.parameters.is_empty() || arguments.date.is_some() {
        let reason = "what a deployed pipeline is run with is said in its pipeline.toml, and its day follows from its schedule";
        return Err(reason.into());
    }
    let pipeline = Pipeline::read(&arguments.pipeline)?;
    fetch_inputs(&pipeline)?;
    let opened = open(&arguments.place, None, Executing::Within).await?;
    let warehouse = opened.session.warehouse();
    let pipeline = pipeline.with_kept_inputs(warehouse).await?;
    let checked = Draft::of(pipeline.source().clone(), &Given::default())?
        .check(opened.session.clone())
        .await?;
    check::refuse(&checked)?;
    let caller = Caller::of_this_process(Via::Pipeline);
    let mut all = AllDeployed::read(warehouse).await?;
    let deployed = all.deploy(warehouse, &pipeline, &caller.who).await?;
    let Deployed { name, version, .. } = deployed;
    audit::record(&caller, format!("{name} version {version}"), "DEPLOY", name, "done");
    match next(deployed, pipeline.settings().schedule.as_ref(), Utc::now()) {
        Some(at) => {
            let at = at.format("%Y-%m-%d %H:%M:%S UTC");
            eprintln!("{name} version {version} is deployed; it is due next at {at}");
        }
        None if deployed.paused_by.is_some() => {
            eprintln!("{name} version {version} is deployed, and paused");
        }
        None => eprintln!("{name} version {version} is deployed"),
    }
    if pipeline.settings().schedule.is_none() {
        eprintln!("note: pipeline.toml has no [schedule], so nothing runs it by itself");
    }
    Ok(())
}

/// Lists deployed pipelines.
pub async fn list(place: Place) -> Result<(), Failure> {
    let warehouse = warehouse_of(&place)?;
    let all = AllDeployed::read(&warehouse).await?;
    let mut rows = Vec::new();
    for deployed in all.pipelines() {
        let pipeline = deployed.pipeline(&warehouse).await;
        let due = pipeline
            .as_ref()
            .ok()
            .and_then(|pipeline| next(deployed, pipeline.settings().schedule.as_ref(), Utc::now()));
        let schedule = match &pipeline {
            Ok(pipeline) => pipeline.settings().schedule.as_ref().map(ToString::to_string),
            Err(error) => Some(format!("damaged: {error}")),
        };
        let owner = pipeline.ok().and_then(|pipeline| pipeline.settings().owner.clone());
        rows.push((deployed, schedule, due, owner));
    }
    let texts = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    let times = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampSecondArray::from(values).with_timezone("UTC"))
    };
    let paused = |deployed: &Deployed| if deployed.paused_by.is_some() { "paused" } else { "runs" };
    let versions = rows.iter().map(|(deployed, ..)| deployed.version);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("pipeline", texts(rows.iter().map(|row| Some(row.0.name.as_str())).collect()), true),
        ("version", Arc::new(UInt64Array::from_iter_values(versions)) as ArrayRef, true),
        ("state", texts(rows.iter().map(|row| Some(paused(row.0))).collect()), true),
        ("schedule", texts(rows.iter().map(|row| row.1.as_deref()).collect()), true),
        ("next", times(rows.iter().map(|row| row.2.map(|at| at.timestamp())).collect()), true),
        ("owner", texts(rows.iter().map(|row| row.3.as_deref()).collect()), true),
        (
            "deployed_at",
            times(rows.iter().map(|row| Some(row.0.deployed_at.timestamp())).collect()),
            true,
        ),
        (
            "deployed_by",
            texts(rows.iter().map(|row| Some(row.0.deployed_by.as_str())).collect()),
            true,
        ),
    ])?;
    let mut output = Output::new(place.format, None)?;
    output.all(&batch)?;
    output.close()
}

/// What is to become of a deployed pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is not run at its times.
    Pause,
    /// It is run again.
    Resume,
    /// It is not run any more.
    Undeploy,
}

/// Pauses, resumes or undeploys a pipeline.
pub async fn change(arguments: NamedPipeline, change: Change) -> Result<(), Failure> {
    let NamedPipeline { name, place } = arguments;
    let warehouse = warehouse_of(&place)?;
    let caller = Caller::of_this_process(Via::Pipeline);
    let mut all = AllDeployed::read(&warehouse).await?;
    let (action, said) = match change {
        Change::Pause => {
            all.pause(&name, &caller.who).await?;
            ("PAUSE", "is paused; a run that is under way goes on")
        }
        Change::Resume => {
            all.resume(&name, &caller.who).await?;
            ("RESUME", "is run again, from its next time on")
        }
        Change::Undeploy => {
            all.undeploy(&name, &caller.who).await?;
            ("UNDEPLOY", "is not run any more; what it has published stays")
        }
    };
    audit::record(&caller, &name, action, &name, "done");
    eprintln!("{name} {said}");
    Ok(())
}
