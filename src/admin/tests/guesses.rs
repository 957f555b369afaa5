//! Wrong tokens are throttled by peer; correct tokens and other peers are not.

use super::*;

#[tokio::test]
async fn many_wrong_tokens_are_slowed_and_the_right_one_never_is() {
    let stage = TestAdmin::usual().await;
    let mut seen = Vec::new();
    for guess in 0..14 {
        let reply = stage.ask(TestRequest::get("/status").token(&format!("guess-{guess}"))).await;
        if reply.status == 429 {
            let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=7).contains(&wait), "{wait}");
            assert_eq!(reply.code(), "token.guesses");
        }
        seen.push(reply.status);
        // Between any two guesses, and however many there were.
        assert_eq!(stage.get("/status").await.status, 200);
    }
    assert_eq!(seen[..10], [401; 10]);
    assert_eq!(seen[11..], [429; 3]);
}

#[tokio::test]
async fn right_tokens_and_missing_ones_are_not_counted() {
    let stage = TestAdmin::usual().await;
    for _ in 0..30 {
        assert_eq!(stage.get("/config").await.status, 200);
        assert_eq!(stage.ask(TestRequest::get("/status")).await.status, 401);
    }
    assert_eq!(stage.ask(TestRequest::get("/status").token("guess")).await.status, 401);
}

#[tokio::test]
async fn a_slowed_peer_still_reads_health_metrics_and_the_page() {
    let stage = TestAdmin::usual().await;
    for _ in 0..15 {
        stage.ask(TestRequest::post("/reload").token("guess")).await;
    }
    assert_eq!(stage.ask(TestRequest::post("/reload").token("guess")).await.status, 429);
    for path in ["/livez", "/readyz", "/metrics", "/"] {
        assert_eq!(stage.ask(TestRequest::get(path).token("guess")).await.status, 200, "{path}");
    }
}
