//! What an operator finds out of an unknown order.

use super::*;

/// The only unknown order.
fn unknown(setup: &OrdersSetup) -> UnknownOrder {
    let all = setup.orders.unknown();
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

#[tokio::test]
async fn an_order_that_was_executed_holds_no_other_and_keeps_its_key() {
    let setup = OrdersSetup::new().await;
    order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Unknown));
    order("r2").refused(&setup.orders).await;
    let listed = unknown(&setup);
    assert_eq!((listed.request_id.as_str(), listed.account.as_str(), listed.held), ("r1", "main", 1));
    assert_eq!((listed.has_key, listed.told), (true, Some(Outcome::Timeout)));
    let OrderDescription { service, method, path, at, .. } = &listed.description;
    assert_eq!((service.as_str(), method.as_str(), path.as_str()), ("checkout", "POST", "/order/express"));
    assert!(*at > 0);
    setup.orders.settle(&listed, true).await.unwrap();
    assert_eq!((setup.orders.unknown().len(), setup.orders.unknown_count("main")), (0, 0));
    drop(order("r3").new_order(&setup.orders).await);
    assert_eq!(order("r4").key("k").repeat(&setup.orders).await, answer("r1", Sent::Unknown));
    // Settled already: nothing changes.
    setup.orders.settle(&listed, false).await.unwrap();
    assert_eq!(order("r5").key("k").repeat(&setup.orders).await, answer("r1", Sent::Unknown));
}

#[tokio::test]
async fn an_order_that_was_not_executed_is_forgotten_also_after_a_restart() {
    let setup = OrdersSetup::new().await;
    drop(order("r1").key("k").written(&setup.orders).await);
    setup.orders.settle(&unknown(&setup), false).await.unwrap();
    assert!(setup.store.load(&ORDERS).await.unwrap().rows.is_empty());
    drop(order("r2").key("k").new_order(&setup.orders).await);
    drop(order("r3").new_order(&setup.orders).await);
}

#[tokio::test]
async fn and_says_so_if_that_cannot_be_stored() {
    let setup = OrdersSetup::new().await;
    drop(order("r1").written(&setup.orders).await);
    let listed = unknown(&setup);
    setup.store.close().await;
    assert_eq!(setup.orders.settle(&listed, true).await, Err(JournalError(StoreError::Closed)));
    assert!(setup.orders.unknown().is_empty());
}
