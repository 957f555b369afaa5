//! Whether Fastrac is well enough to be asked.
//!
//! Closed, it counts outcomes of a rolling window; when at least `minimum` of them are known and the
//! share of failures reaches `failures`, it opens for `open`. Then `probes` requests at a time are let
//! through: that many successes in a row close it, one failure opens it again. What always holds: an
//! [`BreakerPermit`] that is dropped without a report counts for nothing and frees its probe; a report from
//! before the last change of state counts for nothing. What a failure is, the caller says: no 4xx and
//! no `success:false` is one. It must not know requests. It fails with [`Open`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config;

/// Parts of the window: the oldest part is forgotten at once, so the window is exact to a tenth.
const PARTS: usize = 10;

/// One account's breaker, live.
#[derive(Debug)]
pub struct Breaker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Number of the present spell of being closed if even, else not closed. What makes `admit` one
    /// load while all is well.
    spell: AtomicU64,
    /// Failures in a row, up to now.
    failing: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: config::BreakerConfig,
    phase: Phase,
    parts: [Part; PARTS],
    /// Which part of all since `start` is written to.
    part: u64,
    start: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    good: u32,
    bad: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: u32, good: u32 },
}

/// What a breaker shows in `breaker_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of contract section 7")]
pub enum Standing {
    Closed,
    HalfOpen,
    Open,
}

impl Standing {
    /// Every state.
    pub const ALL: [Standing; 3] = [Standing::Closed, Standing::HalfOpen, Standing::Open];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Closed => "closed",
            Standing::HalfOpen => "half_open",
            Standing::Open => "open",
        }
    }
}

/// The account is given a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Fastrac has been failing; the account is given a rest")]
pub struct Open {
    /// Whole seconds, at least 1.
    pub retry_after: Duration,
}

/// Leave to send one request. Dropped without a report it counts for nothing.
#[derive(Debug)]
#[must_use = "report how it went"]
pub struct BreakerPermit {
    inner: Arc<Inner>,
    spell: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(rules: &config::BreakerConfig) -> Self {
        let state = State {
            rules: rules.clone(),
            phase: Phase::Closed,
            parts: Default::default(),
            part: 0,
            start: Instant::now(),
        };
        Self {
            inner: Arc::new(Inner { spell: AtomicU64::new(0), failing: AtomicU32::new(0), state: Mutex::new(state) }),
        }
    }

    /// Takes on new rules; what is known and the state stay.
    pub fn reconfigure(&self, rules: &config::BreakerConfig) {
        let mut state = self.inner.state.lock();
        if state.rules.window != rules.window {
            (state.parts, state.part, state.start) = (Default::default(), 0, Instant::now());
        }
        state.rules = rules.clone();
    }

    /// Asks for leave to send one request.
    ///
    /// # Errors
    /// [`Open`] while the account is given a rest, or while as many try it as may.
    pub fn admit(&self) -> Result<BreakerPermit, Open> {
        let spell = self.inner.spell.load(Ordering::Acquire);
        if is_closed(spell) {
            return Ok(BreakerPermit { inner: self.inner.clone(), spell });
        }
        let mut state = self.inner.state.lock();
        let now = Instant::now();
        let probes = state.rules.probes.max(1);
        match &mut state.phase {
            Phase::Open { until } if now < *until => {
                let rest = *until - now;
                return Err(Open { retry_after: ceil_seconds(rest) });
            }
            Phase::Open { .. } => {
                state.phase = Phase::HalfOpen { probing: 1, good: 0 };
                self.inner.begin_spell(false);
            }
            Phase::HalfOpen { probing, good } if *probing + *good < probes => *probing += 1,
            Phase::HalfOpen { .. } => return Err(Open { retry_after: Duration::from_secs(1) }),
            Phase::Closed => {}
        }
        let spell = self.inner.spell.load(Ordering::Acquire);
        Ok(BreakerPermit { inner: self.inner.clone(), spell })
    }

    /// Reports of failure since the last one of success, for health; 0 while all is well.
    pub fn failing(&self) -> u32 {
        self.inner.failing.load(Ordering::Relaxed)
    }

    /// The state that it is in.
    pub fn standing(&self) -> Standing {
        match self.inner.state.lock().phase {
            Phase::Closed => Standing::Closed,
            Phase::Open { until } if Instant::now() < until => Standing::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => Standing::HalfOpen,
        }
    }
}

impl BreakerPermit {
    /// Fastrac answered: whatever it said, it is well.
    pub fn success(self) {
        self.report(true);
    }

    /// Fastrac could not be reached, was late or cut off, or answered with a 5xx.
    pub fn failure(self) {
        self.report(false);
    }

    fn report(mut self, good: bool) {
        // Whatever the spell: how Fastrac did last is worth knowing.
        if !good {
            self.inner.failing.fetch_add(1, Ordering::Relaxed);
        } else if self.inner.failing.load(Ordering::Relaxed) != 0 {
            self.inner.failing.store(0, Ordering::Relaxed);
        }
        self.inner.report(self.spell, Some(good));
        // The drop must not free the probe a second time.
        self.spell = u64::MAX;
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        // While all is well there is nothing to free.
        if self.spell != u64::MAX && !is_closed(self.spell) {
            self.inner.report(self.spell, None);
        }
    }
}

impl Inner {
    fn report(&self, spell: u64, good: Option<bool>) {
        let mut state = self.state.lock();
        if spell != self.spell.load(Ordering::Acquire) {
            return;
        }
        let now = Instant::now();
        match (state.phase, good) {
            (Phase::Closed, Some(good)) => {
                let tripped = state.count(good, now);
                if tripped {
                    self.open(&mut state, now);
                }
            }
            (Phase::HalfOpen { .. }, Some(false)) => self.open(&mut state, now),
            (Phase::HalfOpen { probing, good: before }, good) => {
                let good = before + u32::from(good.is_some());
                state.phase = Phase::HalfOpen { probing: probing.saturating_sub(1), good };
                if good >= state.rules.probes.max(1) {
                    state.phase = Phase::Closed;
                    (state.parts, state.part, state.start) = (Default::default(), 0, now);
                    self.begin_spell(true);
                }
            }
            _ => {}
        }
    }

    fn open(&self, state: &mut State, now: Instant) {
        state.phase = Phase::Open { until: now + state.rules.open };
        self.begin_spell(false);
    }

    /// Reports of the spell before count for nothing from now on. Under the lock of `state`.
    fn begin_spell(&self, closed: bool) {
        let now = self.spell.load(Ordering::Acquire);
        let next = if is_closed(now) == closed { now + 2 } else { now + 1 };
        self.spell.store(next, Ordering::Release);
    }
}

/// Rounds up to whole seconds, at least 1: what `Retry-After` can say.
fn ceil_seconds(wait: Duration) -> Duration {
    Duration::from_secs((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
}

fn is_closed(spell: u64) -> bool {
    spell.is_multiple_of(2)
}

impl State {
    /// Counts one outcome; says whether that is the one too many.
    fn count(&mut self, good: bool, now: Instant) -> bool {
        let length = (self.rules.window / PARTS as u32).max(Duration::from_millis(1));
        let part = ((now - self.start).as_nanos() / length.as_nanos()) as u64;
        for gone in (self.part + 1..=part).take(PARTS) {
            self.parts[(gone % PARTS as u64) as usize] = Part::default();
        }
        self.part = part.max(self.part);
        let here = &mut self.parts[(self.part % PARTS as u64) as usize];
        if good {
            here.good = here.good.saturating_add(1);
            return false;
        }
        here.bad = here.bad.saturating_add(1);
        let sum = |of: fn(&Part) -> u32| self.parts.iter().map(|part| u64::from(of(part))).sum::<u64>();
        let (good, bad) = (sum(|part| part.good), sum(|part| part.bad));
        good + bad >= u64::from(self.rules.minimum) && bad as f64 >= self.rules.failures * (good + bad) as f64
    }
}

#[cfg(test)]
mod tests;
