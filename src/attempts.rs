//! The attempts to send one request to Fastrac: how many, with which key pair, how long they took, and whether Fastrac
//! may have received the request.
//!
//! [`Attempts`] is the only record of whether a request was sent. What always holds: [`Sent`] only grows
//! (`no`, `unknown`, `yes`), except that a request whose bytes may be leaving counts as `unknown` until it is handed back
//! unsent; the fields are private and no method lowers it. Replies, refusals, the exchange log and
//! the order journal read it. Must not know connections, headers, or what a response means. Never fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::outcome::Sent;

/// The attempts of one request so far. Clones share them: whoever waits for a task can read how far it has come.
#[derive(Clone, Debug, Default)]
pub struct Attempts(Arc<SharedAttempts>);

#[derive(Debug, Default)]
struct SharedAttempts {
    /// What is asked most often, without the lock; changed while it is held.
    progress: AtomicU32,
    state: Mutex<AttemptsState>,
}

impl SharedAttempts {
    /// Locks for one change, never across an `.await`.
    fn change<T>(&self, change: impl FnOnce(&mut AttemptsState) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        self.progress.store(Progress { count: state.count, sent: state.sent() }.pack(), Ordering::Release);
        changed
    }

    fn progress(&self) -> Progress {
        Progress::unpack(self.progress.load(Ordering::Acquire))
    }
}

/// How far the attempts have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    count: u32,
    sent: Sent,
}

impl Progress {
    fn pack(self) -> u32 {
        self.count << 2 | self.sent as u32
    }

    fn unpack(packed: u32) -> Self {
        let sent = match packed & 3 {
            0 => Sent::No,
            1 => Sent::Unknown,
            _ => Sent::Yes,
        };
        Progress { count: packed >> 2, sent }
    }
}

#[derive(Debug, Default)]
struct AttemptsState {
    count: u32,
    sent: Sent,
    /// Bytes of a request may be leaving now.
    sending: bool,
    refused_unexecuted: bool,
    key_version: Option<Arc<str>>,
    status: Option<u16>,
    times: AttemptTimes,
    logged: Option<Logged>,
}

/// How long the attempts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptTimes {
    /// Spent waiting for Fastrac.
    pub(crate) upstream: Duration,
    /// Spent waiting for the account's budget.
    pub(crate) budget: Duration,
    /// Spent waiting between two attempts: the pause, and until another key pair or a verdict was there.
    pub(crate) between: Duration,
}

impl AttemptTimes {
    fn total(self) -> Duration {
        self.upstream + self.budget + self.between
    }
}

/// What lines of the exchange log have of the attempts.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    count: u32,
    times: AttemptTimes,
}

/// The attempts that belong into one line of the exchange log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LoggedAttempts {
    pub(crate) count: u32,
    pub(crate) times: AttemptTimes,
    /// Version of the pair of the last attempt.
    pub(crate) key_version: Option<Arc<str>>,
}

impl Attempts {
    /// Counts an attempt that begins with a pair of this version. A failed connection is an attempt too.
    pub(crate) fn begin(&self, key_version: Arc<str>) {
        self.0.change(|state| {
            state.count += 1;
            state.key_version = Some(key_version);
        });
    }

    /// The first byte of the request may leave from now on: `sent` is at least `unknown`, and stays so unless the request
    /// is handed back.
    pub(crate) fn sending(&self) -> Sending<'_> {
        self.0.change(|state| state.sending = true);
        Sending(self)
    }

    /// Fastrac has responded in a way that shows what became of the request.
    pub(crate) fn answered(&self) {
        if self.sent() < Sent::Yes {
            self.0.change(|state| state.sent = Sent::Yes);
        }
    }

    /// Fastrac refused the key pair of the last attempt before it executed anything. Not [`Attempts::answered`]: another
    /// attempt may follow, and then decides what became of the request.
    pub(crate) fn refused_unexecuted(&self) {
        self.0.change(|state| state.refused_unexecuted = true);
    }

    /// No other attempt follows one whose key pair was refused: the refusal is what became of the request.
    pub(crate) fn ended(&self) {
        self.0.change(|state| {
            if state.refused_unexecuted {
                state.sent = Sent::Yes;
            }
        });
    }

    /// The last attempt is over, after this wait for Fastrac; with the status of its response, if there was one.
    pub(crate) fn responded(&self, time: Duration, status: Option<u16>) {
        self.0.change(|state| {
            state.times.upstream += time;
            state.status = status;
        });
    }

    /// Status of Fastrac's response to the last attempt.
    pub(crate) fn status(&self) -> Option<u16> {
        self.0.state.lock().status
    }

    /// Adds time spent waiting for Fastrac.
    pub(crate) fn waited_for_upstream(&self, time: Duration) {
        self.0.change(|state| state.times.upstream += time);
    }

    /// Adds time spent waiting for the account's budget.
    pub(crate) fn waited_for_budget(&self, time: Duration) {
        if !time.is_zero() {
            self.0.change(|state| state.times.budget += time);
        }
    }

    /// Adds time spent waiting between two attempts.
    pub(crate) fn waited_between(&self, time: Duration) {
        self.0.change(|state| state.times.between += time);
    }

    /// All time that was spent waiting.
    pub(crate) fn waited(&self) -> Duration {
        self.0.state.lock().times.total()
    }

    /// Takes the attempts for a line of the exchange log: those that no line has yet, so that each is in exactly one.
    pub(crate) fn take_for_line(&self) -> LoggedAttempts {
        let mut state = self.0.state.lock();
        let (count, times, key_version) = (state.count, state.times, state.key_version.clone());
        let before = state.logged.replace(Logged { count, times }).unwrap_or_default();
        let since = |now: Duration, before: Duration| now.saturating_sub(before);
        let times = AttemptTimes {
            upstream: since(times.upstream, before.times.upstream),
            budget: since(times.budget, before.times.budget),
            between: since(times.between, before.times.between),
        };
        LoggedAttempts { count: count - before.count, times, key_version }
    }

    /// How long the attempts took that no line has although one was written; `None`: there are none.
    pub(crate) fn unlogged(&self) -> Option<Duration> {
        let state = self.0.state.lock();
        let logged = state.logged.filter(|logged| state.count > logged.count)?;
        Some(state.times.total().saturating_sub(logged.times.total()))
    }

    /// Number of attempts, connections that failed included.
    pub fn count(&self) -> u32 {
        self.0.progress().count
    }

    /// Whether Fastrac may have received the request.
    pub fn sent(&self) -> Sent {
        self.0.progress().sent
    }

    /// Whether it is certain that Fastrac has executed nothing: the request was never sent, or each attempt that was
    /// sent was refused because of its key.
    pub(crate) fn nothing_executed(&self) -> bool {
        let state = self.0.state.lock();
        state.sent() == Sent::No || state.refused_unexecuted
    }
}

impl AttemptsState {
    fn sent(&self) -> Sent {
        if self.sending { self.sent.max(Sent::Unknown) } else { self.sent }
    }
}

/// A request whose bytes may be leaving.
#[must_use = "dropping it means that the request may have been sent"]
pub(crate) struct Sending<'a>(&'a Attempts);

impl Sending<'_> {
    /// The request came back from the connection and not one byte of it was written.
    pub(crate) fn handed_back(self) {
        self.0.0.change(|state| state.sending = false);
        std::mem::forget(self);
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.0.change(|state| {
            state.refused_unexecuted = false;
            state.sent = state.sent.max(Sent::Unknown);
            state.sending = false;
        });
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
        Ended,
    }

    fn apply(attempts: &Attempts, event: Event) {
        match event {
            Event::Begin => attempts.begin("v1".into()),
            Event::Sent => drop(attempts.sending()),
            Event::HandedBack => attempts.sending().handed_back(),
            Event::Answered => attempts.answered(),
            Event::RefusedUnexecuted => attempts.refused_unexecuted(),
            Event::Ended => attempts.ended(),
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        use Event::*;
        prop::sample::select(vec![Begin, Sent, HandedBack, Answered, RefusedUnexecuted, Ended])
    }

    proptest! {
        #[test]
        fn sent_only_grows(events in prop::collection::vec(event(), 0..12)) {
            let attempts = Attempts::default();
            for event in events {
                let before = attempts.sent();
                apply(&attempts, event);
                prop_assert!(attempts.sent() >= before, "{event:?}");
                let state = attempts.0.state.lock();
                prop_assert_eq!(attempts.0.progress(), Progress { count: state.count, sent: state.sent() });
                drop(state);
                prop_assert!(!matches!(event, Event::Sent) || attempts.sent() != Sent::No);
                prop_assert!(!matches!(event, Event::Sent) || !attempts.nothing_executed());
            }
        }
    }

    #[test]
    fn each_attempt_is_in_one_line() {
        let (attempts, second) = (Attempts::default(), Duration::from_secs(1));
        let begin = || {
            attempts.begin("v1".into());
            attempts.waited_for_upstream(second);
        };
        begin();
        begin();
        assert_eq!(attempts.unlogged(), None, "no line is written");
        let line = attempts.take_for_line();
        assert_eq!((line.count, line.times.upstream, line.key_version.as_deref()), (2, 2 * second, Some("v1")));
        assert_eq!(attempts.unlogged(), None);
        begin();
        attempts.waited_for_budget(3 * second);
        assert_eq!(attempts.clone().unlogged(), Some(4 * second));
        let rest = attempts.take_for_line();
        let times = AttemptTimes { upstream: second, budget: 3 * second, between: Duration::ZERO };
        assert_eq!((rest.count, rest.times), (1, times));
        assert_eq!((attempts.unlogged(), attempts.count()), (None, 3));
    }

    #[test]
    fn a_request_that_was_handed_back_was_not_sent() {
        let attempts = Attempts::default();
        attempts.begin("v1".into());
        let sending = attempts.sending();
        assert_eq!(attempts.clone().sent(), Sent::Unknown, "for whoever looks while its bytes may be leaving");
        sending.handed_back();
        assert_eq!((attempts.sent(), attempts.count()), (Sent::No, 1));
        drop(attempts.sending());
        assert_eq!(attempts.sent(), Sent::Unknown);
    }

    #[test]
    fn a_second_attempt_after_a_refused_key_may_be_executed() {
        let attempts = Attempts::default();
        drop(attempts.sending());
        attempts.refused_unexecuted();
        assert!(attempts.nothing_executed());
        attempts.begin("v2".into());
        assert!(attempts.nothing_executed(), "it has not been sent yet");
        drop(attempts.sending());
        assert_eq!((attempts.nothing_executed(), attempts.sent()), (false, Sent::Unknown));
    }
}
