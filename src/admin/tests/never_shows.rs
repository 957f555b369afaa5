//! No secret, digest or value of a source appears in any response.

use super::*;

/// Everything that must not be seen (a service's access key may be), as it is and as it might be written otherwise.
fn canaries() -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let plain = [TOKEN, FASTRAC.0, FASTRAC.1, SERVICE.1, "canary"];
    let basic = STANDARD.encode(format!("{}:{}", FASTRAC.0, FASTRAC.1));
    let digests = [TOKEN, FASTRAC.1, SERVICE.1].map(digest);
    plain.map(str::to_owned).into_iter().chain(digests).chain([basic]).collect()
}

#[tokio::test]
async fn a_secret_or_digest_in_any_answer() {
    let stage = TestAdmin::usual().await;
    let mut asks = Vec::new();
    for path in ["/", "/livez", "/readyz", "/metrics", "/status", "/config", "/none"] {
        asks.extend([
            TestRequest::get(path),
            TestRequest::get(path).token(TOKEN),
            TestRequest::get(path).host("evil.example"),
        ]);
        asks.push(TestRequest::post(path).token(TOKEN));
    }
    for path in ["/reload", "/keys/rotate", "/keys/verify", "/cache/purge"] {
        asks.extend([
            TestRequest::post(path),
            TestRequest::post(path).token(TOKEN),
            TestRequest::get(path).token(TOKEN),
        ]);
    }
    asks.push(TestRequest::post("/keys/revoke").token(TOKEN).body(r#"{"version": "00000000"}"#));
    asks.push(TestRequest::get("/metrics").header("accept", "application/openmetrics-text"));
    for ask in asks {
        let name = format!("{} {}", ask.method, ask.path);
        let reply = stage.ask(ask).await;
        for canary in canaries() {
            assert!(!reply.head.contains(&canary) && !reply.body.contains(&canary), "{name} shows {canary}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn a_value_of_a_faulty_file_or_source() {
    let stage = TestAdmin::usual().await;
    fs::write(&stage.file, format!("canary = \"{TOKEN}\"\n[accounts.main]\nbase_url = \"{}\"", FASTRAC.1)).unwrap();
    write_keys(stage.folder.path(), "canary:access", FASTRAC.1);
    let reloaded = stage.post("/reload", "").await;
    assert_eq!(reloaded.status, 422);
    let rotated = stage.post("/keys/rotate", "").await;
    assert_eq!(rotated.status, 409);
    for reply in [reloaded, rotated, stage.get("/status").await, stage.get("/readyz").await] {
        // The error may quote the name of the unknown key: it is not a value.
        let body = reply.body.replace("canary:", "").replace("`canary`", "").replace("\"canary\"", "");
        for canary in [TOKEN, FASTRAC.0, FASTRAC.1, "canary:access"] {
            assert!(!body.contains(canary), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn what_a_vault_is_entered_with() {
    let admin = format!(
        "{}\n[vault]\naddress = \"https://vault.internal\"\n\
         auth = {{ method = \"approle\", role_id = \"canary-role-id\", secret_id_file = \"secret-id\" }}\n\
         [accounts.other]\nbase_url = \"http://127.0.0.1:1\"\nkeys = {{ source = \"vault\", path = \"p\" }}",
        with_token()
    );
    let stage = TestAdmin::new(TestSettings { admin, ..TestSettings::default() }).await;
    let config = stage.get("/config").await;
    assert_eq!(config.json()["vault"]["auth"]["method"], "approle");
    assert!(!config.body.contains("canary"), "{config:?}");
}
