//! Raw HTTP/2 frames: written as given, valid or not, and parsed as far as the tests need.
//! Hand-written on purpose: a library would refuse to send malformed frames.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{client::Request, test_gateway::canary_in};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types (RFC 9113, section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

// Flags.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

/// A frame with the correct length.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block in which every field is a literal, neither indexed nor Huffman-coded (RFC 7541, section 6.2.2).
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    bytes
}

/// The frames of a whole request.
pub(crate) fn request_frames(stream: u32, request: &Request) -> Vec<u8> {
    let pseudo = [(":method", &*request.method), (":scheme", "http"), (":path", &request.target), (":authority", "gw")];
    let headers = request.headers.iter().map(|(name, value)| (&**name, &**value));
    let fields: Vec<_> =
        pseudo.into_iter().chain(headers).map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let end = if request.body.is_empty() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, END_HEADERS | end, stream, &block(&fields));
    if !request.body.is_empty() {
        bytes.extend(frame(DATA, END_STREAM, stream, &request.body));
    }
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(length as u8);
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push((length % 128 + 128) as u8);
            length /= 128;
        }
        bytes.push(length as u8);
    }
    bytes.extend(text);
}

/// An event of a stream or of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Status of a response.
    Status(u32, u16),
    Reset(u32),
    /// Last frame of a stream.
    End(u32),
    /// With its error code.
    GoAway(u32),
    Closed,
}

/// A connection whose frames are read by a background thread.
pub(crate) struct FrameConnection {
    stream: TcpStream,
    events: Receiver<Event>,
}

impl FrameConnection {
    pub(crate) fn open(addr: SocketAddr) -> FrameConnection {
        let stream = TcpStream::connect(addr).expect("connected");
        stream.set_nodelay(true).expect("set");
        // The peer may have closed already; its frames can still be read.
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("set");
        let mut reader = stream.try_clone().expect("cloned");
        let (sender, events) = channel();
        thread::spawn(move || {
            let (mut buffer, mut piece) = (Vec::new(), [0; 16 * 1024]);
            while let Ok(read @ 1..) = reader.read(&mut piece) {
                buffer.extend_from_slice(&piece[..read]);
                while let Some(length) = whole(&buffer) {
                    for event in read_frame(&buffer[..length]) {
                        let _ = sender.send(event);
                    }
                    buffer.drain(..length);
                }
            }
            let _ = sender.send(Event::Closed);
        });
        FrameConnection { stream, events }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next event; `None` if none comes in time.
    pub(crate) fn next(&self, until: Instant) -> Option<Event> {
        match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Disconnected) => Some(Event::Closed),
            Err(RecvTimeoutError::Timeout) => None,
        }
    }
}

impl Drop for FrameConnection {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn whole(buffer: &[u8]) -> Option<usize> {
    let length = 9 + u32::from_be_bytes([0, *buffer.first()?, *buffer.get(1)?, *buffer.get(2)?]) as usize;
    (buffer.len() >= length).then_some(length)
}

fn read_frame(frame: &[u8]) -> Vec<Event> {
    let (kind, flags, payload) = (frame[3], frame[4], &frame[9..]);
    let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
    assert_eq!(canary_in(payload), None, "in a frame");
    let mut events = Vec::new();
    match kind {
        HEADERS => events.push(Event::Status(stream, status_of(payload))),
        RST_STREAM => events.push(Event::Reset(stream)),
        GOAWAY => {
            let code = payload.get(4..8).and_then(|code| code.try_into().ok()).map_or(0, u32::from_be_bytes);
            events.push(Event::GoAway(code));
        }
        _ => {}
    }
    if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
        events.push(Event::End(stream));
    }
    events
}

/// The status in the first field of a response head; 0 if its encoding is not supported here.
pub(crate) fn status_of(block: &[u8]) -> u16 {
    match block {
        // Dynamic table size update (section 6.3).
        [first, rest @ ..] if (0x20..0x3f).contains(first) => status_of(rest),
        // Indexed in the static table (RFC 7541, appendix A).
        [first, ..] if (0x88..=0x8e).contains(first) => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        [0x48 | 0x08, length, digits @ ..] if length & 0x80 == 0 => digits
            .get(..usize::from(*length))
            .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
            .unwrap_or(0),
        [0x48 | 0x08, _, digits @ ..] => huffman(digits),
        _ => 0,
    }
}

/// Decodes three Huffman-coded digits (RFC 7541, appendix B): 0 to 2 take five bits, the others six.
fn huffman(bytes: &[u8]) -> u16 {
    let bits: Vec<bool> =
        bytes.iter().take(3).flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1)).collect();
    let number = |bits: &[bool]| bits.iter().fold(0, |number, bit| number * 2 + u16::from(*bit));
    let (mut rest, mut status) = (bits.as_slice(), 0);
    for _ in 0..3 {
        let Some(short) = rest.get(..5).map(number) else { return 0 };
        let (digit, length) = if short <= 2 { (short, 5) } else { (number(&rest[..6.min(rest.len())]) - 0x19 + 3, 6) };
        status = status * 10 + digit;
        rest = &rest[length.min(rest.len())..];
    }
    status
}
