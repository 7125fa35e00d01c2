//! Results: a table to read, or rows for machines, on standard output, on a screen or in a file.
//!
//! Each format is a [`RowWriter`] in a file of its own; `destination` is where the bytes go.

mod arrow_ipc;
mod csv;
mod destination;
mod file;
mod json;
mod parquet;
mod screen;
mod table;
mod vertical;

pub use destination::Destination;
pub use screen::Screen;

use crate::Failure;
use crate::arguments::Format;
use crate::interrupts::Interrupts;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use futures::{Stream, StreamExt};
use nightshift_jobs::JobError;
use nightshift_jobs::run::Step;
use std::path::Path;
use std::sync::Arc;

/// Prints a line on standard output. That nobody reads it any more is an error, which `println!` would panic about.
macro_rules! say {
    ($($line:tt)*) => {
        std::io::Write::write_fmt(
            &mut std::io::stdout(),
            format_args!("{}\n", format_args!($($line)*)),
        )?
    };
}
pub(crate) use say;

/// Writes the rows of one result.
pub trait RowWriter {
    /// Writes some of the rows.
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure>;

    /// Writes what comes after the last row.
    fn finish(self: Box<Self>) -> Result<(), Failure>;
}

/// How results look.
#[derive(Debug, Clone)]
pub struct Style {
    /// The format.
    pub format: Format,
    /// Whether a table's columns are written below each other.
    pub expanded: bool,
    /// What stands for NULL in formats that are made to be read.
    pub null: String,
    /// How many rows of a table are fetched; 0 means all.
    pub limit: usize,
}

impl Style {
    /// The usual looks of a format.
    pub fn new(format: Format) -> Self {
        Self { format, expanded: false, null: "NULL".to_string(), limit: 0 }
    }

    /// The format that results are written in.
    fn effective(&self) -> Format {
        match self.format {
            Format::Table if self.expanded => Format::Vertical,
            format => format,
        }
    }

    fn writer<'a>(
        &self,
        schema: &SchemaRef,
        out: &'a mut Destination,
    ) -> Result<Box<dyn RowWriter + 'a>, Failure> {
        Ok(match self.effective() {
            Format::Table => Box::new(table::Table::new(schema, &self.null, out)),
            Format::Vertical => Box::new(vertical::Vertical::new(&self.null, out)),
            Format::Csv => Box::new(csv::Csv::new(schema, out)),
            Format::Json => Box::new(json::Array::new(out)),
            Format::Jsonl => Box::new(json::Lines::new(out)),
            Format::Parquet => Box::new(parquet::Parquet::new(schema, out)?),
            Format::Arrow => arrow_ipc::writer(schema, out)?,
        })
    }
}

/// Whether a format is not for people's eyes, and holds one result.
fn is_binary(format: Format) -> bool {
    matches!(format, Format::Parquet | Format::Arrow)
}

/// What has been written of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The number of rows.
    pub rows: usize,
    /// Whether there may be more, which were not fetched.
    pub cut: bool,
}

/// Where results go, and how they look there.
pub struct Output {
    /// How they look.
    pub style: Style,
    destination: Destination,
    /// Results that were written since the destination is what it is.
    results: usize,
}

impl Output {
    /// Results in a file, or on standard output if there is none.
    ///
    /// # Errors
    ///
    /// If the file can't be made, or what can't be read would be written on a terminal.
    pub fn new(format: Format, file: Option<&Path>) -> Result<Self, Failure> {
        let destination = Destination::new(file)?;
        let output = Self { style: Style::new(format), destination, results: 0 };
        output.check()?;
        Ok(output)
    }

    /// Results on a screen.
    pub fn on_screen(format: Format, screen: Screen) -> Self {
        Self { style: Style::new(format), destination: Destination::Screen(screen), results: 0 }
    }

    /// Fails if what is written next does not belong where it would go.
    fn check(&self) -> Result<(), Failure> {
        let format = self.style.effective();
        if !is_binary(format) {
            return Ok(());
        }
        let name = if format == Format::Parquet { "parquet" } else { "arrow" };
        if self.destination.is_terminal() {
            return Err(format!(
                "the format {name} is not for a terminal: choose a file (-o FILE, in the shell \\o FILE)"
            )
            .into());
        }
        if self.results > 0 {
            return Err(format!(
                "what is written in the format {name} holds one result, and this is another"
            )
            .into());
        }
        Ok(())
    }

    /// Sends what follows elsewhere. What was written so far is where it belongs.
    pub fn redirect(&mut self, destination: Destination) -> Result<(), Failure> {
        self.results = 0;
        std::mem::replace(&mut self.destination, destination).close()
    }

    /// Puts files in their places.
    pub fn close(self) -> Result<(), Failure> {
        self.destination.close()
    }

    /// The screen, if results go there.
    pub fn screen(&mut self) -> Option<&mut Screen> {
        match &mut self.destination {
            Destination::Screen(screen) => Some(screen),
            _ => None,
        }
    }

    /// Writes the rows of a result as they come. A file is as it was before if that fails. `None` if
    /// somebody had seen enough before the end.
    ///
    /// # Errors
    ///
    /// Those of the rows; [`crate::Interrupted`]; `BrokenPipe` if nobody reads standard output.
    pub async fn rows(
        &mut self,
        schema: SchemaRef,
        rows: impl Stream<Item = Result<RecordBatch, JobError>>,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Written>, Failure> {
        self.check()?;
        self.destination.begin()?;
        let written = self.write_rows(schema, rows, interrupts).await;
        let written = self.destination.end(written)?;
        self.results += 1;
        Ok(written)
    }

    async fn write_rows(
        &mut self,
        schema: SchemaRef,
        rows: impl Stream<Item = Result<RecordBatch, JobError>>,
        interrupts: &mut Interrupts,
    ) -> Result<Written, Failure> {
        let limit = match self.style.effective() {
            Format::Table if self.style.limit > 0 => self.style.limit,
            _ => usize::MAX,
        };
        let mut writer = self.style.writer(&schema, &mut self.destination)?;
        let mut written = Written { rows: 0, cut: false };
        let mut rows = std::pin::pin!(rows);
        loop {
            let batch = tokio::select! {
                batch = rows.next() => batch,
                () = interrupts.next() => return Err(crate::Interrupted.into()),
            };
            let Some(batch) = batch.transpose()? else { break };
            let left = limit - written.rows;
            if batch.num_rows() > left {
                writer.write(&batch.slice(0, left))?;
                written = Written { rows: limit, cut: true };
                break;
            }
            writer.write(&batch)?;
            written.rows += batch.num_rows();
        }
        writer.finish()?;
        Ok(written)
    }

    /// Writes rows that are there already.
    pub fn all(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        self.check()?;
        self.destination.begin()?;
        let mut write = || {
            let mut writer = self.style.writer(&batch.schema(), &mut self.destination)?;
            writer.write(batch)?;
            writer.finish()
        };
        let written = write();
        self.destination.end(written)?;
        self.results += 1;
        Ok(())
    }

    /// Reports what the steps of a run have made: a result by itself. Where results are only for
    /// programs it is a table beside them, on standard output if they go to a file, on standard error
    /// if they don't.
    pub fn steps(&mut self, steps: &[Step]) -> Result<(), Failure> {
        let batch = report(steps)?;
        if self.destination.is_file() {
            return Output::new(Format::Table, None)?.all(&batch);
        }
        if is_binary(self.style.effective()) {
            eprintln!("{}", pretty_format_batches(&[batch])?);
            return Ok(());
        }
        self.all(&batch)
    }
}

fn report(steps: &[Step]) -> Result<RecordBatch, Failure> {
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
    Ok(RecordBatch::try_from_iter(columns)?)
}

#[cfg(test)]
mod tests;
