//! Promises of the orders room: nothing is sent twice, and a repeat gets the first answer.

#![allow(clippy::disallowed_methods, reason = "tasks of a test")]

mod archives;
mod damages;
mod holds;
mod model;
mod refuses;
mod scale;
mod settles;
mod survives;
mod without_a_key;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{
    archive::EndedOrder,
    fingerprint::OrderDigest,
    index::OrderIdentity,
    journal::{ANSWERS, AnswerResult},
    request::RESEND,
    *,
};
use crate::{
    body::{CallerLink, Receipt as _},
    config::{Class, Priority},
    memory::Memory,
    outcome::{Code, Outcome, Sent},
    store::{Store, StoreError},
};

/// The time at which every test starts.
pub(super) fn start_time() -> Timestamp {
    "2026-11-24T09:00:00Z".parse().unwrap()
}

pub(super) fn open_store(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

/// The state store of a folder, and the archive beside it.
pub(super) fn open_stores(dir: &Path) -> OrderStores {
    OrderStores { journal: open_store(dir), archive: Archive::open(dir).unwrap(), dir: dir.to_owned() }
}

/// How long keys are remembered here.
pub(super) const REMEMBERED: Duration = Duration::from_hours(48);
const UNDELIVERED: Duration = Duration::from_mins(10);

pub(super) fn settings() -> OrdersConfig {
    OrdersConfig { remember: REMEMBERED, undelivered: UNDELIVERED, reconcile: Duration::ZERO }
}

fn limits() -> OrderLimits {
    OrderLimits::of(&settings(), 1 << 30)
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
        let stores = open_stores(home.path());
        let store = stores.journal.clone();
        let orders = Orders::open_within(stores, start_time(), limits).await.unwrap();
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
    pub(super) connection: Option<CallerLink>,
}

pub(super) fn order(request_id: &str) -> TestOrder {
    TestOrder {
        service: "checkout",
        method: Method::POST,
        target: "/order/express?x=1",
        headers: HeaderMap::new(),
        body: "{\"item\":1}".into(),
        request_id: request_id.into(),
        connection: None,
    }
}

impl super::shared::SharedOrders {
    /// Without the wait for other threads.
    pub(super) fn decide_written(&self) {
        self.decide_callers(self.quiet_callers());
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

    /// Asks again after it has waited for the end of an order.
    pub(super) async fn recall_after(
        &self,
        orders: &Orders,
        waited_as: Option<CallerPresence>,
    ) -> Result<Recall, OrderRefusal> {
        let mut wait = OrderWait::default();
        waited_as.into_iter().for_each(|presence| wait.waited_as(presence));
        self.recall_again(orders, &mut wait).await
    }

    pub(super) async fn recall_again(&self, orders: &Orders, wait: &mut OrderWait) -> Result<Recall, OrderRefusal> {
        let request = OrderRequest {
            service: self.service,
            account: "main",
            operation: "v2.order_express",
            method: &self.method,
            target: self.target,
            headers: &self.headers,
            body: self.body.as_bytes(),
            shown: OrderToShow { method: "POST", path: "/order/express", body: Some(&self.body) },
            request_id: &self.request_id,
            connection: self.connection.as_ref(),
            memory: &Memory::new(1 << 20).share(None).allowance(Priority::Normal),
        };
        orders.recall(&request, wait).await
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

    /// An order that was executed, and whose answer reaches its caller.
    pub(super) async fn delivered(&self, orders: &Orders) {
        let (ticket, caller) = self.new_order(orders).await;
        orders.write(ticket).await.unwrap().end(answer(&self.request_id, Sent::Yes));
        Box::new(caller).reached();
    }

    pub(super) async fn repeat(&self, orders: &Orders) -> StoredAnswer {
        match self.recall(orders).await {
            Ok(Recall::Repeat(answer, _)) => answer.as_ref().clone(),
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

/// The key of an ended order.
fn ended_key(number: u64) -> OrderDigest {
    OrderDigest::key("checkout", &number.to_be_bytes())
}

/// An ended order, whose fingerprint is its key, and its answer.
fn ended(number: u64) -> (EndedOrder, StoredAnswer) {
    let answer = answer(&format!("request-{number}"), Sent::Yes);
    let order = EndedOrder {
        ended: start_time().as_millisecond() + number.cast_signed(),
        request_id: answer.request_id.clone(),
        fingerprint: ended_key(number),
        result: Some(AnswerResult { outcome: answer.outcome, sent: answer.sent }),
        answer_bytes: answer.size(),
    };
    (order, answer)
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
