//! Neither the account's keys nor the callers' credentials leave the gateway.
//!
//! The client searches every byte that it receives for canaries, and a [`TestGateway`] searches logs and files when it is
//! dropped (`test_gateway.rs`). The tests here are attempts to make a canary appear.

use std::{collections::BTreeSet, net::TcpListener, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use fastrac_sandbox::{Act, CannedResponse, Entry, Fault, KeyPair, Options, Sandbox};
use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use crate::{
    bodies,
    client::{Connection, Request, get, post, request},
    hostile::frames::{PREFACE, SETTINGS, frame, request_frames},
    process::Program,
    restores_the_cache::configuration,
    test_gateway::{
        ACCESS, LOG, SECRET, Setup, TestGateway, caller_header, canary_in, digest_of, pair, sandbox, secret_of, until,
        write,
    },
};

/// Headers that a caller or a proxy in front of it may send.
const CALLER_HEADERS: &[(&str, &str)] = &[
    ("cookie", "session=fgw_canary_cookie"),
    ("forwarded", "for=10.0.0.9;host=evil.example"),
    ("x-forwarded-for", "10.0.0.9"),
    ("X_Forwarded_Host", "evil.example"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "gopher"),
    ("x-real-ip", "10.0.0.9"),
    ("via", "1.1 mesh"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "a=1"),
    ("baggage", "user=fgw_canary_baggage"),
    ("b3", "1-2-3"),
    ("x-b3-traceid", "1"),
    ("x-envoy-original-path", "/order/express"),
    ("x-amzn-trace-id", "1"),
    ("x-datadog-trace-id", "1"),
    ("x-request-id", "the-callers-own-id"),
    ("x-original-url", "/order/express"),
    ("x-rewrite-url", "/order/express"),
    ("x-http-method-override", "DELETE"),
    ("x-http-method", "DELETE"),
    ("x-method-override", "DELETE"),
    ("http2-settings", "AAMAAABk"),
    ("x-forwarded", "for=10.0.0.9"),
    ("proxy-authorization", "Basic fgw_canary_proxy"),
    ("x-access-key", "fgw_canary_x_access"),
    ("x-secret-key", "fgw_canary_x_secret"),
    ("X_Secret_Key", "fgw_canary_x_secret"),
    ("access_key", "fgw_canary_access"),
    ("secret_key", "fgw_canary_secret"),
    ("x-gateway-timeout", "20000"),
    ("x-gateway-whatever", "1"),
    ("te", "trailers"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("connection", "X-Private , keep-alive"),
    ("x-private", "fgw_canary_private"),
];

fn with_caller_headers(request: Request) -> Request {
    CALLER_HEADERS.iter().fold(request, |request, (name, value)| request.header(name, value))
}

fn names(entry: &Entry) -> BTreeSet<&str> {
    entry.headers.keys().map(|name| name.as_str()).collect()
}

#[test]
fn no_header_that_identifies_the_caller_reaches_fastrac() {
    let gateway = TestGateway::new();
    let order = post("/order/express", bodies::ORDER).header("idempotency-key", "\"one\"");
    for (request, cached) in [
        (get("/region/province"), true),
        (post("/region/search-region", r#"{"keyword":"gambir"}"#), true),
        (get("/apiCourier/all-courier"), true),
        (request("GET", "/order/track").json(r#"{"courier_code":"idx","awb":"x"}"#), false),
        (post("/apiTariff/tariffExpress", bodies::TARIFF_V1), false),
        (order, false),
        (post("/nothing/listed", "{}"), false),
        (get("/nothing/listed"), false),
    ] {
        let theirs = request.clone().header("x-theirs", "1").header("accept-language", "id").header("method", "GET");
        let response = gateway.send(with_caller_headers(theirs.by("shop")));
        assert_eq!(response.header("x-request-id"), Some("the-callers-own-id"));
        let entry = gateway.received().pop().expect("an entry");
        assert_eq!(caller_header(&entry), None, "{}", entry.json());
        let mut wanted = BTreeSet::from(["accept-encoding", "host"]);
        let (first, unlisted) = (request.target.starts_with("/api"), request.target.starts_with("/nothing"));
        if first || unlisted {
            wanted.extend(["access-key", "secret-key"]);
        }
        if !first || unlisted {
            wanted.insert("authorization");
        }
        if !request.body.is_empty() {
            wanted.extend(["content-type", "content-length"]);
        }
        if !cached {
            wanted.extend(["x-theirs", "accept-language", "method"]);
        }
        assert_eq!(names(&entry), wanted, "{}", request.target);
    }
}

#[test]
fn a_caller_cannot_remove_or_duplicate_injected_headers() {
    let gateway = TestGateway::new();
    let secret = secret_of("shop");
    let host = gateway.sandbox.addr().to_string();
    let tricks: &[&[(&str, &str)]] = &[
        &[("connection", "secret-key")],
        &[("connection", "Secret-Key, ACCESS-KEY, authorization, host, content-type, accept-encoding")],
        &[("connection", "close, authorization")],
        &[("connection", "secret-key"), ("connection", "authorization")],
        &[("access_key", "evil"), ("secret_key", "evil")],
        &[("Access_Key", "evil"), ("x_access_key", "evil")],
        &[("proxy-authorization", "Basic ZXZpbDpldmls")],
        &[("x-access-key", "evil"), ("x-secret-key", "evil")],
        &[("host_", "evil"), ("x-host", "evil")],
        &[("te", "secret-key"), ("trailer", "secret-key, authorization")],
    ];
    for trick in tricks {
        for (request, both) in [(get("/apiCourier/all-courier?v1"), false), (get("/nothing"), true)] {
            let request = trick.iter().fold(request, |request, (name, value)| request.header(name, value));
            gateway.send(request.bearer("svc-shop-1", &secret));
            let entry = gateway.received().pop().expect("an entry");
            let values = |name: &str| -> Vec<String> {
                let like = |known: &&http::HeaderName| known.as_str().replace('_', "-") == name;
                let known: Vec<_> = entry.headers.keys().filter(like).collect();
                let all = known.iter().flat_map(|known| entry.headers.get_all(*known));
                all.map(|value| value.to_str().expect("ASCII").to_owned()).collect()
            };
            assert_eq!(values("access-key"), [ACCESS], "{trick:?}");
            assert_eq!(values("secret-key"), [SECRET], "{trick:?}");
            assert_eq!(values("host"), [host.as_str()], "{trick:?}");
            let basic = format!("Basic {}", STANDARD.encode(format!("{ACCESS}:{SECRET}")));
            assert_eq!(values("authorization"), if both { vec![basic] } else { vec![] }, "{trick:?}");
            assert_eq!(entry.key.as_deref(), Some("gateway"));
        }
        // Purge, because a stored response would hide what is sent.
        gateway.app().gateway.current.load().cache.purge();
    }
}

#[test]
fn no_host_or_target_sends_a_request_to_another_server() {
    let trap = TcpListener::bind("127.0.0.1:0").expect("a trap");
    trap.set_nonblocking(true).expect("set");
    let evil = trap.local_addr().expect("an address").to_string();
    let gateway = TestGateway::new();
    let served = [
        get("/nothing").header("host", &evil),
        get("/nothing").header("x-forwarded-host", &evil).header("forwarded", &format!("host={evil}")),
        get("/nothing").header("x-original-url", &format!("http://{evil}/")).header("x-rewrite-url", "/order/express"),
        get(&format!("http://{evil}/nothing")).header("host", &evil),
        get(&format!("//{evil}/nothing")),
        get(&format!("/nothing?url=http://{evil}/")),
        get(&format!("/@{evil}/nothing")),
    ];
    for request in served {
        gateway.send(request.by("shop"));
        let entry = gateway.received().pop().expect("an entry");
        assert_eq!(entry.headers["host"], gateway.sandbox.addr().to_string().as_str());
        assert!(entry.uri.authority().is_none(), "{}", entry.target());
    }
    let before = gateway.received().len();
    assert_eq!(before, 7);
    for (request, status) in [
        (get(&format!("http://{evil}/nothing")), 400),
        (get("https://gateway.test:1/nothing"), 400),
        (get("ftp://gateway.test/nothing"), 400),
        (get(&format!("http://x@{evil}/nothing")).header("host", &evil), 400),
        (get("/nothing").header("host", "gateway.test").header("host", &evil), 400),
        (get("/nothing").header("host", &format!("gateway.test@{evil}")), 400),
        (get("/nothing").header("host", ""), 400),
        (get("/nothing").header("host", "a b"), 400),
        (request("CONNECT", &evil), 501),
        (request("OPTIONS", "*"), 400),
    ] {
        assert_eq!(gateway.send(request.clone().by("shop")).status, status, "{request:?}");
    }
    assert_eq!(gateway.received().len(), before);
    assert!(trap.accept().is_err(), "a request was sent to the other host");
}

#[test]
fn redirects_are_never_followed_and_never_name_another_host() {
    let trap = TcpListener::bind("127.0.0.1:0").expect("a trap");
    trap.set_nonblocking(true).expect("set");
    let evil = trap.local_addr().expect("an address").to_string();
    let gateway = TestGateway::new();
    let own = gateway.sandbox.addr();
    for (given, passed) in [
        (format!("http://{own}/region/city?a=%31#x"), Some("/region/city?a=%31#x")),
        (format!("http://{own}"), Some("/")),
        ("/courier/all".to_owned(), Some("/courier/all")),
        (format!("http://{evil}/"), None),
        (format!("//{evil}/"), None),
        (format!("/\\{evil}/"), None),
        (format!("https://{own}/"), None),
        (format!("http://{own}//{evil}/"), None),
        (format!("http://user@{own}/"), None),
    ] {
        for name in ["location", "content-location"] {
            let headers = vec![(name.to_owned(), given.clone())];
            let canned = CannedResponse { status: 302, headers, body: String::new(), ..CannedResponse::default() };
            gateway.sandbox.clear_faults();
            gateway.sandbox.fault(Fault::on("v2.province", Act::Answer(canned)));
            let response = gateway.send(get("/region/province").by("shop"));
            assert_eq!(
                (response.status, response.outcome(), response.header(name)),
                (302, "upstream_error", passed),
                "{given}"
            );
        }
    }
    assert!(trap.accept().is_err(), "a redirect was followed");
}

#[test]
fn response_headers_about_keys_cookies_and_hops_are_removed() {
    let gateway = TestGateway::new();
    let pairs = [
        ("set-cookie", "a=b"),
        ("secret-key", SECRET),
        ("access-key", ACCESS),
        ("x-secret-key", SECRET),
        ("Secret_Key", SECRET),
        ("x-request-id", "theirs"),
        ("x-gateway-outcome", "hit"),
        ("x-gateway-sent", "no"),
        ("x-gateway-anything", "1"),
        ("cache-status", "theirs; hit"),
        ("proxy-status", "theirs; error=http_request_denied"),
        ("ratelimit", "\"day\";r=1;t=1"),
        ("RateLimit-Policy", "\"day\";q=1;w=1"),
        ("ratelimit-limit", "1"),
        ("ratelimit-remaining", "1"),
        ("ratelimit-reset", "1"),
        ("idempotent-replayed", "true"),
        ("Idempotent_Replayed", "true"),
        ("x-gateway-first-request", "theirs"),
        ("age", "7"),
        ("keep-alive", "timeout=1"),
        ("x-kept", "1"),
    ];
    let headers = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let canned =
        CannedResponse { status: 200, headers, body: r#"{"success":true}"#.to_owned(), ..CannedResponse::default() };
    gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Answer(canned)));
    let response = gateway.send(post("/user/balance/history", "{}").by("shop"));
    let expected: BTreeSet<&str> =
        ["content-type", "content-length", "date", "x-kept", "x-request-id", "x-gateway-outcome", "x-gateway-sent"]
            .into();
    assert_eq!(response.headers.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>(), expected);
    assert_eq!((response.outcome(), response.sent()), ("ok", "yes"));
    assert_ne!(response.header("x-request-id"), Some("theirs"));
}

/// Bodies that contain the secret in different encodings.
fn echoes() -> Vec<String> {
    let escaped: String = SECRET.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let basic = STANDARD.encode(format!("{ACCESS}:{SECRET}"));
    [SECRET.to_owned(), SECRET.replace('/', "\\/"), escaped, format!("Basic {basic}")]
        .map(|text| format!("{{\"success\":true,\"message\":\"\",\"data\":\"your key is {text}\"}}"))
        .to_vec()
}

#[test]
fn a_response_body_that_echoes_the_secret_is_withheld() {
    let gateway = TestGateway::new();
    for (number, body) in echoes().iter().enumerate() {
        for (operation, request) in [
            ("v2.province", get("/region/province")),
            ("v2.tariff_express", post("/tariff/express", bodies::TARIFF)),
            ("v2.order_express", post("/order/express", &bodies::order(number))),
        ] {
            gateway.sandbox.clear_faults();
            gateway.sandbox.fault(Fault::on(operation, Act::answer(200, body)));
            let response = gateway.send(request.by("shop"));
            assert_eq!((response.status, response.code().as_str(), response.outcome()), (502, "upstream.leak", "leak"));
            assert_eq!(response.sent(), "yes");
        }
    }
    gateway.sandbox.clear_faults();
    assert_eq!(gateway.send(get("/region/province").by("shop")).outcome(), "ok", "a leak is not stored");
}

/// The secret of the previous pair, while it may serve, and that of a pair that is not verified yet are live too.
#[test]
fn every_live_secret_of_the_account_is_withheld_and_masked() {
    let pairs = [("second", "access-2", "2nd/live+secret=51c7"), ("third", "access-3", "3rd/live+secret=88d2")];
    let keys = pairs.map(|(label, access, secret)| KeyPair::new(label, access, secret));
    let keys = [vec![KeyPair::new("gateway", ACCESS, SECRET)], keys.to_vec()].concat();
    let gateway = Setup { sandbox: Options { keys, ..sandbox() }, ..Setup::default() }.start();
    let next = |(_, access, secret): (&str, &str, &str)| {
        write(&gateway.folder.path().join("keys.toml"), &pair(access, secret));
    };
    let events = |event: &str| gateway.metric("key_events_total", &[("event", event)]);
    next(pairs[0]);
    until("the second pair is in use", || events("promoted") == 2.0);
    gateway.sandbox.fault(Fault::on("v2.province", Act::Html(500)));
    next(pairs[1]);
    until("the third pair is a candidate", || events("seen") == 3.0);
    let secrets = [SECRET, pairs[0].2, pairs[1].2];
    for secret in secrets {
        let body = format!(r#"{{"success":true,"message":"","data":"your key is {secret}"}}"#);
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.province", Act::Html(500)));
        gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::answer(200, &body)));
        let response = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
        assert_eq!((response.status, response.code().as_str()), (502, "upstream.leak"), "{secret}");
        let response = gateway.send(post("/item/multi-items", &body).by("shop"));
        let line = gateway.line(response.header("x-request-id").expect("an id")).to_string();
        assert!(!line.contains(secret) && !line.contains("your key"), "{line}");
    }
    assert_eq!((events("promoted"), events("retired")), (2.0, 0.0), "all three are live");
}

/// As the same response would be withheld if it was fetched now; also after a restart.
#[test]
fn a_stored_response_that_holds_the_secret_of_a_later_pair_is_removed() {
    const NEXT: (&str, &str) = ("access-2", "2nd/live+0123456789=51c7");
    let keys = vec![KeyPair::new("gateway", ACCESS, SECRET), KeyPair::new("second", NEXT.0, NEXT.1)];
    let mut gateway = Setup { sandbox: Options { keys, ..sandbox() }, ..Setup::default() }.start();
    let body = format!(r#"{{"success":true,"message":"","data":"your key is {}"}}"#, NEXT.1);
    gateway.sandbox.fault(Fault::on("v2.city", Act::answer(200, &body)));
    let city = || get("/region/city?province_id=31").by("shop").header("cache-control", "only-if-cached");
    assert_eq!(gateway.send(get("/region/city?province_id=31").by("shop")).outcome(), "ok");
    assert_eq!(gateway.send(get("/region/district?city_id=3171").by("shop")).outcome(), "ok");
    assert_eq!(gateway.send(city()).outcome(), "hit");
    // In the request, encoded: it is in the key.
    let percent: String = NEXT.1.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let hex = percent.replace('%', "");
    let forms = [percent, hex, STANDARD.encode(NEXT.1)];
    let asked = |form: &str| get(&format!("/region/district?city_id=3171&x={form}")).by("shop");
    let stored = |form: &String| asked(form).header("cache-control", "only-if-cached");
    forms.iter().for_each(|form| drop(gateway.send(asked(form))));
    assert!(forms.iter().all(|form| gateway.send(stored(form)).outcome() == "hit"));
    gateway.take_app().stop();
    let snapshot = std::fs::read(gateway.folder.path().join("state/cache-snapshot")).expect("a file");
    let app = gateway.second().expect("started");
    gateway.put_app(app);
    until("it is restored", || gateway.send(city()).outcome() == "hit");
    write(&gateway.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
    until("it is removed", || gateway.send(city()).code() == "cache.only");
    until("so are the others", || forms.iter().all(|form| gateway.send(stored(form)).code() == "cache.only"));
    assert_eq!(gateway.send(get("/region/district?city_id=3171").by("shop")).outcome(), "hit");
    // Nor is it restored from a snapshot that was taken before.
    gateway.take_app().stop();
    std::fs::write(gateway.folder.path().join("state/cache-snapshot"), snapshot).expect("written");
    let app = gateway.second().expect("started");
    gateway.put_app(app);
    until("the rest is restored", || {
        gateway
            .send(get("/region/district?city_id=3171").by("shop").header("cache-control", "only-if-cached"))
            .outcome()
            == "hit"
    });
    until("it is removed", || gateway.send(city()).code() == "cache.only");
    assert!(forms.iter().all(|form| gateway.send(stored(form)).code() == "cache.only"));
}

#[test]
fn a_response_head_that_echoes_the_secret_is_withheld() {
    let gateway = TestGateway::new();
    for value in [SECRET.to_owned(), format!("key={SECRET}"), STANDARD.encode(format!("{ACCESS}:{SECRET}"))] {
        let headers = vec![("x-debug".to_owned(), value)];
        let canned = CannedResponse {
            status: 200,
            headers,
            body: r#"{"success":true}"#.to_owned(),
            ..CannedResponse::default()
        };
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Answer(canned)));
        let response = gateway.send(post("/user/balance/history", "{}").by("shop"));
        assert_eq!((response.status, response.code().as_str()), (502, "upstream.leak"));
    }
}

#[test]
fn a_streamed_response_is_cut_before_the_secret() {
    let gateway = Setup { limits: "answer_buffer = \"4KiB\"", ..Setup::default() }.start();
    for before in [100_000, 1_000_000] {
        for echo in echoes() {
            let body =
                echo.replace("your key", &"x".repeat(before)).replace("\"}", &format!("{}\"}}", "y".repeat(50_000)));
            gateway.sandbox.clear_faults();
            gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::answer(200, &body)));
            let name = format!("streamed-{before}-{}", echo.len());
            let mut connection = gateway.connect();
            connection.write(&post("/tariff/express", bodies::TARIFF).by("shop").header("x-request-id", &name).bytes());
            // If the secret appears before anything was flushed, the connection just closes.
            if let Some(response) = connection.read_response("POST") {
                assert_eq!((response.status, response.whole), (200, false), "{before}");
                assert!(!response.text().contains('y'), "bytes after the secret were sent");
            }
            assert!(connection.ends());
            let line = gateway.line(&name);
            assert_eq!((&line["outcome"], &line["code"]), (&"leak".into(), &"upstream.leak".into()));
        }
    }
}

/// What is kept and shown of an order whose outcome is unknown is what the exchange log shows of it.
#[test]
fn an_unknown_order_is_kept_and_shown_masked() {
    let ops = secret_of("ops");
    let digest = digest_of("ops");
    let more = format!("[admin]\ntokens = [{{ name = \"ops\", sha256 = \"{digest}\", role = \"operate\" }}]\n");
    let mut gateway = Setup { more: more.leak(), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::everywhere(Act::Html(500)));
    let presented = "presented-by-mistake";
    let order = |target: &str| post(target, "{}").by("shop").header("x-secret-key", presented);
    let requests = [
        order(&format!("/nix/{SECRET}")),
        order(&format!("/nix/{}", STANDARD.encode(format!("{ACCESS}:{SECRET}")))),
        order(&format!("/nix/{}", secret_of("shop"))),
        order(&format!("/nix/{ops}")),
        order(&format!("/nix/{presented}")),
        order("/nix/081234567890/budi@contoh.id"),
        order("/nix/081234567891/budi@contoh.id"),
        order("/nix/x;token=Tok3nTok3n?password=Tok3nTok3n"),
        order(&format!("/nix/{}/{}", "x".repeat(185), secret_of("shop"))),
        Request { method: "CANARY-METHOD".to_owned(), ..order("/nix/y") },
        Request { body: format!(r#"{{"ref":"{presented}"}}"#).into_bytes(), ..order("/nix/x") },
    ];
    let shown = |gateway: &TestGateway, page: &str| {
        let request = get(page).header("host", "localhost").header("authorization", &format!("Bearer {ops}"));
        Connection::open(gateway.app().admin).send(&request)
    };
    let listed = |gateway: &TestGateway| shown(gateway, "/orders").json()["orders"].as_array().expect("a list").clone();
    for request in requests {
        let response = gateway.send(request.clone());
        assert_eq!(response.sent(), "unknown", "{}", request.target);
        let listed = listed(&gateway);
        let (order, line) =
            (listed.last().expect("an order"), gateway.line(response.header("x-request-id").expect("an id")));
        assert_eq!((&order["path"], &order["method"]), (&line["path"], &line["method"]), "{}", request.target);
        let one = shown(&gateway, &format!("/orders/{}", order["number"])).json();
        assert!(one["request"].is_null(), "the log shows no body of an unlisted request: {one}");
        // Orders are compared by what was sent, not by what is shown.
        assert_eq!(gateway.send(request.clone()).code(), "order.unknown", "{}", request.target);
    }
    let orders = listed(&gateway);
    let pages = orders.iter().map(|order| shown(&gateway, &format!("/orders/{}", order["number"])).text());
    let seen = [pages.collect(), serde_json::to_string(&orders).expect("JSON")].concat();
    gateway.take_app().stop();
    let store = std::fs::read(gateway.folder.path().join("state/state.redb")).expect("a file");
    let all = [seen, String::from_utf8_lossy(&store).into_owned()].concat();
    for secret in [SECRET, presented, "fgw_canary", "0812345678", "budi@", "Tok3n", "CANARY-METHOD"] {
        assert!(!all.contains(secret), "{secret}");
    }
    assert_eq!(canary_in(all.as_bytes()), None);
    let app = gateway.second().expect("started");
    gateway.put_app(app);
}

#[test]
fn no_outcome_of_a_request_shows_its_secrets() {
    let services = &[("poor", "quota = { per_day = 1 }"), ("old", "allow = [\"lookup\"]")];
    let limits = "request_body = \"1KiB\"\nrequest = \"2s\"";
    let more = "[operations.\"v2.multi_items\"]\ntimeout = \"100ms\"\n";
    let gateway = Setup { services, limits, more, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.webhook_get", Act::Html(503)));
    gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Close));
    gateway.sandbox.fault(Fault { wait_ms: 400, ..Fault::on("v2.multi_items", Act::Pass) });
    let telling = r#"{"password":"fgw_canary_b","x":"fgw_canary_c","origin":{"secret_key":"fgw_canary_d"}}"#;
    for (request, outcome) in [
        (get("/region/province").by("shop"), "ok"),
        (get("/region/province").by("shop"), "hit"),
        (get("/region/province").pair("svc-shop-1", "fgw_canary_wrong"), "unauthenticated"),
        (get("/region/province").basic("fgw_canary_x", "fgw_canary_y"), "unauthenticated"),
        (get("/region/province").header("authorization", "Bearer fgw_canary_nonsense"), "unauthenticated"),
        (get("/region/province?secret_key=fgw_canary_q&t=fgw_canary_r#fgw_canary_f").by("shop"), "ok"),
        (get("/nothing/fgw_canary_p;k=fgw_canary_s?Authorization=Basic%20fgw_canary_t").by("shop"), "rejected"),
        (get("/region/../fgw_canary_p").by("shop"), "bad_request"),
        (post("/tariff/express", telling).by("shop"), "rejected"),
        (post("/tariff/express", telling).by("old"), "forbidden"),
        (post("/tariff/express", &"fgw_canary_e".repeat(1_000)).by("shop"), "bad_request"),
        (post("/order/express", "fgw_canary_not_json").by("shop"), "rejected"),
        (post("/order/express", "{}").header("idempotency-key", "fgw_canary_key").by("shop"), "rejected"),
        (get("/webhook/get").by("shop"), "upstream_error"),
        (post("/user/balance/history", telling).by("shop"), "cut"),
        (post("/item/multi-items", telling).by("shop"), "timeout"),
        (get("/courier/all").by("poor"), "hit-or-ok"),
        (get("/courier/service?courier_code=idx").by("poor"), "over_quota-or-ok"),
        (get("/courier/service?courier_code=grab").by("poor"), "over_quota"),
    ] {
        let response = gateway.send(request.clone());
        assert!(outcome.split("-or-").any(|one| one == response.outcome()), "{request:?}: {}", response.outcome());
        gateway.line(response.header("x-request-id").expect("an id"));
    }
    for head in ["GET /fgw_canary_a b c\r\n\r\n", "GET / HTTP/1.1\r\nsecret key: fgw_canary_h\r\n\r\n"] {
        let mut connection = gateway.connect();
        connection.write(head.as_bytes());
        assert_eq!(connection.read_response("GET").expect("a response").status, 400);
    }
    until("both are counted", || gateway.metric("requests_total", &[("operation", "-"), ("service", "-")]) >= 2.0);
    for page in ["/metrics", "/status", "/config", "/readyz", "/"] {
        let response = gateway.admin(page);
        assert!(response.status == 200 && response.body.len() > 10, "{page}");
    }
    let log = LOG.lock().expect("whole");
    assert!(!log.is_empty(), "the program's log is captured");
    assert_eq!(canary_in(&log), None);
}

/// Contract section 7, Masking: credentials of any kind never appear, wherever a caller has put them.
#[test]
fn the_exchange_log_shows_no_credential_wherever_it_was_written() {
    let gateway = TestGateway::new();
    let own = secret_of("shop");
    let basic = STANDARD.encode(format!("svc-shop-1:{own}"));
    let fastrac = STANDARD.encode(format!("{ACCESS}:{SECRET}"));
    let encoded = |text: &str| text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let quote = |body: String| post("/tariff/express", &body).by("shop");
    let requests = [
        quote(format!(r#"{{"x":"{SECRET}"}}"#)),
        quote(format!(r#"{{"x":"before {} after"}}"#, SECRET.replace('/', "\\/"))),
        quote(format!(r#"{{"{SECRET}":1}}"#)),
        quote(format!(r#"{{"x":"{fastrac}","y":"{basic}"}}"#)),
        quote(format!(r#"{{"{own}":{{"{basic}":1}}}}"#)),
        get(&format!("/region/city?province_id={basic}")).by("shop"),
        get(&format!("/region/city?province_id={}", encoded(&basic))).by("shop"),
        get(&format!("/region/city?province_id={SECRET}")).by("shop"),
        get(&format!("/region/city?province_id={}", encoded(SECRET))).by("shop"),
        get(&format!("/nothing/{}/{}?x={}", encoded(SECRET), encoded(&basic), encoded(&fastrac))).by("shop"),
        get(&format!("/nothing?x={}", encoded(SECRET))),
        get("/region/province").by("shop").header("x-request-id", &own),
        get("/region/province").by("shop").header("x-request-id", basic.trim_end_matches('=')),
    ];
    let count = requests.len();
    for request in requests {
        gateway.send(request);
    }
    let lines = gateway.lines(count);
    let text = serde_json::to_string(&lines).expect("text");
    for (secret, whose) in
        [(SECRET, "Fastrac's"), (&*own, "a caller's"), (&*basic, "Basic"), (&*fastrac, "Fastrac's Basic")]
    {
        for form in [secret.to_owned(), encoded(secret), secret.trim_end_matches('=').to_owned()] {
            assert!(!text.contains(&form), "{whose}: {text}");
        }
    }
    assert_eq!(canary_in(text.as_bytes()), None);
    // What is not withheld is still there.
    assert!(text.contains(r#""province_id=***""#), "{text}");
}

/// The snapshot has the keys of what is stored as they are, and a refresh is logged without its caller.
#[test]
fn a_lookup_that_holds_a_credential_is_not_stored() {
    const OWN: &str = "plain-Secret/without+prefix_1";
    const OTHER: &str = "another-Secret_of/a+service";
    const SHORT: &str = "sh0rt-one=";
    let credential = |number: u8, secret: &str| {
        let digest = hex::encode(Sha256::digest(secret));
        format!("{{ access_key = \"plain-{number}\", secret_sha256 = \"{digest}\" }}")
    };
    let more = format!(
        "[services.plain]\naccount = \"main\"\ncredentials = [{}, {}]\n\
         [services.short]\naccount = \"main\"\ncredentials = [{}]\n\
         [operations.\"v2.city\"]\nvary = [\"accept-language\"]\n",
        credential(1, OWN),
        credential(2, OTHER),
        credential(3, SHORT)
    );
    let mut gateway = Setup { more: more.leak(), ..Setup::default() }.start();
    let percent = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let search = |body: &str| post("/region/search-region", body);
    let city = |query: &str| get(&format!("/region/city?{query}"));
    let forms = |secret: &str| [percent(secret), hex::encode(secret), URL_SAFE_NO_PAD.encode(secret)];
    let mut held = Vec::new();
    for secret in [OWN, SECRET, OTHER] {
        for form in forms(secret) {
            held.push(city(&format!("x={form}")));
            held.push(search(&format!(r#"{{"x":["my key is {form}"]}}"#)));
            held.push(city("province_id=31").header("accept-language", &form));
        }
        held.push(search(&format!(r#"{{"x":"{secret}"}}"#)));
        held.push(city("province_id=31").header("accept-language", secret));
    }
    // A secret of its own may be part of another word.
    held.push(city("x=plain-1.plain-Secret/without%2Bprefix_1and-more"));
    // As a bearer token, or as in Basic form.
    for pair in [format!("plain-2.{OTHER}"), format!("plain-2:{OTHER}"), format!("plain-3.{SHORT}")] {
        for form in [pair.clone(), percent(&pair), URL_SAFE_NO_PAD.encode(&pair)] {
            held.push(city(&format!("x={form}")));
            held.push(city(&format!("{form}=1")));
            held.push(search(&format!(r#"{{"x":["my key is {form}."]}}"#)));
            held.push(city("province_id=31").header("accept-language", &form));
        }
    }
    for query in [
        "secret_key=abc",
        "a=1&Access-Token=abc",
        "a=1;password=x",
        "header=Authorization&value=abc",
        "pin=1234",
        "user[pass]=abc",
    ] {
        held.push(city(query));
    }
    for body in [
        r#"{"secret_key":"abc"}"#,
        r#"{"a":[{"api_key":1}]}"#,
        r#"{"name":"Authorization","value":"abc"}"#,
        r#"{"otp_code":12}"#,
    ] {
        held.push(search(body));
    }
    for request in held {
        for _ in 0..2 {
            let response = gateway.send(request.clone().pair("plain-1", OWN));
            let status = response.header("cache-status").expect("a status");
            assert_eq!(status, "fastrac-gateway; fwd=bypass", "{request:?}");
        }
    }
    for request in [search(r#"{"keyword":"Jl. Sudirman 12, secret garden"}"#), city("province_id=31&name=Budi")] {
        gateway.send(request.clone().by("shop"));
        assert_eq!(gateway.send(request.by("shop")).outcome(), "hit");
    }
    gateway.take_app().stop();
    let snapshot = std::fs::read(gateway.folder.path().join("state/cache-snapshot")).expect("a file");
    for secret in [OWN, SECRET, OTHER] {
        for form in forms(secret).iter().map(String::as_str).chain([secret]) {
            assert!(memchr::memmem::find(&snapshot, form.as_bytes()).is_none(), "{form}");
        }
    }
}

/// Secrets need not begin with `fgw_`, and an unknown caller may present anything: what a request presents, and words that
/// the configuration knows by their digests, are withheld in every encoding, wherever the caller wrote them.
#[test]
fn the_exchange_log_shows_no_secret_of_a_caller_in_any_encoding() {
    const OWN: &str = "plain-Secret/without+prefix_1";
    const WRONG: &str = "another.Secret_of-nobody/2";
    let digest = hex::encode(Sha256::digest(OWN));
    let more = format!(
        "[services.plain]\naccount = \"main\"\ncredentials = [{{ access_key = \"plain-1\", secret_sha256 = \"{digest}\" }}]\n"
    );
    let gateway = Setup { more: more.leak(), ..Setup::default() }.start();
    let percent = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let encodings = |secret: &str| {
        let hex = hex::encode(secret);
        let encoded = [STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret), hex.to_uppercase(), hex];
        [&encoded[..], &[percent(secret), percent(&percent(secret)), percent(&encoded[0])]].concat()
    };
    let known = |request: Request| request.pair("plain-1", OWN);
    let unknown = |request: Request| request.basic("plain-1", WRONG);
    let mut requests = Vec::new();
    for text in encodings(OWN).into_iter().chain([OWN.to_owned()]) {
        let body = format!(r#"{{"x":"{text}","y":["my key is {}"]}}"#, text.replace('/', "\\/"));
        requests.push(known(post("/tariff/express", &body)));
        requests.push(known(get(&format!("/region/city?province_id={text}"))));
        // Only the digest tells what this is.
        requests.push(get(&format!("/region/city?province_id={text}")));
        requests.push(post("/tariff/express", &body).by("shop"));
        requests.push(get(&format!("/region/city?province_id=plain-1.{text}")).by("shop"));
        requests.push(post("/tariff/express", &format!(r#"{{"x":["It is plain-1.{text}."]}}"#)).by("shop"));
    }
    for text in encodings(WRONG).into_iter().chain([WRONG.to_owned()]) {
        requests.push(unknown(get(&format!("/region/{}?x={text}", text.replace("%2F", "-")))));
    }
    let ids = [hex::encode(OWN), URL_SAFE_NO_PAD.encode(OWN), hex::encode(WRONG), URL_SAFE_NO_PAD.encode(WRONG)];
    for id in &ids {
        for request in [known(get("/region/province")), unknown(get("/region/province"))] {
            requests.push(request.header("x-request-id", id));
        }
    }
    let count = requests.len();
    for request in requests {
        gateway.send(request);
    }
    let text = serde_json::to_string(&gateway.lines(count)).expect("text");
    for secret in [OWN, WRONG] {
        for form in encodings(secret).iter().map(String::as_str).chain([secret]) {
            // An id that the request's own caller has not presented may be anything.
            let elsewhere = ids.iter().any(|id| id == form);
            let shown = text.matches(form).count();
            assert!(shown == 0 || elsewhere && shown == 1, "{form}: {text}");
        }
    }
}

/// Libraries log what they have received, below `info`.
#[test]
fn the_programs_log_shows_no_secret_at_any_level() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start_as(&configuration(fastrac.addr()), (ACCESS, SECRET), |command| {
        command.env("RUST_LOG", "trace");
    });
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    let path = get("x?secret_key=fgw_canary_in_a_malformed_path").by("shop");
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &request_frames(1, &path)].concat();
    let mut malformed = Connection::open(program.data);
    malformed.write(&preface);
    let response = Connection::open(program.data).send(&get("/region/province?token=fgw_canary_q").by("shop"));
    assert_eq!(response.outcome(), "ok");
    let stored = Connection::open(program.data).send(&get("/region/province").by("shop"));
    assert_eq!(stored.outcome(), "ok");
    assert!(malformed.read_piece(1 << 16) > 0, "nothing came of it");
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(20));
    let log = program.stderr();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    assert_eq!(canary_in(log.as_bytes()), None);
    assert!(!log.contains("fgw_canary"), "{log}");
}
