//! What one request has taken and not yet used: of its service's quota, or of its account's budget.
//!
//! Always holds: it is used as a whole or goes back as a whole, to the windows that it was taken from. It knows neither
//! requests nor limits: a quota or a wait queue fills it. Fails with
//! [`Unrecorded`].

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    bucket::TokenReservation,
    day::{DayCounter, DayReservation, Unrecorded},
    usage::LimitWindow,
};

/// Tokens of a second and units of a day; given back when dropped unless kept. An empty one costs nothing: the call is
/// the gateway's own, or was paid for before.
#[derive(Debug, Default)]
#[must_use = "dropping it gives everything back"]
pub struct Claim {
    pub(super) second: Option<TokenReservation>,
    pub(super) day: ClaimedDay,
    /// The window that would have refused the request, if limits were enforced.
    pub(super) would_refuse: Option<LimitWindow>,
}

/// The part of a claim that concerns the service's day.
#[derive(Debug, Default)]
pub(super) enum ClaimedDay {
    #[default]
    Nothing,
    /// One unit is to be taken together with the account's budget.
    Due(Arc<DayCounter>),
    Taken(DayReservation),
}

impl Claim {
    /// Records the units of the day, so that a restart counts them; to be called before the request is sent. What is dropped
    /// afterwards goes back all the same. Waits for the ledger, at most until `until`. Cancel safe.
    ///
    /// # Errors
    /// [`Unrecorded`]; everything is still claimed.
    pub async fn record(&mut self, until: Instant) -> Result<(), Unrecorded> {
        match &mut self.day {
            ClaimedDay::Taken(day) => day.record(until).await,
            ClaimedDay::Due(_) | ClaimedDay::Nothing => Ok(()),
        }
    }

    /// The window that would have refused the request, if the service's limits were enforced.
    pub fn would_refuse(&self) -> Option<LimitWindow> {
        self.would_refuse
    }

    /// The day that one unit is to be taken of.
    pub(super) fn due(&self) -> Option<Arc<DayCounter>> {
        if let ClaimedDay::Due(day) = &self.day { Some(day.clone()) } else { None }
    }

    /// Counts everything as used: the request was sent, or answered without being sent.
    pub fn keep(&mut self) {
        if let Some(second) = self.second.take() {
            second.keep();
        }
        if let ClaimedDay::Taken(day) = std::mem::take(&mut self.day) {
            day.keep();
        }
    }
}
