//! Columns for a table: those that a statement declares, and values for those that there are.

use crate::{JobError, Result, counted};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::sql::sqlparser::ast::{ColumnDef, ColumnOption};
use std::collections::HashMap;

/// The columns that a statement declares: their text without options, and the comments on them.
pub fn declared(columns: &[ColumnDef]) -> Result<(String, HashMap<String, String>)> {
    let mut comments = HashMap::new();
    for column in columns {
        for option in &column.options {
            match &option.option {
                ColumnOption::Null => {}
                ColumnOption::Comment(text) => {
                    comments.insert(crate::statement::identifier(&column.name), text.clone());
                }
                other => {
                    return Err(JobError::Statement(format!(
                        "column {}: {other} is not supported, all columns can be NULL",
                        column.name
                    )));
                }
            }
        }
    }
    let plain = columns.iter().map(|column| ColumnDef { options: Vec::new(), ..column.clone() });
    let plain: Vec<_> = plain.map(|column| column.to_string()).collect();
    Ok((plain.join(", "), comments))
}

/// The rows of a plan as rows of a table: its columns are for `columns`, in order, or for all of the
/// table's if there are none; the others are NULL. Types must be of the same kind.
pub fn assigned(plan: LogicalPlan, columns: &[String], table: &SchemaRef) -> Result<LogicalPlan> {
    let names: Vec<&str> = match columns.is_empty() {
        true => table.fields().iter().map(|field| field.name().as_str()).collect(),
        false => columns.iter().map(String::as_str).collect(),
    };
    for (at, name) in names.iter().enumerate() {
        if table.field_with_name(name).is_err() {
            let known: Vec<_> = table.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(JobError::Statement(format!(
                "there is no column {name}; the table has {}",
                known.join(", ")
            )));
        }
        if names[..at].contains(name) {
            return Err(JobError::Statement(format!("column {name} is named twice")));
        }
    }
    let given = plan.schema().columns();
    if given.len() != names.len() {
        return Err(JobError::Statement(format!(
            "there are values for {}, and {} for them: {}",
            counted(given.len(), "column"),
            counted(names.len(), "column"),
            names.join(", ")
        )));
    }
    let value = |field: &std::sync::Arc<Field>| -> Result<Expr> {
        let wanted = field.data_type();
        let Some(at) = names.iter().position(|name| name == field.name()) else {
            return Ok(lit(ScalarValue::try_from(wanted)?).alias(field.name()));
        };
        let found = plan.schema().field(at).data_type();
        if !assignable(found, wanted) {
            return Err(JobError::Statement(format!(
                "column {} is of type {wanted}, the value for it of type {found}: cast it",
                field.name()
            )));
        }
        Ok(cast(Expr::Column(given[at].clone()), wanted.clone()).alias(field.name()))
    };
    let values = table.fields().iter().map(value).collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(plan).project(values)?.build()?)
}

/// Whether values of a type can be meant for a column of another without saying so. Numbers can, of
/// whatever size (one that doesn't fit is an error when it is written); texts are not numbers.
fn assignable(found: &DataType, wanted: &DataType) -> bool {
    let text = |data_type: &DataType| {
        matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
    };
    let bytes = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
    };
    let item = |data_type: &DataType| match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => Some(item.data_type().clone()),
        _ => None,
    };
    if found == wanted || found == &DataType::Null {
        return true;
    }
    if let DataType::Dictionary(_, value) = found {
        return assignable(value, wanted);
    }
    if let (DataType::Struct(found), DataType::Struct(wanted)) = (found, wanted) {
        let mut pairs = found.iter().zip(wanted);
        return found.len() == wanted.len()
            && pairs
                .all(|(a, b)| a.name() == b.name() && assignable(a.data_type(), b.data_type()));
    }
    match (item(found), item(wanted)) {
        (Some(found), Some(wanted)) => return assignable(&found, &wanted),
        (None, None) => {}
        _ => return false,
    }
    found.is_numeric() && wanted.is_numeric()
        || text(found) && text(wanted)
        || bytes(found) && bytes(wanted)
        || found.is_temporal()
            && wanted.is_temporal()
            && matches!(
                (found, wanted),
                (DataType::Timestamp(_, _), DataType::Timestamp(_, _))
                    | (
                        DataType::Date32 | DataType::Date64,
                        DataType::Date32 | DataType::Timestamp(_, _)
                    )
            )
}
