//! Rows and schemas as they travel.

use super::status;
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
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
use nightshift_jobs::rows::{messages, plain_rows};
use prost::Message;
use prost::bytes::Bytes;
use std::sync::Arc;
use tonic::{Response, Status};

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
        let rows = plain_rows(&rows, &typed).map_err(FlightError::from)?;
        Ok::<_, FlightError>(futures::stream::iter(messages(&rows).into_iter().map(Ok)))
    });
    let data = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(usize::MAX)
        .build(rows.try_flatten());
    Response::new(data.map_err(Status::from).boxed())
}

/// Sends rows that are there already.
pub(super) fn send_one(rows: RecordBatch) -> Response<Data> {
    send(rows.schema(), futures::stream::iter([Ok(rows)]))
}
