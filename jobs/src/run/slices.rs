//! Tables of which a run makes some partitions anew.

use super::Run;
use super::effect::Effect;
use crate::change;
use crate::statement::{CreateTable, Slice};
use crate::{JobError, Result};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ident, lit};
use nightshift_catalog::delta::DataFile;
use nightshift_catalog::registry::Kind;
use nightshift_catalog::schema::stored;

impl Run {
    /// Makes the partitions of a slice anew, if the table is there and has the columns that the query returns; `None`
    /// if all of it has to be made.
    pub(super) async fn replace_slice(
        &self,
        table: &CreateTable,
        slice: &Slice,
        plan: &LogicalPlan,
    ) -> Result<Option<Effect>> {
        let schema = stored(plan.schema().as_arrow())?;
        check(slice, &schema)?;
        let name = table.name.to_string();
        let published = self.view.registry().current(Kind::Table, &name);
        if published.is_none() || self.view.is_hidden(&name) {
            return Ok(None);
        }
        let current = self.current(&table.name).await?.contents;
        let same = columns(&schema) == columns(&current.schema)
            && current.partition_columns == table.partitioned_by;
        if !same {
            self.progress.note(&format!(
                "all of {name} is made anew: its columns or partitions are not those that it has"
            ));
            return Ok(None);
        }
        let plan = within(plan.clone(), slice, &schema)?;
        let effect = self
            .change(&table.name, async move |change| {
                change::replace_partitions(&change, plan, |file| has(slice, file)).await
            })
            .await?;
        Ok(Some(effect))
    }
}

fn columns(schema: &Schema) -> Vec<(&String, &DataType)> {
    schema.fields().iter().map(|field| (field.name(), field.data_type())).collect()
}

/// Refuses columns of which a day doesn't say which partitions are meant.
fn check(slice: &Slice, schema: &Schema) -> Result<()> {
    let column = &slice.column;
    match schema.field_with_name(column)?.data_type() {
        DataType::Date32 | DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Ok(()),
        other => Err(JobError::Statement(format!(
            "an incremental table is partitioned by days, DATE or texts such as '2026-11-26': {column} is {other}"
        ))),
    }
}

/// The rows of a plan that are in the partitions of a slice.
fn within(plan: LogicalPlan, slice: &Slice, schema: &Schema) -> Result<LogicalPlan> {
    let is_date = schema.field_with_name(&slice.column)?.data_type() == &DataType::Date32;
    let literal = |day: chrono::NaiveDate| match is_date {
        true => {
            let days = (day - chrono::NaiveDate::default()).num_days();
            lit(ScalarValue::Date32(i32::try_from(days).ok()))
        }
        false => lit(day.to_string()),
    };
    let between = ident(&slice.column).between(literal(slice.first), literal(slice.last));
    Ok(LogicalPlanBuilder::from(plan).filter(between)?.build()?)
}

/// Whether a file is in one of the partitions of a slice. Days are written so that they are in the order of texts.
fn has(slice: &Slice, file: &DataFile) -> bool {
    let Some(Some(value)) = file.partition.get(&slice.column) else { return false };
    (slice.first.to_string()..=slice.last.to_string()).contains(value)
}
