//! Runs one case against one address, and records the responses and how the connection ended.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::corpus::{Case, Responses, Step};
use crate::test_gateway::canary_in;

/// Requested after a case on the same connection if that should have stayed open: proves that no bytes
/// of the case are left.
pub(crate) const AGAIN: &str = "/again";

/// The observed result of a case.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) responses: Responses,
    /// Bytes that are not a response.
    pub(crate) unparsed: Option<String>,
    /// Duration from connecting to the end.
    pub(crate) took: Duration,
}

/// Runs cases against one address.
pub(crate) struct Runner {
    pub(crate) addr: SocketAddr,
    /// Maximum wait for the next byte.
    pub(crate) read_timeout: Duration,
    /// Credentials for [`AGAIN`], as header lines.
    pub(crate) auth: String,
}

impl Runner {
    pub(crate) fn run(&self, case: &Case) -> Observed {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.addr).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(self.read_timeout)).expect("set");
        let mut reader = ResponseReader { head: case.head, ..ResponseReader::default() };
        for step in &case.steps {
            perform(&mut stream, step);
        }
        let most = case.allowed.iter().map(|responses| responses.statuses.len()).max().unwrap_or(0);
        // If the connection may stay open, the last expected response ends the wait; else only its end does.
        let may_stay = case.allowed.iter().any(|responses| !responses.closed);
        while !(may_stay && reader.statuses.len() >= most) {
            if !reader.read_more(&mut stream) {
                break;
            }
        }
        let mut responses = Responses { statuses: reader.statuses.clone(), closed: reader.ended };
        if !reader.ended && may_stay {
            responses.closed = !self.stays_usable(&mut stream, &mut reader);
        }
        let unparsed =
            (!reader.rest.is_empty()).then(|| reader.rest[..reader.rest.len().min(200)].escape_ascii().to_string());
        Observed { responses, unparsed, took: began.elapsed() }
    }

    /// The same without expectations, for other servers: a response followed by a short silence ends the wait.
    pub(crate) fn survey(&self, case: &Case) -> Observed {
        const SILENCE: Duration = Duration::from_millis(60);
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.addr).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(self.read_timeout)).expect("set");
        let mut reader = ResponseReader { head: case.head, ..ResponseReader::default() };
        case.steps.iter().for_each(|step| perform(&mut stream, step));
        while reader.read_more(&mut stream) {
            if reader.statuses.iter().any(|status| *status >= 200) {
                stream.set_read_timeout(Some(SILENCE)).expect("set");
            }
        }
        let mut responses = Responses { statuses: reader.statuses.clone(), closed: reader.ended };
        if !reader.ended {
            stream.set_read_timeout(Some(self.read_timeout)).expect("set");
            responses.closed = !self.stays_usable(&mut stream, &mut reader);
        }
        Observed { responses, unparsed: None, took: began.elapsed() }
    }

    /// Whether the connection serves one more request, and nothing else comes.
    fn stays_usable(&self, stream: &mut TcpStream, reader: &mut ResponseReader) -> bool {
        let before = reader.statuses.len();
        let request = format!("GET {AGAIN} HTTP/1.1\r\nhost: gw\r\n{}\r\nconnection: close\r\n\r\n", self.auth);
        let _ = stream.write_all(request.as_bytes());
        reader.head = false;
        while reader.read_more(stream) {}
        reader.statuses.len() == before + 1 && reader.statuses.last() == Some(&200)
    }
}

fn perform(stream: &mut TcpStream, step: &Step) {
    // The peer may have refused and closed already; its response can still be read.
    match step {
        Step::Send(bytes) => drop(stream.write_all(bytes)),
        Step::Wait(pause) => thread::sleep(*pause),
        Step::HalfClose => drop(stream.shutdown(Shutdown::Write)),
        Step::Drip(bytes, pause) => {
            for byte in bytes {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(*pause);
            }
        }
    }
}

/// Parses responses as they arrive.
#[derive(Default)]
struct ResponseReader {
    head: bool,
    statuses: Vec<u16>,
    /// Received and not parsed, or not yet.
    rest: Vec<u8>,
    ended: bool,
}

impl ResponseReader {
    /// Reads once; false at the end or on a timeout.
    fn read_more(&mut self, stream: &mut TcpStream) -> bool {
        let mut piece = [0; 16 * 1024];
        match stream.read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(read) => {
                assert_eq!(canary_in(&piece[..read]), None, "in a response");
                self.rest.extend_from_slice(&piece[..read]);
                while self.take_response() {}
                return true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
        false
    }

    /// Removes one complete response from the buffer.
    fn take_response(&mut self) -> bool {
        let Some(end) = memchr::memmem::find(&self.rest, b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&self.rest[..end]).to_ascii_lowercase();
        let Some(status) = head.get(9..12).and_then(|status| status.parse::<u16>().ok()) else { return false };
        let header = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name));
        let mut length = end + 4;
        if !self.head && status >= 200 && status != 204 && status != 304 {
            if let Some(value) = header("content-length:") {
                length += value.trim().parse::<usize>().expect("a length");
            } else if header("transfer-encoding:").is_some() {
                match memchr::memmem::find(&self.rest[end..], b"\r\n0\r\n\r\n") {
                    Some(at) => length = end + at + 7,
                    None => return false,
                }
            } else {
                length = self.rest.len();
            }
        }
        if self.rest.len() < length {
            return false;
        }
        self.rest.drain(..length);
        self.statuses.push(status);
        true
    }
}
