//! Rows as they are sent, while they come.
//!
//! What is sent before an error can't be taken back. In JSON a last member `error` says that the rows are
//! not all there, and among lines of JSON a last line; an Arrow stream is cut off.

use super::answer::Error;
use crate::statement::error::SqlError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::StructMode;
use arrow::json::writer::{JsonFormat, LineDelimited, Writer, WriterBuilder};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use nightshift_jobs::introspection::sql_type;
use nightshift_jobs::rows::{plain_rows, plain_schema};
use serde_json::json;
use std::io::{self, Write};
use uuid::Uuid;

/// How rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One object with the columns and an array for each row.
    Json,
    /// An object for each row, each on a line.
    JsonLines,
    /// Arrow's stream format.
    Arrow,
}

impl Format {
    const ALL: [Format; 3] = [Format::Json, Format::JsonLines, Format::Arrow];

    /// Its content type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::JsonLines => "application/x-ndjson",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The first that a request accepts; JSON if it doesn't say. `None` if it accepts none of them.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut accepted = headers.get_all(header::ACCEPT).iter().peekable();
        if accepted.peek().is_none() {
            return Some(Format::Json);
        }
        let accepted = accepted.flat_map(|value| value.to_str().unwrap_or_default().split(','));
        let accepted = accepted.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        let named = |kind: &str| match kind {
            "*/*" | "application/*" => Some(Format::Json),
            kind => Format::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(kind)),
        };
        accepted.filter_map(named).next()
    }
}

/// Rows with commas between them.
#[derive(Debug, Default)]
struct Separated;

impl JsonFormat for Separated {
    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        if !is_first_row {
            writer.write_all(b",")?;
        }
        Ok(())
    }
}

/// Turns rows into bytes, and keeps what a format has to remember between batches.
enum Encoder {
    Json(Writer<Vec<u8>, Separated>),
    JsonLines(Writer<Vec<u8>, LineDelimited>),
    Arrow(StreamWriter<Vec<u8>>),
}

impl Encoder {
    /// Begins an answer.
    fn new(format: Format, id: Uuid, schema: &SchemaRef) -> Result<Self, ArrowError> {
        let builder = WriterBuilder::new().with_explicit_nulls(true);
        Ok(match format {
            Format::Json => {
                let columns: Vec<_> = schema
                    .fields()
                    .iter()
                    .map(|field| json!({ "name": field.name(), "type": sql_type(field.data_type()) }))
                    .collect();
                let columns = serde_json::Value::from(columns);
                let head = format!("{{\"query_id\":\"{id}\",\"columns\":{columns},\"rows\":[");
                let builder = builder.with_struct_mode(StructMode::ListOnly);
                Encoder::Json(builder.build(head.into_bytes()))
            }
            Format::JsonLines => Encoder::JsonLines(builder.build(Vec::new())),
            Format::Arrow => Encoder::Arrow(StreamWriter::try_new(Vec::new(), schema)?),
        })
    }

    fn rows(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Encoder::Json(writer) => writer.write(rows),
            Encoder::JsonLines(writer) => writer.write(rows),
            Encoder::Arrow(writer) => writer.write(rows),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Json(writer) => writer.get_mut(),
            Encoder::JsonLines(writer) => writer.get_mut(),
            Encoder::Arrow(writer) => writer.get_mut(),
        }
    }

    /// Ends an answer that has all rows.
    fn finish(&mut self) -> Result<(), ArrowError> {
        match self {
            Encoder::Json(writer) => writer.get_mut().extend(b"]}"),
            Encoder::JsonLines(_) => {}
            Encoder::Arrow(writer) => writer.finish()?,
        }
        Ok(())
    }

    /// Ends an answer that has not. Returns whether it must be cut off to be recognized as such.
    fn fail(&mut self, id: Uuid, error: SqlError) -> bool {
        let error = json!(Error::from(error));
        match self {
            Encoder::Json(writer) => {
                writer.get_mut().extend(format!("],\"error\":{error}}}").bytes());
            }
            Encoder::JsonLines(writer) => {
                let line = json!({ "query_id": id, "error": error });
                writer.get_mut().extend(format!("{line}\n").bytes());
            }
            Encoder::Arrow(_) => return true,
        }
        false
    }

    /// What is to be sent now.
    fn take(&mut self) -> Bytes {
        std::mem::take(self.out()).into()
    }
}

enum Left {
    Rows(Box<Encoder>, SendableRecordBatchStream),
    Cut,
    Nothing,
}

/// The body of an answer. Dropping it cancels the query.
pub(super) fn body(
    format: Format,
    id: Uuid,
    rows: SendableRecordBatchStream,
) -> Result<Body, ArrowError> {
    let schema = plain_schema(&rows.schema());
    let mut encoder = Box::new(Encoder::new(format, id, &schema)?);
    let head = encoder.take();
    let rest = futures::stream::unfold(Left::Rows(encoder, rows), move |left| {
        let schema = schema.clone();
        async move {
            let (mut encoder, mut rows) = match left {
                Left::Rows(encoder, rows) => (encoder, rows),
                Left::Cut => {
                    let cut = io::Error::other("the query has failed");
                    return Some((Err(cut), Left::Nothing));
                }
                Left::Nothing => return None,
            };
            let done = match rows.next().await {
                None => encoder.finish().map(|()| false).map_err(SqlError::internal),
                Some(Err(error)) => Err(error.into()),
                Some(Ok(batch)) => {
                    let batch = plain_rows(&batch, &schema);
                    let written = batch.and_then(|batch| encoder.rows(&batch));
                    written.map(|()| true).map_err(SqlError::internal)
                }
            };
            Some(match done {
                Ok(true) => (Ok(encoder.take()), Left::Rows(encoder, rows)),
                Ok(false) => (Ok(encoder.take()), Left::Nothing),
                Err(error) => {
                    let left = if encoder.fail(id, error) { Left::Cut } else { Left::Nothing };
                    (Ok(encoder.take()), left)
                }
            })
        }
    });
    let head = futures::stream::once(std::future::ready(Ok(head)));
    let filled = |part: &io::Result<Bytes>| {
        part.as_ref().is_err() || part.as_ref().is_ok_and(|part| !part.is_empty())
    };
    Ok(Body::from_stream(head.chain(rest).filter(move |part| std::future::ready(filled(part)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, StringViewArray};
    use arrow::ipc::reader::StreamReader;
    use datafusion::error::DataFusionError;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use nightshift_jobs::JobError;
    use std::sync::Arc;

    /// Everything that is sent, and whether it was cut off.
    async fn sent(format: Format, last: Option<JobError>) -> (String, Vec<u8>, bool) {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a\"b"), None]));
        let number: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 0.5]));
        let batch = RecordBatch::try_from_iter([("error", text), ("n", number)]).unwrap();
        let schema = batch.schema();
        let mut batches = vec![Ok(batch.clone()), Ok(batch)];
        batches.extend(last.map(|error| Err(DataFusionError::from(error))));
        let rows = RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches));
        let id = Uuid::now_v7();
        let mut parts = body(format, id, Box::pin(rows)).unwrap().into_data_stream();
        let mut all = Vec::new();
        let mut cut = false;
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => all.extend(part),
                Err(_) => cut = true,
            }
        }
        (id.to_string(), all, cut)
    }

    #[tokio::test]
    async fn whole_answers_have_an_end() {
        let (id, answer, cut) = sent(Format::Json, None).await;
        assert!(!cut);
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let columns =
            json!([{"name": "error", "type": "VARCHAR"}, {"name": "n", "type": "DOUBLE"}]);
        let rows = json!([["a\"b", null], [null, 0.5], ["a\"b", null], [null, 0.5]]);
        assert_eq!(answer, json!({"query_id": id, "columns": columns, "rows": rows}));

        let (_, answer, cut) = sent(Format::JsonLines, None).await;
        let line = "{\"error\":\"a\\\"b\",\"n\":null}\n{\"error\":null,\"n\":0.5}\n";
        assert_eq!((String::from_utf8(answer).unwrap(), cut), (line.repeat(2), false));

        let (_, answer, cut) = sent(Format::Arrow, None).await;
        let read = StreamReader::try_new(answer.as_slice(), None).unwrap();
        let read: Vec<_> = read.collect::<Result<_, _>>().unwrap();
        assert_eq!((read.len(), read[0].num_rows(), cut), (2, 2, false));
    }

    #[tokio::test]
    async fn answers_that_break_off_say_so() {
        let failed = || Some(JobError::Cancelled);
        let (_, answer, cut) = sent(Format::Json, failed()).await;
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["rows"].as_array().unwrap().len(), 4);
        assert_eq!((answer["error"]["code"].as_str(), cut), (Some("57014"), false));

        let (id, answer, cut) = sent(Format::JsonLines, failed()).await;
        let last = answer.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
        let last: serde_json::Value = serde_json::from_slice(last).unwrap();
        assert_eq!((last["query_id"].as_str(), cut), (Some(id.as_str()), false));
        assert_eq!(last["error"]["message"], "the statement was cancelled");

        assert!(sent(Format::Arrow, failed()).await.2);
    }

    #[test]
    fn the_first_format_that_is_known_is_sent() {
        let accepted = |values: &[&str]| {
            let value = |text: &&str| (header::ACCEPT, text.parse().unwrap());
            Format::accepted(&values.iter().map(value).collect())
        };
        assert_eq!(accepted(&[]), Some(Format::Json));
        assert_eq!(accepted(&["text/html, */*;q=0.1"]), Some(Format::Json));
        assert_eq!(accepted(&["text/html", "application/X-NDJSON; q=1"]), Some(Format::JsonLines));
        let arrow = "application/vnd.apache.arrow.stream,application/json";
        assert_eq!(accepted(&[arrow]), Some(Format::Arrow));
        assert_eq!(accepted(&["text/html"]), None);
    }
}
