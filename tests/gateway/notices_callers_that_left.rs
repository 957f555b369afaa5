//! A caller that has left is noticed, whatever it has sent behind its order and whenever it leaves: the response of its
//! order then goes to the next equal one. And one that has read its response has not left.

use std::{
    io::{Read as _, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use fastrac_sandbox::{Act, Fault};

use crate::{
    authority::Authority,
    bodies,
    client::{Connection, Request, get, post},
    protects_orders_without_a_key::{executed, order, slow},
    test_gateway::{Setup, TestGateway, until},
};

/// Orders with something behind them, by the number of the order.
const FORMS: [fn(usize) -> Vec<u8>; 7] = [
    |number| order(number).bytes(),
    |number| followed_by(number, b"\r\n"),
    |number| followed_by(number, b"GET /region/pro"),
    |number| followed_by(number, &get("/courier/all").by("shop").bytes()),
    |number| {
        let bytes = String::from_utf8(order(number).bytes()).expect("UTF-8");
        let (head, body) = bytes.split_once("\r\n\r\n").expect("a head");
        let head = head.replace(&format!("content-length: {}", body.len()), "transfer-encoding: chunked");
        assert!(head.contains("chunked"), "{head}");
        let length = body.len();
        format!("{head}\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n\r\n").into_bytes()
    },
    |number| String::from_utf8(followed_by(number, b"\r\n")).expect("UTF-8").replacen("HTTP/1.1", "HTTP/1.0", 1).into(),
    |number| [order(number).header("connection", "close").bytes(), b"\r\n".to_vec()].concat(),
];

fn followed_by(number: usize, rest: &[u8]) -> Vec<u8> {
    [&order(number).bytes(), rest].concat()
}

/// The order of a number, as a caller that reads its response sends it.
fn repeat(gateway: &TestGateway, number: usize) {
    let response = gateway.send(order(number));
    assert_eq!(
        (response.status, response.header("idempotent-replayed")),
        (200, Some("true")),
        "order {number}: {response:?}"
    );
}

#[test]
fn whatever_bytes_are_behind_the_order() {
    let gateway = TestGateway::new();
    slow(&gateway, Duration::from_millis(800));
    let open = |number: usize| {
        let mut connection = gateway.connect();
        connection.write(&FORMS[number % FORMS.len()](number));
        connection
    };
    // Of each form: one that is repeated while it is under way, one that is repeated later, and one whose first repeat
    // leaves as well.
    let [under_way, later, waited] = [0, 1, 2].map(|n| n * FORMS.len()..(n + 1) * FORMS.len());
    let connections: Vec<_> = (under_way.start..waited.end).map(open).collect();
    let count = connections.len();
    until("Fastrac has received all", || gateway.received().len() == count);
    drop(connections);
    let waiters: Vec<_> = waited.clone().map(open).collect();
    thread::scope(|scope| {
        for number in under_way {
            let gateway = &gateway;
            scope.spawn(move || repeat(gateway, number));
        }
        drop(waiters);
    });
    until("all have ended", || {
        let sent = gateway.metric("upstream_requests_total", &[("operation", "v2.order_express")]);
        sent == count as f64 && gateway.metric("in_flight_requests", &[]) == 0.0
    });
    later.chain(waited.clone()).for_each(|number| repeat(&gateway, number));
    assert_eq!(executed(&gateway), waited.end as u64);
}

/// They wait for the only place in flight, which a slow quote holds.
#[test]
fn waiters_with_bytes_behind_their_request_give_their_place_back_at_once() {
    let budget = "per_second = 1000, burst = 1000, in_flight = 1, max_wait = \"30s\"";
    let (authority, listen) = (Authority::new(), "tls = { cert = \"door.crt\", key = \"door.key\" }");
    let server = authority.server(2040);
    let files = vec![("door.crt", server.cert), ("door.key", server.key)];
    for tls in [false, true] {
        let setup = Setup { budget, ..Setup::default() };
        let setup = if tls { Setup { listen, files: files.clone(), ..setup } } else { setup };
        let gateway = setup.start();
        gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(6)));
        let open = || -> Box<dyn Write> {
            let stream = TcpStream::connect(gateway.data).expect("connected");
            if !tls {
                return Box::new(stream);
            }
            let name = ServerName::try_from("127.0.0.1").expect("a name");
            let session = ClientConnection::new(authority.trusting(None, &[]), name).expect("a session");
            Box::new(StreamOwned::new(session, stream))
        };
        let quote = || post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").bytes();
        let usage = || gateway.app().gateway.current.load().accounts[0].budget.usage();
        let mut first = open();
        first.write_all(&quote()).expect("sent");
        until("the place to be taken", || usage().in_flight.left == 0);
        let behind: [&[u8]; 4] =
            [b"\r\n", b"GET /region/pro", &get("/courier/all").by("shop").bytes(), &[b'x'; 30_000]];
        let waiters: Vec<_> = (0..8)
            .map(|number| {
                let mut stream = open();
                stream.write_all(&[&quote(), behind[number % behind.len()]].concat()).expect("sent");
                stream
            })
            .collect();
        until("all to wait", || usage().waiting == 8);
        drop(waiters);
        until("all to have left", || usage().waiting == 0);
        assert_eq!((usage().in_flight.left, gateway.received().len()), (0, 1), "while the first was under way");
        until("all to be counted", || gateway.metric("requests_total", &[("outcome", "client_gone")]) == 8.0);
    }
}

/// Over TLS, the end may be a close_notify alone.
#[test]
fn a_close_notify_behind_other_bytes_is_seen() {
    let (gateway, authority) = over_tls();
    slow(&gateway, Duration::from_millis(500));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let session = ClientConnection::new(authority.trusting(None, &[]), name).expect("a session");
    let mut stream = StreamOwned::new(session, TcpStream::connect(gateway.data).expect("connected"));
    stream.write_all(&order(1).bytes()).expect("sent");
    until("Fastrac has received it", || gateway.received().len() == 1);
    stream.write_all(b"\r\n").expect("sent");
    stream.conn.send_close_notify();
    stream.flush().expect("sent");
    let trusting = authority.trusting(None, &[]);
    let mut connection = Connection::over_tls(gateway.data, &trusting).expect("a handshake").0;
    assert_eq!(connection.send(&order(1)).header("idempotent-replayed"), Some("true"));
    assert_eq!(executed(&gateway), 1);
}

fn over_tls() -> (TestGateway, Authority) {
    let authority = Authority::new();
    let server = authority.server(2040);
    let files = vec![("door.crt", server.cert), ("door.key", server.key)];
    let listen = "tls = { cert = \"door.crt\", key = \"door.key\" }";
    (Setup { listen, files, ..Setup::default() }.start(), authority)
}

/// Its time ends when the response has just arrived: closing with something unread resets the connection.
#[test]
fn one_that_closes_with_its_response_unread_gets_it_again() {
    let gateway = TestGateway::new();
    for number in 0..20 {
        let socket = TcpStream::connect(gateway.data).expect("connected");
        let close = if number % 2 == 0 { "keep-alive" } else { "close" };
        (&socket).write_all(&order(number).header("connection", close).bytes()).expect("sent");
        assert_eq!(socket.peek(&mut [0; 1]).expect("a response"), 1);
        drop(socket);
        repeat(&gateway, number);
        // Once.
        assert_eq!(gateway.send(order(number)).header("idempotent-replayed"), None);
        assert_eq!(executed(&gateway), 2 * (number as u64 + 1));
    }
}

/// Its machine takes nothing, or is gone: the response is in the gateway's socket.
#[test]
fn one_whose_machine_has_not_taken_the_response_gets_it_again() {
    let gateway = TestGateway::new();
    long_responses(&gateway);
    let open = |number: usize| {
        let mut stream = taking_little(&gateway);
        stream.write_all(&order(number).bytes()).expect("sent");
        stream
    };
    let waiting: Vec<_> = (0..3).map(open).collect();
    are_written(&gateway, 3);
    for (number, stream) in waiting.into_iter().enumerate() {
        // Before it has given up, and after.
        if number > 0 {
            drop(stream);
            repeat(&gateway, number);
        } else {
            repeat(&gateway, number);
            drop(stream);
        }
    }
    assert_eq!(gateway.received().len(), 3);
}

/// The gateway would close these behind the response, which a client that has closed answers with a reset.
#[test]
fn nor_over_tls_if_its_connection_ends_with_the_response() {
    let (gateway, authority) = over_tls();
    let trusting = authority.trusting(None, &[]);
    let connect = |stream| {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        StreamOwned::new(ClientConnection::new(trusting.clone(), name).expect("a session"), stream)
    };
    let closes = |number| order(number).header("connection", "close").bytes();
    let repeat = |number| {
        let (mut repeats, _) = Connection::over_tls(gateway.data, &trusting).expect("a handshake");
        let replayed = repeats.send(&order(number)).header("idempotent-replayed").map(str::to_owned);
        assert_eq!(replayed.as_deref(), Some("true"), "order {number}");
    };
    // It closes with the response unread.
    let mut stream = connect(TcpStream::connect(gateway.data).expect("connected"));
    stream.write_all(&get("/region/province").bytes()).expect("sent");
    assert_ne!(stream.read(&mut [0; 4096]).expect("a response"), 0);
    stream.write_all(&closes(1)).expect("sent");
    assert_eq!(stream.sock.peek(&mut [0; 1]).expect("a response"), 1);
    drop(stream);
    repeat(1);
    // Its machine does not take it.
    long_responses(&gateway);
    let mut stream = connect(taking_little(&gateway));
    stream.write_all(&closes(2)).expect("sent");
    are_written(&gateway, 3);
    repeat(2);
    assert_eq!(gateway.received().len(), 2);
}

/// Responses to orders are longer than what a machine takes that takes little.
fn long_responses(gateway: &TestGateway) {
    let body = format!(r#"{{"success": true, "message": "", "data": {{"awb": "{}"}}}}"#, "x".repeat(60_000));
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::answer(200, &body)));
}

fn taking_little(gateway: &TestGateway) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(2048).expect("set");
    socket.connect(&gateway.data.into()).expect("connected");
    socket.into()
}

/// Returns when the responses have been written for longer than it takes to be taken for one that has reached its caller.
fn are_written(gateway: &TestGateway, responses: usize) {
    let answered = || gateway.metric("requests_total", &[("operation", "v2.order_express"), ("outcome", "ok")]);
    until("the responses are written", || answered() == responses as f64);
    thread::sleep(Duration::from_millis(2500));
}

/// What it sent before the response was written says nothing of whether it has read that.
#[test]
fn one_that_has_sent_more_before_its_response_came_has_not_read_it() {
    let gateway = TestGateway::new();
    slow(&gateway, Duration::from_millis(300));
    for number in 0..4 {
        let socket = TcpStream::connect(gateway.data).expect("connected");
        let (order, stranger) = (order(number).bytes(), get("/order/track").bytes());
        let before = gateway.received().len();
        if number % 2 == 0 {
            (&socket).write_all(&[order, stranger].concat()).expect("sent");
        } else {
            (&socket).write_all(&order).expect("sent");
            until("Fastrac has received it", || gateway.received().len() == before + 1);
            (&socket).write_all(&stranger).expect("sent");
        }
        let refused = || gateway.metric("requests_total", &[("outcome", "unauthenticated")]);
        until("both are answered", || refused() as usize == number + 1);
        drop(socket);
        repeat(&gateway, number);
    }
}

/// A connection whose client writes and reads frames of HTTP/2.
struct Frames(TcpStream);

impl Frames {
    fn open(gateway: &TestGateway) -> Frames {
        let mut frames = Frames(TcpStream::connect(gateway.data).expect("connected"));
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("sent");
        frames.write(4, 0, 0, &[]);
        frames
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = &(payload.len() as u32).to_be_bytes()[1..];
        let frame = [length, &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.0.write_all(&frame).expect("sent");
    }

    fn send(&mut self, stream: u32, request: &Request) {
        let length = u8::try_from;
        let target = request.target.clone();
        let pseudo =
            [(":method", "POST"), (":scheme", "http"), (":path", target.as_str()), (":authority", "gateway.test")];
        let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let headers = headers.filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
        let literal = |(name, value): (&str, &str)| {
            let (name, lengths) = (name.to_ascii_lowercase(), "shorter than 127");
            let name_length = length(name.len()).expect(lengths);
            [&[0, name_length], name.as_bytes(), &[length(value.len()).expect(lengths)], value.as_bytes()].concat()
        };
        let head: Vec<u8> = pseudo.into_iter().chain(headers).flat_map(literal).collect();
        self.write(1, 4, stream, &head);
        self.write(0, 1, stream, &request.body);
    }

    /// Reads frames up to the end of a stream's response.
    fn receive(&mut self, stream: u32) {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).expect("a frame");
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).expect("whole");
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if of == stream && head[3] == 0 && head[4] & 1 == 1 {
                return;
            }
        }
    }
}

/// The same over HTTP/2: its time ends when the response has just arrived, and it gives its stream up.
#[test]
fn one_that_resets_its_stream_with_the_response_unread_gets_it_again() {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let gateway = TestGateway::new();
    for number in 0..5 {
        let mut frames = Frames::open(&gateway);
        frames.send(1, &order(number));
        frames.receive(1);
        frames.write(3, 0, 1, &CANCEL);
        frames.send(3, &order(number));
        frames.receive(3);
        assert_eq!(executed(&gateway), number as u64 + 1, "it is given again");
    }
    // Whatever comes first otherwise says that it was read: a ping, or the end of a stream that another request had.
    for (number, first) in [(10, (6, 0, vec![0; 8])), (11, (3, 5, CANCEL.to_vec()))] {
        let before = executed(&gateway);
        let mut frames = Frames::open(&gateway);
        frames.send(1, &order(number));
        frames.receive(1);
        let (kind, stream, payload) = first;
        if stream > 0 {
            frames.send(stream, &get("/order/track").json("{}").by("shop"));
        }
        frames.write(kind, 0, stream, &payload);
        frames.send(7, &order(number));
        frames.receive(7);
        assert_eq!(executed(&gateway), before + 2);
    }
}

#[test]
fn one_that_reads_its_response_and_closes_has_not_left() {
    let gateway = TestGateway::new();
    let (secure, authority) = over_tls();
    let trusting = authority.trusting(None, &[]);
    let tls = || Connection::over_tls(secure.data, &trusting).expect("a handshake").0;
    for _ in 0..5 {
        for request in [order(1), order(1).header("connection", "close"), order(1).header("connection", "keep-alive")] {
            for mut connection in [gateway.connect(), tls()] {
                let response = connection.send(&request);
                assert_eq!((response.status, response.header("idempotent-replayed")), (200, None), "{response:?}");
                drop(connection);
            }
        }
    }
    assert_eq!((executed(&gateway), executed(&secure)), (15, 15));
}
