//! Ended orders with a key are on disk only, and are remembered all the same.

use std::fs;

use super::*;
use crate::orders::{archiver::archive_all, index::IndexMatch, journal::ARCHIVED};

/// An order with this key whose answer has reached its caller.
async fn ended(orders: &Orders, key: &str) {
    order(key).key(key).delivered(orders).await;
}

#[tokio::test]
async fn a_key_is_answered_from_the_archive_and_nothing_of_it_stays_in_memory() {
    let setup = OrdersSetup::new().await;
    let orders = &setup.orders;
    ended(orders, "k1").await;
    ended(orders, "k2").await;
    archive_all(orders).await;
    assert_eq!(orders.inner.index.lock().len(), 0);
    assert!(setup.store.load(&ORDERS).await.unwrap().rows.is_empty());
    assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
    assert_eq!(order("r3").key("k1").repeat(orders).await, answer("k1", Sent::Yes));
    let other = TestOrder { body: "other".into(), ..order("r4").key("k2") };
    assert_eq!(other.refused(orders).await, OrderRefusal::OtherRequest { first: first("k2") });
    drop(order("r5").key("k3").ticket(orders).await);
    assert_eq!(orders.archive().checked().await.0, 2);
}

/// The class of race: an order ends and moves between a lookup in the archive and the claim of its key.
#[tokio::test]
async fn a_lookup_in_vain_does_not_count_after_a_move() {
    let setup = OrdersSetup::new().await;
    let orders = &setup.orders;
    let identity = |absent_at| {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_static("k1"));
        let late = TestOrder { headers, ..order("r1") };
        let request = OrderRequest {
            service: late.service,
            account: "main",
            operation: "v2.order_express",
            method: &late.method,
            target: late.target,
            headers: &late.headers,
            body: late.body.as_bytes(),
            shown: OrderToShow { method: "POST", path: "/order/express", body: None },
            request_id: "r1",
            connection: None,
            memory: &Memory::new(1 << 20).share(None).allowance(Priority::Normal),
        };
        OrderIdentity { absent_at, ..super::super::request::identity(&request).unwrap() }
    };
    let Ok(IndexMatch::NotLive { moves }) = orders.find(&identity(None)) else { panic!("it is claimed unseen") };
    ended(orders, "k1").await;
    archive_all(orders).await;
    let again = orders.find(&identity(Some(moves)));
    assert!(matches!(again, Ok(IndexMatch::NotLive { moves: later }) if later > moves), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn as_long_as_is_configured_also_after_a_reload() {
    let setup = OrdersSetup::new().await;
    let orders = &setup.orders;
    ended(orders, "k1").await;
    archive_all(orders).await;
    tokio::time::advance(REMEMBERED - Duration::from_millis(1)).await;
    archive_all(orders).await;
    order("r2").key("k1").repeat(orders).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    // Before it is removed, too; then a new order with the key takes its place.
    orders.reconfigure(&OrdersConfig { remember: REMEMBERED * 2, ..settings() }, 1 << 30);
    order("r3").key("k1").repeat(orders).await;
    orders.reconfigure(&settings(), 1 << 30);
    order("r4").key("k1").delivered(orders).await;
    archive_all(orders).await;
    assert_eq!(orders.archive().checked().await.0, 1);
    assert_eq!(order("r5").key("k1").repeat(orders).await, answer("r4", Sent::Yes));
    tokio::time::advance(REMEMBERED).await;
    archive_all(orders).await;
    assert_eq!(orders.archive().checked().await, (0, 0));
}

#[tokio::test]
async fn the_oldest_answers_go_beyond_the_limit_and_their_keys_stay() {
    let size = answer("k1", Sent::Yes).size();
    let setup = OrdersSetup::within(OrderLimits { archived_bytes: 2 * size, ..limits() }).await;
    let orders = &setup.orders;
    for key in ["k1", "k2", "k3"] {
        ended(orders, key).await;
        archive_all(orders).await;
    }
    assert_eq!(orders.archive().checked().await, (3, 2 * size));
    let gone = order("r4").key("k1").refused(orders).await;
    assert_eq!(gone, OrderRefusal::AnswerGone { first: first("k1"), outcome: Outcome::Ok, sent: Sent::Yes });
    order("r5").key("k2").repeat(orders).await;
    order("r6").key("k3").repeat(orders).await;
}

/// A thousand answers of megabytes were in memory at once, several times each.
#[tokio::test]
async fn long_answers_move_a_few_at_a_time() {
    let setup = OrdersSetup::new().await;
    let orders = &setup.orders;
    for key in ["k1", "k2", "k3"] {
        ended(orders, key).await;
    }
    let size = answer("k1", Sent::Yes).size();
    let moving = |bytes| orders.inner.index.lock().archivable(1000, bytes).len();
    assert_eq!([1, size, size + 1, 2 * size + 1, u64::MAX].map(moving), [1, 1, 2, 3, 3]);
    archive_all(orders).await;
    assert_eq!(orders.archive().checked().await.0, 3);
}

#[tokio::test]
async fn a_lost_archive_refuses_keys_and_nothing_else() {
    for lose in [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| fs::write(path, "").unwrap()] {
        let setup = OrdersSetup::new().await;
        let orders = &setup.orders;
        ended(orders, "k1").await;
        archive_all(orders).await;
        lose(&setup._home.path().join("orders.redb"));
        for key in ["k1", "k2"] {
            let refused = order("r2").key(key).refused(orders).await;
            assert_eq!(refused, OrderRefusal::NoArchive);
            assert_eq!((refused.code(), refused.status().as_u16()), (Code::GatewayOverloaded, 503));
        }
        assert!(orders.archive().failure().is_some_and(|text| text.contains("orders.redb")));
        drop(order("r3").ticket(orders).await);
    }
}

#[tokio::test]
async fn a_start_refuses_an_archive_that_lacks_orders() {
    let setup = OrdersSetup::new().await;
    let (home, file) = (setup._home.path(), setup._home.path().join("orders.redb"));
    ended(&setup.orders, "k1").await;
    archive_all(&setup.orders).await;
    let older = fs::read(&file).unwrap();
    let others = OrdersSetup::new().await;
    for number in 0..5 {
        ended(&others.orders, &format!("k{number}")).await;
        archive_all(&others.orders).await;
    }
    others.store.close().await;
    others.orders.archive().close().await;
    let others = fs::read(others._home.path().join("orders.redb")).unwrap();
    ended(&setup.orders, "k2").await;
    archive_all(&setup.orders).await;
    setup.store.load(&ARCHIVED).await.unwrap();
    setup.store.close().await;
    setup.orders.archive().close().await;
    for replacement in [None, Some(older), Some(others)] {
        let newest = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        if let Some(replacement) = replacement {
            fs::write(&file, replacement).unwrap();
        }
        let stores = open_stores(home);
        let started = Orders::open(stores.clone(), start_time(), &settings(), 1 << 30).await;
        let error = started.map(drop).unwrap_err().to_string();
        assert!(error.contains("orders.redb is missing, older"), "{error}");
        stores.journal.close().await;
        stores.archive.close().await;
        fs::write(&file, newest).unwrap();
    }
    let orders = Orders::open(open_stores(home), start_time(), &settings(), 1 << 30).await.unwrap();
    order("r3").key("k1").repeat(&orders).await;
    order("r3").key("k2").repeat(&orders).await;
}

/// Unknown orders of one service had the process killed where it may use 200 MiB, and then each of its starts.
#[tokio::test]
async fn new_orders_are_refused_when_they_would_take_too_much_memory() {
    let setup = OrdersSetup::within(OrderLimits { memory: 20_000, ..limits() }).await;
    let body = |number: usize| format!("{{\"item\":{number},\"x\":\"{}\"}}", "x".repeat(2_000));
    let of = |service, number| TestOrder { service, body: body(number), ..order("r") };
    for (service, fit) in [("checkout", 3), ("warehouse", 2)] {
        for number in 0..fit {
            drop(of(service, number).written(&setup.orders).await);
        }
        let refused = of(service, fit).refused(&setup.orders).await;
        assert_eq!(refused, OrderRefusal::TooManyOfService { own: fit });
    }
}

#[tokio::test]
async fn new_orders_are_refused_when_there_are_too_many_and_none_is_forgotten() {
    let setup = OrdersSetup::within(OrderLimits { orders: 4, ..limits() }).await;
    let orders = &setup.orders;
    drop(order("r1").key("k1").written(orders).await);
    ended(orders, "k2").await;
    assert_eq!(order("r3").key("k3").refused(orders).await, OrderRefusal::TooManyOfService { own: 2 });
    assert_eq!(orders.full_services(), [("checkout".to_owned(), 2)]);
    // Others find room.
    let of = |service| TestOrder { service, ..order("r3").key("k3") };
    let placed = [of("warehouse").ticket(orders).await, of("third").ticket(orders).await];
    assert_eq!(of("fourth").refused(orders).await, OrderRefusal::TooMany);
    drop(placed);
    order("r4").key("k2").repeat(orders).await;
    archive_all(orders).await;
    drop(order("r5").key("k3").ticket(orders).await);
    order("r6").key("k2").repeat(orders).await;
    assert!(matches!(order("r7").key("k1").refused(orders).await, OrderRefusal::Interrupted { .. }));
}
