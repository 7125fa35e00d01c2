//! Connections to schedulers and executors, which are kept for a while for whoever needs one next.

use ballista_core::client::BallistaClient;
use ballista_core::config::BallistaConfig;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use datafusion::error::DataFusionError;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// How long a connection can be used again. When the next is wanted or kept, those that are older are closed.
const KEPT: Duration = Duration::from_secs(30);

/// Connections to one address that are kept.
const MOST: usize = 16;

/// Connections of one kind that nobody uses now, by address, and since when.
///
/// A connection has one user at a time: rows that one reads slowly would hold up those of another.
pub(super) struct Idle<C>(Mutex<HashMap<String, Vec<(Instant, C)>>>);

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C> fmt::Debug for Idle<C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Idle").finish_non_exhaustive()
    }
}

impl<C> Idle<C> {
    /// Those that were used lately.
    fn recent(&self, now: Instant) -> MutexGuard<'_, HashMap<String, Vec<(Instant, C)>>> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, connections| {
            connections.retain(|(since, _)| now.saturating_duration_since(*since) < KEPT);
            !connections.is_empty()
        });
        idle
    }

    /// A connection to an address, if one is there, for its caller alone.
    fn take(&self, address: &str, now: Instant) -> Option<C> {
        self.recent(now).get_mut(address)?.pop().map(|(_, connection)| connection)
    }

    /// Keeps a connection for the next one, unless there are enough.
    pub(super) fn keep(&self, address: String, connection: C) {
        let now = Instant::now();
        let mut recent = self.recent(now);
        let connections = recent.entry(address).or_default();
        if connections.len() < MOST {
            connections.push((now, connection));
        }
    }
}

/// Connections of one client.
#[derive(Debug)]
pub(super) struct Connections {
    config: GrpcClientConfig,
    /// To schedulers.
    pub(super) schedulers: Idle<Channel>,
    /// To executors.
    pub(super) executors: Idle<BallistaClient>,
}

impl Connections {
    /// Connections as the configuration has them.
    pub(super) fn new(config: &BallistaConfig) -> Self {
        let (schedulers, executors) = (Idle::default(), Idle::default());
        Self { config: GrpcClientConfig::from(config), schedulers, executors }
    }

    /// Bytes of the largest message.
    pub(super) fn message_bytes(&self) -> usize {
        self.config.max_message_size
    }

    /// A connection to the scheduler with this URL.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(super) async fn scheduler(&self, url: &str) -> Result<Channel, DataFusionError> {
        match self.schedulers.take(url, Instant::now()) {
            Some(channel) => Ok(channel),
            None => {
                let endpoint = create_grpc_client_endpoint(url.to_string(), Some(&self.config));
                endpoint.map_err(as_text)?.connect().await.map_err(as_text)
            }
        }
    }

    /// A connection to the executor whose results are at this address: `host:port`. What is on its way there is as much as
    /// the protocol has by itself.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(super) async fn executor(
        &self,
        host: &str,
        port: u16,
    ) -> Result<(String, BallistaClient), DataFusionError> {
        let address = format!("{host}:{port}");
        if let Some(client) = self.executors.take(&address, Instant::now()) {
            return Ok((address, client));
        }
        let GrpcClientConfig { connect_timeout_seconds, http2_keepalive_interval_seconds, .. } =
            self.config;
        // An executor whose machine is gone closes no connection.
        let endpoint = BallistaConfigGrpcEndpoint::new(Arc::new(move |endpoint| {
            Ok(endpoint
                .connect_timeout(Duration::from_secs(connect_timeout_seconds))
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(http2_keepalive_interval_seconds)))
        }));
        let client = BallistaClient::try_new(
            host,
            port,
            self.config.max_message_size,
            self.config.use_tls,
            Some(Arc::new(endpoint)),
            self.config.io_retries_times,
            self.config.io_retry_wait_time_ms,
            0,
            0,
        );
        Ok((address, client.await.map_err(as_text)?))
    }
}

/// An error as the text in which a session finds out what has happened.
pub(super) fn as_text(error: impl fmt::Debug) -> DataFusionError {
    DataFusionError::Execution(format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::{TcpListener, TcpSocket};

    #[test]
    fn a_connection_has_one_user_at_a_time() {
        let idle = Idle::default();
        let now = Instant::now();
        assert_eq!(idle.take("a", now), None);
        idle.keep("a".to_string(), 1);
        idle.keep("b".to_string(), 2);
        assert_eq!((idle.take("a", now), idle.take("a", now)), (Some(1), None));
        idle.keep("a".to_string(), 3);
        assert_eq!((idle.take("b", now), idle.take("a", now)), (Some(2), Some(3)));
    }

    #[test]
    fn no_more_connections_are_kept_than_are_of_use() {
        let idle = Idle::default();
        (0..2 * MOST).for_each(|connection| idle.keep("a".to_string(), connection));
        let now = Instant::now();
        let kept = std::iter::from_fn(|| idle.take("a", now)).count();
        assert_eq!(kept, MOST);
    }

    /// Somebody who accepts connections, and how many there were.
    async fn listen() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        (port, accepted)
    }

    #[tokio::test]
    async fn a_connection_that_is_free_is_used_again() {
        let (port, accepted) = listen().await;
        let connections = Connections::new(&BallistaConfig::default());
        let (address, first) = connections.executor("127.0.0.1", port).await.unwrap();
        // The first has a user.
        let second = connections.executor("127.0.0.1", port).await.unwrap();
        connections.executors.keep(address, first);
        let third = connections.executor("127.0.0.1", port).await.unwrap();
        drop((second, third));
        let url = format!("http://127.0.0.1:{port}");
        for _ in 0..3 {
            let channel = connections.scheduler(&url).await.unwrap();
            connections.schedulers.keep(url.clone(), channel);
        }
        // One more, so that whoever listens has seen all before.
        let _last = connections.executor("127.0.0.1", port).await.unwrap();
        while accepted.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        assert_eq!(accepted.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_that_of_a_lost_executor() {
        // Bound, so that nobody else listens there.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let gone = socket.local_addr().unwrap().port();
        let connections = Connections::new(&BallistaConfig::default());
        let Err(error) = connections.executor("127.0.0.1", gone).await else {
            panic!("somebody listens there");
        };
        // By these words a session knows that it has to run the job again.
        assert!(error.to_string().contains("GrpcConnectionError"), "{error}");
        let url = format!("http://127.0.0.1:{gone}");
        let error = connections.scheduler(&url).await.unwrap_err();
        assert!(error.to_string().contains("tonic::transport::Error"), "{error}");
    }

    #[test]
    fn a_connection_that_nobody_has_used_for_long_is_closed() {
        let idle = Idle::default();
        let connection = Arc::new(());
        idle.keep("a".to_string(), Arc::clone(&connection));
        assert_eq!(Arc::strong_count(&connection), 2);
        // Whoever asks for another finds it.
        assert_eq!(idle.take("b", Instant::now() + KEPT), None);
        assert_eq!(Arc::strong_count(&connection), 1);
    }
}
