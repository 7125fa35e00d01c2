//! Events of runs in the form of OpenLineage, told to a program that gathers them, or written to a file.

use nightshift_jobs::journal::RunState;
use nightshift_jobs::lineage::events;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode, redirect};
use serde_json::Value;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use url::Url;

/// The environment variable with the key that a receiver asks for.
const KEY: &str = "OPENLINEAGE_API_KEY";

/// The path of a URL that has none, which is that of all receivers.
const PATH: &str = "/api/v1/lineage";

/// What a request may take, from the name of the host to the answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The pauses before an event is told again while somebody waits.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Why an event is not told. It shows no secrets of a URL.
#[derive(Debug, Error)]
pub enum LineageError {
    /// A target that can't be one.
    #[error("lineage target: {0}")]
    Target(String),
    /// A receiver that doesn't take it.
    #[error("{target}: {reason}")]
    Receiver {
        /// The receiver.
        target: String,
        /// What it says, or why it can't be reached.
        reason: String,
        /// Whether it may take it later.
        can_pass: bool,
    },
    /// A file that can't be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl LineageError {
    /// Whether the same may be told when it is tried again.
    pub fn can_pass(&self) -> bool {
        match self {
            LineageError::Target(_) => false,
            LineageError::Receiver { can_pass, .. } => *can_pass,
            LineageError::File { source, .. } => {
                let lasting = [
                    ErrorKind::NotFound,
                    ErrorKind::PermissionDenied,
                    ErrorKind::IsADirectory,
                    ErrorKind::NotADirectory,
                ];
                !lasting.contains(&source.kind())
            }
        }
    }
}

/// Where events go.
#[derive(Clone)]
pub struct LineageTarget(Kind);

#[derive(Clone)]
enum Kind {
    Http { client: Client, url: Url, key: Option<HeaderValue> },
    File(PathBuf),
}

impl fmt::Display for LineageTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Http { url, .. } => {
                write!(f, "{}{}", url.origin().ascii_serialization(), url.path())
            }
            Kind::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for LineageTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineageTarget({self})")
    }
}

impl LineageTarget {
    /// Reads a target: `https://…` or `http://…` is where events are sent to, with the path that is usual if it has
    /// none; `file:///…` or a path is a file that they are added to, a line for each. A receiver that asks for a key is
    /// given that of the environment variable `OPENLINEAGE_API_KEY`.
    ///
    /// # Errors
    /// It is neither, or the key can't be sent.
    pub fn parse(text: &str) -> Result<Self, LineageError> {
        Self::parse_with(text, std::env::var(KEY).ok().filter(|key| !key.is_empty()))
    }

    fn parse_with(text: &str, key: Option<String>) -> Result<Self, LineageError> {
        let wrong = |reason: &str| Err(LineageError::Target(reason.to_string()));
        if text.is_empty() {
            return wrong("it is empty");
        }
        if !text.contains("://") {
            return Ok(Self(Kind::File(PathBuf::from(text))));
        }
        // It may be a secret, so it is not repeated.
        let Ok(url) = Url::parse(text) else { return wrong("its URL can't be read") };
        match url.scheme() {
            "http" | "https" => Self::http(url, key),
            "file" => match url.to_file_path() {
                Ok(path) => Ok(Self(Kind::File(path))),
                Err(()) => wrong("a URL of a file looks like file:///folder/file"),
            },
            _ => wrong("it is none of http://…, https://…, file:///… and a path"),
        }
    }

    fn http(mut url: Url, key: Option<String>) -> Result<Self, LineageError> {
        if url.path() == "/" {
            url.set_path(PATH);
        }
        let key = match key {
            Some(key) => Some(bearer(&key)?),
            None => None,
        };
        if key.is_some() {
            // A receiver is told who tells it in one way only. These don't fail for URLs that have a host.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        // Redirects are not followed: the key is for this receiver.
        let client = Client::builder()
            .timeout(LIMIT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("nightshift/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| LineageError::Target(error.to_string()))?;
        Ok(Self(Kind::Http { client, url, key }))
    }

    /// Tells an event, once.
    ///
    /// # Errors
    /// Nobody has taken it, or that isn't known.
    pub async fn emit(&self, event: &Value) -> Result<(), LineageError> {
        let text = event.to_string();
        match &self.0 {
            Kind::Http { client, url, key } => {
                let mut request = client.post(url.clone()).header(CONTENT_TYPE, "application/json");
                if let Some(key) = key {
                    request = request.header(AUTHORIZATION, key.clone());
                }
                let answer = request.body(text).send().await;
                match answer.map(|answer| answer.status()) {
                    Ok(status) if status.is_success() => Ok(()),
                    Ok(status) => Err(LineageError::Receiver {
                        target: self.to_string(),
                        reason: format!("it answers {status}"),
                        can_pass: can_pass(status),
                    }),
                    Err(error) => Err(self.unreachable(error)),
                }
            }
            Kind::File(path) => {
                let file = path.clone();
                let written = tokio::task::spawn_blocking(move || append(&file, text)).await;
                let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
                written.map_err(|source| LineageError::File { path: self.to_string(), source })
            }
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> LineageError {
        let can_pass = !error.is_builder();
        // The URL may have secrets in it.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let reason = match error.is_timeout() {
            true => format!("it has taken more than {LIMIT:?}"),
            false => cause.to_string(),
        };
        LineageError::Receiver { target: self.to_string(), reason, can_pass }
    }
}

/// A key as it is sent. It is shown nowhere.
fn bearer(key: &str) -> Result<HeaderValue, LineageError> {
    let header = HeaderValue::from_str(&format!("Bearer {key}"));
    let odd = |_| LineageError::Target(format!("{KEY} can't be sent: it has odd characters"));
    let mut header = header.map_err(odd)?;
    header.set_sensitive(true);
    Ok(header)
}

fn can_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// Adds a line to a file, all at once: several programs can write to the same.
fn append(path: &Path, mut line: String) -> io::Result<()> {
    line.push('\n');
    OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

/// Who is told of runs.
#[derive(Debug, Clone)]
pub struct LineageReceiver {
    /// Where events go.
    pub target: LineageTarget,
    /// The namespace of jobs and tables.
    pub namespace: String,
}

impl LineageReceiver {
    /// Tells all events of a run so far. One that is not taken is told again, a few times.
    ///
    /// # Errors
    /// At the first event that is not taken all the same.
    pub async fn deliver(&self, run: &RunState) -> Result<(), LineageError> {
        for event in events(run, &self.namespace) {
            let mut pauses = PAUSES.iter();
            loop {
                match self.target.emit(&event).await {
                    Ok(()) => break,
                    Err(error) => match pauses.next().filter(|_| error.can_pass()) {
                        Some(pause) => tokio::time::sleep(*pause).await,
                        None => return Err(error),
                    },
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::any;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    type Received = mpsc::UnboundedReceiver<(String, HeaderMap, String)>;

    /// A receiver that always answers the same: where it listens, and what it is told.
    async fn receiver(status: u16) -> (String, Received) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, received) = mpsc::unbounded_channel();
        let handler = any(move |uri: axum::http::Uri, head: HeaderMap, body: String| {
            sender.send((uri.to_string(), head, body)).unwrap();
            std::future::ready(StatusCode::from_u16(status).unwrap())
        });
        let service = Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, service).await });
        (address, received)
    }

    fn target(text: &str) -> LineageTarget {
        LineageTarget::parse_with(text, None).unwrap()
    }

    #[tokio::test]
    async fn a_receiver_is_sent_events_with_its_key() {
        let (address, mut received) = receiver(201).await;
        let event = json!({ "eventType": "START" });
        let with_key =
            |text: String| LineageTarget::parse_with(&text, Some("the key".to_string())).unwrap();
        with_key(format!("http://{address}")).emit(&event).await.unwrap();
        let (path, head, body) = received.recv().await.unwrap();
        assert_eq!((path.as_str(), body), ("/api/v1/lineage", event.to_string()));
        assert_eq!(head["authorization"], "Bearer the key");
        assert_eq!(head["content-type"], "application/json");

        with_key(format!("http://user:s3cret@{address}/x?y=1")).emit(&event).await.unwrap();
        let (path, head, _) = received.recv().await.unwrap();
        assert_eq!(path, "/x?y=1");
        assert_eq!(head.get_all("authorization").iter().count(), 1);
        assert_eq!(head["authorization"], "Bearer the key");

        target(&format!("http://{address}/x")).emit(&event).await.unwrap();
        let (_, head, _) = received.recv().await.unwrap();
        assert!(!head.contains_key("authorization"));
    }

    #[tokio::test]
    async fn errors_say_whether_they_pass_and_keep_secrets() {
        for (status, passes) in [(400, false), (401, false), (404, false), (429, true), (503, true)]
        {
            let (address, _received) = receiver(status).await;
            let target = target(&format!("http://s3cret:s3cret@{address}/x?key=s3cret"));
            let error = target.emit(&json!({})).await.unwrap_err();
            assert_eq!(error.can_pass(), passes, "{error}");
            let expected = format!("http://{address}/x: it answers {status}");
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert!(!format!("{error:?} {target:?}").contains("s3cret"));
        }
        // Nobody listens on a port that was just given back.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let target = target(&format!("http://s3cret@{address}/?key=s3cret"));
        let error = target.emit(&json!({})).await.unwrap_err();
        assert!(error.can_pass(), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[tokio::test]
    async fn a_file_gets_a_line_for_each_event() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.jsonl");
        let url = Url::from_file_path(&file).unwrap();
        for target in [target(file.to_str().unwrap()), target(url.as_str())] {
            target.emit(&json!({ "a": "x\ny" })).await.unwrap();
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "{\"a\":\"x\\ny\"}\n{\"a\":\"x\\ny\"}\n");
        let missing = target(folder.path().join("missing/events.jsonl").to_str().unwrap());
        let error = missing.emit(&json!({})).await.unwrap_err();
        assert!(!error.can_pass() && error.to_string().contains("missing/events.jsonl"), "{error}");
    }

    #[test]
    fn what_is_no_target_is_refused_without_being_repeated() {
        for text in ["", "ftp://s3cret/x", "http://", "https://s3cret:x:y", "file://s3cret/x"] {
            let error = LineageTarget::parse_with(text, None).unwrap_err();
            assert!(!error.can_pass() && !error.to_string().contains("s3cret"), "{error}");
        }
        let key = Some("s3cret\n".to_string());
        let error = LineageTarget::parse_with("http://x", key).unwrap_err().to_string();
        assert!(error.contains(KEY) && !error.contains("s3cret"), "{error}");
        assert_eq!(target("https://x:8443").to_string(), "https://x:8443/api/v1/lineage");
        assert_eq!(target("events.jsonl").to_string(), "events.jsonl");
    }
}
