//! Every refusal says what is wrong, whose doing it was, whether Fastrac saw the request, and when to come back.

use fastrac_sandbox::{Act, Fault, Sandbox};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Answer, Request, get, post, request},
    test_gateway::{SECRET, Setup, Stage, sandbox, secret_of, until, vacant},
};

/// What a refusal must say.
struct Says {
    status: u16,
    code: &'static str,
    outcome: &'static str,
    sent: &'static str,
    /// Whether the service is known, so that it is told its limits.
    known: bool,
}

const fn says(status: u16, code: &'static str, outcome: &'static str) -> Says {
    Says { status, code, outcome, sent: "no", known: true }
}

impl Says {
    fn sent(self, sent: &'static str) -> Says {
        Says { sent, ..self }
    }

    fn unknown(self) -> Says {
        Says { known: false, ..self }
    }

    /// Asks twice, once for each form.
    fn in_both_forms(&self, stage: &Stage, asked: &Request) -> Answer {
        let problem = stage.ask(asked.clone().header("accept", "text/html, application/problem+json"));
        self.head(&problem, "application/problem+json");
        let body = problem.json();
        self.error(&problem, &body["error"]);
        assert_eq!(body["type"], format!("urn:fastrac-gateway:{}", self.code));
        assert_eq!(body["status"], self.status);
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");

        let plain = stage.ask(asked.clone());
        self.by_envelope(&plain);
        let line = stage.line(plain.header("x-request-id").expect("an id"));
        let written = [&line["status"], &line["outcome"], &line["code"], &line["sent"]];
        assert_eq!(written, [&json!(self.status), &json!(self.outcome), &json!(self.code), &json!(self.sent)]);
        plain
    }

    fn by_envelope(&self, answer: &Answer) {
        self.head(answer, "application/json");
        let body = answer.json();
        self.error(answer, &body["error"]);
        assert_eq!((&body["success"], &body["data"]), (&json!(false), &Value::Null));
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
        let at: jiff::Timestamp = body["timestamp"].as_str().and_then(|at| at.parse().ok()).expect("a time");
        assert!(at.duration_until(jiff::Timestamp::now()).abs().as_secs() < 60);
    }

    fn head(&self, answer: &Answer, kind: &str) {
        assert_eq!(
            (answer.status, answer.outcome(), answer.sent()),
            (self.status, self.outcome, self.sent),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("content-type"), Some(kind));
        let proxy = answer.header("proxy-status").expect("Proxy-Status");
        assert!(proxy.starts_with("fastrac-gateway; error="), "{proxy}");
        assert!(proxy.ends_with(&format!("; details=\"{}\"", self.code)), "{proxy}");
        assert_eq!(answer.header("retry-after").is_some(), matches!(self.status, 429 | 503), "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy").is_some(), self.known, "{answer:?}");
        assert_eq!(answer.header("ratelimit").is_some(), self.known, "{answer:?}");
    }

    fn error(&self, answer: &Answer, error: &Value) {
        let mut expected = json!({
            "code": self.code, "by": "gateway", "sent": self.sent, "request_id": answer.header("x-request-id"),
        });
        if let Some(after) = answer.header("retry-after") {
            let after: u64 = after.parse().expect("whole seconds");
            assert!(after >= 1);
            expected["retry_after"] = after.into();
        }
        assert_eq!(*error, expected);
    }
}

/// A refusal before a request was read has what every other has.
pub(crate) fn before_a_request(answer: &Answer) {
    let (id, error) = (answer.header("x-request-id").expect("an id"), &answer.json()["error"]);
    assert_eq!((error["request_id"].as_str(), &error["by"]), (Some(id), &"gateway".into()));
    assert_eq!(id.len(), 36, "{id}");
    let at = answer.json()["timestamp"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time");
    assert!(at.duration_until(jiff::Timestamp::now()).abs().as_secs() < 60);
    let proxy = answer.header("proxy-status").expect("Proxy-Status");
    assert!(proxy.ends_with(&format!("; details=\"{}\"", answer.code())), "{proxy}");
    assert_eq!((answer.header("connection"), answer.header("content-type")), (Some("close"), Some("application/json")));
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    assert!(answer.header("date").is_some());
}

/// A service with quotas, so that it is told its limits.
const LIMITED: &[(&str, &str)] = &[(
    "shop2",
    "quota = { per_second = 1000, per_day = 100000 }\nallow = [\"lookup\", \"read\", \"quote\", \"order\", \"account\", \"unlisted\"]",
)];

fn limited() -> Setup {
    Setup { services: LIMITED, ..Setup::default() }
}

#[test]
fn a_stranger_is_told_how_to_prove_itself_and_nothing_else() {
    let stage = Stage::new();
    let secret = secret_of("shop");
    let says = says(401, "caller.unknown", "unauthenticated").unknown();
    for asked in [
        get("/region/province"),
        get("/region/province").pair("svc-shop-1", "wrong"),
        get("/region/province").pair("nobody", &secret),
        get("/region/province").header("access-key", "svc-shop-1"),
        get("/region/province").by("shop").header("secret-key", &secret),
        get("/region/province").by("shop").by("shop"),
        get("/region/province").by("shop").basic("svc-shop-1", "wrong"),
        get("/region/province").by("shop").by("clerk"),
        get("/region/province").by("shop").bearer("svc-clerk-1", &secret_of("clerk")),
        get("/region/province").header("authorization", "Basic Og=="),
        get("/region/province").header("authorization", "Bearer svc-shop-1"),
        get("/region/province").header("authorization", "Negotiate x"),
        get("/region/province").pair(crate::test_gateway::ACCESS, SECRET),
        get("/order/express"),
        get("/nothing"),
    ] {
        let answer = says.in_both_forms(&stage, &asked);
        let challenges: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(challenges, ["Basic realm=\"fastrac-gateway\"", "Bearer realm=\"fastrac-gateway\""]);
    }
    assert_eq!(stage.received().len(), 0);
    assert_eq!(stage.metric("requests_total", &[("service", "-"), ("outcome", "unauthenticated")]), 30.0);
}

#[test]
fn a_service_may_call_only_what_it_is_allowed() {
    let services = &[("looker", "quota = { per_day = 1000 }\nallow = [\"lookup\", \"v2.track\"]")];
    let stage = Setup { services, ..Setup::default() }.start();
    let says = says(403, "caller.class", "forbidden");
    for (asked, class) in [
        (post("/tariff/express", bodies::TARIFF), "quote"),
        (post("/order/express", bodies::ORDER), "order"),
        (post("/apiOrder/cancelOrder", "{}"), "order"),
        (post("/webhook/set", "{}"), "account"),
        (get("/webhook"), "account"),
        (request("PUT", "/region/province"), "unlisted"),
        (request("POST", "/order/track").json("{}"), "unlisted"),
        (request("HEAD", "/order/express").header("accept", "*/*"), "unlisted"),
        (get("/nothing"), "unlisted"),
        (get("/"), "unlisted"),
    ] {
        if asked.method == "HEAD" {
            assert_eq!(stage.ask(asked.by("looker")).status, 403);
            continue;
        }
        let answer = says.in_both_forms(&stage, &asked.by("looker"));
        let message = answer.json()["message"].as_str().expect("a message").to_owned();
        assert!(message.contains("looker") && message.contains(&format!("class {class}")), "{message}");
    }
    assert_eq!(stage.received().len(), 0);
    assert_eq!(stage.ask(request("GET", "/order/track").json("{}").by("looker")).outcome(), "rejected");
}

#[test]
fn no_spelling_of_an_order_gets_past_who_may_not_order() {
    let stage = Stage::new();
    let says = says(400, "request.malformed", "bad_request").unknown();
    let spellings = [
        "/order/express/",
        "//order/express",
        "/order//express",
        "/Order/Express",
        "/ORDER/EXPRESS",
        "/order/%65xpress",
        "/%6frder/express",
        "/order/express%20",
        "/order/express;x=y",
        "/order;v=1/express",
        "/order/express/.",
        "/./order/express",
        "/x/../order/express",
        "/x/%2e%2e/order/express",
        "/order%2fexpress",
        "/order%2Fexpress",
        "/order%5cexpress",
        "/order\\express",
        "/order/express%00",
        "/order/..;/order/express",
        "/order/express/%2e",
        "/order/expres%73",
        "/apiorder/orderexpress",
        "/apiOrder/OrderExpress",
        "/nothing/..",
        "/nothing/%2E",
        "/order/express%09",
        "/order/%45xpress",
    ];
    for spelling in spellings {
        for method in ["POST", "GET", "PUT"] {
            let answer = stage.ask(request(method, spelling).json(bodies::ORDER).by("shop"));
            says.by_envelope(&answer);
        }
    }
    assert_eq!(stage.received().len(), 0);
    assert_eq!(
        stage.metric("requests_total", &[("operation", "-"), ("outcome", "bad_request")]),
        3.0 * spellings.len() as f64
    );
}

#[test]
fn what_cannot_be_read_one_way_only_is_refused_before_anything_is_spent() {
    let stage = limited().start();
    let malformed = says(400, "request.malformed", "bad_request");
    for (asked, says) in [
        (
            get("/region/province").header("host", "a").header("host", "b"),
            says(400, "request.malformed", "bad_request").unknown(),
        ),
        (get("http://a/region/province").header("host", "b"), says(400, "request.malformed", "bad_request").unknown()),
        (
            get("/region/province").header("x-gateway-timeout", "soon"),
            says(400, "request.malformed", "bad_request").unknown(),
        ),
        (
            get("/region/province").header("x-gateway-timeout", "0"),
            says(400, "request.malformed", "bad_request").unknown(),
        ),
        (
            get("/region/province").header("upgrade", "websocket").header("connection", "upgrade"),
            says(501, "request.upgrade", "bad_request").unknown(),
        ),
        (request("CONNECT", "fastrac:443"), says(501, "request.upgrade", "bad_request").unknown()),
        (post("/order/express", "{}").header("idempotency-key", ""), says(400, "request.idempotency", "bad_request")),
        (
            post("/order/express", "{}").header("idempotency-key", "a").header("idempotency-key", "a"),
            says(400, "request.idempotency", "bad_request"),
        ),
        (
            post("/order/express", "{}").header("idempotency-key", "\"open"),
            says(400, "request.idempotency", "bad_request"),
        ),
        (
            post("/order/express", "{}").header("idempotency-key", &"k".repeat(256)),
            says(400, "request.idempotency", "bad_request"),
        ),
    ] {
        says.in_both_forms(&stage, &asked.by("shop2"));
    }
    // A body that is framed wrongly is found out while it is read.
    let mut wire = stage.wire();
    wire.send(&request("POST", "/tariff/express").header("transfer-encoding", "chunked").by("shop2").bytes());
    wire.send(b"zz\r\n");
    malformed.by_envelope(&wire.answer("POST").expect("an answer"));
    assert!(wire.ends());
    assert_eq!(stage.received().len(), 0);
}

#[test]
fn both_framings_at_once_are_read_as_chunked_and_end_the_connection() {
    let stage = Stage::new();
    let mut asked =
        request("POST", "/nothing").by("shop").header("content-length", "3").header("transfer-encoding", "chunked");
    asked.body = b"5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let mut wire = stage.wire();
    let answer = wire.ask(&asked);
    match answer.status {
        400 => assert_eq!(stage.received().len(), 0),
        _ => {
            assert!(wire.ends(), "the connection closes");
            let received = stage.received();
            assert_eq!(received.len(), 1);
            assert_eq!(received[0].body, "hello");
            assert!(
                !(received[0].headers.contains_key("content-length")
                    && received[0].headers.contains_key("transfer-encoding"))
            );
        }
    }
}

#[test]
fn heads_that_cannot_be_read_are_counted_under_an_id_of_their_own() {
    let stage = Stage::new();
    let long = "x".repeat(70_000);
    let heads = [
        ("NONSENSE\r\n\r\n".to_owned(), Some(400)),
        ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), Some(400)),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n".to_owned(), Some(400)),
        ("GET / HTTP/1.1\r\nhost: a\r\nna me: 1\r\n\r\n".to_owned(), Some(400)),
        ("GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n".to_owned(), Some(400)),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(), Some(400)),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_owned(), Some(400)),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), Some(400)),
        ("GET / HTTP/7.1\r\nhost: a\r\n\r\n".to_owned(), Some(400)),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), Some(431)),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(200)), Some(431)),
    ];
    for (number, (head, status)) in heads.iter().enumerate() {
        let mut wire = stage.wire();
        wire.send(head.as_bytes());
        let answer = wire.answer("GET");
        let shown = &head[..head.len().min(80)];
        assert_eq!(answer.as_ref().map(|answer| answer.status), *status, "{shown:?}");
        assert!(answer.is_none_or(|answer| answer.body.is_empty()) && wire.ends(), "{shown:?}");
        let line = stage.lines(number + 1).pop().expect("a line");
        assert_eq!((&line["status"], &line["outcome"]), (&json!(status), &json!("bad_request")), "{shown:?}: {line}");
        for member in ["service", "account", "operation", "class", "method", "path"] {
            assert_eq!(line[member], "-", "{line}");
        }
        let code = if *status == Some(431) { "request.headers" } else { "request.malformed" };
        assert_eq!(line["code"], code, "{shown:?}");
    }
    // One whose peer left in its middle.
    let mut wire = stage.wire();
    wire.send(b"GET / HTTP/1.1\r\nhost: ");
    drop(wire);
    let line = stage.lines(heads.len() + 1).pop().expect("a line");
    assert_eq!((&line["status"], &line["outcome"]), (&Value::Null, &json!("bad_request")));
    let counted = [("service", "-"), ("operation", "-"), ("outcome", "bad_request")];
    assert_eq!(stage.metric("requests_total", &counted), heads.len() as f64 + 1.0);
    assert_eq!(stage.received().len(), 0);
}

#[test]
fn a_long_target_is_refused_and_counted() {
    let stage = Stage::new();
    let mut wire = stage.wire();
    wire.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(65_530)).as_bytes());
    let status = wire.answer("GET").expect("an answer").status;
    assert!(matches!(status, 414 | 431), "{status}");
    assert_eq!(stage.lines(1)[0]["status"], status);
}

#[test]
fn a_long_body_is_refused_before_it_is_read_in_either_framing() {
    let stage = Setup { limits: "request_body = \"1KiB\"", ..limited() }.start();
    let says = says(413, "request.too_large", "bad_request");
    says.in_both_forms(&stage, &post("/tariff/express", &"x".repeat(1_025)).by("shop2"));
    let mut announced = stage.wire();
    announced.send(&request("POST", "/tariff/express").header("content-length", "99999999").by("shop2").bytes());
    says.by_envelope(&announced.answer("POST").expect("an answer"));
    let mut chunked = stage.wire();
    let mut asked = request("POST", "/tariff/express").header("transfer-encoding", "chunked").by("shop2");
    asked.body = format!("401\r\n{}\r\n", "x".repeat(1_025)).into_bytes();
    says.by_envelope(&chunked.ask(&asked));
    let exact = stage.ask(post("/tariff/express", &"x".repeat(1_024)).by("shop2"));
    assert_eq!((exact.status, exact.outcome()), (400, "rejected"));
    assert_eq!(stage.received().len(), 1);
}

#[test]
fn a_slow_body_is_refused_in_time() {
    let stage = Setup { limits: "request = \"300ms\"", ..limited() }.start();
    let mut wire = stage.wire();
    wire.send(&request("POST", "/tariff/express").header("content-length", "10").by("shop2").bytes());
    wire.send(b"{\"a\"");
    says(408, "request.timeout", "bad_request").by_envelope(&wire.answer("POST").expect("an answer"));
    assert!(wire.ends(), "what would follow can't be told from the body");
    assert_eq!(stage.received().len(), 0);
}

#[test]
fn a_body_is_asked_for_where_its_caller_waits_for_that() {
    let stage = Stage::new();
    let mut wire = stage.wire();
    let asked = post("/tariff/express", bodies::TARIFF).by("shop").header("expect", "100-continue");
    let bytes = asked.bytes();
    let head = bytes.len() - bodies::TARIFF.len();
    wire.send(&bytes[..head]);
    until("the gateway asks for the body", || wire.continues());
    wire.send(&bytes[head..]);
    assert_eq!(wire.answer("POST").expect("an answer").status, 200);
}

#[test]
fn the_quota_of_the_second_is_its_own() {
    let services = &[("slow", "quota = { per_second = 1, burst = 2 }\nallow = [\"quote\"]")];
    let stage = Setup { services, ..Setup::default() }.start();
    let asked = post("/tariff/express", bodies::TARIFF);
    let mut wire = stage.wire();
    let mut asks = 0;
    let refused = loop {
        let answer = wire.ask(&asked.clone().by("slow"));
        asks += 1;
        assert_eq!(answer.header("ratelimit-policy"), Some("\"second\";q=1;w=1"));
        if answer.status != 200 {
            break answer;
        }
        assert!(asks < 200, "never refused");
    };
    assert!(asks > 2, "the burst is there");
    says(429, "quota.second", "over_quota").by_envelope(&refused);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some("\"second\";r=0;t=1"));
    assert!(refused.json()["message"].as_str().expect("a message").contains("slow"));
    assert_eq!(stage.ask(asked.by("shop")).status, 200, "others aren't touched");
    assert_eq!(stage.received().len(), asks);
}

#[test]
fn the_quota_of_the_day_ends_at_midnight_in_jakarta() {
    let services = &[("poor", "quota = { per_day = 2 }\nallow = [\"lookup\", \"quote\"]")];
    let stage = Setup { services, ..Setup::default() }.start();
    let asked = post("/tariff/express", bodies::TARIFF).by("poor");
    for left in [1, 0] {
        let answer = stage.ask(asked.clone());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"day\";q=2;w=86400"));
        assert!(
            answer.header("ratelimit").expect("RateLimit").starts_with(&format!("\"day\";r={left};t=")),
            "{answer:?}"
        );
    }
    let zone = jiff::tz::TimeZone::get("Asia/Jakarta").expect("a zone");
    let midnight = || {
        let now = jiff::Timestamp::now().to_zoned_datetime(zone.clone());
        now.tomorrow().and_then(|day| day.start_of_day()).expect("a midnight").timestamp()
    };
    let before = midnight();
    let refused = says(429, "quota.day", "over_quota").in_both_forms(&stage, &asked);
    let after: i64 = refused.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
    let left = before.as_second() - jiff::Timestamp::now().as_second();
    assert!(before != midnight() || (left..=left + 3).contains(&after), "{after} of {left}");
    let message = refused.json()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("poor") && message.ends_with("T00:00:00+07:00"), "{message}");
    assert_eq!(stage.received().len(), 2);
}

#[test]
fn a_refused_or_failed_request_costs_nothing_of_the_day() {
    let services = &[("poor", "quota = { per_day = 2 }\nallow = [\"lookup\", \"quote\"]")];
    let stage = Setup { services, budget: "per_day = 4, in_flight = 8", ..Setup::default() }.start();
    for _ in 0..5 {
        assert_eq!(stage.ask(post("/order/express", "{}").by("poor")).status, 403);
        assert_eq!(stage.ask(get("/region/../x").by("poor")).status, 400);
        assert_eq!(
            stage.ask(get("/region/city?province_id=31").by("poor").header("cache-control", "only-if-cached")).status,
            504
        );
    }
    assert_eq!(stage.ask(get("/region/city?province_id=31").by("poor")).outcome(), "ok");
    for _ in 0..5 {
        assert_eq!(stage.ask(get("/region/city?province_id=31").by("poor")).outcome(), "hit");
    }
    assert_eq!(stage.ask(post("/tariff/express", bodies::TARIFF).by("poor")).outcome(), "ok");
    assert_eq!(stage.ask(post("/tariff/express", bodies::TARIFF).by("poor")).code(), "quota.day");
    // The canary and two requests were sent: one is left for others.
    assert_eq!(stage.ask(post("/tariff/express", bodies::TARIFF).by("shop")).outcome(), "ok");
    says(503, "budget.day", "over_budget")
        .unknown()
        .in_both_forms(&stage, &post("/tariff/express", bodies::TARIFF).by("shop"));
}

#[test]
fn the_budget_of_the_second_and_what_is_in_flight_are_refused_apart() {
    let stage = Setup { budget: "per_second = 1, burst = 1, in_flight = 8, max_wait = \"1ms\"", ..limited() }.start();
    let asked = post("/tariff/express", bodies::TARIFF).by("shop2");
    let mut wire = stage.wire();
    let mut refused = wire.ask(&asked);
    for _ in 0..200 {
        if refused.status != 200 {
            break;
        }
        refused = wire.ask(&asked);
    }
    says(503, "budget.second", "over_budget").by_envelope(&refused);

    let stage = Setup { budget: "in_flight = 1, max_wait = \"1ms\"", ..limited() }.start();
    stage.sandbox.fault(Fault { wait_ms: 2_000, ..Fault::on("v2.multi_items", Act::Pass) });
    let mut slow = stage.wire();
    slow.send(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop2").bytes());
    until("it is in flight", || stage.received().len() == 1);
    says(503, "budget.in_flight", "over_budget").in_both_forms(&stage, &asked);
    drop(slow);
    until("its place is free again", || stage.ask(asked.clone()).status == 200);
}

#[test]
fn an_unreachable_fastrac_is_told_apart_and_costs_nothing() {
    let (_held, gone) = vacant();
    let services = &[("poor", "quota = { per_day = 2 }\nallow = [\"lookup\", \"quote\", \"order\"]")];
    let base_url = Some(format!("http://{gone}"));
    let stage = Setup { services, base_url, wait: false, ..Setup::default() }.start();
    until("a pair is at hand", || stage.app().gateway.was_ready());
    let says = says(502, "upstream.connect", "unreachable");
    says.in_both_forms(&stage, &get("/region/province").by("poor"));
    says.in_both_forms(&stage, &post("/tariff/express", bodies::TARIFF).by("poor"));
    says.in_both_forms(&stage, &post("/order/express", bodies::ORDER).header("idempotency-key", "k1").by("poor"));
    assert!(stage.metric("upstream_requests_total", &[("status", "failed")]) >= 6.0);
}

#[test]
fn a_late_fastrac_is_told_by_504_and_nobody_knows_what_it_did() {
    let more =
        "[operations.\"v2.multi_items\"]\ntimeout = \"400ms\"\n[operations.\"v2.couriers\"]\ntimeout = \"400ms\"\n";
    let stage = Setup { more, ..limited() }.start();
    let slow = |operation| stage.sandbox.fault(Fault { wait_ms: 3_000, ..Fault::on(operation, Act::Pass) });
    for operation in ["v2.multi_items", "v2.couriers", "v2.track", "v2.order_express"] {
        slow(operation);
    }
    let says = says(504, "upstream.timeout", "timeout").sent("unknown");
    says.in_both_forms(&stage, &post("/item/multi-items", bodies::MULTI_ITEMS).by("shop2"));
    says.in_both_forms(&stage, &get("/courier/all").by("shop2"));
    let track = request("GET", "/order/track").json(r#"{"courier_code":"idx","awb":"x"}"#);
    says.in_both_forms(&stage, &track.by("shop2").header("x-gateway-timeout", "400"));
    let order = post("/order/express", bodies::ORDER).by("shop2").header("x-gateway-timeout", "400");
    says.in_both_forms(&stage, &order.header("x-gateway-resend", "confirmed"));
    // The canary asks for provinces, whenever it likes.
    let asked = stage.received().into_iter().filter(|entry| entry.uri.path() != "/region/province").count();
    assert_eq!(asked, 8, "none was sent twice");
}

#[test]
fn a_lost_answer_is_told_by_502_and_nobody_knows_what_fastrac_did() {
    let stage = Setup { limits: "answer_body = \"64KiB\"\nanswer_buffer = \"64KiB\"", ..limited() }.start();
    let says = says(502, "upstream.cut", "cut").sent("unknown");
    let tariff = post("/tariff/express", bodies::TARIFF).by("shop2");
    for act in [
        Act::Reset,
        Act::Close,
        Act::Lose,
        Act::LoseReset,
        Act::Cut { after: 20, reset: false },
        Act::Cut { after: 20, reset: true },
        Act::WrongLength { by: 7 },
        Act::Long { bytes: 70_000 },
    ] {
        stage.sandbox.clear_faults();
        stage.sandbox.fault(Fault::on("v2.tariff_express", act.clone()));
        says.in_both_forms(&stage, &tariff);
    }
    // One attempt more does no harm to a price: it is made, and says so.
    stage.sandbox.clear_faults();
    stage.sandbox.fault(Fault::on("v2.tariff_express", Act::Close).times(1));
    let answer = stage.ask(tariff);
    assert_eq!((answer.status, answer.sent()), (200, "yes"));
    assert_eq!(stage.line(answer.header("x-request-id").expect("an id"))["attempts"], 2);
    assert!(stage.metric("retries_total", &[("account", "main")]) >= 1.0);
}

#[test]
fn only_if_cached_never_asks() {
    let stage = limited().start();
    let says = says(504, "cache.only", "not_cached");
    let asked = get("/region/province").by("shop2");
    says.in_both_forms(&stage, &asked.clone().header("cache-control", "only-if-cached"));
    assert_eq!(stage.received().len(), 0);
    stage.ask(asked.clone());
    assert_eq!(stage.ask(asked.header("cache-control", "max-age=5, only-if-cached")).outcome(), "hit");
}

#[test]
fn a_failing_fastrac_opens_the_breaker() {
    let breaker = "minimum = 4, failures = 0.5, open = \"60s\", window = \"60s\"";
    let stage = Setup { breaker, ..limited() }.start();
    stage.sandbox.fault(Fault::on("v2.webhook_get", Act::Html(500)));
    let mut wire = stage.wire();
    let asked = get("/webhook/get").by("shop2");
    let mut failures = 0;
    while wire.ask(&asked).status == 500 {
        failures += 1;
        assert!(failures < 20, "never opens");
    }
    let before = stage.received().len();
    let refused = says(503, "upstream.breaker", "breaker_open")
        .in_both_forms(&stage, &post("/tariff/express", bodies::TARIFF).by("shop2"));
    let after: u64 = refused.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
    assert!((50..=60).contains(&after), "{after}");
    assert_eq!(stage.received().len(), before);
    let ready = stage.admin("/readyz");
    assert!(ready.status == 200 && ready.text().contains("circuit breaker open"), "{}", ready.text());
}

#[test]
fn a_refusal_by_fastrac_never_opens_the_breaker() {
    let stage = Setup { breaker: "minimum = 1, failures = 0.1", ..Setup::default() }.start();
    for _ in 0..5 {
        assert_eq!(stage.ask(post("/tariff/express", "{}").by("shop")).outcome(), "rejected");
        assert_eq!(stage.ask(get("/region/city?province_id=9999").by("shop")).status, 404);
    }
    assert_eq!(stage.ask(post("/tariff/express", bodies::TARIFF).by("shop")).status, 200);
}

#[test]
fn without_a_usable_pair_nothing_is_sent() {
    let sandbox = Sandbox::start(sandbox()).expect("a sandbox");
    sandbox.revoke(crate::test_gateway::ACCESS);
    let base_url = Some(format!("http://{}", sandbox.addr()));
    let stage = Setup { base_url, wait: false, ..limited() }.start();
    until("the canary is refused", || sandbox.journal().iter().any(|entry| entry.status == Some(401)));
    let asked = post("/tariff/express", bodies::TARIFF).by("shop2");
    until("the pair is out of use", || stage.ask(asked.clone()).code() == "keys.unavailable");
    says(503, "keys.unavailable", "no_key").in_both_forms(&stage, &asked);
    let ready = stage.admin("/readyz");
    assert!(ready.status == 503 && ready.text().contains("main"), "{}", ready.text());
}

#[test]
fn a_pair_that_fastrac_takes_back_is_told_by_502() {
    let stage = limited().start();
    stage.sandbox.revoke(crate::test_gateway::ACCESS);
    let answer = stage.ask(post("/tariff/express", bodies::TARIFF).by("shop2"));
    says(502, "keys.rejected", "key_rejected").sent("yes").by_envelope(&answer);
}

#[test]
fn a_401_that_is_the_requests_own_passes() {
    let stage = Stage::new();
    let body = r#"{"success":false,"message":"Not for this user"}"#;
    stage.sandbox.fault(Fault::on("v2.balance_history", Act::answer(401, body)));
    let answer = stage.ask(post("/user/balance/history", "{}").by("shop"));
    assert_eq!((answer.status, answer.outcome(), answer.text().as_str()), (401, "rejected", body));
    assert_eq!(answer.header("www-authenticate"), None);
}

#[test]
fn fastracs_throttling_passes_with_the_time_to_wait() {
    let stage = Stage::new();
    for (given, told) in [(Some(7), "7"), (None, "1")] {
        stage.sandbox.clear_faults();
        stage.sandbox.fault(Fault::on("v2.tariff_express", Act::throttle(given)));
        let answer = stage.ask(post("/tariff/express", bodies::TARIFF).by("shop"));
        assert_eq!((answer.status, answer.outcome(), answer.sent()), (429, "throttled", "yes"));
        assert_eq!(answer.header("retry-after"), Some(told));
        assert_eq!(answer.text(), r#"{"success":false,"message":"Too Many Requests"}"#);
        let proxy = answer.header("proxy-status").expect("Proxy-Status");
        assert!(proxy.ends_with("details=\"upstream.limit\""), "{proxy}");
    }
    stage.sandbox.clear_faults();
    stage.sandbox.fault(Fault::on("v2.tariff_express", Act::refuse(" too many REQUESTS ")));
    let answer = stage.ask(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!((answer.status, answer.outcome(), answer.header("retry-after")), (200, "throttled", Some("1")));
}

#[test]
fn a_request_id_is_kept_if_it_is_sound() {
    let stage = Stage::new();
    for (given, kept) in
        [("order-2026.01_x", true), ("short", false), ("has blank inside", false), (&"x".repeat(129), false)]
    {
        let answer = stage.ask(get("/region/province").by("shop").header("x-request-id", given));
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert_eq!(id == given, kept, "{given}");
        stage.line(&id);
    }
    let twice = get("/nothing").header("x-request-id", "first-id").header("x-request-id", "second-id");
    assert_eq!(stage.ask(twice).header("x-request-id").expect("an id").len(), 36);
}
