//! What operators see of quotas and budgets, and change of them while the gateway runs.

use fastrac_sandbox::{Act, Fault};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Connection, Request, Response, get, post, request},
    test_gateway::{Setup, TestGateway, closed_port, digest_of, secret_of, sum, until},
};

/// `/status` as an operator sees it.
fn status(gateway: &TestGateway) -> Value {
    gateway.admin("/status").json()
}

/// Contract section 7: whatever makes the gateway send a request to Fastrac, the metric and `/status` say for whom; what
/// was never sent is nobody's. `/status` keeps the day's counts over a restart, a removed service included.
#[test]
fn every_request_that_fastrac_receives_is_spent_by_somebody() {
    let more = "[operations.\"v2.track\"]\ncost = 3\n";
    let mut gateway = Setup { more, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Close).times(1));
    let shop = [
        get("/region/province"),
        post("/tariff/express", bodies::TARIFF),
        post("/order/express", bodies::ORDER),
        get("/order/track?awb=1"),
        request("DELETE", "/unknown"),
    ];
    for request in shop {
        gateway.send(request.by("shop"));
    }
    for _ in 0..2 {
        gateway.send(get("/region/city?province_id=31").by("clerk"));
    }
    gateway.send(get("/tariff/express").by("clerk"));

    let received = gateway.sandbox.counters().requests as f64;
    assert_eq!(received, 8.0, "a canary, six of shop with a second attempt, one of clerk");
    let of = |labels: &[(&str, &str)]| gateway.metric("service_upstream_requests_total", labels);
    assert_eq!(of(&[("account", "main")]), received);
    assert_eq!(of(&[("service", "shop")]), 6.0);
    assert_eq!((of(&[("service", "clerk")]), of(&[("service", "-")])), (1.0, 1.0));
    let spent = |status: &Value| {
        let service = |name: &str| status["services"][name]["spent_today"].clone();
        (service("shop"), service("clerk"), status["accounts"]["main"]["budget"]["spent_today"].clone())
    };
    let shop = json!({
        "v2.province": 1, "v2.tariff_express": 2, "v2.order_express": 1, "v2.track": 3, "unlisted": 1
    });
    let expected = (shop, json!({"v2.city": 1}), json!({"-": 1, "shop": 8, "clerk": 1}));
    assert_eq!(spent(&status(&gateway)), expected);
    assert_eq!(status(&gateway)["accounts"]["main"]["budget"]["used_today"], 10);
    gateway.restart();
    let (shop, clerk, mut account) = spent(&status(&gateway));
    // The canary after the restart.
    account["-"] = json!(1);
    assert_eq!((shop, clerk, account), expected);
}

#[test]
fn what_was_never_sent_is_spent_by_nobody() {
    let (_closed, address) = closed_port();
    let gateway = Setup { base_url: Some(format!("http://{address}")), wait: false, ..Setup::default() }.start();
    until("a pair is in use", || gateway.app().gateway.was_ready());
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("shop")).code(), "upstream.connect");
    assert_eq!(sum(&gateway.admin("/metrics").text(), "service_upstream_requests_total", &[]), 0.0);
    assert_eq!(status(&gateway)["services"]["shop"]["spent_today"], json!({}));
}

/// The token that may change something.
fn admin_table() -> String {
    let token = |(name, role)| format!("{{ name = \"{name}\", sha256 = \"{}\", role = \"{role}\" }}", digest_of(name));
    format!("[admin]\ntokens = [{}, {}]\n", token(("ops", "operate")), token(("eyes", "read")))
}

/// A page of the admin port, with the token `ops`.
fn page(gateway: &TestGateway, request: Request) -> Response {
    let token = format!("Bearer {}", secret_of("ops"));
    let request = request.header("host", "localhost").header("authorization", &token);
    Connection::open(gateway.app().admin).send(&request)
}

fn set_quota(gateway: &TestGateway, body: Value) -> Response {
    page(gateway, post("/quota", &body.to_string()))
}

/// Contract section 2, `quota set`, in every place where a limit shows: refusals, `RateLimit` fields, metrics, `/status`,
/// `/quota`. Reloads, a removal and a restart do not end it; its time does, and `clear`.
#[test]
fn an_override_is_in_force_everywhere_until_it_ends() {
    const POOR: &str = "quota = { per_second = 1000, per_day = 40 }\n";
    let more: &'static str = admin_table().leak();
    let mut gateway = Setup { services: &[("poor", POOR)], more, ..Setup::default() }.start();
    let send = |gateway: &TestGateway| gateway.send(post("/tariff/express", bodies::TARIFF).by("poor"));
    let status = |gateway: &TestGateway| page(gateway, get("/status")).json()["services"]["poor"].clone();
    for _ in 0..3 {
        assert_eq!(send(&gateway).status, 200);
    }
    let lowered = json!({"service": "poor", "per_day": 5, "for": "1h", "reason": "it loops"});
    assert_eq!(set_quota(&gateway, lowered).status, 200);
    let text = std::fs::read_to_string(gateway.folder.path().join("gateway.toml")).expect("a file");
    let service = &text[text.find("[services.poor]").expect("a table")..];
    let service: String = service[..service.find(POOR).expect("lines") + POOR.len()].to_owned();
    for change in ["none", "reload", "restart", "removed and added"] {
        match change {
            "reload" => gateway.reload(POOR, "quota = { per_second = 1000, per_day = 41 }\n"),
            "restart" => {
                gateway.reload("per_day = 41", "per_day = 40");
                gateway.restart();
            }
            "removed and added" => {
                gateway.reload(&service, "");
                gateway.reload("[services.clerk]", &format!("{service}[services.clerk]"));
            }
            _ => {}
        }
        let shown = status(&gateway);
        assert_eq!(shown["quota"]["day"]["limit"], 5, "{change}: {shown}");
        assert_eq!((&shown["override"]["by"], &shown["override"]["reason"]), (&json!("ops"), &json!("it loops")));
        let metrics = page(&gateway, get("/metrics")).text();
        assert_eq!(sum(&metrics, "quota_limit", &[("service", "poor"), ("window", "day")]), 5.0, "{change}");
    }
    let fields = |response: &Response| {
        let field = |name| response.header(name).unwrap_or_default().to_owned();
        let left = field("ratelimit");
        let left = left.rsplit("r=").next().and_then(|rest| rest.split(';').next()).map(str::to_owned);
        (field("ratelimit-policy").contains("\"day\";q=5;w=86400"), left.unwrap_or_default())
    };
    let used = status(&gateway)["used_today"].as_u64().expect("a number");
    for left in (0..5 - used).rev() {
        let response = send(&gateway);
        assert_eq!((response.status, fields(&response)), (200, (true, left.to_string())));
    }
    let refused = send(&gateway);
    assert_eq!((refused.code().as_str(), fields(&refused)), ("quota.day", (true, "0".to_owned())));
    let message = refused.json()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("poor") && message.contains("it loops"), "{message}");

    let raised = json!({"service": "poor", "per_day": 100, "per_second": 7, "for": "1h", "reason": "a sale"});
    assert_eq!(set_quota(&gateway, raised).json()["override"]["per_second"], 7);
    until("a token has come", || send(&gateway).status == 200);
    assert_eq!(status(&gateway)["quota"]["second"]["limit"], 7);
    assert_eq!(set_quota(&gateway, json!({"service": "poor", "clear": true, "reason": "over"})).status, 200);
    assert_eq!(status(&gateway)["quota"]["day"]["limit"], 40);

    let block = json!({"service": "poor", "block": true, "for": "2s", "reason": "stolen key"});
    assert_eq!(set_quota(&gateway, block).status, 200);
    let blocked = send(&gateway);
    let wait: u64 = blocked.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a wait");
    assert_eq!((blocked.status, blocked.code().as_str()), (429, "quota.day"));
    assert!((1..=2).contains(&wait) && blocked.text().contains("stolen key"), "{}", blocked.text());
    assert_eq!(gateway.send(get("/region/province").by("poor")).code(), "quota.day", "hits are refused too");
    assert_eq!(gateway.send(get("/region/province").by("shop")).status, 200);
    until("it ends by itself", || gateway.send(get("/region/province").by("poor")).status == 200);
    assert_eq!((&status(&gateway)["override"], &status(&gateway)["quota"]["day"]["limit"]), (&Value::Null, &json!(40)));
}

#[test]
fn an_override_names_a_service_and_is_audited() {
    let more: &'static str = admin_table().leak();
    let gateway = Setup { more, ..Setup::default() }.start();
    let body = |service: &str| json!({"service": service, "block": true, "for": "1h", "reason": "x"});
    assert_eq!(set_quota(&gateway, body("nobody")).code(), "quota.service");
    assert_eq!(set_quota(&gateway, json!({"service": "shop", "block": true, "reason": "x"})).code(), "quota.invalid");
    assert_eq!(page(&gateway, get("/quota?service=nobody")).status, 404);
    let reader = format!("Bearer {}", secret_of("eyes"));
    let as_reader = |request: Request| {
        let request = request.header("host", "localhost").header("authorization", &reader);
        Connection::open(gateway.app().admin).send(&request).status
    };
    assert_eq!(as_reader(post("/quota", &body("shop").to_string())), 403);
    assert_eq!(as_reader(get("/quota?service=shop")), 200);
    assert_eq!(set_quota(&gateway, body("clerk")).status, 200);
    let shown = page(&gateway, get("/quota?service=clerk")).json();
    assert_eq!(
        (&shown["services"]["clerk"]["override"]["block"], shown["services"]["shop"].is_null()),
        (&json!(true), true)
    );
    assert!(shown["accounts"]["main"]["used_today"].is_number(), "{shown}");
    let audit = || std::fs::read_to_string(gateway.folder.path().join("state/audit.jsonl")).unwrap_or_default();
    until("four lines", || audit().lines().count() == 4);
    let last: Value = serde_json::from_str(audit().lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["token"], &last["action"], &last["result"]), (&json!("ops"), &json!("quota"), &json!("done")));
}

/// `enforce = false` refuses nothing and says in metrics, log and `/status` what it would have refused.
#[test]
fn a_quota_that_is_not_enforced_only_reports() {
    const SHADOW: &str = "quota = { per_second = 1, burst = 2, per_day = 3, enforce = false }";
    let more: &'static str = admin_table().leak();
    let gateway = Setup { services: &[("poor", SHADOW)], more, ..Setup::default() }.start();
    let mut connection = gateway.connect();
    let ids: Vec<String> = (0..6)
        .map(|_| {
            let response = connection.send(&post("/tariff/express", bodies::TARIFF).by("poor"));
            assert_eq!(response.status, 200);
            assert!(response.header("ratelimit").is_some_and(|left| left.contains("\"day\";r=")), "{response:?}");
            response.header("x-request-id").expect("an id").to_owned()
        })
        .collect();
    let words: Vec<Value> = ids.iter().map(|id| gateway.line(id)["would_refuse"].clone()).collect();
    assert_eq!(words[..2], [Value::Null, Value::Null]);
    assert!(words[3..].iter().all(|word| word == "quota.second" || word == "quota.day"), "{words:?}");
    let metrics = page(&gateway, get("/metrics")).text();
    let count = |window| sum(&metrics, "quota_would_refuse_total", &[("service", "poor"), ("window", window)]);
    assert_eq!(count("day"), 3.0);
    assert!(count("second") >= 3.0, "{}", count("second"));
    let shown = page(&gateway, get("/status")).json()["services"]["poor"].clone();
    assert_eq!((&shown["quota"]["enforced"], &shown["quota"]["day"]["left"]), (&json!(false), &json!(0)));
    assert_eq!((&shown["quota"]["would_refuse"]["day"], &shown["used_today"]), (&json!(3), &json!(6)));
    let block = json!({"service": "poor", "block": true, "for": "1h", "reason": "stolen key"});
    assert_eq!(set_quota(&gateway, block).status, 200);
    assert_eq!(gateway.send(get("/region/province").by("poor")).code(), "quota.day", "a block is enforced");
}
