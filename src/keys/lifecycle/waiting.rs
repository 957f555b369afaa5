//! Refused requests that wait for a reading of the source or for a canary.
//!
//! They are decided again whenever something changed, each by what began after it was refused. Dropping one drops its
//! reply. Pure; never fails.

use std::time::Duration;

use tokio::time::Instant;

use super::{KeyLifecycle, RefusalAction, RefusedRequest};
use crate::keys::{command::Remedy, lease::Lease, version::PairVersion};

/// How long a refused request waits for the source.
pub(crate) const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// Refused requests; `R` is where the result is sent.
pub(crate) struct WaitingRefusals<R> {
    waiting: Vec<WaitingRefusal<R>>,
}

struct WaitingRefusal<R> {
    request: RefusedRequest,
    /// When it is decided without the source.
    until: Instant,
    reply: R,
}

/// What came of the refused requests.
pub(crate) struct Settled<R> {
    pub(crate) decided: Vec<(R, Remedy)>,
    /// The reading that the others wait for.
    pub(crate) read: Option<WantedReading>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedReading {
    /// It must begin after this instant.
    pub(crate) after: Instant,
    /// A version that was refused.
    pub(crate) refused: Option<PairVersion>,
}

impl<R> Default for WaitingRefusals<R> {
    fn default() -> Self {
        Self { waiting: Vec::new() }
    }
}

impl<R> WaitingRefusals<R> {
    pub(crate) fn add(&mut self, request: RefusedRequest, reply: R, now: Instant) {
        self.waiting.push(WaitingRefusal { request, until: now + REFUSED_WAIT, reply });
    }

    /// When the next one no longer waits for the source.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).filter(|until| *until > now).min()
    }

    /// Decides each request that can be decided.
    pub(crate) fn settle(&mut self, life: &mut KeyLifecycle, now: Instant) -> Settled<R> {
        let mut settled = Settled { decided: Vec::new(), read: None };
        // What is known of an earlier request may decide a later one of the same service.
        self.waiting.sort_by_key(|waiting| waiting.request.last_refused());
        for waiting in std::mem::take(&mut self.waiting) {
            let remedy = match life.remedy(&waiting.request, now < waiting.until, now) {
                RefusalAction::Resend(pair) => Remedy::Resend(Lease::new(pair)),
                RefusalAction::Own => Remedy::Own,
                RefusalAction::Rejected => Remedy::Rejected,
                RefusalAction::Undecided => Remedy::Undecided,
                RefusalAction::Read { after } => {
                    let refused = waiting.request.version();
                    settled.read = Some(WantedReading { after, refused });
                    self.waiting.push(waiting);
                    continue;
                }
                RefusalAction::Wait => {
                    self.waiting.push(waiting);
                    continue;
                }
            };
            settled.decided.push((waiting.reply, remedy));
        }
        settled
    }
}
