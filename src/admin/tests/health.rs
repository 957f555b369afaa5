//! `/readyz` fails if the gateway cannot serve requests; other faults only appear in `degraded`.

use super::*;
use crate::config::Class;

#[tokio::test]
async fn is_ready_once_a_key_pair_is_in_hand() {
    let stage = TestAdmin::new(TestSettings { verdict: None, ..TestSettings::default() }).await;
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    assert_eq!(reply.status, 503);
    let said = reply.json();
    assert_eq!(said["ready"], false);
    assert!(said["reasons"][0].as_str().unwrap().starts_with("accounts.main: no key pair"), "{said}");
    assert_eq!(stage.ask(TestRequest::get("/livez")).await.status, 200);

    write_keys(stage.folder.path(), FASTRAC.0, FASTRAC.1);
    // The canary is undecided; the pair is used because there is no other.
    stage.gateway.current.load().accounts[0].keys.rotate(true).await.unwrap();
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json(),
        serde_json::json!({ "ready": true, "reasons": [], "degraded": ["accounts.main: the key pair in use is not verified"] })
    );
}

#[tokio::test]
async fn a_lost_key_source_only_degrades() {
    let stage = TestAdmin::usual().await;
    assert_eq!(stage.ask(TestRequest::get("/readyz")).await.json()["degraded"], serde_json::json!([]));
    fs::remove_file(stage.folder.path().join("keys.toml")).unwrap();
    stage.gateway.current.load().accounts[0].keys.rotate(false).await.unwrap();
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["degraded"], serde_json::json!(["accounts.main: the key source cannot be read"]));
}

#[tokio::test]
async fn a_revoked_pair_only_degrades() {
    let stage = TestAdmin::usual().await;
    // After it has been ready, a missing pair only degrades it.
    assert_eq!(stage.ask(TestRequest::get("/readyz")).await.status, 200);
    let keys = stage.gateway.current.load().accounts[0].keys.clone();
    keys.revoke(keys.lease().unwrap().version(), true).await;
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.json()["degraded"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_failing_fastrac_only_degrades_until_it_answers() {
    let stage = TestAdmin::usual().await;
    let address = stage.gateway.current.load().accounts[0].address.clone();
    let breaker = address.breakers.of(Class::Order);
    breaker.admit(true).unwrap().failure();
    breaker.admit(true).unwrap().failure();
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    assert_eq!(reply.status, 200);
    let degraded = serde_json::json!(["accounts.main: the last 2 requests to Fastrac failed (class order)"]);
    assert_eq!(reply.json()["degraded"], degraded);
    let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
    assert!(metrics.contains("fastrac_gateway_degraded{reason=\"upstream_failing\"} 1\n"), "{metrics}");
    breaker.admit(true).unwrap().success();
    assert_eq!(stage.ask(TestRequest::get("/readyz")).await.json()["degraded"], serde_json::json!([]));
    while let Ok(admitted) = breaker.admit(true) {
        admitted.failure();
    }
    let said = stage.ask(TestRequest::get("/readyz")).await.json();
    assert_eq!(said["ready"], true);
    let open = "accounts.main: circuit breaker open: Fastrac is failing; requests are refused (class order)";
    assert_eq!(said["degraded"][0], open);
    let main = &stage.get("/status").await.json()["accounts"]["main"];
    assert_eq!((&main["breaker"], &main["breakers"]["lookup"]["state"]), (&"open".into(), &"closed".into()));
    assert_eq!(main["breakers"]["order"]["failing"], main["failing"]);
    assert!(main["breakers"]["order"]["open_seconds"].as_f64().is_some_and(|left| left > 0.0 && left <= 5.0), "{main}");
    let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
    for (series, value) in [
        ("state{account=\"main\",class=\"order\",state=\"open\"}", 1),
        ("state{account=\"main\",class=\"lookup\",state=\"open\"}", 0),
        ("transitions_total{account=\"main\",class=\"order\",state=\"open\"}", 1),
    ] {
        assert!(metrics.contains(&format!("fastrac_gateway_breaker_{series} {value}\n")), "{series}: {metrics}");
    }
}

#[tokio::test]
async fn is_not_ready_while_draining_but_lives() {
    let stage = TestAdmin::usual().await;
    stage.drain.begin();
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    assert_eq!((reply.status, &reply.json()["reasons"]), (503, &serde_json::json!(["draining"])));
    assert_eq!(stage.ask(TestRequest::get("/livez")).await.status, 200);
    assert_eq!(stage.get("/status").await.json()["draining"], true);
}

#[tokio::test]
async fn does_not_live_once_a_data_thread_hangs() {
    let stage = TestAdmin::usual().await;
    for _ in 0..20 {
        stage.heartbeat.beat();
        stage.heartbeat.check();
    }
    assert_eq!(stage.ask(TestRequest::get("/livez")).await.status, 200);
    (0..10).for_each(|_| stage.heartbeat.check());
    let reply = stage.ask(TestRequest::get("/livez")).await;
    assert_eq!((reply.status, &reply.json()["stuck"]), (503, &serde_json::json!(["data-0"])));
}

#[tokio::test]
async fn does_not_live_once_the_stores_thread_has_ended() {
    let stage = TestAdmin::usual().await;
    stage.store.close().await;
    while stage.store.runs() {
        tokio::task::yield_now().await;
    }
    let reply = stage.ask(TestRequest::get("/livez")).await;
    assert_eq!((reply.status, &reply.json()["stuck"]), (503, &serde_json::json!(["store"])));
}

/// Contract section 7, Readiness: one account without a pair made the replica unready for all.
#[tokio::test]
async fn one_usable_account_is_enough_and_each_answers_for_itself() {
    let other = "[accounts.other]\nbase_url = \"http://127.0.0.1:9\"\n\
         keys = { source = \"file\", path = \"none.toml\" }\n";
    let admin = with_token() + "\n" + other;
    let stage = TestAdmin::new(TestSettings { admin, ..TestSettings::default() }).await;
    let ready = |path: &'static str| stage.ask(TestRequest::get(path));
    let reply = ready("/readyz").await;
    assert_eq!((reply.status, &reply.json()["reasons"]), (200, &serde_json::json!([])));
    let degraded = serde_json::json!([
        "accounts.other: no key pair is known that Fastrac accepts and that is not revoked",
        "accounts.other: the key source cannot be read"
    ]);
    assert_eq!(reply.json()["degraded"], degraded);

    let reply = ready("/readyz?account=main").await;
    assert_eq!(reply.json(), serde_json::json!({ "ready": true, "reasons": [], "degraded": [] }));
    let reply = ready("/readyz?account=other").await;
    assert_eq!((reply.status, &reply.json()["degraded"]), (503, &degraded));
    assert!(reply.json()["reasons"][0].as_str().unwrap().starts_with("accounts.other: "));
    let reply = ready("/readyz?account=nobody").await;
    assert_eq!((reply.status, reply.code()), (404, "readyz.account".to_owned()));

    let keys = stage.gateway.current.load().accounts[0].keys.clone();
    keys.revoke(keys.lease().unwrap().version(), true).await;
    // What was ready stays so.
    for path in ["/readyz", "/readyz?account=main"] {
        let reply = ready(path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.json()["degraded"].as_array().unwrap().is_empty(), "{path}");
    }
    stage.drain.begin();
    assert_eq!(ready("/readyz?account=main").await.status, 503);
}

/// Contract section 7, Readiness: not before every source was read, successfully or not.
#[tokio::test]
async fn is_not_ready_while_a_source_has_not_been_read() {
    let other = "[accounts.other]\nbase_url = \"http://127.0.0.1:9\"\n\
         keys = { source = \"file\", path = \"none.toml\" }\n";
    let admin = with_token() + "\n" + other;
    let stage = TestAdmin::new(TestSettings { admin, unread: Some("other"), ..TestSettings::default() }).await;
    let reply = stage.ask(TestRequest::get("/readyz")).await;
    let reasons = serde_json::json!(["accounts.other: its key source is being read"]);
    assert_eq!((reply.status, &reply.json()["reasons"]), (503, &reasons));
    assert_eq!(stage.ask(TestRequest::get("/readyz?account=main")).await.status, 200);
}
