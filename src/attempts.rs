//! The attempts to send one request to Fastrac: how many, with which key pair, how long they took, and whether Fastrac
//! may have received the request.
//!
//! [`Attempts`] is the only record of whether a request was sent. What always holds: [`Sent`] only grows
//! (`no`, `unknown`, `yes`); the fields are private and no method lowers it. Replies, refusals, the exchange log and
//! the order journal read it. Must not know connections, headers, or what a response means. Never fails.

use std::{sync::Arc, time::Duration};

use crate::outcome::Sent;

/// The attempts of one request so far.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    count: u32,
    sent: Sent,
    refused_unexecuted: bool,
    key_version: Option<Arc<str>>,
    upstream: Duration,
    budget: Duration,
}

impl Attempts {
    /// A substitute while a task has the attempts: whether the request was sent is unknown here.
    pub(crate) fn elsewhere() -> Self {
        Attempts { sent: Sent::Unknown, ..Attempts::default() }
    }

    /// Counts an attempt that begins with a pair of this version. A failed connection is an attempt too.
    pub(crate) fn begin(&mut self, key_version: Arc<str>) {
        self.count += 1;
        self.key_version = Some(key_version);
    }

    /// The first byte of the request may leave from now on. `sent` is at least `unknown` once the guard is dropped,
    /// also when the future that holds it is.
    pub(crate) fn sending(&mut self) -> Sending<'_> {
        Sending(self)
    }

    /// Fastrac has responded in a way that shows what became of the request.
    pub(crate) fn answered(&mut self) {
        self.grow(Sent::Yes);
    }

    /// A panic ended the attempts somewhere: they may have gone further than this record says.
    pub(crate) fn lost(&mut self) {
        self.grow(Sent::Unknown);
    }

    /// Fastrac refused the key pair of the last attempt before it executed anything, and another attempt follows.
    /// Not [`Attempts::answered`]: the next attempt decides what became of the request.
    pub(crate) fn refused_unexecuted(&mut self) {
        self.refused_unexecuted = true;
    }

    /// Adds time spent waiting for Fastrac.
    pub(crate) fn waited_for_upstream(&mut self, time: Duration) {
        self.upstream += time;
    }

    /// Adds time spent waiting for the account's budget.
    pub(crate) fn waited_for_budget(&mut self, time: Duration) {
        self.budget += time;
    }

    /// Number of attempts, connections that failed included.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether Fastrac may have received the request.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Whether it is certain that Fastrac has executed nothing: the request was never sent, or each attempt that was
    /// sent was refused because of its key.
    pub(crate) fn nothing_executed(&self) -> bool {
        self.sent == Sent::No || self.refused_unexecuted
    }

    /// Version of the pair of the last attempt.
    pub fn key_version(&self) -> Option<&Arc<str>> {
        self.key_version.as_ref()
    }

    /// Time spent waiting for Fastrac.
    pub fn upstream(&self) -> Duration {
        self.upstream
    }

    /// Time spent waiting for the account's budget.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    fn grow(&mut self, sent: Sent) {
        self.sent = self.sent.max(sent);
    }
}

/// A request whose bytes may be leaving.
#[must_use = "dropping it means that the request may have been sent"]
pub(crate) struct Sending<'a>(&'a mut Attempts);

impl Sending<'_> {
    /// The request came back from the connection and not one byte of it was written.
    pub(crate) fn handed_back(self) {
        std::mem::forget(self);
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.refused_unexecuted = false;
        self.0.grow(Sent::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Begin,
        Sent,
        HandedBack,
        Answered,
        RefusedUnexecuted,
        Lost,
    }

    fn apply(attempts: &mut Attempts, event: Event) {
        match event {
            Event::Begin => attempts.begin("v1".into()),
            Event::Sent => drop(attempts.sending()),
            Event::HandedBack => attempts.sending().handed_back(),
            Event::Answered => attempts.answered(),
            Event::RefusedUnexecuted => attempts.refused_unexecuted(),
            Event::Lost => attempts.lost(),
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        use Event::*;
        prop::sample::select(vec![Begin, Sent, HandedBack, Answered, RefusedUnexecuted, Lost])
    }

    proptest! {
        #[test]
        fn sent_only_grows(events in prop::collection::vec(event(), 0..12)) {
            let mut attempts = Attempts::default();
            for event in events {
                let before = attempts.sent();
                apply(&mut attempts, event);
                prop_assert!(attempts.sent() >= before, "{event:?}");
                prop_assert!(!matches!(event, Event::Sent) || attempts.sent() != Sent::No);
                prop_assert!(!matches!(event, Event::Sent) || !attempts.nothing_executed());
            }
        }
    }

    #[test]
    fn a_request_that_was_handed_back_was_not_sent() {
        let mut attempts = Attempts::default();
        attempts.begin("v1".into());
        attempts.sending().handed_back();
        assert_eq!((attempts.sent(), attempts.count()), (Sent::No, 1));
        drop(attempts.sending());
        assert_eq!(attempts.sent(), Sent::Unknown);
    }

    #[test]
    fn a_second_attempt_after_a_refused_key_may_be_executed() {
        let mut attempts = Attempts::default();
        drop(attempts.sending());
        attempts.refused_unexecuted();
        assert!(attempts.nothing_executed());
        attempts.begin("v2".into());
        assert!(attempts.nothing_executed(), "it has not been sent yet");
        drop(attempts.sending());
        assert_eq!((attempts.nothing_executed(), attempts.sent()), (false, Sent::Unknown));
    }
}
