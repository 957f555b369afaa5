//! Which stored response a caller gets, by its directives and conditions, and whose response it is.

use std::time::Duration;

use fastrac_gateway::warm::WalkEnd;
use fastrac_sandbox::{Act, Fault};

use crate::{
    client::{Request, Response, get, post, request},
    test_gateway::{Setup, TestGateway, until},
};

fn cache_status(response: &Response) -> &str {
    response.header("cache-status").expect("Cache-Status").strip_prefix("fastrac-gateway; ").expect("its own")
}

fn city() -> Request {
    get("/region/city?province_id=31").by("shop")
}

#[test]
fn a_caller_that_has_the_response_gets_a_304() {
    let gateway = TestGateway::new();
    let first = gateway.send(city());
    let etag = first.header("etag").expect("an ETag").to_owned();
    assert!(etag.starts_with('"') && etag.len() == 34, "{etag}");
    for (condition, status) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"a\", W/\"b\" , {etag}"), 304),
        ("*".to_owned(), 304),
        ("\"a\"".to_owned(), 200),
        (etag.trim_matches('"').to_owned(), 200),
        (String::new(), 200),
    ] {
        for method in ["GET", "HEAD"] {
            let request = Request { method: method.to_owned(), ..city() };
            let mut connection = gateway.connect();
            connection.write(&request.header("if-none-match", &condition).bytes());
            let response = connection.read_response(method).expect("a response");
            assert_eq!((response.status, response.outcome()), (status, "hit"), "{condition}");
            assert_eq!(response.header("etag"), Some(etag.as_str()));
            assert!(response.header("age").is_some() && cache_status(&response).starts_with("hit; ttl="));
            let is_whole = status == 200 && method == "GET";
            assert_eq!(response.body.is_empty(), !is_whole, "{method} {condition}");
            assert_eq!(response.header("content-type").is_some(), status == 200);
            let id = response.header("x-request-id").expect("an id");
            assert_eq!(gateway.line(id)["status"], status);
        }
    }
    assert_eq!(gateway.received().len(), 1);
    // Also if the response has to be fetched, and not with other methods or for what is no response of Fastrac's.
    gateway.app().gateway.current.load().cache.purge();
    let fetched = gateway.send(city().header("if-none-match", &etag));
    assert_eq!((fetched.status, fetched.outcome(), fetched.body.len()), (304, "ok", 0));
    assert!(!gateway.line(fetched.header("x-request-id").expect("an id"))["answer_body"].is_null());
    let search = post("/region/search-region", r#"{"keyword":"gambir"}"#).by("shop").header("if-none-match", "*");
    assert_eq!([gateway.send(search.clone()).status, gateway.send(search).status], [200, 200]);
    let refused = get("/region/city?province_id=1").by("shop").header("if-none-match", "*");
    assert_eq!(gateway.send(refused.header("cache-control", "only-if-cached")).status, 504);
}

#[test]
fn head_and_range_are_answered_from_the_whole_response() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    connection.write(&Request { method: "HEAD".to_owned(), ..city() }.header("range", "bytes=0-3").bytes());
    let head = connection.read_response("HEAD").expect("a response");
    assert_eq!((head.status, cache_status(&head)), (200, "fwd=uri-miss; stored"));
    let whole = gateway.send(city());
    let length = whole.body.len().to_string();
    assert_eq!((whole.outcome(), head.header("content-length")), ("hit", Some(length.as_str())));
    for (name, value) in
        [("range", "bytes=0-3"), ("if-range", "\"x\""), ("if-match", "\"x\""), ("if-modified-since", "now")]
    {
        let response = gateway.send(city().header(name, value));
        assert_eq!((response.status, response.outcome(), &response.body), (200, "hit", &whole.body), "{name}");
    }
    assert_eq!(gateway.received().len(), 1);
    assert!(gateway.received().iter().all(|entry| !entry.headers.contains_key("range")));
}

#[test]
fn directives_decide_which_fresh_response_is_accepted() {
    let services = &[("fresh", "force_refresh = true")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let ask = |service: &str, control: &str| {
        let request = get("/courier/all").by(service);
        gateway.send(if control.is_empty() { request } else { request.header("cache-control", control) })
    };
    assert_eq!(ask("shop", "only-if-cached").code(), "cache.only");
    assert_eq!(cache_status(&ask("fresh", "no-cache")), "fwd=uri-miss; stored", "there is nothing to refuse");
    for (service, control, expected) in [
        ("shop", "no-cache, max-age=0, min-fresh=100000", "hit"),
        ("shop", "max-stale=0, only-if-cached", "hit"),
        ("fresh", "max-age=\"600\", min-fresh=1", "hit"),
        ("fresh", "max-age=0, max-stale", "hit"),
        ("fresh", "x=\"a, no-cache\"", "hit"),
        ("fresh", "no-cache", "fwd=request; stored"),
        ("fresh", "max-age=0, max-age=60", "fwd=request; stored"),
        ("fresh", "max-age=soon", "fwd=request; stored"),
        ("fresh", "min-fresh=100000", "fwd=request; stored"),
    ] {
        let response = ask(service, control);
        assert!(cache_status(&response).starts_with(expected), "{service} {control}: {response:?}");
    }
    assert_eq!(ask("fresh", "min-fresh=100000, only-if-cached").code(), "cache.only");
    assert_eq!(gateway.received().len(), 5);
}

/// Also one that shares a call under way, or that may not, because that was sent before it came.
#[test]
fn each_request_says_what_was_stored_for_itself() {
    let gateway = Setup { services: &[("fresh", "force_refresh = true")], ..Setup::default() }.start();
    for (province, is_stored, controls, expected) in [
        (31, false, ["x", "x"], ["fwd=uri-miss; stored", "fwd=uri-miss; collapsed"]),
        (32, false, ["x", "no-cache"], ["fwd=uri-miss; stored", "fwd=uri-miss; stored"]),
        (33, true, ["min-fresh=100000", "min-fresh=100000"], ["fwd=request; stored", "fwd=request; collapsed"]),
        (34, true, ["no-cache", "min-fresh=100000"], ["fwd=request; stored", "fwd=request; collapsed"]),
    ] {
        let ask =
            |control| get(&format!("/region/city?province_id={province}")).by("fresh").header("cache-control", control);
        if is_stored {
            assert_eq!(gateway.send(ask("x")).status, 200);
        }
        let before = gateway.received().len();
        // The first call ends first.
        for (millis, times) in [(300, 1), (600, 9)] {
            let wait = Fault::on("v2.city", Act::Pass).wait(Duration::from_millis(millis));
            gateway.sandbox.fault(wait.times(times));
        }
        let mut connections = controls.map(|control| {
            let mut connection = gateway.connect();
            connection.write(&ask(control).bytes());
            until("it is sent", || gateway.received().len() > before);
            connection
        });
        let responses = connections.each_mut().map(|connection| connection.read_response("GET").expect("a response"));
        assert_eq!(responses.each_ref().map(cache_status), expected, "{controls:?}");
        gateway.sandbox.clear_faults();
    }
}

#[test]
fn no_request_is_answered_with_the_response_to_another() {
    let gateway = TestGateway::new();
    // What is sent first, to be stored under the key of the second.
    let search = |body: &str| post("/region/search-region", body).by("shop");
    let of = |target: &str| get(target).by("shop");
    for (poison, victim) in [
        (of("/region/city?province_id=31&province_id=32"), of("/region/city?province_id=31")),
        (of("/region/city?province_id=33%26x"), of("/region/city?province_id=33")),
        (of("/region/city?province_id=34&x=1"), of("/region/city?province_id=34")),
        (of("/region/city?x=&province_id=35"), of("/region/city?province_id=35")),
        (
            of("/region/city?province_id=36").header("x-original-url", "/region/city?province_id=11"),
            of("/region/city?province_id=11"),
        ),
        (of("/region/district").json(r#"{"city_id":"3171"}"#), of("/region/district")),
        (search(r#"{"keyword":"bogor","x":1}"#), search(r#"{"keyword":"bogor"}"#)),
        (search(r#"{"keyword":"tebet\u0000"}"#), search(r#"{"keyword":"tebet"}"#)),
        (search(r#"{"keyword":"koja","keyword":"tanah abang"}"#), search(r#"{"keyword":"koja"}"#)),
        (request("OPTIONS", "/courier/all").by("shop"), of("/courier/all")),
    ] {
        let first = gateway.send(poison.clone());
        let before = gateway.received().len();
        let second = gateway.send(victim.clone());
        assert_eq!(gateway.received().len(), before + 1, "{} {first:?} {second:?}", victim.target);
        assert_eq!(second.sent(), "yes", "{}", victim.target);
        if second.status == 200 {
            let again = gateway.send(victim);
            assert_eq!((again.outcome(), again.body == second.body), ("hit", true));
        }
    }
    // Headers that do not reach Fastrac change nothing: they share what is right for all.
    let plain = gateway.send(of("/region/city?province_id=51"));
    for (name, value) in [
        ("x-forwarded-host", "evil.test"),
        ("x-http-method-override", "POST"),
        ("x-rewrite-url", "/region/province"),
        ("accept", "text/html"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en"),
        ("content-type", "text/plain"),
        ("origin", "https://evil.test"),
    ] {
        let response = gateway.send(of("/region/city?province_id=51").header(name, value));
        assert_eq!((response.outcome(), response.body == plain.body), ("hit", true), "{name}");
    }
}

#[test]
fn a_walk_stores_the_region_tree_and_resumes() {
    // A small tree: what the sandbox would say of other cities does not matter.
    let gateway = TestGateway::new();
    let list = |text: &str| Act::answer(200, &format!(r#"{{"success":true,"message":"","data":[{text}]}}"#));
    gateway
        .sandbox
        .fault(Fault::on("v2.province", list(r#"{"province_id":31,"name":"A"},{"province_id":"08","name":"B"}"#)));
    gateway.sandbox.fault(Fault::on("v2.city", list(r#"{"city_id":3171,"name":"A","province_id":31}"#)));
    gateway.sandbox.fault(Fault::on("v2.district", list(r#"{"district_id":3171030,"name":"A","city_id":3171}"#)));
    let village = r#"{"subdistrict_id":3171031001,"name":"A","district_id":3171030,"post_code":"10620"}"#;
    gateway.sandbox.fault(Fault::on("v2.sub_district", list(village)));
    let warmer = &gateway.app().warmer;
    let walk = || warmer.progress().remove("main").expect("a walk");
    assert!(warmer.begin("main"));
    until("the walk has ended", || walk().ended.is_some());
    let first = walk();
    assert_eq!(
        (first.ended, first.counts.known, first.counts.fetched, first.counts.failed),
        (Some(WalkEnd::Complete), 6, 6, 0),
        "{first:?}"
    );
    let sent: Vec<String> = gateway.received().iter().map(|entry| entry.target()).collect();
    assert_eq!(
        sent,
        [
            "/region/province",
            "/region/city?province_id=31",
            "/region/city?province_id=08",
            "/region/district?city_id=3171",
            "/region/sub-district?district_id=3171030",
            "/region/post-code?post_code=10620",
        ]
    );
    for target in &sent {
        assert_eq!(gateway.send(get(target).by("shop")).outcome(), "hit", "{target}");
    }
    assert!(warmer.begin("main"));
    until("the second walk has ended", || walk().ended.is_some());
    assert_eq!((walk().counts.fresh, walk().counts.fetched, gateway.received().len()), (6, 0, 6));
    let status = &gateway.admin("/status").json()["cache"]["walks"]["main"];
    assert_eq!((&status["state"], &status["known"]), (&"complete".into(), &6.into()));
}

#[test]
fn a_response_that_is_fetched_again_is_compared_with_what_it_replaces() {
    let more = "[operations.\"v2.province\"]\ncache = { fresh = \"200ms\", stale_if_error = \"1h\" }\n";
    let gateway = Setup { more, ..Setup::default() }.start();
    let compared =
        |result: &str| gateway.metric("cache_comparisons_total", &[("operation", "v2.province"), ("result", result)]);
    let refreshed = |result: &str| {
        let before = compared(result);
        until("it is fetched again", || {
            gateway.send(get("/region/province").by("shop"));
            compared(result) > before
        });
    };
    // Fastrac puts the time into each response, and may write the same in another way.
    let list = |data: &str, time: u32| {
        let time = format!("2026-01-0{time}T00:00:00.000Z");
        let text = format!(r#"{{"data":{data},"success":true,"message":"","timestamp":"{time}"}}"#);
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.province", Act::answer(200, &text)));
    };
    list(r#"[{"province_id":31,"name":"A"}]"#, 1);
    assert_eq!(gateway.send(get("/region/province").by("shop")).outcome(), "ok");
    list(r#"[ {"name":"\u0041","province_id":31} ]"#, 2);
    refreshed("same");
    assert_eq!(compared("changed"), 0.0);
    list(r#"[{"province_id":31,"name":"B"}]"#, 3);
    refreshed("changed");
    let drift = &gateway.admin("/status").json()["cache"]["operations"]["v2.province"]["drift"];
    assert!(drift["compared"].as_u64() >= Some(2) && drift["changed"] == 1, "{drift}");
    assert!(drift["suggested_fresh_seconds"].is_u64(), "{drift}");
}

#[test]
fn directives_decide_which_stale_response_is_accepted() {
    let services = &[("fresh", "force_refresh = true")];
    let more = "[operations.\"v2.province\"]\ncache = { fresh = \"300ms\", stale_if_error = \"1h\" }\n";
    let gateway = Setup { services, more, ..Setup::default() }.start();
    let ask = |service: &str, control: &str| {
        gateway.send(get("/region/province").by(service).header("cache-control", control))
    };
    let etag = ask("shop", "").header("etag").expect("an ETag").to_owned();
    // Otherwise a hit would have it refreshed.
    gateway.sandbox.fault(Fault::on("v2.province", Act::Html(500)));
    until("the entry is stale", || ask("shop", "max-stale=0, only-if-cached").status == 504);
    for (service, control) in [
        ("shop", "only-if-cached"),
        ("shop", "max-stale"),
        ("shop", "max-stale=3600"),
        ("shop", "no-cache, max-age=0, min-fresh=1, max-stale"),
        ("fresh", "max-age=0, max-stale"),
        ("fresh", "max-age=1, max-stale=3600"),
    ] {
        let response = ask(service, control);
        assert_eq!((response.status, response.outcome(), response.sent()), (200, "stale", "no"), "{service} {control}");
        assert!(cache_status(&response).starts_with("hit; ttl=-"), "{service} {control}: {response:?}");
        assert!(response.header("age").is_some() && response.header("etag") == Some(&etag));
    }
    for (service, control) in [
        ("shop", "max-stale=0"),
        ("fresh", "no-cache"),
        ("fresh", "no-cache, max-stale"),
        ("fresh", "max-age=3600"),
        ("fresh", "min-fresh=1"),
        ("fresh", "min-fresh=0, max-stale"),
    ] {
        let response = ask(service, control);
        assert!(response.status >= 500, "{service} {control}: {response:?}");
        // A refresh may be under way.
        let status = cache_status(&response);
        assert!(["fwd=stale", "fwd=stale; collapsed"].contains(&status), "{service} {control}: {status}");
    }
    // The failures have not removed it.
    let usual = ask("shop", "x");
    assert_eq!((usual.status, usual.outcome()), (200, "stale"), "{usual:?}");
    let known = gateway.send(get("/region/province").by("shop").header("if-none-match", &etag));
    assert_eq!((known.status, known.outcome(), known.body.len()), (304, "stale", 0));
    gateway.sandbox.clear_faults();
    until("it is replaced", || {
        gateway.wait_for_pauses();
        let response = ask("fresh", "no-cache");
        response.status == 200 && cache_status(&response).ends_with("; stored")
    });
}

#[test]
fn refusals_of_lookups_say_what_the_cache_did() {
    let services = &[("fresh", "force_refresh = true"), ("small", "quota = { per_day = 1 }")];
    let search = post("/region/search-region", r#"{"a":1,"a":2}"#).by("shop");
    let district = |service: &str| get("/region/district?city_id=3171").by(service);
    for (budget, breaker, code) in [
        // The canary takes one unit.
        ("per_day = 2", "minimum = 100000", "budget.day"),
        ("per_day = 1000", "minimum = 1, failures = 0.1, open = \"1m\"", "upstream.breaker"),
        ("per_day = 1000", "minimum = 100000", "upstream.connect"),
    ] {
        let mut gateway = Setup { services, budget, breaker, account: "retries = 0", ..Setup::default() }.start();
        let check = |gateway: &TestGateway, request: Request, expected: (&str, &str)| {
            let response = gateway.send(request);
            assert_eq!((response.code().as_str(), cache_status(&response)), expected, "{code}: {response:?}");
            assert_eq!(response.header("age"), None);
            // It counts as one: the ratio of hits is not better while Fastrac fails.
            let result = if expected.1 == "fwd=bypass" { "bypass" } else { "miss" };
            assert_eq!(gateway.line(response.header("x-request-id").expect("an id"))["cache"], result);
        };
        assert_eq!(gateway.send(city()).status, 200);
        match code {
            "upstream.breaker" => {
                gateway.sandbox.fault(Fault::everywhere(Act::Html(500)));
                assert_eq!(gateway.send(district("shop")).status, 500);
            }
            "upstream.connect" => {
                assert_eq!(gateway.send(get("/region/province").by("small")).status, 200);
                check(&gateway, district("small"), ("quota.day", "fwd=uri-miss"));
                gateway.sandbox = fastrac_sandbox::Sandbox::start(crate::test_gateway::sandbox()).expect("another");
            }
            _ => {}
        }
        check(&gateway, district("shop"), (code, "fwd=uri-miss"));
        check(&gateway, search.clone(), (code, "fwd=bypass"));
        check(
            &gateway,
            get("/region/city?province_id=31").by("fresh").header("cache-control", "no-cache"),
            (code, "fwd=request"),
        );
        let only = |request: Request| request.header("cache-control", "only-if-cached");
        check(&gateway, only(district("shop")), ("cache.only", "fwd=uri-miss"));
        check(&gateway, only(search.clone()), ("cache.only", "fwd=bypass"));
        let track = gateway.send(get("/order/track").by("shop"));
        assert_eq!(track.header("cache-status"), None, "not a cached operation");
    }
}

/// Neither a hit nor forwarded (RFC 9211, section 2): whether there is a stored response was not asked.
#[test]
fn refusals_before_the_look_up_say_that_the_cache_was_not_asked() {
    let services = &[
        ("second", "quota = { per_second = 1, burst = 1, per_day = 100 }"),
        ("day", "quota = { per_day = 1 }\ncharge_hits = { second = true, day = true }"),
        ("quoter", "allow = [\"quote\"]"),
    ];
    let gateway = Setup { services, limits: "request_body = \"1KiB\"", ..Setup::default() }.start();
    for service in ["second", "day"] {
        assert_eq!(gateway.send(get("/region/city?province_id=31").by(service)).status, 200);
    }
    let search = |body: &str| post("/region/search-region", body).by("shop");
    let malformed = search("").header("transfer-encoding", "chunked");
    for (request, code) in [
        (city().by("none"), "caller.unknown"),
        (get("/region/city?province_id=31").by("quoter"), "caller.class"),
        // What is stored, and what is not.
        (get("/region/city?province_id=31").by("second"), "quota.second"),
        (get("/region/district?city_id=3171").by("second"), "quota.second"),
        (get("/region/city?province_id=31").by("day"), "quota.day"),
        (search(&"x".repeat(2000)), "request.too_large"),
        (Request { body: b"x\r\n".to_vec(), ..malformed }, "request.malformed"),
        (post("/tariff/express", &"x".repeat(2000)).by("shop"), "request.too_large"),
        (post("/order/express", "{}").by("second"), "caller.class"),
    ] {
        let response = gateway.send(request.clone());
        assert_eq!(response.code(), code, "{response:?}");
        let is_lookup = request.target.starts_with("/region") && code != "caller.unknown";
        let expected = is_lookup.then(|| format!("fastrac-gateway; detail=\"{code}\""));
        assert_eq!(response.header("cache-status"), expected.as_deref(), "{response:?}");
        assert_eq!(response.header("age"), None);
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        assert!(line["cache"].is_null(), "no result of a look-up: {line}");
    }
}

#[test]
fn only_if_cached_is_hopeless_only_where_nothing_is_ever_stored_that_it_takes() {
    let gateway = Setup { services: &[("fresh", "force_refresh = true")], ..Setup::default() }.start();
    let ask = |service: &str, control: &str| {
        let response = gateway.send(get("/region/city?province_id=31").by(service).header("cache-control", control));
        assert_eq!(response.code(), "cache.only", "{control}: {response:?}");
        response.json()["error"]["retry"].as_str().expect("a word").to_owned()
    };
    for control in ["only-if-cached", "only-if-cached, max-stale=0"] {
        assert_eq!(ask("shop", control), "now", "{control}");
    }
    for control in ["only-if-cached, max-age=5", "only-if-cached, min-fresh=5"] {
        assert_eq!(ask("fresh", control), "now", "{control}");
    }
    for control in ["no-cache", "max-age=0", "max-age=x", "min-fresh=100000000"] {
        assert_eq!(ask("fresh", &format!("only-if-cached, {control}")), "never", "{control}");
    }
    let ambiguous = post("/region/search-region", r#"{"a":1,"a":2}"#).by("shop");
    let response = gateway.send(ambiguous.header("cache-control", "only-if-cached"));
    assert_eq!((response.code().as_str(), &response.json()["error"]["retry"]), ("cache.only", &"never".into()));
    // The same request succeeds once another has had the response stored.
    assert_eq!(gateway.send(city()).status, 200);
    assert_eq!(gateway.send(city().header("cache-control", "only-if-cached")).outcome(), "hit");
}
