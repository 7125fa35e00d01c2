//! The format `arrow`: Arrow IPC. In a file it is what Arrow calls a file, with an index of its parts at
//! the end; on standard output it is a stream, which can be read while it is written.

use super::{Destination, RowWriter};
use crate::Failure;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use nightshift_jobs::rows::{plain_rows, plain_schema};

/// What fits the destination.
///
/// # Errors
///
/// If the destination can't be written to.
pub fn writer<'a>(
    schema: &SchemaRef,
    out: &'a mut Destination,
) -> Result<Box<dyn RowWriter + 'a>, Failure> {
    let schema = plain_schema(schema);
    Ok(match out.is_file() {
        true => {
            let writer = FileWriter::try_new(out, &schema)?;
            Box::new(File { schema, writer })
        }
        false => {
            let writer = StreamWriter::try_new(out, &schema)?;
            Box::new(Stream { schema, writer })
        }
    })
}

/// A file that is written.
struct File<'a> {
    schema: SchemaRef,
    writer: FileWriter<&'a mut Destination>,
}

/// A stream that is written.
struct Stream<'a> {
    schema: SchemaRef,
    writer: StreamWriter<&'a mut Destination>,
}

impl RowWriter for File<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        Ok(self.writer.write(&plain_rows(rows, &self.schema)?)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        Ok(self.writer.finish()?)
    }
}

impl RowWriter for Stream<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        Ok(self.writer.write(&plain_rows(rows, &self.schema)?)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        Ok(self.writer.finish()?)
    }
}
