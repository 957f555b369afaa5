//! What operators see of quotas and budgets, and change of them while the gateway runs.

use std::{thread, time::Duration};

use fastrac_sandbox::{Act, Fault};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Connection, Request, Response, get, post, request},
    test_gateway::{LOG, Setup, TestGateway, closed_port, digest_of, secret_of, sum, until},
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
    // When the override ends, 40 a day apply again; or midnight is earlier.
    let wait: u64 = refused.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a wait");
    let shown = status(&gateway);
    let ends: jiff::Timestamp = shown["override"]["until"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    let midnight = shown["quota"]["day"]["resets_in_seconds"].as_u64().expect("seconds");
    let ends_in = ends.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    assert!(wait as i64 <= ends_in + 2 && wait.abs_diff(midnight) <= 2, "{wait} s, {ends_in} s, {midnight} s");
    let limit = refused.header("ratelimit").expect("a field");
    assert!(limit.ends_with(&format!("r=0;t={wait}")) || limit.ends_with(&format!("r=0;t={}", wait - 1)), "{limit}");
    let [named, starts] = ["operators until ", "it starts again at "].map(|before| {
        let after = message.split_once(before).expect("an instant").1;
        after[..25].to_owned()
    });
    assert!(named == starts || (wait as i64) < ends_in, "{message}");

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
    assert_eq!((&last["service"], &last["block"]), (&json!("clerk"), &json!(true)));
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

/// Warnings at the unit that reaches 50, 80 and 95 % and not before, once each, also over a reload; the forecast; what
/// callers see names nobody else.
#[test]
fn warnings_and_forecasts_say_how_far_a_day_is_used() {
    let services = &[("warned", "quota = { per_day = 19 }")];
    let mut gateway = Setup { services, budget: "per_day = 21, in_flight = 64", ..Setup::default() }.start();
    let shown = |gateway: &TestGateway| {
        let status = status(gateway);
        let quota = status["services"]["warned"]["quota"]["outlook"].clone();
        (quota, status["accounts"]["main"]["budget"]["outlook"].clone())
    };
    let lines = || {
        let log = String::from_utf8_lossy(&LOG.lock().expect("whole")).into_owned();
        let of = |percent: u8| {
            log.lines()
                .filter(|line| line.contains("warned") && line.contains(&format!("{percent} % of the daily quota")))
                .count()
        };
        [50, 80, 95].map(of)
    };
    assert_eq!(shown(&gateway).0, json!({"warning_percent": 0, "runs_out_at": null}));
    let mut connection = gateway.connect();
    // 50 % of 19 is 9.5, 80 % is 15.2 and 95 % is 18.05; the canary is one of the 21 of the budget.
    for used in 1..=19 {
        let response = connection.send(&post("/tariff/express", bodies::TARIFF).by("warned"));
        assert_eq!(response.status, 200);
        let (quota, budget) = shown(&gateway);
        let warning = |used: u64, levels: [u64; 3]| match levels.map(|level| used >= level) {
            [_, _, true] => 95,
            [_, true, _] => 80,
            [true, ..] => 50,
            _ => 0,
        };
        assert_eq!(quota["warning_percent"], warning(used, [10, 16, 19]), "{used}");
        assert_eq!(budget["warning_percent"], warning(used + 1, [11, 17, 20]), "{used}");
        assert_eq!(lines(), [10, 16, 19].map(|level| usize::from(used >= level)), "{used}");
    }
    let (quota, budget) = shown(&gateway);
    let at = |outlook: &Value| outlook["runs_out_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let now = jiff::Timestamp::now().as_second();
    assert!(at(&quota).is_some_and(|at| at.as_second() <= now), "used up: {quota}");
    assert!(at(&budget).is_some_and(|at| at.as_second() < now + 60), "one left of 21, in a few seconds: {budget}");
    let metrics = gateway.admin("/metrics").text();
    assert_eq!(sum(&metrics, "quota_warning_percent", &[("service", "warned")]), 95.0);
    assert!(sum(&metrics, "budget_runs_out_timestamp_seconds", &[("account", "main")]) > 1e9);
    assert_eq!(sum(&metrics, "quota_runs_out_timestamp_seconds", &[("service", "shop")]), 0.0);
    gateway.reload("per_day = 19", "per_day = 18");
    shown(&gateway);
    assert_eq!(lines(), [1, 1, 1]);
    let log = String::from_utf8_lossy(&LOG.lock().expect("whole")).into_owned();
    let budget = log.lines().find(|line| line.contains("95 % of the daily budget") && line.contains("warned 19"));
    assert!(budget.is_some(), "operators are told who has spent most");
    let refused = connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!(refused.status, 200);
    let refused = connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!(refused.code(), "budget.day");
    assert!(!refused.text().contains("warned"), "{}", refused.text());
}

/// Contract section 5: a refusal by the account's budget adds its window, so that a refused caller never reads that plenty
/// is left; `Retry-After`, the body and the fields agree; other refusals do not add it.
#[test]
fn a_refusal_by_the_budget_shows_its_window() {
    const PLENTY: &str = "quota = { per_second = 1000, per_day = 5000 }\nallow = [\"lookup\", \"quote\"]";
    for (budget, code, item, window) in [
        ("per_second = 1, burst = 1, max_wait = \"0s\"", "budget.second", "account-second", "q=1;w=1"),
        ("per_day = 1", "budget.day", "account-day", "q=1;w=86400"),
        ("in_flight = 64, per_day = 2", "caller.class", "", ""),
    ] {
        let gateway = Setup { services: &[("rich", PLENTY)], budget, ..Setup::default() }.start();
        let mut connection = gateway.connect();
        let mut send = || match code {
            "caller.class" => connection.send(&post("/order/express", bodies::ORDER).by("rich")),
            _ => connection.send(&post("/tariff/express", bodies::TARIFF).by("rich")),
        };
        let mut refused = send();
        while refused.status == 200 {
            refused = send();
        }
        assert_eq!(refused.code(), code);
        let message = refused.json()["message"].as_str().expect("a message").to_owned();
        assert!(code == "caller.class" || message.contains("budget of account main is used up"), "{message}");
        let field = |name| refused.header(name).unwrap_or_default().to_owned();
        let (policy, left) = (field("ratelimit-policy"), field("ratelimit"));
        assert!(policy.starts_with("\"second\";q=1000;w=1, \"day\";q=5000;w=86400"), "{policy}");
        if item.is_empty() {
            assert!(!policy.contains("account") && !left.contains("account"), "{policy} {left}");
            assert_eq!(refused.json()["error"]["retry"], "never");
            continue;
        }
        assert!(policy.ends_with(&format!(", \"{item}\";{window}")), "{policy}");
        let wait = field("retry-after");
        assert!(left.ends_with(&format!(", \"{item}\";r=0;t={wait}")), "{left}");
        let error = refused.json()["error"].clone();
        assert_eq!((error["retry_after"].to_string(), &error["retry"]), (wait, &json!("after")));
    }
}

/// `error.retry` of an order that Fastrac may have executed: by its key, or not blindly.
#[test]
fn an_order_that_may_have_been_sent_says_how_to_repeat_it() {
    let gateway = TestGateway::new();
    for (keyed, expected) in [(true, "same_key"), (false, "ask")] {
        gateway.sandbox.fault(Fault::on("v2.order_express", Act::Close).times(1));
        let order = post("/order/express", &bodies::order(usize::from(keyed))).by("shop");
        let order = if keyed { order.header("idempotency-key", "k-1") } else { order };
        let response = gateway.send(order.clone());
        assert_eq!((response.code().as_str(), response.sent()), ("upstream.cut", "unknown"));
        assert_eq!(response.json()["error"]["retry"], expected);
        if keyed {
            // Its repeat gets what is known, and would get it again.
            let repeat = gateway.send(order);
            assert_eq!(repeat.header("idempotent-replayed"), Some("true"));
            assert_eq!(repeat.json()["error"]["retry"], "ask");
        }
    }
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Close).times(2));
    let quote = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!((quote.code().as_str(), &quote.json()["error"]["retry"]), ("upstream.cut", &json!("now")));
}

/// Contract section 2: `quota set` and `quota show`, with their exit codes.
#[test]
fn the_command_line_changes_and_shows_a_quota() {
    let more: &'static str = admin_table().leak();
    let gateway = Setup { services: &[("poor", "quota = { per_day = 40 }")], more, ..Setup::default() }.start();
    let admin = format!("http://{}", gateway.app().admin);
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"))
            .arg("quota")
            .args(arguments)
            .args(["--admin", &admin])
            .env("FASTRAC_GATEWAY_ADMIN_TOKEN", secret_of("ops"))
            .output()
            .expect("it starts");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, set) = run(&["set", "poor", "--per-day", "7", "--for", "2h", "--reason", "too much"]);
    assert!(code == Some(0) && set.starts_with("poor: 7 per day until 20"), "{code:?} {set}");
    assert!(set.ends_with(", set by ops: too much\n"), "{set}");
    let (code, shown) = run(&["show", "poor"]);
    assert!(code == Some(0) && shown.contains(&set) && shown.contains("account main"), "{code:?} {shown}");
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["poor", "day", "7", "7"])), "{shown}");
    let (code, block) = run(&["set", "poor", "--block", "--for", "3h", "--reason", "stolen key"]);
    assert!(code == Some(0) && block.lines().nth(1) == Some(&set.trim_end().replace("poor:", "replaced:")), "{block}");
    // A block is lifted by nothing but --clear.
    let (code, lifted) = run(&["set", "poor", "--per-second", "5", "--for", "1h", "--reason", "sale"]);
    assert!(code != Some(0) && lifted.is_empty(), "{code:?} {lifted}");
    let (_, shown) = run(&["show", "poor"]);
    assert!(shown.contains("poor: blocked until"), "{shown}");
    let (code, cleared) = run(&["set", "poor", "--clear", "--reason", "over"]);
    assert!(code == Some(0) && cleared.starts_with("poor: as configured\nreplaced: blocked until"), "{cleared}");
    // Its thread writes.
    let audit = || std::fs::read_to_string(gateway.folder.path().join("state/audit.jsonl")).unwrap_or_default();
    until("the last line", || audit().contains("\"reason\":\"over\""));
    let audit = audit();
    assert!(audit.contains("\"replaced\":\"blocked until"), "{audit}");
    for reason in ["too much", "stolen key", "sale", "over"] {
        assert!(audit.contains(&format!("\"reason\":\"{reason}\"")), "{reason}: {audit}");
    }
    assert_eq!(run(&["show", "nobody"]).0, Some(2));
    for wrong in [
        &["set", "poor", "--per-day", "7", "--reason", "x"][..],
        &["set", "poor", "--per-day", "7", "--for", "2h"],
        &["set", "poor", "--for", "2h", "--reason", "x"],
        &["set", "poor", "--block", "--per-day", "7", "--for", "2h", "--reason", "x"],
        &["set", "poor", "--per-day", "0", "--for", "2h", "--reason", "x"],
        &["set", "poor", "--per-day", "7", "--for", "31d", "--reason", "x"],
    ] {
        assert_eq!(run(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_restart_repeats_no_warning() {
    let services = &[("again", "quota = { per_day = 10 }")];
    let mut gateway = Setup { services, ..Setup::default() }.start();
    let lines = || {
        let log = String::from_utf8_lossy(&LOG.lock().expect("whole")).into_owned();
        log.lines().filter(|line| line.contains("again") && line.contains("% of the daily quota")).count()
    };
    let send = |gateway: &TestGateway| gateway.send(post("/tariff/express", bodies::TARIFF).by("again")).status;
    for _ in 0..5 {
        assert_eq!(send(&gateway), 200);
    }
    // Without anybody who looks at the status.
    until("a warning", || lines() == 1);
    gateway.restart();
    assert_eq!(send(&gateway), 200);
    status(&gateway);
    assert_eq!(lines(), 1);
}

/// A request of `poor` fetches for all, and its quota is lowered while it waits for a place in flight. Hits of `shop` count
/// against its day, of which it has one left.
#[test]
fn a_follower_is_not_refused_because_of_its_leaders_quota() {
    let more: &'static str = admin_table().leak();
    let services = &[
        ("poor", "quota = { per_day = 10 }"),
        ("other", "quota = { per_day = 1 }\ncharge_hits = { second = true, day = true }"),
    ];
    let budget = "per_second = 1000, burst = 1000, in_flight = 1, max_wait = \"20s\"";
    let gateway = Setup { budget, services, more, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).wait(Duration::from_secs(2)).times(1));
    const CITY: &str = "/region/city?province_id=31";
    let budget = || page(&gateway, get("/status")).json()["accounts"]["main"]["budget"].clone();
    thread::scope(|scope| {
        scope.spawn(|| gateway.send(post("/tariff/express", bodies::TARIFF).by("poor")));
        until("a place is taken", || budget()["in_flight"]["left"] == 0);
        let leader = scope.spawn(|| gateway.send(get(CITY).by("poor")));
        until("it waits", || budget()["waiting"] == 1);
        let fellow = scope.spawn(|| gateway.send(get(CITY).by("poor")));
        let followers = ["shop", "other"].map(|service| {
            let gateway = &gateway;
            scope.spawn(move || gateway.send(get(CITY).by(service)))
        });
        until("its day is reserved", || page(&gateway, get("/status")).json()["services"]["other"]["used_today"] == 1);
        let lowered = json!({"service": "poor", "per_day": 1, "for": "1h", "reason": "it loops"});
        assert_eq!(set_quota(&gateway, lowered).status, 200);
        for refused in [leader, fellow] {
            let refused = refused.join().expect("a response");
            assert_eq!((refused.status, refused.code().as_str()), (429, "quota.day"), "{refused:?}");
        }
        for follower in followers {
            let response = follower.join().expect("a response");
            assert_eq!(response.status, 200, "{response:?}");
        }
    });
    assert_eq!(gateway.received().iter().filter(|entry| entry.uri.path().ends_with("/region/city")).count(), 1);
}
