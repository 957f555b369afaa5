//! When the source is read: at its interval, when it reports a change, and when someone waits for it.
//!
//! One reading runs at a time. Whoever waits for a reading names the instant after which it must begin. Knows
//! neither source nor pairs. Never fails.

use std::time::Duration;

use tokio::time::Instant;

use crate::{backoff::Backoff, keys::just_after};

/// Interval between readings of a source that is being changed.
const POLL_CHANGING: Duration = Duration::from_millis(100);
/// Minimum time between readings that refused requests cause.
const REFRESH_FLOOR: Duration = Duration::from_millis(100);
/// How long a source may be changing before it counts as lost.
const CHANGING_AT_MOST: Duration = Duration::from_secs(10);
/// Minimum time between readings that reported changes cause.
const WATCH_FLOOR: Duration = Duration::from_millis(50);
/// First and maximum wait before a source that failed is read again; at most its own interval.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(1024);
/// The interval of a source that has none.
const NO_POLL: Duration = Duration::from_secs(3600);

pub(super) struct Readings {
    /// When the running reading began.
    running: Option<Instant>,
    poll_at: Instant,
    /// When the last reading began.
    began: Instant,
    /// Whether the source has reported a change since.
    change_reported: bool,
    /// Since when the source is being changed; `None`: it is not.
    changing_since: Option<Instant>,
    /// The waits after failed readings.
    retry: Backoff,
    /// The readings that someone waits for must begin after these instants.
    wanted: Wanted,
    /// When refused requests last caused a reading.
    refreshed: Option<Instant>,
}

/// After which instants readings must begin; `None`: none is waited for.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted {
    /// For refused requests.
    pub(super) refused: Option<Instant>,
    /// For operators, and before a lock-out.
    pub(super) urgent: Option<Instant>,
}

impl Readings {
    /// The first reading is due now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            running: None,
            poll_at: now,
            began: now,
            change_reported: false,
            changing_since: None,
            retry: Backoff::new(FIRST_WAIT, MAX_WAIT),
            wanted: Wanted::default(),
            refreshed: None,
        }
    }

    /// Another source: a reading of the present one no longer counts, and the first one is due now.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self { refreshed: self.refreshed, ..Self::new(now) };
    }

    /// Sets what is waited for now.
    pub(super) fn want(&mut self, wanted: Wanted) {
        // A reading that is running may be the one.
        let outstanding = |after: &Instant| self.running.is_none_or(|began| began <= *after);
        self.wanted = Wanted { refused: wanted.refused.filter(outstanding), urgent: wanted.urgent.filter(outstanding) };
    }

    /// When the next reading is due; `None`: one is running.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.running.is_some() {
            return None;
        }
        if self.changing_since.is_some() {
            return Some(self.poll_at);
        }
        let told = self.change_reported.then_some(self.began + WATCH_FLOOR);
        let floor = self.refreshed.map_or(self.began, |refreshed| refreshed + REFRESH_FLOOR);
        let refused = self.wanted.refused.map(|_| floor);
        let urgent = self.wanted.urgent.map(|_| self.began);
        [told, refused, urgent].into_iter().flatten().chain([self.poll_at]).min()
    }

    /// Whether a refused request waits for the reading that begins now.
    pub(super) fn is_refresh(&self) -> bool {
        self.wanted.refused.is_some()
    }

    pub(super) fn report_change(&mut self) {
        self.change_reported = true;
    }

    pub(super) fn awaits_change(&self) -> bool {
        !self.change_reported
    }

    /// A reading begins. Returns when: later than all that it is for, also if the clock has not moved.
    pub(super) fn begin(&mut self, poll: Option<Duration>, now: Instant) -> Instant {
        if self.is_refresh() {
            self.refreshed = Some(now);
        }
        let wanted = [self.wanted.refused, self.wanted.urgent].into_iter().flatten();
        let began = wanted.map(just_after).fold(now, Instant::max);
        (self.running, self.began, self.change_reported) = (Some(began), now, false);
        self.wanted = Wanted::default();
        self.poll_at = now + poll.unwrap_or(NO_POLL);
        began
    }

    /// The reading succeeded.
    pub(super) fn succeeded(&mut self) {
        (self.running, self.changing_since) = (None, None);
        self.retry.reset();
    }

    /// The reading failed; `changing`: because the source is being changed. Returns whether the source counts as lost.
    pub(super) fn failed(&mut self, changing: bool, now: Instant) -> bool {
        self.running = None;
        if changing {
            let since = *self.changing_since.get_or_insert(now);
            self.poll_at = now + POLL_CHANGING;
            return now >= since + CHANGING_AT_MOST;
        }
        self.changing_since = None;
        self.poll_at = self.poll_at.min(now + self.retry.next_jittered());
        true
    }

    /// The next reading does not wait because earlier ones failed.
    pub(super) fn forget_failures(&mut self) {
        self.retry.reset();
    }
}
