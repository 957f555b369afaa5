//! The effect of each fault on a plain client, and whether the request was executed.

use super::*;

const ORDER: &str = "v2.order_express";

fn lost(act: Act) -> (io::Result<Vec<u8>>, Sandbox) {
    let sandbox = sandbox();
    sandbox.fault(Fault::on(ORDER, act).times(1));
    (exchange(sandbox.addr(), &request("POST", "/order/express", BASIC, &order())), sandbox)
}

#[test]
fn an_answer_is_lost_after_execution_and_a_second_try_is_a_provable_duplicate() {
    let (seen, sandbox) = lost(Act::Lose);
    assert_eq!(seen.unwrap(), b"");
    assert_eq!(sandbox.counters().orders.express, 1);
    let entry = &sandbox.journal()[0];
    assert!(entry.executed && entry.status == Some(200) && entry.fault == Some(1));
    assert_eq!(ask(sandbox.addr(), "POST", "/order/express", &order()).status, 200);
    assert_eq!(sandbox.counters().orders.duplicates, 1);
    assert!(sandbox.journal()[1].duplicate);
}

#[test]
fn a_reset_or_close_before_answering_executes_nothing() {
    for (act, reset) in [(Act::Reset, true), (Act::Close, false)] {
        let (seen, sandbox) = lost(act);
        assert_eq!(seen.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset), reset, "{seen:?}");
        assert_eq!(sandbox.counters().orders.express, 0);
        assert_eq!(sandbox.counters().requests, 1);
    }
}

#[test]
fn a_reset_during_the_upload_executes_nothing_and_is_counted_once() {
    let bytes = request("POST", "/order/express", BASIC, &order());
    let head = bytes.len() - order().len();
    for (after, sent, whole) in [
        (None, bytes.len(), false),
        (Some(0), head, false),
        (Some(40), head + 40, false),
        (Some(40), bytes.len(), false),
        (Some(order().len()), bytes.len(), false),
        (Some(order().len() + 1), bytes.len(), true),
    ] {
        let sandbox = sandbox();
        let number = sandbox.fault(Fault::on(ORDER, Act::ResetUpload { after }).times(1));
        let seen = exchange(sandbox.addr(), &bytes[..sent]);
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{after:?}");
        let counters = sandbox.counters();
        assert_eq!((counters.requests, counters.broken), if whole { (1, 0) } else { (0, 1) }, "{after:?}");
        assert_eq!((counters.faults, counters.acts["reset_upload"], sandbox.times_applied(number)), (1, 1, Some(1)));
        assert_eq!(sandbox.journal().len(), usize::from(whole));
        assert_eq!(counters.orders.express, 0);
        assert_eq!(ask(sandbox.addr(), "POST", "/order/express", &order()).status, 200);
        assert_eq!((sandbox.counters().orders.express, sandbox.counters().orders.duplicates), (1, 0));
    }
}

#[test]
fn a_reset_during_the_upload_meets_a_chunked_body_and_one_without_a_body() {
    let chunked = format!(
        "POST /order/express HTTP/1.1\r\nHost: localhost\r\n{BASIC}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{\"cou\r\n"
    );
    for (bytes, broken) in [(chunked.into_bytes(), 1), (request("GET", "/region/province", BASIC, ""), 0)] {
        let sandbox = sandbox();
        sandbox.fault(Fault::everywhere(Act::ResetUpload { after: None }));
        let seen = exchange(sandbox.addr(), &bytes);
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let counters = sandbox.counters();
        assert_eq!((counters.broken, counters.acts["reset_upload"]), (broken, 1));
    }
}

#[test]
fn a_caller_that_leaves_before_the_reset_is_met_and_broke_off_once() {
    let sandbox = sandbox();
    sandbox.fault(Fault::on(ORDER, Act::ResetUpload { after: Some(1_000_000) }));
    let bytes = request("POST", "/order/express", BASIC, &order());
    let mut stream = TcpStream::connect(sandbox.addr()).unwrap();
    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    drop(stream);
    while sandbox.counters().broken == 0 {
        std::thread::yield_now();
    }
    let counters = sandbox.counters();
    assert_eq!((counters.requests, counters.broken, counters.faults, counters.acts["reset_upload"]), (0, 1, 1, 1));
}

#[test]
fn a_reset_after_execution_executes() {
    let (seen, sandbox) = lost(Act::LoseReset);
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(sandbox.counters().orders.express, 1);
}

#[test]
fn an_answer_in_place_of_the_right_one_goes_out_as_it_is() {
    for (act, status, needle) in [
        (Act::answer(500, r#"{"success":false,"message":"x"}"#), 500, r#""message":"x""#),
        (Act::Html(503), 503, "<h1>503</h1>"),
        (Act::answer(200, r#"{"success":true,"mess"#), 200, r#"{"success":true,"mess"#),
        (Act::refuse("Unauthorized"), 200, r#"{"success":false,"message":"Unauthorized"}"#),
        (Act::throttle(Some(7)), 429, "Too Many"),
    ] {
        let throttled = status == 429;
        let (seen, sandbox) = lost(act);
        let seen = parse(&seen.unwrap());
        assert_eq!(seen.status, status);
        assert!(String::from_utf8_lossy(&seen.body).contains(needle));
        assert_eq!(seen.head.contains("retry-after: 7"), throttled);
        assert_eq!(seen.head.contains("text/html"), status == 503);
        assert_eq!(seen.head.matches("content-type").count(), 1);
        assert_eq!(sandbox.counters().orders.express, 0);
    }
}

#[test]
fn an_answer_in_place_of_the_right_one_may_execute_all_the_same() {
    let canned = CannedResponse { status: 502, execute: true, ..CannedResponse::default() };
    let (seen, sandbox) = lost(Act::Answer(canned));
    assert_eq!(parse(&seen.unwrap()).status, 502);
    assert_eq!(sandbox.counters().orders.express, 1);
    assert_eq!(sandbox.journal()[0].status, Some(502));
}

#[test]
fn a_cut_answer_ends_in_the_middle_under_its_full_length() {
    let (seen, _sandbox) = lost(Act::Cut { after: 12, reset: false });
    let seen = parse(&seen.unwrap());
    assert_eq!(seen.body, br#"{"success":t"#);
    let length: usize = seen.head.split("content-length: ").nth(1).unwrap().trim().parse().unwrap();
    assert!(length > 100);
}

#[test]
fn a_wrong_length_is_wrong_by_as_much_as_asked() {
    for by in [-3_i64, 5] {
        let (seen, _sandbox) = lost(Act::WrongLength { by });
        let seen = parse(&seen.unwrap());
        let length: i64 = seen.head.split("content-length: ").nth(1).unwrap().trim().parse().unwrap();
        assert_eq!(length, seen.body.len() as i64 + by);
        assert_eq!(seen.json()["success"], true);
    }
}

#[test]
fn a_drip_is_the_right_answer_in_pieces() {
    let sandbox = sandbox();
    sandbox.fault(Fault::on("v2.province", Act::Drip { bytes: 400, every_ms: 2 }));
    let slow = ask(sandbox.addr(), "GET", "/region/province", "").json();
    sandbox.clear_faults();
    assert_eq!(slow["data"], ask(sandbox.addr(), "GET", "/region/province", "").json()["data"]);
}

#[test]
fn a_long_answer_is_the_right_envelope_and_longer() {
    let sandbox = sandbox();
    sandbox.fault(Fault::on("v2.province", Act::Long { bytes: 3 << 20 }).times(1));
    let seen = ask(sandbox.addr(), "GET", "/region/province", "");
    assert!(seen.body.len() > 3 << 20);
    assert_eq!(seen.json()["success"], true);
}

#[test]
fn a_caller_that_leaves_while_the_answer_waits_has_its_order_and_one_before_execution_has_not() {
    let hour = Duration::from_secs(3_600);
    for (fault, executed) in [(Fault::on(ORDER, Act::Pass).delay(hour), 1), (Fault::on(ORDER, Act::Pass).wait(hour), 0)]
    {
        let sandbox = sandbox();
        sandbox.fault(fault);
        let mut stream = TcpStream::connect(sandbox.addr()).unwrap();
        stream.write_all(&request("POST", "/order/express", BASIC, &order())).unwrap();
        // The journal is the signal that it has arrived; nothing is timed.
        while sandbox.counters().requests == 0 || sandbox.counters().orders.express < executed {
            std::thread::yield_now();
        }
        drop(stream);
        assert_eq!(ask(sandbox.addr(), "GET", "/region/province", "").status, 200);
        assert_eq!(sandbox.counters().orders.express, executed);
        assert_eq!(sandbox.journal()[0].status, None);
    }
}

#[test]
fn a_fault_can_be_for_one_key_only() {
    let sandbox = sandbox();
    sandbox.add_key("old", "a", "s");
    sandbox.fault(Fault::everywhere(Act::answer(401, "{}")).key("old"));
    assert_eq!(ask(sandbox.addr(), "GET", "/region/province", "").status, 200);
    let old = request("GET", "/region/province", "access-key: a\r\nsecret-key: s", "");
    assert_eq!(parse(&exchange(sandbox.addr(), &old).unwrap()).status, 401);
}

#[test]
fn it_speaks_tls_and_faults_reach_through_it() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["c.pem", "k.pem"].map(|name| folder.path().join(name));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = Some(settings::read_tls(&cert, &key).unwrap());
    let sandbox = Sandbox::start(Options { tls, ..Options::default() }).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(client);
    let ask = || {
        let session = rustls::ClientConnection::new(Arc::clone(&client), "localhost".try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(sandbox.addr()).unwrap());
        stream.write_all(&request("GET", "/region/province", BASIC, "")).unwrap();
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).map(|_| seen)
    };
    assert_eq!(parse(&ask().unwrap()).status, 200);
    sandbox.fault(Fault::on("v2.province", Act::Cut { after: 3, reset: false }));
    assert_eq!(parse(&ask().unwrap()).body, b"{\"s");
}
