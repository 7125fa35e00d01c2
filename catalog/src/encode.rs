//! Rows to the bytes of a file, in the formats that other programs read.

use crate::{CatalogError, Result};
use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::json::LineDelimitedWriter;
use datafusion::common::config::{
    ConfigField, CsvOptions, JsonOptions, TableParquetOptions, Visit,
};
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion_datasource::file_compression_type::FileCompressionType;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Rows of a table's row group, the least that a lookup by id has to look into. DuckDB's are about as
/// large.
const GROUP_ROWS: usize = 128 << 10;

/// Bytes of a row group after which the next batch of rows begins another. What reads a table is cut between row
/// groups, and rows with lists of numbers, those of a model for one, are the more work the larger they are.
const GROUP_BYTES: usize = 8 << 20;

/// Rows of a page, the least that is decompressed for a row. A full row group has 16.
const PAGE_ROWS: usize = 8 << 10;

/// Bytes of a column's dictionary in a row group, beyond which values are written as they are. Whoever
/// looks up a row reads the whole dictionary for it, and it is worth that only if values repeat often.
const DICTIONARY_BYTES: usize = 128 << 10;

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Parquet.
    Parquet,
    /// Lines of values, by default with commas between them and a line of names before them.
    Csv,
    /// An object on each line.
    Json,
}

impl Format {
    /// The format of a name such as `PARQUET`; `None` if it is no format that can be written.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "parquet" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "json" | "ndjson" => Some(Self::Json),
            _ => None,
        }
    }

    /// How the names of its files end.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }
}

/// How rows become bytes, as it is written in a statement: checked, and small enough to travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encoding {
    /// The format.
    pub format: Format,
    /// Its options by DataFusion's names, without `format.` before them.
    pub options: BTreeMap<String, String>,
}

/// What an encoding's options say.
enum Options {
    Parquet(Box<TableParquetOptions>),
    Csv(Box<CsvOptions>),
    Json(JsonOptions),
}

/// Collects the names of options.
struct Names(Vec<String>);

impl Visit for Names {
    fn some<V: Display>(&mut self, key: &str, _: V, _: &'static str) {
        self.0.push(key.trim_start_matches('.').to_string());
    }

    fn none(&mut self, key: &str, _: &'static str) {
        self.0.push(key.trim_start_matches('.').to_string());
    }
}

/// Sets options one by one; the error names the one that is wrong, and those that there are.
pub fn set_options<T: ConfigField>(mut options: T, given: &BTreeMap<String, String>) -> Result<T> {
    let mut names = Names(Vec::new());
    options.visit(&mut names, "", "");
    for (name, value) in given {
        let wrong = |reason: String| CatalogError::Option { option: name.clone(), reason };
        let first = name.split("::").next().unwrap_or(name);
        if first != "metadata" && !names.0.iter().any(|known| known == first) {
            return Err(wrong(format!("there is none of that name, only {}", names.0.join(", "))));
        }
        // Some options are lost on a text that isn't what they expect.
        options.set(name, value).map_err(|error| wrong(error.strip_backtrace()))?;
    }
    Ok(options)
}

impl Encoding {
    fn parse(&self) -> Result<Options> {
        Ok(match self.format {
            Format::Parquet => {
                let mut options = TableParquetOptions::default();
                // The writer says which columns there are, in its own way.
                options.global.skip_arrow_metadata = true;
                Options::Parquet(Box::new(set_options(options, &self.options)?))
            }
            Format::Csv => {
                Options::Csv(Box::new(set_options(CsvOptions::default(), &self.options)?))
            }
            Format::Json => {
                let options = set_options(JsonOptions::default(), &self.options)?;
                if !options.newline_delimited {
                    return Err(CatalogError::Option {
                        option: "newline_delimited".to_string(),
                        reason: "an object is written on each line, never all as one list"
                            .to_string(),
                    });
                }
                Options::Json(options)
            }
        })
    }

    /// Refuses options that are unknown or wrong, and columns that the format can't hold.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        let options = self.parse()?;
        if let Options::Parquet(options) = &options {
            parquet_properties(options)?;
        }
        for field in schema.fields() {
            let data_type = field.data_type();
            let reason = match options {
                Options::Csv(_) if data_type.is_nested() => {
                    "a CSV file can't hold lists and structs: cast it to VARCHAR, or write JSON"
                }
                Options::Csv(_) | Options::Json(_)
                    if matches!(data_type, DataType::Binary | DataType::BinaryView) =>
                {
                    "a text file can't hold bytes: use encode(…, 'base64'), or write Parquet"
                }
                _ => continue,
            };
            let (column, reason) = (field.name().clone(), reason.to_string());
            return Err(CatalogError::Column { column, reason });
        }
        Ok(())
    }

    /// How the names of the files end, compression included.
    pub fn extension(&self) -> Result<String> {
        let compression = match self.parse()? {
            Options::Parquet(_) => CompressionTypeVariant::UNCOMPRESSED,
            Options::Csv(options) => options.compression,
            Options::Json(options) => options.compression,
        };
        let suffix = match compression {
            CompressionTypeVariant::GZIP => ".gz",
            CompressionTypeVariant::BZIP2 => ".bz2",
            CompressionTypeVariant::XZ => ".xz",
            CompressionTypeVariant::ZSTD => ".zst",
            CompressionTypeVariant::UNCOMPRESSED => "",
        };
        Ok(format!("{}{suffix}", self.format.extension()))
    }
}

fn parquet_properties(options: &TableParquetOptions) -> Result<WriterProperties> {
    let builder = WriterPropertiesBuilder::try_from(options).map_err(|error| {
        let reason = error.strip_backtrace();
        CatalogError::Option { option: "of Parquet".to_string(), reason }
    })?;
    Ok(builder.build())
}

/// A file that rows are added to.
pub enum Encoder {
    /// Parquet, which writes its bytes itself.
    Parquet(Box<AsyncArrowWriter<BufWriter>>),
    /// Lines of text, compressed or not.
    Text(Box<TextEncoder>),
}

/// What a finished file is.
pub struct Finished {
    /// Rows.
    pub rows: u64,
    /// Bytes, if whoever wrote them has counted them.
    pub bytes: Option<u64>,
    /// What Parquet says of it.
    pub footer: Option<ParquetMetaData>,
}

impl Encoder {
    /// A file of a table.
    pub fn of_table(object: BufWriter, schema: &SchemaRef) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_statistics_truncate_length(None)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .build();
        let writer = AsyncArrowWriter::try_new(object, schema.clone(), Some(properties))?;
        Ok(Self::Parquet(Box::new(writer)))
    }

    /// A file in an encoding.
    pub fn new(object: BufWriter, schema: &SchemaRef, encoding: &Encoding) -> Result<Self> {
        match encoding.parse()? {
            Options::Parquet(options) => {
                let properties = parquet_properties(&options)?;
                let object = AsyncArrowWriter::try_new(object, schema.clone(), Some(properties))?;
                Ok(Self::Parquet(Box::new(object)))
            }
            Options::Csv(options) => {
                let header = options.has_header.unwrap_or(true);
                let written = CsvWriterOptions::try_from(options.as_ref()).map_err(|error| {
                    let reason = error.strip_backtrace();
                    CatalogError::Option { option: "of CSV".to_string(), reason }
                })?;
                let lines = Lines::Csv { builder: written.writer_options, header };
                let compression = (options.compression, options.compression_level);
                Ok(Self::Text(Box::new(TextEncoder::new(object, schema, lines, compression)?)))
            }
            Options::Json(options) => {
                let compression = (options.compression, options.compression_level);
                let text = TextEncoder::new(object, schema, Lines::Json, compression)?;
                Ok(Self::Text(Box::new(text)))
            }
        }
    }

    /// Adds rows.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => Ok(writer.write(batch).await?),
            Self::Text(text) => text.write(batch).await,
        }
    }

    /// About how many bytes the file has, uncompressed if it is text.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.bytes_written() + writer.in_progress_size(),
            Self::Text(text) => text.bytes,
        }
    }

    /// Ends the file. Only then is it there.
    pub async fn finish(self) -> Result<Finished> {
        match self {
            Self::Parquet(mut writer) => {
                let footer = writer.finish().await?;
                let rows = footer.file_metadata().num_rows() as u64;
                let bytes = Some(writer.bytes_written() as u64);
                Ok(Finished { rows, bytes, footer: Some(footer) })
            }
            Self::Text(mut text) => {
                if text.rows == 0 {
                    text.write(&RecordBatch::new_empty(text.schema.clone())).await?;
                }
                text.out.shutdown().await?;
                Ok(Finished { rows: text.rows, bytes: None, footer: None })
            }
        }
    }
}

enum Lines {
    /// The header is still to be written if there is to be one.
    Csv {
        builder: csv::WriterBuilder,
        header: bool,
    },
    Json,
}

/// A file of lines.
pub struct TextEncoder {
    out: Box<dyn AsyncWrite + Send + Unpin>,
    lines: Lines,
    schema: SchemaRef,
    rows: u64,
    bytes: usize,
}

impl TextEncoder {
    fn new(
        object: BufWriter,
        schema: &SchemaRef,
        lines: Lines,
        (compression, level): (CompressionTypeVariant, Option<u32>),
    ) -> Result<Self> {
        let compression = FileCompressionType::from(compression);
        let out = compression.convert_async_writer_with_level(object, level);
        let out = out.map_err(|error| CatalogError::Option {
            option: "compression".to_string(),
            reason: error.strip_backtrace(),
        })?;
        Ok(Self { out, lines, schema: schema.clone(), rows: 0, bytes: 0 })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut text = Vec::new();
        match &mut self.lines {
            Lines::Csv { builder, header } => {
                let mut writer = builder.clone().with_header(*header).build(&mut text);
                writer.write(batch)?;
                *header = false;
            }
            Lines::Json => {
                let mut writer = LineDelimitedWriter::new(&mut text);
                writer.write(batch)?;
                writer.finish()?;
            }
        }
        self.rows += batch.num_rows() as u64;
        self.bytes += text.len();
        Ok(self.out.write_all(&text).await?)
    }
}
