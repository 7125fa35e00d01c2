//! Results as other processes fetch them.

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo,
    SchemaResult, Ticket,
};
use ballista_core::client::BlockDataStream;
use ballista_core::error::BallistaError;
use ballista_core::utils::{GrpcServerConfig, create_grpc_server};
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::shutdown::Shutdown;
use datafusion::error::DataFusionError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use nightshift_jobs::rows::{messages, plain_schema};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The action with which Ballista's executors fetch a file as it is.
const BLOCKS: &str = "IO_BLOCK_TRANSPORT";

/// Ballista's service, which sends all results compressed; here they are so only if they leave the machine.
/// Between processes of one machine, to compress takes several times as long as everything else.
struct Results {
    files: BallistaFlightService,
}

/// Serves the results in a folder to who connects to a listener.
pub(crate) fn serve(
    work_dir: String,
    listener: Option<TcpListener>,
    mut shutdown: Shutdown,
    config: GrpcServerConfig,
    most_bytes: usize,
) -> JoinHandle<Result<(), BallistaError>> {
    let service = FlightServiceServer::new(Results { files: BallistaFlightService::new(work_dir) })
        .max_encoding_message_size(most_bytes)
        .max_decoding_message_size(most_bytes);
    tokio::spawn(async move {
        let used = || std::io::Error::other("the listener for results is in use already");
        let incoming = TcpIncoming::from(listener.ok_or_else(used)?).with_nodelay(Some(true));
        let server = create_grpc_server(&config).add_service(service);
        let served = server.serve_with_incoming_shutdown(incoming, shutdown.recv()).await;
        served.map_err(BallistaError::TonicError)
    })
}

/// Whether a request comes from the machine that it comes to.
fn is_from_here<T>(request: &Request<T>) -> bool {
    let here = request.local_addr().map(|address| address.ip());
    request.remote_addr().is_some_and(|peer| peer.ip().is_loopback() || Some(peer.ip()) == here)
}

impl Results {
    /// The rows that a ticket is for, as they are in the file.
    async fn uncompressed(&self, ticket: &Ticket) -> Result<BoxStream<'static, Message>, Status> {
        let action = Action { r#type: BLOCKS.to_string(), body: ticket.ticket.clone() };
        let blocks = self.files.do_action(Request::new(action)).await?.into_inner();
        let blocks = blocks
            .map_ok(|block| block.body)
            .map_err(|status| DataFusionError::External(Box::new(status)));
        let batches = BlockDataStream::try_new(blocks)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let schema = batches.schema.clone();
        if plain_schema(&schema).fields() != schema.fields() {
            return Err(Status::unimplemented("views and dictionaries have no size of their own"));
        }
        let rows = batches
            .map_err(|error| FlightError::ExternalError(Box::new(error)))
            .map_ok(|rows| stream::iter(messages(&rows).into_iter().map(Ok)))
            .try_flatten();
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .with_max_flight_data_size(usize::MAX)
            .build(rows);
        Ok(encoded.map_err(Status::from).boxed())
    }
}

type Message = Result<FlightData, Status>;

#[tonic::async_trait]
impl FlightService for Results {
    type DoActionStream = <BallistaFlightService as FlightService>::DoActionStream;
    type DoExchangeStream = <BallistaFlightService as FlightService>::DoExchangeStream;
    type DoGetStream = <BallistaFlightService as FlightService>::DoGetStream;
    type DoPutStream = <BallistaFlightService as FlightService>::DoPutStream;
    type HandshakeStream = <BallistaFlightService as FlightService>::HandshakeStream;
    type ListActionsStream = <BallistaFlightService as FlightService>::ListActionsStream;
    type ListFlightsStream = <BallistaFlightService as FlightService>::ListFlightsStream;

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        if is_from_here(&request) {
            // Files of another form than blocks have are left to Ballista, as are other types and errors.
            if let Ok(rows) = self.uncompressed(request.get_ref()).await {
                return Ok(Response::new(rows));
            }
        }
        self.files.do_get(request).await
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        self.files.do_action(request).await
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.files.do_exchange(request).await
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        self.files.do_put(request).await
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.files.get_flight_info(request).await
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        self.files.get_schema(request).await
    }

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.files.handshake(request).await
    }

    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        self.files.list_actions(request).await
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.files.list_flights(request).await
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        self.files.poll_flight_info(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::compute::concat_batches;
    use arrow::ipc::writer::StreamWriter;
    use arrow_flight::decode::FlightRecordBatchStream;
    use ballista_core::execution_plans::create_shuffle_path;
    use ballista_core::serde::protobuf;
    use ballista_core::serde::scheduler::{
        Action as BallistaAction, ShuffleFileKind, ShuffleLayout,
    };
    use prost::Message as _;
    use std::fs::{File, create_dir_all};
    use std::sync::Arc;

    /// The bytes of rows in messages, and the rows.
    async fn received(messages: BoxStream<'static, Message>) -> (usize, RecordBatch) {
        let messages: Vec<_> = messages.try_collect().await.unwrap();
        let bytes = messages.iter().map(|message| message.data_body.len()).sum();
        let messages = stream::iter(messages.into_iter().map(Ok));
        let rows = FlightRecordBatchStream::new_from_flight_data(messages);
        let rows: Vec<_> = rows.try_collect().await.unwrap();
        (bytes, concat_batches(&rows[0].schema(), &rows).unwrap())
    }

    #[tokio::test]
    async fn only_what_leaves_the_machine_is_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..500_000).map(|i| i / 9)));
        let rows = RecordBatch::try_from_iter([("i", numbers)]).unwrap();
        let job = "job".to_string();
        let path = create_shuffle_path(folder.path(), &job.clone().into(), 1, 0, None, false);
        let path = path.unwrap();
        create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(&path).unwrap();
        let mut writer = StreamWriter::try_new(file, rows.schema_ref()).unwrap();
        for first in (0..rows.num_rows()).step_by(125_000) {
            writer.write(&rows.slice(first, 125_000)).unwrap();
        }
        writer.finish().unwrap();
        let action: protobuf::Action = BallistaAction::FetchPartition {
            job_id: job.into(),
            stage_id: 1,
            partition_id: 0,
            host: "localhost".to_string(),
            port: 0,
            file_id: None,
            layout: ShuffleLayout::Passthrough,
            file_kind: ShuffleFileKind::Data,
            byte_ranges: vec![],
        }
        .try_into()
        .unwrap();
        let ticket = Ticket::new(action.encode_to_vec());
        let work_dir = folder.path().to_string_lossy().into_owned();
        let results = Results { files: BallistaFlightService::new(work_dir) };
        let (here, same) = received(results.uncompressed(&ticket).await.unwrap()).await;
        // It is not known where this request comes from.
        let elsewhere = results.do_get(Request::new(ticket)).await.unwrap().into_inner();
        let (beyond, also_same) = received(elsewhere).await;
        assert!((4_000_000..4_100_000).contains(&here), "{here}");
        assert!(beyond < here / 2, "{beyond}");
        assert_eq!([&same, &also_same], [&rows, &rows]);
    }
}
