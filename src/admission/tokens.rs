//! A token bucket as a value (GCRA), without a lock and without a clock: times are nanoseconds that only grow.
//!
//! Always holds: of what is kept, in any window of length T at most `burst + T × per_second` tokens are taken (the period
//! of a token is rounded up), also while the rate changes; a refused take changes nothing; what is given back is as if it
//! had never been taken, also when other takes followed. For that, everything from the first undecided take on is
//! remembered, in order: simply adding tokens back would admit too much once the bucket has refilled meanwhile. The
//! bucket does not know who takes or why. It fails with [`InsufficientTokens`].

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use crate::config::Rate;

const SECOND: u64 = 1_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FillRate {
    /// Nanoseconds between two tokens.
    pub(super) period: u64,
    /// Nanoseconds that a full bucket is worth: a multiple of `period`.
    pub(super) capacity: u64,
}

impl FillRate {
    pub(super) fn of(rate: Rate) -> Self {
        let period = SECOND.div_ceil(u64::from(rate.per_second.max(1)));
        FillRate { period, capacity: period * u64::from(rate.burst.max(1)) }
    }

    /// What tokens are worth, nanoseconds.
    pub(super) fn worth(self, tokens: u64) -> u64 {
        tokens.saturating_mul(self.period)
    }
}

#[derive(Debug)]
pub(super) struct Tokens {
    fill: FillRate,
    /// GCRA's theoretical arrival time: when the bucket will be full again.
    full_at: u64,
    /// What happened from the first undecided take on.
    open: VecDeque<TokenEvent>,
    /// Number of the first of `open`.
    first: u64,
}

#[derive(Debug)]
struct TokenEvent {
    what: Change,
    /// `full_at` before it.
    before: u64,
    decided: bool,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// A take of `worth` nanoseconds; 0 if it was given back.
    Take { at: u64, worth: u64 },
    /// The rate changed.
    Refill { at: u64, from: FillRate, to: FillRate },
    /// The bucket is not full before then.
    Empty { full_at: u64 },
}

impl Change {
    fn after(self, full_at: u64) -> u64 {
        match self {
            Change::Take { worth: 0, .. } => full_at,
            Change::Take { at, worth } => full_at.max(at) + worth,
            Change::Refill { at, from, to } => {
                let level = from.capacity.saturating_sub(full_at.saturating_sub(at));
                let level = (u128::from(level) * u128::from(to.period) / u128::from(from.period)) as u64;
                at + to.capacity - level.min(to.capacity)
            }
            Change::Empty { full_at: until } => full_at.max(until),
        }
    }
}

/// Why no tokens were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InsufficientTokens {
    /// After this time (above zero) there are enough tokens, unless other requests take some before.
    Until(Duration),
    /// The request is larger than the burst.
    Never,
}

impl Tokens {
    /// A full bucket.
    pub(super) fn full(fill: FillRate) -> Self {
        Tokens { fill, full_at: 0, open: VecDeque::new(), first: 0 }
    }

    pub(super) fn fill(&self) -> FillRate {
        self.fill
    }

    /// When the bucket will be full.
    pub(super) fn full_at(&self) -> u64 {
        self.full_at
    }

    /// What the bucket holds, nanoseconds.
    pub(super) fn level(&self, now: u64) -> u64 {
        self.fill.capacity.saturating_sub(self.full_at.saturating_sub(now))
    }

    /// From `now` until the bucket begins to fill, nanoseconds; below zero: it has as much as that.
    pub(super) fn empty_until(&self, now: u64) -> i128 {
        i128::from(self.full_at.max(now)) - i128::from(self.fill.capacity) - i128::from(now)
    }

    /// Tokens that could be taken now.
    pub(super) fn left(&self, now: u64) -> u64 {
        self.level(now) / self.fill.period
    }

    /// Takes all of `tokens`, or none. Returns the number of the take, for [`Tokens::decide`].
    ///
    /// # Errors
    /// [`InsufficientTokens`]; nothing is taken then.
    pub(super) fn take(&mut self, tokens: u32, now: u64) -> Result<u64, InsufficientTokens> {
        let worth = self.fill.worth(u64::from(tokens));
        if worth > self.fill.capacity {
            return Err(InsufficientTokens::Never);
        }
        self.forget_if_full(now);
        let full_at = self.full_at.max(now) + worth;
        if full_at > now + self.fill.capacity {
            return Err(InsufficientTokens::Until(Duration::from_nanos(full_at - self.fill.capacity - now)));
        }
        self.open.push_back(TokenEvent { what: Change::Take { at: now, worth }, before: self.full_at, decided: false });
        self.full_at = full_at;
        Ok(self.first + self.open.len() as u64 - 1)
    }

    /// Nanoseconds until `worth` in total could have been taken, in takes of at most a burst. `worth` may exceed the
    /// capacity, unlike in [`Tokens::take`].
    pub(super) fn due_in(&self, worth: u64, now: u64) -> u64 {
        let due = self.full_at.max(now).saturating_add(worth).saturating_sub(self.fill.capacity);
        due.saturating_sub(now)
    }

    /// Changes the rate. The tokens in the bucket stay, as far as it holds them: there is never a burst from a change.
    pub(super) fn refill(&mut self, to: FillRate, now: u64) {
        if to != self.fill {
            self.forget_if_full(now);
            self.record(Change::Refill { at: now, from: self.fill, to });
            self.fill = to;
        }
    }

    /// Empties the bucket, which begins to fill at `until`.
    pub(super) fn empty(&mut self, until: u64) {
        self.fill_until(until + self.fill.capacity);
    }

    /// Leaves one token at most, and the bucket begins to fill at `until`.
    pub(super) fn leave_one(&mut self, until: u64) {
        self.fill_until(until + self.fill.capacity - self.fill.period);
    }

    /// The bucket is not full before `full_at`.
    pub(super) fn fill_until(&mut self, full_at: u64) {
        self.record(Change::Empty { full_at });
    }

    fn record(&mut self, what: Change) {
        let before = self.full_at;
        self.full_at = what.after(before);
        if !self.open.is_empty() {
            self.open.push_back(TokenEvent { what, before, decided: true });
        }
    }

    /// Once the bucket is full, it makes no difference what became of earlier takes.
    fn forget_if_full(&mut self, now: u64) {
        if self.full_at <= now {
            self.first += self.open.len() as u64;
            self.open.clear();
        }
    }

    /// Says what became of a take: the tokens were used, or come back.
    pub(super) fn decide(&mut self, number: u64, kept: bool) {
        let Some(index) = number.checked_sub(self.first).map(|index| index as usize) else { return };
        let Some(event) = self.open.get_mut(index) else { return };
        event.decided = true;
        if !kept {
            if let Change::Take { worth, .. } = &mut event.what {
                *worth = 0;
            }
            let mut full_at = event.before;
            for event in self.open.range_mut(index..) {
                event.before = full_at;
                full_at = event.what.after(full_at);
            }
            self.full_at = full_at;
        }
        while self.open.front().is_some_and(|event| event.decided) {
            self.open.pop_front();
            self.first += 1;
        }
    }
}
