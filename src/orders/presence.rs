//! Who is to get the response of an order.
//!
//! Always holds: an order has at most one caller at a time; a presence that is dropped before the response has reached
//! its caller leaves the order to the next request that is equal to it or has its key. Never fails.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{refusal::OrderRefusal, shared::SharedOrders};
use crate::body::Receipt;

/// A request that gets the response of an order: the one that sends it, or one that follows when that has left.
#[derive(Debug)]
#[must_use = "dropping it says that the caller has left"]
pub struct CallerPresence {
    orders: Arc<SharedOrders>,
    number: u64,
}

impl CallerPresence {
    pub(super) fn new(orders: Arc<SharedOrders>, number: u64) -> Self {
        CallerPresence { orders, number }
    }

    /// Number of its order.
    pub(super) fn order(&self) -> u64 {
        self.number
    }
}

impl Receipt for CallerPresence {
    /// The next equal order without a key is a new one.
    fn reached(self: Box<Self>) {
        self.orders.reached(self.number);
    }
}

impl Drop for CallerPresence {
    fn drop(&mut self) {
        self.orders.caller_left(self.number);
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

/// How long an equal order waits for a response to reach its caller. A caller that has read it may send its next order
/// before the gateway knows that it was written.
const DELIVERY: Duration = Duration::from_millis(250);

/// An order whose answer is being given to its caller.
#[derive(Debug)]
pub struct OrderBeingDelivered {
    first: String,
    decided: CancellationToken,
}

impl OrderBeingDelivered {
    pub(super) fn new(first: String, decided: CancellationToken) -> Self {
        OrderBeingDelivered { first, decided }
    }

    /// Waits until the answer has reached its caller, or has not.
    ///
    /// # Errors
    /// [`OrderBeingDelivered::refusal`] if that takes too long.
    pub async fn decided(&self) -> Result<(), OrderRefusal> {
        tokio::time::timeout(DELIVERY, self.decided.cancelled()).await.map_err(|_| self.refusal())
    }

    /// The refusal if it is not decided in time.
    pub fn refusal(&self) -> OrderRefusal {
        OrderRefusal::InFlight { first: self.first.clone() }
    }
}
