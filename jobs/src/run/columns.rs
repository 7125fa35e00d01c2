//! What gates measure of a column: of what a run has made, and of what is published.

use super::Run;
use super::drift::{Buckets, Counts, Scale, stability_index};
use crate::introspection::sql_type;
use crate::pipeline::ColumnMeasure;
use crate::suggestion::did_you_mean;
use crate::training::quoted;
use crate::view::View;
use crate::{JobError, Result};
use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, UInt64Type};
use datafusion::common::TableReference;
use nightshift_catalog::registry::Kind;

/// A column of a table, with the names in quotes.
struct Column {
    table: String,
    name: String,
}

impl Column {
    fn new(table: &str, column: &str) -> Self {
        let parts: Vec<_> = table.split('.').map(quoted).collect();
        Self { table: parts.join("."), name: quoted(column) }
    }

    /// The query of a measure that is a number by itself.
    fn query(&self, measure: ColumnMeasure) -> String {
        let Self { table, name } = self;
        let number = match measure {
            ColumnMeasure::Mean => format!("avg(CAST({name} AS DOUBLE))"),
            // Of all rows that there are, not of a sample.
            ColumnMeasure::Deviation => format!("stddev_pop(CAST({name} AS DOUBLE))"),
            ColumnMeasure::Minimum => format!("min({name})"),
            ColumnMeasure::Maximum => format!("max({name})"),
            ColumnMeasure::Nulls => {
                format!("CAST(count(*) - count({name}) AS DOUBLE) / greatest(count(*), 1)")
            }
            // Groups are written to disk when they are too many for the memory. Drift is no number by itself.
            ColumnMeasure::Distinct | ColumnMeasure::Drift => {
                return format!(
                    "SELECT count(*) FROM (SELECT {name} FROM {table} WHERE {name} IS NOT NULL GROUP BY {name})"
                );
            }
        };
        format!("SELECT {number} FROM {table}")
    }
}

/// Why a measure is none of a column of this type, if it is none.
fn misfit(measure: ColumnMeasure, data_type: &DataType) -> Option<String> {
    let found = || sql_type(data_type);
    match measure {
        ColumnMeasure::Nulls | ColumnMeasure::Distinct => None,
        ColumnMeasure::Drift if Scale::of(data_type).is_some() => None,
        ColumnMeasure::Drift => Some(format!(
            "it is {}, and only numbers, dates, timestamps, texts and Booleans have a drift",
            found()
        )),
        _ if data_type.is_numeric() => None,
        _ => Some(format!("it is {}, not a number", found())),
    }
}

impl Run {
    /// Measures something of a column, of what the run has made and of what is published. Drift is measured of both
    /// at once.
    pub(super) async fn of_column(
        &self,
        table: &str,
        column: &str,
        measure: ColumnMeasure,
    ) -> Result<(Option<f64>, Option<f64>)> {
        if !self.staged.tables.keys().any(|name| name.to_string() == table) {
            return Ok((None, None));
        }
        let Some(data_type) = self.fitting_type(table, column, measure).await? else {
            return Ok((None, None));
        };
        let published = self.view.without_table(table);
        let published_type = match self.view.registry().current(Kind::Table, table) {
            Some(_) => self.type_in(&published, table, column).await?,
            None => None,
        };
        let of = Column::new(table, column);
        if measure == ColumnMeasure::Drift {
            let drift = match (Scale::of(&data_type), published_type) {
                // What was of another kind has become something that can't be compared.
                (Some(scale), Some(before)) if Scale::of(&before) != Some(scale) => Some(f64::NAN),
                (Some(scale), Some(_)) => self.drift(&of, scale, &published).await?,
                _ => None,
            };
            return Ok((drift, None));
        }
        let query = of.query(measure);
        let measured = self.number(&self.view, &query).await?;
        let before = match published_type.filter(|before| misfit(measure, before).is_none()) {
            Some(_) => Some(self.number(&published, &query).await?),
            None => None,
        };
        Ok((Some(measured), before))
    }

    /// Plans the query for something that is to be measured of a column, if there is such a table.
    pub(super) async fn plan_column(
        &self,
        table: &str,
        column: &str,
        measure: ColumnMeasure,
    ) -> Result<()> {
        let Some(data_type) = self.fitting_type(table, column, measure).await? else {
            return Ok(());
        };
        let of = Column::new(table, column);
        let query = match (measure, Scale::of(&data_type)) {
            (ColumnMeasure::Drift, Some(scale)) => scale.divisions(&of.table, &of.name),
            _ => of.query(measure),
        };
        self.session.analyze(self.view.plan_text(&self.session, &query).await?)?;
        Ok(())
    }

    /// The type of a column that a measure can be of, or nothing if there is no such table.
    async fn fitting_type(
        &self,
        table: &str,
        column: &str,
        measure: ColumnMeasure,
    ) -> Result<Option<DataType>> {
        let reference = TableReference::parse_str(&Column::new(table, column).table);
        let Some(provider) = self.view.table(&self.session, &reference).await? else {
            return Ok(None);
        };
        let schema = provider.schema();
        let wrong = |reason: String| {
            JobError::Statement(format!("{table}.{column} can't be measured: {reason}"))
        };
        let Ok(field) = schema.field_with_name(column) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let meant = did_you_mean(column, names);
            return Err(wrong(format!("{table} has no column {column}{meant}")));
        };
        match misfit(measure, field.data_type()) {
            Some(reason) => Err(wrong(reason)),
            None => Ok(Some(field.data_type().clone())),
        }
    }

    /// The type of a column in a view, if it is there.
    async fn type_in(&self, view: &View, table: &str, column: &str) -> Result<Option<DataType>> {
        let reference = TableReference::parse_str(&Column::new(table, column).table);
        let found = view.table(&self.session, &reference).await?;
        let schema = found.map(|provider| provider.schema());
        let field = schema.as_ref().and_then(|schema| schema.field_with_name(column).ok());
        Ok(field.map(|field| field.data_type().clone()))
    }

    /// How far a column is from what it is in the view of what is published.
    async fn drift(&self, of: &Column, scale: Scale, published: &View) -> Result<Option<f64>> {
        let divisions = scale.divisions(&of.table, &of.name);
        let buckets = match scale.is_ordered() {
            true => {
                let quantiles = self.numbers(published, &divisions).await?;
                Buckets::ordered(quantiles.into_iter().flatten())
            }
            false => {
                let frequent = self.counts(published, &divisions).await?;
                Buckets::Frequent(frequent.into_keys().collect())
            }
        };
        let query = scale.counts(&of.table, &of.name, &buckets);
        let before = self.counts(published, &query).await?;
        let now = self.counts(&self.view, &query).await?;
        Ok(stability_index(&before, &now))
    }

    /// The number that a query returns; of none, it is not a number.
    pub(super) async fn number(&self, view: &View, query: &str) -> Result<f64> {
        let numbers = self.numbers(view, query).await?;
        Ok(numbers.first().copied().flatten().unwrap_or(f64::NAN))
    }

    /// The numbers of the row that a query returns.
    async fn numbers(&self, view: &View, query: &str) -> Result<Vec<Option<f64>>> {
        let batches = self.session.collect(view.plan_text(&self.session, query).await?).await?;
        let row = batches.iter().find(|batch| batch.num_rows() > 0);
        let none = || JobError::Statement(format!("{query} returns no number"));
        let mut numbers = Vec::new();
        for column in row.ok_or_else(none)?.columns() {
            let column = cast(column, &DataType::Float64)?;
            let column = column.as_primitive::<Float64Type>();
            numbers.push(column.is_valid(0).then(|| column.value(0)));
        }
        Ok(numbers)
    }

    /// The rows of a query that counts how many rows have a text.
    async fn counts(&self, view: &View, query: &str) -> Result<Counts> {
        let mut counts = Counts::new();
        let plan = view.plan_text(&self.session, query).await?;
        for batch in self.session.collect(plan).await? {
            let texts = cast(batch.column(0), &DataType::Utf8)?;
            let rows = cast(batch.column(1), &DataType::UInt64)?;
            let rows = rows.as_primitive::<UInt64Type>();
            for (text, rows) in texts.as_string::<i32>().iter().zip(rows.iter()) {
                if let (Some(text), Some(rows)) = (text, rows) {
                    counts.insert(text.to_string(), rows);
                }
            }
        }
        Ok(counts)
    }
}
