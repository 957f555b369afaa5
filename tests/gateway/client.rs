//! A small HTTP/1.1 client: raw bytes out, parsed responses in.
//!
//! It sends its input unchanged, so that malformed heads can be sent, and it parses
//! responses strictly. It searches every byte that it receives for canaries.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::test_gateway::{canary_in, secret_of};

/// Maximum wait for the next byte.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A request to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn request(method: &str, target: &str) -> Request {
    Request { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: Vec::new() }
}

pub(crate) fn get(target: &str) -> Request {
    request("GET", target)
}

pub(crate) fn post(target: &str, body: &str) -> Request {
    request("POST", target).json(body)
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn json(mut self, body: &str) -> Self {
        self.body = body.as_bytes().to_vec();
        self.header("content-type", "application/json")
    }

    /// With the credentials of a service of [`Setup`](crate::test_gateway::Setup), as a header pair.
    pub(crate) fn by(self, service: &str) -> Self {
        self.pair(&format!("svc-{service}-1"), &secret_of(service))
    }

    /// Credentials in V1's style.
    pub(crate) fn pair(self, access: &str, secret: &str) -> Self {
        self.header("access-key", access).header("secret-key", secret)
    }

    /// Credentials in V2's style.
    pub(crate) fn basic(self, access: &str, secret: &str) -> Self {
        self.header("authorization", &format!("Basic {}", STANDARD.encode(format!("{access}:{secret}"))))
    }

    pub(crate) fn bearer(self, access: &str, secret: &str) -> Self {
        self.header("authorization", &format!("Bearer {access}.{secret}"))
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// The bytes to send; adds `Host` and `Content-Length` if they are missing.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.has("host") {
            head.push_str("host: gateway.test\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() && !self.has("content-length") && !self.has("transfer-encoding") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

/// A parsed response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case, in the order received.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body is complete according to its framing.
    pub(crate) whole: bool,
}

impl Response {
    /// The value of a header; panics if the header occurs twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} came twice: {self:?}");
        first
    }

    pub(crate) fn outcome(&self) -> &str {
        self.header("x-gateway-outcome").unwrap_or("-")
    }

    pub(crate) fn sent(&self) -> &str {
        self.header("x-gateway-sent").unwrap_or("-")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `error.code` of a refusal.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("-").to_owned()
    }
}

/// A TCP or TLS stream.
trait Stream: Read + Write + std::fmt::Debug + Send {}

impl<S: Read + Write + std::fmt::Debug + Send> Stream for S {}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    /// Received and not yet consumed.
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> Connection {
        Connection::try_open(addr).expect("connected")
    }

    /// `None` if the connection is refused.
    pub(crate) fn try_open(addr: SocketAddr) -> Option<Connection> {
        let socket = TcpStream::connect(addr).ok()?;
        socket.set_nodelay(true).expect("set");
        socket.set_read_timeout(Some(READ_TIMEOUT)).expect("set");
        let stream = Box::new(socket.try_clone().expect("cloned"));
        Some(Connection { stream, socket, buffer: Vec::new() })
    }

    /// Opens a TLS connection; returns it with the server's certificate (DER). The handshake may fail.
    pub(crate) fn over_tls(addr: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<(Connection, Vec<u8>)> {
        let mut connection = Connection::open(addr);
        let mut socket = connection.socket.try_clone()?;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let mut session = ClientConnection::new(client.clone(), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        let leaf = session.peer_certificates().and_then(<[_]>::first).expect("a certificate").to_vec();
        connection.stream = Box::new(StreamOwned::new(session, socket));
        Ok((connection, leaf))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // The peer may have refused and closed already; its response can still be read.
        let _ = self.stream.write_all(bytes);
    }

    /// Closes the sending half.
    pub(crate) fn finish(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    pub(crate) fn send(&mut self, request: &Request) -> Response {
        self.write(&request.bytes());
        self.read_response(&request.method).expect("a response")
    }

    /// Reads the next final response; `None` if the connection ends or is reset before one begins.
    pub(crate) fn read_response(&mut self, method: &str) -> Option<Response> {
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at;
                }
                if !self.read_more() {
                    assert!(self.buffer.is_empty(), "an incomplete head: {:?}", String::from_utf8_lossy(&self.buffer));
                    return None;
                }
            };
            let rest = self.buffer.split_off(end + 4);
            let head = String::from_utf8(std::mem::replace(&mut self.buffer, rest)).expect("an ASCII head");
            let response = self.read(&head, method);
            if response.status >= 200 {
                return Some(response);
            }
        }
    }

    /// From now on, the kernel receives little ahead.
    pub(crate) fn receive_little_ahead(&self) {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.socket, 16 * 1024).expect("set");
    }

    /// Reads at most this many bytes; 0 at the end of the connection, also if it is reset.
    pub(crate) fn read_piece(&mut self, limit: usize) -> usize {
        self.stream.read(&mut vec![0; limit]).unwrap_or(0)
    }

    /// Whether the peer has sent `100 Continue`.
    pub(crate) fn continues(&mut self) -> bool {
        self.read_more() && self.buffer.starts_with(b"HTTP/1.1 100")
    }

    /// Reads to the end of the connection; true if no further bytes came.
    pub(crate) fn ends(&mut self) -> bool {
        while self.read_more() {}
        self.buffer.is_empty()
    }

    fn read(&mut self, head: &str, method: &str) -> Response {
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let status: u16 = status[..3].parse().expect("a status");
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').expect("a header"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new(), whole: true };
        if status < 200 || status == 204 || status == 304 || method == "HEAD" {
            return response;
        }
        let length = response.header("content-length").map(|value| value.parse::<usize>().expect("a length"));
        let chunked = response.header("transfer-encoding").is_some();
        match (length, chunked) {
            (Some(length), false) => response.whole = self.fill(length),
            (None, true) => {
                let (body, whole) = self.chunks();
                assert!(canary_in(&body).is_none(), "a canary came: {:?}", canary_in(&body));
                return Response { body, whole, ..response };
            }
            (None, false) => while self.read_more() {},
            (Some(_), true) => panic!("both framings: {response:?}"),
        }
        let length = length.unwrap_or(self.buffer.len()).min(self.buffer.len());
        response.body = self.buffer.drain(..length).collect();
        response
    }

    fn fill(&mut self, length: usize) -> bool {
        while self.buffer.len() < length {
            if !self.read_more() {
                return false;
            }
        }
        true
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                if !self.read_more() {
                    return (body, false);
                }
            };
            let size =
                std::str::from_utf8(&self.buffer[..line]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            let size = size.expect("a chunk size");
            let whole = self.fill(line + 2 + size + 2);
            let end = (line + 2 + size).min(self.buffer.len());
            body.extend_from_slice(&self.buffer[line + 2..end]);
            if !whole {
                // The connection ended in the middle of a chunk: what came of it is part of the body.
                self.buffer.clear();
                return (body, false);
            }
            self.buffer.drain(..end + 2);
            if size == 0 {
                return (body, true);
            }
        }
    }

    /// Reads once; false at the end of the connection.
    fn read_more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                let from = self.buffer.len().saturating_sub(read + 256);
                assert!(canary_in(&self.buffer[from..]).is_none(), "a canary came: {:?}", canary_in(&self.buffer));
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came for {READ_TIMEOUT:?}"),
            Err(_) => false,
        }
    }
}

pub(crate) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, part)
}
