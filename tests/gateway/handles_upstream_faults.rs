//! Every fault that the sandbox has: what a plain client sees of it, and what the gateway makes of it.
//!
//! `ROWS` is the table: a fault as the control address takes it, what a client that asks the sandbox
//! directly sees, and what becomes of a read and of an order through the gateway. For each of these:
//! status, outcome, `X-Gateway-Sent`, code, attempts, the metrics, the line in the log, and whether
//! Fastrac executed. What isn't about one request has a file: TLS, limits, keys, schedules;
//! so have requests that are cut off while they are written.

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
    client::{Answer, Request, get, post, request},
    test_gateway::{ACCESS, SECRET, Setup, Stage, TWIN, sandbox, sum},
};
use plain::{Body, Plain, by_reset, closed, head};

/// What the gateway makes of a request.
#[derive(Clone, Copy)]
struct Made {
    status: u16,
    outcome: &'static str,
    sent: &'static str,
    /// In the log; empty: none.
    code: &'static str,
    attempts: u64,
}

/// One fault, and all that follows from it.
struct Row {
    name: &'static str,
    fault: &'static str,
    plain: Plain,
    read: Made,
    order: Made,
    /// Whether the order through the gateway was executed.
    executed: bool,
    /// Milliseconds that callers give the gateway.
    patience: Option<u64>,
}

const fn made(status: u16, outcome: &'static str, sent: &'static str) -> Made {
    Made { status, outcome, sent, code: "", attempts: 1 }
}

impl Made {
    const fn code(self, code: &'static str) -> Made {
        Made { code, ..self }
    }

    /// A read is asked again where that may help.
    const fn twice(self) -> Made {
        Made { attempts: 2, ..self }
    }
}

const OK: Made = made(200, "ok", "yes");
const CUT: Made = made(502, "cut", "unknown").code("upstream.cut");
const LATE: Made = made(504, "timeout", "unknown").code("upstream.timeout");
const REJECTED: Made = made(200, "rejected", "yes");
const THROTTLED: Made = made(429, "throttled", "yes").code("upstream.limit");

/// Fastrac's own failure passes; of an order nobody knows what became.
const fn failed(status: u16, sent: &'static str) -> Made {
    made(status, "upstream_error", sent)
}

const fn row(name: &'static str, fault: &'static str, plain: Plain, read: Made, order: Made, executed: bool) -> Row {
    Row { name, fault, plain, read, order, executed, patience: None }
}

const fn hasty(row: Row) -> Row {
    Row { patience: Some(250), ..row }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("a fixed delay", r#"{"delay_ms": 60}"#, head(200, Body::Right).after(60), OK, OK, true),
    row("a wait before execution", r#"{"wait_ms": 60}"#, head(200, Body::Right).after(60), OK, OK, true),
    row("a delay that is anything between", r#"{"delay": {"uniform": {"least": 40, "most": 80}}}"#, head(200, Body::Right).after(40), OK, OK, true),
    row("a delay that is mostly short", r#"{"delay": {"exponential": {"mean": 20, "most": 60}}}"#, head(200, Body::Right), OK, OK, true),
    row("a delay by percentiles", r#"{"delay": {"percentiles": [[0, 30], [50, 40], [99, 80]]}}"#, head(200, Body::Right).after(30), OK, OK, true),
    hasty(row("a delay longer than anybody waits", r#"{"delay_ms": 900}"#, head(200, Body::Right).after(900), LATE, LATE, true)),
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
    hasty(row("a drip that doesn't", r#"{"act": {"drip": {"bytes": 8, "every_ms": 30}}}"#, head(200, Body::Right).after(400), LATE, LATE, true)),
    row("success:false under 200", r#"{"act": {"envelope": {"status": 200, "message": "Weight is too low"}}}"#, head(200, Body::Says("Weight")), REJECTED, REJECTED, false),
    row("401 under 200", r#"{"act": {"envelope": {"status": 200, "message": "Unauthorized"}}}"#, head(200, Body::Says("Unauthorized")), REJECTED, REJECTED, false),
    row("a 401 that is the request's own", r#"{"act": {"envelope": {"status": 401, "message": "Unauthorized"}}}"#, head(401, Body::Says("Unauthorized")), made(401, "rejected", "yes"), made(401, "rejected", "yes"), false),
    row("429", r#"{"act": {"throttle": {}}}"#, head(429, Body::Says("Too Many")), THROTTLED, THROTTLED, false),
    row("429 that says when", r#"{"act": {"throttle": {"retry_after": 7}}}"#, head(429, Body::Says("Too Many")).retry(7), THROTTLED, THROTTLED, false),
    row("an answer lost after execution", r#"{"act": "lose"}"#, closed(), CUT.twice(), CUT, true),
    row("an answer lost by a reset after execution", r#"{"act": "lose_reset"}"#, by_reset(), CUT.twice(), CUT, true),
    row("a clock that is behind", r#"{"skew_ms": -3600000}"#, head(200, Body::Skewed("2026-01-02T02:04:05.678Z")), OK, OK, true),
    row("a clock that is ahead", r#"{"skew_ms": 86400000}"#, head(200, Body::Skewed("2026-01-03T03:04:05.678Z")), OK, OK, true),
];

/// The fault of a row, for an operation under a key.
fn fault(text: &str, operation: &str, key: &str) -> Fault {
    let mut fault: Fault = serde_json::from_str(text).expect("a fault");
    fault.operation = Some(operation.to_owned());
    fault.key(key)
}

/// The gateway's stage, and an order that can be tracked, with the right answer to that.
struct Scene {
    stage: Stage,
    track: String,
    right: Vec<u8>,
    /// What the log must say, by request: read once, at the end.
    logged: RefCell<Vec<(String, Value, String)>>,
}

/// The stage's sandbox, with a second pair for asking it directly.
fn shared() -> Options {
    Options { keys: vec![key("gateway", (ACCESS, SECRET)), key("direct", TWIN)], ..sandbox() }
}

fn key(label: &str, (access, secret): (&str, &str)) -> fastrac_sandbox::KeyPair {
    fastrac_sandbox::KeyPair::new(label, access, secret)
}

/// Orders of unknown outcome, as the metrics page has it.
fn unknown(stage: &Stage) -> f64 {
    sum(&stage.admin("/metrics").text(), "orders_unknown", &[("account", "main")])
}

impl Scene {
    fn new() -> Scene {
        Scene::of(Setup::default())
    }

    fn of(setup: Setup) -> Scene {
        let stage = Setup { sandbox: shared(), ..setup }.start();
        let order = post("/order/express", &bodies::order(0)).pair(TWIN.0, TWIN.1);
        let placed = plain::ask(stage.sandbox.addr(), &order);
        let awb = placed.json()["data"]["awb"].clone();
        let track = json!({"courier_code": "idx", "awb": awb}).to_string();
        let mut scene = Scene { stage, track, right: Vec::new(), logged: RefCell::default() };
        scene.right = plain::ask(scene.stage.sandbox.addr(), &scene.direct()).body;
        scene
    }

    fn track(&self) -> Request {
        request("GET", "/order/track").json(&self.track)
    }

    fn direct(&self) -> Request {
        self.track().pair(TWIN.0, TWIN.1)
    }

    /// What a client sees that asks the sandbox itself.
    fn plainly(&self, row: &Row) {
        let number = self.stage.sandbox.fault(fault(row.fault, "v2.track", "direct"));
        let seen = plain::ask(self.stage.sandbox.addr(), &self.direct());
        row.plain.holds(&seen, &self.right, row.name);
        assert_eq!(self.stage.sandbox.times_applied(number), Some(1), "{}: met once", row.name);
    }

    /// What the gateway makes of a read.
    fn reads(&self, row: &Row) {
        let number = self.stage.sandbox.fault(fault(row.fault, "v2.track", "gateway"));
        let answer = self.through(row, self.track(), ("v2.track", row.read));
        assert_eq!(
            self.stage.sandbox.times_applied(number),
            Some(row.read.attempts),
            "{}: met by each attempt",
            row.name
        );
        let right = row.read.outcome == "ok" && !matches!(row.plain.body, Body::Skewed(_));
        assert!(!right || answer.body == self.right, "{}: the right answer, whole", row.name);
    }

    /// What the gateway makes of an order, and what became of it at Fastrac.
    fn orders(&self, row: &Row, number: usize) {
        let executed = || self.stage.sandbox.counters().orders.express;
        let unknown = || unknown(&self.stage);
        let before = (executed(), unknown());
        self.stage.sandbox.fault(fault(row.fault, "v2.order_express", "gateway"));
        self.through(row, post("/order/express", &bodies::order(number)), ("v2.order_express", row.order));
        assert_eq!(executed() - before.0, u64::from(row.executed), "{}: executed", row.name);
        let doubtful = if row.order.sent == "unknown" { 1.0 } else { 0.0 };
        assert_eq!(unknown() - before.1, doubtful, "{}: in the journal of unknown orders", row.name);
        assert_eq!(self.stage.sandbox.counters().orders.duplicates, 0, "{}: twice", row.name);
    }

    /// Asks through the gateway: answer, metrics and log say the same.
    fn through(&self, row: &Row, asked: Request, (operation, made): (&str, Made)) -> Answer {
        let stage = &self.stage;
        let patience = row.patience.map(|millis| millis.to_string());
        let asked = patience.iter().fold(asked.by("shop"), |asked, text| asked.header("x-gateway-timeout", text));
        let status = match made.code {
            "upstream.cut" | "upstream.timeout" => "failed".to_owned(),
            _ => made.status.to_string(),
        };
        let count = || {
            let sent = stage.metric("upstream_requests_total", &[("operation", operation), ("status", &status)]);
            (stage.metric("requests_total", &[("operation", operation), ("outcome", made.outcome)]), sent)
        };
        let before = count();
        let answer = stage.ask(asked);
        let what = format!("{}: {operation}: {answer:?}", row.name);
        assert_eq!((answer.status, answer.outcome(), answer.sent()), (made.status, made.outcome, made.sent), "{what}");
        let code = if made.code.is_empty() { Value::Null } else { made.code.into() };
        let line = json!([made.status, made.outcome, made.sent, code, made.attempts]);
        self.logged.borrow_mut().push((answer.header("x-request-id").expect("an id").to_owned(), line, what.clone()));
        let after = count();
        assert_eq!((after.0 - before.0, after.1 - before.1), (1.0, made.attempts as f64), "{what}: counted");
        if made.outcome == "throttled" {
            let wait = row.plain.retry_after.unwrap_or(1).to_string();
            assert_eq!(answer.header("retry-after"), Some(wait.as_str()), "{what}");
        }
        answer
    }

    /// The lines in the log say what the answers said.
    fn logs(&self) {
        let asked = self.logged.borrow();
        let last = asked.last().expect("asked");
        self.stage.line(&last.0);
        let lines = self.stage.log();
        for (id, expected, what) in asked.iter() {
            let line = lines.iter().find(|line| line["request_id"] == id.as_str()).expect("a line");
            let logged = json!([line["status"], line["outcome"], line["sent"], line["code"], line["attempts"]]);
            assert_eq!(&logged, expected, "{what}: {line}");
        }
    }
}

#[test]
fn every_fault_is_seen_plainly_and_told_truly() {
    let scene = Scene::new();
    for (number, row) in ROWS.iter().enumerate() {
        scene.plainly(row);
        scene.stage.sandbox.clear_faults();
        scene.reads(row);
        scene.stage.sandbox.clear_faults();
        scene.orders(row, number + 1);
        scene.stage.sandbox.clear_faults();
        // Whatever it was, it is over with its end.
        assert_eq!(scene.stage.ask(scene.track().by("shop")).outcome(), "ok", "after {}", row.name);
    }
    scene.logs();
}

#[test]
fn every_fault_can_be_set_by_the_settings_file_and_by_the_control_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sandbox.toml");
    let faults: Vec<Value> = ROWS.iter().map(|row| serde_json::from_str(row.fault).expect("JSON")).collect();
    std::fs::write(&file, toml::to_string(&json!({"faults": faults})).expect("TOML")).expect("written");
    let options = settings::load(&file, Options::default()).expect("settings");
    assert_eq!(options.faults.len(), ROWS.len());
    let control = Some("127.0.0.1:0".parse().expect("an address"));
    let sandbox = Sandbox::start(Options { control, ..options }).expect("a sandbox");
    let at = sandbox.control_addr().expect("an address");
    let shown = || plain::ask(at, &get("/_sandbox/faults").header("host", "localhost")).json()["faults"].clone();
    let set = shown();
    sandbox.clear_faults();
    for row in ROWS {
        let asked = post("/_sandbox/faults", row.fault).header("host", "localhost");
        assert_eq!(plain::ask(at, &asked).status, 200, "{}", row.name);
    }
    for (number, (one, other)) in set.as_array().expect("faults").iter().zip(shown().as_array().unwrap()).enumerate() {
        assert_eq!(one["fault"], other["fault"], "{}", ROWS[number].name);
    }
}

/// The plain client's patience covers the longest row.
#[test]
fn no_row_waits_longer_than_a_plain_client() {
    let longest = ROWS.iter().map(|row| row.plain.at_least).max().expect("rows");
    assert!(Duration::from_millis(longest) < plain::PATIENCE);
}
