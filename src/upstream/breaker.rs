//! Circuit breaker of an account: stops requests while Fastrac is failing.
//!
//! Closed, it counts successes and failures in a rolling window. When the window holds at least `minimum` reports and
//! the fraction of failures reaches `failures`, it opens for `open`. Then it is half-open: at most `probes` requests are
//! let through; as many successes close it, one failure opens it again. A request that its caller may end before it has
//! shown anything leaves one probe to others, so that impatient callers do not delay the recovery. A [`BreakerPermit`]
//! that is dropped without a report counts for nothing and frees its probe; a report from an earlier epoch (before the
//! last change of state) counts for nothing. What is a failure is decided by the table of outcomes. It must not know
//! requests. Fails with [`BreakerOpen`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use strum::{IntoStaticStr, VariantArray};
use tokio::time::Instant;

use crate::{config, outcome::Evidence, retry_after::whole_seconds};

/// Parts of the window. The oldest part is forgotten at once, so the window is exact to a tenth.
const PARTS: usize = 10;

/// The epoch of a permit that has been reported.
const REPORTED: u64 = u64::MAX;

/// One account's breaker.
#[derive(Debug)]
pub struct Breaker {
    shared: Arc<BreakerCore>,
}

/// What a breaker shares with its permits.
#[derive(Debug)]
struct BreakerCore {
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
    window: [WindowPart; PARTS],
    /// Number, since `start`, of the part that is being counted in.
    part: u64,
    start: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct WindowPart {
    successes: u32,
    failures: u32,
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

/// State of a breaker, as `/status`, `/readyz` and `breaker_state` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
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
#[error("circuit breaker open: Fastrac is failing")]
pub struct BreakerOpen {
    /// Whole seconds, at least 1.
    pub retry_after: Duration,
}

/// Permission to send one request. Counts for nothing if it is dropped without a report.
#[derive(Debug)]
#[must_use = "report what became of the request"]
pub struct BreakerPermit {
    shared: Arc<BreakerCore>,
    epoch: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(rules: &config::BreakerConfig) -> Self {
        let locked = Locked {
            rules: rules.clone(),
            circuit: Circuit::Closed,
            window: Default::default(),
            part: 0,
            start: Instant::now(),
        };
        let shared =
            BreakerCore { epoch: AtomicU64::new(0), failures_in_a_row: AtomicU32::new(0), locked: Mutex::new(locked) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes new rules and keeps the state; what was counted is kept unless the window's length changes.
    pub fn reconfigure(&self, rules: &config::BreakerConfig) {
        let mut locked = self.shared.locked.lock();
        if locked.rules.window != rules.window {
            locked.clear(Instant::now());
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
        self.shared.locked.lock().admits(conclusive, Instant::now())
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
        locked.admits(conclusive, Instant::now())?;
        match &mut locked.circuit {
            Circuit::Open { .. } => {
                locked.circuit = Circuit::HalfOpen { probing: 1, successes: 0 };
                self.shared.begin_epoch(false);
            }
            Circuit::HalfOpen { probing, .. } => *probing += 1,
            Circuit::Closed => {}
        }
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        Ok(BreakerPermit { shared: self.shared.clone(), epoch })
    }

    /// Failures since the last success, for health; 0 while Fastrac is healthy.
    pub fn failures_in_a_row(&self) -> u32 {
        self.shared.failures_in_a_row.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> State {
        match self.shared.locked.lock().circuit {
            Circuit::Closed => State::Closed,
            Circuit::Open { until } if Instant::now() < until => State::Open,
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

impl BreakerPermit {
    /// Reports what the request showed about Fastrac.
    pub fn report(self, evidence: Evidence) {
        match evidence {
            Evidence::Healthy => self.success(),
            Evidence::Failing => self.failure(),
            Evidence::Nothing => {}
        }
    }

    /// Fastrac responded and is healthy, whatever it said.
    pub fn success(self) {
        self.count(true);
    }

    /// Fastrac failed.
    pub fn failure(self) {
        self.count(false);
    }

    fn count(mut self, success: bool) {
        // In any epoch: it says how Fastrac is doing now.
        if !success {
            self.shared.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else if self.shared.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.shared.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        self.shared.end_permit(self.epoch, Some(success));
        // The drop must not free the probe a second time.
        self.epoch = REPORTED;
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        // A permit of a closed circuit holds no probe.
        if self.epoch != REPORTED && !is_closed(self.epoch) {
            self.shared.end_permit(self.epoch, None);
        }
    }
}

impl BreakerCore {
    /// Counts a permit's report, `None` if it had none.
    fn end_permit(&self, epoch: u64, success: Option<bool>) {
        let mut locked = self.locked.lock();
        if epoch != self.epoch.load(Ordering::Acquire) {
            return;
        }
        let now = Instant::now();
        match (locked.circuit, success) {
            (Circuit::Closed, Some(success)) => {
                let opens = locked.count(success, now);
                if opens {
                    self.open(&mut locked, now);
                }
            }
            (Circuit::HalfOpen { .. }, Some(false)) => self.open(&mut locked, now),
            (Circuit::HalfOpen { probing, successes }, success) => {
                let successes = successes + u32::from(success.is_some());
                locked.circuit = Circuit::HalfOpen { probing: probing.saturating_sub(1), successes };
                if successes >= locked.rules.probes.max(1) {
                    locked.circuit = Circuit::Closed;
                    locked.clear(now);
                    self.begin_epoch(true);
                }
            }
            _ => {}
        }
    }

    fn open(&self, locked: &mut Locked, now: Instant) {
        locked.circuit = Circuit::Open { until: now + locked.rules.open };
        self.begin_epoch(false);
    }

    /// Reports of earlier epochs count for nothing from now on. Called with the lock held.
    fn begin_epoch(&self, closed: bool) {
        let epoch = self.epoch.load(Ordering::Acquire);
        let next = if is_closed(epoch) == closed { epoch + 2 } else { epoch + 1 };
        self.epoch.store(next, Ordering::Release);
    }
}

fn is_closed(epoch: u64) -> bool {
    epoch.is_multiple_of(2)
}

impl Locked {
    /// Whether the circuit, which may be closed, lets another request through.
    fn admits(&self, conclusive: bool, now: Instant) -> Result<(), BreakerOpen> {
        let probes = self.rules.probes.saturating_sub(u32::from(!conclusive)).max(1);
        match self.circuit {
            Circuit::Open { until } if now < until => Err(BreakerOpen { retry_after: whole_seconds(until - now) }),
            Circuit::HalfOpen { probing, successes } if probing + successes >= probes => {
                Err(BreakerOpen { retry_after: whole_seconds(Duration::ZERO) })
            }
            _ => Ok(()),
        }
    }

    fn clear(&mut self, now: Instant) {
        (self.window, self.part, self.start) = (Default::default(), 0, now);
    }

    /// Counts one report; whether the circuit must open.
    fn count(&mut self, success: bool, now: Instant) -> bool {
        let length = (self.rules.window / PARTS as u32).max(Duration::from_millis(1));
        let part = ((now - self.start).as_nanos() / length.as_nanos()) as u64;
        for expired in (self.part + 1..=part).take(PARTS) {
            self.window[(expired % PARTS as u64) as usize] = WindowPart::default();
        }
        self.part = part.max(self.part);
        let current = &mut self.window[(self.part % PARTS as u64) as usize];
        if success {
            current.successes = current.successes.saturating_add(1);
            return false;
        }
        current.failures = current.failures.saturating_add(1);
        let sum = |of: fn(&WindowPart) -> u32| self.window.iter().map(|part| u64::from(of(part))).sum::<u64>();
        let (successes, failures) = (sum(|part| part.successes), sum(|part| part.failures));
        let total = successes + failures;
        total >= u64::from(self.rules.minimum) && failures as f64 >= self.rules.failures * total as f64
    }
}

#[cfg(test)]
mod tests;
