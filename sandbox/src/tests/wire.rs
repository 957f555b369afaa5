//! Requests and responses on the wire: every request gets a response in Fastrac's format, and nothing panics.

use proptest::prelude::*;

use super::*;
use crate::{
    route::{ApiVersion, Operation, OperationKind, Routes},
    simulation::BufferedRequest,
};

/// A good body for an operation, where it takes one.
fn good(kind: OperationKind) -> (&'static str, String) {
    let point = json!({"id": "3171031001", "lat": "-6.2", "lng": "106.8", "alamat_lengkap": "x", "alamat_google": "y"});
    match kind {
        OperationKind::City => ("?province_id=31", String::new()),
        OperationKind::District => ("?city_id=3171", String::new()),
        OperationKind::SubDistrict => ("?district_id=3171030", String::new()),
        OperationKind::PostCode => ("?post_code=10620", String::new()),
        OperationKind::CourierServices => ("?courier_code=paxel", String::new()),
        OperationKind::SearchRegion => ("", json!({"search": "kemayoran", "limit": 3, "offset": 0}).to_string()),
        OperationKind::TariffExpress => (
            "",
            json!({"origin": 3_171_031_001_u64, "destination": 3_171_031_002_u64, "weight": 1_000, "items": [
                {"name": "A", "weight": 1_000, "width": 1, "height": 1, "length": 1, "quantity": 1}]})
            .to_string(),
        ),
        OperationKind::TariffInstant => (
            "",
            json!({"origin": point, "destination": point, "package": {}, "item": {}, "vehicle_type": "bike"})
                .to_string(),
        ),
        OperationKind::MultiItems => (
            "",
            json!({"courier": "idx", "items": [
                {"name": "A", "weight": 1, "width": 1, "height": 1, "length": 1, "quantity": 1}]})
            .to_string(),
        ),
        OperationKind::OrderExpress => ("", order()),
        OperationKind::WebhookSet => ("", json!({"url": "http://localhost/x"}).to_string()),
        _ => ("", String::new()),
    }
}

#[test]
fn every_served_path_answers_its_good_request_in_its_versions_envelope() {
    let sandbox = sandbox();
    let mut orders = 0;
    for row in Routes::get().rows() {
        let kind = row.operation.kind;
        if matches!(kind, OperationKind::OrderInstant | OperationKind::OrderCancel | OperationKind::Track) {
            continue;
        }
        orders += u64::from(kind == OperationKind::OrderExpress);
        let (query, body) = good(kind);
        let auth = if row.operation.version == ApiVersion::V1 { PAIR } else { BASIC };
        let target = format!("{}{query}", row.path);
        let seen = parse(&exchange(sandbox.addr(), &request(row.method.as_str(), &target, auth, &body)).unwrap());
        let json = seen.json();
        assert_eq!((seen.status, &json["success"]), (200, &json!(true)), "{target}: {json}");
        assert!(seen.head.contains("content-type: application/json"), "{}", seen.head);
        assert_eq!(json.get("timestamp").is_some(), row.operation.version == ApiVersion::V2, "{target}");
        assert!(json["data"].is_array() || json["data"].is_object(), "{target}");
    }
    let counters = sandbox.counters();
    assert_eq!((counters.orders.express, counters.orders.duplicates), (orders, orders - 1));
    assert_eq!(counters.paths["/region/postCode"], 1);
    assert_eq!(counters.unlisted + counters.unauthenticated, 0);
}

#[test]
fn a_get_with_a_body_tracks_and_the_order_goes_its_whole_way() {
    let sandbox = sandbox();
    let addr = sandbox.addr();
    let before = sandbox.balance();
    let awb = ask(addr, "POST", "/order/express", &order()).json()["data"]["awb"].as_str().unwrap().to_owned();
    assert!(sandbox.balance() < before);
    let track = json!({"courier_code": "anteraja", "awb": awb}).to_string();
    let seen = ask(addr, "GET", "/order/track", &track).json();
    assert_eq!(seen["data"]["history"][0]["status"], "PENDING_DROPOFF", "{seen}");
    assert_eq!(sandbox.journal().last().unwrap().body, track.as_bytes());
    assert_eq!(ask(addr, "POST", "/order/track", &track).status, 404);
    let cancel = json!({"courier_code": "anteraja", "awb": awb, "cancel_reason": "tidak jadi"}).to_string();
    assert_eq!(ask(addr, "POST", "/order/cancel", &cancel).status, 200);
    assert_eq!(sandbox.balance(), before);
    let seen = ask(addr, "POST", "/order/cancel", &cancel);
    assert_eq!(
        (seen.status, seen.json()["message"].clone()),
        (404, json!("An error occurred while placing an cancel"))
    );
    let history = ask(addr, "POST", "/user/balance/history", r#"{"filter_status":"order"}"#).json();
    assert_eq!(history["data"]["total"], 2);
}

#[test]
fn a_tariff_id_dies_after_five_minutes() {
    let sandbox = sandbox();
    let quote = ask(sandbox.addr(), "POST", "/tariff/instant", &good(OperationKind::TariffInstant).1).json();
    let party = json!({"name": "A", "email": "e", "address": "B", "phone": "62"});
    let order = json!({"shipper": party, "receiver": party, "courier_code": "lalamove",
        "tariff_id": quote["data"][1]["tariff_id"], "item": {"name": "A", "desc": "B", "category": "Dokumen"}});
    sandbox.advance(Duration::from_secs(300));
    let seen = ask(sandbox.addr(), "POST", "/order/instant", &order.to_string());
    assert_eq!((seen.status, seen.json()["success"].clone()), (400, json!(false)));
    assert_eq!(sandbox.counters().orders.instant, 0);
}

#[test]
fn no_key_a_wrong_one_and_a_revoked_one_are_401() {
    let sandbox = sandbox();
    let status =
        |auth: &str| parse(&exchange(sandbox.addr(), &request("GET", "/region/province", auth, "")).unwrap()).status;
    assert_eq!(status(BASIC), 200);
    for auth in
        ["", "Authorization: Basic Og==", "access-key: sandbox-access", &PAIR.replace("secret-key: s", "secret-key: S")]
    {
        assert_eq!(status(auth), 401, "{auth}");
    }
    sandbox.add_key("second", "a2", "s2");
    assert!(sandbox.revoke("sandbox-access"));
    assert_eq!(status(BASIC), 401);
    assert_eq!(status("access-key: a2\r\nsecret-key: s2"), 200);
    let counters = sandbox.counters();
    assert_eq!(counters.unauthenticated, 5);
    assert_eq!(counters.operations[&("v2.province", "second".into())].requests, 1);
}

#[test]
fn not_found_has_the_status_of_the_switch_and_input_errors_are_400() {
    for (not_found, timestamp) in [(404, true), (200, false)] {
        let switches = Switches { not_found, timestamp, ..Switches::default() };
        let sandbox = Sandbox::start(Options { switches, ..Options::default() }).unwrap();
        let seen = ask(sandbox.addr(), "GET", "/region/city?province_id=99", "");
        let json = seen.json();
        assert_eq!((seen.status, &json["message"]), (not_found, &json!("Data not found")));
        assert_eq!(json.get("timestamp").is_some(), timestamp);
        for target in ["/region/city", "/region/city?province_id=x", "/region/city?province_id="] {
            assert_eq!(ask(sandbox.addr(), "GET", target, "").status, 400, "{target}");
        }
        assert_eq!(ask(sandbox.addr(), "GET", "/nowhere", "").status, 404);
    }
}

#[test]
fn a_prefix_is_needed_where_one_is_set() {
    let switches = Switches { prefix: "/b2b".to_owned(), ..Switches::default() };
    let sandbox = Sandbox::start(Options { switches, ..Options::default() }).unwrap();
    assert_eq!(ask(sandbox.addr(), "GET", "/b2b/region/province", "").status, 200);
    assert_eq!(ask(sandbox.addr(), "GET", "/region/province", "").status, 404);
}

#[test]
fn the_journal_holds_what_came_byte_for_byte() {
    let sandbox = sandbox();
    let head = format!(
        "POST /region/search?b=%20&a HTTP/1.1\r\nHost: x\r\nX-Odd: \u{e9}\r\nx-odd: 2\r\n{BASIC}\r\nContent-Length: 22\r\nConnection: close\r\n\r\n"
    );
    let body = b"{ \"keyword\" : \"gambir\"";
    let bytes = [head.as_bytes(), &body[..]].concat();
    assert_eq!(parse(&exchange(sandbox.addr(), &bytes).unwrap()).status, 400);
    let journal = sandbox.journal();
    let entry = &journal[0];
    assert_eq!((entry.target().as_str(), &entry.body[..]), ("/region/search?b=%20&a", &body[..]));
    let odd: Vec<&[u8]> = entry.headers.get_all("x-odd").iter().map(|value| value.as_bytes()).collect();
    assert_eq!(odd, ["\u{e9}".as_bytes(), b"2"]);
    assert_eq!((entry.seq, entry.status, entry.key.as_deref()), (1, Some(400), Some("sandbox")));
}

#[test]
fn a_connection_is_kept_and_answers_stay_in_order() {
    let sandbox = sandbox();
    let one = format!("GET /region/province HTTP/1.1\r\nHost: x\r\n{BASIC}\r\n\r\n");
    let last = request("GET", "/region/city?province_id=31", BASIC, "");
    let seen = exchange(sandbox.addr(), &[one.as_bytes(), one.as_bytes(), &last].concat()).unwrap();
    let text = String::from_utf8(seen).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3);
    assert!(text.ends_with('}') && text.contains("JAKARTA PUSAT"));
    assert!(sandbox.journal().iter().all(|entry| entry.connection == 1));
}

#[test]
fn two_sandboxes_of_one_seed_answer_alike() {
    let answers = || {
        let clock = Clock::stepped_at(1_767_323_045_678);
        let sandbox = Sandbox::start(Options { clock, ..Options::default() }).unwrap();
        [
            ("/order/express", order()),
            ("/tariff/express", good(OperationKind::TariffExpress).1),
            ("/tariff/instant", good(OperationKind::TariffInstant).1),
        ]
        .map(|(path, body)| ask(sandbox.addr(), "POST", path, &body).body)
    };
    assert_eq!(answers(), answers());
}

#[test]
fn the_control_address_tells_and_steers() {
    let control = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let sandbox = Sandbox::start(Options { control, ..Options::default() }).unwrap();
    let at = sandbox.control_addr().unwrap();
    ask(sandbox.addr(), "POST", "/order/express", &order());
    ask(sandbox.addr(), "POST", "/order/express", &order());
    let counters = ask(at, "GET", "/_sandbox/counters", "").json();
    assert_eq!((&counters["orders"]["express"], &counters["orders"]["duplicates"]), (&json!(2), &json!(1)));
    let journal = ask(at, "GET", "/_sandbox/journal?executed=true&after=1", "").json();
    assert_eq!(journal["entries"][0]["body"], json!(order()));
    assert_eq!(journal["entries"][0]["duplicate"], true);
    let key = r#"{"label": "b", "access_key": "ab", "secret_key": "canary-secret"}"#;
    let seen = ask(at, "POST", "/_sandbox/keys", key);
    assert!(seen.status == 200 && !String::from_utf8_lossy(&seen.body).contains("canary"));
    assert_eq!(ask(at, "DELETE", "/_sandbox/keys/ab", "").status, 200);
    assert_eq!(ask(at, "POST", "/_sandbox/keys/revoke", r#"{"access_key": "none"}"#).status, 404);
    assert_eq!(
        ask(at, "POST", "/_sandbox/faults", r#"{"act": {"answer": {"status": 503}}, "times": 1}"#).json()["id"],
        1
    );
    assert_eq!(ask(sandbox.addr(), "GET", "/region/province", "").status, 503);
    assert_eq!(ask(sandbox.addr(), "GET", "/region/province", "").status, 200);
    assert_eq!(ask(at, "POST", "/_sandbox/reset", "").status, 200);
    assert_eq!(sandbox.counters().requests, 0);
    assert_eq!(ask(sandbox.addr(), "GET", "/_sandbox/counters", "").status, 404);
}

#[test]
fn the_control_address_has_its_own_door() {
    let control = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let control_token = Some(Zeroizing::new("t0ken".to_owned()));
    let sandbox = Sandbox::start(Options { control, control_token, ..Options::default() }).unwrap();
    let at = sandbox.control_addr().unwrap();
    let status = |host: &str, auth: &str| {
        let bytes = format!("GET /_sandbox/counters HTTP/1.1\r\nHost: {host}\r\n{auth}Connection: close\r\n\r\n");
        parse(&exchange(at, bytes.as_bytes()).unwrap()).status
    };
    assert_eq!(status("localhost:1", "Authorization: Bearer t0ken\r\n"), 200);
    assert_eq!(status("[::1]:1", "Authorization: Bearer t0ken\r\n"), 200);
    assert_eq!(status("localhost", ""), 401);
    assert_eq!(status("localhost", "Authorization: Bearer t0ke\r\n"), 401);
    assert_eq!(status("evil.test", "Authorization: Bearer t0ken\r\n"), 421);
    let open = Options { control: Some(SocketAddr::from(([0, 0, 0, 0], 0))), ..Options::default() };
    assert!(Sandbox::start(open).is_err());
}

#[test]
fn a_start_is_quick_and_a_drop_frees_the_port() {
    let begin = std::time::Instant::now();
    let first = sandbox();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let addr = first.addr();
    drop(first);
    let again = Sandbox::start(Options { listen: addr, ..Options::default() }).unwrap();
    assert_eq!(ask(again.addr(), "GET", "/region/province", "").status, 200);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop_oneof![Just("0"), Just("1"), Just("bike"), Just("anteraja"), Just("reg"), Just("3171031001")]
            .prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// Good bodies with some members replaced by anything.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let members = prop::collection::vec((any::<prop::sample::Index>(), any_json()), 0..3);
    (0..Routes::get().rows().len(), members).prop_map(|(row, members)| {
        let (_, body) = good(Routes::get().rows()[row].operation.kind);
        let mut body: Value = serde_json::from_str(&body).unwrap_or(json!({}));
        for (which, value) in members {
            let paths = paths(&body, String::new());
            if let Some(place) = paths.get(which.index(paths.len().max(1))).and_then(|path| body.pointer_mut(path)) {
                *place = value;
            }
        }
        body.to_string().into_bytes()
    })
}

fn paths(value: &Value, at: String) -> Vec<String> {
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let inner: Vec<String> = match value {
        Value::Object(map) => map.iter().flat_map(|(name, v)| paths(v, format!("{at}/{}", escaped(name)))).collect(),
        Value::Array(list) => list.iter().enumerate().flat_map(|(n, v)| paths(v, format!("{at}/{n}"))).collect(),
        _ => Vec::new(),
    };
    [vec![at], inner].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_body_panics_it(
        body in prop_oneof![mutated(), prop::collection::vec(any::<u8>(), 0..200), any_json().prop_map(|v| v.to_string().into_bytes())],
        query in "[ -~]{0,40}",
    ) {
        let mut simulation = simulation(&Options::default());
        for row in Routes::get().rows() {
            let query: String = query.chars().filter(|c| c.is_ascii_alphanumeric() || "=&%+_".contains(*c)).collect();
            let mut headers = http::HeaderMap::new();
            headers.insert("authorization", BASIC["Authorization: ".len()..].parse().unwrap());
            let received = simulation.receive(BufferedRequest {
                fault: None,
                connection: 1,
                method: row.method.clone(),
                uri: format!("{}?{query}", row.path).parse().unwrap(),
                headers,
                body: bytes::Bytes::from(body.clone()),
            });
            let answer = simulation.execute(&received);
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            prop_assert_eq!(answer.status == 200, json["success"] == true, "{} {}", row.path, json);
        }
    }
}

#[test]
fn a_body_that_breaks_off_is_counted_and_executes_nothing() {
    let sandbox = sandbox();
    let mut stream = TcpStream::connect(sandbox.addr()).unwrap();
    let bytes = request("POST", "/order/express", BASIC, &order());
    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    drop(stream);
    while sandbox.counters().broken == 0 {
        std::thread::yield_now();
    }
    assert_eq!((sandbox.counters().requests, sandbox.counters().orders.express), (0, 0));
}

#[test]
fn a_body_beyond_the_bound_is_413_and_executes_nothing() {
    let sandbox = sandbox();
    let mut stream = TcpStream::connect(sandbox.addr()).unwrap();
    let head = format!("POST /order/express HTTP/1.1\r\nHost: x\r\n{BASIC}\r\nContent-Length: 20000000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // It may be cut off while it writes: that is the point.
        let _ = stream.write_all(&vec![b' '; 20_000_000]);
    });
    let mut start = [0; 12];
    let seen = reading.read_exact(&mut start);
    writing.join().unwrap();
    // The reset of what was not read may overtake the answer; the count may not.
    assert!(seen.is_err() || &start == b"HTTP/1.1 413", "{start:?}");
    assert_eq!(sandbox.journal()[0].status, Some(413));
    assert_eq!(sandbox.counters().orders.express, 0);
}

#[test]
fn executed_orders_can_be_asked_by_body() {
    let sandbox = sandbox();
    ask(sandbox.addr(), "POST", "/order/express", &order());
    let express = Operation { version: ApiVersion::V2, kind: OperationKind::OrderExpress };
    assert_eq!(sandbox.simulation.lock().journal.executed(express, order().as_bytes()), 1);
    assert_eq!(sandbox.simulation.lock().journal.executed(express, b"{}"), 0);
}
