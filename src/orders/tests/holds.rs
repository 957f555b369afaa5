//! An order equal to an unknown one is held, and nothing else.

use super::*;

#[tokio::test]
async fn an_order_equal_to_an_unknown_one_and_nothing_else() {
    let setup = OrdersSetup::new().await;
    let written = order("r1").written(&setup.orders).await;
    written.end(answer("r1", Sent::Unknown));

    let held = order("r3").refused(&setup.orders).await;
    assert_eq!(held, OrderRefusal::Held { first: first("r1") });
    assert_eq!((held.code(), held.status().as_u16(), held.first_sent()), (Code::OrderUnknown, 409, None));
    assert!(held.to_string().contains("r1"), "{held}");
    for free in [
        TestOrder { service: "warehouse", ..order("r4") },
        TestOrder { target: "/order/instant", ..order("r4") },
        TestOrder { body: "{\"item\": 1}".into(), ..order("r4") },
        order("r4").key("another-order"),
        order("r4").confirmed(),
    ] {
        drop(free.ticket(&setup.orders).await);
    }
    let unclear = TestOrder {
        headers: [(http::HeaderName::from_static(RESEND), HeaderValue::from_static("yes"))].into_iter().collect(),
        ..order("r5")
    };
    assert_eq!(unclear.refused(&setup.orders).await, held);
}

#[tokio::test]
async fn also_one_equal_to_an_unknown_order_with_a_key() {
    let setup = OrdersSetup::new().await;
    order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Unknown));
    assert_eq!(order("r2").refused(&setup.orders).await, OrderRefusal::Held { first: first("r1") });
}

#[tokio::test(start_paused = true)]
async fn for_a_day() {
    let day = Duration::from_hours(24);
    let setup = OrdersSetup::new().await;
    let written = order("r1").written(&setup.orders).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    drop(written);
    tokio::time::advance(day - Duration::from_millis(1)).await;
    order("r2").refused(&setup.orders).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    drop(order("r3").new_order(&setup.orders).await);
    // It is listed until it is settled.
    tokio::time::advance(REMEMBERED).await;
    assert_eq!(setup.orders.unknown_count("main"), 1);

    // A key is remembered for longer, but holds equal orders no longer.
    let keyed = |id: &str| TestOrder { body: "keyed".into(), ..order(id) };
    drop(keyed("r4").key("k").written(&setup.orders).await);
    keyed("r5").refused(&setup.orders).await;
    tokio::time::advance(day).await;
    drop(keyed("r6").new_order(&setup.orders).await);
    assert!(matches!(keyed("r7").key("k").refused(&setup.orders).await, OrderRefusal::Interrupted { .. }));
}

#[tokio::test]
async fn until_a_confirmed_one_is_known() {
    let setup = OrdersSetup::new().await;
    order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Unknown));
    drop(order("r2").confirmed().written(&setup.orders).await);
    assert_eq!(setup.orders.unknown_count("main"), 2);
    // One that was not sent settles nothing.
    order("r3").confirmed().written(&setup.orders).await.unsent();
    assert_eq!(setup.orders.unknown_count("main"), 2);
    let written = order("r4").confirmed().written(&setup.orders).await;
    assert_eq!(order("r5").refused(&setup.orders).await, OrderRefusal::Held { first: first("r1") });
    written.end(answer("r4", Sent::Yes));
    assert_eq!(setup.orders.unknown_count("main"), 0);
    drop(order("r6").confirmed().ticket(&setup.orders).await);
    // The first one's key keeps its own answer, and is still never sent again.
    assert_eq!(order("r7").key("k").repeat(&setup.orders).await, answer("r1", Sent::Unknown));
}

#[tokio::test]
async fn and_settles_only_what_was_unknown_when_it_was_confirmed() {
    let setup = OrdersSetup::new().await;
    let first_one = order("r1").written(&setup.orders).await;
    let confirmed = order("r2").confirmed().written(&setup.orders).await;
    drop(first_one);
    confirmed.end(answer("r2", Sent::Yes));
    assert_eq!(order("r3").refused(&setup.orders).await, OrderRefusal::Held { first: first("r1") });
}
