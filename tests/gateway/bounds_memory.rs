//! The bytes that requests and responses take are bounded (`limits.memory`): beyond the bound requests are shed by
//! priority, no response to an order is lost, and everything goes back, whatever ends the requests.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use fastrac_sandbox::{Act, Fault};
use tokio::net::TcpSocket;

use crate::{
    bodies,
    client::{Connection, Request, get, post, request},
    h2,
    hostile::frames::{DATA, HEADERS, PREFACE, SETTINGS, frame, request_frames},
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TestGateway, until},
};

const SERVICES: &[(&str, &str)] = &[("bulk", LOW), ("batch", LOW), ("office", NORMAL), ("vip", HIGH), ("desk", HIGH)];
const NORMAL: &str = "allow = [\"lookup\", \"read\", \"quote\", \"order\"]";
const LOW: &str = "priority = \"low\"\nallow = [\"lookup\", \"read\", \"quote\", \"order\"]";
const HIGH: &str = "priority = \"high\"\nallow = [\"lookup\", \"read\", \"quote\", \"order\"]";

/// Length of an upload, in bytes: of 8 MiB there is room for five of `low`, six of `normal` and eight of `high`, of one
/// service for half as many.
const UPLOAD: usize = 1_000_000;

fn gateway(limits: &'static str) -> TestGateway {
    Setup { limits, services: SERVICES, ..Setup::default() }.start()
}

fn used(gateway: &TestGateway) -> usize {
    gateway.app().gateway.current.load().memory.used()
}

fn is_free(gateway: &TestGateway) {
    until("all memory is free", || used(gateway) == 0);
}

/// A request whose body is declared, and has begun.
fn upload(gateway: &TestGateway, service: &str) -> Connection {
    let mut connection = gateway.connect();
    let head = request("POST", "/tariff/express").by(service).header("content-length", &UPLOAD.to_string());
    connection.write(&[head.bytes(), bodies::TARIFF.as_bytes().to_vec()].concat());
    connection
}

/// An upload of which all but the last byte has come.
fn nearly_complete(gateway: &TestGateway, service: &str) -> Connection {
    let mut connection = upload(gateway, service);
    connection.write(&vec![b' '; UPLOAD - bodies::TARIFF.len() - 1]);
    connection
}

/// The same, once it has been read.
fn held(gateway: &TestGateway, service: &str) -> Connection {
    let before = used(gateway);
    let connection = nearly_complete(gateway, service);
    // A request that waits takes a few kilobytes besides.
    until("its bytes are claimed", || (UPLOAD..UPLOAD + 8 * 1024).contains(&used(gateway).saturating_sub(before)));
    connection
}

/// An upload that is refused before its body has come.
fn is_shed(gateway: &TestGateway, service: &str) {
    let response = upload(gateway, service).read_response("POST").expect("a response");
    assert_eq!((response.status, response.code().as_str()), (503, "gateway.overloaded"), "{response:?}");
    assert_eq!((response.outcome(), response.sent(), response.header("retry-after")), ("overloaded", "no", Some("1")));
    assert_eq!(response.header("connection"), Some("close"));
}

#[test]
fn uploads_are_shed_by_priority_and_those_that_have_begun_are_served() {
    let mut gateway = gateway("memory = \"8MiB\"");
    gateway.send(get("/region/province").by("bulk"));
    let search = || post("/region/search-region", r#"{"keyword":"menteng"}"#).by("bulk");
    gateway.send(search());
    let mut held_open = Vec::new();
    for (service, uploads) in [("bulk", 2), ("batch", 1), ("shop", 1), ("vip", 2)] {
        held_open.extend((0..uploads).map(|_| held(&gateway, service)));
        is_shed(&gateway, service);
    }
    // Of other services too, by priority.
    is_shed(&gateway, "office");
    held_open.push(held(&gateway, "desk"));
    is_shed(&gateway, "desk");
    // Without a body, what has to be fetched is shed too, but nothing that the cache has.
    let fetched = |n: u32| get(&format!("/region/city?province_id=31&n={n}"));
    assert_eq!(gateway.send(fetched(1).by("bulk")).code(), "gateway.overloaded");
    assert_eq!(gateway.send(fetched(2).by("desk")).status, 200);
    assert_eq!(gateway.send(get("/region/province").by("bulk")).outcome(), "hit");
    assert_eq!(gateway.send(search()).outcome(), "hit");
    let buffered = used(&gateway);
    for page in ["/metrics", "/status", "/config"] {
        let text = gateway.admin(page).text();
        let shown = [
            format!("buffered_bytes {buffered}"),
            format!("\"buffered_bytes\":{buffered}"),
            "\"memory\":\"8MiB\"".to_owned(),
        ];
        assert!(shown.iter().any(|shown| text.contains(shown)), "{page}: {text}");
    }
    // One that was accepted comes to its end.
    let mut last = held_open.pop().expect("an upload");
    last.write(b" ");
    assert_eq!(last.read_response("POST").expect("a response").status, 200);
    gateway.reload("memory = \"8MiB\"", "memory = \"32MiB\"");
    held_open.push(held(&gateway, "bulk"));
    drop(held_open);
    is_free(&gateway);
    assert!(gateway.metric("requests_total", &[("outcome", "overloaded")]) >= 4.0);
}

#[test]
fn announced_lengths_hold_no_memory() {
    let gateway = gateway("memory = \"8MiB\"");
    // A head and the beginning of a body, of requests that would take five times the memory.
    let announced: Vec<_> = (0..40).map(|_| upload(&gateway, "shop")).collect();
    until("all are being read", || gateway.metric("in_flight_requests", &[]) == 40.0);
    assert!(used(&gateway) < 2 << 20, "{}", used(&gateway));
    let mut complete = held(&gateway, "bulk");
    complete.write(b" ");
    assert_eq!(complete.read_response("POST").expect("a response").status, 200);
    drop((announced, complete));
    is_free(&gateway);
}

#[test]
fn a_body_of_unknown_length_is_shed_when_it_has_grown_too_long() {
    let gateway = gateway("memory = \"1MiB\"");
    let mut connection = gateway.connect();
    let head = request("POST", "/tariff/express").by("bulk").header("transfer-encoding", "chunked");
    connection.write(&head.bytes());
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    (0..12).for_each(|_| connection.write(&chunk));
    let response = connection.read_response("POST").expect("a response");
    assert_eq!((response.status, response.code().as_str(), response.sent()), (503, "gateway.overloaded", "no"));
    is_free(&gateway);
}

fn track(service: &str) -> Request {
    request("GET", "/order/track").json("{}").by(service)
}

/// A caller that reads nothing of its response.
pub(crate) fn slow_reader(gateway: &TestGateway, request: &Request) -> TcpStream {
    let mut stream = h2::run(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("set");
        socket.connect(gateway.data).await.expect("connected").into_std().expect("a stream")
    });
    stream.set_nonblocking(false).expect("set");
    stream.write_all(&request.bytes()).expect("written");
    stream
}

/// The same over HTTP/2, with a window that stays closed.
pub(crate) fn closed_window(gateway: &TestGateway, request: &Request) -> TcpStream {
    narrow_window(gateway, request, 0)
}

/// A caller that takes so many bytes of its response and no more.
fn narrow_window(gateway: &TestGateway, request: &Request, window: u32) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.data).expect("connected");
    let setting = [&4_u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
    let frames = [PREFACE, &frame(SETTINGS, 0, 0, &setting), &request_frames(1, request)].concat();
    stream.write_all(&frames).expect("written");
    stream
}

#[test]
fn slow_readers_of_responses_are_bounded_and_keep_nothing_from_others() {
    const LONG: usize = 6_000_000;
    let gateway = gateway("memory = \"32MiB\"\nanswer_buffer = \"8MiB\"");
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: LONG }));
    let mut readers = Vec::new();
    for (n, service, http2) in [(1, "bulk", false), (2, "batch", true)] {
        let low = track(service);
        readers.push(if http2 { closed_window(&gateway, &low) } else { slow_reader(&gateway, &low) });
        until("the response is held", || (LONG..LONG + 100_000).contains(&(used(&gateway) / n)));
    }
    // The third has no room.
    let third = gateway.send(track("bulk"));
    assert_eq!(
        (third.status, third.code().as_str(), third.header("retry-after")),
        (503, "gateway.overloaded", Some("1"))
    );
    assert!(gateway.send(track("vip")).body.len() > LONG);
    assert!(used(&gateway) <= 32 << 20);
    drop(readers);
    is_free(&gateway);
}

/// Has a service hold as much as it may, with long responses that its callers do not take; they take refusals.
fn hold_all_it_may(gateway: &TestGateway, service: &str) -> Vec<TcpStream> {
    let readers: Vec<_> = (0..9).map(|_| narrow_window(gateway, &track(service), 2_000)).collect();
    until("it holds all it may", || gateway.metric("requests_total", &[("outcome", "overloaded")]) >= 6.0);
    readers
}

const LONG: usize = 900_000;

#[test]
fn a_service_that_holds_all_it_may_leaves_room_for_others_of_its_priority() {
    let gateway = gateway("memory = \"8MiB\"\nidle = \"60s\"");
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: LONG }));
    let readers = hold_all_it_may(&gateway, "shop");
    assert!(used(&gateway) < 4 << 20, "{}", used(&gateway));
    let refused = gateway.send(track("shop"));
    assert_eq!((refused.status, refused.code().as_str()), (503, "gateway.overloaded"));
    for _ in 0..10 {
        assert!(gateway.send(track("office")).body.len() > LONG);
    }
    // Also one that waits for what that service fetches.
    let slow = Fault { delay_ms: 500, ..Fault::on("v2.couriers", Act::Long { bytes: LONG }) };
    gateway.sandbox.fault(slow);
    let couriers = |service| get("/courier/all").by(service);
    let mut leader = gateway.connect();
    leader.write(&couriers("shop").bytes());
    until("it is fetched", || gateway.metric("in_flight_requests", &[("service", "shop")]) == 4.0);
    let followed = gateway.send(couriers("office"));
    assert_eq!(leader.read_response("GET").expect("a response").code(), "gateway.overloaded");
    assert!(followed.status == 200 && followed.body.len() > LONG, "{}", followed.status);
    drop(readers);
    is_free(&gateway);
}

/// The one before was refused because its service holds all it may. Half of the time of the next one is over by then: it gets
/// 504, and those who came later get the response.
#[test]
fn a_fill_that_a_request_begins_late_has_the_whole_time_of_its_operation() {
    let more = "[operations.\"v2.couriers\"]\ntimeout = \"2500ms\"";
    let setup = Setup { limits: "memory = \"8MiB\"\nidle = \"60s\"", services: SERVICES, more, ..Setup::default() };
    let gateway = setup.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: LONG }));
    let readers = hold_all_it_may(&gateway, "shop");
    gateway.sandbox.fault(Fault { delay_ms: 1500, ..Fault::on("v2.couriers", Act::Long { bytes: LONG }) });
    let couriers = |service| get("/courier/all").by(service);
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| gateway.send(couriers("shop")));
        until("it leads", || gateway.app().gateway.current.load().flights.len() == 1);
        let late = scope.spawn(|| gateway.send(couriers("office")));
        std::thread::sleep(std::time::Duration::from_millis(1000));
        let patient = gateway.send(couriers("vip"));
        let codes = [refused, late].map(|request| request.join().expect("a response").code());
        assert_eq!(codes, ["gateway.overloaded", "upstream.timeout"]);
        assert_eq!((patient.status, patient.outcome()), (200, "ok"), "{}", patient.text());
    });
    drop(readers);
    is_free(&gateway);
}

#[test]
fn a_streamed_response_claims_what_is_buffered_of_it() {
    let gateway = gateway("memory = \"32MiB\"\nanswer_buffer = \"1MiB\"");
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: 12_000_000 }));
    let readers = [slow_reader(&gateway, &track("bulk")), closed_window(&gateway, &track("bulk"))];
    until("both are streamed", || gateway.metric("in_flight_requests", &[]) == 2.0 && used(&gateway) > 500_000);
    assert!(used(&gateway) < 5 << 20, "{}", used(&gateway));
    drop(readers);
    is_free(&gateway);
}

#[test]
fn the_response_to_an_order_is_read_however_full_the_memory_is() {
    let gateway = gateway("memory = \"8MiB\"\nidle = \"60s\"");
    let late = Fault { delay_ms: 8000, ..Fault::on("v2.order_express", Act::Long { bytes: 2_400_000 }) };
    gateway.sandbox.fault(late);
    let order = post("/order/express", bodies::ORDER).by("bulk").header("idempotency-key", "a-b-c-1");
    let mut caller = gateway.connect();
    caller.write(&order.bytes());
    until("it is in flight", || gateway.received().iter().any(|entry| entry.uri.path().contains("express")));
    let uploads: Vec<_> = (0..6).map(|n| nearly_complete(&gateway, ["vip", "vip", "desk"][n / 2])).collect();
    until("nothing is left for it", || used(&gateway) > 5_100_000);
    let response = caller.read_response("POST").expect("a response");
    assert_eq!((response.status, response.sent()), (200, "yes"), "{:?}", response.headers);
    assert!(response.body.len() > 2_400_000);
    // Nor is it read again for a repeat while there is no room for it.
    let repeat = || gateway.send(order.clone());
    let refused = repeat();
    assert_eq!((refused.status, refused.code().as_str()), (503, "gateway.overloaded"), "{refused:?}");
    drop(uploads);
    is_free(&gateway);
    until("it is repeated", || repeat().body == response.body);
    assert_eq!(gateway.sandbox.counters().orders.express, 1);
    is_free(&gateway);
}

/// Six of 10 MB at once ended a process of 200 MiB.
#[test]
fn long_responses_to_orders_wait_for_room_and_none_is_lost() {
    let gateway = gateway("memory = \"8MiB\"\nidle = \"60s\"");
    let long = Fault { delay_ms: 500, ..Fault::on("v2.order_express", Act::Long { bytes: 2_400_000 }) };
    gateway.sandbox.fault(long);
    let order = |number| {
        let key = format!("number-{number}");
        post("/order/express", &bodies::order(number)).by("bulk").header("idempotency-key", &key)
    };
    let readers: Vec<_> = (0..3).map(|number| slow_reader(&gateway, &order(number))).collect();
    until("one is read", || used(&gateway) > 2_400_000);
    std::thread::sleep(Duration::from_millis(500));
    assert!(used(&gateway) < 3_000_000, "{}", used(&gateway));
    drop(readers);
    for number in 0..3 {
        until("it is kept", || gateway.send(order(number)).body.len() > 2_400_000);
    }
    assert_eq!(gateway.sandbox.counters().orders.express, 3);
    is_free(&gateway);
}

/// Beyond the limit is only what was in flight at that moment.
#[test]
fn an_order_that_has_waited_for_budget_is_not_sent_if_there_is_no_room_for_its_response_any_more() {
    let budget = "per_second = 1000, burst = 1000, in_flight = 1, max_wait = \"30s\"";
    let limits = "memory = \"8MiB\"\nanswer_body = \"7MiB\"\nrequest_body = \"1MiB\"\nidle = \"60s\"";
    let gateway = Setup { limits, budget, services: SERVICES, ..Setup::default() }.start();
    let long = Fault { delay_ms: 500, ..Fault::on("v2.order_express", Act::Long { bytes: 6_000_000 }) };
    gateway.sandbox.fault(long);
    let order = |number, service| post("/order/express", &bodies::order(number)).by(service);
    let first = slow_reader(&gateway, &order(1, "bulk"));
    until("it is in flight", || gateway.received().iter().any(|entry| entry.uri.path().contains("express")));
    let mut waiting: Vec<_> = (2..6)
        .map(|number| {
            let mut connection = gateway.connect();
            connection.write(&order(number, "bulk").bytes());
            connection
        })
        .collect();
    for connection in &mut waiting {
        let refused = connection.read_response("POST").expect("a response");
        assert_eq!((refused.status, refused.code().as_str(), refused.sent()), (503, "gateway.overloaded", "no"));
    }
    assert!(used(&gateway) < 8 << 20, "{}", used(&gateway));
    assert_eq!(gateway.sandbox.counters().orders.express, 1);
    drop(first);
    is_free(&gateway);
    // They have left nothing behind.
    gateway.sandbox.clear_faults();
    assert_eq!(gateway.send(order(2, "bulk")).status, 200);
}

#[test]
fn whatever_ends_a_request_its_memory_is_free() {
    let gateway = gateway("memory = \"8MiB\"");
    let quote = || post("/tariff/express", bodies::TARIFF).by("shop");
    let ends = [Act::Reset, Act::Cut { after: 100, reset: true }, Act::Html(502), Act::throttle(None), Act::Pass];
    for act in ends {
        gateway.sandbox.fault(Fault::on("v2.tariff_express", act));
        gateway.wait_for_pauses();
        gateway.send(quote());
        is_free(&gateway);
        gateway.sandbox.clear_faults();
    }
    // Timeouts, callers that leave, refusals.
    gateway.wait_for_pauses();
    gateway.sandbox.fault(Fault { delay_ms: 300, ..Fault::everywhere(Act::Pass) });
    gateway.send(quote().header("x-gateway-timeout", "50"));
    let mut connection = gateway.connect();
    connection.write(&quote().bytes());
    until("it is in flight", || used(&gateway) > 0);
    drop(connection);
    is_free(&gateway);
    drop(held(&gateway, "shop"));
    is_free(&gateway);
    gateway.send(post("/order/express", bodies::ORDER).by("office"));
    is_free(&gateway);
}

/// Many fields, which take far more memory than bytes on the wire, and the beginning of a body.
fn wide_head(stream: u32, service: &str) -> Vec<u8> {
    let mut request = request("POST", "/tariff/express").by(service);
    for _ in 0..800 {
        request = request.header("a", "b");
    }
    let whole = request_frames(stream, &Request { body: b"{".to_vec(), ..request });
    // Without the end of the stream.
    [&whole[..whole.len() - 10], &frame(DATA, 0, stream, b"{")].concat()
}

#[test]
fn the_heads_of_requests_that_wait_are_claimed_too() {
    let gateway = gateway("memory = \"8MiB\"");
    let mut stream = TcpStream::connect(gateway.data).expect("connected");
    let heads: Vec<_> = (0..60).flat_map(|n| wide_head(2 * n + 1, "shop")).collect();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &heads].concat()).expect("written");
    until("some are refused", || gateway.metric("requests_total", &[("outcome", "overloaded")]) >= 20.0);
    assert!((2_000_000..4_000_000).contains(&used(&gateway)), "{}", used(&gateway));
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("office")).status, 200);
    drop(stream);
    is_free(&gateway);
}

/// Connections without credentials that have each sent this, or were closed meanwhile.
fn strangers(gateway: &TestGateway, number: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(gateway.data).expect("connected");
        let _ = stream.write_all(bytes);
        stream
    };
    (0..number).map(open).collect()
}

/// Of heads that are not complete, nobody knows whose they are.
#[test]
fn unfinished_heads_are_claimed_too_and_leave_others_their_room() {
    let gateway = gateway("memory = \"4MiB\"");
    let half = ["GET /region/province HTTP/1.1\r\nhost: gw\r\nx-long: ", &"x".repeat(50_000)].concat();
    let strangers = strangers(&gateway, 80, half.as_bytes());
    until("some are refused", || gateway.metric("requests_total", &[("outcome", "overloaded")]) >= 30.0);
    assert!((300_000..600_000).contains(&used(&gateway)), "{}", used(&gateway));
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("office")).status, 200);
    // One that is completed gives its claim back.
    drop(strangers);
    is_free(&gateway);
    let mut whole = gateway.connect();
    whole.write(&get("/region/province").by("shop").header("x-long", &"x".repeat(50_000)).bytes());
    assert_eq!(whole.read_response("GET").expect("a response").status, 200);
    is_free(&gateway);
}

/// hyper reads them one by one, for as long as there are any.
#[test]
fn the_framing_of_a_body_has_an_end() {
    let gateway = gateway("request = \"3s\"");
    for (begin, endless) in [("", b'0'), ("1", b' ')] {
        let mut connection = gateway.connect();
        let head = request("POST", "/tariff/express").by("office").header("transfer-encoding", "chunked");
        connection.write(&[&head.bytes(), begin.as_bytes(), &vec![endless; 1 << 20]].concat());
        assert_eq!(connection.read_response("POST").expect("a response").status, 400, "{endless}");
    }
    // A body in small chunks is none of it.
    let mut connection = gateway.connect();
    let head = request("POST", "/tariff/express").by("office").header("transfer-encoding", "chunked");
    let chunks: String =
        bodies::TARIFF.chars().chain(" ".repeat(30_000).chars()).map(|byte| format!("1\r\n{byte}\r\n")).collect();
    connection.write(&[&head.bytes(), chunks.as_bytes(), b"0\r\n\r\n"].concat());
    assert_eq!(connection.read_response("POST").expect("a response").status, 200);
}

/// What came behind a whole request, in the same read, is in hyper's buffer already.
#[test]
fn a_head_behind_a_whole_request_has_its_deadline() {
    let gateway = gateway("header_read = \"1s\"\nidle = \"60s\"");
    let mut connection = gateway.connect();
    connection.write(&[&get("/region/province").bytes()[..], b"GET /region/province HTTP/1.1\r\nhost:"].concat());
    assert_eq!(connection.read_response("GET").expect("a response").status, 401);
    assert!(connection.ends(), "it is open still");
    // Empty lines between requests begin none (RFC 9112, section 2.2).
    let mut connection = gateway.connect();
    connection.write(&[&get("/region/province").bytes()[..], b"\r\n"].concat());
    assert_eq!(connection.read_response("GET").expect("a response").status, 401);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(connection.send(&get("/region/province")).status, 401);
}

/// What fills the room of unfinished heads is no matter of requests that come whole, however long their heads are.
#[test]
fn a_long_head_that_comes_at_once_needs_no_room_and_one_that_is_refused_has_a_response() {
    let gateway = gateway("memory = \"8MiB\"");
    let mut kept = gateway.connect();
    assert_eq!(kept.send(&get("/region/province").by("office")).status, 200);
    let half = ["GET /region/province HTTP/1.1\r\nhost: gw\r\nx-long: ", &"x".repeat(50_000)].concat();
    let mut refused = None;
    let strangers: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.data).expect("connected");
            stream.write_all(half.as_bytes()).expect("written");
            stream
        })
        .collect();
    until("some are refused", || gateway.metric("requests_total", &[("outcome", "overloaded")]) >= 20.0);
    for mut stream in &strangers {
        stream.set_nonblocking(true).expect("set");
        let mut response = [0; 1024];
        if let Ok(read @ 1..) = stream.read(&mut response) {
            refused = Some(String::from_utf8_lossy(&response[..read]).into_owned());
        }
    }
    let refused = refused.expect("a response");
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    // A connection whose requests were identified has the room of their service, also if a head comes in pieces.
    let slow = get("/region/province").by("office").header("x-long", &"x".repeat(50_000)).bytes();
    let (first, rest) = slow.split_at(50_000);
    kept.write(first);
    std::thread::sleep(std::time::Duration::from_millis(100));
    kept.write(rest);
    assert_eq!(kept.read_response("GET").expect("a response").status, 200);
    let held: Vec<_> = ["vip", "desk"].iter().flat_map(|service| (0..2).map(|_| held(&gateway, service))).collect();
    let long = get("/region/province").by("office").header("x-long", &"x".repeat(20_000));
    assert_eq!(gateway.send(long).status, 200);
    drop((strangers, held));
    is_free(&gateway);
}

/// Requests that wait take memory, though nothing of them is buffered: one service cannot have so many that others are shed.
#[test]
fn requests_that_wait_are_claimed_in_the_share_of_their_service() {
    let gateway = gateway("memory = \"4MiB\"");
    let mut waiting: Vec<_> = (0..4).map(|_| TcpStream::connect(gateway.data).expect("connected")).collect();
    for stream in &mut waiting {
        let open = |n: u32| {
            let mut frames = request_frames(2 * n + 1, &post("/tariff/express", "x").by("bulk"));
            // Without the last frame: the body.
            frames.truncate(frames.len() - 10);
            frames
        };
        let requests: Vec<_> = (0..100).flat_map(open).collect();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &requests].concat()).expect("written");
    }
    let refused = || gateway.metric("requests_total", &[("service", "bulk"), ("outcome", "overloaded")]);
    until("some are refused", || refused() >= 100.0);
    let limit = 4 << 20;
    assert!((limit / 4..limit / 3).contains(&used(&gateway)), "{}", used(&gateway));
    for request in [post("/tariff/express", bodies::TARIFF), get("/region/province"), get("/region/province")] {
        assert_eq!(gateway.send(request.by("batch")).status, 200);
    }
    drop(waiting);
    is_free(&gateway);
}

/// Callers that do not wait any longer leave their fetches and orders behind.
#[test]
fn what_goes_on_without_its_caller_is_claimed_until_it_ends() {
    let budget = "per_second = 1000, burst = 1000, in_flight = 1, max_wait = \"6s\"";
    let gateway = Setup { budget, services: SERVICES, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(4)).times(1));
    let mut busy = gateway.connect();
    busy.write(&post("/item/multi-items", bodies::MULTI_ITEMS).by("vip").bytes());
    until("the only place is taken", || gateway.received().len() == 1);
    let before = used(&gateway);
    let requests = (0..20)
        .flat_map(|n| [get(&format!("/region/city?province_id=31&n={n}")), post("/order/express", &bodies::order(n))]);
    let waiting: Vec<_> = requests
        .map(|request| {
            let mut connection = gateway.connect();
            connection.write(&request.by("office").header("x-long", &"x".repeat(8_000)).bytes());
            connection
        })
        .collect();
    let usage = || gateway.app().gateway.current.load().accounts[0].budget.usage();
    until("all wait", || usage().waiting == 40);
    let claimed = used(&gateway) - before;
    drop(waiting);
    // The line of an order is written at its end.
    until("they have left", || gateway.metric("requests_total", &[("outcome", "client_gone")]) == 20.0);
    assert!(used(&gateway) - before >= claimed, "{} of {claimed} bytes", used(&gateway) - before);
    assert_eq!(busy.read_response("POST").expect("a response").status, 200);
    is_free(&gateway);
}

/// Responses of 401 that are not taken, of somebody who is no service. (The first 16 of a connection are part of what any takes.)
#[test]
fn responses_that_strangers_do_not_take_are_bounded() {
    let gateway = gateway("memory = \"4MiB\"");
    let setting = [&4_u16.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            let requests: Vec<_> =
                (0..100_u32).flat_map(|n| request_frames(2 * n + 1, &get("/region/province").by("nobody"))).collect();
            let mut stream = TcpStream::connect(gateway.data).expect("connected");
            stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &setting), &requests].concat()).expect("written");
            stream
        })
        .collect();
    let refused = |code| gateway.metric("requests_total", &[("outcome", code)]);
    until("all are answered", || refused("unauthenticated") + refused("overloaded") >= 400.0);
    assert!(refused("overloaded") >= 200.0, "{}", refused("overloaded"));
    assert!((300_000..600_000).contains(&used(&gateway)), "{}", used(&gateway));
    assert_eq!(gateway.send(get("/region/province").by("batch")).status, 200);
    drop(strangers);
    is_free(&gateway);
}

/// A ClientHello of 64 KiB that does not end.
#[test]
fn handshakes_that_are_not_complete_are_bounded() {
    let certificates = Certificates::new();
    let gateway = Setup { limits: "memory = \"4MiB\"", ..Setup::with_tls(&certificates) }.start();
    let message = [&[1, 0, 0xff, 0xfb, 3, 3][..], &[b'x'; 65_000]].concat();
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    let hello: Vec<u8> = message.chunks(16_000).flat_map(record).collect();
    let strangers = strangers(&gateway, 30, &hello);
    until("some are closed", || gateway.metric("tls_handshakes_total", &[("result", "failed")]) >= 20.0);
    assert!((200_000..600_000).contains(&used(&gateway)), "{}", used(&gateway));
    h2::run(async {
        let connection = h2::Http2Connection::open(gateway.data, Some(&certificates.authority)).await;
        let response = connection.send(get("/courier/all").by("shop")).await.expect("joined").expect("a response");
        assert_eq!(response.0, 200);
    });
    drop(strangers);
    is_free(&gateway);
}

/// Over HTTP/2, one byte may be a whole field: 500 of them here. The connection of a service that has requests in progress
/// goes on.
#[test]
fn unfinished_heads_over_http2_are_claimed_too() {
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    let gateway = gateway("memory = \"4MiB\"");
    let block = [&[0x82, 0x87, 0x84][..], &[0x90; 500]].concat();
    let half = [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(HEADERS, END_STREAM, 1, &block)].concat();
    let strangers = strangers(&gateway, 80, &half);
    until("some are refused", || gateway.metric("requests_total", &[("outcome", "overloaded")]) >= 20.0);
    assert!((300_000..600_000).contains(&used(&gateway)), "{}", used(&gateway));
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("office")).status, 200);
    drop(strangers);
    is_free(&gateway);
}

/// The request of a service was in progress when the head began, and has ended.
#[test]
fn an_unfinished_head_over_http2_takes_no_response_before_it() {
    let gateway = gateway("memory = \"8MiB\"\nheader_read = \"3s\"");
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).wait(Duration::from_millis(1500)));
    let mut stream = TcpStream::connect(gateway.data).expect("connected");
    let quote = request_frames(1, &post("/tariff/express", bodies::TARIFF).by("batch"));
    let half = frame(HEADERS, 0, 3, &[0x82, 0x87, 0x84]);
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &quote].concat()).expect("written");
    until("it is in flight", || gateway.received().len() == 1);
    // There is no room for those of low priority.
    let held: Vec<_> = ["vip", "vip", "desk", "desk", "office"].map(|service| held(&gateway, service)).into();
    stream.write_all(&half).expect("written");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the end");
    let answered = |kind| received.windows(9).any(|header| header[3] == kind && header[5..] == 1_u32.to_be_bytes());
    assert!(answered(HEADERS) && answered(DATA), "{received:?}");
    drop(held);
    is_free(&gateway);
}

/// Skips an integer of a header block whose first byte has a prefix of so many bits (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> usize {
    let most = (1 << bits) - 1;
    let take = |block: &mut &[u8]| {
        let (first, rest) = block.split_first().expect("a byte");
        *block = rest;
        usize::from(*first)
    };
    let mut value = take(block) & most;
    if value == most {
        for shift in (0..).step_by(7) {
            let byte = take(block);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    value
}

/// How many fields of a header block the connection remembers (RFC 7541, section 6.2.1).
fn remembered(mut block: &[u8]) -> usize {
    let string = |block: &mut &[u8]| {
        let length = integer(block, 7);
        *block = &block[length..];
    };
    let mut count = 0;
    while let Some(first) = block.first() {
        let (bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        count += usize::from(bits == 6);
        if integer(&mut block, bits) == 0 && is_literal {
            string(&mut block);
        }
        if is_literal {
            string(&mut block);
        }
    }
    count
}

#[test]
fn an_idle_http2_connection_keeps_nothing_of_the_responses_that_it_carried() {
    let gateway = gateway("");
    let quote = || post("/tariff/express", bodies::TARIFF).by("shop");
    for request in [quote(), get("/courier/all").by("shop"), get("/courier/all").by("shop"), get("/no").by("shop")] {
        let mut stream = narrow_window(&gateway, &request, 60_000);
        let mut received = Vec::new();
        let head = loop {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).expect("frames");
            assert!(read > 0, "ended: {received:?}");
            received.extend_from_slice(&piece[..read]);
            let mut rest = &received[..];
            let mut frames = std::iter::from_fn(|| {
                let header = rest.first_chunk::<9>()?;
                let (length, kind) = (u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize, header[3]);
                let payload = rest.get(9..9 + length)?;
                rest = &rest[9 + length..];
                Some((kind, payload.to_vec()))
            });
            if let Some((_, head)) = frames.find(|(kind, _)| *kind == HEADERS) {
                break head;
            }
        };
        // A header value is a part of the buffer that it arrived in; HPACK's table would keep that.
        assert_eq!((remembered(&head), head.len() > 100), (0, true), "{request:?}");
    }
}

/// Strangers with 10,000 idle connections over TLS took 350 MiB, whatever `limits.memory` was.
#[test]
fn idle_connections_are_as_many_as_the_memory_has_room_for() {
    let limits = "connections = 3000\nmemory = \"64MiB\"";
    let allowed =
        |gateway: &TestGateway| gateway.admin("/status").json()["connections_limit"].as_u64().expect("a number");
    let mut gateway = Setup { limits, ..Setup::default() }.start();
    assert_eq!(allowed(&gateway), 1024, "as many as always may be");
    for (before, memory, connections) in [("64MiB", "128MiB", 1820), ("128MiB", "512MiB", 3000)] {
        gateway.reload(before, memory);
        assert_eq!(allowed(&gateway), connections, "{memory}");
    }
    let certificates = Certificates::new();
    let limits = "connections = 3000\nmemory = \"256MiB\"";
    assert_eq!(allowed(&Setup { limits, ..Setup::with_tls(&certificates) }.start()), 1456, "over TLS");
}
