//! Lookups are served from the cache, concurrent requests share one fetch, and no service sees another's responses.

use std::{sync::Barrier, time::Duration};

use fastrac_sandbox::{Act, Fault, KeyPair, Options, Sandbox};

use crate::{
    bodies,
    client::{Request, Response, get, post},
    test_gateway::{ACCESS, SECRET, Setup, TestGateway, pair, sandbox, until, write},
};

fn cache_status(response: &Response) -> &str {
    response.header("cache-status").expect("Cache-Status")
}

/// How long a hit stays fresh, in seconds.
fn ttl(response: &Response) -> u64 {
    let ttl = cache_status(response).strip_prefix("fastrac-gateway; hit; ttl=").expect("a hit");
    ttl.parse().expect("seconds")
}

#[test]
fn a_lookup_is_fetched_once_and_then_a_hit() {
    let gateway = TestGateway::new();
    let request = get("/region/city?province_id=31").by("shop");
    let first = gateway.send(request.clone());
    assert_eq!(cache_status(&first), "fastrac-gateway; fwd=uri-miss; stored");
    assert_eq!((first.outcome(), first.sent(), first.header("age")), ("ok", "yes", None));
    let second = gateway.send(request.clone());
    assert_eq!((second.outcome(), second.sent(), second.status), ("hit", "no", 200));
    assert!((86_390..=86_400).contains(&ttl(&second)));
    assert!(second.header("age").and_then(|age| age.parse::<u64>().ok()).expect("Age") < 10);
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("content-type"), first.header("content-type"));
    assert_eq!(gateway.received().len(), 1);
    let line = gateway.line(second.header("x-request-id").expect("an id"));
    assert_eq!(line["stored_from"], first.header("x-request-id").expect("an id"));
    assert_eq!((&line["cache"], &line["attempts"]), (&"hit".into(), &0.into()));
    let counted = |result| gateway.metric("cache_requests_total", &[("operation", "v2.city"), ("result", result)]);
    assert_eq!((counted("miss"), counted("hit")), (1.0, 1.0));
    assert_eq!(gateway.metric("upstream_calls_saved_total", &[("operation", "v2.city")]), 1.0);
    let cache = &gateway.admin("/status").json()["cache"];
    for used in [&cache["operations"]["v2.city"], &cache["services"]["shop"]["v2.city"]] {
        let counts = ["hits", "misses", "stale", "joined", "bypassed", "calls_saved", "units_saved"];
        assert_eq!(counts.map(|count| used[count].as_u64()), [1, 1, 0, 0, 0, 1, 1].map(Some), "{cache}");
    }
    assert_eq!(cache["operations"]["v2.city"]["entries"], 1);
}

#[test]
fn equivalent_requests_share_an_entry_and_others_do_not() {
    let gateway = TestGateway::new();
    let search = |body: &str| post("/region/search-region", body).by("shop");
    let city = |query: &str| get(&format!("/region/city?{query}")).by("shop");
    for (request, hit) in [
        (search(r#"{"keyword":"gambir","limit":3}"#), false),
        (search(r#"{ "limit" : 3,"keyword":"gambir" }"#), true),
        (search(r#"{"keyword":"gambir","limit":3,"offset":0}"#), false),
        (search(r#"{"keyword":"Gambir","limit":3}"#), false),
        (search(r#"{"keyword":"gambir","limit":"3"}"#), false),
        (city("province_id=31&a=1"), false),
        (city("a=1&province_id=31"), true),
        (city("a=2&province_id=31"), false),
        (city("province_id=31&a=%31"), false),
        (city("province_id=31&province_id=32"), false),
        (city("province_id=32&province_id=31"), false),
        (get("/apiRegion/city?province_id=31").by("shop"), false),
        (city("province_id=31&a=1").header("accept-language", "id").header("x-anything", "1"), true),
        (get("/region/city?province_id=31&a=1").by("clerk"), true),
    ] {
        let response = gateway.send(request.clone());
        let stored = response.status == 200;
        assert_eq!(response.outcome() == "hit", hit, "{} {}", request.target, String::from_utf8_lossy(&request.body));
        assert!(stored || !hit);
    }
}

#[test]
fn a_body_without_one_meaning_bypasses_the_cache() {
    let gateway = TestGateway::new();
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let long = format!("{{\"keyword\":\"gambir\"{}}}", " ".repeat(20_000));
    let ambiguous = [
        r#"{"keyword":"gambir","limit":1,"limit":2}"#,
        r#"{"keyword":"gambir","limit":1,"l\u0069mit":2}"#,
        r#"{"keyword":"gambir\ud800"}"#,
        r#"{"keyword":"gambir"}x"#,
        "keyword=gambir",
        " ",
        &deep,
        &long,
    ];
    for body in ambiguous {
        let request = post("/region/search-region", body).by("shop");
        let before = gateway.received().len();
        for _ in 0..2 {
            let response = gateway.send(request.clone());
            assert_eq!(cache_status(&response), "fastrac-gateway; fwd=bypass", "{body}");
            assert_eq!((response.sent(), response.header("etag"), response.header("age")), ("yes", None, None));
        }
        assert_eq!(gateway.received().len(), before + 2, "{body}");
        let only = gateway.send(request.header("cache-control", "only-if-cached"));
        assert_eq!((only.status, only.code(), gateway.received().len()), (504, "cache.only".to_owned(), before + 2));
    }
    let bypassed = gateway.metric("cache_requests_total", &[("operation", "v2.search_region"), ("result", "bypass")]);
    assert_eq!(bypassed, 3.0 * ambiguous.len() as f64);
}

#[test]
fn not_found_is_stored_for_a_time_of_its_own() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"24h\", not_found = \"1s\" }\n";
    let gateway = Setup { more, ..Setup::default() }.start();
    let request = get("/region/city?province_id=9999").by("shop");
    let first = gateway.send(request.clone());
    assert_eq!((first.status, first.outcome()), (404, "not_found"));
    assert_eq!(cache_status(&first), "fastrac-gateway; fwd=uri-miss; stored");
    let known = gateway.send(request.clone());
    if gateway.received().len() == 1 {
        assert_eq!((known.status, known.outcome(), known.body == first.body), (404, "hit", true));
        assert!(ttl(&known) <= 1);
    }
    until("it is fetched again", || {
        gateway.send(request.clone());
        gateway.received().len() > 1
    });
}

#[test]
fn a_reload_changes_the_lifetimes_of_what_is_stored_and_of_what_is_being_fetched() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"1h\", stale_if_error = \"7d\", not_found = \"1h\" }\n";
    let mut gateway = Setup { more, ..Setup::default() }.start();
    let (good, missing) =
        (get("/region/city?province_id=31").by("shop"), get("/region/city?province_id=9999").by("shop"));
    let late = get("/region/city?province_id=32").by("shop");
    assert_eq!((gateway.send(good.clone()).outcome(), gateway.send(missing.clone()).outcome()), ("ok", "not_found"));
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_secs(1)).times(1));
    let mut waiting = gateway.connect();
    waiting.write(&late.bytes());
    until("it is under way", || gateway.received().len() == 3);
    gateway.reload(
        "fresh = \"1h\", stale_if_error = \"7d\", not_found = \"1h\"",
        "fresh = \"1ms\", stale_if_error = \"2ms\", not_found = \"1ms\"",
    );
    assert_eq!(waiting.read_response("GET").expect("a response").outcome(), "ok");
    // All are past their last permitted use.
    gateway.sandbox.fault(Fault { act: Act::Html(500), ..Fault::default() });
    for request in [good.clone(), missing, late] {
        let response = gateway.send(request);
        assert!(!["hit", "stale"].contains(&response.outcome()), "{response:?}");
    }
    gateway.sandbox.clear_faults();
    gateway.reload("fresh = \"1ms\", stale_if_error = \"2ms\"", "fresh = \"2h\", stale_if_error = \"3h\"");
    gateway.wait_for_pauses();
    assert_eq!(gateway.send(good.clone()).outcome(), "ok");
    assert!((7100..=7200).contains(&ttl(&gateway.send(good))));
}

#[test]
fn only_good_responses_are_stored() {
    let gateway = TestGateway::new();
    let request = get("/region/province").by("shop");
    let good = r#"{"success":true,"message":"","data":[]}"#;
    for act in [
        Act::Html(500),
        Act::Html(200),
        Act::answer(201, good),
        Act::answer(302, good),
        Act::answer(400, good),
        Act::answer(200, r#"{"success":false,"message":"no"}"#),
        Act::answer(200, r#"{"success":true,"success":true}"#),
        Act::answer(200, r#"{"success":"true"}"#),
        Act::answer(200, r#"{"success":true"#),
        Act::answer(200, "[]"),
        Act::answer(200, ""),
        Act::throttle(None),
        Act::Cut { after: 10, reset: false },
        Act::Close,
    ] {
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.province", act.clone()));
        let before = gateway.received().len();
        for _ in 0..2 {
            gateway.wait_for_pauses();
            let response = gateway.send(request.clone());
            assert_ne!(response.outcome(), "hit", "{act:?}");
            if let Some(cache_status) = response.header("cache-status") {
                assert_eq!(cache_status, "fastrac-gateway; fwd=uri-miss", "{act:?}");
            }
        }
        assert!(gateway.received().len() >= before + 2, "{act:?} was kept");
    }
    gateway.sandbox.clear_faults();
    gateway.wait_for_pauses();
    assert_eq!(cache_status(&gateway.send(request)), "fastrac-gateway; fwd=uri-miss; stored");
}

/// Sends the same request on many connections at the same time.
fn send_concurrently(gateway: &TestGateway, count: usize, request: &Request) -> Vec<Response> {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        let send = || {
            let mut connection = gateway.connect();
            barrier.wait();
            connection.send(request)
        };
        let all: Vec<_> = (0..count).map(|_| scope.spawn(send)).collect();
        all.into_iter().map(|one| one.join().expect("a response")).collect()
    })
}

#[test]
fn sixty_four_concurrent_requests_are_one_call() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.province", Act::Pass).wait(Duration::from_millis(300)));
    let answers = send_concurrently(&gateway, 64, &get("/region/province").by("shop"));
    assert_eq!(gateway.received().len(), 1);
    let of = |status: &str| answers.iter().filter(|response| cache_status(response) == status).count();
    assert_eq!(of("fastrac-gateway; fwd=uri-miss; stored"), 1);
    assert!(of("fastrac-gateway; fwd=uri-miss; collapsed") >= 1);
    for response in &answers {
        assert_eq!((response.status, &response.body), (200, &answers[0].body));
        let leads = cache_status(response).ends_with("stored");
        assert_eq!(response.sent(), if leads { "yes" } else { "no" });
    }
    assert_eq!(gateway.metric("upstream_calls_saved_total", &[("operation", "v2.province")]), 63.0);
}

#[test]
fn a_failure_is_shared_by_its_followers_only() {
    let more = "[operations.\"v2.province\"]\ntimeout = \"400ms\"\n";
    let gateway = Setup { more, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.province", Act::Pass).wait(Duration::from_secs(3)).times(1));
    let answers = send_concurrently(&gateway, 16, &get("/region/province").by("shop"));
    let late: Vec<_> = answers.iter().filter(|response| response.status == 504).collect();
    assert!(!late.is_empty());
    assert_eq!(late.iter().filter(|response| response.sent() == "unknown").count(), 1, "only one request was sent");
    assert!(gateway.received().len() <= 2);
    assert_eq!(gateway.send(get("/region/province").by("shop")).status, 200);
}

#[test]
fn a_fill_outlives_the_caller_that_started_it() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.province", Act::Pass).wait(Duration::from_millis(700)));
    let request = get("/region/province").by("shop");
    let mut leader = gateway.connect();
    leader.write(&request.clone().header("x-request-id", "caller-leaves").bytes());
    until("it is sent", || gateway.received().len() == 1);
    let mut followers: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    followers.iter_mut().for_each(|connection| connection.write(&request.bytes()));
    until("all followers wait", || gateway.metric("in_flight_requests", &[("service", "shop")]) == 9.0);
    drop(leader);
    for connection in &mut followers {
        let response = connection.read_response("GET").expect("a response");
        assert_eq!((response.status, cache_status(&response)), (200, "fastrac-gateway; fwd=uri-miss; collapsed"));
    }
    assert_eq!(gateway.received().len(), 1);
    assert_eq!(gateway.send(request).outcome(), "hit");
    let line = gateway.line("caller-leaves");
    assert_eq!((&line["outcome"], &line["sent"]), (&"client_gone".into(), &"unknown".into()));
    assert_eq!(line["cache"], "miss");
}

#[test]
fn accounts_share_no_entries() {
    const OTHER: (&str, &str) = ("canary-fastrac-access-7d1c-other", "canary/fastrac+secret=93f0a2-other");
    let elsewhere =
        Sandbox::start(Options { keys: vec![KeyPair::new("other", OTHER.0, OTHER.1)], seed: 2, ..sandbox() });
    let elsewhere = elsewhere.expect("a sandbox");
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("other.toml");
    write(&keys, &pair(OTHER.0, OTHER.1).replace("[main]", "[other]"));
    let more = format!(
        "[accounts.other]\nbase_url = \"http://{}\"\nkeys = {{ source = \"file\", path = \"{}\" }}\n\
         [services.stranger]\naccount = \"other\"\n\
         credentials = [{{ access_key = \"svc-stranger-1\", secret_sha256 = \"{}\" }}]\n",
        elsewhere.addr(),
        keys.display(),
        crate::test_gateway::digest_of("stranger"),
    );
    let gateway = Setup { more: Box::leak(more.into_boxed_str()), ..Setup::default() }.start();
    assert_eq!(gateway.send(get("/courier/all").by("shop")).outcome(), "ok");
    until("the other pair is usable", || !elsewhere.journal().is_empty());
    let response = gateway.send(get("/courier/all").by("stranger"));
    assert_eq!((response.outcome(), response.status), ("ok", 200));
    assert_eq!(gateway.send(get("/courier/all").by("stranger")).outcome(), "hit");
    assert_eq!(gateway.received().len(), 1);
    for (sandbox, (access, secret)) in [(&gateway.sandbox, (ACCESS, SECRET)), (&elsewhere, OTHER)] {
        let expected = basic(access, secret);
        for entry in sandbox.journal() {
            assert!(entry.headers["authorization"].to_str().is_ok_and(|value| value == expected), "{}", entry.json());
        }
    }
}

fn basic(access: &str, secret: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{access}:{secret}")))
}

/// No purge could name it meanwhile.
#[test]
fn what_a_removed_operation_has_stored_does_not_come_back_with_its_name() {
    const ROW: &str = "[operations.\"own.list\"]\nmethod = \"GET\"\npath = \"/own/list\"\nclass = \"lookup\"\n\
                       cache = { fresh = \"1h\" }\n";
    let mut gateway = Setup { more: ROW, ..Setup::default() }.start();
    let good = Act::answer(200, r#"{"success":true,"message":"","data":[]}"#);
    gateway.sandbox.fault(Fault { act: good, ..Fault::default() });
    let outcome = |gateway: &TestGateway| gateway.send(get("/own/list").by("shop")).outcome().to_owned();
    assert_eq!((outcome(&gateway), outcome(&gateway)), ("ok".to_owned(), "hit".to_owned()));
    let usage = |gateway: &TestGateway| gateway.app().gateway.current.load().cache.usage();
    assert!(usage(&gateway).contains_key("own.list"));
    gateway.reload(ROW, "");
    assert!(!usage(&gateway).contains_key("own.list"));
    gateway.reload("[limits]", &format!("{ROW}[limits]"));
    assert_eq!(outcome(&gateway), "ok");
}

#[test]
fn only_lookups_are_shared_between_services() {
    let services = &[("other", "allow = [\"quote\"]")];
    let more = "[operations.\"v2.tariff_express\"]\ncache = { fresh = \"30s\" }\n";
    let gateway = Setup { services, more, ..Setup::default() }.start();
    let request = post("/tariff/express", bodies::TARIFF);
    let outcomes = ["shop", "shop", "other", "other"]
        .map(|service| gateway.send(request.clone().by(service)).outcome().to_owned());
    assert_eq!(outcomes, ["ok", "hit", "ok", "hit"]);
    assert_eq!(gateway.received().len(), 2);
}

#[test]
fn every_value_of_a_vary_header_belongs_to_the_key() {
    let more = "[operations.\"v2.couriers\"]\nvary = [\"accept-language\"]\n";
    let gateway = Setup { more, ..Setup::default() }.start();
    let spoken = |languages: &[&str]| {
        let request = get("/courier/all").by("shop");
        languages.iter().fold(request, |request, language| request.header("accept-language", language))
    };
    for (languages, hit) in [
        (&["id"][..], false),
        (&["id"], true),
        (&["id", "en"], false),
        (&["en", "id"], false),
        (&["id", "en"], true),
        (&[], false),
        (&[""], false),
        (&[], true),
    ] {
        assert_eq!(gateway.send(spoken(languages)).outcome() == "hit", hit, "{languages:?}");
    }
    let sent = |entry: &fastrac_sandbox::Entry| entry.headers.get_all("accept-language").iter().count();
    assert_eq!(gateway.received().iter().map(sent).collect::<Vec<_>>(), [1, 2, 2, 0, 1]);
}

#[test]
fn only_services_with_force_refresh_can_refresh() {
    let services = &[("fresh", "force_refresh = true")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let request = |service: &str, control: &str| {
        let request = get("/courier/all").by(service);
        if control.is_empty() { request } else { request.header("cache-control", control) }
    };
    gateway.send(request("shop", ""));
    for (service, control, expected) in [
        ("shop", "no-cache", "hit"),
        ("shop", "max-age=0", "hit"),
        ("shop", "no-store, no-cache, must-revalidate", "hit"),
        ("fresh", "", "hit"),
        ("fresh", "max-age=3600", "hit"),
        ("fresh", "no-cache", "fwd=request; stored"),
        ("fresh", "max-age=0", "fwd=request; stored"),
        ("fresh", "No-Cache , x=y", "fwd=request; stored"),
        ("shop", "", "hit"),
    ] {
        let response = gateway.send(request(service, control));
        assert!(
            cache_status(&response).starts_with(&format!("fastrac-gateway; {expected}")),
            "{service} {control}: {response:?}"
        );
    }
    assert_eq!(gateway.received().len(), 4);
}

#[test]
fn a_forced_refresh_takes_no_response_to_a_call_that_went_out_before_it() {
    let services = &[("fresh", "force_refresh = true")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let province = |service: &str| get("/region/province").by(service);
    let answer = |data: &str| Act::answer(200, &format!(r#"{{"success":true,"message":"","data":["{data}"]}}"#));
    for (round, directive) in ["no-cache", "max-age=0"].into_iter().enumerate() {
        gateway.sandbox.clear_faults();
        gateway.app().gateway.current.load().cache.purge();
        gateway.sandbox.fault(Fault::on("v2.province", answer("old")).wait(Duration::from_secs(4)).times(1));
        let mut early = gateway.connect();
        early.write(&province("shop").bytes());
        until("it is sent", || gateway.received().len() == 2 * round + 1);
        gateway.sandbox.fault(Fault::on("v2.province", answer("new")));
        let forced = gateway.send(province("fresh").header("cache-control", directive));
        assert_eq!(cache_status(&forced), "fastrac-gateway; fwd=uri-miss; stored");
        assert!(String::from_utf8_lossy(&forced.body).contains("new"));
        let early = early.read_response("GET").expect("a response");
        assert_eq!(cache_status(&early), "fastrac-gateway; fwd=uri-miss", "a newer one is stored");
        assert_eq!(gateway.send(province("shop")).body, forced.body);
        assert_eq!(gateway.received().len(), 2 * round + 2);
    }
}

#[test]
fn hits_count_towards_the_rate_and_not_towards_the_day() {
    let services = &[
        ("usual", "quota = { per_day = 1 }"),
        ("free", "quota = { per_second = 1, burst = 1 }\ncharge_hits = { second = false, day = false }"),
        ("paying", "quota = { per_day = 3 }\ncharge_hits = { second = true, day = true }"),
        ("quick", "quota = { per_second = 1, burst = 1 }"),
    ];
    let gateway = Setup { services, ..Setup::default() }.start();
    let mut connection = gateway.connect();
    let mut outcomes = |service: &str, times: usize| -> Vec<String> {
        (0..times).map(|_| connection.send(&get("/courier/all").by(service)).outcome().to_owned()).collect()
    };
    assert_eq!(outcomes("usual", 4), ["ok", "hit", "hit", "hit"]);
    assert_eq!(outcomes("free", 20), vec!["hit"; 20]);
    assert_eq!(outcomes("paying", 4), ["hit", "hit", "hit", "over_quota"]);
    let quick = outcomes("quick", 200);
    assert!(quick[0] == "hit" && quick.contains(&"over_quota".to_owned()));
}

#[test]
fn uncached_operations_have_no_cache_status() {
    let gateway = TestGateway::new();
    for request in [post("/tariff/express", bodies::TARIFF), post("/order/express", bodies::ORDER), get("/webhook/get")]
    {
        for _ in 0..2 {
            let response = gateway.send(request.clone().by("shop").header("cache-control", "only-if-cached"));
            assert_eq!(
                (response.outcome(), response.header("cache-status"), response.header("age")),
                ("ok", None, None)
            );
        }
    }
    assert_eq!(gateway.received().len(), 6);
}
