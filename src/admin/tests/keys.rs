//! Pairs are rotated, verified and revoked on request, and errors name their cause.

use super::*;
use crate::keys::KnownRevocations as _;

fn version(stage: &TestAdmin) -> String {
    stage.gateway.current.load().accounts[0].keys.lease().unwrap().version().to_string()
}

#[tokio::test]
async fn rotate_takes_what_the_source_holds_now() {
    let stage = TestAdmin::usual().await;
    let before = version(&stage);
    let reply = stage.post("/keys/rotate", "").await;
    assert_eq!((reply.status, &reply.json()["accounts"]["main"]["result"]), (200, &"unchanged".into()));
    write_keys(stage.folder.path(), "canary-access-2", "canary-secret-2");
    let reply = stage.post("/keys/rotate", r#"{"account": "main"}"#).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_ne!(version(&stage), before);
    assert_eq!(reply.json()["accounts"]["main"]["version"], version(&stage));
    let status = stage.get("/status").await.json();
    assert_eq!(status["accounts"]["main"]["keys"]["pairs"][0]["role"], "current");
    assert_eq!(status["accounts"]["main"]["keys"]["pairs"][1]["version"], before);
}

#[tokio::test]
async fn a_pair_that_fastrac_refuses_is_taken_only_by_force() {
    let stage = TestAdmin::new(TestSettings { verdict: Some(Verdict::Refused), ..TestSettings::default() }).await;
    let reply = stage.post("/keys/verify", "{}").await;
    assert_eq!((reply.status, reply.code()), (409, "keys.not_well".to_owned()));
    assert_eq!(reply.json()["accounts"]["main"]["result"], "refused");
    let reply = stage.post("/keys/rotate", r#"{"force": true}"#).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let main = &reply.json()["accounts"]["main"];
    assert_eq!((&main["result"], &main["version"]), (&"promoted".into(), &version(&stage).into()));
    assert!(main["detail"].as_str().unwrap().starts_with("in use unverified"), "{main}");
    // Nor does a canary take it back.
    assert_eq!(stage.post("/keys/verify", "{}").await.json()["accounts"]["main"]["result"], "refused");
    assert_eq!(version(&stage), main["version"].as_str().unwrap());
    let degraded = stage.get("/readyz").await.json()["degraded"].to_string();
    assert!(degraded.contains("the key pair in use is not verified"), "{degraded}");
    assert!(degraded.contains("a restart could not use it") && !degraded.contains("new key pair"), "{degraded}");
}

#[tokio::test]
async fn rotate_says_what_is_wrong_with_the_source() {
    let stage = TestAdmin::usual().await;
    fs::remove_file(stage.folder.path().join("keys.toml")).unwrap();
    let reply = stage.post("/keys/rotate", "{}").await;
    assert_eq!(reply.status, 409);
    let main = &reply.json()["accounts"]["main"];
    assert_eq!(main["result"], "fault");
    assert!(main["detail"].as_str().unwrap().contains("keys.toml"), "{main}");
}

#[tokio::test]
async fn verify_tells_the_verdict() {
    let stage = TestAdmin::usual().await;
    let reply = stage.post("/keys/verify", "").await;
    assert_eq!(reply.status, 200);
    let main = &reply.json()["accounts"]["main"];
    assert_eq!((&main["result"], &main["version"]), (&"verified".into(), &version(&stage).into()));
}

#[tokio::test]
async fn a_revoked_version_never_serves_again() {
    let stage = TestAdmin::usual().await;
    let version = version(&stage);
    let reply = stage.post("/keys/revoke", &format!(r#"{{"account": "main", "version": "{version}"}}"#)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!((&reply.json()["usable"], &reply.json()["known"]), (&false.into(), &true.into()));
    assert!(stage.gateway.current.load().accounts[0].keys.lease().is_err());
    let kept: Vec<_> = stage.gateway.live.revoked.versions().iter().map(ToString::to_string).collect();
    assert_eq!(kept, std::slice::from_ref(&version), "the store knows, so the next start does");
    let reply = stage.post("/keys/rotate", r#"{"force": true}"#).await;
    assert_eq!((reply.status, &reply.json()["accounts"]["main"]["result"]), (409, &"revoked".into()));
    let status = stage.get("/status").await.json();
    assert_eq!(status["accounts"]["main"]["keys"]["revoked"], serde_json::json!([version]));
    let degraded = stage.get("/readyz").await.json()["degraded"].to_string();
    assert!(degraded.contains("a pair that was revoked"), "{degraded}");
    let reply = stage.post("/keys/revoke", r#"{"account": "main", "version": "00000000"}"#).await;
    assert_eq!((reply.status, &reply.json()["known"]), (200, &false.into()));
}

/// A second account with the same pair went on with it, and no command revoked the version everywhere.
#[tokio::test]
async fn a_version_is_revoked_in_every_account() {
    let other = "[accounts.other]\nbase_url = \"https://fastrac.example\"\nbudget = { per_second = 20, per_day = 100 }\n\
                 keys = { source = \"file\", path = \"keys.toml\" }";
    for body in ["", r#", "account": "main""#, r#", "account": "other""#] {
        let admin = format!("{}\n{other}", with_token());
        let stage = TestAdmin::new(TestSettings { admin, ..TestSettings::default() }).await;
        let version = version(&stage);
        let reply = stage.post("/keys/revoke", &format!(r#"{{"version": "{version}"{body}}}"#)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.json()["accounts"], serde_json::json!(["main", "other"]), "{reply:?}");
        for account in &stage.gateway.current.load().accounts {
            assert!(account.keys.lease().is_err(), "{} {body}", account.name);
        }
        // An account of another name, or one that is added, knows it too.
        assert_eq!(stage.gateway.live.revoked.versions().len(), 1);
        let unheld = stage.post("/keys/revoke", r#"{"version": "00000000"}"#).await;
        assert_eq!((unheld.status, unheld.code()), (400, "keys.account".to_owned()));
        let named = stage.post("/keys/revoke", r#"{"version": "00000000", "account": "main"}"#).await;
        assert_eq!((named.status, &named.json()["known"]), (200, &false.into()));
    }
}

#[tokio::test]
async fn rotate_in_a_lock_out_is_no_success() {
    let stage = TestAdmin::new(TestSettings { verdict: Some(Verdict::Refused), ..TestSettings::default() }).await;
    stage.post("/keys/verify", "{}").await;
    let reply = stage.post("/keys/rotate", "{}").await;
    assert_eq!(reply.status, 409, "{reply:?}");
    assert_eq!(reply.json()["accounts"]["main"]["result"], "refused");
}

#[tokio::test]
async fn a_revocation_that_cannot_be_stored_is_no_success() {
    let other = "[accounts.other]\nbase_url = \"https://fastrac.example\"\nbudget = { per_second = 20, per_day = 100 }\n\
                 keys = { source = \"file\", path = \"other.toml\" }";
    let admin = format!("{}\n{other}", with_token());
    let stage = TestAdmin::new(TestSettings { admin, ..TestSettings::default() }).await;
    let version = version(&stage);
    stage.store.close().await;
    // The second time, another account is named, and then none.
    for body in ["", r#", "account": "other""#, r#", "account": "main""#] {
        let reply = stage.post("/keys/revoke", &format!(r#"{{"version": "{version}"{body}}}"#)).await;
        assert_eq!((reply.status, reply.code()), (503, "keys.unstored".to_owned()), "{body} {reply:?}");
    }
    assert!(stage.gateway.current.load().accounts[0].keys.lease().is_err(), "it holds in memory");
    let degraded = stage.get("/readyz").await.json()["degraded"].to_string();
    assert!(degraded.contains("not stored yet"), "{degraded}");
}

#[tokio::test]
async fn what_is_not_meant_well_is_refused_without_being_repeated() {
    let stage = TestAdmin::usual().await;
    let bodies = [
        ("/keys/rotate", r#"{"account": "canary-nobody"}"#, 404),
        ("/keys/rotate", r#"{"canary-member": 1}"#, 400),
        ("/keys/rotate", r#"{"account": null}"#, 400),
        ("/keys/verify", r#"{"account": null}"#, 400),
        ("/keys/rotate", r#"{"force": "canary"}"#, 400),
        ("/keys/rotate", "canary", 400),
        ("/keys/revoke", r#"{"version": "canary"}"#, 400),
        ("/keys/revoke", "", 400),
        ("/keys/verify", "[]canary", 400),
    ];
    for (path, body, status) in bodies {
        let reply = stage.post(path, body).await;
        assert_eq!(reply.status, status, "{path} {body}: {reply:?}");
        assert!(!reply.body.contains("canary"), "{reply:?}");
    }
}
