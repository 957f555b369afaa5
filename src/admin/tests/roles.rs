//! Which token may do what, and what is recorded of it.

use std::time::Duration;

use super::*;

const READER: &str = "canary-reader-token-77aa";

/// The token of the usual configuration, and one that only reads.
fn two_tokens() -> String {
    format!(
        "tokens = [{{ name = \"ops\", sha256 = \"{}\", role = \"operate\" }}, \
         {{ name = \"eyes\", sha256 = \"{}\", role = \"read\" }}]",
        digest(TOKEN),
        digest(READER)
    )
}

async fn with_two_tokens() -> TestAdmin {
    TestAdmin::new(TestSettings { admin: two_tokens(), ..TestSettings::default() }).await
}

/// The lines of the audit log, once there are `count` of them.
async fn audited(stage: &TestAdmin, count: usize) -> Vec<serde_json::Value> {
    let path = stage.folder.path().join("state/audit.jsonl");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(&path).unwrap();
        if text.lines().count() >= count || Instant::now() > until {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_reader_gets_every_page_and_posts_nothing() {
    let stage = with_two_tokens().await;
    for path in ["/", "/status", "/config"] {
        for token in [TOKEN, READER] {
            assert_eq!(stage.ask(TestRequest::get(path).token(token)).await.status, 200, "{path}");
        }
    }
    for path in [
        "/reload",
        "/keys/rotate",
        "/keys/revoke",
        "/keys/verify",
        "/cache/purge",
        "/cache/warm",
        "/orders/settle",
        "/none",
    ] {
        let reply = stage.ask(TestRequest::post(path).token(READER)).await;
        assert_eq!((reply.status, reply.code()), (403, "token.role".to_owned()), "{path}");
    }
    assert_eq!(stage.post("/cache/purge", "").await.status, 200);
}

#[tokio::test]
async fn a_token_that_a_reload_removes_is_refused_at_once_and_a_new_one_accepted() {
    let stage = with_two_tokens().await;
    let other = "canary-other-token-11";
    let replaced = two_tokens().replace(&digest(READER), &digest(other));
    fs::write(&stage.file, configuration(&replaced)).unwrap();
    assert_eq!(stage.post("/reload", "").await.status, 200);
    assert_eq!(stage.ask(TestRequest::get("/status").token(READER)).await.status, 401);
    assert_eq!(stage.ask(TestRequest::get("/status").token(other)).await.status, 200);
}

#[tokio::test]
async fn every_post_and_every_refused_token_is_a_line() {
    let stage = with_two_tokens().await;
    stage.get("/status").await;
    stage.ask(TestRequest::get("/status")).await;
    stage.ask(TestRequest::get("/status").token("guess")).await;
    stage.ask(TestRequest::post("/reload")).await;
    stage.ask(TestRequest::post("/reload").host("evil.example").token(TOKEN)).await;
    stage.ask(TestRequest::post("/cache/purge").token(READER)).await;
    stage.post("/cache/purge", "").await;
    stage.post("/keys/revoke", "{\"version\": \"canary-misplaced\"}").await;
    stage.post("/canary-path?canary-query", "").await;
    let lines = audited(&stage, 7).await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!(line["peer"], "127.0.0.1", "{line}");
            line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            let word = |member: &str| line[member].as_str().unwrap_or("-").to_owned();
            (word("token"), word("action"), word("result"), line["status"].as_u64().unwrap())
        })
        .collect();
    let line = |token: &str, action: &str, result: &str, status| {
        (token.to_owned(), action.to_owned(), result.to_owned(), status)
    };
    assert_eq!(
        told,
        [
            line("-", "status", "refused", 401),
            line("-", "reload", "refused", 401),
            line("-", "reload", "refused", 421),
            line("eyes", "cache_purge", "refused", 403),
            line("ops", "cache_purge", "done", 200),
            line("ops", "keys_revoke", "refused", 400),
            line("ops", "other", "refused", 404),
        ]
    );
    let text = fs::read_to_string(stage.folder.path().join("state/audit.jsonl")).unwrap();
    assert!(!text.contains("canary") && !text.contains("guess"), "{text}");

    let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
    for series in [
        "{action=\"status\",result=\"done\"} 1",
        "{action=\"status\",result=\"refused\"} 2",
        "{action=\"reload\",result=\"refused\"} 2",
        "{action=\"cache_purge\",result=\"done\"} 1",
    ] {
        assert!(metrics.contains(&format!("fastrac_gateway_admin_requests_total{series}\n")), "{series}\n{metrics}");
    }
}

#[tokio::test]
async fn a_command_whose_client_has_left_is_done_and_recorded() {
    let stage = with_two_tokens().await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    let reload = TestRequest::post("/reload").token(TOKEN).text(stage.address);
    socket.write_all(reload.as_bytes()).await.unwrap();
    drop(socket);
    let lines = audited(&stage, 1).await;
    assert_eq!((&lines[0]["action"], &lines[0]["result"]), (&"reload".into(), &"done".into()));
}

/// The metric has two results, and an alert on one of them.
#[tokio::test]
async fn what_is_cut_off_counts_as_refused_and_a_page_that_nobody_waits_for_as_nothing() {
    let stage = with_two_tokens().await;
    let state = Arc::new(AdminState::new(stage.admin()));
    let entry = |action: &'static str, audited, progress| guard::AuditEntry {
        state: state.clone(),
        action,
        audited,
        wrong_token: false,
        peer: None,
        token: None,
        subject: Default::default(),
        progress,
    };
    drop(entry("cache_purge", true, guard::CommandProgress::Begun));
    drop(entry("reload", true, guard::CommandProgress::Received));
    drop(entry("status", false, guard::CommandProgress::Received));
    let metrics = stage.ask(TestRequest::get("/metrics")).await.body;
    let counted = metrics.lines().filter(|line| line.starts_with("fastrac_gateway_admin_requests_total{"));
    assert_eq!(
        counted.collect::<Vec<_>>(),
        ["cache_purge", "reload"]
            .map(|action| format!("fastrac_gateway_admin_requests_total{{action=\"{action}\",result=\"refused\"}} 1"))
    );
    let results: Vec<_> = audited(&stage, 2).await.iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["unknown", "refused"]);
}

#[test]
fn every_page_has_a_name_of_its_own() {
    let routes = include_str!("../../admin.rs").split(".route(\"").skip(1);
    let routes: Vec<&str> = routes.map(|route| route.split('"').next().unwrap()).collect();
    let open = ["/livez", "/readyz", "/metrics"];
    let named: Vec<&str> = guard::ACTIONS.iter().map(|(path, _)| *path).chain(open).collect();
    assert_eq!(std::collections::BTreeSet::from_iter(routes), std::collections::BTreeSet::from_iter(named));
}

#[tokio::test]
async fn a_line_names_what_a_command_acted_on() {
    let stage = with_two_tokens().await;
    let version = stage.gateway.current.load().accounts[0].keys.lease().unwrap().version().to_string();
    assert_eq!(stage.post("/keys/rotate", "").await.status, 200);
    assert_eq!(stage.post("/reload", "{\"confirm_removals\": true}").await.status, 200);
    assert_eq!(stage.post("/cache/purge", "").await.status, 200);
    assert_eq!(stage.post("/keys/revoke", "{\"version\": \"canary-x\", \"account\": \"canary-y\"}").await.status, 400);
    assert_eq!(stage.post("/keys/revoke", &format!("{{\"version\": \"{version}\"}}")).await.status, 200);
    let lines = audited(&stage, 5).await;
    let hash = stage.gateway.in_force.load().config.hash.clone();
    assert_eq!(lines[0]["accounts"], serde_json::json!({ "main": "unchanged" }));
    assert_eq!(lines[0]["force"], false);
    assert_eq!((&lines[1]["confirm_removals"], &lines[1]["config"]), (&true.into(), &hash.into()));
    assert_eq!(lines[2]["entries"], 0);
    assert!(!lines[3].to_string().contains("canary"), "{}", lines[3]);
    let (account, revoked) = (&lines[4]["account"], &lines[4]["version"]);
    assert_eq!((account, revoked, &lines[4]["known"]), (&"main".into(), &version.into(), &true.into()));
}

/// Those that are slowed down too.
#[tokio::test]
async fn each_of_fifty_wrong_tokens_is_a_line() {
    let stage = with_two_tokens().await;
    for guess in 0..50 {
        stage.ask(TestRequest::get("/status").token(&format!("guess-{guess}"))).await;
    }
    let lines = audited(&stage, 50).await;
    let count =
        |status: u16| lines.iter().filter(|line| line["status"] == status && line["peer"] == "127.0.0.1").count();
    assert_eq!(count(401) + count(429), 50);
    assert!(count(401) >= 10 && count(429) >= 30, "{lines:?}");
}
