//! One case tried at one address: what came back, and how it ended.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::corpus::{Case, Step, Told};
use crate::test_gateway::canary_in;

/// Asked after a case on the same connection, where it should have stayed open: proves that nothing
/// of the case is left in it.
pub(crate) const AGAIN: &str = "/again";

/// What became of a case.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) told: Told,
    /// Bytes that are no answer.
    pub(crate) odd: Option<String>,
    /// From the first byte to the end.
    pub(crate) took: Duration,
}

/// Tries a case.
pub(crate) struct Trial {
    pub(crate) addr: SocketAddr,
    /// Nothing may come later than this after what came before.
    pub(crate) patience: Duration,
    /// Credentials for [`AGAIN`], as header lines.
    pub(crate) auth: String,
}

impl Trial {
    pub(crate) fn run(&self, case: &Case) -> Observed {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.addr).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(self.patience)).expect("set");
        let mut heard = Heard { head: case.head, ..Heard::default() };
        for step in &case.steps {
            perform(&mut stream, step);
        }
        let most = case.told.iter().map(|told| told.statuses.len()).max().unwrap_or(0);
        // Where it should stay open, its last answer ends the waiting; else only the connection's end does.
        let may_stay = case.told.iter().any(|told| !told.closed);
        while !(may_stay && heard.statuses.len() >= most) {
            if !heard.more(&mut stream) {
                break;
            }
        }
        let mut told = Told { statuses: heard.statuses.clone(), closed: heard.ended };
        if !heard.ended && may_stay {
            told.closed = !self.again(&mut stream, &mut heard);
        }
        let odd = (!heard.rest.is_empty()).then(|| heard.rest[..heard.rest.len().min(200)].escape_ascii().to_string());
        Observed { told, odd, took: began.elapsed() }
    }

    /// The same for a server of which nothing is expected: an answer and a moment's silence end the waiting.
    pub(crate) fn survey(&self, case: &Case) -> Observed {
        const SILENCE: Duration = Duration::from_millis(60);
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.addr).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(self.patience)).expect("set");
        let mut heard = Heard { head: case.head, ..Heard::default() };
        case.steps.iter().for_each(|step| perform(&mut stream, step));
        while heard.more(&mut stream) {
            if heard.statuses.iter().any(|status| *status >= 200) {
                stream.set_read_timeout(Some(SILENCE)).expect("set");
            }
        }
        let mut told = Told { statuses: heard.statuses.clone(), closed: heard.ended };
        if !heard.ended {
            stream.set_read_timeout(Some(self.patience)).expect("set");
            told.closed = !self.again(&mut stream, &mut heard);
        }
        Observed { told, odd: None, took: began.elapsed() }
    }

    /// Whether the connection carries a further request, and nothing else.
    fn again(&self, stream: &mut TcpStream, heard: &mut Heard) -> bool {
        let before = heard.statuses.len();
        let asked = format!("GET {AGAIN} HTTP/1.1\r\nhost: gw\r\n{}\r\nconnection: close\r\n\r\n", self.auth);
        let _ = stream.write_all(asked.as_bytes());
        heard.head = false;
        while heard.more(stream) {}
        heard.statuses.len() == before + 1 && heard.statuses.last() == Some(&200)
    }
}

fn perform(stream: &mut TcpStream, step: &Step) {
    // A peer that has refused already may have closed; what it said is still to be read.
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

/// Answers as they come.
#[derive(Default)]
struct Heard {
    head: bool,
    statuses: Vec<u16>,
    /// Received and not understood, or not yet.
    rest: Vec<u8>,
    ended: bool,
}

impl Heard {
    /// Reads once; false when nothing more is to come.
    fn more(&mut self, stream: &mut TcpStream) -> bool {
        let mut piece = [0; 16 * 1024];
        match stream.read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(read) => {
                assert_eq!(canary_in(&piece[..read]), None, "in an answer");
                self.rest.extend_from_slice(&piece[..read]);
                while self.answer() {}
                return true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
        false
    }

    /// Takes one whole answer.
    fn answer(&mut self) -> bool {
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
