//! Promises of the orders room: nothing is sent twice, and a repeat gets the first answer.

#![allow(clippy::disallowed_methods, reason = "tasks of a test")]

mod model;
mod survives;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::*;
use crate::{
    config::Priority,
    memory::Memory,
    outcome::{Code, Outcome, Sent},
};

/// The time at which every test starts.
pub(super) fn start_time() -> Timestamp {
    "2026-11-24T09:00:00Z".parse().unwrap()
}

pub(super) fn open_store(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

/// Orders in a folder of their own.
struct OrdersSetup {
    orders: Orders,
    store: Store,
    _home: tempfile::TempDir,
}

impl OrdersSetup {
    async fn new() -> OrdersSetup {
        OrdersSetup::within(OrderLimits::default()).await
    }

    async fn within(limits: OrderLimits) -> OrdersSetup {
        let home = tempfile::tempdir().unwrap();
        let store = open_store(home.path());
        let orders = Orders::open_within(store.clone(), start_time(), limits).await.unwrap();
        OrdersSetup { orders, store, _home: home }
    }
}

/// A typical order of service `checkout`.
#[derive(Clone, Debug)]
pub(super) struct TestOrder {
    pub(super) service: &'static str,
    pub(super) method: Method,
    pub(super) target: &'static str,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) request_id: String,
}

pub(super) fn order(request_id: &str) -> TestOrder {
    TestOrder {
        service: "checkout",
        method: Method::POST,
        target: "/order/express?x=1",
        headers: HeaderMap::new(),
        body: "{\"item\":1}".into(),
        request_id: request_id.into(),
    }
}

impl TestOrder {
    pub(super) fn key(mut self, key: &str) -> Self {
        self.headers.append("idempotency-key", HeaderValue::from_str(key).unwrap());
        self
    }

    pub(super) fn confirmed(mut self) -> Self {
        self.headers.insert("x-gateway-resend", HeaderValue::from_static("confirmed"));
        self
    }

    pub(super) async fn recall(&self, orders: &Orders) -> Result<Recall, OrderRefusal> {
        let request = OrderRequest {
            service: self.service,
            account: "main",
            method: &self.method,
            target: self.target,
            headers: &self.headers,
            body: self.body.as_bytes(),
            request_id: &self.request_id,
            memory: &Memory::new(1 << 20).allowance(Priority::Normal),
        };
        orders.recall(&request).await
    }

    pub(super) async fn ticket(&self, orders: &Orders) -> Ticket {
        match self.recall(orders).await {
            Ok(Recall::New(ticket)) => ticket,
            other => panic!("{}: {other:?}", self.request_id),
        }
    }

    pub(super) async fn written(&self, orders: &Orders) -> Written {
        orders.write(self.ticket(orders).await).await.unwrap()
    }

    pub(super) async fn repeat(&self, orders: &Orders) -> StoredAnswer {
        match self.recall(orders).await {
            Ok(Recall::Repeat(answer)) => answer.as_ref().clone(),
            other => panic!("{}: {other:?}", self.request_id),
        }
    }

    pub(super) async fn refused(&self, orders: &Orders) -> OrderRefusal {
        self.recall(orders).await.unwrap_err()
    }
}

pub(super) fn answer(request_id: &str, sent: Sent) -> StoredAnswer {
    let (status, outcome) = match sent {
        Sent::No => (502, Outcome::Unreachable),
        Sent::Yes => (200, Outcome::Ok),
        Sent::Unknown => (504, Outcome::Timeout),
    };
    StoredAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: [(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))].into_iter().collect(),
        body: Bytes::from(format!("answer to {request_id}")),
        outcome,
        sent,
        request_id: request_id.into(),
    }
}

fn first(id: &str) -> String {
    id.to_owned()
}

mod applies_to_money_only {
    use super::*;

    #[test]
    fn orders_and_unsafe_unlisted_requests() {
        assert!(applies_to(Class::Order, &Method::GET));
        assert!(applies_to(Class::Unlisted, &Method::DELETE));
        assert!(applies_to(Class::Unlisted, &Method::from_bytes(b"ODD").unwrap()));
        assert!(!applies_to(Class::Unlisted, &Method::GET));
        assert!(!applies_to(Class::Lookup, &Method::POST));
        assert!(!applies_to(Class::Account, &Method::POST));
    }
}

mod repeats {
    use super::*;

    #[tokio::test]
    async fn a_key_gets_the_first_answer_from_memory_and_from_disk() {
        let setup = OrdersSetup::new().await;
        order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Yes));
        assert_eq!(order("r2").key("k").repeat(&setup.orders).await, answer("r1", Sent::Yes));
        // Once it is on disk, it is no longer in memory.
        setup.store.load(&ANSWERS).await.unwrap();
        assert!(setup.orders.inner.index.lock().answer_in_memory(0).is_none());
        assert_eq!(order("r3").key("\"k\"").repeat(&setup.orders).await, answer("r1", Sent::Yes));
    }

    #[tokio::test]
    async fn an_unknown_key_gets_what_the_first_was_told_even_if_confirmed() {
        let setup = OrdersSetup::new().await;
        order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Unknown));
        assert_eq!(order("r2").key("k").repeat(&setup.orders).await, answer("r1", Sent::Unknown));
        assert_eq!(order("r3").key("k").confirmed().repeat(&setup.orders).await, answer("r1", Sent::Unknown));
        assert_eq!(setup.orders.unknown_count("main"), 1);
    }

    #[tokio::test]
    async fn keys_belong_to_a_service() {
        let setup = OrdersSetup::new().await;
        order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Yes));
        let other = TestOrder { service: "warehouse", ..order("r2").key("k") };
        let _ticket = other.ticket(&setup.orders).await;
    }

    #[tokio::test(start_paused = true)]
    async fn for_a_day() {
        let setup = OrdersSetup::new().await;
        order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Yes));
        tokio::time::advance(REMEMBERED - Duration::from_millis(1)).await;
        order("r2").key("k").repeat(&setup.orders).await;
        tokio::time::advance(Duration::from_millis(1)).await;
        let _ticket = order("r3").key("k").ticket(&setup.orders).await;
        assert!(setup.store.load(&ORDERS).await.unwrap().rows.is_empty());
        assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
    }

    #[tokio::test]
    async fn without_a_key_nothing_is_kept_of_a_known_end() {
        let setup = OrdersSetup::new().await;
        order("r1").written(&setup.orders).await.end(answer("r1", Sent::Yes));
        let _ticket = order("r2").ticket(&setup.orders).await;
        assert!(setup.store.load(&ORDERS).await.unwrap().rows.is_empty());
        assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
    }
}

mod refuses {
    use super::*;

    #[tokio::test]
    async fn a_key_in_flight_or_on_another_request_or_unreadable() {
        let setup = OrdersSetup::new().await;
        let same = order("r2").key("k");
        let others = [
            TestOrder { method: Method::PUT, ..same.clone() },
            TestOrder { target: "/order/express?x=2", ..same.clone() },
            TestOrder { body: "{}".into(), ..same.clone() },
        ];
        let ticket = order("r1").key("k").ticket(&setup.orders).await;
        let in_flight = OrderRefusal::InFlight { first: first("r1") };
        assert_eq!(same.refused(&setup.orders).await, in_flight);
        assert_eq!(in_flight.status(), 409);
        let written = setup.orders.write(ticket).await.unwrap();
        assert_eq!(same.refused(&setup.orders).await, in_flight);
        let differs = OrderRefusal::OtherRequest { first: first("r1") };
        assert_eq!(differs.status(), 422);
        for other in &others {
            assert_eq!(other.refused(&setup.orders).await, differs);
        }
        written.end(answer("r1", Sent::Yes));
        for other in &others {
            assert_eq!(other.refused(&setup.orders).await, differs);
        }
        let twice = order("r3").key("k").key("k").refused(&setup.orders).await;
        assert_eq!((twice.status(), twice.code()), (StatusCode::BAD_REQUEST, Code::RequestIdempotency));
    }

    #[tokio::test]
    async fn a_key_whose_order_vanished() {
        let setup = OrdersSetup::new().await;
        drop(order("r1").key("k").written(&setup.orders).await);
        let lost = order("r2").key("k").confirmed().refused(&setup.orders).await;
        assert_eq!(lost, OrderRefusal::Interrupted { first: first("r1") });
        assert_eq!(
            (lost.code(), lost.status().as_u16(), lost.first_sent().map(FirstSent::get)),
            (Code::OrderUnknown, 409, Some(Sent::Unknown))
        );
    }

    #[tokio::test]
    async fn later_when_the_store_cannot_be_read() {
        let setup = OrdersSetup::new().await;
        order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Yes));
        setup.store.load(&ANSWERS).await.unwrap();
        setup.store.close().await;
        let refused = order("r2").key("k").refused(&setup.orders).await;
        assert_eq!(refused, OrderRefusal::Unreadable { first: first("r1") });
        assert_eq!((refused.code(), refused.status().as_u16()), (Code::GatewayOverloaded, 503));
        assert!(refused.retry_after().is_some());
    }

    #[tokio::test]
    async fn rather_than_send_again_when_the_answer_is_gone() {
        let size = answer("r1", Sent::Yes).size();
        let setup = OrdersSetup::within(OrderLimits { bytes: size * 2, ..OrderLimits::default() }).await;
        for id in ["r1", "r2", "r3"] {
            order(id).key(id).written(&setup.orders).await.end(answer(id, Sent::Yes));
        }
        let gone = order("r4").key("r1").refused(&setup.orders).await;
        assert_eq!(gone, OrderRefusal::AnswerGone { first: first("r1"), outcome: Outcome::Ok, sent: Sent::Yes });
        assert_eq!(
            (gone.outcome(), gone.first_sent().map(FirstSent::get), gone.status().as_u16()),
            (Outcome::Ok, Some(Sent::Yes), 409)
        );
        order("r5").key("r2").repeat(&setup.orders).await;
        assert_eq!(setup.store.load(&ANSWERS).await.unwrap().rows.len(), 2);
    }
}

mod frees {
    use super::*;

    #[tokio::test]
    async fn a_key_that_was_never_sent() {
        let setup = OrdersSetup::new().await;
        drop(order("r1").key("k").ticket(&setup.orders).await);
        order("r2").key("k").written(&setup.orders).await.unsent();
        order("r3").key("k").written(&setup.orders).await.end(answer("r3", Sent::No));
        let other_body = TestOrder { body: "{}".into(), ..order("r4").key("k") };
        drop(other_body.ticket(&setup.orders).await);
        assert!(setup.store.load(&ORDERS).await.unwrap().rows.is_empty());
        assert_eq!(setup.orders.unknown_count("main"), 0);
    }

    #[tokio::test]
    async fn a_key_whose_writing_was_dropped_half_way() {
        let setup = OrdersSetup::new().await;
        let ticket = order("r1").key("k").ticket(&setup.orders).await;
        let mut writing = Box::pin(setup.orders.write(ticket));
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(writing.as_mut().poll(context))).await;
        drop((polled, writing));
        // Whether it was half-way or through: it is either free or unknown in memory and on disk alike.
        let rows = setup.store.load(&ORDERS).await.unwrap().rows.len() as u64;
        assert_eq!(rows, setup.orders.unknown_count("main"));
    }

    #[tokio::test]
    async fn a_key_that_could_not_be_written() {
        let setup = OrdersSetup::new().await;
        let ticket = order("r1").key("k").ticket(&setup.orders).await;
        setup.store.close().await;
        assert_eq!(setup.orders.write(ticket).await.unwrap_err(), JournalError(StoreError::Closed));
        let _ticket = order("r2").key("k").ticket(&setup.orders).await;
    }

    #[tokio::test]
    async fn the_keys_that_ended_first_when_there_are_too_many() {
        let setup = OrdersSetup::within(OrderLimits { orders: 3, ..OrderLimits::default() }).await;
        drop(order("r0").key("r0").written(&setup.orders).await);
        for id in ["r1", "r2", "r3"] {
            order(id).key(id).written(&setup.orders).await.end(answer(id, Sent::Yes));
        }
        assert!(matches!(order("r4").key("r0").refused(&setup.orders).await, OrderRefusal::Interrupted { .. }));
        order("r5").key("r2").repeat(&setup.orders).await;
        let _ticket = order("r6").key("r1").ticket(&setup.orders).await;
    }
}

mod holds {
    use super::*;

    #[tokio::test]
    async fn an_order_equal_to_an_unknown_one_and_nothing_else() {
        let setup = OrdersSetup::new().await;
        let written = order("r1").written(&setup.orders).await;
        // An order in flight is not yet unknown.
        drop(order("r2").ticket(&setup.orders).await);
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
        let setup = OrdersSetup::new().await;
        let written = order("r1").written(&setup.orders).await;
        tokio::time::advance(Duration::from_secs(30)).await;
        drop(written);
        tokio::time::advance(REMEMBERED - Duration::from_millis(1)).await;
        order("r2").refused(&setup.orders).await;
        assert_eq!(setup.orders.unknown_count("main"), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(setup.orders.unknown_count("main"), 0);
        let _ticket = order("r3").ticket(&setup.orders).await;
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
        drop(order("r6").ticket(&setup.orders).await);
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
}

#[tokio::test]
async fn the_steps_can_be_taken_in_a_tracked_task() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let setup = OrdersSetup::new().await;
    let one = order("r1");
    let recalling = is_send(one.recall(&setup.orders));
    let Ok(Recall::New(ticket)) = recalling.await else { panic!() };
    let orders = setup.orders.clone();
    let task = tokio::spawn(async move { orders.write(ticket).await.unwrap().unsent() });
    task.await.unwrap();
}
