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

use super::calendar_day::CalendarDay;

/// Whose units are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CounterId {
    /// The quota of a service, by name.
    Service(Arc<str>),
    /// The budget of an account, by name.
    Account(Arc<str>),
}

/// Keeps the marks of day counters.
pub trait DayLedger: fmt::Debug + Send + Sync {
    /// The days of a counter as they are recorded.
    fn restore(&self, counter: &CounterId) -> Vec<RestoredDay>;

    /// Takes a request and never waits. Answers with [`LeaseHolder::granted`], on any thread; repeats what fails. Of two
    /// requests for the same day and level, the one with the lower number may be left out.
    fn request(&self, request: LeaseRequest);
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
    /// Units that may be reserved, those used included; at least `used`.
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

/// A request for a lease or a mark.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub id: CounterId,
    pub holder: Arc<dyn LeaseHolder>,
    pub day: CalendarDay,
    pub level: Level,
    /// The new value; lower than the last one if the counter may use less from now on.
    pub units: u64,
    /// Grows with each request of a counter.
    pub number: u64,
}

/// The answer to a [`LeaseRequest`].
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Of the day.
    pub date: i32,
    pub level: Level,
    /// As requested, or less.
    pub units: u64,
    /// That of the request.
    pub number: u64,
}

/// How far a counter may go with one day at one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) units: u64,
    /// The last request: `units` once it is answered.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    units: u64,
    number: u64,
    /// When the ledger was first asked for what it has not granted.
    at: Instant,
}

impl Granted {
    pub(super) fn new(units: u64) -> Self {
        Granted { units, asked: None }
    }

    /// What will be granted if the ledger does what was requested.
    pub(super) fn expected(&self) -> u64 {
        self.asked.map_or(self.units, |asked| asked.units)
    }

    pub(super) fn ask(&mut self, units: u64, number: u64) {
        // Less may be used at once, more only once it is granted.
        self.units = self.units.min(units);
        // A request that replaces an unanswered one waits as long.
        let at = self.asked.map_or_else(Instant::now, |asked| asked.at);
        self.asked = Some(Asked { units, number, at });
    }

    pub(super) fn granted(&mut self, units: u64, number: u64) {
        if self.asked.is_some_and(|asked| asked.number == number) {
            self.units = units;
            self.asked = None;
        }
    }

    /// Whether a request is not answered yet.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the ledger has not answered for longer than `patience`.
    pub(super) fn is_stalled(&self, patience: Duration) -> bool {
        self.asked.is_some_and(|asked| asked.at.elapsed() > patience)
    }
}
