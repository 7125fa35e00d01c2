//! The Flight SQL server: where SQL clients connect, over ADBC, JDBC or ODBC.
//!
//! | module | what it holds |
//! |---|---|
//! | `service` | the requests of the protocol |
//! | `statements` | planning and executing statements, and what handles stand for |
//! | `ingest` | tables that clients send |
//! | `catalog` | what there is: catalogs, schemas, tables |
//! | `capabilities` | what the server says about itself and its types |
//! | `clients` | what one client's statements have in common |
//! | `wire` | rows and schemas as they travel |
//! | `status` | errors as they travel |
//!
//! Plans run on the cluster like those of any other session; rows pass through as executors send them.

mod capabilities;
mod catalog;
mod clients;
mod ingest;
mod service;
mod statements;
mod status;
mod wire;

use crate::SchedulerError;
use crate::server::listener;
use arrow_flight::flight_service_server::FlightServiceServer;
use futures::future::BoxFuture;
use nightshift_jobs::session::Session;
use service::Service;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// The largest message that a client may send: one record batch of a table that it writes.
const LARGEST_MESSAGE: usize = 256 << 20;

/// How often a silent client is asked whether it is still there, and how long it may take to answer:
/// what it has started is cancelled when it is not.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A Flight SQL server that listens and does not serve yet.
pub struct FlightSql {
    address: SocketAddr,
    listener: TcpListener,
}

impl FlightSql {
    /// Binds the address; port 0 takes any that is free. To be called within a runtime.
    pub fn bind(address: SocketAddr) -> Result<Self, SchedulerError> {
        let listen = |source| SchedulerError::Listen { address: address.to_string(), source };
        let listener = listener(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { address, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the process ends. Statements run in `session`.
    pub fn serve(self, session: Session) -> BoxFuture<'static, Result<(), SchedulerError>> {
        Box::pin(async move {
            let address = self.address.to_string();
            let failed = |source| SchedulerError::FlightSql { address: address.clone(), source };
            let service = FlightServiceServer::new(Service::new(session)?)
                .max_decoding_message_size(LARGEST_MESSAGE);
            tracing::info!(%address, "Flight SQL server listens");
            Server::builder()
                .http2_keepalive_interval(Some(KEEPALIVE))
                .http2_keepalive_timeout(Some(KEEPALIVE))
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(self.listener).with_nodelay(Some(true)))
                .await
                .map_err(failed)
        })
    }
}
