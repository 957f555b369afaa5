//! A reload takes effect at once, or changes nothing and reports why.

use super::*;
use crate::keys::NoKey;

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

/// A bug: `/config` showed the new value of a setting that takes effect after a restart.
#[tokio::test]
async fn what_only_a_restart_can_change_is_shown_as_it_is_in_force() {
    let stage = TestAdmin::usual().await;
    let before = stage.get("/config").await.json();
    let listen = "[listen]\ndata = [\"127.0.0.1:7777\"]\nadmin = \"127.0.0.1:7778\"\nworkers = 7\n\
        tls = { cert = \"cert\", key = \"key\" }\nadmin_tls = { cert = \"cert\", key = \"key\" }";
    let log =
        "exchanges = \"other.jsonl\"\non_full = \"block\"\nkeep = { size = \"7MiB\", days = 7 }\nbodies = \"none\"";
    let made = rcgen::generate_simple_self_signed(vec!["gateway.internal".to_owned()]).unwrap();
    fs::write(stage.file.with_file_name("cert"), made.cert.pem()).unwrap();
    fs::write(stage.file.with_file_name("key"), made.signing_key.serialize_pem()).unwrap();
    let more = "[cache]\nmemory = \"7MiB\"\n[state]\ndir = \"other\"\n[limits]\nconnections = 7\nidle = \"7s\"\n";
    let text = configuration(&with_token())
        .replace("[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"", listen)
        .replace("exchanges = \"none\"", log);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(stage.folder.path().join("cert"), made.cert.pem()).unwrap();
    let key = stage.folder.path().join("key");
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&stage.file, format!("{text}{more}")).unwrap();
    for _ in 0..2 {
        let reply = stage.post("/reload", "").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let config = stage.get("/config").await.json();
        for key in ["listen", "state", "cache"] {
            assert_eq!(config[key], before[key], "{key}");
        }
        for key in ["exchanges", "on_full"] {
            assert_eq!(config["log"][key], before["log"][key], "log.{key}");
        }
        assert_ne!(config["limits"]["connections"], before["limits"]["connections"]);
        assert_ne!(config["log"]["keep"], before["log"]["keep"]);
        // These hold at once.
        assert_eq!((&config["limits"]["idle"], &config["log"]["bodies"]), (&"7s".into(), &"none".into()));
        let ready = stage.ask(TestRequest::get("/readyz")).await.json();
        for key in [
            "listen.data",
            "listen.admin",
            "listen.workers",
            "listen.tls",
            "listen.admin_tls",
            "state.dir",
            "log.exchanges",
            "log.on_full",
            "cache.memory",
        ] {
            let waits = format!("configuration: {key} has changed and waits for a restart");
            assert!(ready["degraded"].as_array().unwrap().contains(&waits.clone().into()), "{key}: {ready}");
        }
        let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
        assert!(metrics.contains("fastrac_gateway_degraded{reason=\"restart_pending\"} 1\n"), "{metrics}");
    }
    fs::write(&stage.file, configuration(&with_token())).unwrap();
    assert_eq!(stage.post("/reload", "").await.status, 200);
    let ready = stage.ask(TestRequest::get("/readyz")).await.body;
    assert!(!ready.contains("cache.memory"), "{ready}");
}

/// A canary of the pair's own account may be late: the task that sends it ends at the end of the reload.
#[tokio::test]
async fn a_pair_is_not_sent_to_an_address_that_it_was_not_configured_for() {
    let stage = TestAdmin::usual().await;
    let account = || stage.gateway.current.load().accounts[0].clone();
    let (first, pair) = (account(), account().keys.lease().unwrap());
    let reload = async |port: u16, file: &str| {
        let text = configuration(&with_token()).replace(":9\"", &format!(":{port}\"")).replace("keys.toml", file);
        fs::write(&stage.file, text).unwrap();
        assert_eq!(stage.post("/reload", "").await.status, 200);
    };
    reload(8, "keys.toml").await;
    assert_eq!(account().check_pair(&pair), Ok(()), "the source is the same");
    reload(7, "other.toml").await;
    assert_eq!(account().check_pair(&pair), Err(NoKey::Moved));
    assert_eq!(first.check_pair(&pair), Ok(()));
}

/// The first reload changes the source, whose pair is not there yet, and the second one the address.
#[tokio::test]
async fn nor_if_the_source_was_changed_before_the_address() {
    let stage = TestAdmin::usual().await;
    let account = || stage.gateway.current.load().accounts[0].clone();
    let pair = account().keys.lease().unwrap();
    for port in [9, 8] {
        let text =
            configuration(&with_token()).replace(":9\"", &format!(":{port}\"")).replace("keys.toml", "other.toml");
        fs::write(&stage.file, text).unwrap();
        assert_eq!(stage.post("/reload", "").await.status, 200);
        assert_eq!(account().keys.lease().is_ok(), port == 9, "at port {port}");
    }
    assert_eq!(account().check_pair(&pair), Err(NoKey::Moved));
}

/// It may come back into use before the rotation task knows of the new address.
#[tokio::test]
async fn nor_if_the_pair_of_the_present_source_was_in_use() {
    let stage = TestAdmin::usual().await;
    let account = || stage.gateway.current.load().accounts[0].clone();
    let pair = account().keys.lease().unwrap();
    let other = stage.file.with_file_name("other.toml");
    fs::write(&other, "[main]\naccess_key = \"other-access\"\nsecret_key = \"other-secret-0123456789\"\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    for port in [9, 8] {
        let text =
            configuration(&with_token()).replace(":9\"", &format!(":{port}\"")).replace("keys.toml", "other.toml");
        fs::write(&stage.file, text).unwrap();
        assert_eq!(stage.post("/reload", "").await.status, 200);
        let rotated = stage.post("/keys/rotate", "").await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        assert_ne!(account().keys.lease().unwrap().version(), pair.version(), "at port {port}");
    }
    assert_eq!(account().check_pair(&pair), Err(NoKey::Moved));
}

/// A request of the earlier address may still wait for its turn: it has the keys of before.
#[tokio::test]
async fn a_version_is_revoked_for_requests_that_began_before_the_account_began_anew_too() {
    let stage = TestAdmin::usual().await;
    let account = || stage.gateway.current.load().accounts[0].clone();
    let (first, pair) = (account(), account().keys.lease().unwrap());
    let text = configuration(&with_token()).replace(":9\"", ":8\"").replace("keys.toml", "other.toml");
    fs::write(&stage.file, text).unwrap();
    assert_eq!(stage.post("/reload", "").await.status, 200);
    assert!(!first.keys.lease().unwrap().is_revoked());
    let revoke = format!(r#"{{"version": "{}"}}"#, pair.version());
    assert_eq!(stage.post("/keys/revoke", &revoke).await.status, 200);
    assert!(pair.is_revoked());
    assert_eq!(first.keys.lease().unwrap_err(), NoKey::None);
}
