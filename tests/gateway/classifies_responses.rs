//! One corpus of answers, for the sandbox that gives them and the gateway that reads them.
//!
//! `corpus/answers/answers.jsonl` holds documented answers, variants and mutations with what each
//! means; `generate.py` beside it tells how that was decided. Here the classifier must agree, the
//! sandbox must give the documented ones, and the whole gateway must do with each what its meaning
//! demands: outcome, store or not, and whether an order is in doubt afterwards.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fastrac_gateway::{cache::rules, config::MessagesConfig, outcome};
use fastrac_sandbox::{Act, CannedResponse, Fault, Options, Sandbox, Switches};
use http::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Answer, Request, Wire, get, post, request},
    test_gateway::{Stage, TWIN, twin},
};

const CORPUS: &str = include_str!("corpus/answers/answers.jsonl");

/// An answer, and what it means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    source: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: Option<String>,
    base64: Option<String>,
    outcome: String,
    key: bool,
    stored: bool,
    settles: bool,
    /// The request that makes the sandbox give it.
    ask: Option<Ask>,
    /// The public list of members is cut off: there may be more.
    #[serde(default)]
    cut: bool,
    /// Its `message` is public too.
    #[serde(default)]
    says: bool,
    /// `not_found_status` of the sandbox, where it isn't 404.
    switch: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    method: String,
    target: String,
    #[serde(default)]
    body: String,
    /// Without a key pair.
    #[serde(default)]
    nobody: bool,
}

impl Line {
    fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).expect("base64"),
            _ => panic!("{}: one of body and base64", self.name),
        }
    }

    /// As the sandbox is told to give it.
    fn canned(&self) -> Act {
        let body = STANDARD.encode(self.bytes());
        Act::Answer(CannedResponse {
            status: self.status,
            headers: self.headers.clone(),
            body,
            base64: true,
            execute: false,
        })
    }
}

fn corpus() -> Vec<Line> {
    CORPUS.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The built-in messages, as `config/check` hands them on: lower case.
fn messages() -> MessagesConfig {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    MessagesConfig {
        not_found: list(&["data not found"]),
        key: list(&[
            "unauthorized",
            "unauthenticated",
            "invalid credentials",
            "invalid access key",
            "invalid secret key",
            "invalid access key or secret key",
        ]),
        limit: list(&["too many requests", "rate limit exceeded"]),
    }
}

#[test]
fn the_corpus_is_large_and_mixed() {
    let corpus = corpus();
    let of = |source: &str| corpus.iter().filter(|line| line.source == source).count();
    assert!(corpus.len() >= 800 && of("documented") >= 20 && of("variant") >= 500 && of("mutation") >= 200);
    for outcome in ["ok", "not_found", "rejected", "upstream_error", "throttled"] {
        assert!(corpus.iter().filter(|line| line.outcome == outcome).count() >= 30, "{outcome}");
    }
}

#[test]
fn the_classifier_reads_each_as_the_contract_has_it() {
    let (messages, mut wrong) = (messages(), Vec::new());
    for line in corpus() {
        let status = StatusCode::from_u16(line.status).expect("a status");
        let reading = outcome::classify_strictly(status, &line.bytes(), &messages);
        let read = json!([
            reading.outcome.as_str(),
            reading.key_refused,
            rules::storable(reading, status),
            reading.settles_order(status)
        ]);
        let meant = json!([line.outcome, line.key, line.stored, line.settles]);
        if read != meant {
            wrong.push(format!("{}: {read}, should be {meant}", line.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Nested values of a response that is only passed on are not checked: the two classifications differ in nothing else.
#[test]
fn not_strictly_it_differs_only_for_what_is_not_json() {
    let messages = messages();
    for line in corpus() {
        let (status, body) = (StatusCode::from_u16(line.status).expect("a status"), line.bytes());
        let json = std::str::from_utf8(&body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        let outcome = outcome::classify(status, &body, &messages).outcome.as_str();
        assert!(!json || outcome == line.outcome, "{}: {outcome}", line.name);
    }
}

/// How one answer of the sandbox differs from a documented one, if it does.
fn differs(documented: &Value, given: &Value, cut: bool, place: &str) -> Option<String> {
    match (documented, given) {
        (Value::Object(known), Value::Object(here)) => {
            let missing =
                known.keys().find(|name| !here.contains_key(*name)).map(|name| format!("{place}.{name} is missing"));
            let more = here.keys().find(|name| !cut && !known.contains_key(*name));
            let more = more.map(|name| format!("{place}.{name} is not documented"));
            let deeper = || {
                let mut both = known.iter().filter_map(|(name, value)| Some((name, value, here.get(name)?)));
                both.find_map(|(name, value, here)| differs(value, here, cut, &format!("{place}.{name}")))
            };
            missing.or(more).or_else(deeper)
        }
        (Value::Array(known), Value::Array(here)) => {
            let first = known.first()?;
            here.iter().find_map(|element| differs(first, element, cut, &format!("{place}[]")))
        }
        // A number or null, where it is null in the example.
        (Value::Null, Value::Number(_)) | (Value::Number(_), Value::Null) => None,
        _ if std::mem::discriminant(documented) == std::mem::discriminant(given) => None,
        _ => Some(format!("{place}: {given}, documented {documented}")),
    }
}

/// Asks a sandbox itself.
fn direct(addr: SocketAddr, ask: &Ask, awb: &str) -> Answer {
    let mut asked = request(&ask.method, &ask.target);
    if !ask.body.is_empty() {
        asked = asked.json(&ask.body.replace("{awb}", awb));
    }
    if !ask.nobody {
        asked = asked.pair(TWIN.0, TWIN.1);
    }
    Wire::open(addr).ask(&asked)
}

#[test]
fn the_sandbox_gives_the_documented_ones() {
    let start = |not_found| {
        let switches = Switches { not_found, ..Switches::default() };
        Sandbox::start(Options { switches, ..twin() }).expect("a sandbox")
    };
    let (usual, other) = (start(404), start(200));
    let order =
        Ask { method: "POST".into(), target: "/order/express".into(), body: bodies::ORDER.into(), nobody: false };
    let awb = direct(usual.addr(), &order, "").json()["data"]["awb"].as_str().expect("an awb").to_owned();
    let mut tried = 0;
    for line in corpus() {
        let Some(ask) = &line.ask else { continue };
        let sandbox = if line.switch.is_some() { &other } else { &usual };
        let answer = direct(sandbox.addr(), ask, &awb);
        let (given, documented): (Value, Value) = (answer.json(), serde_json::from_slice(&line.bytes()).expect("JSON"));
        assert_eq!((answer.status, &given["success"]), (line.status, &documented["success"]), "{}: {given}", line.name);
        assert_eq!(differs(&documented, &given, line.cut, "$"), None, "{}: {given}", line.name);
        assert_ne!(given["data"], json!([]), "{}: nothing to compare", line.name);
        assert!(!line.says || given["message"] == documented["message"], "{}: {given}", line.name);
        tried += 1;
    }
    assert!(tried >= 22, "{tried}");
}

/// Asks through the gateway while its sandbox gives a line's answer to an operation.
fn while_given(stage: &Stage, wire: &mut Wire, (line, operation): (&Line, &str), asked: Request) -> Answer {
    stage.sandbox.clear_faults();
    stage.sandbox.fault(Fault::on(operation, line.canned()));
    let answer = wire.ask(&asked.by("shop"));
    let bodiless = matches!(line.status, 204 | 304);
    assert_eq!(answer.status, line.status, "{}: {answer:?}", line.name);
    assert!(bodiless || answer.body == line.bytes(), "{}: byte for byte", line.name);
    assert_eq!(answer.outcome(), line.outcome, "{}", line.name);
    answer
}

#[test]
fn the_gateway_stores_what_may_be_stored_and_nothing_else() {
    let stage = Stage::new();
    let mut wire = stage.wire();
    for (number, line) in corpus().iter().enumerate() {
        // A lookup of its own, so that nothing is known of it.
        let lookup = get(&format!("/region/city?province_id={number}"));
        let answer = while_given(&stage, &mut wire, (line, "v2.city"), lookup);
        let stored = answer.header("cache-status").is_some_and(|text| text.contains("stored"));
        assert_eq!((stored, answer.sent()), (line.stored, "yes"), "{}", line.name);
    }
}

#[test]
fn the_gateway_knows_after_each_whether_an_order_is_in_doubt() {
    let stage = Stage::new();
    let mut wire = stage.wire();
    let unknown = || stage.app().gateway.live.orders.unknown_count("main");
    for (number, line) in corpus().iter().enumerate() {
        let before = unknown();
        let order = post("/order/express", &bodies::order(number));
        let answer = while_given(&stage, &mut wire, (line, "v2.order_express"), order);
        assert_eq!(answer.sent(), if line.settles { "yes" } else { "unknown" }, "{}", line.name);
        assert_eq!(unknown() - before, u64::from(!line.settles), "{}: in doubt", line.name);
    }
}
