//! The control plane process: a Ballista scheduler that plans Nightshift's operators, the client
//! session that sends plans to it, and the servers that clients connect to: Flight SQL and HTTP.

mod addresses;
mod broadcast;
mod client;
mod cluster_state;
mod constants;
mod control;
mod cooperation;
mod executors;
mod file_scans;
mod flight_sql;
mod http;
mod job_state;
mod lineage;
mod semi_joins;
mod server;
mod statement;

pub use addresses::{first_reachable, until_gone};
pub use client::connect;
pub use control::{Control, wait_to_lead};
pub use flight_sql::FlightSql;
pub use http::Http;
pub use lineage::{LineageError, LineageReceiver, LineageTarget};
pub use server::{Scheduler, SchedulerOptions};

use ballista_core::error::BallistaError;
use thiserror::Error;

/// Why a scheduler could not be started or reached.
#[derive(Debug, Error)]
pub enum SchedulerError {
    /// It can't listen there.
    #[error("{address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Ballista refused.
    #[error("scheduler at {address}: {source}")]
    Start {
        /// The address.
        address: String,
        /// What it said.
        #[source]
        source: Box<BallistaError>,
    },
    /// The Flight SQL server has stopped.
    #[error("Flight SQL at {address}: {source}")]
    FlightSql {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The HTTP server has stopped.
    #[error("HTTP at {address}: {source}")]
    Http {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A cluster's address that is none.
    #[error("cluster {address}: {reason}; an address looks like grpc://127.0.0.1:50050")]
    Address {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("cluster {address} can't be reached: {reason}")]
    Unreachable {
        /// The address.
        address: String,
        /// Why not.
        reason: String,
    },
    /// Schedulers stand by for each other, and none of them has come to lead.
    #[error("nobody has led the cluster for {seconds} s: {said}")]
    NobodyLeads {
        /// How long that was waited for.
        seconds: u64,
        /// What came of asking at each address.
        said: String,
    },
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] datafusion::error::DataFusionError),
}
