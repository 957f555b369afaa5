//! Connection limits, timeouts and draining: no accepted request is lost, and no idle connection is kept for ever.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, Options, Sandbox};

use crate::{
    bodies,
    client::{Connection, get, post, request},
    h2::{self, Http2Connection},
    hostile::frames::{PREFACE, SETTINGS, frame, request_frames},
    isolates_slow_callers::{Seen, Windowed},
    refuses_clearly::before_a_request,
    test_gateway::{Setup, TestGateway, closed_port, sandbox, until},
};

#[test]
fn a_shutdown_under_load_loses_no_accepted_request() {
    let mut gateway = Setup { drain: ("50ms", "15s"), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).wait(Duration::from_millis(15)));
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(15)));
    let app = gateway.take_app();
    let metrics = app.gateway.live.metrics.clone();
    let (data, ended) = (gateway.data, AtomicBool::new(false));
    let (answered, number) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let missing = Mutex::new(BTreeSet::new());
    let client = || {
        while !ended.load(Ordering::Relaxed) {
            let Some(mut connection) = Connection::try_open(data) else { return };
            loop {
                let n = number.fetch_add(1, Ordering::Relaxed);
                let request = match n % 3 {
                    0 => post("/order/express", &bodies::order(n)),
                    1 => post("/tariff/express", bodies::TARIFF),
                    _ => get(&format!("/region/city?province_id=31&n={n}")),
                };
                let name = format!("request-{n:06}");
                connection.write(&request.by("shop").header("x-request-id", &name).bytes());
                match connection.read_response("POST") {
                    Some(response) => {
                        assert!(response.whole && response.status == 200, "{response:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                        if response.header("connection") == Some("close") {
                            break;
                        }
                    }
                    None => {
                        missing.lock().expect("whole").insert(name);
                        break;
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..16).for_each(|_| drop(scope.spawn(client)));
        until("there is load", || answered.load(Ordering::Relaxed) > 200);
        app.stop();
        ended.store(true, Ordering::Relaxed);
    });
    // A request sent on a connection that was just being closed was never read: it has no log line.
    let lines = gateway.log();
    let missing = missing.into_inner().expect("whole");
    for line in &lines {
        let name = line["request_id"].as_str().expect("an id");
        assert!(!missing.contains(name), "accepted and lost: {line}");
        assert_eq!(line["status"], 200, "{line}");
    }
    assert_eq!(lines.len(), answered.into_inner());
    assert_eq!(crate::test_gateway::sum(&metrics.text(), "requests_total", &[]), lines.len() as f64);
    assert_eq!(
        gateway.sandbox.counters().orders.express as usize,
        lines.iter().filter(|l| l["class"] == "order").count()
    );
    assert!(Connection::try_open(data).is_none(), "the listener is closed");
}

#[test]
fn during_the_grace_period_responses_close_connections_and_readiness_fails() {
    let mut gateway = Setup { drain: ("3s", "10s"), ..Setup::default() }.start();
    let (mut kept, mut unused) = (gateway.connect(), gateway.connect());
    assert_eq!(kept.send(&get("/courier/all").by("shop")).header("connection"), None);
    assert_eq!(gateway.admin("/readyz").status, 200);
    let (drain, admin) = (gateway.app().drain.clone(), gateway.app().admin);
    let app = gateway.take_app();
    std::thread::scope(|scope| {
        let began = Instant::now();
        scope.spawn(move || app.stop());
        until("draining has begun", || drain.begun());
        let ready = Connection::open(admin).send(&get("/readyz").header("host", "localhost"));
        assert_eq!((ready.status, ready.text().contains("draining")), (503, true));
        for connection in [&mut kept, &mut unused, &mut gateway.connect()] {
            let response = connection.send(&get("/courier/all").by("shop"));
            assert_eq!((response.status, response.header("connection")), (200, Some("close")));
            assert!(connection.ends());
        }
        let refused = gateway.connect().send(&get("/courier/all").by("nobody"));
        assert_eq!((refused.status, refused.header("connection")), (401, Some("close")));
        assert!(began.elapsed() < Duration::from_secs(3), "all of it happened during the grace period");
    });
    assert!(Connection::try_open(gateway.data).is_none());
}

#[test]
fn a_request_that_was_in_progress_when_the_drain_began_closes_its_connection() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Pass).wait(Duration::from_millis(300)));
    let mut connection = gateway.connect();
    connection.write(&request("GET", "/order/track").json("{}").by("shop").bytes());
    until("it is in flight", || gateway.received().len() == 1);
    gateway.app().drain.begin();
    let response = connection.read_response("GET").expect("a response");
    assert_eq!(response.header("connection"), Some("close"));
}

#[test]
fn a_head_that_has_begun_is_read_to_its_end() {
    let mut gateway = TestGateway::new();
    let (mut used, mut new) = (gateway.connect(), gateway.connect());
    assert_eq!(used.send(&get("/courier/all").by("shop")).status, 200);
    let bytes = get("/courier/all").by("shop").bytes();
    let (begin, end) = bytes.split_at(20);
    used.write(begin);
    new.write(begin);
    let (drain, app) = (gateway.app().drain.clone(), gateway.take_app());
    std::thread::scope(|scope| {
        scope.spawn(move || app.stop());
        until("the listeners close", || drain.stop.is_cancelled() && Connection::try_open(gateway.data).is_none());
        for connection in [&mut used, &mut new] {
            connection.write(end);
            let response = connection.read_response("GET").expect("a response");
            assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        }
    });
}

#[test]
fn during_the_grace_period_http2_connections_get_goaway_with_their_responses() {
    let gateway = TestGateway::new();
    let (data, drain) = (gateway.data, gateway.app().drain.clone());
    h2::run(async {
        let mut used = Http2Connection::open(data, None).await;
        let ask = || get("/courier/all").by("shop");
        assert_eq!(used.send(ask()).await.expect("no panic").expect("a response").0, 200);
        drain.begin();
        let mut new = Http2Connection::open(data, None).await;
        for connection in [&mut used, &mut new] {
            assert_eq!(connection.send(ask()).await.expect("no panic").expect("a response").0, 200);
            // GOAWAY ends the connection.
            let end = connection.driver.join_next().await.expect("a driver").expect("no panic");
            assert!(end.is_ok(), "{end:?}");
        }
    });
    assert!(!drain.stop.is_cancelled());
}

#[test]
fn requests_still_open_at_the_drain_deadline_are_cut() {
    let mut gateway = Setup { drain: ("0s", "500ms"), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Pass).wait(Duration::from_secs(8)));
    let (mut slow, mut idle) = (gateway.connect(), gateway.connect());
    slow.write(&request("GET", "/order/track").json("{}").by("shop").header("x-request-id", "never-ends").bytes());
    assert_eq!(idle.send(&get("/courier/all").by("shop")).status, 200);
    until("it is in flight", || gateway.received().len() == 2);
    let app = gateway.take_app();
    let metrics = app.gateway.live.metrics.clone();
    let began = Instant::now();
    app.stop();
    let took = began.elapsed();
    assert!((Duration::from_millis(450)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(idle.ends());
    assert_eq!(slow.read_response("GET"), None);
    let line = gateway.line("never-ends");
    assert_eq!((&line["status"], &line["sent"]), (&serde_json::Value::Null, &"unknown".into()), "{line}");
    assert_eq!((&line["outcome"], &line["code"]), (&"draining".into(), &"gateway.draining".into()), "{line}");
    assert_eq!(crate::test_gateway::sum(&metrics.text(), "in_flight_requests", &[]), 0.0);
}

#[test]
fn draining_waits_for_fills_and_orders_whose_callers_left() {
    let mut gateway = TestGateway::new();
    for operation in ["v2.order_express", "v2.couriers"] {
        gateway.sandbox.fault(Fault::on(operation, Act::Pass).delay(Duration::from_millis(500)));
    }
    let (mut order, mut lookup) = (gateway.connect(), gateway.connect());
    order.write(&post("/order/express", bodies::ORDER).by("shop").header("x-request-id", "gone-order").bytes());
    lookup.write(&get("/courier/all").by("shop").bytes());
    until("both are in flight", || gateway.received().len() == 2);
    drop((order, lookup));
    gateway.take_app().stop();
    let line = gateway.line("gone-order");
    assert_eq!((&line["status"], &line["outcome"]), (&200.into(), &"ok".into()));
    assert!(gateway.sandbox.journal().iter().all(|entry| entry.status == Some(200)));
}

#[test]
fn a_gateway_starts_without_fastrac_reports_it_and_recovers() {
    let (held, address) = closed_port();
    let gateway = Setup { base_url: Some(format!("http://{address}")), wait: false, ..Setup::default() }.start();
    assert_eq!(gateway.admin("/livez").status, 200);
    let request = get("/courier/all").by("shop");
    until("the failure is reported as a connection failure", || {
        gateway.send(request.clone()).code() == "upstream.connect"
    });
    until("it is reported", || gateway.admin("/readyz").text().contains("accounts.main"));
    drop(held);
    let sandbox = Sandbox::start(Options { listen: address, ..sandbox() }).expect("Fastrac is back");
    until("it recovers", || gateway.send(request.clone()).status == 200);
    until("the recovery is reported", || {
        let ready = gateway.admin("/readyz");
        ready.status == 200 && ready.json()["degraded"] == serde_json::json!([])
    });
    assert!(sandbox.counters().requests >= 1);
}

#[test]
fn a_slow_request_head_closes_its_connection_and_is_counted() {
    let gateway = Setup { limits: "header_read = \"200ms\"", ..Setup::default() }.start();
    let mut silent = gateway.connect();
    let mut slow = gateway.connect();
    slow.write(b"GET /region/province HTTP/1.1\r\nhost: a\r\n");
    assert!(slow.ends());
    // The same on a connection that was used before. Slow bodies are limited by another timeout.
    let mut used = gateway.connect();
    assert_eq!(used.send(&get("/courier/all").by("shop")).status, 200);
    used.write(b"G");
    assert!(used.ends());
    let lines = gateway.lines(3);
    let slow: Vec<_> = lines.iter().filter(|line| line["code"] == "request.timeout").collect();
    assert_eq!(slow.len(), 2);
    assert!(slow.iter().all(|line| line["outcome"] == "bad_request" && line["operation"] == "-"));
    assert_eq!(
        silent.send(&get("/courier/all").by("shop")).status,
        200,
        "a connection without a byte of a head is not a slow head"
    );
}

#[test]
fn an_idle_connection_is_closed_without_a_log_line() {
    let gateway = Setup { limits: "idle = \"300ms\"", ..Setup::default() }.start();
    let (mut silent, mut used) = (gateway.connect(), gateway.connect());
    assert_eq!(used.send(&get("/courier/all").by("shop")).status, 200);
    assert!(silent.ends() && used.ends());
    until("both are closed", || gateway.metric("client_connections", &[]) == 0.0);
    assert_eq!(gateway.lines(1).len(), 1);
    assert_eq!(gateway.metric("requests_total", &[]), 1.0);
    // A connection with a request in progress is not idle.
    gateway.sandbox.fault(Fault::on("v2.track", Act::Pass).wait(Duration::from_millis(700)));
    assert_eq!(gateway.send(request("GET", "/order/track").json("{}").by("shop")).status, 400);
}

#[test]
fn connections_beyond_the_limit_get_a_503() {
    let gateway = Setup { limits: "connections = 3", ..Setup::default() }.start();
    let mut seated: Vec<Connection> = (0..3).map(|_| gateway.connect()).collect();
    for connection in &mut seated {
        assert_eq!(connection.send(&get("/courier/all").by("shop")).status, 200);
    }
    for _ in 0..3 {
        let mut connection = gateway.connect();
        let response = connection.read_response("GET").expect("a response");
        assert_eq!((response.status, response.outcome(), response.sent()), (503, "overloaded", "no"));
        assert_eq!((response.code().as_str(), response.header("retry-after")), ("gateway.overloaded", Some("1")));
        before_a_request(&response);
        assert!(connection.ends());
    }
    assert_eq!(gateway.metric("client_connections", &[]), 3.0);
    seated.pop();
    until("a connection slot is free", || {
        let mut connection = gateway.connect();
        connection.write(&get("/courier/all").by("shop").bytes());
        connection.read_response("GET").is_some_and(|response| response.status == 200)
    });
    assert_eq!(seated[0].send(&get("/courier/all").by("shop")).status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    let all: Vec<_> = (0..20).map(|n| get(&format!("/region/city?province_id=31&n={n}")).by("shop")).collect();
    let bytes: Vec<u8> = all
        .iter()
        .enumerate()
        .flat_map(|(n, request)| request.clone().header("x-request-id", &format!("in-a-row-{n:02}")).bytes())
        .collect();
    connection.write(&bytes);
    for n in 0..20 {
        let response = connection.read_response("GET").expect("a response");
        assert_eq!(response.header("x-request-id"), Some(format!("in-a-row-{n:02}").as_str()));
        assert_eq!(response.status, 200);
    }
}

/// An HTTP/2 client that acknowledges nothing. After the graceful GOAWAY, hyper waits for its PING to come back.
#[test]
fn a_silent_http2_connection_without_a_request_delays_no_stop() {
    let mut gateway = Setup { drain: ("0s", "60s"), ..Setup::default() }.start();
    let mut silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(gateway.data).expect("connected")).collect();
    silent[0].write_all(&PREFACE[..10]).expect("written");
    silent[1].write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).expect("written");
    let request = request_frames(1, &get("/region/city?province_id=31").by("shop"));
    silent[2].write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).expect("written");
    until("the request is served", || gateway.log().len() == 1);
    let began = Instant::now();
    gateway.take_app().stop();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

/// It waits for budget to spare, which there is none of while the only place is taken.
#[test]
fn a_fetch_that_was_not_sent_and_that_nobody_waits_for_delays_no_stop() {
    let budget = "per_second = 100, burst = 100, in_flight = 1, max_wait = \"60s\"";
    let more = "[operations.\"v2.city\"]\ntimeout = \"60s\"\n";
    let mut gateway = Setup { budget, more, drain: ("0s", "60s"), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(2)).times(1));
    let mut busy = gateway.connect();
    busy.write(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").bytes());
    until("the only place is taken", || gateway.received().len() == 1);
    let left = gateway.send(get("/region/city?province_id=31").by("shop").header("x-gateway-timeout", "300"));
    assert_eq!((left.outcome(), left.sent()), ("timeout", "no"));
    let began = Instant::now();
    gateway.take_app().stop();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Issue: the record of a small response ends when h2 has it, although its caller has not opened the window yet.
#[test]
fn a_stop_waits_for_http2_callers_that_have_not_taken_their_response() {
    let mut gateway = Setup { drain: ("0s", "60s"), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: 100_000 }));
    let small = get("/region/city?province_id=31").by("shop");
    let large = request("GET", "/order/track").json("{}").by("shop");
    let mut callers = [small, large].map(|request| (Windowed::send(gateway.data, 0, &request), Seen::default()));
    until("both have a status", || {
        callers.iter_mut().for_each(|(caller, seen)| caller.read(seen));
        callers.iter().all(|(_, seen)| seen.status > 0)
    });
    let (drain, app) = (gateway.app().drain.clone(), gateway.take_app());
    std::thread::scope(|scope| {
        let stopping = scope.spawn(move || app.stop());
        until("it ends connections", || drain.stop.is_cancelled());
        // Not to wait for something: an idle connection would be closed meanwhile.
        std::thread::sleep(Duration::from_millis(1500));
        for (caller, seen) in &mut callers {
            caller.open(1 << 20);
            until("the response is whole", || {
                caller.read(seen);
                seen.ended
            });
        }
        until("the stop ends", || stopping.is_finished());
    });
}

/// Issue: the same of the last response of an HTTP/1.1 connection, of which hyper buffers 64 KiB.
#[test]
fn a_stop_waits_for_http1_callers_that_have_not_taken_their_response() {
    let mut gateway = Setup { drain: ("0s", "60s"), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Long { bytes: 60_000 }));
    let mut caller = gateway.connect();
    caller.receive_little_ahead();
    let one = request("GET", "/order/track").json("{}").by("shop");
    caller.write(&one.bytes().repeat(100));
    let mut answered = 0;
    until("its responses fill the buffers", || {
        std::thread::sleep(Duration::from_millis(200));
        let before = std::mem::replace(&mut answered, gateway.log().len());
        answered > 0 && answered == before
    });
    let (drain, app) = (gateway.app().drain.clone(), gateway.take_app());
    std::thread::scope(|scope| {
        scope.spawn(move || app.stop());
        until("it ends connections", || drain.stop.is_cancelled());
        // Not to wait for something: an idle connection would be closed meanwhile.
        std::thread::sleep(Duration::from_millis(1500));
        let whole = std::iter::from_fn(|| caller.read_response("GET")).take_while(|response| response.whole).count();
        assert_eq!(whole, answered);
    });
}
