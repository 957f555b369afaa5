//! Who is to get the response of an order.
//!
//! Always holds: an order has at most one caller at a time; a presence that is dropped before the response has reached
//! its caller leaves the order to the next request that is equal to it or has its key. Never fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    index::{DeliveryProgress, OrderCaller},
    refusal::OrderRefusal,
    shared::SharedOrders,
};
use crate::body::Receipt;

/// A request that gets the response of an order: the one that sends it, or one that follows when that has left.
#[derive(Debug)]
#[must_use = "dropping it says that the caller has left"]
pub struct CallerPresence {
    orders: Arc<SharedOrders>,
    /// Number of its order.
    number: u64,
    id: u64,
}

impl CallerPresence {
    pub(super) fn new(orders: Arc<SharedOrders>, number: u64, id: u64) -> Self {
        CallerPresence { orders, number, id }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Receipt for CallerPresence {
    fn begun(&mut self) {
        self.orders.begun(self.number, self.id);
    }

    fn written(&mut self) {
        self.orders.written(self.number, self.id);
    }

    /// The next equal order without a key is a new one.
    fn reached(self: Box<Self>) {
        self.orders.reached(self.number, self.id);
    }
}

impl Drop for CallerPresence {
    /// Changes nothing if it has reached its caller, or if another request has taken its place.
    fn drop(&mut self) {
        self.orders.caller_left(self.number, self.id);
    }
}

/// What a request has waited for so far.
#[derive(Debug, Default)]
pub struct OrderWait {
    /// As whose caller it has waited for the end of an order.
    presence: Option<CallerPresence>,
    /// The request of an order that it has waited for, and whether that was sent.
    awaited: Option<(String, Arc<AtomicBool>)>,
}

impl OrderWait {
    /// It has waited for the end of an order, and asks again.
    pub fn waited_as(&mut self, presence: CallerPresence) {
        self.presence = Some(presence);
    }

    pub(super) fn caller(&self) -> Option<u64> {
        self.presence.as_ref().map(CallerPresence::id)
    }

    /// The presence as which it has waited for this order.
    pub(super) fn take_presence(&mut self, number: u64) -> Option<CallerPresence> {
        self.presence.take().filter(|presence| presence.number == number)
    }

    /// It waits for the order of this request from now on.
    pub(super) fn awaits(&mut self, first: &str, was_sent: Arc<AtomicBool>) {
        if self.sent_meanwhile().is_none() {
            self.awaited = Some((first.to_owned(), was_sent));
        }
    }

    /// The request of an order that was sent while this one waited for it.
    pub(super) fn sent_meanwhile(&self) -> Option<String> {
        self.awaited.as_ref().filter(|(_, was_sent)| was_sent.load(Relaxed)).map(|(first, _)| first.clone())
    }
}

/// An order that is under way for a request whose caller has left.
#[derive(Debug)]
pub struct OrderUnderWay {
    presence: CallerPresence,
    /// Id of the request that is under way.
    first: String,
    ended: CancellationToken,
}

impl OrderUnderWay {
    pub(super) fn new(presence: CallerPresence, first: String, ended: CancellationToken) -> Self {
        OrderUnderWay { presence, first, ended }
    }

    /// Waits for its end. Then the request asks again, and is still its caller.
    pub async fn ended(self) -> CallerPresence {
        self.ended.cancelled().await;
        self.presence
    }

    /// Id of the request that is under way.
    pub fn first(&self) -> &str {
        &self.first
    }
}

/// How long an equal order waits in case the caller of the first has already left, or already has its response, and the
/// gateway is just about to see that.
const MOMENT: Duration = Duration::from_millis(250);
/// How long the thread of the caller's connection has for what it may just have read, which could say that the caller has not got
/// the answer.
pub(super) const HAND_OVER: Duration = Duration::from_millis(50);
/// How often it is looked meanwhile whether an answer has reached the caller's machine: on a connection with other requests, it
/// may be one of theirs that has not.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// An order that is under way, or whose answer is being given, and whose caller is there.
#[derive(Debug)]
pub struct OccupiedOrder {
    pub(super) orders: Arc<SharedOrders>,
    pub(super) number: u64,
    /// Id of its request.
    pub(super) first: String,
    pub(super) caller: OrderCaller,
    /// For how long it is still open whether an answer that was written has reached its caller.
    pub(super) undecided: Duration,
    pub(super) changed: CancellationToken,
}

impl OccupiedOrder {
    /// Waits for a moment until the caller of an order that is under way leaves, or until an answer that is being given
    /// has reached its caller or has not. Then the request asks again.
    ///
    /// # Errors
    /// [`OccupiedOrder::refusal`], also if its caller gets the answer meanwhile: the equal one came before that.
    pub async fn freed(&self) -> Result<(), OrderRefusal> {
        let mut changed = self.changes_within(self.undecided).await;
        if !changed {
            let is_quiet = self.orders.is_quiet(&self.caller);
            changed = self.changes_within(if is_quiet { HAND_OVER } else { MOMENT }).await;
        }
        // What is on its way after that second reaches a machine that takes nothing, or is gone.
        let until = Instant::now() + MOMENT;
        while !changed && self.orders.is_on_its_way(&self.caller) && Instant::now() < until {
            changed = self.changes_within(LOOK_AGAIN).await;
        }
        let freed = changed || self.orders.decide_caller(self.number, &self.caller);
        let is_unanswered = self.caller.progress == DeliveryProgress::Awaited;
        let freed = freed && (!is_unanswered || self.orders.is_left(self.number));
        if freed { Ok(()) } else { Err(self.refusal()) }
    }

    async fn changes_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.changed.cancelled()).await.is_ok()
    }

    /// The refusal if it is not freed in time.
    pub fn refusal(&self) -> OrderRefusal {
        OrderRefusal::InFlight { first: self.first.clone() }
    }
}
