//! The records of one file: counted, and if some of them can't be read, those for the quarantine and a copy of the file
//! without them.
//!
//! One thread reads the file and examines its records; what is to be written anywhere is handed on. When nobody takes it
//! any more, because the run has ended, the thread ends too.

use super::examine::{Batch, Examiner, Span, Wrong};
use super::quarantine::batch;
use super::records::{Form, Found, Records, TextFile};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use nightshift_catalog::CatalogError;
use nightshift_catalog::storage::Storage;
use object_store::buffered::BufWriter;
use object_store::{ObjectMeta, ObjectStore};
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{self, Sender};

/// Records that are examined together.
const RECORDS: usize = 8192;

/// Bytes of records after which no more are added to those.
const BYTES: usize = 2 << 20;

/// Bad records that are handed on together.
const BAD: usize = 1024;

/// Characters of a bad record, and of what is wrong with it, that are kept.
const SHOWN: usize = 1000;

/// Parts of a copy that are on their way to the store at the same time.
const PARTS: usize = 2;

/// A record that can't be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BadRecord {
    /// The line on which it begins.
    pub(super) line: usize,
    /// The column, if it is in one.
    pub(super) column: Option<String>,
    /// What is wrong.
    pub(super) reason: String,
    /// Its text.
    pub(super) record: String,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in line {}", self.reason, self.line)
    }
}

/// What the files of a table have in common.
pub(super) struct Context {
    /// Where they are.
    pub(super) store: Arc<dyn ObjectStore>,
    /// Where copies go, and into which folder there.
    pub(super) warehouse: Storage,
    pub(super) folder: String,
    /// The options, if they are CSV files.
    pub(super) csv: Option<CsvOptions>,
    pub(super) compression: FileCompressionType,
    /// How their names end.
    pub(super) extension: String,
    pub(super) schema: SchemaRef,
}

/// What was found in a file.
pub(super) struct SortedFile {
    pub(super) file: ObjectMeta,
    /// The name of the copy within the warehouse, if some records are bad.
    pub(super) copy: Option<String>,
    /// All records.
    pub(super) records: u64,
    /// Those that are bad.
    pub(super) bad: u64,
    pub(super) first: Option<BadRecord>,
}

/// Something to be written.
enum Part {
    /// Text of the copy.
    Text(Bytes),
    /// Rows of the quarantine.
    Bad(Vec<BadRecord>),
}

/// Reads a file. Its number is that among the files of the table.
pub(super) async fn sort_file(
    context: Arc<Context>,
    number: usize,
    file: ObjectMeta,
    rows: Sender<RecordBatch>,
) -> Result<SortedFile> {
    let name = format!("/{}", file.location);
    let (sender, mut parts) = mpsc::channel(2);
    let text = TextFile::on_store(Arc::clone(&context.store), file.clone(), context.compression);
    let across_lines = |csv: &CsvOptions| Form::csv(csv, csv.newlines_in_values.unwrap_or(false));
    let form = context.csv.as_ref().map_or_else(Form::json, across_lines);
    let reading = Reading {
        name: name.clone(),
        text,
        form,
        header: context.csv.as_ref().is_some_and(|csv| csv.has_header.unwrap_or(true)),
        examiner: Examiner::new(form, context.csv.clone(), &context.schema),
        parts: sender,
    };
    // It reads, and waits for what it reads, without giving way.
    let reading = tokio::task::spawn_blocking(move || reading.sort());
    let place = format!("{}/{number}{}", context.folder, context.extension);
    let mut copy: Option<Box<dyn AsyncWrite + Send + Unpin>> = None;
    let mut first = None;
    let mut is_empty = true;
    let failed = |error: std::io::Error| store_error(&place, error);
    while let Some(part) = parts.recv().await {
        match part {
            Part::Text(text) => {
                let out = match copy.take() {
                    Some(out) => out,
                    None => context.begin_copy(&place)?,
                };
                copy.insert(out).write_all(&text).await.map_err(failed)?;
                is_empty = false;
            }
            Part::Bad(bad) => {
                let batch = batch(&name, &bad)?;
                first = first.or(bad.into_iter().next());
                rows.send(batch).await.map_err(|_| JobError::Damaged {
                    what: "the quarantine".to_string(),
                    reason: "nobody writes it any more".to_string(),
                })?;
            }
        }
    }
    let Counted { records, bad } = reading.await??;
    if bad == 0 {
        return Ok(SortedFile { file, copy: None, records, bad, first });
    }
    let mut copy = match copy {
        Some(copy) => copy,
        None => context.begin_copy(&place)?,
    };
    if is_empty {
        // A file of nothing is none, a blank line is no record.
        copy.write_all(&[form.end()]).await.map_err(failed)?;
    }
    copy.shutdown().await.map_err(failed)?;
    Ok(SortedFile { file, copy: Some(place), records, bad, first })
}

/// What has become of a file when the thread that reads it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counted {
    records: u64,
    bad: u64,
}

impl Context {
    /// A file in the form of those that it is a copy of.
    fn begin_copy(&self, place: &str) -> Result<Box<dyn AsyncWrite + Send + Unpin>> {
        let store = Arc::clone(self.warehouse.store());
        let copy = BufWriter::new(store, self.warehouse.path(place)).with_max_concurrency(PARTS);
        Ok(self.compression.convert_async_writer(copy)?)
    }
}

/// An error of a store, which may pass, is told from others.
fn store_error(file: &str, error: std::io::Error) -> JobError {
    JobError::Catalog(match error.downcast::<object_store::Error>() {
        Ok(source) => CatalogError::Store { url: file.to_string(), source },
        Err(error) => CatalogError::Io(error),
    })
}

/// A file that is being read.
struct Reading {
    /// As it is written for people.
    name: String,
    text: TextFile,
    form: Form,
    /// Whether the first record has the names of columns.
    header: bool,
    examiner: Examiner,
    parts: Sender<Part>,
}

impl Reading {
    /// Reads the file once; if a record is bad, once more for the copy.
    fn sort(self) -> Result<Counted> {
        let (counted, is_sound) = self.look()?;
        match is_sound {
            true => Ok(counted),
            false => self.divide(counted.records),
        }
    }

    /// Counts records until one is bad; `false` if one is. The good ones that were read together with it aren't counted.
    fn look(&self) -> Result<(Counted, bool)> {
        let mut records = Records::of(&self.text, self.form)?;
        let (mut batch, mut counted) = (Batch::default(), Counted::default());
        self.read_header(&mut records)?;
        while !self.parts.is_closed() && self.read(&mut records, &mut batch)? {
            if !self.examiner.wrong(&batch).is_empty() {
                return Ok((counted, false));
            }
            counted.records += batch.records.len() as u64;
        }
        Ok((counted, true))
    }

    /// Hands on good records as text of the copy, and bad ones as rows. The first ones are known to be good.
    fn divide(&self, known: u64) -> Result<Counted> {
        let mut records = Records::of(&self.text, self.form)?;
        let (mut batch, mut counted) = (Batch::default(), Counted::default());
        let mut wanted = match self.read_header(&mut records)? {
            header if header.is_empty() => true,
            header => self.hand_on(Part::Text(header.into())),
        };
        while wanted && self.read(&mut records, &mut batch)? {
            let wrong = match counted.records < known {
                true => Vec::new(),
                false => self.examiner.wrong(&batch),
            };
            counted.records += batch.records.len() as u64;
            counted.bad += wrong.len() as u64;
            let good = without(&batch, &wrong);
            if !good.is_empty() {
                wanted = self.hand_on(Part::Text(good.into()));
            }
            for wrong in wrong.chunks(BAD) {
                let bad = wrong.iter().map(|(at, wrong)| self.bad_record(&batch, *at, wrong));
                wanted &= self.hand_on(Part::Bad(bad.collect()));
            }
        }
        Ok(counted)
    }

    /// Whether it is taken.
    fn hand_on(&self, part: Part) -> bool {
        self.parts.blocking_send(part).is_ok()
    }

    /// Reads the names of the columns, if the file has them.
    fn read_header(&self, records: &mut Records) -> Result<Vec<u8>> {
        let mut header = Vec::new();
        if !self.header {
            return Ok(header);
        }
        let found = records.next(&mut header);
        let found = found.map_err(|error| self.failed(error, records.line()))?;
        if let (Some(Found { line, .. }), Some(reason)) =
            (found, self.examiner.wrong_header(&header))
        {
            let (file, reason) =
                (self.name.clone(), format!("{reason} in line {line}, the header"));
            return Err(JobError::File { file, reason });
        }
        Ok(header)
    }

    /// Reads records that are to be examined together; `false` if there are none.
    fn read(&self, records: &mut Records, batch: &mut Batch) -> Result<bool> {
        batch.clear();
        while batch.records.len() < RECORDS && batch.text.len() < BYTES {
            let found = records.next(&mut batch.text);
            let found = found.map_err(|error| self.failed(error, records.line()))?;
            let Some(Found { line, closed }) = found else { break };
            batch.records.push(Span { line, closed, end: batch.text.len() });
        }
        Ok(!batch.records.is_empty())
    }

    fn failed(&self, error: std::io::Error, line: usize) -> JobError {
        match store_error(&self.name, error) {
            JobError::Catalog(CatalogError::Io(error)) => {
                let reason = format!("{error} after line {line}");
                JobError::File { file: self.name.clone(), reason }
            }
            error => error,
        }
    }

    fn bad_record(&self, batch: &Batch, at: usize, wrong: &Wrong) -> BadRecord {
        let text = batch.text(at..at + 1);
        let ends = |byte: &u8| *byte == self.form.end() || matches!(byte, b'\r' | b'\n');
        let length = text.iter().rposition(|byte| !ends(byte)).map_or(0, |last| last + 1);
        // A character has at most four bytes.
        let shown = String::from_utf8_lossy(&text[..length.min(4 * SHOWN)]);
        BadRecord {
            line: batch.records[at].line,
            column: wrong.column.clone(),
            reason: cut(&wrong.reason),
            record: cut(&shown),
        }
    }
}

/// A text without what is too much.
fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The text of the records that are not wrong.
fn without(batch: &Batch, wrong: &[(usize, Wrong)]) -> Vec<u8> {
    let mut good = Vec::with_capacity(batch.text.len());
    let mut begin = 0;
    for (at, _) in wrong {
        good.extend_from_slice(batch.text(begin..*at));
        begin = at + 1;
    }
    good.extend_from_slice(batch.text(begin..batch.records.len()));
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::parsers::CompressionTypeVariant;
    use nightshift_catalog::storage::Stores;
    use object_store::ObjectStoreExt;
    use std::io::Read;
    use url::Url;

    /// What was found in a file of `(n BIGINT, s VARCHAR)`, the bad records, and the copy.
    struct Outcome {
        counted: Counted,
        bad: Vec<(i64, Option<String>, String)>,
        copy: Option<Vec<u8>>,
    }

    async fn sorted(
        bytes: &[u8],
        csv: Option<CsvOptions>,
        compression: CompressionTypeVariant,
    ) -> Result<Outcome> {
        use arrow::array::AsArray;
        use arrow::datatypes::Int64Type;
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Storage::open(&url, &Stores::default()).unwrap();
        warehouse.put("file", bytes.to_vec()).await.unwrap();
        let file = warehouse.store().head(&warehouse.path("file")).await.unwrap();
        let context = Context {
            store: Arc::clone(warehouse.store()),
            warehouse: warehouse.clone(),
            folder: "run/external".to_string(),
            csv,
            compression: compression.into(),
            extension: ".csv".to_string(),
            schema: Arc::new(Schema::new(vec![
                Field::new("n", DataType::Int64, true),
                Field::new("s", DataType::Utf8View, true),
            ])),
        };
        let (rows, mut received) = mpsc::channel(100);
        let found = sort_file(Arc::new(context), 7, file, rows).await?;
        let mut bad = Vec::new();
        while let Some(batch) = received.recv().await {
            let text = |column: usize, row: usize| {
                let column = batch.column(column).as_string::<i32>();
                column.iter().nth(row).flatten().map(str::to_string)
            };
            let lines = batch.column(1).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                assert!(text(0, row).unwrap().ends_with("/file"));
                bad.push((lines.value(row), text(2, row), text(4, row).unwrap()));
            }
        }
        assert_eq!(found.bad, bad.len() as u64);
        assert_eq!(found.first.map(|bad| bad.line as i64), bad.first().map(|bad| bad.0));
        let copy = match &found.copy {
            Some(name) => {
                assert_eq!(name, "run/external/7.csv");
                Some(warehouse.get(name).await.unwrap().to_vec())
            }
            None => None,
        };
        Ok(Outcome { counted: Counted { records: found.records, bad: found.bad }, bad, copy })
    }

    const PLAIN: CompressionTypeVariant = CompressionTypeVariant::UNCOMPRESSED;

    #[tokio::test]
    async fn a_clean_file_stays_where_it_is() {
        for text in ["n,s\r\n1,x\r\n\r\n2,\"y\"", "n,s\n", ""] {
            let csv = Some(CsvOptions::default());
            let found = sorted(text.as_bytes(), csv, PLAIN).await.unwrap();
            assert_eq!((found.counted.bad, found.copy), (0, None), "{text}");
        }
    }

    #[tokio::test]
    async fn a_copy_has_what_is_good() {
        let text = "n,s\r\n1,x\r\ntwo,y\r\n\r\n3,\"z\"\r\n4";
        let found = sorted(text.as_bytes(), Some(CsvOptions::default()), PLAIN).await.unwrap();
        assert_eq!(found.counted, Counted { records: 4, bad: 2 });
        let expected =
            [(3, Some("n".to_string()), "two,y".to_string()), (6, None, "4".to_string())];
        assert_eq!(found.bad, expected);
        assert_eq!(found.copy.unwrap(), b"n,s\r\n1,x\r\n3,\"z\"\r\n");
        // Nothing is left of this one.
        let bare = CsvOptions { has_header: Some(false), ..CsvOptions::default() };
        let found = sorted(b"one,x", Some(bare), PLAIN).await.unwrap();
        assert_eq!(
            (found.counted, found.copy.unwrap()),
            (Counted { records: 1, bad: 1 }, b"\n".to_vec())
        );
        let text = "{\"n\": 1}\n{\"n\": \"x\"}\n";
        let found = sorted(text.as_bytes(), None, PLAIN).await.unwrap();
        assert_eq!(found.bad, [(2, Some("n".to_string()), "{\"n\": \"x\"}".to_string())]);
        assert_eq!(found.copy.unwrap(), b"{\"n\": 1}\n");
    }

    #[tokio::test]
    async fn large_and_compressed_files_are_sorted_too() {
        let mut text = String::from("n,s\n");
        let mut good = text.clone();
        for n in 0..100_000 {
            let is_bad = n % 20_011 == 20_010;
            let line = match is_bad {
                true => format!("{n}x,{}\n", "ü".repeat(2 * SHOWN)),
                false => format!("{n},x\n"),
            };
            text.push_str(&line);
            if !is_bad {
                good.push_str(&line);
            }
        }
        let compression = FileCompressionType::from(CompressionTypeVariant::GZIP);
        let mut compressed = flate(&text).await;
        let csv = Some(CsvOptions::default());
        let found = sorted(&compressed, csv.clone(), CompressionTypeVariant::GZIP).await.unwrap();
        assert_eq!(found.counted, Counted { records: 100_000, bad: 4 });
        assert_eq!(found.bad[0].0, 20_012);
        assert!(found.bad.iter().all(|bad| bad.2.chars().count() == SHOWN));
        let mut read = String::new();
        let copy = std::io::Cursor::new(found.copy.unwrap());
        compression.convert_read(copy).unwrap().read_to_string(&mut read).unwrap();
        assert!(read == good);
        // A file that can't be decompressed is none with bad records.
        compressed.truncate(compressed.len() / 2);
        let error = sorted(&compressed, csv, CompressionTypeVariant::GZIP).await.err().unwrap();
        assert!(matches!(error, JobError::File { .. }), "{error}");
    }

    /// Compressed with gzip.
    async fn flate(text: &str) -> Vec<u8> {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let path = object_store::path::Path::from("x");
        let object = BufWriter::new(Arc::clone(&store), path.clone());
        let compression = FileCompressionType::from(CompressionTypeVariant::GZIP);
        let mut out = compression.convert_async_writer(object).unwrap();
        out.write_all(text.as_bytes()).await.unwrap();
        out.shutdown().await.unwrap();
        store.get(&path).await.unwrap().bytes().await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_header_of_other_columns_is_an_error() {
        let csv = Some(CsvOptions::default());
        let error = sorted(b"\nn,s,t\n1,x\n", csv, PLAIN).await.err().unwrap().to_string();
        assert!(error.contains("/file: incorrect number of fields"), "{error}");
        assert!(error.ends_with("in line 2, the header"), "{error}");
    }
}
