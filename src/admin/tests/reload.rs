//! A reload takes effect at once, or changes nothing and reports why.

use super::*;

#[tokio::test]
async fn new_rules_of_the_admin_port_hold_at_once() {
    let stage = TestAdmin::usual().await;
    let hash = stage.get("/status").await.json()["config"]["hash"].clone();
    let other = format!("token_sha256 = \"{}\"\nhosts = [\"other.internal\"]", digest("canary-other-token"));
    fs::write(&stage.file, configuration(&other)).unwrap();
    let reply = stage.post("/reload", "").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_ne!(reply.json()["config"]["hash"], hash);
    assert_eq!(stage.get("/status").await.status, 401);
    let with_new = || TestRequest::get("/status").token("canary-other-token");
    assert_eq!(stage.ask(with_new()).await.status, 200);
    assert_eq!(stage.ask(with_new().host("other.internal")).await.status, 200);
    assert_eq!(stage.ask(with_new().host("gateway.internal")).await.status, 421);
}

#[tokio::test]
async fn a_faulty_file_changes_nothing_and_all_its_faults_are_told() {
    let stage = TestAdmin::usual().await;
    let before = stage.get("/config").await.body;
    let text = format!("{}\n[cache]\nmemory = \"lots\"\n[bogus]\n", configuration(&with_token()));
    fs::write(&stage.file, text).unwrap();
    let reply = stage.post("/reload", "").await;
    assert_eq!((reply.status, reply.code()), (422, "config.faulty".to_owned()));
    let said = reply.json();
    let faults = said["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 2, "{said}");
    assert!(faults.iter().any(|fault| fault["place"] == "cache.memory" && fault["line"].is_u64()), "{said}");
    assert_eq!(stage.get("/config").await.body, before);
    assert_eq!(stage.get("/status").await.json()["config"]["last_reload_successful"], false);
    let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
    assert!(metrics.contains("fastrac_gateway_config_last_reload_successful 0"));
    assert_eq!(stage.ask(TestRequest::get("/readyz")).await.status, 200);

    fs::remove_file(&stage.file).unwrap();
    let reply = stage.post("/reload", "").await;
    assert_eq!((reply.status, reply.code()), (422, "config.unreadable".to_owned()));
    assert_eq!(reply.json()["faults"].as_array().unwrap().len(), 1);
}
