//! Which records of a text are what the columns say. Many are decoded at once, and only where that fails fewer, down to
//! one: clean files are read at the speed of the decoder.

use super::damage::{Reason, csv_reader};
use super::records::Form;
use crate::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::config::CsvOptions;
use std::ops::Range;
use std::sync::Arc;

/// Records that are decoded together when something is wrong in more.
const PIECE: usize = 64;

/// Records in a row.
#[derive(Default)]
pub(super) struct Batch {
    /// Their text, each with what ends it.
    pub(super) text: Vec<u8>,
    pub(super) records: Vec<Span>,
}

/// A record of a batch.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// The line on which it begins.
    pub(super) line: usize,
    /// Whether its quotes are closed, as far as that is known.
    pub(super) closed: bool,
    /// Where its text ends.
    pub(super) end: usize,
}

impl Batch {
    /// Begins another one.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.records.clear();
    }

    /// The text of some records.
    pub(super) fn text(&self, records: Range<usize>) -> &[u8] {
        let end = |before: usize| match before.checked_sub(1) {
            Some(last) => self.records[last].end,
            None => 0,
        };
        &self.text[end(records.start)..end(records.end)]
    }
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wrong {
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

/// Knows what records are to be.
pub(super) struct Examiner {
    form: Form,
    /// The options, if it is CSV.
    csv: Option<CsvOptions>,
    /// The columns, all of which can be NULL.
    schema: SchemaRef,
    /// Those that can't.
    needed: Vec<usize>,
}

impl Examiner {
    /// For records of these columns.
    pub(super) fn new(form: Form, csv: Option<CsvOptions>, schema: &SchemaRef) -> Self {
        let fields = schema.fields().iter();
        let needed = fields.clone().enumerate().filter(|(_, field)| !field.is_nullable());
        let needed = needed.map(|(at, _)| at).collect();
        let nullable = fields.map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        Self { form, csv, schema, needed }
    }

    /// Why a header can't be one.
    pub(super) fn wrong_header(&self, header: &[u8]) -> Option<String> {
        let csv = self.csv.as_ref()?;
        if self.schema.fields().is_empty() {
            return None;
        }
        if !self.form.is_closed(header) {
            return Some(self.unclosed().to_string());
        }
        let mut decoder = csv_reader(csv, &self.schema).with_header(true).build_decoder();
        let decoded = decoder.decode(header).and_then(|_| decoder.decode(&[]));
        decoded.err().map(|error| Reason::of(&error, &self.schema).text)
    }

    /// The records of a batch that are wrong, in order.
    pub(super) fn wrong(&self, batch: &Batch) -> Vec<(usize, Wrong)> {
        let (all, mut wrong) = (batch.records.len(), Vec::new());
        if self.is_sound(batch, 0..all) {
            return wrong;
        }
        for begin in (0..all).step_by(PIECE) {
            self.single_out(batch, begin..(begin + PIECE).min(all), &mut wrong);
        }
        wrong
    }

    fn single_out(&self, batch: &Batch, records: Range<usize>, wrong: &mut Vec<(usize, Wrong)>) {
        let (begin, count) = (records.start, records.len());
        if count == 1 {
            wrong.extend(self.wrong_record(batch, begin).map(|why| (begin, why)));
        } else if !self.is_sound(batch, records.clone()) {
            let middle = begin + count / 2;
            self.single_out(batch, begin..middle, wrong);
            self.single_out(batch, middle..records.end, wrong);
        }
    }

    /// Whether nothing is wrong with some records. A quote that one leaves open takes those after it with it, so that
    /// there are fewer than there should be; only that of the last shows in nothing else.
    fn is_sound(&self, batch: &Batch, records: Range<usize>) -> bool {
        let Some(last) = records.end.checked_sub(1).filter(|_| !records.is_empty()) else {
            return true;
        };
        let spans = &batch.records[records.clone()];
        let (text, count) = (batch.text(records), spans.len());
        spans.iter().all(|span| span.closed)
            && self.form.is_closed(batch.text(last..last + 1))
            && self.decode(text, count, None).is_ok_and(|found| found == Some(count))
    }

    /// What is wrong with one record.
    fn wrong_record(&self, batch: &Batch, at: usize) -> Option<Wrong> {
        let text = batch.text(at..at + 1);
        if !batch.records[at].closed || !self.form.is_closed(text) {
            return Some(Wrong { column: None, reason: self.unclosed().to_string() });
        }
        let error = match self.decode(text, 1, None) {
            Ok(Some(_)) => return None,
            Ok(None) => return self.missing(text),
            Err(error) => error,
        };
        let Reason { text: reason, column, .. } = Reason::of(&error, &self.schema);
        // Of some types it isn't said which column it is.
        if column.is_none() && self.csv.is_some() && !matches!(error, ArrowError::CsvError(_)) {
            let fields = self.schema.fields().iter().enumerate();
            let mut failing = fields.filter(|(at, _)| self.decode(text, 1, Some(*at)).is_err());
            if let Some((_, field)) = failing.next() {
                let (name, reason) = (field.name().clone(), reason.trim_end_matches('.'));
                let reason = format!("{reason} for column {name}");
                return Some(Wrong { column: Some(name), reason });
            }
        }
        Some(Wrong { column, reason })
    }

    /// The column that has no value in a record and needs one.
    fn missing(&self, text: &[u8]) -> Option<Wrong> {
        let is_missing = |at: &&usize| match self.batches(text, 1, None) {
            Ok(batches) => batches.iter().any(|batch| batch.column(**at).null_count() > 0),
            Err(_) => false,
        };
        let name = self.schema.field(*self.needed.iter().find(is_missing)?).name().clone();
        let reason = format!("there is no value for column {name}, which is NOT NULL");
        Some(Wrong { column: Some(name), reason })
    }

    fn unclosed(&self) -> &'static str {
        match self.form.goes_across_lines() {
            true => "a quote is never closed",
            false => {
                "a quote is not closed in its line (values with line breaks need the option newlines_in_values)"
            }
        }
    }

    /// How many records a text has when it is decoded, `None` if there is NULL where there can be none.
    fn decode(
        &self,
        text: &[u8],
        expected: usize,
        column: Option<usize>,
    ) -> Result<Option<usize>, ArrowError> {
        // A decoder for no columns is none.
        if self.schema.fields().is_empty() {
            return Ok(Some(expected));
        }
        let batches = self.batches(text, expected, column)?;
        let has_null = |batch: &RecordBatch| {
            column.is_none() && self.needed.iter().any(|at| batch.column(*at).null_count() > 0)
        };
        Ok(match batches.iter().any(has_null) {
            true => None,
            false => Some(batches.iter().map(RecordBatch::num_rows).sum()),
        })
    }

    /// The rows of a text, of all columns or of one.
    fn batches(
        &self,
        text: &[u8],
        expected: usize,
        column: Option<usize>,
    ) -> Result<Vec<RecordBatch>, ArrowError> {
        let (mut left, mut batches) = (text, Vec::new());
        let Some(csv) = &self.csv else {
            let decoder = arrow::json::ReaderBuilder::new(Arc::clone(&self.schema));
            let mut decoder = decoder.with_batch_size(expected).build_decoder()?;
            while !left.is_empty() {
                left = &left[decoder.decode(left)?..];
                batches.extend(decoder.flush()?);
            }
            return Ok(batches);
        };
        let mut decoder =
            csv_reader(csv, &self.schema).with_header(false).with_batch_size(expected);
        if let Some(column) = column {
            decoder = decoder.with_projection(vec![column]);
        }
        let mut decoder = decoder.build_decoder();
        loop {
            // With nothing left, it hears that this is the end.
            let taken = decoder.decode(left)?;
            left = &left[taken..];
            if taken > 0 && decoder.capacity() > 0 {
                continue;
            }
            match decoder.flush()? {
                Some(batch) => batches.push(batch),
                None => return Ok(batches),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::records::{Found, Records, TextFile};
    use arrow::datatypes::{DataType, Field, TimeUnit};
    use datafusion::common::parsers::CompressionTypeVariant;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("s", DataType::Utf8View, true),
            Field::new("d", DataType::Decimal128(6, 2), true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        ]))
    }

    /// Lines, columns and reasons.
    fn wrong(text: &[u8], form: Form, csv: Option<&CsvOptions>) -> Vec<(usize, String, String)> {
        let file = TextFile::of(text, CompressionTypeVariant::UNCOMPRESSED.into());
        let mut records = Records::of(&file, form).unwrap();
        let mut batch = Batch::default();
        while let Some(Found { line, closed }) = records.next(&mut batch.text).unwrap() {
            batch.records.push(Span { line, closed, end: batch.text.len() });
        }
        let examiner = Examiner::new(form, csv.cloned(), &schema());
        let wrong = examiner.wrong(&batch).into_iter();
        let place = |at: usize| batch.records[at].line;
        wrong
            .map(|(at, Wrong { column, reason })| (place(at), column.unwrap_or_default(), reason))
            .collect()
    }

    fn assert_wrong(found: &[(usize, String, String)], expected: &[(usize, &str, &str)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (line, column, reason)) in found.iter().zip(expected) {
            assert_eq!((found.0, found.1.as_str()), (*line, *column), "{found:?}");
            assert!(found.2.contains(reason), "{found:?}");
        }
    }

    #[test]
    fn records_of_csv_are_singled_out() {
        let csv = CsvOptions { comment: Some(b'#'), ..CsvOptions::default() };
        let mut text = Vec::new();
        for line in 0..200 {
            text.extend_from_slice(match line {
                3 => b"three,x,1.5,2026-01-01\r\n",
                40 => b"40,x\n",
                41 => b"41,x,1,2026-01-01,more\n",
                64 => b"# sixty-four\n",
                70 => b",x,1,\n",
                90 => b"90,\xff,1,\n",
                91 => b"91,x,one,\n",
                128 => b"128,x,1,yesterday\n",
                150 => b"150,\"x,1,\n",
                151 => b"151,it is 5\" wide,\"1\",\r\n",
                199 => b"199,\"x,1,",
                _ => b"1,\"x, \"\"y\"\"\",1.25,2026-01-01T10:00:00\n",
            });
        }
        let expected = [
            (4, "n", "Error while parsing value 'three' as type 'Int64' for column n"),
            (41, "", "incorrect number of fields, expected 4 got 2"),
            (42, "", "incorrect number of fields, expected 4 got"),
            (71, "n", "there is no value for column n, which is NOT NULL"),
            (91, "s", "invalid UTF-8 data for column s"),
            (92, "d", "for column d"),
            (129, "t", "column t"),
            (151, "", "a quote is not closed in its line"),
            (200, "", "a quote is not closed in its line"),
        ];
        assert_wrong(&wrong(&text, Form::csv(&csv, false), Some(&csv)), &expected);
    }

    #[test]
    fn quotes_across_lines_belong_to_one_record() {
        let csv = CsvOptions { delimiter: b'|', ..CsvOptions::default() };
        let text = b"1|\"x\ny\"|1|\n2|\"x\n\ny\"|one|\n3|\"never|1|\n4||1|\n";
        let expected = [(3, "d", "for column d"), (6, "", "a quote is never closed")];
        assert_wrong(&wrong(text, Form::csv(&csv, true), Some(&csv)), &expected);
    }

    #[test]
    fn objects_are_singled_out() {
        let text = b"{\"n\": 1, \"s\": \"x\", \"other\": 1}\n\n{\"n\": \"one\"}\n{\"s\": \"y\"}\n[1]\n\
                     {\"n\": 2\n{\"n\": 3} {\"n\": 4}\n{\"n\": 5, \"s\": \"\xff\"}\n3\n{\"n\": 6, \"s\": {}}\n\
                     {\"n\": 7, \"d\": 1.5}";
        let expected = [
            (3, "n", "failed to parse \"one\" as Int64"),
            (4, "n", "there is no value for column n"),
            (5, "", "expected {"),
            (6, "", "Truncated record"),
            (8, "", "UTF-8"),
            (9, "", "expected {"),
            (10, "s", "expected string"),
        ];
        assert_wrong(&wrong(text, Form::json(), None), &expected);
    }
}
