//! What the measurements compare with, as plain as it can be:
//!
//! - `peer datafusion FOLDER`: DataFusion in one process with two partitions over the Parquet files of a
//!   folder. Reads the path of a query's file from each line of standard input, and answers with the
//!   seconds that it took and its rows.
//! - `peer flight FOLDER`: an Arrow Flight server that sends the rows of the folder's Parquet files.
//!   Prints its port.

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use mimalloc::MiMalloc;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Failure = Box<dyn Error + Send + Sync>;

/// The allocator of DataFusion's own command line, and of Nightshift.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const PARTITIONS: usize = 2;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["datafusion", folder] => datafusion(Path::new(folder)).await,
        ["flight", folder] => flight(folder).await,
        _ => Err("usage: peer datafusion|flight FOLDER".into()),
    }
}

fn context() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(PARTITIONS))
}

async fn datafusion(folder: &Path) -> Result<(), Failure> {
    let context = context();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().to_string();
            let options = ParquetReadOptions::default();
            context.register_parquet(name, path.to_string_lossy(), options).await?;
        }
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let sql = std::fs::read_to_string(line?.trim())?;
        let started = Instant::now();
        let batches = context.sql(&sql).await?.collect().await?;
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        println!("{} {rows}", started.elapsed().as_secs_f64());
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn flight(folder: &str) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let service = FlightServiceServer::new(Files { folder: folder.to_string() });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}

/// Sends the rows of a folder, whatever it is asked for.
struct Files {
    folder: String,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("only rows can be had here"))
}

#[tonic::async_trait]
impl FlightService for Files {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoActionStream = Stream<arrow_flight::Result>;
    type ListActionsStream = Stream<ActionType>;
    type DoExchangeStream = Stream<FlightData>;

    async fn do_get(&self, _: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let failed =
            |error: datafusion::error::DataFusionError| Status::internal(error.to_string());
        let options = ParquetReadOptions::default();
        let rows = context().read_parquet(&self.folder, options).await.map_err(failed)?;
        let rows = rows.execute_stream().await.map_err(failed)?;
        let rows = rows.map_err(|error| FlightError::ExternalError(Box::new(error)));
        let data = FlightDataEncoderBuilder::new().build(rows).map_err(Status::from);
        Ok(Response::new(data.boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<Self::HandshakeStream> {
        unused()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        unused()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        unused()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        unused()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        unused()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        unused()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Answer<Self::DoExchangeStream> {
        unused()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        unused()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        unused()
    }
}
