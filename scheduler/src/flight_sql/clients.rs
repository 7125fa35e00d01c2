//! What the statements of one client have in common: the files that it reads in place.
//!
//! The protocol has no connections. A client is recognized by the token that its handshake has
//! returned, and one that has shaken no hands by where its TCP connection comes from.

use moka::future::Cache;
use nightshift_jobs::external::{ExternalTable, Externals};
use nightshift_jobs::queries::{Caller, Via};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::Request;
use uuid::Uuid;

/// How long a client that says nothing is remembered.
const REMEMBERED: Duration = Duration::from_secs(4 * 3600);

/// Clients that are remembered at the same time.
const MOST: u64 = 10_000;

/// One client.
#[derive(Clone, Default)]
pub(super) struct Client {
    externals: Arc<Mutex<Externals>>,
    address: String,
}

impl Client {
    /// Who it is.
    pub(super) fn caller(&self) -> Caller {
        Caller { who: self.address.clone(), via: Via::FlightSql }
    }

    /// The files that it reads in place.
    pub(super) fn externals(&self) -> Externals {
        self.externals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what a statement has changed about them, while others may have changed something
    /// else.
    pub(super) fn changed(&self, before: &Externals, after: &Externals) {
        let mut own = self.externals.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|name, _| after.contains_key(name) || !before.contains_key(name));
        let is_new = |name: &String, table: &ExternalTable| {
            before.get(name).is_none_or(|old| !Arc::ptr_eq(&old.provider(), &table.provider()))
        };
        for (name, table) in after.iter().filter(|(name, table)| is_new(name, table)) {
            own.insert(name.clone(), table.clone());
        }
    }
}

/// All clients.
pub(super) struct Clients(Cache<String, Arc<Mutex<Externals>>>);

impl Clients {
    pub(super) fn new() -> Self {
        Self(Cache::builder().time_to_idle(REMEMBERED).max_capacity(MOST).build())
    }

    /// Makes a client known and returns the header by which it is recognized from now on.
    pub(super) async fn greet(&self) -> String {
        let token = format!("Bearer {}", Uuid::now_v7().simple());
        self.0.insert(token.clone(), Arc::default()).await;
        token
    }

    /// The client that has sent a request.
    pub(super) async fn of<T>(&self, request: &Request<T>) -> Client {
        let from = request.remote_addr();
        let address = from.map_or_else(|| "unknown".to_string(), |from| from.ip().to_string());
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if let Some(token) = header
            && let Some(externals) = self.0.get(token).await
        {
            return Client { externals, address };
        }
        let from = from.map_or_else(String::new, |from| from.to_string());
        Client { externals: self.0.get_with(from, async { Arc::default() }).await, address }
    }
}
