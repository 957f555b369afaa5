//! Watches how far the days of quotas and budgets are used: warnings in the log, and when a day runs out.
//!
//! What always holds: a warning is logged once for each threshold and day, after the unit that reaches it and not before;
//! after a start, thresholds that were reached before are not logged again. Reads counts only. Never fails.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::Gateway;
use crate::{
    admission::{DayProgress, DayUse, UseHistory, WARNINGS},
    record::UNLIMITED,
};

/// How often the counts are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Services that a warning about a budget names: those that have spent most.
const NAMED: usize = 3;

/// The histories of all quotas and budgets.
#[derive(Debug)]
pub(super) struct UseWatch {
    start: Instant,
    quotas: Mutex<HashMap<String, Watched>>,
    budgets: Mutex<HashMap<String, Watched>>,
}

#[derive(Debug, Default)]
struct Watched {
    history: UseHistory,
    /// The highest warning of the day that was logged, percent.
    warned: u8,
}

/// How far a day's limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The highest of 50, 80 and 95 % that is reached; 0 if none is.
    pub warning: u8,
    /// When it is used up at the pace of the last hour. `None`: it lasts until the end of the day.
    pub runs_out_at: Option<Timestamp>,
}

impl Default for UseWatch {
    fn default() -> Self {
        UseWatch { start: Instant::now(), quotas: Mutex::default(), budgets: Mutex::default() }
    }
}

impl UseWatch {
    /// How far the day is used. Calls `warn` for each warning that has not been logged, with its percent.
    fn observe(&self, of: Observed<'_>, day: DayUse, warn: impl Fn(u8, RunsOut)) -> Outlook {
        let Observed { watched, name } = of;
        let mut watched = watched.lock();
        let watched = watched.entry(name.to_owned()).or_default();
        let warning = day.warning();
        match watched.history.observe(self.start.elapsed(), day) {
            DayProgress::SameDay => {}
            DayProgress::NewDay => watched.warned = 0,
            DayProgress::Jumped => watched.warned = warning,
        }
        let runs_out_in = watched.history.runs_out_in().and_then(|time| SignedDuration::try_from(time).ok());
        let runs_out_at = runs_out_in.and_then(|time| Timestamp::now().checked_add(time).ok());
        for percent in WARNINGS.into_iter().filter(|percent| (watched.warned + 1..=warning).contains(percent)) {
            warn(percent, RunsOut(runs_out_at));
        }
        watched.warned = warning.max(watched.warned);
        Outlook { warning, runs_out_at }
    }
}

/// A quota or budget among those that are watched.
struct Observed<'a> {
    watched: &'a Mutex<HashMap<String, Watched>>,
    name: &'a str,
}

/// When a day's limit runs out, for a log line.
struct RunsOut(Option<Timestamp>);

impl fmt::Display for RunsOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{at:.0}"),
            None => f.write_str("not today"),
        }
    }
}

impl Gateway {
    /// How far the daily quota of a service is used. Logs a warning that has not been logged.
    pub fn quota_outlook(&self, service: &str, day: DayUse) -> Outlook {
        let watch = &self.watch_use;
        watch.observe(Observed { watched: &watch.quotas, name: service }, day, |percent, runs_out| {
            let (used, limit) = (day.used, day.limit);
            tracing::warn!(target: UNLIMITED, service, used, limit, %runs_out, "{percent} % of the daily quota is used");
        })
    }

    /// How far the daily budget of an account is used. Logs a warning that has not been logged.
    pub fn budget_outlook(&self, account: &str, day: DayUse) -> Outlook {
        let watch = &self.watch_use;
        watch.observe(Observed { watched: &watch.budgets, name: account }, day, |percent, runs_out| {
            let (used, limit) = (day.used, day.limit);
            let most = self.live.spending.top_services(account, NAMED);
            let most: Vec<_> = most.into_iter().map(|(service, units)| format!("{service} {units}")).collect();
            let most = most.join(", ");
            tracing::warn!(
                target: UNLIMITED, account, used, limit, %runs_out, most, "{percent} % of the daily budget is used"
            );
        })
    }

    /// Looks at all quotas and budgets once.
    pub fn observe_use(&self) {
        let snapshot = self.current.load();
        for (service, quota) in snapshot.catalog.services.iter().zip(&snapshot.quotas) {
            self.quota_outlook(&service.name, quota.day_use());
        }
        for account in &snapshot.accounts {
            self.budget_outlook(&account.name, account.budget.day_use());
        }
    }
}
