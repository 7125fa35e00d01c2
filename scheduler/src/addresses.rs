//! Addresses of schedulers, and which of them leads.

use crate::SchedulerError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// How long a scheduler may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a scheduler may take to answer that has answered before.
const ANSWER: Duration = Duration::from_secs(2);

/// The time between two questions whether a scheduler is there.
const BETWEEN_GREETINGS: Duration = Duration::from_secs(1);

/// How long a client waits for a scheduler to lead: longer than it takes another to begin, with the usual lease.
const UNLED: Duration = Duration::from_secs(30);

/// Questions without an answer after which a scheduler is gone.
const SILENT: usize = 2;

/// The port of a scheduler whose address has none.
const PORT: u16 = 50050;

/// What is asked of whoever listens at a scheduler's port: the same as probes ask.
const QUESTION: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: scheduler\r\nConnection: close\r\n\r\n";

/// What somebody says of itself who listens at a scheduler's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// It is a scheduler that serves.
    Serves,
    /// It doesn't serve as long as another leads.
    StandsBy,
}

/// Asks whether a scheduler is there.
async fn greet(host: &str, port: u16) -> std::io::Result<Greeting> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(QUESTION).await?;
    let mut answer = [0_u8; 12];
    stream.read_exact(&mut answer).await?;
    match &answer {
        b"HTTP/1.1 200" => Ok(Greeting::Serves),
        b"HTTP/1.1 503" => Ok(Greeting::StandsBy),
        _ => Err(std::io::Error::other("what answers there is not a scheduler")),
    }
}

/// Where a scheduler is.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its address as given.
    address: String,
    host: String,
    port: u16,
}

impl Place {
    /// The place of an address such as `grpc://127.0.0.1:50050`.
    fn of(address: &str) -> Result<Self, SchedulerError> {
        let wrong =
            |reason: String| SchedulerError::Address { address: address.to_string(), reason };
        let url = Url::parse(address).map_err(|error| wrong(error.to_string()))?;
        if url.scheme() != "grpc" {
            return Err(wrong(format!("{} is not a scheme for clusters", url.scheme())));
        }
        let host = url.host_str().ok_or_else(|| wrong("it has no host".to_string()))?.to_string();
        Ok(Self { address: address.to_string(), host, port: url.port().unwrap_or(PORT) })
    }

    /// The places of schedulers that stand by for each other.
    pub(crate) fn all<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Self>, SchedulerError> {
        addresses.into_iter().map(Self::of).collect()
    }

    /// Its URL, as the engine's client reads it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }
}

/// An address where no scheduler serves.
#[derive(Debug)]
struct Refused {
    address: String,
    /// Whether who answers there stands by for another.
    stands_by: bool,
    reason: String,
}

impl Refused {
    /// What came of asking, for people.
    fn said(&self) -> String {
        let Self { address, stands_by, reason } = self;
        match stands_by {
            true => format!("{address} stands by"),
            false => format!("{address} can't be reached: {reason}"),
        }
    }
}

/// The error that says that no scheduler serves anywhere.
fn nobody_serves(refused: Vec<Refused>) -> SchedulerError {
    match refused.into_iter().next() {
        Some(Refused { address, reason, .. }) => SchedulerError::Unreachable { address, reason },
        None => {
            let reason = "it is empty".to_string();
            SchedulerError::Address { address: String::new(), reason }
        }
    }
}

/// Asks each once, in their order, until one serves, whose number is returned; otherwise what came of it.
async fn ask(places: &[Place]) -> Result<usize, Vec<Refused>> {
    let mut refused = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let greeting = tokio::time::timeout(CONNECT, greet(&place.host, place.port)).await;
        let (stands_by, reason) = match greeting {
            Ok(Ok(Greeting::Serves)) => return Ok(at),
            Ok(Ok(Greeting::StandsBy)) => (true, "it stands by for another".to_string()),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, format!("no answer within {} s", CONNECT.as_secs())),
        };
        refused.push(Refused { address: place.address.clone(), stands_by, reason });
    }
    Err(refused)
}

/// The number of the one that leads. If somebody stands by, or there are several, another may be about to take its place: then all
/// are asked again, with a `pause` between, until one leads or `limit` has passed.
async fn wait_for_leader(
    places: &[Place],
    limit: Duration,
    pause: Duration,
) -> Result<usize, SchedulerError> {
    let (started, seconds) = (Instant::now(), limit.as_secs());
    let (mut waits, mut told) = (places.len() > 1, false);
    loop {
        let refused = match ask(places).await {
            Ok(at) => return Ok(at),
            Err(refused) => refused,
        };
        waits |= refused.iter().any(|refused| refused.stands_by);
        if !waits {
            return Err(nobody_serves(refused));
        }
        let said = refused.iter().map(Refused::said).collect::<Vec<_>>().join("; ");
        if started.elapsed() >= limit {
            return Err(SchedulerError::NobodyLeads { seconds, said });
        }
        if !told {
            tracing::warn!("nobody leads the cluster yet, waits for up to {seconds} s: {said}");
            told = true;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Waits until a scheduler answers no more.
pub async fn until_gone(host: &str, port: u16) {
    let mut silent = 0;
    while silent < SILENT {
        tokio::time::sleep(BETWEEN_GREETINGS).await;
        match tokio::time::timeout(ANSWER, greet(host, port)).await {
            Ok(Ok(Greeting::Serves)) => silent = 0,
            _ => silent += 1,
        }
    }
}

/// Host and port of the first scheduler that serves, of those that stand by for each other. Each is asked once: fails
/// within seconds if none does.
pub async fn first_reachable<'a>(
    addresses: impl IntoIterator<Item = &'a str>,
) -> Result<(String, u16), SchedulerError> {
    let places = Place::all(addresses)?;
    match ask(&places).await {
        Ok(at) => Ok((places[at].host.clone(), places[at].port)),
        Err(refused) => Err(nobody_serves(refused)),
    }
}

/// The scheduler that leads, of several that stand by for each other.
#[derive(Debug)]
pub(crate) struct Leader {
    places: Vec<Place>,
    /// The one that led when somebody asked the last time.
    last: AtomicUsize,
}

impl Leader {
    /// Whoever leads at one of these places, of which there is one at least.
    pub(crate) fn among(places: Vec<Place>) -> Self {
        Self { places, last: AtomicUsize::new(0) }
    }

    /// Where it is, whether or not anybody has led before.
    ///
    /// # Errors
    /// If nobody serves: at once, unless another may be about to lead.
    pub(crate) async fn find_first(&self) -> Result<&Place, SchedulerError> {
        let at = wait_for_leader(&self.places, UNLED, BETWEEN_GREETINGS).await?;
        self.last.store(at, Ordering::Relaxed);
        Ok(&self.places[at])
    }

    /// Where it is now. Nobody asks the only one there is: whoever sends it something finds out.
    ///
    /// # Errors
    /// If nobody has led for a while.
    pub(crate) async fn find(&self) -> Result<&Place, SchedulerError> {
        let last = &self.places[self.last.load(Ordering::Relaxed)];
        if self.places.len() == 1 {
            return Ok(last);
        }
        match tokio::time::timeout(ANSWER, greet(&last.host, last.port)).await {
            Ok(Ok(Greeting::Serves)) => Ok(last),
            _ => self.find_first().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::error::DataFusionError;
    use nightshift_jobs::JobError;
    use tokio::net::{TcpListener, TcpSocket};

    /// A scheduler that answers some requests that it stands by, and all later ones that it serves.
    async fn scheduler(standing_by: usize) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for request in 0_usize.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                // What is closed before everything was read can lose its answer.
                stream.read_exact(&mut [0; QUESTION.len()]).await.unwrap();
                let serves = request >= standing_by;
                let status = if serves { "200 OK" } else { "503 Service Unavailable" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Place::of(&format!("grpc://{address}")).unwrap()
    }

    #[tokio::test]
    async fn who_stands_by_is_asked_again_until_it_leads() {
        let long = Duration::from_secs(600);
        let places = [scheduler(1).await];
        let leader = wait_for_leader(&places, long, Duration::ZERO).await.unwrap();
        assert_eq!(leader, 0);
        // Executors ask once, and begin again themselves.
        let place = scheduler(1).await;
        let error = first_reachable([place.address.as_str()]).await.unwrap_err();
        assert!(matches!(error, SchedulerError::Unreachable { .. }), "{error}");
        assert!(error.to_string().ends_with("it stands by for another"), "{error}");
        let found = first_reachable([place.address.as_str()]).await.unwrap();
        assert_eq!(found, ("127.0.0.1".to_string(), place.port));
    }

    #[tokio::test]
    async fn another_is_found_when_the_one_that_led_serves_no_more() {
        let places = vec![scheduler(usize::MAX).await, scheduler(0).await];
        let port = places[1].port;
        let leader = Leader::among(places);
        assert_eq!(leader.find_first().await.unwrap().port, port);
        assert_eq!(leader.find().await.unwrap().port, port);
        leader.last.store(0, Ordering::Relaxed);
        assert_eq!(leader.find().await.unwrap().port, port);
        assert_eq!(leader.last.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_cluster_that_nobody_leads_is_given_up() {
        let standby = scheduler(usize::MAX).await;
        // Bound, so that nobody else listens there.
        let gone = TcpSocket::new_v4().unwrap();
        gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let nobody = Place::of(&format!("grpc://{}", gone.local_addr().unwrap())).unwrap();
        let places = [standby, nobody];
        let error = wait_for_leader(&places, Duration::ZERO, Duration::ZERO).await.unwrap_err();
        let expected = format!(
            "nobody has led the cluster for 0 s: {} stands by; {} can't be reached: ",
            places[0].address, places[1].address
        );
        assert!(error.to_string().starts_with(&expected), "{error}");
        // A step of a run that comes to this is tried again.
        assert!(JobError::from(DataFusionError::External(Box::new(error))).can_pass());
        // A single address where nobody listens is not waited for.
        let long = Duration::from_secs(600);
        let error = wait_for_leader(&places[1..], long, long).await.unwrap_err();
        assert!(matches!(error, SchedulerError::Unreachable { .. }), "{error}");
    }
}
