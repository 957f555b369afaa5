//! Unknown orders are listed, and settled by somebody who is on record.

use super::*;
use crate::{
    config::Priority,
    memory::Memory,
    orders::{OrderRequest, OrderWait, Orders, Recall},
};

/// Leaves an order unknown, as a crash does.
async fn leave_unknown(orders: &Orders, request_id: &str) {
    let headers = http::HeaderMap::new();
    let request = OrderRequest {
        service: "shop",
        account: "main",
        operation: "v2.order_express",
        method: &http::Method::POST,
        target: "/order/express?x=1",
        headers: &headers,
        body: request_id.as_bytes(),
        masked: None,
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
        leave_unknown(&orders, id).await;
    }
    let listed = stage.get("/orders").await.json();
    let ids: Vec<_> = listed["orders"].as_array().unwrap().iter().map(|order| order["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["req-a", "req-b"]);
    let first = &listed["orders"][0];
    assert_eq!((&first["service"], &first["path"]), (&"shop".into(), &"/order/express".into()), "{first}");

    let settle = async |body: &str| stage.post("/orders/settle", body).await;
    for (body, status) in [
        (r#"{"id": "req-x", "as": "executed"}"#, 404),
        (r#"{"id": "req-a"}"#, 400),
        (r#"{"id": "req-a", "as": "perhaps"}"#, 400),
        (r#"{"id": "req-a", "as": "executed", "note": "a\nb"}"#, 400),
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
    let audit = fs::read_to_string(stage.folder.path().join("state/audit.jsonl")).unwrap();
    let settled = audit.lines().find(|line| line.contains("AWB JX123")).expect("a line");
    for part in
        ["\"action\":\"orders_settle\"", "\"token\":\"admin\"", "\"order\":\"req-a\"", "\"settled\":\"executed\""]
    {
        assert!(settled.contains(part), "{settled}");
    }
}
