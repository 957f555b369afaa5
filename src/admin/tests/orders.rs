//! Unknown orders are listed, and settled by somebody who is on record.

use super::*;
use crate::{
    config::Priority,
    memory::Memory,
    orders::{OrderRequest, OrderToShow, OrderWait, Orders, Recall},
};

/// Leaves an order unknown, as a crash does.
async fn leave_unknown(orders: &Orders, path: &str, request_id: &str) {
    let headers = http::HeaderMap::new();
    let request = OrderRequest {
        service: "shop",
        account: "main",
        operation: "v2.order_express",
        method: &http::Method::POST,
        target: "/order/express?x=1",
        headers: &headers,
        body: request_id.as_bytes(),
        shown: OrderToShow { method: "POST", path, body: None },
        request_id,
        connection: None,
        memory: &Memory::new(1 << 20).share(None).allowance(Priority::Normal),
    };
    let Ok(Recall::New(ticket, _caller)) = orders.recall(&request, &mut OrderWait::default()).await else {
        panic!("not new")
    };
    drop(orders.write(ticket).await.unwrap());
}

#[tokio::test]
async fn one_is_settled_by_its_id_or_its_number() {
    let stage = TestAdmin::usual().await;
    let orders = stage.gateway.live.orders.clone();
    for id in ["req-a", "req-b"] {
        leave_unknown(&orders, "/order/express", id).await;
    }
    let listed = stage.get("/orders").await.json();
    let ids: Vec<_> = listed["orders"].as_array().unwrap().iter().map(|order| order["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["req-a", "req-b"]);
    let first = &listed["orders"][0];
    assert_eq!((&first["service"], &first["path"]), (&"shop".into(), &"/order/express".into()), "{first}");
    assert_eq!((first["method"].as_str(), first["account"].as_str()), (Some("POST"), Some("main")), "{first}");

    let settle = async |body: &str| stage.post("/orders/settle", body).await;
    for (body, status) in [
        (r#"{"id": "req-x", "as": "executed"}"#, 404),
        (r#"{"id": "req-a"}"#, 400),
        (r#"{"id": "req-a", "as": "perhaps"}"#, 400),
        (r#"{"id": "req-a", "as": "executed", "note": "a\nb"}"#, 400),
        (&format!(r#"{{"id": "req-a", "as": "executed", "note": "paid with {}"}}"#, FASTRAC.1), 400),
        (&format!(r#"{{"id": "req-a", "as": "executed", "note": "{}"}}"#, SERVICE.1), 400),
    ] {
        assert_eq!(settle(body).await.status, status, "{body}");
    }
    let settled = settle(r#"{"id": "req-a", "as": "executed", "note": "AWB JX123"}"#).await;
    assert_eq!((settled.status, settled.json()["settled"].as_str()), (200, Some("executed")));
    let number = listed["orders"][1]["number"].to_string();
    assert_eq!(settle(&format!(r#"{{"id": "{number}", "as": "not-executed"}}"#)).await.status, 200);
    assert_eq!(stage.get("/orders").await.json()["orders"], serde_json::json!([]));
    assert_eq!(orders.unknown_count("main"), 0);
    // Who, what, why.
    let audit = audit_log(&stage, "not-executed", 1).await;
    let settled = audit.lines().find(|line| line.contains("AWB JX123")).expect("a line");
    for part in
        ["\"action\":\"orders_settle\"", "\"token\":\"admin\"", "\"order\":\"req-a\"", "\"settled\":\"executed\""]
    {
        assert!(settled.contains(part), "{settled}");
    }
}

/// The audit log, once it has this text so often.
async fn audit_log(stage: &TestAdmin, part: &str, count: usize) -> String {
    let file = stage.folder.path().join("state/audit.jsonl");
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text.matches(part).count() >= count {
            return text;
        }
        tokio::task::yield_now().await;
    }
}

/// Earlier versions kept paths as they came.
#[tokio::test]
async fn the_path_of_an_order_of_an_earlier_version_is_masked_when_it_is_shown() {
    let stage = TestAdmin::usual().await;
    let orders = stage.gateway.live.orders.clone();
    let kept = [
        ("/nix/081234567890/budi@contoh.id".to_owned(), "/nix/***/***"),
        (format!("/nix/{}", FASTRAC.1), "***"),
        (format!("/nix/{}", SERVICE.1), "***"),
        (format!("/nix/{TOKEN}"), "***"),
        ("/nix/\"quoted\"".to_owned(), "/nix/\"quoted\""),
        ("/nix/***".to_owned(), "/nix/***"),
    ];
    for (number, (path, _)) in kept.iter().enumerate() {
        leave_unknown(&orders, path, &format!("req-{number}")).await;
    }
    let listed = stage.get("/orders").await.json();
    for (number, (path, shown)) in kept.iter().enumerate() {
        assert_eq!(listed["orders"][number]["path"], *shown, "{path}");
        let one = stage.get(&format!("/orders/req-{number}")).await.json();
        assert_eq!(one["path"], *shown, "{path}");
    }
}

#[tokio::test]
async fn no_credential_is_kept_in_the_audit_log() {
    let stage = TestAdmin::usual().await;
    leave_unknown(&stage.gateway.live.orders, "/order/express", "req-a").await;
    let secret = FASTRAC.1;
    for (path, body, status) in [
        ("/orders/settle", format!(r#"{{"id": "req-a", "as": "executed", "note": "{secret}"}}"#), 400),
        ("/quota", format!(r#"{{"service": "checkout", "block": true, "for": "1h", "reason": "{secret}"}}"#), 400),
        ("/quota/count", format!(r#"{{"service": "checkout", "at_least": 1, "reason": "see {secret}"}}"#), 400),
        ("/quota", format!(r#"{{"service": "{secret}", "block": true, "for": "1h", "reason": "test"}}"#), 404),
        ("/quota/count", format!(r#"{{"service": "{secret}", "at_least": 1, "reason": "test"}}"#), 404),
        ("/cache/purge", format!(r#"{{"account": "{secret}"}}"#), 404),
        ("/cache/purge", format!(r#"{{"path_prefix": "/region/{secret}"}}"#), 200),
    ] {
        assert_eq!(stage.post(path, &body).await.status, status, "{body}");
    }
    assert!(!audit_log(&stage, "cache_purge", 2).await.contains(secret));
}
