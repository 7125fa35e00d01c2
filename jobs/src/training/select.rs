//! The columns of a training query: found, checked by their types, and put in order.

use super::options::{MatrixFactorization, ModelSpec, PageRank};
use crate::{JobError, Result};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ExprSchema;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use nightshift_catalog::schema::stored;
use nightshift_catalog::warehouse::Name;

/// The columns of a training query: the option that names each, and its name.
pub struct Columns<'a> {
    /// The row's id: a user, or the source of an edge.
    pub row: (&'a str, &'a str),
    /// The column's id: an item, or the target of an edge.
    pub column: (&'a str, &'a str),
    /// The weight; 1 without it.
    pub weight: Option<(&'a str, &'a str)>,
    /// Whether weights can be negative.
    pub negative: bool,
}

impl MatrixFactorization {
    /// The columns that the options name.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            row: ("user_col", &self.user),
            column: ("item_col", &self.item),
            weight: Some(("rating_col", &self.rating)),
            negative: true,
        }
    }
}

impl PageRank {
    /// The columns that the options name.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            row: ("source_col", &self.source),
            column: ("target_col", &self.target),
            weight: self.weight.as_deref().map(|weight| ("weight_col", weight)),
            negative: false,
        }
    }
}

impl ModelSpec {
    /// The columns that the options name.
    pub fn columns(&self) -> Columns<'_> {
        match self {
            ModelSpec::MatrixFactorization(spec) => spec.columns(),
            ModelSpec::PageRank(spec) => spec.columns(),
        }
    }
}

/// An error of a model's training data.
pub fn data_error(model: &Name, reason: String) -> JobError {
    JobError::TrainingData { model: model.to_string(), reason }
}

/// The error of a training query without rows.
pub fn no_rows(model: &Name) -> JobError {
    data_error(model, "the training query returns no rows".to_string())
}

/// A training query's rows as the columns `row`, `column` and `weight`.
pub fn select(model: &Name, plan: LogicalPlan, columns: &Columns<'_>) -> Result<LogicalPlan> {
    let selected = [
        id(model, &plan, columns.row)?.alias("row"),
        id(model, &plan, columns.column)?.alias("column"),
        match columns.weight {
            None => lit(1.0f64),
            Some(option) => weight(model, &plan, option)?,
        }
        .alias("weight"),
    ];
    Ok(LogicalPlanBuilder::from(plan).project(selected)?.build()?)
}

fn id(model: &Name, plan: &LogicalPlan, option: (&str, &str)) -> Result<Expr> {
    let (expr, data_type) = find(model, plan, option)?;
    let name = option.1;
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let reason = format!(
                "column {name} is a {data_type} and can't be an id: cast it to BIGINT or VARCHAR"
            );
            Err(data_error(model, reason))
        }
        nested if nested.is_nested() => {
            Err(data_error(model, format!("column {name} is a {nested} and can't be an id")))
        }
        // Whatever a table can't hold is refused under the name that the user knows.
        other => {
            stored(&Schema::new(vec![Field::new(name, other, true)]))?;
            Ok(expr)
        }
    }
}

fn weight(model: &Name, plan: &LogicalPlan, option: (&str, &str)) -> Result<Expr> {
    let (expr, data_type) = find(model, plan, option)?;
    if data_type.is_numeric() {
        return Ok(cast(expr, DataType::Float64));
    }
    let reason =
        format!("column {} is a {data_type} and can't be a weight: cast it to DOUBLE", option.1);
    Err(data_error(model, reason))
}

fn find(
    model: &Name,
    plan: &LogicalPlan,
    (option, name): (&str, &str),
) -> Result<(Expr, DataType)> {
    let schema = plan.schema();
    let found = schema.columns().into_iter().find(|column| column.name == name);
    let column = found.ok_or_else(|| {
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        JobError::Option {
            model: model.to_string(),
            option: option.to_string(),
            reason: format!("the training query has no column {name}, only {}", names.join(", ")),
        }
    })?;
    let data_type = schema.field_from_column(&column)?.data_type().clone();
    Ok((Expr::Column(column), data_type))
}
