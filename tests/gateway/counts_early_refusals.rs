//! A request that is refused before its head was read is counted and logged like any other: `-` for service and
//! operation, and the id that its client was told, if it was told one.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};
use serde_json::{Value, json};

use crate::{
    authority::Authority,
    bodies,
    bounds_memory::{closed_window, slow_reader},
    client::{Connection, get, post, request},
    hostile::frames::{
        CONTINUATION, END_HEADERS, END_STREAM, Event, FrameConnection, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
        block, frame, request_frames,
    },
    passes_responses_unchanged::Certificates,
    refuses_clearly::before_a_request,
    test_gateway::{Setup, TestGateway, until},
};

/// How many requests were refused early with an outcome.
fn early(gateway: &TestGateway, outcome: &str) -> f64 {
    gateway.metric("requests_total", &[("service", "-"), ("operation", "-"), ("outcome", outcome)])
}

fn counted(gateway: &TestGateway, outcome: &str, count: usize) {
    let what = format!("{count} are counted as {outcome}");
    let holds = || early(gateway, outcome) >= count as f64;
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}; there are {}", early(gateway, outcome));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(early(gateway, outcome), count as f64, "{what}");
}

/// Occupies all places of a gateway, with connections of a caller.
fn occupy(gateway: &TestGateway, places: usize) -> Vec<Connection> {
    let mut idle: Vec<_> = (0..places).map(|_| gateway.connect()).collect();
    idle.iter_mut().for_each(|one| assert_eq!(one.send(&get("/courier/all").by("shop")).status, 200));
    assert_eq!(gateway.metric("client_connections", &[]), places as f64);
    idle
}

#[test]
fn connections_beyond_the_limit_are_counted_and_logged_and_can_read_why_while_they_send() {
    let gateway = Setup { limits: "connections = 2", ..Setup::default() }.start();
    let _idle = occupy(&gateway, 2);
    let lengths = [0, 1_000, 100_000, 3_000_000];
    for length in lengths {
        let mut connection = gateway.connect();
        connection.write(&post("/order/express", &"x".repeat(length)).by("shop").bytes());
        let response = connection.read_response("POST").unwrap_or_else(|| panic!("no response to {length} bytes"));
        assert_eq!((response.status, response.outcome()), (503, "overloaded"), "{length}");
        before_a_request(&response);
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        for (name, value) in [
            ("service", json!("-")),
            ("operation", json!("-")),
            ("method", json!("other")),
            ("status", json!(503)),
            ("outcome", json!("overloaded")),
            ("code", json!("gateway.overloaded")),
            ("sent", json!("no")),
            ("attempts", json!(0)),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
    }
    counted(&gateway, "overloaded", lengths.len());
    assert_eq!(gateway.metric("client_connections", &[]), 2.0);
    assert_eq!(gateway.received().len(), 1, "by the callers that hold the places");
}

/// Whoever could connect kept callers out for `limits.idle`.
#[test]
fn connections_without_an_identified_request_make_room_for_new_ones() {
    let gateway = Setup { limits: "connections = 4", ..Setup::default() }.start();
    let mut strangers: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    strangers[1].write(b"GET /courier/all HTTP/1.1\r\nhost: gw\r\n");
    assert_eq!(strangers[2].send(&get("/courier/all").by("nobody")).status, 401);
    strangers[3].write(PREFACE);
    std::thread::sleep(Duration::from_millis(1_100));
    let lookup = get("/courier/all").by("shop");
    let mut callers: Vec<_> = (0..4)
        .map(|_| {
            let mut caller = gateway.connect();
            assert_eq!(caller.send(&lookup).status, 200);
            caller
        })
        .collect();
    assert!(strangers[..3].iter_mut().all(Connection::ends));
    // The half head; the 401 has its own outcome.
    counted(&gateway, "overloaded", 1);
    // Who was identified keeps its place.
    std::thread::sleep(Duration::from_millis(1_100));
    let mut caller = gateway.connect();
    assert_eq!(caller.read_response("GET").expect("a response").status, 503);
    assert!(callers.iter_mut().all(|caller| caller.send(&lookup).status == 200));
}

/// A service whose pool leaked kept all others out.
#[test]
fn idle_connections_of_the_service_that_has_most_make_room() {
    let services = &[("other", "allow = [\"lookup\"]")];
    let gateway = Setup { limits: "connections = 4", services, ..Setup::default() }.start();
    let _kept = occupy(&gateway, 4);
    let lookup = get("/courier/all").by("other");
    let mut connection = gateway.connect();
    assert_eq!(connection.read_response("GET").expect("a response").status, 503, "they are in use");
    std::thread::sleep(Duration::from_millis(5_100));
    let mut callers: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    assert!(callers.iter_mut().all(|caller| caller.send(&lookup).status == 200));
}

/// An HTTP/2 connection with the frames of these requests.
fn over_http2(gateway: &TestGateway, requests: &[Vec<u8>]) -> FrameConnection {
    let mut connection = FrameConnection::open(gateway.data);
    connection.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &requests.concat()].concat());
    connection
}

/// What comes until this event has come.
fn events_until(connection: &FrameConnection, last: Event) -> Vec<Event> {
    let (mut events, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(10));
    while events.last() != Some(&last) {
        assert_ne!(events.last(), Some(&Event::Closed), "no {last:?} after {events:?}");
        events.push(connection.next(deadline).unwrap_or_else(|| panic!("no {last:?} after {events:?}")));
    }
    events
}

/// Until they have acknowledged that they end, new callers got 503.
#[test]
fn idle_http2_connections_that_take_no_goaway_make_room_at_once() {
    let gateway = Setup { limits: "connections = 8", ..Setup::default() }.start();
    let lookup = get("/courier/all").by("shop");
    let idle: Vec<_> = (0..8).map(|_| over_http2(&gateway, &[request_frames(1, &lookup)])).collect();
    idle.iter().for_each(|connection| drop(events_until(connection, Event::Status(1, 200))));
    std::thread::sleep(Duration::from_millis(5_100));
    assert_eq!(gateway.connect().send(&lookup).status, 200);
}

/// One that has been told to make room when its request comes is not cut off before the response.
#[test]
fn a_request_that_comes_while_its_connection_makes_room_is_answered() {
    let gateway = Setup { limits: "connections = 1", ..Setup::default() }.start();
    let mut idle = over_http2(&gateway, &[request_frames(1, &get("/courier/all").by("shop"))]);
    events_until(&idle, Event::Status(1, 200));
    gateway.sandbox.fault(Fault { delay_ms: 2_500, ..Fault::on("v2.order_express", Act::Pass) });
    std::thread::sleep(Duration::from_millis(5_100));
    let mut caller = gateway.connect();
    assert_eq!(caller.send(&get("/courier/all").by("shop")).status, 200);
    idle.write(&request_frames(3, &post("/order/express", bodies::ORDER).by("shop")));
    let events = events_until(&idle, Event::End(3));
    assert!(!events.contains(&Event::Reset(3)), "{events:?}");
    events_until(&idle, Event::Closed);
    let line = gateway.lines(3).into_iter().find(|line| line["class"] == "order").expect("a line");
    assert_eq!((&line["outcome"], &line["status"]), (&json!("ok"), &json!(200)));
}

/// It was cut off after a second, without a response, if its body did not come with its head.
#[test]
fn an_upload_that_begins_while_its_connection_makes_room_is_answered() {
    let gateway = Setup { limits: "connections = 1", ..Setup::default() }.start();
    let mut idle = over_http2(&gateway, &[request_frames(1, &get("/courier/all").by("shop"))]);
    events_until(&idle, Event::Status(1, 200));
    std::thread::sleep(Duration::from_millis(5_100));
    let mut caller = gateway.connect();
    assert_eq!(caller.send(&get("/courier/all").by("shop")).status, 200);
    let mut upload = request_frames(3, &post("/order/express", bodies::ORDER).by("shop"));
    let body = upload.split_off(upload.len() - bodies::ORDER.len() - 9);
    idle.write(&upload);
    std::thread::sleep(Duration::from_millis(2_000));
    idle.write(&body);
    let events = events_until(&idle, Event::End(3));
    assert!(events.contains(&Event::Status(3, 200)), "{events:?}");
    events_until(&idle, Event::Closed);
}

/// Over HTTP/1.1 it was counted nowhere, and over HTTP/2 as one that took too long.
#[test]
fn half_a_head_on_a_connection_that_makes_room_is_counted() {
    for http2 in [false, true] {
        let gateway = Setup { limits: "connections = 1", ..Setup::default() }.start();
        let lookup = get("/courier/all").by("shop");
        let mut idle = if http2 {
            let idle = over_http2(&gateway, &[request_frames(1, &lookup)]);
            events_until(&idle, Event::End(1));
            idle
        } else {
            let mut idle = FrameConnection::open(gateway.data);
            idle.write(&lookup.bytes());
            idle
        };
        std::thread::sleep(Duration::from_millis(5_200));
        let head = if http2 { request_frames(3, &lookup) } else { lookup.bytes() };
        idle.write(&head[..head.len() / 2]);
        std::thread::sleep(Duration::from_millis(100));
        let mut caller = gateway.connect();
        assert_eq!(caller.send(&lookup).status, 200);
        counted(&gateway, "overloaded", 1);
        assert_eq!(early(&gateway, "bad_request"), 0.0);
        let line = gateway.lines(3).into_iter().find(|line| line["outcome"] == "overloaded").expect("a line");
        assert_eq!((&line["service"], &line["code"]), (&json!("-"), &json!("gateway.overloaded")));
    }
}

/// One service's uploads that did not end kept all others out, for `limits.request`.
#[test]
fn uploads_that_do_not_end_make_room() {
    let services = &[("other", "allow = [\"lookup\"]")];
    let gateway = Setup { limits: "connections = 2", services, ..Setup::default() }.start();
    let order = post("/order/express", &"x".repeat(100)).by("shop").bytes();
    let mut upload = gateway.connect();
    upload.write(&order[..order.len() - 1]);
    std::thread::sleep(Duration::from_millis(100));
    let streams = [1, 3].map(|stream| {
        let head = request("POST", "/order/express").by("shop").header("content-length", "100");
        let mut head = request_frames(stream, &head);
        head[4] &= !END_STREAM;
        head
    });
    let uploads = over_http2(&gateway, &streams);
    let lookup = get("/courier/all").by("other");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(gateway.connect().read_response("GET").expect("a response").status, 503, "they have just begun");
    std::thread::sleep(Duration::from_millis(5_000));
    let mut caller = gateway.connect();
    assert_eq!(caller.send(&lookup).status, 200);
    let shed = upload.read_response("POST").expect("a response");
    assert_eq!((shed.status, shed.code().as_str(), shed.sent()), (503, "gateway.overloaded", "no"));
    before_a_request(&shed);
    let line = gateway.line(shed.header("x-request-id").expect("an id"));
    assert_eq!(
        (&line["service"], &line["outcome"], &line["attempts"]),
        (&json!("shop"), &json!("overloaded"), &json!(0))
    );
    drop(upload);
    until("it has ended", || gateway.metric("client_connections", &[]) == 2.0);
    assert_eq!(gateway.connect().send(&lookup).status, 200);
    let events = events_until(&uploads, Event::Closed);
    assert!(events.contains(&Event::Status(1, 503)) && events.contains(&Event::End(3)), "{events:?}");
    assert_eq!(gateway.metric("requests_total", &[("service", "shop"), ("outcome", "overloaded")]), 3.0);
    assert!(gateway.received().iter().all(|entry| entry.uri.path() == "/courier/all"));
}

/// So did its responses that were not taken, for as long as 256 bytes a second were. That to an order keeps its place.
#[test]
fn responses_that_are_not_taken_make_room() {
    const LONG: usize = 6_000_000;
    let services = &[("other", "allow = [\"lookup\"]")];
    let limits = "connections = 3\nanswer_buffer = \"8MiB\"\nmemory = \"128MiB\"";
    let gateway = Setup { limits, services, ..Setup::default() }.start();
    for operation in ["v2.track", "v2.order_express"] {
        gateway.sandbox.fault(Fault::on(operation, Act::Long { bytes: LONG }));
    }
    let track = request("GET", "/order/track").json("{}").by("shop");
    let mut order = slow_reader(&gateway, &post("/order/express", bodies::ORDER).by("shop"));
    let readers = [slow_reader(&gateway, &track), closed_window(&gateway, &track)];
    let used = || gateway.app().gateway.current.load().memory.used();
    until("all are held", || used() > 3 * LONG);
    let lookup = get("/courier/all").by("other");
    assert_eq!(gateway.connect().read_response("GET").expect("a response").status, 503, "they may just be slow");
    std::thread::sleep(Duration::from_millis(5_100));
    // The second is told once the first has ended.
    let admitted = || {
        let mut caller = gateway.connect();
        (caller.send(&lookup).status == 200).then_some(caller)
    };
    let mut callers = Vec::new();
    until("both make room", || {
        callers.extend(admitted());
        callers.len() == 2
    });
    let gone = || gateway.metric("requests_total", &[("service", "shop"), ("outcome", "client_gone")]);
    until("both have ended", || gone() == 2.0);
    drop(readers);
    assert_eq!(
        gateway.connect().read_response("GET").expect("a response").status,
        503,
        "all are in use, or an order's"
    );
    let mut response = vec![0; LONG];
    order.read_exact(&mut response).expect("the whole response");
}

#[test]
fn a_flood_of_refused_connections_keeps_few_of_them_open() {
    const FLOOD: usize = 300;
    let mut gateway = Setup { limits: "connections = 1", drain: ("0s", "1s"), ..Setup::default() }.start();
    let _idle = occupy(&gateway, 1);
    let flood: Vec<TcpStream> = (0..FLOOD)
        .map(|_| {
            let mut socket = TcpStream::connect(gateway.data).expect("connected");
            let _ = socket.write_all(b"POST / HTTP/1.1\r\n");
            socket
        })
        .collect();
    counted(&gateway, "overloaded", FLOOD);
    until("few connections are kept", || open(gateway.data) <= 1 + 64);
    assert_eq!(gateway.admin("/livez").status, 200);
    let began = Instant::now();
    gateway.take_app().stop();
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    drop(flood);
}

/// The number of sockets that the gateway holds open at its address.
fn open(gateway: SocketAddr) -> usize {
    let port = format!(":{:04X}", gateway.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let held = |line: &&str| {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1).unwrap_or_default(), fields.nth(1).unwrap_or_default());
        // The inode of a socket that no process holds any more is 0.
        local.ends_with(&port) && matches!(state, "01" | "04" | "05") && fields.nth(5) != Some("0")
    };
    table.lines().skip(1).filter(held).count()
}

#[test]
fn connections_beyond_the_limit_are_counted_with_tls_too() {
    let certificates = Certificates::new();
    let gateway = Setup { limits: "connections = 1", ..Setup::with_tls(&certificates) }.start();
    // It is not old enough to make room.
    let _idle = TcpStream::connect(gateway.data).expect("connected");
    assert!(Connection::over_tls(gateway.data, &Authority::new().trusting(None, &[])).is_err());
    counted(&gateway, "overloaded", 1);
    let line = &gateway.lines(1)[0];
    assert_eq!((&line["outcome"], &line["status"]), (&json!("overloaded"), &Value::Null));
}

#[test]
fn a_request_line_that_hyper_refuses_is_counted_and_logged() {
    let gateway = TestGateway::new();
    let targets: [&[u8]; 8] = [b"/a<b", b"/a>b", b"/a`b", b"/a\xffb", b"/?q=\"", b"/?q=<", b"/a b", b"/a\x01"];
    for target in targets {
        let mut connection = gateway.connect();
        connection.write(&[b"GET ", target, b" HTTP/1.1\r\nhost: gw\r\n\r\n"].concat());
        let response = connection.read_response("GET").expect("a response");
        assert_eq!((response.status, response.header("x-request-id")), (400, None), "{target:?}");
        assert!(connection.ends());
    }
    counted(&gateway, "bad_request", targets.len());
    for line in gateway.lines(targets.len()) {
        let told = (&line["service"], &line["path"], &line["status"], &line["code"]);
        assert_eq!(told, (&json!("-"), &json!("-"), &json!(400), &json!("request.malformed")));
        assert_eq!(line["request_id"].as_str().map(str::len), Some(36));
    }
}

/// The fields of a request for an unknown service, which the gateway itself refuses.
const FIELDS: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/courier/all"), (b":authority", b"gw")];

fn fields(more: &[(&[u8], &[u8])]) -> Vec<u8> {
    block(&[&FIELDS[..], more].concat())
}

fn without(name: &[u8], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let kept: Vec<_> = FIELDS.into_iter().filter(|(known, _)| *known != name).collect();
    block(&[&kept[..], more].concat())
}

fn head(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

/// A head in frames of the usual size.
fn long_head(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16_000).peekable();
    let mut frames = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let flags = end | if kind == HEADERS { END_STREAM } else { 0 };
        frames.extend(frame(kind, flags, stream, piece));
        kind = CONTINUATION;
    }
    frames
}

/// Opens an HTTP/2 connection and sends frames.
fn send_frames(gateway: &TestGateway, frames: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.data).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), frames].concat()).expect("sent");
    socket
}

/// Heads that end their stream, with the status and the code of their line.
fn refused_streams() -> Vec<(&'static str, Vec<u8>, Value, &'static str)> {
    let malformed = |name, block: Vec<u8>| (name, head(1, &block), Value::Null, "request.malformed");
    let filler = "x".repeat(70_000);
    let large = fields(&[(b"x-filler", filler.as_bytes())]);
    let many: Vec<(&[u8], &[u8])> = vec![(b"x-filler", b"0123456789"); 1600];
    // Nothing on the wire, but a table of a hundred kilobytes.
    let short: Vec<(&[u8], &[u8])> = vec![(b"a", b"b"); 1800];
    vec![
        ("many short fields", long_head(1, &fields(&short)), json!(431), "request.headers"),
        ("one long field", long_head(1, &large), json!(431), "request.headers"),
        ("many fields", long_head(1, &fields(&many)), json!(431), "request.headers"),
        malformed("a field of one connection", fields(&[(b"connection", b"close")])),
        malformed("no path", without(b":path", &[])),
        malformed("a byte in the path", without(b":path", &[(b":path", b"/a<b")])),
        malformed("no method", without(b":method", &[])),
        malformed("a status", fields(&[(b":status", b"200")])),
        malformed("two lengths", fields(&[(b"content-length", b"1"), (b"content-length", b"2")])),
        malformed("a length without a body", fields(&[(b"content-length", b"5")])),
    ]
}

#[test]
fn heads_that_h2_refuses_by_itself_are_counted_and_logged() {
    let gateway = TestGateway::new();
    let (mut refused, mut served) = (0, 0);
    for (name, frames, status, code) in refused_streams() {
        // Other requests on the same connection are served.
        let good = |stream| head(stream, &fields(&[]));
        let mut socket = send_frames(&gateway, &frames);
        refused += 1;
        until(name, || early(&gateway, "bad_request") == f64::from(refused));
        socket.write_all(&good(3)).expect("sent");
        served += 1;
        until(&format!("another request is served after {name}"), || {
            early(&gateway, "unauthenticated") == f64::from(served)
        });
        socket.write_all(&[good(5), good(7)].concat()).expect("sent");
        served += 2;
        until("more requests are served", || early(&gateway, "unauthenticated") == f64::from(served));
        let lines = gateway.lines((refused + served) as usize);
        let line = lines.iter().rfind(|line| line["outcome"] == "bad_request").expect("a line");
        assert_eq!((&line["status"], &line["code"]), (&status, &json!(code)), "{name}: {line}");
        assert_eq!((&line["service"], &line["method"], &line["sent"]), (&json!("-"), &json!("other"), &json!("no")));
    }
    assert_eq!(early(&gateway, "bad_request"), f64::from(refused));
}

#[test]
fn connections_that_h2_ends_by_itself_are_counted_and_logged() {
    let gateway = TestGateway::new();
    let cases: [(&str, Vec<u8>); 12] = [
        ("a name in upper case", head(1, &fields(&[(b"X-Upper", b"1")]))),
        ("a byte in a value", head(1, &fields(&[(b"x-a", b"\x01")]))),
        ("an unknown pseudo field", head(1, &fields(&[(b":other", b"1")]))),
        ("a block that cannot be decoded", head(1, b"\xff\xff\xff\xff\xff\xff\xff\xff")),
        ("stream 0", head(0, &fields(&[]))),
        ("a stream of the server's", head(2, &fields(&[]))),
        ("CONTINUATION alone", frame(CONTINUATION, END_HEADERS, 1, &fields(&[]))),
        ("another frame inside a head", [frame(HEADERS, 0, 1, &fields(&[])), frame(PING, 0, 0, &[0; 8])].concat()),
        ("a frame that is too long", head(1, &[0; 17_000])),
        ("a PING of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("CONTINUATION without end", [frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, b"").repeat(100)].concat()),
    ];
    for (count, (name, frames)) in cases.iter().enumerate() {
        let mut socket = send_frames(&gateway, frames);
        let _ = socket.read_to_end(&mut Vec::new());
        until(name, || early(&gateway, "bad_request") == (count + 1) as f64);
        let lines = gateway.lines(count + 1);
        let line = lines.last().expect("a line");
        assert_eq!((&line["code"], &line["status"]), (&json!("request.malformed"), &Value::Null), "{name}");
    }
    // Not the preface after all.
    let mut socket = TcpStream::connect(gateway.data).expect("connected");
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nhello\r\n\r\n").expect("sent");
    let _ = socket.read_to_end(&mut Vec::new());
    counted(&gateway, "bad_request", cases.len() + 1);
    until("all connections are closed", || gateway.metric("client_connections", &[]) == 0.0);
}

#[test]
fn half_a_preface_or_head_is_bounded_by_the_time_for_a_head_and_counted() {
    let limits = "header_read = \"300ms\"\nidle = \"1m\"";
    let gateway = Setup { limits, ..Setup::default() }.start();
    let settings = frame(SETTINGS, 0, 0, b"");
    let head = head(1, &fields(&[]));
    let open = frame(HEADERS, END_STREAM, 1, &fields(&[]));
    let after_preface = |rest: &[u8]| [PREFACE, &settings, rest].concat();
    let mut cases: Vec<(String, Vec<u8>)> =
        [1, 3, 4, 10, 23].map(|n| (format!("preface {n}"), PREFACE[..n].to_vec())).into();
    cases.extend([1, 3, 5, 9, 12].map(|n| (format!("head {n}"), after_preface(&head[..n]))));
    cases.push(("no CONTINUATION".into(), after_preface(&open)));
    cases.push((
        "half a CONTINUATION".into(),
        after_preface(&[open, frame(CONTINUATION, 0, 1, &[0; 9])[..12].to_vec()].concat()),
    ));
    cases.push(("HTTP/1.1".into(), b"GET / HTTP/1.1\r\nhost:".to_vec()));
    let count = cases.len();
    std::thread::scope(|scope| {
        for (name, bytes) in cases {
            let address = gateway.data;
            scope.spawn(move || {
                let mut socket = TcpStream::connect(address).expect("connected");
                socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
                socket.write_all(&bytes).expect("sent");
                let began = Instant::now();
                let _ = socket.read_to_end(&mut Vec::new());
                assert!(began.elapsed() < Duration::from_secs(15), "{name}");
            });
        }
    });
    counted(&gateway, "bad_request", count);
    for line in gateway.lines(count) {
        assert_eq!((&line["code"], &line["status"]), (&json!("request.timeout"), &Value::Null));
    }
    // A connection that is only idle stays.
    let mut idle = send_frames(&gateway, &frame(PING, 0, 0, &[0; 8])[..11]);
    std::thread::sleep(Duration::from_millis(600));
    idle.write_all(&[&frame(PING, 0, 0, &[0; 8])[11..], &head].concat()).expect("sent");
    counted(&gateway, "unauthenticated", 1);
}

#[test]
fn an_http2_request_whose_client_leaves_at_once_is_counted() {
    const CLOSED: usize = 50;
    const RESET: usize = 10;
    const COUNT: usize = CLOSED + RESET;
    let gateway = TestGateway::new();
    for _ in 0..CLOSED {
        let socket = send_frames(&gateway, &head(1, &fields(&[])));
        socket.shutdown(Shutdown::Write).expect("closed");
    }
    let resets = |streams: usize| {
        let reset = |stream| [head(stream, &fields(&[])), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat();
        (0..streams).flat_map(|n| reset(1 + 2 * n as u32)).collect::<Vec<u8>>()
    };
    let socket = send_frames(&gateway, &resets(RESET));
    until("all are counted", || gateway.metric("requests_total", &[]) >= COUNT as f64);
    drop(socket);
    until("all connections are closed", || gateway.metric("client_connections", &[]) == 0.0);
    assert_eq!(gateway.lines(COUNT).len(), COUNT);
    assert_eq!(early(&gateway, "bad_request"), 0.0);
    assert_eq!(early(&gateway, "unauthenticated") + early(&gateway, "client_gone"), COUNT as f64);
    // h2 ends a connection with too many of them at once, without passing them on.
    let _socket = send_frames(&gateway, &resets(100));
    until("the flood is counted", || early(&gateway, "bad_request") > 20.0);
}

#[test]
fn cleartext_on_a_tls_port_is_logged_under_the_id_that_its_client_reads_while_it_sends() {
    let certificates = Certificates::new();
    let gateway = Setup::with_tls(&certificates).start();
    for body in [0, 3_000_000] {
        let mut connection = gateway.connect();
        connection.write(&post("/order/express", &"x".repeat(body)).by("shop").bytes());
        let response = connection.read_response("POST").expect("a response");
        assert_eq!(response.status, 400);
        before_a_request(&response);
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        assert_eq!((&line["outcome"], &line["status"]), (&json!("bad_request"), &json!(400)));
    }
    counted(&gateway, "bad_request", 2);
}

#[test]
fn cleartext_on_the_admin_tls_port_is_no_request_of_a_service() {
    let certificates = Certificates::new();
    let listen = "admin_tls = { cert = \"tls.crt\", key = \"tls.key\" }";
    let gateway = Setup { listen, ..Setup::with_tls(&certificates) }.start();
    let mut connection = Connection::open(gateway.app().admin);
    let response = connection.send(&request("GET", "/livez").header("host", "localhost"));
    assert_eq!((response.status, response.code().as_str()), (400, "request.malformed"));
    assert!(response.text().contains("https://"), "{}", response.text());
    assert!(connection.ends());
    for (name, _) in &response.headers {
        assert!(!name.starts_with("x-gateway-") && name != "x-request-id" && name != "proxy-status", "{name}");
    }
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!((gateway.metric("requests_total", &[]), gateway.log().len()), (0.0, 0));
}
