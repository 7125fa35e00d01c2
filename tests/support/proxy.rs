//! Something between a client and an HTTP server that breaks requests in the ways networks and busy
//! stores do.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// A request that has come.
pub struct Request {
    /// Counted from 0.
    pub number: u64,
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// The path and query.
    pub target: String,
    /// Whether an object is to be created only if there is none.
    pub conditional: bool,
    /// Whether no request of this method and target came before.
    pub first: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is answered.
    None,
    /// It is answered `503 SlowDown` and not forwarded.
    SlowDown,
    /// It is answered `500 InternalError` and not forwarded.
    InternalError,
    /// It is answered `501 NotImplemented` and not forwarded.
    NotImplemented,
    /// It is not forwarded, and the connection closed.
    CutBefore,
    /// It is forwarded, and the connection closed before its answer.
    CutAfter,
    /// The same, and the connection is reset.
    ResetAfter,
    /// The connection is closed in the middle of the answer.
    CutWithin,
    /// It is forwarded, and its answer kept back for ever.
    Hang,
    /// It is forwarded a little later.
    Delay,
    /// It is forwarded without its condition.
    Unconditional,
}

type Decide = Box<dyn Fn(&Request) -> Fault + Send + Sync>;

struct State {
    upstream: String,
    decide: Decide,
    seen: Mutex<(u64, HashSet<(String, String)>)>,
    done: Mutex<BTreeMap<Fault, u64>>,
    /// The server looks whether an object is there and then writes it, so of two that create the same
    /// object at once both would succeed. Stores that honour the condition don't do that.
    creation: tokio::sync::Mutex<()>,
}

/// A proxy that ends when it is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts a proxy before the server at `upstream`; `decide` says what becomes of each request.
    pub fn start(
        upstream: &str,
        decide: impl Fn(&Request) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            upstream: upstream.to_string(),
            decide: Box::new(decide),
            seen: Mutex::default(),
            done: Mutex::default(),
            creation: tokio::sync::Mutex::default(),
        });
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // A connection that breaks is what this is for.
                tokio::spawn(async move { drop(serve(client, &state).await) });
            }
        });
        Self { address, state, _runtime: runtime }
    }

    /// How many requests had this fault.
    pub fn count(&self, fault: Fault) -> u64 {
        self.state.done.lock().unwrap().get(&fault).copied().unwrap_or(0)
    }
}

impl State {
    fn decide(&self, head: &str) -> (Request, Fault) {
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (method, target) = (method.to_string(), target.to_string());
        let mut seen = self.seen.lock().unwrap();
        let number = seen.0;
        seen.0 += 1;
        let first = seen.1.insert((method.clone(), target.clone()));
        drop(seen);
        let conditional = header(head, "if-none-match").is_some();
        let request = Request { number, method, target, conditional, first };
        let fault = (self.decide)(&request);
        *self.done.lock().unwrap().entry(fault).or_default() += 1;
        (request, fault)
    }
}

async fn serve(client: TcpStream, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = Connection::new(client);
    let mut upstream = None;
    while let Some(message) = client.read(false).await? {
        let (request, fault) = state.decide(&message.head);
        match fault {
            Fault::CutBefore => return Ok(()),
            Fault::SlowDown => {
                client.stream.write_all(&failure("503 Slow Down", "SlowDown")).await?;
                continue;
            }
            Fault::InternalError => {
                let answer = failure("500 Internal Server Error", "InternalError");
                client.stream.write_all(&answer).await?;
                continue;
            }
            Fault::NotImplemented => {
                let answer = failure("501 Not Implemented", "NotImplemented");
                client.stream.write_all(&answer).await?;
                continue;
            }
            Fault::Delay => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => {}
        }
        let message = match fault {
            Fault::Unconditional => message.without("if-none-match"),
            _ => message,
        };
        let server = match &mut upstream {
            Some(server) => server,
            None => {
                let stream = TcpStream::connect(&state.upstream).await?;
                stream.set_nodelay(true)?;
                upstream.insert(Connection::new(stream))
            }
        };
        let alone = if request.conditional { Some(state.creation.lock().await) } else { None };
        server.stream.write_all(&message.bytes()).await?;
        let answer = server.read(request.method == "HEAD").await?;
        drop(alone);
        let Some(answer) = answer else { return Ok(()) };
        let answer = answer.bytes();
        match fault {
            Fault::CutAfter => return Ok(()),
            Fault::ResetAfter => return client.stream.set_zero_linger(),
            Fault::CutWithin => return client.stream.write_all(&answer[..answer.len() / 2]).await,
            // Until the client is gone.
            Fault::Hang => return client.read(false).await.map(drop),
            _ => client.stream.write_all(&answer).await?,
        }
    }
    Ok(())
}

fn failure(status: &str, code: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let mut named = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.trim())
}

/// A request or an answer.
struct Message {
    /// All lines before the body, with the empty one.
    head: String,
    /// The body as it is sent.
    body: Vec<u8>,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), &self.body].concat()
    }

    fn without(&self, name: &str) -> Self {
        let other = |line: &&str| {
            line.split_once(':').is_none_or(|(key, _)| !key.eq_ignore_ascii_case(name))
        };
        let head: Vec<&str> = self.head.split("\r\n").filter(other).collect();
        Self { head: head.join("\r\n"), body: self.body.clone() }
    }
}

struct Connection {
    stream: TcpStream,
    /// What was read and belongs to no message yet.
    read: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Reads more; `false` at the end.
    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// Takes bytes up to and with `end`.
    async fn take_until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            let found = self.read.windows(end.len()).position(|bytes| bytes == end);
            if let Some(found) = found {
                let rest = self.read.split_off(found + end.len());
                return Ok(Some(std::mem::replace(&mut self.read, rest)));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    /// The next message; `None` if there is none. The answer to a HEAD request has no body.
    async fn read(&mut self, no_body: bool) -> io::Result<Option<Message>> {
        let Some(head) = self.take_until(b"\r\n\r\n").await? else { return Ok(None) };
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let chunked = header(&head, "transfer-encoding").is_some_and(|coding| coding == "chunked");
        let body = match length {
            _ if no_body => Vec::new(),
            Some(length) => self.take(length).await?,
            None if chunked => self.chunks().await?,
            None => Vec::new(),
        };
        Ok(Some(Message { head, body }))
    }

    /// A body in chunks, as it is sent.
    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = String::from_utf8_lossy(&line);
            let size = size.trim().split(';').next().unwrap_or_default().to_string();
            let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
            body.extend(line);
            body.extend(self.take(size + 2).await?);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}
