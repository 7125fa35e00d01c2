//! The format `table`: columns and lines. It needs all rows at once, to know how wide columns are.

use super::{Destination, RowWriter};
use crate::Failure;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use std::io::Write;

/// Rows that are gathered.
pub struct Table<'a> {
    /// The first one has no rows: it stands for the columns.
    batches: Vec<RecordBatch>,
    null: String,
    out: &'a mut Destination,
}

impl<'a> Table<'a> {
    /// A table without rows.
    pub fn new(schema: &SchemaRef, null: &str, out: &'a mut Destination) -> Self {
        let batches = vec![RecordBatch::new_empty(schema.clone())];
        Self { batches, null: null.to_string(), out }
    }
}

impl RowWriter for Table<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        self.batches.push(rows.clone());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Failure> {
        let options = FormatOptions::default().with_display_error(true).with_null(&self.null);
        writeln!(self.out, "{}", pretty_format_batches_with_options(&self.batches, &options)?)?;
        Ok(())
    }
}
