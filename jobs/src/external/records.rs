//! Text files as records: where each begins and ends, and on which line.

use crate::Result;
use bytes::Bytes;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read};
use std::sync::Arc;
use tokio::runtime::Handle;

/// How much of a file is in memory.
const RANGE: u64 = 8 << 20;

/// Bytes of the longest record.
const LONGEST: usize = 32 << 20;

/// What some programs begin a text with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
            self.read = self.runtime.block_on(read).map_err(Error::other)?;
        }
        let taken = self.read.split_to(out.len().min(self.read.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

type Source = Box<dyn Fn() -> Box<dyn Read + Send> + Send>;

/// A file of lines, which can be read from its start again and again.
pub(super) struct TextFile {
    source: Source,
    compression: FileCompressionType,
}

impl TextFile {
    /// A file on a store. Whoever reads it waits without giving way.
    pub(super) fn on_store(
        store: Arc<dyn ObjectStore>,
        file: ObjectMeta,
        compression: FileCompressionType,
    ) -> Self {
        let runtime = Handle::current();
        let source: Source = Box::new(move || -> Box<dyn Read + Send> {
            let (store, file, runtime) = (Arc::clone(&store), file.clone(), runtime.clone());
            Box::new(Ranges { store, file, runtime, at: 0, read: Bytes::new() })
        });
        Self { source, compression }
    }

    /// A file of these bytes.
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8], compression: FileCompressionType) -> Self {
        let bytes = bytes.to_vec();
        let source: Source = Box::new(move || Box::new(std::io::Cursor::new(bytes.clone())));
        Self { source, compression }
    }

    /// The text, without the compression.
    pub(super) fn reader(&self) -> Result<Box<dyn Read + Send>> {
        Ok(self.compression.convert_read((self.source)())?)
    }
}

/// How a text is cut into records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// What ends a record, if that isn't a line break.
    terminator: Option<u8>,
    comment: Option<u8>,
    /// How values are quoted; in no way that matters in JSON.
    quotes: Option<Quotes>,
    /// Whether a record ends only where no quote is open.
    across_lines: bool,
}

#[derive(Debug, Clone, Copy)]
struct Quotes {
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
}

/// Where in a record a byte is, as readers of CSV see it: a quote that isn't the first byte of a value is one of its
/// characters.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Start,
    Plain,
    Quoted,
    /// After an escape character.
    Escaped,
    /// After a quote, which is the end of the value unless another one follows.
    Closing,
}

impl Within {
    /// Whether a quote is open.
    fn is_open(self) -> bool {
        matches!(self, Self::Quoted | Self::Escaped)
    }
}

impl Form {
    /// CSV. If a record can't go `across_lines`, each line is one, whatever is quoted in it.
    pub(super) fn csv(csv: &CsvOptions, across_lines: bool) -> Self {
        let CsvOptions { delimiter, quote, escape, terminator, comment, .. } = csv;
        let quotes = Quotes { delimiter: *delimiter, quote: *quote, escape: *escape };
        Self { terminator: *terminator, comment: *comment, quotes: Some(quotes), across_lines }
    }

    /// JSON, with an object on each line.
    pub(super) fn json() -> Self {
        Self { terminator: None, comment: None, quotes: None, across_lines: false }
    }

    /// Whether all quotes are closed at the end of a record.
    pub(super) fn is_closed(&self, record: &[u8]) -> bool {
        !self.after(Within::Start, record).is_open()
    }

    /// Whether a record can go across lines.
    pub(super) fn goes_across_lines(&self) -> bool {
        self.across_lines
    }

    /// What ends a record.
    pub(super) fn end(&self) -> u8 {
        self.terminator.unwrap_or(b'\n')
    }

    /// What ends a line that begins with a byte. Comments end with their line, whatever ends a record.
    fn end_of(&self, first: u8) -> u8 {
        if self.comment == Some(first) { b'\n' } else { self.end() }
    }

    fn is_end(&self, byte: u8) -> bool {
        match self.terminator {
            Some(terminator) => byte == terminator,
            None => matches!(byte, b'\r' | b'\n'),
        }
    }

    /// Whether a line is no record and no part of one.
    fn is_nothing(&self, line: &[u8]) -> bool {
        match self.quotes {
            None => line.iter().all(u8::is_ascii_whitespace),
            Some(_) => {
                line.iter().all(|byte| self.is_end(*byte))
                    || line.first().is_some_and(|first| self.comment == Some(*first))
            }
        }
    }

    /// Where one is after a text.
    fn after(&self, begin: Within, text: &[u8]) -> Within {
        let Some(quotes) = self.quotes else { return Within::Start };
        text.iter().fold(begin, |within, byte| match within {
            Within::Start if *byte == quotes.quote => Within::Quoted,
            Within::Quoted if *byte == quotes.quote => Within::Closing,
            Within::Quoted if Some(*byte) == quotes.escape => Within::Escaped,
            Within::Quoted | Within::Escaped => Within::Quoted,
            Within::Closing if *byte == quotes.quote => Within::Quoted,
            _ if *byte == quotes.delimiter || self.is_end(*byte) => Within::Start,
            _ => Within::Plain,
        })
    }
}

/// A record that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    /// The line on which it begins, from 1.
    pub(super) line: usize,
    /// Whether its quotes are closed, as far as that was looked at.
    pub(super) closed: bool,
}

/// The records of a file, one after another.
pub(super) struct Records {
    reader: BufReader<Box<dyn Read + Send>>,
    form: Form,
    /// Lines that were read to find the end of a quote which has none.
    ahead: Vec<u8>,
    /// How many bytes of them have come again.
    again: usize,
    line: usize,
}

impl Records {
    /// From the beginning of a file.
    pub(super) fn of(file: &TextFile, form: Form) -> Result<Self> {
        let reader = BufReader::new(file.reader()?);
        Ok(Self { reader, form, ahead: Vec::new(), again: 0, line: 0 })
    }

    /// Lines read so far.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Adds the next record to a text, with what ends it; `None` if there is none. Of one whose quote is never closed,
    /// the first line is taken, and the next record begins after it.
    pub(super) fn next(&mut self, text: &mut Vec<u8>) -> std::io::Result<Option<Found>> {
        let begin = text.len();
        loop {
            text.truncate(begin);
            if !self.read_line(text)? {
                return Ok(None);
            }
            if !self.form.is_nothing(&text[begin..]) {
                break;
            }
        }
        let (line, first) = (self.line, text.len());
        if !self.form.across_lines {
            return Ok(Some(Found { line, closed: true }));
        }
        let mut within = self.form.after(Within::Start, &text[begin..]);
        while within.is_open() {
            let here = text.len();
            if here - begin > LONGEST || !self.read_line(text)? {
                self.ahead.drain(..self.again);
                self.ahead.splice(..0, text[first..].iter().copied());
                self.again = 0;
                self.line = line;
                text.truncate(first);
                return Ok(Some(Found { line, closed: false }));
            }
            within = self.form.after(within, &text[here..]);
        }
        Ok(Some(Found { line, closed: true }))
    }

    /// Adds the next line to a text; `false` if there is none.
    fn read_line(&mut self, text: &mut Vec<u8>) -> std::io::Result<bool> {
        let begin = text.len();
        if let Some(first) = self.ahead.get(self.again) {
            let (end, left) = (self.form.end_of(*first), &self.ahead[self.again..]);
            let length = left.iter().position(|byte| *byte == end).map_or(left.len(), |at| at + 1);
            text.extend_from_slice(&left[..length]);
            self.again += length;
            self.line += 1;
            return Ok(true);
        }
        self.ahead.clear();
        self.again = 0;
        let Some(first) = self.reader.fill_buf()?.first().copied() else { return Ok(false) };
        let end = self.form.end_of(first);
        let read = self.reader.by_ref().take(LONGEST as u64).read_until(end, text)?;
        if read == LONGEST && text.last() != Some(&end) {
            let reason = format!("a record is longer than {} MB", LONGEST >> 20);
            return Err(Error::new(ErrorKind::InvalidData, reason));
        }
        self.line += 1;
        // The reader of CSV files passes over it.
        if self.line == 1
            && self.form.quotes.is_some()
            && text[begin..].starts_with(BYTE_ORDER_MARK)
        {
            text.drain(begin..begin + BYTE_ORDER_MARK.len());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::parsers::CompressionTypeVariant;

    fn cut(text: &str, form: Form) -> Vec<(usize, String, bool)> {
        let file = TextFile::of(text.as_bytes(), CompressionTypeVariant::UNCOMPRESSED.into());
        let mut records = Records::of(&file, form).unwrap();
        let mut found = Vec::new();
        let mut text = Vec::new();
        while let Some(Found { line, closed }) = records.next(&mut text).unwrap() {
            found.push((line, String::from_utf8(std::mem::take(&mut text)).unwrap(), closed));
        }
        found
    }

    fn owned(records: &[(usize, &str, bool)]) -> Vec<(usize, String, bool)> {
        records.iter().map(|(line, text, closed)| (*line, text.to_string(), *closed)).collect()
    }

    #[test]
    fn records_go_across_lines_if_they_may() {
        let csv = CsvOptions { comment: Some(b'#'), ..CsvOptions::default() };
        let text = "a,\"b\r\n\"\"c\"\r\n\r\n# \"\nd\"e,f\n\"\ng\",h";
        let expected =
            [(1, "a,\"b\r\n\"\"c\"\r\n", true), (5, "d\"e,f\n", true), (6, "\"\ng\",h", true)];
        assert_eq!(cut(text, Form::csv(&csv, true)), owned(&expected));
        let lines = cut(text, Form::csv(&csv, false));
        assert_eq!(lines.iter().map(|record| record.0).collect::<Vec<_>>(), [1, 2, 5, 6, 7]);
        let escape = CsvOptions { escape: Some(b'\\'), ..CsvOptions::default() };
        let escaped = [(1, "\"a\\\"\nb\"\n", true), (3, "c\n", true)];
        assert_eq!(cut("\"a\\\"\nb\"\nc\n", Form::csv(&escape, true)), owned(&escaped));
    }

    #[test]
    fn a_quote_without_an_end_takes_nothing_with_it() {
        let form = Form::csv(&CsvOptions::default(), true);
        // Another quote ends it, wherever that is.
        let expected = [(1, "a,b\n", true), (2, "c,\"d\ne,f\n\ng,\"h\n", true), (6, "i,j", true)];
        assert_eq!(cut("a,b\nc,\"d\ne,f\n\ng,\"h\ni,j", form), owned(&expected));
        let expected = [
            (1, "a,b\n", true),
            (2, "c,\"d\n", false),
            (3, "e,f\n", true),
            (5, "g,\"\"\n", true),
            (6, "h", true),
        ];
        let text = "a,b\nc,\"d\ne,f\n\ng,\"\"\nh";
        assert_eq!(cut(text, form), owned(&expected));
    }

    #[test]
    fn records_end_as_it_is_said() {
        let csv = CsvOptions {
            terminator: Some(b';'),
            comment: Some(b'#'),
            delimiter: b'|',
            ..CsvOptions::default()
        };
        let expected = [(1, "a|b;", true), (3, "c|\"d\";", true), (4, "e", true)];
        assert_eq!(cut("a|b;#x;y\nc|\"d\";e", Form::csv(&csv, true)), owned(&expected));
        let expected = [(1, "1,2\n", true)];
        assert_eq!(
            cut("\u{feff}1,2\n", Form::csv(&CsvOptions::default(), false)),
            owned(&expected)
        );
        let expected = [(1, "{\"a\":\"\n", true), (3, "x", true)];
        assert_eq!(cut("{\"a\":\"\n \nx", Form::json()), owned(&expected));
    }
}
