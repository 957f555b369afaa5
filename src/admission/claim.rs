//! What one request has taken and not yet used: of its service's quota, or of its account's budget.
//!
//! Always holds: it is used as a whole or goes back as a whole, to the windows that it was taken from. It knows neither
//! requests nor limits: a quota or a wait queue fills it. Fails with
//! [`Unrecorded`].

use tokio::time::Instant;

use super::{
    bucket::TokenReservation,
    day::{DayReservation, Unrecorded},
    usage::LimitWindow,
};

/// Tokens of a second and units of a day; given back when dropped unless kept. An empty one costs nothing: the call is
/// the gateway's own, or was paid for before.
#[derive(Debug, Default)]
#[must_use = "dropping it gives everything back"]
pub struct Claim {
    pub(super) second: Option<TokenReservation>,
    pub(super) day: Option<DayReservation>,
    /// The window that would have refused the request, if limits were enforced.
    pub(super) would_refuse: Option<LimitWindow>,
}

impl Claim {
    /// Records the units of the day, so that a restart counts them; to be called before the request is sent. What is dropped
    /// afterwards goes back all the same. Waits for the ledger, at most until `until` and not longer than a second. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`Unrecorded`]; everything is still claimed.
    pub async fn record(&mut self, until: Instant) -> Result<(), Unrecorded> {
        match &mut self.day {
            Some(day) => day.record(until).await,
            None => Ok(()),
        }
    }

    /// The window that would have refused the request, if the service's limits were enforced.
    pub fn would_refuse(&self) -> Option<LimitWindow> {
        self.would_refuse
    }

    /// Counts everything as used: the request was sent, or answered without being sent.
    pub fn keep(&mut self) {
        if let Some(second) = self.second.take() {
            second.keep();
        }
        if let Some(day) = self.day.take() {
            day.keep();
        }
    }
}
