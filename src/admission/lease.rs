//! What a day counter may use before it has to ask: leases and marks, and the ledger that grants them.
//!
//! A counter that outlives its process has two high-water marks for each of its days. Units may be *reserved* up to the
//! lease, which is on the disk or was granted by a store that replicas share; they may be *sent* up to the mark, which
//! survives the end of the process, but not that of the machine. The lease grows in large blocks, the mark in small ones:
//! what a killed process had not used of its mark is lost to the day.
//!
//! What always holds: a grant raises nothing unless it answers the counter's last request. The room that keeps the marks
//! implements [`DayLedger`]. Never fails.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    bucket_start::{BucketMark, BucketStart},
    calendar_day::CalendarDay,
    wall_clock::WallClock,
};

/// Whose units are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CounterId {
    /// The quota of a service, by name.
    Service(Arc<str>),
    /// The budget of an account, by name.
    Account(Arc<str>),
    /// What a service has used of an account's budget: both names, separated by NUL, which no name contains. An empty name
    /// of a service stands for all without a share.
    Part(Arc<str>),
}

impl CounterId {
    /// Kind and name, as they are recorded.
    pub fn parts(&self) -> (u8, &str) {
        match self {
            CounterId::Service(name) => (b's', name),
            CounterId::Account(name) => (b'a', name),
            CounterId::Part(names) => (b'p', names),
        }
    }

    /// A service's part of the budget of `account`.
    pub(super) fn part(account: &CounterId, service: &str) -> Self {
        CounterId::Part(format!("{}\0{service}", account.parts().1).into())
    }

    /// Of [`CounterId::parts`]; `None`: there is no such kind.
    pub fn from_parts(kind: u8, name: &str) -> Option<Self> {
        match kind {
            b's' => Some(CounterId::Service(name.into())),
            b'a' => Some(CounterId::Account(name.into())),
            b'p' => Some(CounterId::Part(name.into())),
            _ => None,
        }
    }
}

/// What a counter is created with.
#[derive(Clone, Debug)]
pub struct CounterContext {
    pub id: CounterId,
    pub clock: WallClock,
    /// `None`: the counts end with the process.
    pub ledger: Option<Arc<dyn DayLedger>>,
}

impl CounterContext {
    /// What the bucket of the second begins with.
    pub(super) fn bucket(&self) -> BucketStart {
        self.ledger.as_ref().map_or(BucketStart::Unused, |ledger| ledger.bucket(&self.id))
    }
}

/// Counts that end with the process.
impl From<WallClock> for CounterContext {
    fn from(clock: WallClock) -> Self {
        CounterContext { id: CounterId::Service("".into()), clock, ledger: None }
    }
}

/// Keeps the marks of day counters.
pub trait DayLedger: fmt::Debug + Send + Sync {
    /// The days of a counter as they are recorded.
    fn restore(&self, counter: &CounterId) -> Vec<RestoredDay>;

    /// What the bucket of the counter's second begins with.
    fn bucket(&self, counter: &CounterId) -> BucketStart;

    /// Takes a request and never waits. Called under the counter's lock, so the requests of a counter arrive in their order
    /// and the answers, [`LeaseHolder::granted`], must come later, on another thread. A request replaces the one before for
    /// the same day. What fails is repeated.
    fn request(&self, request: LeaseRequest);

    /// Fastrac has throttled an account: what the next process must know, however this one ends. Never waits. Called under
    /// the lock of the account's queue, so the last call has the last word.
    fn throttled(&self, account: &CounterId, mark: BucketMark);

    /// Whether grants of this level fail at present. It becomes false by itself, without a new request.
    fn is_failing(&self, level: Level) -> bool;
}

/// A counter, as its ledger sees it.
pub trait LeaseHolder: fmt::Debug + Send + Sync {
    /// The ledger has done what was requested.
    fn granted(&self, grant: Grant);
}

/// A day as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredDay {
    pub day: CalendarDay,
    /// Units used, at most.
    pub used: u64,
    /// Units that may be reserved, those used included; below `used` if that has to be recorded again.
    pub leased: u64,
}

/// Which of a day's two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Units may be reserved up to it.
    Lease,
    /// Units may be sent up to it.
    Mark,
}

/// What a counter needs to be recorded of a day.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub id: CounterId,
    pub holder: Arc<dyn LeaseHolder>,
    pub day: CalendarDay,
    pub lease: LeaseTarget,
    pub mark: LeaseTarget,
}

/// A value of a lease or a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTarget {
    /// Lower than before if the counter may use less from now on.
    pub units: u64,
    /// Grows with each change of a value of the counter.
    pub number: u64,
}

/// The answer to a [`LeaseRequest`].
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Of the day.
    pub date: i32,
    pub level: Level,
    /// As requested, or with less units.
    pub target: LeaseTarget,
}

/// How far a counter may go with one day at one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) units: u64,
    /// The value requested last.
    target: LeaseTarget,
    /// Since when the ledger owes more than `units`; `None`: it has granted what was requested.
    asked: Option<Instant>,
}

impl Granted {
    pub(super) fn new(units: u64) -> Self {
        Granted { units, target: LeaseTarget { units, number: 0 }, asked: None }
    }

    /// What is granted if the ledger does what was requested.
    pub(super) fn target(&self) -> LeaseTarget {
        self.target
    }

    /// Changes what is requested. Less may be used at once, more only once it is granted.
    pub(super) fn ask(&mut self, target: LeaseTarget) {
        self.units = self.units.min(target.units);
        self.target = target;
        // A request that replaces an unanswered one waits as long.
        self.asked = Some(self.asked.unwrap_or_else(Instant::now));
    }

    /// Takes the answer to the last request; answers to earlier ones are void, but the ledger has not stalled.
    pub(super) fn granted(&mut self, granted: LeaseTarget) {
        if granted.number == self.target.number {
            self.units = granted.units;
            self.target.units = granted.units;
            self.asked = None;
        } else if self.asked.is_some() {
            self.asked = Some(Instant::now());
        }
    }

    /// Whether the last request is not answered yet.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the ledger has not answered for `patience`.
    pub(super) fn is_stalled(&self, patience: Duration) -> bool {
        self.asked.is_some_and(|since| since.elapsed() >= patience)
    }
}
