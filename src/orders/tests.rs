//! Promises of the orders room: nothing is sent twice, and a repeat gets the first answer.

#![allow(clippy::disallowed_methods, reason = "tasks of a test")]

mod model;
mod survives;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::*;
use crate::{
    body::Receipt as _,
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

/// How long keys are remembered here.
pub(super) const REMEMBERED: Duration = Duration::from_hours(48);
const UNDELIVERED: Duration = Duration::from_mins(10);

pub(super) fn settings() -> OrdersConfig {
    OrdersConfig { remember: REMEMBERED, undelivered: UNDELIVERED }
}

fn limits() -> OrderLimits {
    OrderLimits::of(&settings())
}

/// Orders in a folder of their own.
struct OrdersSetup {
    orders: Orders,
    store: Store,
    _home: tempfile::TempDir,
}

impl OrdersSetup {
    async fn new() -> OrdersSetup {
        OrdersSetup::within(limits()).await
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
        self.recall_after(orders, None).await
    }

    /// Asks again after it has waited for an order.
    pub(super) async fn recall_after(
        &self,
        orders: &Orders,
        waited_for: Option<CallerPresence>,
    ) -> Result<Recall, OrderRefusal> {
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
        orders.recall(&request, waited_for).await
    }

    pub(super) async fn new_order(&self, orders: &Orders) -> (Ticket, CallerPresence) {
        match self.recall(orders).await {
            Ok(Recall::New(ticket, caller)) => (ticket, caller),
            other => panic!("{}: {other:?}", self.request_id),
        }
    }

    /// The ticket of an order whose caller stays.
    pub(super) async fn ticket(&self, orders: &Orders) -> Ticket {
        let (ticket, caller) = self.new_order(orders).await;
        std::mem::forget(caller);
        ticket
    }

    pub(super) async fn written(&self, orders: &Orders) -> Written {
        orders.write(self.ticket(orders).await).await.unwrap()
    }

    pub(super) async fn repeat(&self, orders: &Orders) -> StoredAnswer {
        match self.recall(orders).await {
            Ok(Recall::Repeat(answer, None)) => answer.as_ref().clone(),
            other => panic!("{}: {other:?}", self.request_id),
        }
    }

    pub(super) async fn refused(&self, orders: &Orders) -> OrderRefusal {
        match self.recall(orders).await {
            Err(refusal) => refusal,
            Ok(Recall::Occupied(order)) => order.freed().await.unwrap_err(),
            other => panic!("{}: {other:?}", self.request_id),
        }
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
    async fn as_long_as_it_is_remembered() {
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
    async fn without_a_key_nothing_is_kept_of_an_answer_that_has_reached_its_caller() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        setup.orders.write(ticket).await.unwrap().end(answer("r1", Sent::Yes));
        Box::new(caller).reached();
        let _ticket = order("r2").ticket(&setup.orders).await;
        assert!(setup.store.load(&ORDERS).await.unwrap().rows.is_empty());
        assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
    }
}

mod without_a_key {
    use super::*;

    /// What an equal order gets.
    async fn given(id: &str, setup: &OrdersSetup) -> (StoredAnswer, CallerPresence) {
        match order(id).recall(&setup.orders).await {
            Ok(Recall::Repeat(answer, Some(caller))) => (answer.as_ref().clone(), caller),
            other => panic!("{id}: {other:?}"),
        }
    }

    async fn being_delivered(id: &str, setup: &OrdersSetup) -> OccupiedOrder {
        match order(id).recall(&setup.orders).await {
            Ok(Recall::Occupied(order)) => order,
            other => panic!("{id}: {other:?}"),
        }
    }

    async fn under_way(one: TestOrder, setup: &OrdersSetup) -> OrderUnderWay {
        match one.recall(&setup.orders).await {
            Ok(Recall::UnderWay(order)) => order,
            other => panic!("{}: {other:?}", one.request_id),
        }
    }

    #[tokio::test]
    async fn an_equal_order_is_refused_while_the_first_caller_is_there() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        let in_flight = OrderRefusal::InFlight { first: first("r1") };
        assert_eq!(order("r2").refused(&setup.orders).await, in_flight);
        assert_eq!((in_flight.code(), in_flight.status().as_u16()), (Code::OrderInFlight, 409));
        assert_eq!(in_flight.retry_after(), Some(Duration::from_secs(1)));
        let written = setup.orders.write(ticket).await.unwrap();
        assert_eq!(order("r3").refused(&setup.orders).await, in_flight);
        written.end(answer("r1", Sent::Yes));
        // Its answer is on the way.
        let delivered = being_delivered("r4", &setup).await;
        for wanted in [order("r5").confirmed(), order("r5").key("k"), TestOrder { body: "{}".into(), ..order("r5") }] {
            drop(wanted.new_order(&setup.orders).await);
        }
        Box::new(caller).reached();
        delivered.freed().await.unwrap();
        let _new = order("r6").ticket(&setup.orders).await;
    }

    /// The gateway sees a moment later that a caller has left, or that an order has ended.
    #[tokio::test]
    async fn an_equal_order_that_came_while_the_first_was_under_way_is_not_sent_when_that_ends() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        let written = setup.orders.write(ticket).await.unwrap();
        let Ok(Recall::Occupied(second)) = order("r2").recall(&setup.orders).await else { panic!("not occupied") };
        written.end(answer("r1", Sent::Yes));
        Box::new(caller).reached();
        assert_eq!(second.freed().await, Err(OrderRefusal::InFlight { first: first("r1") }));

        let (_ticket, caller) = order("r3").new_order(&setup.orders).await;
        let Ok(Recall::Occupied(second)) = order("r4").recall(&setup.orders).await else { panic!("not occupied") };
        drop(caller);
        assert_eq!(second.freed().await, Ok(()));
        drop(under_way(order("r4"), &setup).await);
    }

    #[tokio::test]
    async fn an_answer_that_has_reached_nobody_is_given_once() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        let written = setup.orders.write(ticket).await.unwrap();
        drop(caller);
        written.end(answer("r1", Sent::Yes));
        let (told, caller) = given("r2", &setup).await;
        assert_eq!(told, answer("r1", Sent::Yes));
        let delivered = being_delivered("r3", &setup).await;
        // It did not reach that one either.
        drop(caller);
        delivered.freed().await.unwrap();
        setup.store.load(&ANSWERS).await.unwrap();
        let (told, caller) = given("r4", &setup).await;
        assert_eq!(told, answer("r1", Sent::Yes), "from disk");
        Box::new(caller).reached();
        let _new = order("r5").ticket(&setup.orders).await;
    }

    #[tokio::test(start_paused = true)]
    async fn for_as_long_as_configured() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        setup.orders.write(ticket).await.unwrap().end(answer("r1", Sent::Yes));
        drop(caller);
        tokio::time::advance(UNDELIVERED - Duration::from_millis(1)).await;
        drop(given("r2", &setup).await);
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(order("r3").new_order(&setup.orders).await);
        setup.orders.reconfigure(&OrdersConfig { undelivered: Duration::ZERO, ..settings() });
        let (ticket, caller) = order("r4").new_order(&setup.orders).await;
        setup.orders.write(ticket).await.unwrap().end(answer("r4", Sent::Yes));
        drop(caller);
        drop(order("r5").new_order(&setup.orders).await);
        assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
    }

    #[tokio::test]
    async fn an_equal_order_waits_for_one_whose_caller_has_left() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        let written = setup.orders.write(ticket).await.unwrap();
        drop(caller);
        let waiting = under_way(order("r2"), &setup).await;
        assert_eq!(waiting.first(), "r1");
        // One at a time; if it leaves, the next one.
        assert_eq!(order("r3").refused(&setup.orders).await, OrderRefusal::InFlight { first: first("r1") });
        drop(waiting);
        let waiting = under_way(order("r4"), &setup).await;
        written.end(answer("r1", Sent::Yes));
        let waited = waiting.ended().await;
        drop(being_delivered("r5", &setup).await);
        let Ok(Recall::Repeat(told, Some(caller))) = order("r4").recall_after(&setup.orders, Some(waited)).await else {
            panic!("no answer")
        };
        assert_eq!(*told, answer("r1", Sent::Yes));
        let delivered = being_delivered("r6", &setup).await;
        assert_eq!(delivered.refusal(), OrderRefusal::InFlight { first: first("r1") });
        Box::new(caller).reached();
        let _new = order("r7").ticket(&setup.orders).await;
    }

    #[tokio::test]
    async fn and_is_sent_if_that_was_not_and_held_if_that_is_unknown() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        drop(caller);
        let waiting = under_way(order("r2"), &setup).await;
        drop(ticket);
        let Ok(Recall::New(ticket, caller)) =
            order("r2").recall_after(&setup.orders, Some(waiting.ended().await)).await
        else {
            panic!("held")
        };
        drop(caller);
        let waiting = under_way(order("r3"), &setup).await;
        setup.orders.write(ticket).await.unwrap().end(answer("r2", Sent::Unknown));
        let held = order("r3").recall_after(&setup.orders, Some(waiting.ended().await)).await.unwrap_err();
        assert_eq!(held, OrderRefusal::Held { first: first("r2") });
    }

    #[tokio::test]
    async fn a_repeat_of_a_key_waits_too() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").key("k").new_order(&setup.orders).await;
        let written = setup.orders.write(ticket).await.unwrap();
        assert_eq!(order("r2").key("k").refused(&setup.orders).await.code(), Code::OrderInFlight);
        drop(caller);
        let waiting = under_way(order("r3").key("k"), &setup).await;
        written.end(answer("r1", Sent::Yes));
        drop(waiting.ended().await);
        assert_eq!(order("r4").key("k").repeat(&setup.orders).await, answer("r1", Sent::Yes));
        // With a key, what has reached its caller is repeated as well; without one, an equal order is a new one.
        assert_eq!(order("r5").key("k").repeat(&setup.orders).await, answer("r1", Sent::Yes));
        let _new = order("r6").ticket(&setup.orders).await;
    }

    #[tokio::test]
    async fn it_survives_a_restart() {
        let setup = OrdersSetup::new().await;
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        setup.orders.write(ticket).await.unwrap().end(answer("r1", Sent::Yes));
        std::mem::forget(caller);
        setup.store.close().await;
        let store = open_store(setup._home.path());
        let orders = Orders::open(store, start_time(), &settings()).await.unwrap();
        let setup = OrdersSetup { orders, ..setup };
        let (told, _caller) = given("r2", &setup).await;
        assert_eq!(told, answer("r1", Sent::Yes));
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
        let setup = OrdersSetup::within(OrderLimits { bytes: size * 2, ..limits() }).await;
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
        let setup = OrdersSetup::within(OrderLimits { orders: 3, ..limits() }).await;
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
}

mod settles {
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
        let OrderDescription { service, method, path, at } = &listed.description;
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
}

#[tokio::test]
async fn the_steps_can_be_taken_in_a_tracked_task() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let setup = OrdersSetup::new().await;
    let one = order("r1");
    let recalling = is_send(one.recall(&setup.orders));
    let Ok(Recall::New(ticket, _caller)) = recalling.await else { panic!() };
    let orders = setup.orders.clone();
    let task = tokio::spawn(async move { orders.write(ticket).await.unwrap().unsent() });
    task.await.unwrap();
}
