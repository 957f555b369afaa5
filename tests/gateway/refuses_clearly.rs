//! Every refusal says what is wrong, who caused it, whether Fastrac received the request, and when to retry.

use fastrac_sandbox::{Act, Fault, Sandbox};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Request, Response, get, post, request},
    test_gateway::{SECRET, Setup, TestGateway, closed_port, pair, sandbox, secret_of, until, write},
};

/// The expected content of a refusal.
struct ExpectedRefusal {
    status: u16,
    code: &'static str,
    outcome: &'static str,
    sent: &'static str,
    /// Whether the service is known, so that the response has its limits.
    known: bool,
}

const fn refusal(status: u16, code: &'static str, outcome: &'static str) -> ExpectedRefusal {
    ExpectedRefusal { status, code, outcome, sent: "no", known: true }
}

impl ExpectedRefusal {
    fn sent(self, sent: &'static str) -> ExpectedRefusal {
        ExpectedRefusal { sent, ..self }
    }

    fn unknown(self) -> ExpectedRefusal {
        ExpectedRefusal { known: false, ..self }
    }

    /// Sends the request twice, once for each format of the body.
    fn check_both_forms(&self, gateway: &TestGateway, request: &Request) -> Response {
        let problem = gateway.send(request.clone().header("accept", "text/html, application/problem+json"));
        self.head(&problem, "application/problem+json");
        let body = problem.json();
        self.error(&problem, &body["error"]);
        let violated = match self.code {
            "quota.second" => Some("second"),
            "quota.day" => Some("day"),
            "budget.second" => Some("account-second"),
            "budget.day" => Some("account-day"),
            _ => None,
        };
        match violated {
            Some(policy) => {
                assert!(body["type"].as_str().is_some_and(|kind| kind.ends_with("#quota-exceeded")), "{body}");
                assert_eq!(body["violated-policies"], json!([policy]));
                assert!(
                    problem.header("ratelimit-policy").is_some_and(|shown| shown.contains(&format!("\"{policy}\";q=")))
                );
            }
            None => {
                let url = format!("https://fastrac-gateway.invalid/README.md#{}", self.code);
                assert_eq!(body["type"], url);
                assert!(include_str!("../../README.md").contains(&format!("<a id=\"{}\"></a>", self.code)));
            }
        }
        assert_eq!(body["status"], self.status);
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");

        let plain = gateway.send(request.clone());
        self.check_envelope(&plain);
        let line = gateway.line(plain.header("x-request-id").expect("an id"));
        let written = [&line["status"], &line["outcome"], &line["code"], &line["sent"]];
        assert_eq!(written, [&json!(self.status), &json!(self.outcome), &json!(self.code), &json!(self.sent)]);
        plain
    }

    fn check_envelope(&self, response: &Response) {
        self.head(response, "application/json");
        let body = response.json();
        self.error(response, &body["error"]);
        assert_eq!((&body["success"], &body["data"]), (&json!(false), &Value::Null));
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
        let at: jiff::Timestamp = body["timestamp"].as_str().and_then(|at| at.parse().ok()).expect("a time");
        assert!(at.duration_until(jiff::Timestamp::now()).abs().as_secs() < 60);
    }

    fn head(&self, response: &Response, kind: &str) {
        assert_eq!(
            (response.status, response.outcome(), response.sent()),
            (self.status, self.outcome, self.sent),
            "{}",
            response.text()
        );
        assert_eq!(response.header("content-type"), Some(kind));
        let proxy = response.header("proxy-status").expect("Proxy-Status");
        assert!(proxy.starts_with("fastrac-gateway; error="), "{proxy}");
        assert!(proxy.ends_with(&format!("; details=\"{}\"", self.code)), "{proxy}");
        assert_eq!(response.header("retry-after").is_some(), matches!(self.status, 429 | 503), "{response:?}");
        // The window of the budget that has refused the request is shown in any case.
        let limited = self.known || matches!(self.code, "budget.second" | "budget.day");
        assert_eq!(response.header("ratelimit-policy").is_some(), limited, "{response:?}");
        assert_eq!(response.header("ratelimit").is_some(), limited, "{response:?}");
    }

    fn error(&self, response: &Response, error: &Value) {
        let mut expected = json!({
            "code": self.code, "by": "gateway", "sent": self.sent, "request_id": response.header("x-request-id"),
        });
        if let Some(after) = response.header("retry-after") {
            let after: u64 = after.parse().expect("whole seconds");
            assert!(after >= 1);
            expected["retry_after"] = after.into();
        }
        let retry = error["retry"].as_str().expect("a word");
        assert!(["now", "after", "never", "same_key", "ask"].contains(&retry), "{error}");
        assert!(retry != "after" || expected["retry_after"].is_number(), "{error}");
        expected["retry"] = retry.into();
        assert_eq!(*error, expected);
    }
}

/// A refusal before a request was read has what every other has.
pub(crate) fn before_a_request(response: &Response) {
    let (id, error) = (response.header("x-request-id").expect("an id"), &response.json()["error"]);
    assert_eq!((error["request_id"].as_str(), &error["by"]), (Some(id), &"gateway".into()));
    assert_eq!(id.len(), 36, "{id}");
    let at = response.json()["timestamp"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time");
    assert!(at.duration_until(jiff::Timestamp::now()).abs().as_secs() < 60);
    let proxy = response.header("proxy-status").expect("Proxy-Status");
    assert!(proxy.ends_with(&format!("; details=\"{}\"", response.code())), "{proxy}");
    assert_eq!(
        (response.header("connection"), response.header("content-type")),
        (Some("close"), Some("application/json"))
    );
    assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()));
    assert!(response.header("date").is_some());
}

/// A gateway with a service that has quotas, so that responses carry its limits.
const LIMITED: &[(&str, &str)] = &[(
    "shop2",
    "quota = { per_second = 1000, per_day = 100000 }\nallow = [\"lookup\", \"read\", \"quote\", \"order\", \"account\", \"unlisted\"]",
)];

fn limited_setup() -> Setup {
    Setup { services: LIMITED, ..Setup::default() }
}

#[test]
fn an_unknown_caller_learns_only_how_to_authenticate() {
    let gateway = TestGateway::new();
    let secret = secret_of("shop");
    let refusal = refusal(401, "caller.unknown", "unauthenticated").unknown();
    for request in [
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
        let response = refusal.check_both_forms(&gateway, &request);
        let challenges: Vec<&str> = response
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(challenges, ["Basic realm=\"fastrac-gateway\"", "Bearer realm=\"fastrac-gateway\""]);
    }
    assert_eq!(gateway.received().len(), 0);
    assert_eq!(gateway.metric("requests_total", &[("service", "-"), ("outcome", "unauthenticated")]), 30.0);
}

#[test]
fn a_service_may_call_only_what_it_is_allowed() {
    let services = &[("looker", "quota = { per_day = 1000 }\nallow = [\"lookup\", \"v2.track\"]")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let refusal = refusal(403, "caller.class", "forbidden");
    for (request, class) in [
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
        if request.method == "HEAD" {
            assert_eq!(gateway.send(request.by("looker")).status, 403);
            continue;
        }
        let response = refusal.check_both_forms(&gateway, &request.by("looker"));
        let message = response.json()["message"].as_str().expect("a message").to_owned();
        assert!(message.contains("looker") && message.contains(&format!("class {class}")), "{message}");
    }
    assert_eq!(gateway.received().len(), 0);
    assert_eq!(gateway.send(request("GET", "/order/track").json("{}").by("looker")).outcome(), "rejected");
}

#[test]
fn no_spelling_of_an_order_bypasses_the_allowed_classes() {
    let gateway = TestGateway::new();
    let refusal = refusal(400, "request.malformed", "bad_request").unknown();
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
            let response = gateway.send(request(method, spelling).json(bodies::ORDER).by("shop"));
            refusal.check_envelope(&response);
        }
    }
    assert_eq!(gateway.received().len(), 0);
    assert_eq!(
        gateway.metric("requests_total", &[("operation", "-"), ("outcome", "bad_request")]),
        3.0 * spellings.len() as f64
    );
}

/// README, "Requests": what a repeated or unreadable header means, for each that the gateway reads.
#[test]
fn every_repeated_header_has_one_meaning() {
    let gateway = TestGateway::new();
    let lookup = || get("/region/province").by("shop");
    gateway.send(lookup());
    let etag = gateway.send(lookup()).header("etag").expect("a tag").to_owned();
    let said = |request: Request| {
        let response = gateway.send(request);
        (response.status, response.outcome().to_owned())
    };
    let (access, secret) = ("svc-shop-1", secret_of("shop"));
    let pair = || get("/region/province").pair(access, &secret);
    let unauthenticated = (401, "unauthenticated".to_owned());
    for request in [
        pair().header("access-key", access),
        pair().header("secret-key", &secret),
        get("/region/province").bearer(access, &secret).bearer(access, &secret),
        pair().basic(access, "wrong"),
    ] {
        assert_eq!(said(request.clone()), unauthenticated, "{request:?}");
    }
    let twice = |name: &str, one: &str, other: &str| lookup().header(name, one).header(name, other);
    let response = gateway.send(twice("x-request-id", "request-one", "request-one"));
    assert_eq!((response.status, response.outcome()), (200, "hit"));
    assert_ne!(response.header("x-request-id"), Some("request-one"), "the gateway makes one");
    for (one, other) in [("\"x\"", &*etag), (&etag, "\"x\""), (&etag, "not a tag")] {
        assert_eq!(said(twice("if-none-match", one, other)).0, 304, "a list: {one}, {other}");
    }
    assert_eq!(said(twice("cache-control", "max-stale=10", "only-if-cached")).1, "hit");
    let uncached = || get("/region/city?province_id=31").by("shop");
    let only = uncached().header("cache-control", "max-stale").header("cache-control", "only-if-cached");
    assert_eq!(said(only), (504, "not_cached".to_owned()));
    let problem = get("/region/province").header("accept", "text/html").header("accept", "application/problem+json");
    assert_eq!(gateway.send(problem).header("content-type"), Some("application/problem+json"));
    // An order that is under way or unknown is sent again by one confirmation that can be read, and by nothing else.
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Close));
    let order = || post("/order/express", bodies::ORDER).by("shop");
    assert_eq!(said(order()).1, "cut");
    let resend = |values: &[&str]| values.iter().fold(order(), |order, value| order.header("x-gateway-resend", value));
    for values in [&["confirmed", "confirmed"][..], &["yes"], &["Confirmed"], &["confirmed, confirmed"]] {
        assert_eq!(said(resend(values)), (409, "held".to_owned()), "{values:?}");
    }
    gateway.sandbox.clear_faults();
    assert_eq!(said(resend(&["confirmed"])).1, "ok");
    // Framing, at the connection.
    for (headers, status) in [
        ("content-length: 2\r\ncontent-length: 3\r\n", 400),
        ("content-length: 2, 3\r\n", 400),
        ("content-length: +2\r\n", 400),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", 400),
    ] {
        let mut connection = gateway.connect();
        let head = format!("POST /tariff/express HTTP/1.1\r\nhost: gateway\r\n{headers}\r\n{{}}");
        connection.write(head.as_bytes());
        assert_eq!(connection.read_response("POST").expect("a response").status, status, "{headers}");
        assert!(connection.ends(), "{headers}");
    }
}

#[test]
fn ambiguous_requests_are_refused_and_cost_nothing() {
    let gateway = limited_setup().start();
    let malformed = || refusal(400, "request.malformed", "bad_request");
    for (request, refusal) in [
        (get("/region/province").header("host", "a").header("host", "b"), malformed()),
        (get("http://a/region/province").header("host", "b"), malformed()),
        (get("/region/province").header("x-gateway-timeout", "soon"), malformed()),
        (get("/region/province").header("x-gateway-timeout", "0"), malformed()),
        (get("/region/province").header("x-gateway-timeout", "+300"), malformed()),
        (get("/region/province").header("x-gateway-timeout", "300").header("x-gateway-timeout", "300"), malformed()),
        (
            get("/region/province").header("upgrade", "websocket").header("connection", "upgrade"),
            refusal(501, "request.upgrade", "bad_request"),
        ),
        (request("CONNECT", "fastrac:443"), refusal(501, "request.upgrade", "bad_request")),
        (
            post("/order/express", "{}").header("idempotency-key", ""),
            refusal(400, "request.idempotency", "bad_request"),
        ),
        (
            post("/order/express", "{}").header("idempotency-key", "a").header("idempotency-key", "a"),
            refusal(400, "request.idempotency", "bad_request"),
        ),
        (
            post("/order/express", "{}").header("idempotency-key", "\"open"),
            refusal(400, "request.idempotency", "bad_request"),
        ),
        (
            post("/order/express", "{}").header("idempotency-key", &"k".repeat(256)),
            refusal(400, "request.idempotency", "bad_request"),
        ),
    ] {
        refusal.check_both_forms(&gateway, &request.by("shop2"));
    }
    // A wrongly framed body is detected while it is read.
    let mut connection = gateway.connect();
    connection.write(&request("POST", "/tariff/express").header("transfer-encoding", "chunked").by("shop2").bytes());
    connection.write(b"zz\r\n");
    malformed().check_envelope(&connection.read_response("POST").expect("a response"));
    assert!(connection.ends());
    assert_eq!(gateway.received().len(), 0);
}

#[test]
fn length_and_chunked_together_are_read_as_chunked_and_close_the_connection() {
    let gateway = TestGateway::new();
    let mut request =
        request("POST", "/nothing").by("shop").header("content-length", "3").header("transfer-encoding", "chunked");
    request.body = b"5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let mut connection = gateway.connect();
    let response = connection.send(&request);
    match response.status {
        400 => assert_eq!(gateway.received().len(), 0),
        _ => {
            assert!(connection.ends(), "the connection closes");
            let received = gateway.received();
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
fn unreadable_heads_are_counted_under_a_generated_id() {
    let gateway = TestGateway::new();
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
        let mut connection = gateway.connect();
        connection.write(head.as_bytes());
        let response = connection.read_response("GET");
        let shown = &head[..head.len().min(80)];
        assert_eq!(response.as_ref().map(|response| response.status), *status, "{shown:?}");
        assert!(response.is_none_or(|response| response.body.is_empty()) && connection.ends(), "{shown:?}");
        let line = gateway.lines(number + 1).pop().expect("a line");
        assert_eq!((&line["status"], &line["outcome"]), (&json!(status), &json!("bad_request")), "{shown:?}: {line}");
        for member in ["service", "account", "operation", "class", "path"] {
            assert_eq!(line[member], "-", "{line}");
        }
        assert_eq!(line["method"], "other", "{line}");
        let code = if *status == Some(431) { "request.headers" } else { "request.malformed" };
        assert_eq!(line["code"], code, "{shown:?}");
    }
    // A head whose client disconnected in the middle.
    let mut connection = gateway.connect();
    connection.write(b"GET / HTTP/1.1\r\nhost: ");
    drop(connection);
    let line = gateway.lines(heads.len() + 1).pop().expect("a line");
    assert_eq!((&line["status"], &line["outcome"]), (&Value::Null, &json!("bad_request")));
    let counted = [("service", "-"), ("operation", "-"), ("outcome", "bad_request")];
    assert_eq!(gateway.metric("requests_total", &counted), heads.len() as f64 + 1.0);
    assert_eq!(gateway.received().len(), 0);
}

#[test]
fn a_long_target_is_refused_and_counted() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    connection.write(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(65_530)).as_bytes());
    let status = connection.read_response("GET").expect("a response").status;
    assert!(matches!(status, 414 | 431), "{status}");
    assert_eq!(gateway.lines(1)[0]["status"], status);
}

#[test]
fn a_long_body_is_refused_before_it_is_read_in_either_framing() {
    let gateway = Setup { limits: "request_body = \"1KiB\"", ..limited_setup() }.start();
    let refusal = refusal(413, "request.too_large", "bad_request");
    refusal.check_both_forms(&gateway, &post("/tariff/express", &"x".repeat(1_025)).by("shop2"));
    let mut announced = gateway.connect();
    announced.write(&request("POST", "/tariff/express").header("content-length", "99999999").by("shop2").bytes());
    refusal.check_envelope(&announced.read_response("POST").expect("a response"));
    let mut chunked = gateway.connect();
    let mut request = request("POST", "/tariff/express").header("transfer-encoding", "chunked").by("shop2");
    request.body = format!("401\r\n{}\r\n", "x".repeat(1_025)).into_bytes();
    refusal.check_envelope(&chunked.send(&request));
    let exact = gateway.send(post("/tariff/express", &"x".repeat(1_024)).by("shop2"));
    assert_eq!((exact.status, exact.outcome()), (400, "rejected"));
    assert_eq!(gateway.received().len(), 1);
}

#[test]
fn a_slow_body_is_refused_in_time() {
    let gateway = Setup { limits: "request = \"300ms\"", ..limited_setup() }.start();
    let mut connection = gateway.connect();
    connection.write(&request("POST", "/tariff/express").header("content-length", "10").by("shop2").bytes());
    connection.write(b"{\"a\"");
    refusal(408, "request.timeout", "bad_request")
        .check_envelope(&connection.read_response("POST").expect("a response"));
    assert!(connection.ends(), "later bytes could not be distinguished from the body");
    assert_eq!(gateway.received().len(), 0);
}

#[test]
fn expect_100_continue_is_answered() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    let request = post("/tariff/express", bodies::TARIFF).by("shop").header("expect", "100-continue");
    let bytes = request.bytes();
    let head = bytes.len() - bodies::TARIFF.len();
    connection.write(&bytes[..head]);
    until("the gateway sends 100 Continue", || connection.continues());
    connection.write(&bytes[head..]);
    assert_eq!(connection.read_response("POST").expect("a response").status, 200);
}

#[test]
fn the_per_second_quota_counts_one_service_only() {
    let services = &[("slow", "quota = { per_second = 1, burst = 2 }\nallow = [\"quote\"]")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let request = post("/tariff/express", bodies::TARIFF);
    let mut connection = gateway.connect();
    let mut asks = 0;
    let refused = loop {
        let response = connection.send(&request.clone().by("slow"));
        asks += 1;
        assert_eq!(response.header("ratelimit-policy"), Some("\"second\";q=1;w=1"));
        if response.status != 200 {
            break response;
        }
        assert!(asks < 200, "never refused");
    };
    assert!(asks > 2, "the burst is granted");
    refusal(429, "quota.second", "over_quota").check_envelope(&refused);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some("\"second\";r=0;t=1"));
    assert!(refused.json()["message"].as_str().expect("a message").contains("slow"));
    assert_eq!(gateway.send(request.by("shop")).status, 200, "other services are not affected");
    assert_eq!(gateway.received().len(), asks);
}

#[test]
fn the_daily_quota_resets_at_midnight_in_jakarta() {
    let services = &[("poor", "quota = { per_day = 2 }\nallow = [\"lookup\", \"quote\"]")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let request = post("/tariff/express", bodies::TARIFF).by("poor");
    for left in [1, 0] {
        let response = gateway.send(request.clone());
        assert_eq!(response.status, 200);
        assert_eq!(response.header("ratelimit-policy"), Some("\"day\";q=2;w=86400"));
        assert!(
            response.header("ratelimit").expect("RateLimit").starts_with(&format!("\"day\";r={left};t=")),
            "{response:?}"
        );
    }
    let zone = jiff::tz::TimeZone::get("Asia/Jakarta").expect("a zone");
    let midnight = || {
        let now = jiff::Timestamp::now().to_zoned_datetime(zone.clone());
        now.tomorrow().and_then(|day| day.start_of_day()).expect("a midnight").timestamp()
    };
    let before = midnight();
    let refused = refusal(429, "quota.day", "over_quota").check_both_forms(&gateway, &request);
    let after: i64 = refused.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
    let left = before.as_second() - jiff::Timestamp::now().as_second();
    assert!(before != midnight() || (left..=left + 3).contains(&after), "{after} of {left}");
    let message = refused.json()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("poor") && message.ends_with("T00:00:00+07:00"), "{message}");
    assert_eq!(gateway.received().len(), 2);
}

#[test]
fn a_refused_or_failed_request_uses_no_daily_quota() {
    let services = &[("poor", "quota = { per_day = 2 }\nallow = [\"lookup\", \"quote\"]")];
    let gateway = Setup { services, budget: "per_day = 4, in_flight = 8", ..Setup::default() }.start();
    for _ in 0..5 {
        assert_eq!(gateway.send(post("/order/express", "{}").by("poor")).status, 403);
        assert_eq!(gateway.send(get("/region/../x").by("poor")).status, 400);
        assert_eq!(
            gateway
                .send(get("/region/city?province_id=31").by("poor").header("cache-control", "only-if-cached"))
                .status,
            504
        );
    }
    assert_eq!(gateway.send(get("/region/city?province_id=31").by("poor")).outcome(), "ok");
    for _ in 0..5 {
        assert_eq!(gateway.send(get("/region/city?province_id=31").by("poor")).outcome(), "hit");
    }
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("poor")).outcome(), "ok");
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("poor")).code(), "quota.day");
    // The canary lookup and two requests were sent: one is left for other services.
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("shop")).outcome(), "ok");
    refusal(503, "budget.day", "over_budget")
        .unknown()
        .check_both_forms(&gateway, &post("/tariff/express", bodies::TARIFF).by("shop"));
}

#[test]
fn rate_and_in_flight_budgets_have_separate_refusals() {
    let gateway =
        Setup { budget: "per_second = 1, burst = 1, in_flight = 8, max_wait = \"1ms\"", ..limited_setup() }.start();
    let request = post("/tariff/express", bodies::TARIFF).by("shop2");
    let mut connection = gateway.connect();
    let mut refused = connection.send(&request);
    for _ in 0..200 {
        if refused.status != 200 {
            break;
        }
        refused = connection.send(&request);
    }
    refusal(503, "budget.second", "over_budget").check_envelope(&refused);

    let gateway = Setup { budget: "in_flight = 1, max_wait = \"1ms\"", ..limited_setup() }.start();
    gateway.sandbox.fault(Fault { wait_ms: 2_000, ..Fault::on("v2.multi_items", Act::Pass) });
    let mut slow = gateway.connect();
    slow.write(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop2").bytes());
    until("it is in flight", || gateway.received().len() == 1);
    refusal(503, "budget.in_flight", "over_budget").check_both_forms(&gateway, &request);
    drop(slow);
    until("the in-flight slot is free again", || gateway.send(request.clone()).status == 200);
}

#[test]
fn an_unreachable_fastrac_is_reported_and_costs_nothing() {
    let (_held, gone) = closed_port();
    let services = &[("poor", "quota = { per_day = 2 }\nallow = [\"lookup\", \"quote\", \"order\"]")];
    let base_url = Some(format!("http://{gone}"));
    let gateway = Setup { services, base_url, wait: false, ..Setup::default() }.start();
    until("a pair is usable", || gateway.app().gateway.was_ready());
    let refusal = refusal(502, "upstream.connect", "unreachable");
    refusal.check_both_forms(&gateway, &get("/region/province").by("poor"));
    refusal.check_both_forms(&gateway, &post("/tariff/express", bodies::TARIFF).by("poor"));
    refusal
        .check_both_forms(&gateway, &post("/order/express", bodies::ORDER).header("idempotency-key", "k1").by("poor"));
    assert!(gateway.metric("upstream_requests_total", &[("status", "failed")]) >= 6.0);
}

#[test]
fn a_timeout_gives_a_504_with_sent_unknown() {
    let more =
        "[operations.\"v2.multi_items\"]\ntimeout = \"400ms\"\n[operations.\"v2.couriers\"]\ntimeout = \"400ms\"\n";
    let gateway = Setup { more, ..limited_setup() }.start();
    let slow = |operation| gateway.sandbox.fault(Fault { wait_ms: 3_000, ..Fault::on(operation, Act::Pass) });
    for operation in ["v2.multi_items", "v2.couriers", "v2.track", "v2.order_express"] {
        slow(operation);
    }
    let refusal = refusal(504, "upstream.timeout", "timeout").sent("unknown");
    refusal.check_both_forms(&gateway, &post("/item/multi-items", bodies::MULTI_ITEMS).by("shop2"));
    refusal.check_both_forms(&gateway, &get("/courier/all").by("shop2"));
    let track = request("GET", "/order/track").json(r#"{"courier_code":"idx","awb":"x"}"#);
    refusal.check_both_forms(&gateway, &track.by("shop2").header("x-gateway-timeout", "400"));
    let order = post("/order/express", bodies::ORDER).by("shop2").header("x-gateway-timeout", "400");
    refusal.check_both_forms(&gateway, &order.header("x-gateway-resend", "confirmed"));
    // Canary lookups request provinces at any time, so they are not counted.
    let request = gateway.received().into_iter().filter(|entry| entry.uri.path() != "/region/province").count();
    assert_eq!(request, 8, "none was sent twice");
}

#[test]
fn a_lost_response_gives_a_502_with_sent_unknown() {
    let limits = "answer_body = \"64KiB\"\nanswer_buffer = \"64KiB\"";
    let gateway = Setup { limits, account: "retries = 1", ..limited_setup() }.start();
    let refusal = refusal(502, "upstream.cut", "cut").sent("unknown");
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
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.tariff_express", act.clone()));
        refusal.check_both_forms(&gateway, &tariff);
    }
    // A second attempt is harmless for a quote: it is made, and the log line counts it.
    gateway.sandbox.clear_faults();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Close).times(1));
    let response = gateway.send(tariff);
    assert_eq!((response.status, response.sent()), (200, "yes"));
    assert_eq!(gateway.line(response.header("x-request-id").expect("an id"))["attempts"], 2);
    assert!(gateway.metric("retries_total", &[("account", "main")]) >= 1.0);
}

#[test]
fn only_if_cached_never_calls_fastrac() {
    let gateway = limited_setup().start();
    let refusal = refusal(504, "cache.only", "not_cached");
    let request = get("/region/province").by("shop2");
    refusal.check_both_forms(&gateway, &request.clone().header("cache-control", "only-if-cached"));
    assert_eq!(gateway.received().len(), 0);
    gateway.send(request.clone());
    assert_eq!(gateway.send(request.header("cache-control", "max-age=5, only-if-cached")).outcome(), "hit");
}

#[test]
fn a_failing_fastrac_opens_the_breaker() {
    let breaker = "minimum = 4, failures = 0.5, open = \"60s\", window = \"60s\"";
    let gateway = Setup { breaker, ..limited_setup() }.start();
    gateway.sandbox.fault(Fault::on("v2.webhook_get", Act::Html(500)));
    let mut connection = gateway.connect();
    let request = get("/webhook/get").by("shop2");
    let mut failures = 0;
    while connection.send(&request).status == 500 {
        failures += 1;
        assert!(failures < 20, "the breaker never opens");
    }
    let before = gateway.received().len();
    let refused = refusal(503, "upstream.breaker", "breaker_open").check_both_forms(&gateway, &request);
    let after: u64 = refused.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
    assert!((50..=60).contains(&after), "{after}");
    assert_eq!(gateway.received().len(), before);
    let ready = gateway.admin("/readyz");
    assert!(ready.status == 200 && ready.text().contains("circuit breaker open"), "{}", ready.text());
}

#[test]
fn a_refusal_by_fastrac_never_opens_the_breaker() {
    let gateway = Setup { breaker: "minimum = 1, failures = 0.1", ..Setup::default() }.start();
    for _ in 0..5 {
        assert_eq!(gateway.send(post("/tariff/express", "{}").by("shop")).outcome(), "rejected");
        assert_eq!(gateway.send(get("/region/city?province_id=9999").by("shop")).status, 404);
    }
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("shop")).status, 200);
}

#[test]
fn without_a_usable_pair_nothing_is_sent() {
    let sandbox = Sandbox::start(sandbox()).expect("a sandbox");
    sandbox.revoke(crate::test_gateway::ACCESS);
    let base_url = Some(format!("http://{}", sandbox.addr()));
    let gateway = Setup { base_url, wait: false, ..limited_setup() }.start();
    until("the canary is refused", || sandbox.journal().iter().any(|entry| entry.status == Some(401)));
    let request = post("/tariff/express", bodies::TARIFF).by("shop2");
    until("the pair is no longer used", || gateway.send(request.clone()).code() == "keys.unavailable");
    refusal(503, "keys.unavailable", "no_key").check_both_forms(&gateway, &request);
    let ready = gateway.admin("/readyz");
    assert!(ready.status == 503 && ready.text().contains("main"), "{}", ready.text());
}

#[test]
fn a_revoked_pair_gives_a_502() {
    let gateway = limited_setup().start();
    gateway.sandbox.revoke(crate::test_gateway::ACCESS);
    let response = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop2"));
    refusal(502, "keys.rejected", "key_rejected").sent("yes").check_envelope(&response);
}

/// A request that a new pair could have made, if the budget had let it go again.
#[test]
fn a_pair_that_is_being_changed_is_not_reported_as_one_that_operators_must_replace() {
    let next = ("access-2", "2nd-secret-2nd-secret");
    let budget = "per_second = 1, burst = 1, max_wait = \"0s\"";
    let gateway = Setup { budget, account: "retries = 0.0", ..limited_setup() }.start();
    gateway.sandbox.add_key("second", next.0, next.1);
    gateway.sandbox.fault(Fault { wait_ms: 60_000, ..Fault::on("v2.province", Act::Pass) });
    write(&gateway.folder.path().join("keys.toml"), &pair(next.0, next.1));
    until("the new pair is seen", || gateway.metric("key_events_total", &[("event", "seen")]) == 2.0);
    gateway.sandbox.revoke(crate::test_gateway::ACCESS);
    let mut response = None;
    until("the pair in use is refused", || {
        let sent = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop2"));
        response = Some(sent).filter(|sent| sent.code() == "keys.rejected");
        response.is_some()
    });
    let body = response.expect("a refusal").json();
    let told = body["message"].as_str().expect("a text");
    assert!(told.contains("being changed") && told.contains("; try again"), "{told}");
    assert_eq!((&body["error"]["retry"], &body["error"]["sent"]), (&json!("now"), &json!("yes")));
}

#[test]
fn a_401_about_the_request_itself_is_passed_on() {
    let gateway = TestGateway::new();
    let body = r#"{"success":false,"message":"Not for this user"}"#;
    gateway.sandbox.fault(Fault::on("v2.balance_history", Act::answer(401, body)));
    let response = gateway.send(post("/user/balance/history", "{}").by("shop"));
    assert_eq!((response.status, response.outcome(), response.text().as_str()), (401, "rejected", body));
    assert_eq!(response.header("www-authenticate"), None);
}

#[test]
fn fastracs_throttling_is_passed_on_with_retry_after() {
    // Each pauses the account, so each has its own.
    for (given, passed) in [(Some(7), "7"), (None, "1")] {
        let gateway = TestGateway::new();
        gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::throttle(given)));
        let response = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
        assert_eq!((response.status, response.outcome(), response.sent()), (429, "throttled", "yes"));
        assert_eq!(response.header("retry-after"), Some(passed));
        assert_eq!(response.text(), r#"{"success":false,"message":"Too Many Requests"}"#);
        let proxy = response.header("proxy-status").expect("Proxy-Status");
        assert!(proxy.ends_with("details=\"upstream.limit\""), "{proxy}");
    }
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::refuse(" too many REQUESTS ")));
    let response = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!((response.status, response.outcome(), response.header("retry-after")), (200, "throttled", Some("1")));
}

#[test]
fn a_request_id_is_kept_if_it_is_well_formed() {
    let gateway = TestGateway::new();
    for (given, kept) in
        [("order-2026.01_x", true), ("short", false), ("has blank inside", false), (&"x".repeat(129), false)]
    {
        let response = gateway.send(get("/region/province").by("shop").header("x-request-id", given));
        let id = response.header("x-request-id").expect("an id").to_owned();
        assert_eq!(id == given, kept, "{given}");
        gateway.line(&id);
    }
    let twice = get("/nothing").header("x-request-id", "first-id").header("x-request-id", "second-id");
    assert_eq!(gateway.send(twice).header("x-request-id").expect("an id").len(), 36);
}
