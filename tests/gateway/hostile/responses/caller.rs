//! Callers that keep their connection: one that reads HTTP/1.1 strictly, and one of HTTP/2.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{runtime::Runtime, task::JoinSet};

use super::super::strict;
use crate::{
    client::{Request, find},
    test_gateway::canary_in,
};

/// A response, and what is known of its end.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    /// Whether the response ended as its framing says. A stream of HTTP/2 may be reset before its head was sent; its
    /// status is 0 then.
    pub(super) whole: bool,
}

impl Received {
    /// The first value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice());
        value.and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The `error.code` of a refusal by the gateway.
    pub(super) fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let error = &body["error"];
        (error["by"] == "gateway").then(|| error["code"].as_str().unwrap_or("-").to_owned())
    }
}

/// A caller with at most one connection, which it uses for all requests as long as that stays open.
pub(super) trait Caller {
    fn protocol(&self) -> &'static str;

    /// Sends a request and reads its response.
    ///
    /// # Errors
    /// Says why what came is not a response.
    fn send(&mut self, request: &Request) -> Result<Received, String>;
}

/// A caller of HTTP/1.1.
pub(super) struct Http1Caller {
    addr: SocketAddr,
    wait: Duration,
    stream: Option<TcpStream>,
    /// Received and not read yet.
    buffer: Vec<u8>,
    /// When the wait for the present response ends.
    until: Instant,
}

impl Http1Caller {
    /// `wait`: for a whole response.
    pub(super) fn new(addr: SocketAddr, wait: Duration) -> Self {
        Http1Caller { addr, wait, stream: None, buffer: Vec::new(), until: Instant::now() }
    }

    fn connected(&mut self) -> &mut TcpStream {
        let addr = self.addr;
        self.stream.get_or_insert_with(|| {
            self.buffer.clear();
            let stream = TcpStream::connect(addr).expect("connected");
            stream.set_nodelay(true).expect("set");
            stream
        })
    }

    /// Reads once; false at the end of the connection.
    fn more(&mut self) -> Result<bool, String> {
        let late = || Err("it did not end in time".to_owned());
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return late();
        }
        let mut piece = [0; 64 * 1024];
        let stream = self.connected();
        stream.set_read_timeout(Some(left)).expect("set");
        match stream.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => late(),
            Err(_) => Ok(false),
        }
    }

    fn response(&mut self, method: &str) -> Result<Received, String> {
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                    break end;
                }
                if !self.more()? {
                    let rest = self.buffer[..self.buffer.len().min(200)].escape_ascii();
                    return Err(format!("the connection ended before a head: {rest}"));
                }
            };
            let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
            let mut received = head_of(&head[..end])?;
            if received.status < 200 {
                continue;
            }
            self.body(method, &mut received)?;
            return Ok(received);
        }
    }

    fn body(&mut self, method: &str, received: &mut Received) -> Result<(), String> {
        let all = |name: &str| -> Vec<&[u8]> {
            received.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
        };
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        let no_body = method == "HEAD" || received.status == 304;
        match (lengths.as_slice(), codings.as_slice()) {
            (_, []) if no_body => {}
            ([], []) if received.status == 204 => {}
            ([length], []) if received.status != 204 => {
                let length = strict::number(length).ok_or("the length is no number")?;
                while received.whole && self.buffer.len() < length {
                    received.whole = self.more()?;
                }
                received.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
            }
            ([], [b"chunked"]) if !no_body && received.status != 204 => loop {
                if let Some((body, length)) = strict::chunks(&self.buffer)? {
                    received.body = body;
                    self.buffer.drain(..length);
                    break;
                }
                if !self.more()? {
                    received.whole = false;
                    received.body = std::mem::take(&mut self.buffer);
                    break;
                }
            },
            ([], []) => {
                while self.more()? {}
                received.body = std::mem::take(&mut self.buffer);
                self.stream = None;
            }
            _ => return Err(format!("lengths {lengths:?} and codings {codings:?} of a {}", received.status)),
        }
        Ok(())
    }
}

/// A response whose body has not been read.
fn head_of(head: &[u8]) -> Result<Received, String> {
    let lines = strict::lines(head)?;
    let status = std::str::from_utf8(lines[0]).ok().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| {
        let line = lines[0];
        format!("no status line: {}", line[..line.len().min(200)].escape_ascii())
    })?;
    let headers = lines[1..].iter().map(|line| strict::header(line)).collect::<Result<_, _>>()?;
    Ok(Received { status, headers, body: Vec::new(), whole: true })
}

impl Caller for Http1Caller {
    fn protocol(&self) -> &'static str {
        "HTTP/1.1"
    }

    fn send(&mut self, request: &Request) -> Result<Received, String> {
        self.until = Instant::now() + self.wait;
        // The gateway may have refused and closed already; its response can still be read.
        let _ = self.connected().write_all(&request.bytes());
        let received = self.response(&request.method);
        let stays = |received: &Received| received.whole && received.header("connection") != Some("close");
        if let Ok(received) = &received {
            assert_eq!(canary_in(&received.body), None);
        }
        if !received.as_ref().is_ok_and(stays) {
            self.stream = None;
        }
        received
    }
}

/// A caller of HTTP/2 with prior knowledge.
pub(super) struct Http2Caller {
    addr: SocketAddr,
    wait: Duration,
    runtime: Runtime,
    sender: Option<SendRequest<Full<Bytes>>>,
    driver: JoinSet<hyper::Result<()>>,
}

impl Http2Caller {
    /// `wait`: for a whole response.
    pub(super) fn new(addr: SocketAddr, wait: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Http2Caller { addr, wait, runtime, sender: None, driver: JoinSet::new() }
    }

    fn connect(&mut self) {
        let Http2Caller { addr, runtime, driver, .. } = self;
        self.sender = Some(runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(*addr).await.expect("connected");
            stream.set_nodelay(true).expect("set");
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_header_list_size(1024 * 1024);
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("a handshake");
            driver.spawn(connection);
            sender
        }));
    }
}

fn http2_request(request: &Request) -> http::Request<Full<Bytes>> {
    let target = format!("http://gateway.test{}", request.target);
    let mut head = http::Request::builder().method(request.method.as_str()).uri(target);
    for (name, value) in &request.headers {
        head = head.header(name, value);
    }
    head.body(Full::new(Bytes::from(request.body.clone()))).expect("a request")
}

/// Whether the stream was reset; its connection goes on.
fn is_reset(error: &hyper::Error) -> bool {
    // The type of its source is not public.
    format!("{error:?}").contains("Reset(")
}

impl Caller for Http2Caller {
    fn protocol(&self) -> &'static str {
        "HTTP/2"
    }

    fn send(&mut self, request: &Request) -> Result<Received, String> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.connect();
        }
        let mut sender = self.sender.clone().expect("connected");
        let exchange = async {
            sender.ready().await.map_err(|error| format!("{error:?}"))?;
            let sent = sender.send_request(http2_request(request)).await;
            let (head, mut body) = match sent {
                Ok(response) => response.into_parts(),
                Err(error) if is_reset(&error) => {
                    return Ok(Received { status: 0, headers: Vec::new(), body: Vec::new(), whole: false });
                }
                Err(error) => return Err(format!("no response: {error:?}")),
            };
            let headers =
                head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
            let mut received = Received { status: head.status.as_u16(), headers, body: Vec::new(), whole: true };
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => received.body.extend(frame.into_data().unwrap_or_default()),
                    Err(_) => received.whole = false,
                }
                if !received.whole {
                    break;
                }
            }
            Ok(received)
        };
        let wait = self.wait;
        let received = self.runtime.block_on(async {
            tokio::time::timeout(wait, exchange).await.unwrap_or_else(|_| Err("nothing came in time".to_owned()))
        });
        if let Ok(received) = &received {
            assert_eq!(canary_in(&received.body), None);
        }
        received
    }
}
