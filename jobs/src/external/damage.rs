//! What can't be read in a file, and where it is: the file, the line, the column and the value.

use super::Files;
use crate::session::Session;
use crate::{JobError, Result};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use nightshift_catalog::storage::Storage;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use tokio::runtime::Handle;

impl Files {
    /// Reads file by file until one can't be read.
    pub(super) async fn find_damage(&self, session: &Session) -> Result<Option<JobError>> {
        let store = Storage::of_session(session.runtime(), &self.location.url)?.store().clone();
        for file in self.location.objects(session).await? {
            let found = match self.options.format {
                "csv" | "json" => {
                    let runtime = Handle::current();
                    let (store, file) = (Arc::clone(&store), file.clone());
                    let source: Source = Box::new(move || -> Box<dyn Read + Send> {
                        let (store, file) = (Arc::clone(&store), file.clone());
                        Box::new(Ranges {
                            store,
                            file,
                            runtime: runtime.clone(),
                            at: 0,
                            read: Bytes::new(),
                        })
                    });
                    let lines = Lines { source, compression: self.options.compression()?.into() };
                    let (csv, schema) = (self.options.csv()?, Arc::clone(&self.schema));
                    // It reads, and waits for what it reads, without giving way.
                    let search = tokio::task::spawn_blocking(move || match csv {
                        Some(csv) => lines.wrong_csv(&csv, &schema),
                        None => lines.wrong_json(&schema),
                    });
                    search.await?
                }
                _ => self.wrong_file(session, &file).await?,
            };
            if let Some(reason) = found {
                return Ok(Some(JobError::File { file: format!("/{}", file.location), reason }));
            }
        }
        Ok(None)
    }

    /// Why one file can't be read, as the engine says it.
    async fn wrong_file(&self, session: &Session, file: &ObjectMeta) -> Result<Option<String>> {
        let path = ListingTableUrl::parse(self.location.url_of(file)?)?;
        let listing = ListingOptions::new(Arc::clone(&self.format)).with_file_extension("");
        let config = ListingTableConfig::new(path)
            .with_listing_options(listing)
            .with_schema(Arc::clone(&self.schema));
        // In this process: what is read is one file, and the message is not lost on the way.
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(1))
            .with_runtime_env(Arc::clone(session.runtime()))
            .build();
        let table = Arc::new(ListingTable::try_new(config)?);
        let frame = SessionContext::new_with_state(state).read_table(table)?;
        let read = async {
            let mut rows = frame.execute_stream().await?;
            while rows.try_next().await?.is_some() {}
            Ok::<_, datafusion::error::DataFusionError>(())
        };
        Ok(read.await.err().map(|error| JobError::Engine(error).to_string()))
    }
}

/// How much of a file is in memory.
const RANGE: u64 = 8 << 20;

/// A file on a store, read range by range.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    file: ObjectMeta,
    runtime: Handle,
    /// Where the next range begins.
    at: u64,
    /// What is left of the last.
    read: Bytes,
}

impl Read for Ranges {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.read.is_empty() && self.at < self.file.size {
            let range = self.at..(self.at + RANGE).min(self.file.size);
            self.at = range.end;
            let read = self.store.get_range(&self.file.location, range);
            self.read = self.runtime.block_on(read).map_err(std::io::Error::other)?;
        }
        let taken = self.read.split_to(out.len().min(self.read.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

type Source = Box<dyn Fn() -> Box<dyn Read + Send> + Send>;

/// A file of lines, which can be read from its start again and again.
struct Lines {
    source: Source,
    compression: FileCompressionType,
}

impl Lines {
    /// The text, without the compression.
    fn reader(&self) -> Result<Box<dyn Read + Send>> {
        Ok(self.compression.convert_read((self.source)())?)
    }

    /// The first record that is not what the columns say.
    fn wrong_csv(&self, csv: &CsvOptions, schema: &SchemaRef) -> Option<String> {
        let mut builder = ReaderBuilder::new(plain(schema))
            .with_delimiter(csv.delimiter)
            .with_header(csv.has_header.unwrap_or(true))
            .with_quote(csv.quote)
            .with_truncated_rows(csv.truncated_rows.unwrap_or(false));
        if let Some(escape) = csv.escape {
            builder = builder.with_escape(escape);
        }
        if let Some(terminator) = csv.terminator {
            builder = builder.with_terminator(terminator);
        }
        if let Some(comment) = csv.comment {
            builder = builder.with_comment(comment);
        }
        let reader = match self.reader() {
            Ok(reader) => reader,
            Err(error) => return Some(error.to_string()),
        };
        let mut reader = match builder.build(reader) {
            Ok(reader) => reader,
            Err(error) => return Some(error.to_string()),
        };
        let error = reader.find_map(std::result::Result::err)?;
        let (reason, record) = record_of(&error, schema);
        let line = record.and_then(|record| self.line_of(record, csv).ok().flatten());
        Some(match (line, record) {
            (Some(line), _) => format!("{reason} in line {line}"),
            (None, Some(record)) => format!("{reason} in record {record}"),
            (None, None) => reason,
        })
    }

    /// The line on which a record begins; both are counted from 1. A record can have several lines,
    /// if line breaks are in quotes, and lines that are empty or comments belong to none.
    fn line_of(&self, record: usize, csv: &CsvOptions) -> Result<Option<usize>> {
        let end = csv.terminator.unwrap_or(b'\n');
        let (mut found, mut quoted) = (0, false);
        let mut reader = BufReader::new(self.reader()?);
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            let read = reader.read_until(end, &mut text);
            if read.map_err(nightshift_catalog::CatalogError::Io)? == 0 {
                break;
            }
            let begins = !quoted
                && !matches!(text.as_slice(), b"\n" | b"\r\n")
                && csv.comment.is_none_or(|comment| text.first() != Some(&comment));
            found += usize::from(begins);
            if found == record && begins {
                return Ok(Some(line));
            }
            if begins || quoted {
                let mut escaped = false;
                for byte in &text {
                    if !escaped && *byte == csv.quote {
                        quoted = !quoted;
                    }
                    escaped = !escaped && Some(*byte) == csv.escape;
                }
            }
        }
        Ok(None)
    }

    /// The first line that is not an object with the columns.
    fn wrong_json(&self, schema: &SchemaRef) -> Option<String> {
        let reader = match self.reader() {
            Ok(reader) => reader,
            Err(error) => return Some(error.to_string()),
        };
        let decoder = arrow::json::ReaderBuilder::new(Arc::clone(schema));
        let mut decoder = match decoder.build_decoder() {
            Ok(decoder) => decoder,
            Err(error) => return Some(error.to_string()),
        };
        let mut reader = BufReader::new(reader);
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            match reader.read_until(b'\n', &mut text) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Some(format!("{error} after line {}", line - 1)),
            }
            let decoded = decoder.decode(&text).and_then(|_| decoder.flush());
            if let Err(error) = decoded {
                return Some(format!("{} in line {line}", without_kind(&error)));
            }
        }
        None
    }
}

/// The CSV reader has no use for views.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn without_kind(error: &ArrowError) -> String {
    let text = error.to_string();
    let kinds = ["Parser error: ", "Csv error: ", "Json error: "];
    let text =
        kinds.iter().fold(text.as_str(), |text, kind| text.strip_prefix(kind).unwrap_or(text));
    text.to_string()
}

/// What is wrong, and in which record of the file, counted from 1 with the header. Arrow counts
/// columns, and the records of some errors, from 0; people name columns.
fn record_of(error: &ArrowError, schema: &SchemaRef) -> (String, Option<usize>) {
    let text = without_kind(error);
    let text = text.split(". Row data").next().unwrap_or(&text);
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<usize>().ok().map(|number| (number, text[end..].to_string()))
    };
    if let Some((before, after)) = text.split_once(" for column ")
        && let Some((column, rest)) = number(after)
        && let Some(field) = schema.fields().get(column)
    {
        let record = rest.strip_prefix(" at line ").and_then(number);
        let reason = format!("{before} for column {}", field.name());
        return (reason, record.map(|(record, _)| record + 1));
    }
    match text.split_once(" for line ") {
        Some((before, after)) => match number(after) {
            Some((record, rest)) => (format!("{before}{rest}"), Some(record)),
            None => (text.to_string(), None),
        },
        None => (text.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;
    use datafusion::common::parsers::CompressionTypeVariant;

    fn source(text: &[u8]) -> Source {
        let text = text.to_vec();
        Box::new(move || Box::new(std::io::Cursor::new(text.clone())))
    }

    fn wrong(text: &[u8], csv: &CsvOptions) -> String {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8View, true),
        ]);
        let compression = CompressionTypeVariant::UNCOMPRESSED.into();
        let lines = Lines { source: source(text), compression };
        lines.wrong_csv(csv, &Arc::new(schema)).unwrap_or_default()
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let csv = CsvOptions::default();
        let said = wrong(b"a,b\n1,x\n\n2,\"y\ny\"\nthree,z\n", &csv);
        assert_eq!(
            said,
            "Error while parsing value 'three' as type 'Int64' for column a in line 6"
        );
        let said = wrong(b"a,b\n1,\"x\n\"\"x\"\n2,y,z\n", &csv);
        assert_eq!(said, "incorrect number of fields, expected 2 got 3 in line 4");
        let said = wrong(b"a,b\n1,x\n2,\xff\n", &csv);
        assert_eq!(said, "Encountered invalid UTF-8 data and field 2 in line 3");
        let csv = CsvOptions { has_header: Some(false), comment: Some(b'#'), ..csv };
        let said = wrong(b"# three\n1,x\n# four\nfour,x\n", &csv);
        assert!(said.ends_with("'four' as type 'Int64' for column a in line 4"), "{said}");
        assert_eq!(wrong(b"1,x\n", &csv), "");
    }

    #[test]
    fn objects_are_found_by_their_lines() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let text = b"{\"a\": 1}\n\n{\"a\": \"x\"}\n";
        let compression = CompressionTypeVariant::UNCOMPRESSED.into();
        let lines = Lines { source: source(text), compression };
        let said = lines.wrong_json(&schema).unwrap();
        assert!(said.contains("in line 3"), "{said}");
    }
}
