//! The format `vertical`: a line for each column, records after each other.

use super::{Destination, RowWriter};
use crate::Failure;
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::io::Write;

/// How long the line above a record is.
const RULE: usize = 40;

/// Records that are written.
pub struct Vertical<'a> {
    records: u64,
    null: String,
    out: &'a mut Destination,
}

impl<'a> Vertical<'a> {
    /// No records.
    pub fn new(null: &str, out: &'a mut Destination) -> Self {
        Self { records: 0, null: null.to_string(), out }
    }
}

impl RowWriter for Vertical<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        let options = FormatOptions::default().with_display_error(true).with_null(&self.null);
        let schema = rows.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let values = rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        for row in 0..rows.num_rows() {
            self.records += 1;
            writeln!(self.out, "{:-<RULE$}", format!("-[ RECORD {} ]", self.records))?;
            for (name, value) in names.iter().zip(&values) {
                let value = value.value(row).to_string();
                // A value of several lines stays in its column.
                for (number, line) in value.split('\n').enumerate() {
                    let name = if number == 0 { name } else { "" };
                    writeln!(self.out, "{name:width$} | {line}")?;
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}
