//! Rows and schemas as they travel.

use super::status;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{Any, ProstMessageExt};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use prost::bytes::Bytes;
use std::sync::Arc;
use tonic::{Response, Status};

/// The type as clients get it: views and dictionaries are the engine's own business, and many clients
/// can't read them.
fn wire_type(from: &DataType) -> DataType {
    let field = |field: &FieldRef| wire_field(field);
    match from {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, value) => wire_type(value),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(field(item), *size),
        DataType::Struct(fields) => DataType::Struct(wire_fields(fields)),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

fn wire_field(field: &FieldRef) -> FieldRef {
    let kind = wire_type(field.data_type());
    if &kind == field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), kind, field.is_nullable()))
}

fn wire_fields(fields: &Fields) -> Fields {
    fields.iter().map(wire_field).collect()
}

/// The schema as clients get it.
pub(super) fn wire_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(wire_fields(schema.fields())))
}

/// Rows as clients get them.
pub(super) fn wire_rows(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let typed = |(column, field): (&ArrayRef, &FieldRef)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast(column, field.data_type())
        }
    };
    let columns =
        rows.columns().iter().zip(schema.fields()).map(typed).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// A schema by itself.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let message: Result<IpcMessage, ArrowError> = SchemaAsIpc::new(schema, &options).try_into();
    Ok(message.map_err(status::internal)?.0)
}

/// How a client gets at a result: with one ticket, from here.
pub(super) fn flight_info(
    schema: &Schema,
    ticket: &impl ProstMessageExt,
    descriptor: FlightDescriptor,
    records: Option<i64>,
) -> Result<Response<FlightInfo>, Status> {
    let ticket: Any = ticket.as_any();
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.encode_to_vec()));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(status::internal)?
        .with_endpoint(endpoint)
        .with_descriptor(descriptor)
        .with_total_records(records.unwrap_or(-1));
    Ok(Response::new(info))
}

/// What a request for data is answered with.
pub(super) type Data = BoxStream<'static, Result<FlightData, Status>>;

/// Sends rows as they come.
pub(super) fn send(
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
) -> Response<Data> {
    let typed = Arc::clone(&schema);
    let rows = rows.map(move |rows| {
        let rows = rows.map_err(|status| FlightError::Tonic(Box::new(status)))?;
        wire_rows(&rows, &typed).map_err(FlightError::from)
    });
    let data = FlightDataEncoderBuilder::new().with_schema(schema).build(rows);
    Response::new(data.map_err(Status::from).boxed())
}

/// Sends rows that are there already.
pub(super) fn send_one(rows: RecordBatch) -> Response<Data> {
    send(rows.schema(), futures::stream::iter([Ok(rows)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray, DictionaryArray, ListArray, StringViewArray};
    use arrow::datatypes::{Int32Type, Int64Type};

    #[test]
    fn clients_see_neither_views_nor_dictionaries() {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
        let coded: DictionaryArray<Int32Type> = vec!["x", "x"].into_iter().collect();
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)]), None]);
        let rows = RecordBatch::try_from_iter([
            ("text", text),
            ("coded", Arc::new(coded) as ArrayRef),
            ("list", Arc::new(list.clone()) as ArrayRef),
        ])
        .unwrap();
        let schema = wire_schema(rows.schema_ref());
        let sent = wire_rows(&rows, &schema).unwrap();
        assert_eq!(sent.column(0).data_type(), &DataType::Utf8);
        assert_eq!(sent.column(0).as_string::<i32>().value(0), "a");
        assert!(sent.column(0).is_null(1));
        assert_eq!(sent.column(1).as_string::<i32>().value(1), "x");
        assert_eq!(sent.column(2).data_type(), list.data_type());
    }
}
