//! Who may ask what: the token, the address, the host.

use super::*;

const OPEN: [&str; 3] = ["/livez", "/readyz", "/metrics"];
const GUARDED: [&str; 5] = ["/status", "/config", "/orders", "/none", "/reload"];
const CHANGES: [&str; 6] =
    ["/reload", "/keys/rotate", "/keys/revoke", "/keys/verify", "/cache/purge", "/orders/settle"];

#[tokio::test]
async fn with_a_token_only_health_metrics_and_the_empty_page_go_without() {
    let stage = TestAdmin::usual().await;
    for path in OPEN.into_iter().chain(["/"]) {
        assert_eq!(stage.ask(TestRequest::get(path)).await.status, 200, "{path}");
    }
    for path in GUARDED {
        let reply = stage.ask(TestRequest::get(path)).await;
        assert_eq!((reply.status, reply.code()), (401, "token.missing".to_owned()), "{path}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("bearer"), "{path}");
    }
    for path in CHANGES {
        assert_eq!(stage.ask(TestRequest::post(path)).await.status, 401, "{path}");
    }
    assert_eq!(stage.post("/keys/rotate", "").await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_no_object_does_nothing() {
    let stage = TestAdmin::usual().await;
    for path in CHANGES {
        for body in ["[]", " [\"main\"]", "null", "\"main\"", "{"] {
            let reply = stage.post(path, body).await;
            assert_eq!((reply.status, reply.code()), (400, "request.body".to_owned()), "{path} {body}");
        }
    }
}

#[tokio::test]
async fn only_one_bearer_token_counts() {
    let stage = TestAdmin::usual().await;
    let with = |value: &str| TestRequest::get("/status").header("authorization", value);
    assert_eq!(stage.ask(with(&format!("bEARER   {TOKEN}"))).await.status, 200);
    for value in [format!("Basic {TOKEN}"), TOKEN.to_owned(), format!("Bearer {TOKEN}x"), "Bearer".to_owned()] {
        assert_eq!(stage.ask(with(&value)).await.status, 401, "{value}");
    }
    let twice = with(&format!("Bearer {TOKEN}")).header("authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(stage.ask(twice).await.status, 401);
    assert_eq!(stage.ask(TestRequest::get(&format!("/status?token={TOKEN}"))).await.status, 401);
}

#[tokio::test]
async fn without_a_token_loopback_reads_and_nobody_changes() {
    let stage = TestAdmin::new(TestSettings { admin: String::new(), ..TestSettings::default() }).await;
    for path in ["/", "/status", "/config", "/metrics"] {
        assert_eq!(stage.ask(TestRequest::get(path)).await.status, 200, "{path}");
    }
    for path in CHANGES {
        for ask in [TestRequest::post(path), TestRequest::post(path).token(TOKEN)] {
            let reply = stage.ask(ask).await;
            assert_eq!((reply.status, reply.code()), (403, "token.unset".to_owned()), "{path}");
        }
    }
}

#[tokio::test]
async fn without_a_token_any_other_address_serves_health_and_metrics_only() {
    for bound in ["192.0.2.7", "0.0.0.0", "::", "::ffff:192.0.2.7"] {
        let set = TestSettings { admin: String::new(), bound: bound.parse().unwrap(), ..TestSettings::default() };
        let stage = TestAdmin::new(set).await;
        for path in OPEN {
            assert_eq!(stage.ask(TestRequest::get(path)).await.status, 200, "{bound} {path}");
        }
        for path in GUARDED.into_iter().chain(["/"]) {
            assert_eq!(stage.ask(TestRequest::get(path)).await.status, 403, "{bound} {path}");
        }
        assert_eq!(stage.ask(TestRequest::post("/cache/purge").token(TOKEN)).await.status, 403);
    }
    let set = TestSettings { bound: "192.0.2.7".parse().unwrap(), ..TestSettings::default() };
    let stage = TestAdmin::new(set).await;
    assert_eq!(stage.get("/status").await.status, 200);
    assert_eq!(stage.ask(TestRequest::get("/status")).await.status, 401);
    assert_eq!(stage.ask(TestRequest::get("/")).await.status, 200);
}

#[tokio::test]
async fn a_host_of_another_site_is_421_before_anything_else() {
    let stage = TestAdmin::usual().await;
    let foreign =
        ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "gateway.internal.evil", "a@localhost", ""];
    for host in foreign.into_iter().chain(["[::1", "[::x]", "local host", "2130706433", "localhost:80:80"]) {
        for path in GUARDED.into_iter().chain(["/"]) {
            let reply = stage.ask(TestRequest::get(path).host(host)).await;
            assert_eq!(reply.status, 421, "{host} {path}");
            assert_eq!(stage.ask(TestRequest::get(path).host(host).token(TOKEN)).await.status, 421, "{host} {path}");
        }
        for path in OPEN {
            assert_eq!(stage.ask(TestRequest::get(path).host(host)).await.status, 200, "{host} {path}");
        }
    }
    for other in ["1.2.3.4:evil", "[::1]evil", "localhost:9464x"] {
        assert_eq!(stage.ask(TestRequest::get("/status").host(other).token(TOKEN)).await.status, 421, "{other}");
    }
    let ours = ["localhost", "LocalHost:9464", "127.0.0.1", "192.0.2.1:1", "[::1]", "[2001:db8::1]:9464"];
    for host in ours.into_iter().chain(["gateway.internal", "GATEWAY.internal:443"]) {
        assert_eq!(stage.ask(TestRequest::get("/status").host(host).token(TOKEN)).await.status, 200, "{host}");
        assert_eq!(stage.ask(TestRequest::get("/status").host(host)).await.status, 401, "{host}");
    }
}

#[tokio::test]
async fn every_name_that_a_request_gives_must_be_ours() {
    let stage = TestAdmin::usual().await;
    let twice = TestRequest::get("/status").token(TOKEN).host("localhost").header("host", "evil.example");
    assert_eq!(stage.ask(twice).await.status, 421);
    let absolute = TestRequest::get("http://evil.example/status").token(TOKEN).host("localhost");
    assert_eq!(stage.ask(absolute).await.status, 421);
    let absolute = TestRequest::get("http://localhost/status").token(TOKEN).host("localhost");
    assert_eq!(stage.ask(absolute).await.status, 200);
}

#[tokio::test]
async fn no_spelling_of_a_path_goes_around_the_rules() {
    let stage = TestAdmin::usual().await;
    let spellings =
        ["/status/", "//status", "/./status", "/livez/../status", "/%73tatus", "/livez/", "/metrics%2f..", "/STATUS"];
    for path in spellings {
        assert_eq!(stage.ask(TestRequest::get(path)).await.status, 401, "{path}");
        assert_eq!(stage.get(path).await.status, 404, "{path}");
    }
}
