//! The format `csv`: comma-separated values with a header. NULL is empty; lists and structures are
//! written as texts.

use super::{Destination, RowWriter};
use crate::Failure;
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::csv::Writer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::sync::Arc;

/// Values that are written.
pub struct Csv<'a> {
    writer: Writer<&'a mut Destination>,
    schema: SchemaRef,
    has_header: bool,
}

impl<'a> Csv<'a> {
    /// No values, and no header yet.
    pub fn new(schema: &SchemaRef, out: &'a mut Destination) -> Self {
        Self { writer: Writer::new(out), schema: schema.clone(), has_header: false }
    }
}

impl RowWriter for Csv<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        let columns = rows.schema();
        let columns = columns.fields().iter().zip(rows.columns());
        let columns = columns.map(|(field, column)| Ok((field.name(), flat(column)?)));
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        if columns.is_empty() {
            return Ok(());
        }
        self.writer.write(&RecordBatch::try_from_iter(columns)?)?;
        self.has_header = true;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        if !self.has_header {
            self.write(&RecordBatch::new_empty(self.schema.clone()))?;
        }
        Ok(())
    }
}

/// A column of plain values.
fn flat(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !column.data_type().is_nested() {
        return Ok(Arc::clone(column));
    }
    let options = FormatOptions::default();
    let values = ArrayFormatter::try_new(column, &options)?;
    let value = |row| column.is_valid(row).then(|| values.value(row).to_string());
    Ok(Arc::new((0..column.len()).map(value).collect::<StringArray>()))
}
