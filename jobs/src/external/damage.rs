//! What can't be read in a file, and where it is: the file, the line, the column and the value.

use super::Files;
use super::records::{Form, Records, TextFile};
use crate::session::Session;
use crate::{JobError, Result};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::config::CsvOptions;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use nightshift_catalog::storage::Storage;
use object_store::ObjectMeta;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

impl Files {
    /// Reads file by file until one can't be read.
    pub(super) async fn find_damage(&self, session: &Session) -> Result<Option<JobError>> {
        let store = Storage::of_session(session.runtime(), &self.location.url)?.store().clone();
        for file in self.location.objects(session).await? {
            let found = match self.options.format {
                "csv" | "json" => {
                    let compression = self.options.compression()?.into();
                    let lines = TextFile::on_store(Arc::clone(&store), file.clone(), compression);
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
        let table = self.listing(vec![self.location.listed(file)?])?;
        // In this process: what is read is one file, and the message is not lost on the way.
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(1))
            .with_runtime_env(Arc::clone(session.runtime()))
            .build();
        let frame = SessionContext::new_with_state(state).read_table(table)?;
        let read = async {
            let mut rows = frame.execute_stream().await?;
            while rows.try_next().await?.is_some() {}
            Ok::<_, datafusion::error::DataFusionError>(())
        };
        Ok(read.await.err().map(|error| JobError::Engine(error).to_string()))
    }
}

impl TextFile {
    /// The first record that is not what the columns say.
    fn wrong_csv(&self, csv: &CsvOptions, schema: &SchemaRef) -> Option<String> {
        let reader = match self.reader() {
            Ok(reader) => reader,
            Err(error) => return Some(error.to_string()),
        };
        let mut reader = match csv_reader(csv, schema).build(reader) {
            Ok(reader) => reader,
            Err(error) => return Some(error.to_string()),
        };
        let error = reader.find_map(std::result::Result::err)?;
        let Reason { text, record, .. } = Reason::of(&error, schema);
        let line = record.and_then(|record| self.line_of(record, csv).ok().flatten());
        Some(match (line, record) {
            (Some(line), _) => format!("{text} in line {line}"),
            (None, Some(record)) => format!("{text} in record {record}"),
            (None, None) => text,
        })
    }

    /// The line on which a record begins; both are counted from 1. A record can have several lines,
    /// if line breaks are in quotes, and lines that are empty or comments belong to none.
    fn line_of(&self, record: usize, csv: &CsvOptions) -> Result<Option<usize>> {
        let mut records = Records::of(self, Form::csv(csv, true))?;
        let mut text = Vec::new();
        let mut line = None;
        for _ in 0..record {
            text.clear();
            let found = records.next(&mut text).map_err(nightshift_catalog::CatalogError::Io)?;
            line = found.map(|found| found.line);
        }
        Ok(line)
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

/// The engine's reader of CSV files with all columns.
pub(super) fn csv_reader(csv: &CsvOptions, schema: &SchemaRef) -> ReaderBuilder {
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
    builder
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

/// What is wrong with a record.
pub(super) struct Reason {
    /// In words, which name the column.
    pub(super) text: String,
    /// The column, if it is in one.
    pub(super) column: Option<String>,
    /// Which record it is, counted from 1 with the header.
    pub(super) record: Option<usize>,
}

impl Reason {
    /// What arrow says. It counts columns, and the records of some errors, from 0; people name columns.
    pub(super) fn of(error: &ArrowError, schema: &SchemaRef) -> Self {
        let whole = without_kind(error);
        let text = whole.split(". Row data").next().unwrap_or(&whole);
        let field = |column: usize| schema.fields().get(column).map(|field| field.name().clone());
        if let Some((before, after)) = text.rsplit_once(" for column ")
            && let Some((column, rest)) = number(after)
            && let Some(name) = field(column)
        {
            let record = rest.strip_prefix(" at line ").and_then(number);
            let text = format!("{before} for column {name}");
            return Self { text, column: Some(name), record: record.map(|(record, _)| record + 1) };
        }
        // Of a time.
        if let Some(after) = text.strip_prefix("Error parsing column ")
            && let Some((column, rest)) = number(after)
            && let Some((record, rest)) = rest.strip_prefix(" at line ").and_then(number)
            && let Some(name) = field(column)
        {
            let text = format!("Error while parsing column {name}{rest}");
            return Self { text, column: Some(name), record: Some(record + 1) };
        }
        if let Some((before, after)) = text.split_once(" for line ")
            && let Some((record, rest)) = number(after)
        {
            let column = rest.strip_prefix(" and field ").and_then(number);
            let name = column.and_then(|(column, _)| field(column.checked_sub(1)?));
            let text = match &name {
                Some(name) => format!("{before} for column {name}"),
                None => format!("{before}{rest}"),
            };
            return Self { text, column: name, record: Some(record) };
        }
        // Of JSON.
        let within = |name: &String| text.starts_with(&format!("whilst decoding field '{name}': "));
        let mut names = schema.fields().iter().map(|field| field.name());
        let column = names.find(|name| within(name)).cloned();
        Self { text: text.to_string(), column, record: None }
    }
}

/// The number that a text begins with, and what comes after it.
fn number(text: &str) -> Option<(usize, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().map(|number| (number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;
    use datafusion::common::parsers::CompressionTypeVariant;

    fn wrong(text: &[u8], csv: &CsvOptions) -> String {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8View, true),
        ]);
        let compression = CompressionTypeVariant::UNCOMPRESSED.into();
        let lines = TextFile::of(text, compression);
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
        assert_eq!(said, "Encountered invalid UTF-8 data for column b in line 3");
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
        let lines = TextFile::of(text, compression);
        let said = lines.wrong_json(&schema).unwrap();
        assert!(said.contains("in line 3"), "{said}");
    }
}
