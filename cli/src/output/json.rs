//! The formats `json`, one array of objects, and `jsonl`, an object in each line. NULL is `null`.

use super::{Destination, RowWriter};
use crate::Failure;
use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::{JsonArray, JsonFormat, LineDelimited, Writer};
use std::io::Write;

/// An array that is written.
pub struct Array<'a>(Writer<&'a mut Destination, JsonArray>);

/// Lines that are written.
pub struct Lines<'a>(Writer<&'a mut Destination, LineDelimited>);

fn writer<F: JsonFormat>(out: &mut Destination) -> Writer<&mut Destination, F> {
    WriterBuilder::new().with_explicit_nulls(true).build(out)
}

impl<'a> Array<'a> {
    /// No objects.
    pub fn new(out: &'a mut Destination) -> Self {
        Self(writer(out))
    }
}

impl<'a> Lines<'a> {
    /// No objects.
    pub fn new(out: &'a mut Destination) -> Self {
        Self(writer(out))
    }
}

impl RowWriter for Array<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        Ok(self.0.write(rows)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        self.0.finish()?;
        writeln!(self.0.into_inner())?;
        Ok(())
    }
}

impl RowWriter for Lines<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        Ok(self.0.write(rows)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        Ok(self.0.finish()?)
    }
}
