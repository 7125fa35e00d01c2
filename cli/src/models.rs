//! `models`: versions of models, how they differ, and which one everybody reads.

use crate::Failure;
use crate::arguments::{ModelsArguments, ModelsCommand, Place};
use crate::commands::{tell_published, warehouse_of};
use crate::output::Output;
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampSecondArray, UInt64Array};
use nightshift_catalog::registry::{Entry, Kind, ModelDetails, Registry};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::audit;
use nightshift_jobs::queries::{Caller, Via};
use nightshift_jobs::versions;
use std::sync::Arc;

/// Does what a subcommand says; lists models if there is none.
pub async fn models(arguments: ModelsArguments) -> Result<(), Failure> {
    let ModelsArguments { command, place } = arguments;
    let warehouse = warehouse_of(&place)?;
    let registry = warehouse.registry().await?;
    match command {
        None => {
            let all = registry.all_current();
            print(
                &place,
                &listed(&all.into_iter().filter(is_model).collect::<Vec<_>>(), &registry)?,
            )
        }
        Some(ModelsCommand::Versions { model }) => {
            let rows = registry.entries().iter().filter(|row| is_model(row) && row.name == model);
            let mut rows: Vec<_> = rows.filter(|row| !row.dropped).collect();
            if rows.is_empty() {
                return Err(format!("there is no model {model}").into());
            }
            rows.sort_by_key(|row| row.version);
            rows.dedup_by_key(|row| row.version);
            print(&place, &listed(&rows, &registry)?)
        }
        Some(ModelsCommand::Diff { model, one, other, all }) => {
            let one = versions::version(&registry, &model, one)?;
            let other = versions::version(&registry, &model, other)?;
            print(&place, &compared(one, other, all)?)
        }
        Some(ModelsCommand::Rollback { model, to }) => {
            let version = match to {
                Some(version) => version,
                None => versions::before(&registry, &model)?,
            };
            publish(&warehouse, &model, version, "ROLLBACK MODEL").await
        }
        Some(ModelsCommand::Promote { model, version }) => {
            let version = match version {
                Some(version) => version,
                None => versions::held(&registry, &model)?,
            };
            publish(&warehouse, &model, version, "PROMOTE MODEL").await
        }
    }
}

fn is_model(entry: &&Entry) -> bool {
    entry.kind == Kind::Model
}

fn print(place: &Place, rows: &RecordBatch) -> Result<(), Failure> {
    let mut output = Output::new(place.format, None)?;
    output.all(rows)?;
    output.close()
}

async fn publish(
    warehouse: &Warehouse,
    model: &str,
    version: u64,
    action: &str,
) -> Result<(), Failure> {
    let caller = Caller::of_this_process(Via::Pipeline);
    let published = versions::publish(warehouse, model, version).await;
    let outcome = if published.is_ok() { "done" } else { "failed" };
    audit::record(&caller, version, action, model, outcome);
    tell_published(&published?);
    Ok(())
}

fn texts(values: Vec<Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

/// A row for each version.
fn listed(entries: &[&Entry], registry: &Registry) -> Result<RecordBatch, Failure> {
    let state = |entry: &&Entry| {
        let current = registry.current(Kind::Model, &entry.name).map(|now| now.version);
        let state = match (current == Some(entry.version), entry.held) {
            (true, _) => "published",
            (false, true) => "held",
            (false, false) => "earlier",
        };
        Some(state.to_string())
    };
    let metric = |name: &'static str| {
        let of = move |entry: &&Entry| {
            entry
                .model()
                .and_then(|model| model.metrics.get(name))
                .map(|value| format!("{value:.6}"))
        };
        texts(entries.iter().map(of).collect())
    };
    let details = |of: fn(&ModelDetails) -> String| {
        texts(entries.iter().map(|entry| entry.model().map(of)).collect())
    };
    let times = entries.iter().map(|entry| Some(entry.published_at / 1_000_000));
    let times = TimestampSecondArray::from(times.collect::<Vec<_>>()).with_timezone("UTC");
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("model", texts(entries.iter().map(|entry| Some(entry.name.clone())).collect()), true),
        (
            "version",
            Arc::new(UInt64Array::from_iter_values(entries.iter().map(|entry| entry.version))),
            true,
        ),
        ("state", texts(entries.iter().map(state).collect()), true),
        ("made_at", Arc::new(times) as ArrayRef, true),
        ("type", details(|details| details.model_type.clone()), true),
        ("loss", metric("loss"), true),
        ("iterations", metric("iterations"), true),
        ("held_by", details(|details| details.held_by.join("; ")), true),
    ])?)
}

fn compared(one: &Entry, other: &Entry, all: bool) -> Result<RecordBatch, Failure> {
    let found = versions::differences(one, other, all);
    let (first, second) =
        (format!("version {}", one.version), format!("version {}", other.version));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("of", texts(found.iter().map(|row| Some(row.of.to_string())).collect()), true),
        ("name", texts(found.iter().map(|row| Some(row.name.clone())).collect()), true),
        (first.as_str(), texts(found.iter().map(|row| row.one.clone()).collect()), true),
        (second.as_str(), texts(found.iter().map(|row| row.other.clone()).collect()), true),
    ])?)
}
