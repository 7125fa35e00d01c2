//! `ml_weights` and `ml_training_info`: what a model consists of, and how it came about.

use super::arguments::Arguments;
use super::model::{Model, column, scan};
use crate::introspection;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{JoinType, LogicalPlan, LogicalPlanBuilder, cast, lit};
use std::sync::Arc;

pub(super) fn weights(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[1])?;
    let model = model.factorization(arguments.function())?;
    let side = |name: &str, table, id: &str| -> PlanResult<LogicalPlanBuilder> {
        scan(name, table)?.project([
            lit(id).alias("processed_input"),
            cast(column(name, id), DataType::Utf8).alias("feature"),
            column(name, "factors").alias("factor_weights"),
            column(name, "bias").alias("intercept"),
        ])
    };
    let items = side("items", model.items, model.item().name())?.build()?;
    side("users", model.users, model.user().name())?.union(items)?.build()
}

pub(super) fn training_info(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[1])?;
    let info = model.table("training_info")?;
    let seconds = &model.details.iteration_seconds;
    let iterations = Int64Array::from_iter_values(1..=seconds.len() as i64);
    let durations = RecordBatch::try_from_iter([
        ("iteration", Arc::new(iterations) as ArrayRef),
        ("seconds", Arc::new(Float64Array::from(seconds.clone()))),
    ])?;
    let durations = LogicalPlanBuilder::from(introspection::rows(&durations)?);
    let same = column("info", "iteration").eq(column("durations", "iteration"));
    let fields = info.schema();
    let columns = fields.fields().iter().map(|field| column("info", field.name()));
    let columns = columns.chain([column("durations", "seconds")]);
    let columns: Vec<_> = columns
        .map(|expr| {
            let name = expr.qualified_name().1;
            expr.alias(name)
        })
        .collect();
    scan("info", info)?
        .join_on(durations.alias("durations")?.build()?, JoinType::Left, [same])?
        .project(columns)?
        .build()
}
