//! The attempts to send one request to Fastrac: how many, with which key pair, how long they took, and whether Fastrac
//! may have received the request.
//!
//! [`Attempts`] is the only record of whether a request was sent. What always holds: [`Sent`] only grows
//! (`no`, `unknown`, `yes`), except that a request whose bytes may be leaving counts as `unknown` until it is handed back
//! unsent; the fields are private and no method lowers it. Each attempt, and each moment of a wait, is in one line of the
//! exchange log: a wait that goes on when a line is taken is divided there. Replies, refusals, the exchange log and
//! the order journal read it. Must not know connections, headers, or what a response means. Never fails.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

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
    /// Bytes of the body of the response to what was sent last; `None`: there was no response.
    received: Option<u64>,
    times: AttemptTimes,
    /// The wait in progress, and from when on it is not in `times` yet.
    waiting: Option<(WaitFor, Instant)>,
    logged: Option<Logged>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    Upstream,
    /// The account's budget.
    Budget,
    /// The pause before another attempt, another key pair, or a verdict on one.
    NextAttempt,
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
    fn of(&mut self, wait: WaitFor) -> &mut Duration {
        match wait {
            WaitFor::Upstream => &mut self.upstream,
            WaitFor::Budget => &mut self.budget,
            WaitFor::NextAttempt => &mut self.between,
        }
    }
}

/// What lines of the exchange log have of the attempts.
#[derive(Clone, Copy, Debug)]
struct Logged {
    count: u32,
    /// When the last of these lines was taken. Its times are no longer in the state.
    at: Instant,
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

    /// So many bytes more of the body of the response to what was sent last have come; 0: its head.
    pub(crate) fn received(&self, bytes: usize) {
        let mut state = self.0.state.lock();
        state.received = Some(state.received.unwrap_or(0) + bytes as u64);
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

    /// The last attempt is over; with the status of its response, if there was one.
    pub(crate) fn responded(&self, status: Option<u16>) {
        self.0.state.lock().status = status;
    }

    /// Status of Fastrac's response to the last attempt.
    pub(crate) fn status(&self) -> Option<u16> {
        self.0.state.lock().status
    }

    /// The output of a future. While it is pending, also if it is dropped then, time counts as spent waiting for this. The
    /// future is pinned by the caller, as for [`crate::deadline::timed`].
    pub(crate) async fn wait<F: Future + Unpin>(&self, wait: WaitFor, mut future: F) -> F::Output {
        let mut waiting = None;
        poll_fn(|context| {
            let polled = Pin::new(&mut future).poll(context);
            if polled.is_pending() {
                waiting.get_or_insert_with(|| self.begin_wait(wait, Instant::now()));
            }
            polled
        })
        .await
    }

    /// Time counts as spent waiting for this from `began` until the guard is dropped. There is one wait at a time.
    pub(crate) fn begin_wait(&self, wait: WaitFor, began: Instant) -> CountedWait<'_> {
        self.0.state.lock().waiting = Some((wait, began));
        CountedWait(self)
    }

    /// Takes the attempts for a line of the exchange log whose time ends at `now`: those that no line has yet, and of the
    /// wait in progress what is over.
    pub(crate) fn take_for_line(&self, now: Instant) -> LoggedAttempts {
        let mut state = self.0.state.lock();
        state.count_wait(now);
        let (count, times, key_version) = (state.count, std::mem::take(&mut state.times), state.key_version.clone());
        let before = state.logged.replace(Logged { count, at: now }).map_or(0, |logged| logged.count);
        LoggedAttempts { count: count - before, times, key_version }
    }

    /// Bytes of the body of the response to what was sent last, as far as it has come; `None`: there was no response.
    pub(crate) fn response_bytes(&self) -> Option<u64> {
        self.0.state.lock().received
    }

    /// How long ago the last line was taken, if there are attempts that no line has; `None`: there are none, or no line was
    /// taken.
    pub(crate) fn unlogged(&self, now: Instant) -> Option<Duration> {
        let state = self.0.state.lock();
        let logged = state.logged.filter(|logged| state.count > logged.count)?;
        Some(now.saturating_duration_since(logged.at))
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

    /// Adds what is over of the wait in progress.
    fn count_wait(&mut self, now: Instant) {
        let Some((wait, since)) = &mut self.waiting else { return };
        *self.times.of(*wait) += now.saturating_duration_since(*since);
        *since = now;
    }
}

/// A wait in progress.
#[derive(Debug)]
#[must_use = "dropping it ends the wait"]
pub(crate) struct CountedWait<'a>(&'a Attempts);

impl Drop for CountedWait<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock();
        state.count_wait(Instant::now());
        state.waiting = None;
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
            (state.refused_unexecuted, state.received) = (false, None);
            state.sent = state.sent.max(Sent::Unknown);
            state.sending = false;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use proptest::prelude::*;
    use tokio::time::sleep;

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

    /// As for its status: what was not sent has no response.
    #[test]
    fn what_was_received_is_kept_until_another_attempt_is_sent() {
        let attempts = Attempts::default();
        let begin = || attempts.begin("v1".into());
        begin();
        drop(attempts.sending());
        attempts.received(0);
        attempts.received(10);
        begin();
        attempts.sending().handed_back();
        assert_eq!(attempts.response_bytes(), Some(10), "the second one had no connection");
        begin();
        drop(attempts.sending());
        assert_eq!(attempts.response_bytes(), None, "and the third no response");
    }

    #[tokio::test(start_paused = true)]
    async fn each_attempt_and_each_moment_of_a_wait_is_in_one_line() {
        let (attempts, second) = (Attempts::default(), Duration::from_secs(1));
        let waits = async |wait, seconds| attempts.wait(wait, Box::pin(sleep(seconds * second))).await;
        let take = || attempts.take_for_line(Instant::now());
        waits(WaitFor::Budget, 1).await;
        attempts.begin("v1".into());
        // The caller leaves in the middle.
        let attempt = waits(WaitFor::Upstream, 5);
        let caller = async {
            sleep(2 * second).await;
            assert_eq!(attempts.unlogged(Instant::now()), None, "no line is written");
            take()
        };
        let ((), line) = tokio::join!(attempt, caller);
        let times = AttemptTimes { upstream: 2 * second, budget: second, ..AttemptTimes::default() };
        assert_eq!((line.count, line.times, line.key_version.as_deref()), (1, times, Some("v1")));
        assert_eq!(attempts.unlogged(Instant::now()), None, "it was one attempt");
        waits(WaitFor::NextAttempt, 7).await;
        attempts.begin("v1".into());
        // Dropped while it waits.
        let left = tokio::time::timeout(second, waits(WaitFor::Upstream, 9)).await;
        assert!(left.is_err());
        assert_eq!(attempts.clone().unlogged(Instant::now()), Some(11 * second));
        let rest = take();
        let times = AttemptTimes { upstream: 4 * second, between: 7 * second, ..AttemptTimes::default() };
        assert_eq!((rest.count, rest.times), (1, times));
        assert_eq!((attempts.unlogged(Instant::now()), attempts.count()), (None, 2));
        attempts.wait(WaitFor::Budget, pin!(async {})).await;
        assert_eq!(take().times, AttemptTimes::default(), "it was ready at once");
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
