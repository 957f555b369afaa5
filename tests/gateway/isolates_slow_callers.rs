//! A caller that takes its response slowly, or not at all, keeps nothing from others: neither a place in the account's
//! `in_flight` nor a connection to Fastrac. But while it takes bytes, it is not idle.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpSocket;

use crate::{
    client::{Connection, Request, get, request},
    h2,
    hostile::frames::{
        ACK, DATA, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, request_frames,
        status_of,
    },
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TestGateway, until},
};

/// An HTTP/2 client that opens its windows itself.
pub(crate) struct Windowed {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What a client has seen of its only stream.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    body: usize,
    pub(crate) ended: bool,
    /// Error code of `RST_STREAM`.
    reset: Option<u32>,
}

const STREAM: u32 = 1;

impl Windowed {
    /// Sends a request on a connection whose streams have a window of this many bytes.
    pub(crate) fn send(addr: SocketAddr, window: u32, request: &Request) -> Windowed {
        let stream = TcpStream::connect(addr).expect("connected");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        let mut client = Windowed { stream, buffer: Vec::new() };
        let setting = [&4_u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
        client.write(PREFACE);
        client.write(&frame(SETTINGS, 0, 0, &setting));
        client.write(&request_frames(STREAM, request));
        client
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn ping(&mut self) {
        self.write(&frame(PING, 0, 0, b"01234567"));
    }

    /// Opens the windows of stream and connection.
    pub(crate) fn open(&mut self, bytes: u32) {
        [STREAM, 0].into_iter().for_each(|id| self.write(&frame(WINDOW_UPDATE, 0, id, &bytes.to_be_bytes())));
    }

    /// Reads what has come.
    pub(crate) fn read(&mut self, seen: &mut Seen) {
        let mut piece = [0; 64 * 1024];
        while let Ok(read @ 1..) = self.stream.read(&mut piece) {
            self.buffer.extend_from_slice(&piece[..read]);
        }
        while let Some(head) = self.buffer.first_chunk::<9>() {
            let end = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            if self.buffer.len() < end {
                return;
            }
            let frame: Vec<u8> = self.buffer.drain(..end).collect();
            let payload = &frame[9..];
            match kind {
                HEADERS => seen.status = status_of(payload),
                DATA => seen.body += payload.len(),
                RST_STREAM => seen.reset = payload.first_chunk().map(|code| u32::from_be_bytes(*code)),
                SETTINGS if flags & ACK == 0 => self.write(&crate::hostile::frames::frame(SETTINGS, ACK, 0, b"")),
                _ => {}
            }
            seen.ended |= matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        }
    }

    /// Does something, and reads what has come, until the stream is reset. The connection stays open.
    fn until_reset(&mut self, act: impl Fn(&mut Self)) -> Seen {
        let (mut seen, began) = (Seen::default(), Instant::now());
        while seen.reset.is_none() {
            act(self);
            self.read(&mut seen);
            assert!(began.elapsed() < Duration::from_secs(15), "never ended: {seen:?}");
        }
        seen
    }
}

/// A TCP client whose kernel receives few bytes ahead.
fn narrow(addr: SocketAddr) -> TcpStream {
    let stream = h2::run(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("set");
        socket.connect(addr).await.expect("connected").into_std().expect("a stream")
    });
    stream.set_nonblocking(false).expect("set");
    stream
}

fn track() -> Request {
    request("GET", "/order/track").json("{}").by("shop")
}

/// A gateway whose account has one place in flight, in front of a Fastrac whose responses about shipments are streamed.
fn one_place(limits: &'static str, more: &'static str) -> TestGateway {
    let budget = "per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 1, max_wait = \"300ms\"";
    let gateway = Setup { limits, more, budget, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: 12_000_000 }));
    gateway
}

/// The code of the refusal of another service's request, which needs a place in flight; `-`: it is served.
fn code_for_others(gateway: &TestGateway) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    gateway.send(get(&format!("/region/city?province_id=31&n={n}")).by("clerk")).code()
}

fn others_are_served(gateway: &TestGateway) {
    until("another service is served", || code_for_others(gateway) == "-");
}

fn is_taken(gateway: &TestGateway) {
    until("the place in flight is taken", || code_for_others(gateway) == "budget.in_flight");
}

const QUICK: &str = "idle = \"1s\"\nanswer_buffer = \"64KiB\"";
const PATIENT: &str = "idle = \"60s\"\nanswer_buffer = \"64KiB\"";
const TWO_SECONDS: &str = "[operations.\"v2.track\"]\ntimeout = \"2s\"\n";

#[test]
fn a_closed_window_ends_the_stream_and_frees_its_place_whatever_pings_come() {
    let gateway = one_place(QUICK, "");
    let mut client = Windowed::send(gateway.data, 0, &track());
    is_taken(&gateway);
    let seen = client.until_reset(Windowed::ping);
    others_are_served(&gateway);
    assert_eq!((seen.body, seen.reset), (0, Some(8)), "CANCEL");
    until("it is in the log", || gateway.log().iter().any(|line| line["operation"] == "v2.track"));
    let line = gateway.log().into_iter().find(|line| line["operation"] == "v2.track").expect("a line");
    assert_eq!(line["outcome"], "client_gone", "{line}");
    assert_eq!(gateway.metric("in_flight_requests", &[]), 0.0);
}

#[test]
fn a_window_that_opens_byte_by_byte_holds_its_place_until_the_operations_timeout() {
    let gateway = one_place(PATIENT, TWO_SECONDS);
    let mut client = Windowed::send(gateway.data, 0, &track());
    is_taken(&gateway);
    let seen = client.until_reset(|client| client.open(1));
    assert!(seen.body > 0);
    others_are_served(&gateway);
}

#[test]
fn a_window_that_opens_byte_by_byte_does_not_hold_a_buffered_response_for_ever() {
    let gateway = Setup { limits: "idle = \"1s\"", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: 400_000 }));
    let mut client = Windowed::send(gateway.data, 0, &track());
    let seen = client.until_reset(|client| client.open(1));
    assert!(seen.body > 0);
    until("its memory is free", || gateway.app().gateway.current.load().memory.used() == 0);
}

#[test]
fn an_http1_caller_that_reads_byte_by_byte_holds_its_place_until_the_operations_timeout() {
    let gateway = one_place(PATIENT, TWO_SECONDS);
    let mut client = narrow(gateway.data);
    client.write_all(&track().bytes()).expect("written");
    is_taken(&gateway);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) && client.read(&mut [0]).is_ok_and(|read| read > 0) {
                thread::sleep(Duration::from_millis(10));
            }
        });
        others_are_served(&gateway);
        ended.store(true, Relaxed);
    });
}

#[test]
fn an_http1_caller_that_reads_nothing_loses_its_place_when_it_is_idle() {
    let gateway = one_place(QUICK, "[operations.\"v2.track\"]\ntimeout = \"60s\"\n");
    let mut client = narrow(gateway.data);
    client.write_all(&track().bytes()).expect("written");
    is_taken(&gateway);
    others_are_served(&gateway);
    until("the connection is gone", || gateway.metric("client_connections", &[]) == 0.0);
}

/// A stored response of this many bytes, and a gateway on which a second without progress is too long.
fn stored(bytes: usize) -> TestGateway {
    let gateway = Setup { limits: "idle = \"1s\"\nanswer_buffer = \"16MiB\"", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.couriers", Act::Long { bytes }));
    let length = gateway.send(lookup()).body.len();
    assert!(length >= bytes, "{length}");
    gateway
}

fn lookup() -> Request {
    get("/courier/all").by("shop")
}

#[test]
fn a_stored_response_is_served_to_its_end_however_long_its_caller_reads_over_http2() {
    let gateway = stored(400_000);
    let length = gateway.send(lookup()).body.len();
    let mut client = Windowed::send(gateway.data, 0, &lookup());
    let (mut seen, began) = (Seen::default(), Instant::now());
    // The end in small steps: hyper has passed it on by then.
    while !seen.ended {
        let left = length - seen.body;
        client.open(if left > 12_000 { 40_000.min(left as u32 - 10_000) } else { 1_500 });
        let pause = Instant::now() + Duration::from_millis(300);
        while Instant::now() < pause && !seen.ended {
            client.read(&mut seen);
        }
        assert_eq!(seen.reset, None, "{seen:?}");
        assert!(began.elapsed() < Duration::from_secs(60), "never ended: {seen:?}");
    }
    assert_eq!((seen.status, seen.body), (200, length));
    assert!(began.elapsed() > Duration::from_secs(3), "longer than idle");
}

#[test]
fn a_stored_response_is_served_to_its_end_however_long_its_caller_reads_over_http1() {
    let gateway = stored(6_000_000);
    let length = gateway.send(lookup()).body.len();
    let mut client = narrow(gateway.data);
    client.write_all(&lookup().bytes()).expect("written");
    let (mut received, mut piece) = (0, vec![0; 100_000]);
    let began = Instant::now();
    while received < length {
        let read = client.read(&mut piece).expect("the connection is open");
        assert!(read > 0, "ended after {received} of {length} bytes");
        received += read;
        thread::sleep(Duration::from_millis(read as u64 / 1000));
    }
    assert!(began.elapsed() > Duration::from_secs(3), "longer than idle");
}

/// The system calls a socket writable once a third of its buffer is free, which takes such a caller longer than the limit.
#[test]
fn a_caller_that_reads_slowly_and_steadily_is_not_cut_off_with_and_without_tls() {
    const LIMITS: &str = "idle = \"1s\"\nanswer_buffer = \"16MiB\"";
    const PIECE: usize = 4096;
    let certificates = Certificates::new();
    let gateways = [None, Some(&certificates)].map(|tls| {
        let setup = tls.map_or_else(Setup::default, Setup::with_tls);
        let gateway = Setup { limits: LIMITS, ..setup }.start();
        gateway.sandbox.fault(Fault::on("v2.couriers", Act::Long { bytes: 900_000 }));
        gateway
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificates.root()).expect("an authority");
    let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let connect = |number: usize| match number {
        0 => Connection::open(gateways[0].data),
        _ => Connection::over_tls(gateways[1].data, &client).expect("a handshake").0,
    };
    thread::scope(|scope| {
        for number in 0..2 {
            let connect = &connect;
            scope.spawn(move || {
                let length = connect(number).send(&lookup()).body.len();
                let (mut client, began, mut received) = (connect(number), Instant::now(), 0);
                client.receive_little_ahead();
                client.write(&lookup().bytes());
                while received < length {
                    let read = client.read_piece(PIECE);
                    assert!(read > 0, "{number}: ended after {received} of {length} bytes, {:?}", began.elapsed());
                    received += read;
                    thread::sleep(Duration::from_millis(50));
                }
                assert!(began.elapsed() > Duration::from_secs(4), "longer than idle");
            });
        }
    });
}
