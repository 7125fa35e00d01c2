//! Results: a table to read, or rows for machines.

use crate::Failure;
use crate::arguments::Format;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches_with_schema;
use nightshift_jobs::run::Step;
use std::io::Write;
use std::sync::Arc;

/// Prints rows to standard output.
pub fn print(schema: SchemaRef, batches: &[RecordBatch], format: Format) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table => {
            writeln!(out, "{}", pretty_format_batches_with_schema(schema, batches)?)?;
        }
        Format::Csv => {
            let empty = [RecordBatch::new_empty(schema)];
            let mut writer = arrow::csv::Writer::new(&mut out);
            for batch in if batches.is_empty() { &empty } else { batches } {
                writer.write(batch)?;
            }
        }
        Format::Json => {
            let mut writer = arrow::json::ArrayWriter::new(&mut out);
            for batch in batches {
                writer.write(batch)?;
            }
            writer.finish()?;
            drop(writer);
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Prints what the steps of a run have made.
pub fn print_steps(steps: &[Step], format: Format) -> Result<(), Failure> {
    let numbers = |of: fn(&Step) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(steps.iter().map(of)))
    };
    let seconds = steps.iter().map(|step| (step.seconds * 1000.0).round() / 1000.0);
    let columns: [(&str, ArrayRef); 5] = [
        ("step", Arc::new(StringArray::from_iter_values(steps.iter().map(|step| &step.name)))),
        ("rows", numbers(|step| step.rows)),
        ("files", numbers(|step| step.files)),
        ("bytes", numbers(|step| step.bytes)),
        ("seconds", Arc::new(Float64Array::from_iter_values(seconds))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    print(batch.schema(), &[batch], format)
}
