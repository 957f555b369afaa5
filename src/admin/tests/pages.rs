//! What the pages say, in which form, and what their heads forbid.

use super::*;
use crate::admission::{BudgetRequest, Claim};

#[tokio::test]
async fn every_answer_forbids_storing_and_guessing() {
    let stage = TestAdmin::usual().await;
    for path in ["/", "/livez", "/readyz", "/metrics", "/status", "/config", "/none"] {
        for ask in [
            TestRequest::get(path),
            TestRequest::get(path).token(TOKEN),
            TestRequest::post(path),
            TestRequest::get(path).host("evil.example"),
        ] {
            let reply = stage.ask(ask).await;
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(reply.header("access-control-allow-origin"), None, "{path}");
        }
    }
}

#[tokio::test]
async fn another_method_is_405_with_allow() {
    let stage = TestAdmin::usual().await;
    for path in ["/", "/livez", "/metrics", "/status"] {
        let reply = stage.post(path, "").await;
        assert_eq!((reply.status, reply.code()), (405, "request.method".to_owned()), "{path}");
        assert_eq!(reply.header("allow"), Some("get,head"), "{path}");
    }
    let reply = stage.get("/reload").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("post")));
    assert_eq!(stage.ask(TestRequest::new("OPTIONS", "/status").token(TOKEN)).await.status, 405);
    assert_eq!(stage.get("/none").await.code(), "request.path");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let stage = TestAdmin::usual().await;
    for path in ["/", "/livez", "/readyz", "/metrics", "/status", "/config"] {
        let reply = stage.ask(TestRequest::new("HEAD", path).token(TOKEN)).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{path}");
        assert!(reply.header("content-length").unwrap().parse::<u64>().unwrap() > 0, "{path}");
    }
    assert_eq!(stage.ask(TestRequest::new("HEAD", "/status")).await.status, 401);
}

#[tokio::test]
async fn metrics_come_in_both_formats_with_the_gauges_of_other_rooms() {
    let stage = TestAdmin::usual().await;
    let text = stage.ask(TestRequest::get("/metrics")).await;
    assert!(text.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"), "{}", text.head);
    let hash = stage.gateway.in_force.load().config.hash.clone();
    let version = stage.gateway.current.load().accounts[0].keys.lease().unwrap().version();
    for line in [
        "fastrac_gateway_quota_limit{service=\"checkout\",window=\"day\"} 400",
        "fastrac_gateway_quota_used{service=\"checkout\",window=\"day\"} 0",
        "fastrac_gateway_quota_limit{service=\"checkout\",window=\"second\"} 50",
        "fastrac_gateway_budget_limit{account=\"main\",window=\"in_flight\"} 64",
        "fastrac_gateway_budget_limit{account=\"main\",window=\"day\"} 100",
        "fastrac_gateway_budget_waiting{account=\"main\",window=\"second\"} 0",
        "fastrac_gateway_breaker_state{account=\"main\",class=\"quote\",state=\"closed\"} 1",
        "fastrac_gateway_breaker_state{account=\"main\",class=\"quote\",state=\"open\"} 0",
        "fastrac_gateway_orders_unknown{account=\"main\"} 0",
        "fastrac_gateway_key_source_up{account=\"main\"} 1",
        &format!("fastrac_gateway_key_info{{account=\"main\",state=\"current\",version=\"{version}\"}} 1"),
        &format!("fastrac_gateway_config_info{{hash=\"{hash}\"}} 1"),
        "fastrac_gateway_config_last_reload_successful 1",
        "fastrac_gateway_build_info{",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.body.lines().any(|known| known.starts_with(line)), "{line}\n{}", text.body);
    }
    let open =
        stage.ask(TestRequest::get("/metrics").header("accept", "application/openmetrics-text;version=1.0.0")).await;
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n"));
    assert_eq!(open.header("vary"), Some("accept"));
}

#[tokio::test]
async fn status_tells_what_is_left() {
    let stage = TestAdmin::usual().await;
    {
        let snapshot = stage.gateway.current.load();
        let mut claim = Claim::default();
        snapshot.quotas[0].claim_second(&mut claim, tokio::time::Instant::now()).unwrap();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        snapshot.quotas[0].claim_day(&mut claim, deadline).await.unwrap();
        claim.keep();
        let budget = snapshot.accounts[0].budget.clone();
        let request = BudgetRequest {
            member: snapshot.members[0],
            cost: 3,
            priority: crate::config::Priority::Normal,
            urgency: crate::admission::Urgency::Usual,
            deadline,
        };
        let mut spent = budget.spend(request, &Claim::default()).await.unwrap();
        spent.sent();
    }
    let status = stage.get("/status").await.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["addresses"]["data"], serde_json::json!(["127.0.0.1:8080"]));
    assert_eq!(status["addresses"]["admin"], stage.address.to_string());
    assert_eq!(status["health"]["ready"], true);
    let checkout = &status["services"]["checkout"];
    assert_eq!((&checkout["quota"]["day"]["left"], &checkout["used_today"]), (&399.into(), &1.into()));
    let main = &status["accounts"]["main"];
    assert_eq!((&main["budget"]["day"]["left"], &main["budget"]["in_flight"]["left"]), (&97.into(), &64.into()));
    assert_eq!((&main["breaker"], &main["orders_unknown"]), (&"closed".into(), &0.into()));
    assert_eq!(main["keys"]["pairs"][0]["standing"], "verified");
    assert_eq!(main["keys"]["source"]["kind"], "file");
    assert_eq!(status["config"]["hash"], stage.gateway.in_force.load().config.hash);
    assert_eq!(status["cache"]["entries"], 0);
    assert_eq!(status["store"]["healthy"], true);
    assert!(stage.store.is_healthy());
}

#[tokio::test]
async fn config_shows_what_is_in_force_with_defaults() {
    let stage = TestAdmin::usual().await;
    let config = stage.get("/config").await.json();
    assert_eq!(config["limits"]["drain"], "35s");
    assert_eq!(config["cache"]["memory"], "64MiB");
    let token = &config["admin"]["tokens"][0];
    assert_eq!((&token["name"], &token["role"]), (&"admin".into(), &"operate".into()));
    assert_eq!(config["admin"]["hosts"], serde_json::json!(["gateway.internal"]));
    assert_eq!(config["accounts"]["main"]["v2"]["auth"], "basic");
    assert_eq!(config["accounts"]["main"]["day_zone"], "Asia/Jakarta");
    let credential = &config["services"]["checkout"]["credentials"][0];
    for shown in [token, credential] {
        assert_eq!(shown["fingerprint"].as_str().map(str::len), Some(8), "{shown}");
    }
    assert_eq!(credential["expires"], serde_json::Value::Null);
    assert_eq!(config["operations"]["v2.city"]["cache"]["fresh"], "1d");
}

#[tokio::test]
async fn purge_forgets_every_stored_answer() {
    let stage = TestAdmin::usual().await;
    let cache = stage.gateway.current.load().cache.clone();
    let parts = crate::cache::KeyParts {
        account: "main",
        address: "",
        operation: "v2.city",
        service: None,
        method: "GET",
        path: "/",
        query: None,
        vary: &[],
        body: b"",
    };
    let entry = crate::cache::NewEntry {
        status: axum::http::StatusCode::OK,
        headers: Default::default(),
        body: "{}".into(),
        outcome: crate::outcome::Outcome::Ok,
        operation: crate::cache::OperationLifetimes::fixed(
            "v2.city",
            crate::cache::Lifetimes::only_fresh(std::time::Duration::from_secs(60)),
        ),
        stored_from: axum::http::HeaderValue::from_static("r1"),
        received: crate::cache::ReceivedAt::now(),
    };
    let entry = Arc::new(crate::cache::CacheEntry::shared(entry));
    let store = || cache.keep(crate::cache::Key::new(parts).unwrap(), entry.clone(), cache.generation());
    assert!(store());
    let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
    assert!(metrics.contains("fastrac_gateway_cache_entries{operation=\"v2.city\"} 1"), "{metrics}");
    for (body, status) in [
        (r#"{"operation":"v2.town"}"#, 404),
        (r#"{"account":"none"}"#, 404),
        (r#"{"path_prefix":"x"}"#, 400),
        (r#"{"path_prefix":"/?province_id=31"}"#, 400),
        (r#"{"prefix":"/"}"#, 400),
        // Left empty by a script; everything is purged only if no member is given.
        (r#"{"operation":null}"#, 400),
        (r#"{"path_prefix":""}"#, 400),
        (r#"{"operation":null,"path_prefix":null,"account":null}"#, 400),
        (r#"{"operation":"v2.city","account":null}"#, 400),
        ("null", 400),
    ] {
        let refused = stage.post("/cache/purge", body).await;
        assert_eq!(refused.status, status, "{body}");
        assert_eq!(cache.usage().len(), 1, "{body}");
    }
    let misplaced = stage.post("/cache/purge?operation=v2.district", "").await;
    assert_eq!((misplaced.status, &misplaced.json()["error"]["code"]), (400, &"request.query".into()));
    assert_eq!(stage.post("/cache/purge", r#"{"operation":"v2.district"}"#).await.json()["purged"], 0);
    let within = stage.post("/cache/purge", r#"{"operation":"v2.city","account":"main","path_prefix":"/"}"#).await;
    assert_eq!(within.json(), serde_json::json!({ "purged": 1, "operations": { "v2.city": 1 } }));
    assert!(store());
    for everything in ["", "{}", " { } "] {
        assert!(store());
        assert_eq!(stage.post("/cache/purge", everything).await.json()["purged"], 1, "{everything}");
    }
    assert_eq!(stage.get("/status").await.json()["cache"]["entries"], 0);
}

#[tokio::test]
async fn a_walk_is_of_an_account_that_exists() {
    let stage = TestAdmin::usual().await;
    for (body, status) in [
        (r#"{"account":"none"}"#, 404),
        (r#"{"accounts":[]}"#, 400),
        (r#"{"account":null}"#, 400),
        (r#"{"account":"main"}"#, 200),
    ] {
        assert_eq!(stage.post("/cache/warm", body).await.status, status, "{body}");
    }
    assert!(stage.post("/cache/warm", "").await.json()["walks"].is_object());
}

#[tokio::test]
async fn the_page_runs_its_own_script_only() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let stage = TestAdmin::usual().await;
    let reply = stage.ask(TestRequest::get("/")).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    socket.write_all(TestRequest::get("/").text(stage.address).as_bytes()).await.unwrap();
    let mut whole = String::new();
    socket.read_to_string(&mut whole).await.unwrap();
    let between = |from: &str, to: &str| whole.split_once(from).unwrap().1.split_once(to).unwrap().0.to_owned();
    // What a browser would hash is what the policy names.
    for (from, to, name) in [("<script>", "</script>", "script-src"), ("<style>", "</style>", "style-src")] {
        let digest = STANDARD.encode(Sha256::digest(between(from, to)));
        assert!(whole.contains(&format!("{name} 'sha256-{digest}'")), "{whole}");
    }
    assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(!whole.contains("unsafe-inline") && !whole.contains("innerHTML"));
}
