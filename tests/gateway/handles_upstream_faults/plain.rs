//! A direct client: sends one request on its own connection, and records all bytes until the end and how it ended.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::client::Request;

/// Maximum wait for the next byte.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A response as received.
#[derive(Debug)]
pub(super) struct RawResponse {
    /// 0 if no response head came.
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
    /// Whether the connection was reset instead of closed.
    pub(super) reset: bool,
    took: Duration,
}

/// The response that a direct client should receive.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedResponse {
    status: u16,
    pub(super) body: Body,
    reset: bool,
    pub(super) retry_after: Option<u64>,
    /// Minimum duration, in milliseconds.
    pub(super) at_least: u64,
}

/// The body that it should have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    /// The correct body.
    Right,
    /// This many bytes of the correct body, with the length of the whole.
    Cut(usize),
    /// This many bytes of the correct body, with their own length.
    Short(usize),
    /// The correct body, with a length that is wrong by this much.
    Lies(i64),
    /// Another body that contains this text.
    Says(&'static str),
    /// The correct body with another timestamp, and a `Date` of the same second.
    Skewed(&'static str),
    /// No body.
    None,
}

/// A response with this status and body.
pub(super) const fn head(status: u16, body: Body) -> ExpectedResponse {
    ExpectedResponse { status, body, reset: false, retry_after: None, at_least: 0 }
}

/// No response, and an orderly close.
pub(super) const fn closed() -> ExpectedResponse {
    head(0, Body::None)
}

/// No response, and a reset.
pub(super) const fn by_reset() -> ExpectedResponse {
    closed().reset()
}

impl ExpectedResponse {
    pub(super) const fn reset(self) -> ExpectedResponse {
        ExpectedResponse { reset: true, ..self }
    }

    pub(super) const fn after(self, millis: u64) -> ExpectedResponse {
        ExpectedResponse { at_least: millis, ..self }
    }

    pub(super) const fn retry(self, seconds: u64) -> ExpectedResponse {
        ExpectedResponse { retry_after: Some(seconds), ..self }
    }

    /// Checks a response against this expectation.
    pub(super) fn holds(&self, response: &RawResponse, right: &[u8], name: &str) {
        assert_eq!((response.status, response.reset), (self.status, self.reset), "{name}: {response:?}");
        assert!(response.took >= Duration::from_millis(self.at_least), "{name}: took {:?}", response.took);
        let length = response.header("content-length").map(|text| text.parse::<i64>().expect("a length"));
        let (length, all) = (length.unwrap_or(-1), right.len() as i64);
        match self.body {
            Body::Right => assert!(response.body == right && length == all, "{name}: {response:?}"),
            Body::Cut(after) => assert!(response.body == right[..after] && length == all, "{name}: {response:?}"),
            Body::Short(after) => {
                assert!(response.body == right[..after] && length == after as i64, "{name}: {response:?}")
            }
            Body::Lies(by) => assert!(response.body == right && length == all + by, "{name}: {response:?}"),
            Body::Says(text) => assert!(String::from_utf8_lossy(&response.body).contains(text), "{name}: {response:?}"),
            Body::Skewed(stamp) => {
                assert_eq!(response.json()["timestamp"], stamp, "{name}");
                let date = response.header("date").expect("a date");
                assert!(date.contains(&stamp[11..19]) && date.contains(&stamp[8..10]), "{name}: {date}");
            }
            Body::None => assert!(response.body.is_empty() && response.head.is_empty(), "{name}: {response:?}"),
        }
        let retry = response.header("retry-after").map(|text| text.parse().expect("seconds"));
        assert_eq!(retry, self.retry_after, "{name}: {response:?}");
    }
}

impl RawResponse {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request and reads until the connection ends.
pub(super) fn send(addr: SocketAddr, request: &Request) -> RawResponse {
    let began = Instant::now();
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(READ_TIMEOUT)).expect("set");
    stream.write_all(&request.clone().header("connection", "close").bytes()).expect("sent");
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 * 1024]);
    let reset = loop {
        match stream.read(&mut piece) {
            Ok(0) => break false,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break true,
            Err(error) => panic!("{error}"),
        }
    };
    let took = began.elapsed();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = bytes.split_at(end.map_or(0, |end| end + 4));
    let head = String::from_utf8(head.to_vec()).expect("an ASCII head");
    let status = head.split(' ').nth(1).map_or(0, |status| status.parse().expect("a status"));
    RawResponse { status, head, body: body.to_vec(), reset, took }
}
