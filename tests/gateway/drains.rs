//! Connections begin and end in an orderly way: nothing that was accepted is lost, nobody holds a place for nothing.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, Options, Sandbox};

use crate::{
    bodies,
    client::{Wire, get, post, request},
    refuses_clearly::before_a_request,
    test_gateway::{Setup, Stage, sandbox, until, vacant},
};

#[test]
fn an_end_under_load_loses_no_request_that_was_accepted() {
    let mut stage = Setup { drain: ("50ms", "15s"), ..Setup::default() }.start();
    stage.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).wait(Duration::from_millis(15)));
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(15)));
    let app = stage.take_app();
    let metrics = app.gateway.live.metrics.clone();
    let (data, ended) = (stage.data, AtomicBool::new(false));
    let (answered, number) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let missing = Mutex::new(BTreeSet::new());
    let client = || {
        while !ended.load(Ordering::Relaxed) {
            let Some(mut wire) = Wire::try_open(data) else { return };
            loop {
                let n = number.fetch_add(1, Ordering::Relaxed);
                let asked = match n % 3 {
                    0 => post("/order/express", &bodies::order(n)),
                    1 => post("/tariff/express", bodies::TARIFF),
                    _ => get(&format!("/region/city?province_id=31&n={n}")),
                };
                let name = format!("request-{n:06}");
                wire.send(&asked.by("shop").header("x-request-id", &name).bytes());
                match wire.answer("POST") {
                    Some(answer) => {
                        assert!(answer.whole && answer.status == 200, "{answer:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                        if answer.header("connection") == Some("close") {
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
    // A request that met a connection just being closed was never read: it stands in no line.
    let lines = stage.log();
    let missing = missing.into_inner().expect("whole");
    for line in &lines {
        let name = line["request_id"].as_str().expect("an id");
        assert!(!missing.contains(name), "accepted and lost: {line}");
        assert_eq!(line["status"], 200, "{line}");
    }
    assert_eq!(lines.len(), answered.into_inner());
    assert_eq!(crate::test_gateway::sum(&metrics.text(), "requests_total", &[]), lines.len() as f64);
    assert_eq!(
        stage.sandbox.counters().orders.express as usize,
        lines.iter().filter(|l| l["class"] == "order").count()
    );
    assert!(Wire::try_open(data).is_none(), "the listener is closed");
}

#[test]
fn in_the_grace_answers_end_their_connections_and_readiness_falls() {
    let mut stage = Setup { drain: ("3s", "10s"), ..Setup::default() }.start();
    let (mut kept, mut unused) = (stage.wire(), stage.wire());
    assert_eq!(kept.ask(&get("/courier/all").by("shop")).header("connection"), None);
    assert_eq!(stage.admin("/readyz").status, 200);
    let (drain, admin) = (stage.app().drain.clone(), stage.app().admin);
    let app = stage.take_app();
    std::thread::scope(|scope| {
        let began = Instant::now();
        scope.spawn(move || app.stop());
        until("it has begun", || drain.begun());
        let ready = Wire::open(admin).ask(&get("/readyz").header("host", "localhost"));
        assert_eq!((ready.status, ready.text().contains("draining")), (503, true));
        for wire in [&mut kept, &mut unused, &mut stage.wire()] {
            let answer = wire.ask(&get("/courier/all").by("shop"));
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
            assert!(wire.ends());
        }
        let refused = stage.wire().ask(&get("/courier/all").by("nobody"));
        assert_eq!((refused.status, refused.header("connection")), (401, Some("close")));
        assert!(began.elapsed() < Duration::from_secs(3), "all that was in the grace");
    });
    assert!(Wire::try_open(stage.data).is_none());
}

#[test]
fn what_does_not_end_is_cut_in_time() {
    let mut stage = Setup { drain: ("0s", "500ms"), ..Setup::default() }.start();
    stage.sandbox.fault(Fault::on("v2.track", Act::Pass).wait(Duration::from_secs(8)));
    let (mut slow, mut idle) = (stage.wire(), stage.wire());
    slow.send(&request("GET", "/order/track").json("{}").by("shop").header("x-request-id", "never-ends").bytes());
    assert_eq!(idle.ask(&get("/courier/all").by("shop")).status, 200);
    until("it is in flight", || stage.received().len() == 2);
    let app = stage.take_app();
    let metrics = app.gateway.live.metrics.clone();
    let began = Instant::now();
    app.stop();
    let took = began.elapsed();
    assert!((Duration::from_millis(450)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(idle.ends());
    assert_eq!(slow.answer("GET"), None);
    let line = stage.line("never-ends");
    assert_eq!((&line["status"], &line["sent"]), (&serde_json::Value::Null, &"unknown".into()), "{line}");
    assert_eq!(crate::test_gateway::sum(&metrics.text(), "in_flight_requests", &[]), 0.0);
}

#[test]
fn a_cache_fill_and_an_order_are_waited_for_although_their_callers_left() {
    let mut stage = Stage::new();
    for operation in ["v2.order_express", "v2.couriers"] {
        stage.sandbox.fault(Fault::on(operation, Act::Pass).delay(Duration::from_millis(500)));
    }
    let (mut order, mut lookup) = (stage.wire(), stage.wire());
    order.send(&post("/order/express", bodies::ORDER).by("shop").header("x-request-id", "gone-order").bytes());
    lookup.send(&get("/courier/all").by("shop").bytes());
    until("both are in flight", || stage.received().len() == 2);
    drop((order, lookup));
    stage.take_app().stop();
    let line = stage.line("gone-order");
    assert_eq!((&line["status"], &line["outcome"]), (&200.into(), &"ok".into()));
    assert!(stage.sandbox.journal().iter().all(|entry| entry.status == Some(200)));
}

#[test]
fn a_gateway_starts_without_fastrac_says_so_and_recovers_by_itself() {
    let (held, address) = vacant();
    let stage = Setup { base_url: Some(format!("http://{address}")), wait: false, ..Setup::default() }.start();
    assert_eq!(stage.admin("/livez").status, 200);
    let asked = get("/courier/all").by("shop");
    until("it is told apart", || stage.ask(asked.clone()).code() == "upstream.connect");
    until("it says so", || stage.admin("/readyz").text().contains("accounts.main"));
    drop(held);
    let sandbox = Sandbox::start(Options { listen: address, ..sandbox() }).expect("Fastrac is back");
    until("it recovers", || stage.ask(asked.clone()).status == 200);
    until("and says so", || {
        let ready = stage.admin("/readyz");
        ready.status == 200 && ready.json()["degraded"] == serde_json::json!([])
    });
    assert!(sandbox.counters().requests >= 1);
}

#[test]
fn a_slow_head_ends_its_connection_and_is_counted() {
    let stage = Setup { limits: "header_read = \"200ms\"", ..Setup::default() }.start();
    let mut silent = stage.wire();
    let mut slow = stage.wire();
    slow.send(b"GET /region/province HTTP/1.1\r\nhost: a\r\n");
    assert!(slow.ends());
    // The same on a connection that was used before; what is slow after the head is the body's matter.
    let mut used = stage.wire();
    assert_eq!(used.ask(&get("/courier/all").by("shop")).status, 200);
    used.send(b"G");
    assert!(used.ends());
    let lines = stage.lines(3);
    let slow: Vec<_> = lines.iter().filter(|line| line["code"] == "request.timeout").collect();
    assert_eq!(slow.len(), 2);
    assert!(slow.iter().all(|line| line["outcome"] == "bad_request" && line["operation"] == "-"));
    assert_eq!(silent.ask(&get("/courier/all").by("shop")).status, 200, "who has said nothing yet is not slow");
}

#[test]
fn an_idle_connection_ends_quietly() {
    let stage = Setup { limits: "idle = \"300ms\"", ..Setup::default() }.start();
    let (mut silent, mut used) = (stage.wire(), stage.wire());
    assert_eq!(used.ask(&get("/courier/all").by("shop")).status, 200);
    assert!(silent.ends() && used.ends());
    until("both are closed", || stage.metric("client_connections", &[]) == 0.0);
    assert_eq!(stage.lines(1).len(), 1);
    assert_eq!(stage.metric("requests_total", &[]), 1.0);
    // A request that takes longer than that is not idle.
    stage.sandbox.fault(Fault::on("v2.track", Act::Pass).wait(Duration::from_millis(700)));
    assert_eq!(stage.ask(request("GET", "/order/track").json("{}").by("shop")).status, 400);
}

#[test]
fn beyond_its_cap_a_connection_is_told_so() {
    let stage = Setup { limits: "connections = 3", ..Setup::default() }.start();
    let mut seated: Vec<Wire> = (0..3).map(|_| stage.wire()).collect();
    for wire in &mut seated {
        assert_eq!(wire.ask(&get("/courier/all").by("shop")).status, 200);
    }
    for _ in 0..3 {
        let mut wire = stage.wire();
        let answer = wire.answer("GET").expect("an answer");
        assert_eq!((answer.status, answer.outcome(), answer.sent()), (503, "overloaded", "no"));
        assert_eq!((answer.code().as_str(), answer.header("retry-after")), ("gateway.overloaded", Some("1")));
        before_a_request(&answer);
        assert!(wire.ends());
    }
    assert_eq!(stage.metric("client_connections", &[]), 3.0);
    seated.pop();
    until("a seat is free", || {
        let mut wire = stage.wire();
        wire.send(&get("/courier/all").by("shop").bytes());
        wire.answer("GET").is_some_and(|answer| answer.status == 200)
    });
    assert_eq!(seated[0].ask(&get("/courier/all").by("shop")).status, 200);
}

#[test]
fn requests_in_a_row_on_one_connection_are_answered_in_their_order() {
    let stage = Stage::new();
    let mut wire = stage.wire();
    let all: Vec<_> = (0..20).map(|n| get(&format!("/region/city?province_id=31&n={n}")).by("shop")).collect();
    let bytes: Vec<u8> = all
        .iter()
        .enumerate()
        .flat_map(|(n, asked)| asked.clone().header("x-request-id", &format!("in-a-row-{n:02}")).bytes())
        .collect();
    wire.send(&bytes);
    for n in 0..20 {
        let answer = wire.answer("GET").expect("an answer");
        assert_eq!(answer.header("x-request-id"), Some(format!("in-a-row-{n:02}").as_str()));
        assert_eq!(answer.status, 200);
    }
}
