//! Every fault that the sandbox can inject: what a direct client sees, and how the gateway responds.
//!
//! `ROWS` is the table: a fault as the control API takes it, what a client that calls the sandbox
//! directly sees, and the expected result of a read and of an order through the gateway. For each of these:
//! status, outcome, `X-Gateway-Sent`, code, attempts, metrics, log line, and whether Fastrac executed
//! the order. Faults that are not about a single request have files of their own: TLS, limits, keys, schedules,
//! and connections that end while a request is being written.

mod keys;
mod limits;
mod plain;
mod schedules;
mod tls;
mod uploads;

use std::{cell::RefCell, time::Duration};

use fastrac_sandbox::{Fault, Options, Sandbox, settings};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Request, Response, get, post, request},
    test_gateway::{ACCESS, SECRET, Setup, TWIN, TestGateway, sandbox, sum, until},
};
use plain::{Body, ExpectedResponse, by_reset, closed, head};

/// The expected result of a request through the gateway.
#[derive(Clone, Copy)]
struct Expected {
    status: u16,
    outcome: &'static str,
    sent: &'static str,
    /// `code` of the log line; empty for none.
    code: &'static str,
    attempts: u64,
}

/// One fault and its expected effects.
struct Row {
    name: &'static str,
    fault: &'static str,
    plain: ExpectedResponse,
    read: Expected,
    order: Expected,
    /// Whether Fastrac executes the order sent through the gateway.
    executed: bool,
    /// `X-Gateway-Timeout` of the requests, in milliseconds.
    timeout_ms: Option<u64>,
}

const fn expected(status: u16, outcome: &'static str, sent: &'static str) -> Expected {
    Expected { status, outcome, sent, code: "", attempts: 1 }
}

impl Expected {
    const fn code(self, code: &'static str) -> Expected {
        Expected { code, ..self }
    }

    /// The same with a second attempt, as for reads that may be retried.
    const fn twice(self) -> Expected {
        Expected { attempts: 2, ..self }
    }
}

const OK: Expected = expected(200, "ok", "yes");
const CUT: Expected = expected(502, "cut", "unknown").code("upstream.cut");
const LATE: Expected = expected(504, "timeout", "unknown").code("upstream.timeout");
const REJECTED: Expected = expected(200, "rejected", "yes");
const THROTTLED: Expected = expected(429, "throttled", "yes").code("upstream.limit");

/// Fastrac's own error status, which is passed on.
const fn failed(status: u16, sent: &'static str) -> Expected {
    expected(status, "upstream_error", sent)
}

const fn row(
    name: &'static str,
    fault: &'static str,
    plain: ExpectedResponse,
    read: Expected,
    order: Expected,
    executed: bool,
) -> Row {
    Row { name, fault, plain, read, order, executed, timeout_ms: None }
}

const fn with_timeout(row: Row) -> Row {
    Row { timeout_ms: Some(250), ..row }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("a fixed delay", r#"{"delay_ms": 60}"#, head(200, Body::Right).after(60), OK, OK, true),
    row("a wait before execution", r#"{"wait_ms": 60}"#, head(200, Body::Right).after(60), OK, OK, true),
    row("a delay that is anything between", r#"{"delay": {"uniform": {"least": 40, "most": 80}}}"#, head(200, Body::Right).after(40), OK, OK, true),
    row("a delay that is mostly short", r#"{"delay": {"exponential": {"mean": 20, "most": 60}}}"#, head(200, Body::Right), OK, OK, true),
    row("a delay by percentiles", r#"{"delay": {"percentiles": [[0, 30], [50, 40], [99, 80]]}}"#, head(200, Body::Right).after(30), OK, OK, true),
    with_timeout(row("a delay longer than anybody waits", r#"{"delay_ms": 900}"#, head(200, Body::Right).after(900), LATE, LATE, true)),
    row("a reset instead of an answer", r#"{"act": "reset"}"#, by_reset(), CUT.twice(), CUT, false),
    row("a reset during the request", r#"{"act": {"reset_upload": {}}}"#, by_reset(), CUT.twice(), CUT, false),
    row("a close instead of an answer", r#"{"act": "close"}"#, closed(), CUT.twice(), CUT, false),
    row("a reset before the body", r#"{"act": {"cut": {"after": 0, "reset": true}}}"#, head(200, Body::Cut(0)).reset(), CUT.twice(), CUT, true),
    row("a reset during the body", r#"{"act": {"cut": {"after": 40, "reset": true}}}"#, head(200, Body::Cut(40)).reset(), CUT.twice(), CUT, true),
    row("a reset after the body", r#"{"act": {"cut": {"after": 99999, "reset": true}}}"#, head(200, Body::Right).reset(), OK, OK, true),
    row("an end during the body", r#"{"act": {"cut": {"after": 40}}}"#, head(200, Body::Cut(40)), CUT.twice(), CUT, true),
    row("500", r#"{"act": {"envelope": {"status": 500, "message": "Internal Server Error"}}}"#, head(500, Body::Says("Internal Server Error")), failed(500, "yes"), failed(500, "unknown"), false),
    row("502", r#"{"act": {"envelope": {"status": 502, "message": "x"}}}"#, head(502, Body::Says("false")), failed(502, "yes").twice(), failed(502, "unknown"), false),
    row("503", r#"{"act": {"envelope": {"status": 503, "message": "x"}}}"#, head(503, Body::Says("false")), failed(503, "yes").twice(), failed(503, "unknown"), false),
    row("504", r#"{"act": {"envelope": {"status": 504, "message": "x"}}}"#, head(504, Body::Says("false")), failed(504, "yes").twice(), failed(504, "unknown"), false),
    row("an executed 502", r#"{"act": {"envelope": {"status": 502, "execute": true}}}"#, head(502, Body::Says("false")), failed(502, "yes").twice(), failed(502, "unknown"), true),
    row("an HTML error page", r#"{"act": {"html": 503}}"#, head(503, Body::Says("<h1>503</h1>")), failed(503, "yes").twice(), failed(503, "unknown"), false),
    row("an HTML page under 200", r#"{"act": {"html": 200}}"#, head(200, Body::Says("<html>")), failed(200, "yes"), failed(200, "unknown"), false),
    row("truncated JSON", r#"{"act": {"truncate": {"after": 40}}}"#, head(200, Body::Short(40)), failed(200, "yes"), failed(200, "unknown"), true),
    row("a length that is too large", r#"{"act": {"wrong_length": {"by": 7}}}"#, head(200, Body::Lies(7)), CUT.twice(), CUT, true),
    row("a length that is too small", r#"{"act": {"wrong_length": {"by": -7}}}"#, head(200, Body::Lies(-7)), failed(200, "yes"), failed(200, "unknown"), true),
    row("a drip that ends in time", r#"{"act": {"drip": {"bytes": 64, "every_ms": 5}}}"#, head(200, Body::Right).after(10), OK, OK, true),
    with_timeout(row("a drip that doesn't", r#"{"act": {"drip": {"bytes": 8, "every_ms": 30}}}"#, head(200, Body::Right).after(400), LATE, LATE, true)),
    row("success:false under 200", r#"{"act": {"envelope": {"status": 200, "message": "Weight is too low"}}}"#, head(200, Body::Says("Weight")), REJECTED, REJECTED, false),
    row("401 under 200", r#"{"act": {"envelope": {"status": 200, "message": "Unauthorized"}}}"#, head(200, Body::Says("Unauthorized")), REJECTED, REJECTED, false),
    row("a 401 that is the request's own", r#"{"act": {"envelope": {"status": 401, "message": "Unauthorized"}}}"#, head(401, Body::Says("Unauthorized")), expected(401, "rejected", "yes"), expected(401, "rejected", "yes"), false),
    row("429", r#"{"act": {"throttle": {}}}"#, head(429, Body::Says("Too Many")), THROTTLED, THROTTLED, false),
    row("429 that says when", r#"{"act": {"throttle": {"retry_after": 2}}}"#, head(429, Body::Says("Too Many")).retry(2), THROTTLED, THROTTLED, false),
    row("an answer lost after execution", r#"{"act": "lose"}"#, closed(), CUT.twice(), CUT, true),
    row("an answer lost by a reset after execution", r#"{"act": "lose_reset"}"#, by_reset(), CUT.twice(), CUT, true),
    row("a clock that is behind", r#"{"skew_ms": -3600000}"#, head(200, Body::Skewed("2026-01-02T02:04:05.678Z")), OK, OK, true),
    row("a clock that is ahead", r#"{"skew_ms": 86400000}"#, head(200, Body::Skewed("2026-01-03T03:04:05.678Z")), OK, OK, true),
];

/// The fault of a row, limited to an operation and a key.
fn fault(text: &str, operation: &str, key: &str) -> Fault {
    let mut fault: Fault = serde_json::from_str(text).expect("a fault");
    fault.operation = Some(operation.to_owned());
    fault.key(key)
}

/// A gateway, an order that can be tracked, and the correct response to tracking it.
struct FaultSetup {
    gateway: TestGateway,
    track: String,
    right: Vec<u8>,
    /// Expected log lines by request id, with a description; checked once at the end.
    logged: RefCell<Vec<(String, Value, String)>>,
}

/// A sandbox with a second key pair, for direct requests.
fn shared() -> Options {
    Options { keys: vec![key("gateway", ACCESS, SECRET), key("direct", TWIN.0, TWIN.1)], ..sandbox() }
}

fn key(label: &str, access: &str, secret: &str) -> fastrac_sandbox::KeyPair {
    fastrac_sandbox::KeyPair::new(label, access, secret)
}

/// Number of orders with an unknown outcome, from `/metrics`.
fn unknown(gateway: &TestGateway) -> f64 {
    sum(&gateway.admin("/metrics").text(), "orders_unknown", &[("account", "main")])
}

impl FaultSetup {
    fn new() -> FaultSetup {
        FaultSetup::of(Setup::default())
    }

    fn of(setup: Setup) -> FaultSetup {
        let gateway = Setup { sandbox: shared(), ..setup }.start();
        let order = post("/order/express", &bodies::order(0)).pair(TWIN.0, TWIN.1);
        let placed = plain::send(gateway.sandbox.addr(), &order);
        let awb = placed.json()["data"]["awb"].clone();
        let track = json!({"courier_code": "idx", "awb": awb}).to_string();
        let mut setup = FaultSetup { gateway, track, right: Vec::new(), logged: RefCell::default() };
        setup.right = plain::send(setup.gateway.sandbox.addr(), &setup.direct()).body;
        setup
    }

    fn track(&self) -> Request {
        request("GET", "/order/track").json(&self.track)
    }

    fn direct(&self) -> Request {
        self.track().pair(TWIN.0, TWIN.1)
    }

    /// Checks what a client sees that calls the sandbox directly.
    fn send_directly(&self, row: &Row) {
        let number = self.gateway.sandbox.fault(fault(row.fault, "v2.track", "direct"));
        let response = plain::send(self.gateway.sandbox.addr(), &self.direct());
        row.plain.holds(&response, &self.right, row.name);
        assert_eq!(self.gateway.sandbox.times_applied(number), Some(1), "{}: applied once", row.name);
    }

    /// Checks a read through the gateway.
    fn reads(&self, row: &Row) {
        let number = self.gateway.sandbox.fault(fault(row.fault, "v2.track", "gateway"));
        let response = self.through(row, self.track(), "v2.track", row.read);
        assert_eq!(
            self.gateway.sandbox.times_applied(number),
            Some(row.read.attempts),
            "{}: applied to each attempt",
            row.name
        );
        let right = row.read.outcome == "ok" && !matches!(row.plain.body, Body::Skewed(_));
        assert!(!right || response.body == self.right, "{}: the complete correct response", row.name);
    }

    /// Checks an order through the gateway, and what Fastrac did with it.
    fn orders(&self, row: &Row, number: usize) {
        let executed = || self.gateway.sandbox.counters().orders.express;
        let unknown = || unknown(&self.gateway);
        let before = (executed(), unknown());
        self.gateway.sandbox.fault(fault(row.fault, "v2.order_express", "gateway"));
        self.through(row, post("/order/express", &bodies::order(number)), "v2.order_express", row.order);
        assert_eq!(executed() - before.0, u64::from(row.executed), "{}: executed", row.name);
        // An order whose caller would not wait runs to its end, and is known then.
        let doubtful = if row.order.sent == "unknown" && row.timeout_ms.is_none() { 1.0 } else { 0.0 };
        assert_eq!(unknown() - before.1, doubtful, "{}: in the journal of unknown orders", row.name);
        assert_eq!(self.gateway.sandbox.counters().orders.duplicates, 0, "{}: twice", row.name);
    }

    /// Sends a request through the gateway; response, metrics and log must agree.
    fn through(&self, row: &Row, request: Request, operation: &str, expected: Expected) -> Response {
        let gateway = &self.gateway;
        let timeout_ms = row.timeout_ms.map(|millis| millis.to_string());
        let request =
            timeout_ms.iter().fold(request.by("shop"), |request, text| request.header("x-gateway-timeout", text));
        // An order runs to its end: Fastrac's response comes after the caller's.
        let outlasts = row.timeout_ms.is_some() && operation == "v2.order_express";
        let status = match expected.code {
            _ if outlasts => "200".to_owned(),
            "upstream.cut" | "upstream.timeout" => "failed".to_owned(),
            _ => expected.status.to_string(),
        };
        let count = || {
            let sent = gateway.metric("upstream_requests_total", &[("operation", operation), ("status", &status)]);
            (gateway.metric("requests_total", &[("operation", operation), ("outcome", expected.outcome)]), sent)
        };
        gateway.wait_for_pauses();
        let before = count();
        let response = gateway.send(request);
        let what = format!("{}: {operation}: {response:?}", row.name);
        assert_eq!(
            (response.status, response.outcome(), response.sent()),
            (expected.status, expected.outcome, expected.sent),
            "{what}"
        );
        let code = if expected.code.is_empty() { Value::Null } else { expected.code.into() };
        let line = json!([expected.status, expected.outcome, expected.sent, code, expected.attempts]);
        self.logged.borrow_mut().push((response.header("x-request-id").expect("an id").to_owned(), line, what.clone()));
        if outlasts {
            until("the order to end", || count().1 > before.1);
        }
        let after = count();
        assert_eq!((after.0 - before.0, after.1 - before.1), (1.0, expected.attempts as f64), "{what}: counted");
        if expected.outcome == "throttled" {
            let wait = row.plain.retry_after.unwrap_or(1).to_string();
            assert_eq!(response.header("retry-after"), Some(wait.as_str()), "{what}");
        }
        response
    }

    /// Checks that the log lines agree with the responses.
    fn logs(&self) {
        let logged_requests = self.logged.borrow();
        // Lines come in any order: a thread of its own masks large bodies. They are too long to be parsed at each look.
        until("a line of each request", || {
            let text = std::fs::read(self.gateway.log_file()).expect("a log");
            logged_requests.iter().all(|(id, ..)| memchr::memmem::find(&text, id.as_bytes()).is_some())
        });
        let lines = self.gateway.log();
        for (id, expected, what) in logged_requests.iter() {
            let line = lines.iter().find(|line| line["request_id"] == id.as_str()).expect("a line");
            let logged = json!([line["status"], line["outcome"], line["sent"], line["code"], line["attempts"]]);
            assert_eq!(&logged, expected, "{what}: {line}");
        }
    }
}

#[test]
fn every_fault_has_the_expected_direct_and_gateway_response() {
    let setup = FaultSetup::new();
    for (number, row) in ROWS.iter().enumerate() {
        setup.send_directly(row);
        setup.gateway.sandbox.clear_faults();
        setup.reads(row);
        setup.gateway.sandbox.clear_faults();
        setup.orders(row, number + 1);
        setup.gateway.sandbox.clear_faults();
        // Without the fault, requests succeed again.
        setup.gateway.wait_for_pauses();
        assert_eq!(setup.gateway.send(setup.track().by("shop")).outcome(), "ok", "after {}", row.name);
    }
    setup.logs();
}

#[test]
fn every_fault_can_be_set_by_the_settings_file_and_by_the_control_api() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sandbox.toml");
    let faults: Vec<Value> = ROWS.iter().map(|row| serde_json::from_str(row.fault).expect("JSON")).collect();
    std::fs::write(&file, toml::to_string(&json!({"faults": faults})).expect("TOML")).expect("written");
    let options = settings::load(&file, Options::default()).expect("settings");
    assert_eq!(options.faults.len(), ROWS.len());
    let control = Some("127.0.0.1:0".parse().expect("an address"));
    let sandbox = Sandbox::start(Options { control, ..options }).expect("a sandbox");
    let at = sandbox.control_addr().expect("an address");
    let shown = || plain::send(at, &get("/_sandbox/faults").header("host", "localhost")).json()["faults"].clone();
    let set = shown();
    sandbox.clear_faults();
    for row in ROWS {
        let request = post("/_sandbox/faults", row.fault).header("host", "localhost");
        assert_eq!(plain::send(at, &request).status, 200, "{}", row.name);
    }
    for (number, (one, other)) in set.as_array().expect("faults").iter().zip(shown().as_array().unwrap()).enumerate() {
        assert_eq!(one["fault"], other["fault"], "{}", ROWS[number].name);
    }
}

/// The direct client's read timeout must cover the longest row.
#[test]
fn no_row_takes_longer_than_the_clients_read_timeout() {
    let longest = ROWS.iter().map(|row| row.plain.at_least).max().expect("rows");
    assert!(Duration::from_millis(longest) < plain::READ_TIMEOUT);
}
