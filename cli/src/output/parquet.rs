//! The format `parquet`: a Parquet file, compressed with Zstandard.

use super::{Destination, RowWriter};
use crate::Failure;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use nightshift_jobs::rows::{plain_rows, plain_schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// A file that is written, a row group at a time.
pub struct Parquet<'a> {
    schema: SchemaRef,
    writer: ArrowWriter<&'a mut Destination>,
}

impl<'a> Parquet<'a> {
    /// A file without rows.
    ///
    /// # Errors
    ///
    /// If Parquet has no type for a column.
    pub fn new(schema: &SchemaRef, out: &'a mut Destination) -> Result<Self, Failure> {
        let schema = plain_schema(schema);
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
        Ok(Self { schema, writer })
    }
}

impl RowWriter for Parquet<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        Ok(self.writer.write(&plain_rows(rows, &self.schema)?)?)
    }

    fn finish(self: Box<Self>) -> Result<(), Failure> {
        self.writer.close()?;
        Ok(())
    }
}
