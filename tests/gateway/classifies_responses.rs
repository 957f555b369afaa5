//! One corpus of responses, for the sandbox that sends them and the gateway that classifies them.
//!
//! `corpus/answers/answers.jsonl` holds documented responses, variants and mutations with their expected
//! classification; `generate.py` beside it documents how that was decided. The classifier must agree, the
//! sandbox must send the documented ones, and the whole gateway must act accordingly:
//! outcome, whether it stores the response, and whether an order's outcome is unknown afterwards.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fastrac_gateway::{cache::rules, config::MessagesConfig, outcome};
use fastrac_sandbox::{Act, CannedResponse, Fault, Options, Sandbox, Switches};
use http::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Connection, Request, Response, post, request},
    test_gateway::{TWIN, TestGateway, twin},
};

const CORPUS: &str = include_str!("corpus/answers/answers.jsonl");

/// A response and its expected classification.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CorpusEntry {
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
    /// The request that makes the sandbox send it.
    ask: Option<DocumentedRequest>,
    /// The public documentation abbreviates the list of members: there may be more.
    #[serde(default)]
    cut: bool,
    /// Its `message` is documented too.
    #[serde(default)]
    says: bool,
    /// `not_found_status` of the sandbox, if it is not 404.
    switch: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentedRequest {
    method: String,
    target: String,
    #[serde(default)]
    body: String,
    /// Sent without a key pair.
    #[serde(default)]
    nobody: bool,
}

impl CorpusEntry {
    fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).expect("base64"),
            _ => panic!("{}: one of body and base64", self.name),
        }
    }

    /// The fault that makes the sandbox send it.
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

fn corpus() -> Vec<CorpusEntry> {
    CORPUS.lines().map(|entry| serde_json::from_str(entry).unwrap_or_else(|error| panic!("{error}: {entry}"))).collect()
}

/// The built-in messages, in lower case as `config/check` passes them on.
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
fn the_corpus_has_enough_entries_of_every_kind() {
    let corpus = corpus();
    let of = |source: &str| corpus.iter().filter(|entry| entry.source == source).count();
    assert!(corpus.len() >= 800 && of("documented") >= 20 && of("variant") >= 500 && of("mutation") >= 200);
    for outcome in ["ok", "not_found", "rejected", "upstream_error", "throttled"] {
        assert!(corpus.iter().filter(|entry| entry.outcome == outcome).count() >= 30, "{outcome}");
    }
}

#[test]
fn the_classifier_agrees_with_the_corpus() {
    let (messages, mut wrong) = (messages(), Vec::new());
    for entry in corpus() {
        let status = StatusCode::from_u16(entry.status).expect("a status");
        let reading = outcome::classify_strictly(status, &entry.bytes(), &messages);
        let read = json!([
            reading.outcome.as_str(),
            reading.key_refused,
            rules::storable(reading, status) && !rules::is_marked(&entry.bytes()),
            reading.settles_order(status)
        ]);
        let meant = json!([entry.outcome, entry.key, entry.stored, entry.settles]);
        if read != meant {
            wrong.push(format!("{}: {read}, expected {meant}", entry.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Nested values of a response that is only passed on are not checked: the two classifications differ in nothing else.
#[test]
fn not_strictly_it_differs_only_for_what_is_not_json() {
    let messages = messages();
    for entry in corpus() {
        let (status, body) = (StatusCode::from_u16(entry.status).expect("a status"), entry.bytes());
        let json = std::str::from_utf8(&body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        let outcome = outcome::classify(status, &body, &messages).outcome.as_str();
        assert!(!json || outcome == entry.outcome, "{}: {outcome}", entry.name);
    }
}

/// The first difference between a response of the sandbox and the documented one, if any.
fn differs(documented: &Value, actual: &Value, cut: bool, place: &str) -> Option<String> {
    match (documented, actual) {
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
        // Where the example has null, a number is allowed too.
        (Value::Null, Value::Number(_)) | (Value::Number(_), Value::Null) => None,
        _ if std::mem::discriminant(documented) == std::mem::discriminant(actual) => None,
        _ => Some(format!("{place}: {actual}, documented {documented}")),
    }
}

/// Sends a request to a sandbox directly.
fn direct(addr: SocketAddr, ask: &DocumentedRequest, awb: &str) -> Response {
    let mut request = request(&ask.method, &ask.target);
    if !ask.body.is_empty() {
        request = request.json(&ask.body.replace("{awb}", awb));
    }
    if !ask.nobody {
        request = request.pair(TWIN.0, TWIN.1);
    }
    Connection::open(addr).send(&request)
}

#[test]
fn the_sandbox_gives_the_documented_responses() {
    let start = |not_found| {
        let switches = Switches { not_found, ..Switches::default() };
        Sandbox::start(Options { switches, ..twin() }).expect("a sandbox")
    };
    let (usual, other) = (start(404), start(200));
    let order = DocumentedRequest {
        method: "POST".into(),
        target: "/order/express".into(),
        body: bodies::ORDER.into(),
        nobody: false,
    };
    let awb = direct(usual.addr(), &order, "").json()["data"]["awb"].as_str().expect("an awb").to_owned();
    let mut tried = 0;
    for entry in corpus() {
        let Some(ask) = &entry.ask else { continue };
        let sandbox = if entry.switch.is_some() { &other } else { &usual };
        let response = direct(sandbox.addr(), ask, &awb);
        let (actual, documented): (Value, Value) =
            (response.json(), serde_json::from_slice(&entry.bytes()).expect("JSON"));
        assert_eq!(
            (response.status, &actual["success"]),
            (entry.status, &documented["success"]),
            "{}: {actual}",
            entry.name
        );
        assert_eq!(differs(&documented, &actual, entry.cut, "$"), None, "{}: {actual}", entry.name);
        assert_ne!(actual["data"], json!([]), "{}: nothing to compare", entry.name);
        assert!(!entry.says || actual["message"] == documented["message"], "{}: {actual}", entry.name);
        tried += 1;
    }
    assert!(tried >= 22, "{tried}");
}

/// A connection to a gateway whose sandbox sends entries of the corpus.
struct CorpusConnection<'a> {
    gateway: &'a TestGateway,
    connection: Connection,
}

impl CorpusConnection<'_> {
    /// Sends a request while the sandbox responds to an operation with this entry.
    fn send(&mut self, request: Request, operation: &str, entry: &CorpusEntry) -> Response {
        self.gateway.sandbox.clear_faults();
        self.gateway.sandbox.fault(Fault::on(operation, entry.canned()));
        self.gateway.wait_for_pauses();
        let bodiless = matches!(entry.status, 204 | 304) || request.method == "HEAD";
        let response = self.connection.send(&request.by("shop"));
        assert_eq!(response.status, entry.status, "{}: {response:?}", entry.name);
        assert!(bodiless || response.body == entry.bytes(), "{}: byte for byte", entry.name);
        assert_eq!(response.outcome(), entry.outcome, "{}", entry.name);
        response
    }
}

/// HEAD is fetched as GET, so it is the whole response that is judged and stored.
#[test]
fn the_gateway_stores_what_the_corpus_allows() {
    let gateway = TestGateway::new();
    let mut connection = CorpusConnection { gateway: &gateway, connection: gateway.connect() };
    for (number, entry) in corpus().iter().enumerate() {
        for method in ["GET", "HEAD"] {
            // A different lookup each time, so that none is in the cache.
            let lookup = request(method, &format!("/region/city?province_id={number}&by={method}"));
            let response = connection.send(lookup, "v2.city", entry);
            let stored = response.header("cache-status").is_some_and(|text| text.contains("stored"));
            assert_eq!((stored, response.sent()), (entry.stored, "yes"), "{method}: {}", entry.name);
        }
    }
}

#[test]
fn the_gateway_counts_an_order_as_unknown_where_the_corpus_does() {
    let gateway = TestGateway::new();
    let mut connection = CorpusConnection { gateway: &gateway, connection: gateway.connect() };
    let unknown = || gateway.app().gateway.live.orders.unknown_count("main");
    for (number, entry) in corpus().iter().enumerate() {
        let before = unknown();
        let order = post("/order/express", &bodies::order(number));
        let response = connection.send(order, "v2.order_express", entry);
        assert_eq!(response.sent(), if entry.settles { "yes" } else { "unknown" }, "{}", entry.name);
        assert_eq!(unknown() - before, u64::from(!entry.settles), "{}: in doubt", entry.name);
    }
}
