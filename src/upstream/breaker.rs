//! Circuit breaker of calls of one class of an account: stops them while Fastrac is failing.
//!
//! Closed, it counts calls in a rolling window. When the window holds at least `minimum` calls and the fraction of
//! failures reaches `failures`, or that of failures and slow calls `slow.part`, it opens for `open`. Then it is
//! half-open: at most `probes` requests are let through; as many successes close it, one failure (or slow call) opens it
//! again. A request that its caller may end before it has shown anything leaves one probe to others, so that impatient
//! callers do not delay the recovery. A [`BreakerPermit`] that is dropped without a report counts for nothing and frees
//! its probe; a report from an earlier epoch (before the last change of state) counts for nothing. Every change of state
//! is counted and logged. A breaker belongs to the addresses of its account: for others there is another one
//! ([`Breaker::elsewhere`]), and what becomes of the earlier one, which late requests still use, is neither counted nor
//! logged. What is a failure is decided by the table of outcomes. It must not know requests. Fails with [`BreakerOpen`].

mod changes;
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use strum::{EnumCount, IntoStaticStr, VariantArray};
use tokio::time::Instant;

use crate::{
    config::{self, Class},
    outcome::Evidence,
    retry_after::whole_seconds,
};
use changes::StateChanges;
use window::{Calls, Window};

/// The epoch of a permit that has been reported.
const REPORTED: u64 = u64::MAX;

/// A breaker of one class of an account.
#[derive(Debug)]
pub struct Breaker {
    shared: Arc<BreakerCore>,
}

/// What a breaker shares with its permits.
#[derive(Debug)]
struct BreakerCore {
    /// Shared with the breakers of the same calls at other addresses of the account.
    changes: Arc<StateChanges>,
    /// Counts changes of state: even while closed, odd otherwise. Makes `admit` a single load while
    /// closed.
    epoch: AtomicU64,
    /// Failures since the last success.
    failures_in_a_row: AtomicU32,
    locked: Mutex<Locked>,
}

#[derive(Debug)]
struct Locked {
    rules: config::BreakerConfig,
    circuit: Circuit,
    window: Window,
    /// The account is not called at its address any more: changes of state are neither counted nor logged.
    is_left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Circuit {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        /// Probes under way.
        probing: u32,
        successes: u32,
    },
}

/// What a call showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallEnd {
    Good,
    Slow,
    Failed,
}

/// State of a breaker, as `/status`, `/readyz` and `breaker_state` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

impl State {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The circuit is open, or half-open with all its probes under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakerOpen {
    /// Nothing of this class is sent before `retry_after` is over.
    #[error(
        "Circuit breaker open: Fastrac is failing ({} requests); try again in {} s",
        class.as_str(), retry_after.as_secs()
    )]
    Open {
        class: Class,
        /// Whole seconds, at least 1.
        retry_after: Duration,
    },
    #[error(
        "Circuit breaker half-open: other {} requests are testing whether Fastrac has recovered; try again in {} s",
        class.as_str(), PROBING.as_secs()
    )]
    Probing { class: Class },
}

/// How long a request is told to wait while all probes are under way: each may end at any time.
const PROBING: Duration = Duration::from_secs(1);

impl BreakerOpen {
    /// When it will be tried again: whole seconds, at least 1.
    pub fn retry_after(self) -> Duration {
        match self {
            BreakerOpen::Open { retry_after, .. } => retry_after,
            BreakerOpen::Probing { .. } => PROBING,
        }
    }
}

/// Permission to send one request. Counts for nothing if it is dropped without a report.
#[derive(Debug)]
#[must_use = "report what became of the request"]
pub struct BreakerPermit {
    shared: Arc<BreakerCore>,
    epoch: u64,
}

impl Breaker {
    /// A closed breaker; the names are for the log.
    pub(super) fn new(account: &str, class: Class, rules: &config::BreakerConfig) -> Self {
        Breaker::named("circuit breaker", account, class, rules)
    }

    pub(super) fn named(name: &'static str, account: &str, class: Class, rules: &config::BreakerConfig) -> Self {
        Breaker::closed(Arc::new(StateChanges::new(name, account, class)), rules)
    }

    /// A closed breaker of the same calls at other addresses of the account.
    pub(super) fn elsewhere(&self, rules: &config::BreakerConfig) -> Self {
        Breaker::closed(self.shared.changes.clone(), rules)
    }

    fn closed(changes: Arc<StateChanges>, rules: &config::BreakerConfig) -> Self {
        let locked = Locked {
            rules: rules.clone(),
            circuit: Circuit::Closed,
            window: Window::new(Instant::now()),
            is_left: false,
        };
        let (epoch, failures_in_a_row) = (AtomicU64::new(0), AtomicU32::new(0));
        Breaker { shared: Arc::new(BreakerCore { changes, epoch, failures_in_a_row, locked: Mutex::new(locked) }) }
    }

    pub fn class(&self) -> Class {
        self.shared.changes.class
    }

    /// Takes new rules and keeps the state; what was counted is kept unless the window's length changes.
    pub fn reconfigure(&self, rules: &config::BreakerConfig) {
        let mut locked = self.shared.locked.lock();
        if locked.rules.window != rules.window {
            locked.window = Window::new(Instant::now());
        }
        locked.rules = rules.clone();
    }

    /// Whether a request would be permitted now. Takes no probe: a request that still has to wait for something else
    /// (a disk, the account's budget, a key pair) must hold none meanwhile.
    ///
    /// # Errors
    /// As [`Breaker::admit`].
    pub fn check(&self, conclusive: bool) -> Result<(), BreakerOpen> {
        if is_closed(self.shared.epoch.load(Ordering::Acquire)) {
            return Ok(());
        }
        self.shared.admits(&mut self.shared.locked.lock(), conclusive)
    }

    /// Permits one request, which is to be sent at once. `conclusive`: it ends with what Fastrac did, and not with its
    /// caller's patience.
    ///
    /// # Errors
    /// [`BreakerOpen`] while the circuit is open, or while all probes are under way.
    pub fn admit(&self, conclusive: bool) -> Result<BreakerPermit, BreakerOpen> {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if is_closed(epoch) {
            return Ok(BreakerPermit { shared: self.shared.clone(), epoch });
        }
        let mut locked = self.shared.locked.lock();
        self.shared.admits(&mut locked, conclusive)?;
        if let Circuit::HalfOpen { probing, .. } = &mut locked.circuit {
            *probing += 1;
        }
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        Ok(BreakerPermit { shared: self.shared.clone(), epoch })
    }

    /// The account is not called at the breaker's address any more. Its state stays, for requests that still are, but
    /// reports that it is closed.
    pub(super) fn leave(&self) {
        let mut locked = self.shared.locked.lock();
        locked.is_left = true;
        if locked.circuit != Circuit::Closed {
            self.shared.changes.left();
        }
    }

    /// Failures since the last success, for health; 0 while Fastrac is healthy.
    pub fn failures_in_a_row(&self) -> u32 {
        self.shared.failures_in_a_row.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> State {
        let mut locked = self.shared.locked.lock();
        self.shared.expire(&mut locked);
        match locked.circuit {
            Circuit::Closed => State::Closed,
            Circuit::Open { .. } => State::Open,
            Circuit::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// How often it has entered a state.
    pub fn transitions(&self, state: State) -> u64 {
        self.shared.changes.count(state)
    }

    /// While it is open: until it is half-open. Zero in any other state.
    pub fn open_for(&self) -> Duration {
        match self.shared.locked.lock().circuit {
            Circuit::Open { until } => until.saturating_duration_since(Instant::now()),
            Circuit::Closed | Circuit::HalfOpen { .. } => Duration::ZERO,
        }
    }
}

impl BreakerPermit {
    /// Reports what the request showed about Fastrac, `took` after it was sent.
    pub fn report(self, evidence: Evidence, took: Duration) {
        match evidence {
            Evidence::Healthy => self.count(false, took),
            Evidence::Failing => self.count(true, took),
            Evidence::Nothing => {}
        }
    }

    /// Fastrac responded at once and is healthy.
    pub fn success(self) {
        self.count(false, Duration::ZERO);
    }

    /// Fastrac failed.
    pub fn failure(self) {
        self.count(true, Duration::ZERO);
    }

    fn count(mut self, failed: bool, took: Duration) {
        // In any epoch: it says how Fastrac is doing now.
        if failed {
            self.shared.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else if self.shared.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.shared.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        let mut locked = self.shared.locked.lock();
        let slow = locked.rules.slow.is_some_and(|slow| took > slow.after);
        let end = if failed { CallEnd::Failed } else { [CallEnd::Good, CallEnd::Slow][usize::from(slow)] };
        self.shared.end_permit(&mut locked, self.epoch, Some(end));
        drop(locked);
        // The drop must not free the probe a second time.
        self.epoch = REPORTED;
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        // A permit of a closed circuit holds no probe.
        if self.epoch != REPORTED && !is_closed(self.epoch) {
            self.shared.end_permit(&mut self.shared.locked.lock(), self.epoch, None);
        }
    }
}

impl BreakerCore {
    /// Whether the circuit lets another request through.
    fn admits(&self, locked: &mut Locked, conclusive: bool) -> Result<(), BreakerOpen> {
        self.expire(locked);
        let (class, probes) = (self.changes.class, locked.rules.probes.saturating_sub(u32::from(!conclusive)).max(1));
        match locked.circuit {
            Circuit::Open { until } => Err(BreakerOpen::Open {
                class,
                retry_after: whole_seconds(until.saturating_duration_since(Instant::now())),
            }),
            Circuit::HalfOpen { probing, successes } if probing + successes >= probes => {
                Err(BreakerOpen::Probing { class })
            }
            Circuit::HalfOpen { .. } | Circuit::Closed => Ok(()),
        }
    }

    /// Ends the time for which the circuit is open.
    fn expire(&self, locked: &mut Locked) {
        if matches!(locked.circuit, Circuit::Open { until } if Instant::now() >= until) {
            locked.circuit = Circuit::HalfOpen { probing: 0, successes: 0 };
            self.begin_epoch(State::HalfOpen);
            if !locked.is_left {
                self.changes.half_opened(locked.rules.probes);
            }
        }
    }

    /// Counts a permit's report, `None` if it had none.
    fn end_permit(&self, locked: &mut Locked, epoch: u64, end: Option<CallEnd>) {
        if epoch != self.epoch.load(Ordering::Acquire) {
            return;
        }
        match (locked.circuit, end) {
            (Circuit::Closed, Some(end)) => {
                let calls = Calls {
                    total: 1,
                    failed: u32::from(end == CallEnd::Failed),
                    slow: u32::from(end == CallEnd::Slow),
                };
                let calls = locked.window.add(calls, locked.rules.window, Instant::now());
                if end != CallEnd::Good && locked.are_too_bad(calls) {
                    self.open(locked, calls);
                }
            }
            (Circuit::HalfOpen { .. }, Some(CallEnd::Failed)) => {
                self.open(locked, Calls { total: 1, failed: 1, slow: 0 });
            }
            (Circuit::HalfOpen { .. }, Some(CallEnd::Slow)) => {
                self.open(locked, Calls { total: 1, failed: 0, slow: 1 });
            }
            (Circuit::HalfOpen { probing, successes }, end) => {
                let successes = successes + u32::from(end.is_some());
                locked.circuit = Circuit::HalfOpen { probing: probing.saturating_sub(1), successes };
                if successes >= locked.rules.probes.max(1) {
                    self.close(locked);
                }
            }
            (Circuit::Closed, None) | (Circuit::Open { .. }, _) => {}
        }
    }

    fn open(&self, locked: &mut Locked, because: Calls) {
        let open = locked.rules.open;
        locked.circuit = Circuit::Open { until: Instant::now() + open };
        self.begin_epoch(State::Open);
        if !locked.is_left {
            self.changes.opened(open, because);
        }
    }

    fn close(&self, locked: &mut Locked) {
        (locked.circuit, locked.window) = (Circuit::Closed, Window::new(Instant::now()));
        self.begin_epoch(State::Closed);
        if !locked.is_left {
            self.changes.recovered();
        }
    }

    /// Reports of earlier epochs count for nothing from now on. Called with the lock held.
    fn begin_epoch(&self, state: State) {
        let epoch = self.epoch.load(Ordering::Acquire);
        let next = if is_closed(epoch) == (state == State::Closed) { epoch + 2 } else { epoch + 1 };
        self.epoch.store(next, Ordering::Release);
    }
}

fn is_closed(epoch: u64) -> bool {
    epoch.is_multiple_of(2)
}

impl Locked {
    /// Whether calls like these must open the circuit.
    fn are_too_bad(&self, calls: Calls) -> bool {
        let Calls { total, failed, slow } = calls;
        let reaches = |calls: u32, part: f64| f64::from(calls) >= part * f64::from(total);
        let too_slow = |rule: config::SlowCallsConfig| reaches(failed.saturating_add(slow), rule.part);
        total >= self.rules.minimum && (reaches(failed, self.rules.failures) || self.rules.slow.is_some_and(too_slow))
    }
}

#[cfg(test)]
mod tests;
