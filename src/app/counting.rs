//! What day counts need while the gateway runs: tomorrow's leases, and reports of a failing ledger or a clock that jumps.
//!
//! Never fails: faults are reported as degradations.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    clock_jumps::{self, ClockJump, ClockJumps},
    degraded::DegradedReason,
    gateway::Gateway,
    ledger::Ledger,
    snapshot::Account,
    standstill,
};

/// How long the start waits for the first leases. After that the first requests wait for them.
const FIRST_LEASES: Duration = Duration::from_secs(1);
/// Interval of the checks.
const TICK: Duration = Duration::from_secs(1);
/// How long a jump is reported.
const REPORTED: Duration = Duration::from_secs(600);

/// Waits until no request would wait for the ledger, but not long.
pub(super) async fn first_leases(gateway: &Gateway) {
    let leased = async {
        while !gateway.days_are_leased() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(FIRST_LEASES, leased).await.is_err() {
        tracing::warn!("the first leases of the day counts are not on disk yet; the first requests may wait for them");
    }
}

/// Runs until the control runtime ends. `clocks`: as they should have been at the start.
pub(super) async fn watch(gateway: Arc<Gateway>, ledger: Arc<Ledger>, clocks: ClockJumps) {
    let reports = &gateway.live.degraded;
    let mut clock = ClockWatch { jumps: clocks, jumped: None };
    loop {
        tokio::time::sleep(TICK).await;
        gateway.prepare_tomorrow();
        if ledger.is_healthy() {
            reports.withdraw(DegradedReason::DayCountsFailing, "");
        } else {
            let text =
                "day counts: the state folder cannot be written; requests are refused once their leases are used up";
            reports.report(DegradedReason::DayCountsFailing, "", text);
        }
        // It notices a jump when it is asked.
        clock_jumps::settled_time();
        standstill::look();
        let now = ClockJumps::now();
        if let Some(ClockJump(seconds)) = clock.observe(now) {
            tracing::error!(seconds, "the system clock has jumped; days are counted by what it says now");
            let text = format!("system clock: it has jumped by {seconds} s; the day counts of each date are kept");
            reports.report(DegradedReason::ClockJumped, "", text);
        } else if !clock.jumped_lately(now.at) {
            reports.withdraw(DegradedReason::ClockJumped, "");
        }
    }
}

/// Reports accounts whose count of the day may be too low, because both records of it were lost, until an operator has set
/// it or the day ends.
pub(super) async fn report_lost_counts(gateway: Arc<Gateway>) {
    let reports = &gateway.live.degraded;
    let date = |account: &Account| account.budget.date();
    let accounts = gateway.current.load().accounts.clone();
    for account in &accounts {
        let text = format!(
            "account {}: state.redb and day-marks were both lost at the start, so what was used of the day before is not \
             counted; compare with Fastrac, then set it with `quota count`",
            account.name
        );
        tracing::error!("{text}");
        reports.report(DegradedReason::DayCountsLost, &account.name, text);
    }
    let mut left: Vec<_> = accounts.iter().map(|account| (account, date(account))).collect();
    while !left.is_empty() {
        tokio::time::sleep(TICK).await;
        left.retain(|(account, day)| {
            let is_over = date(account) != *day;
            if is_over {
                reports.withdraw(DegradedReason::DayCountsLost, &account.name);
            }
            !is_over
        });
    }
}

/// Whether the wall clock has jumped lately.
#[derive(Debug)]
struct ClockWatch {
    jumps: ClockJumps,
    jumped: Option<Instant>,
}

impl ClockWatch {
    /// The jump since the last call, if there was one.
    fn observe(&mut self, now: ClockJumps) -> Option<ClockJump> {
        let jump = self.jumps.look(now);
        if jump.is_some() {
            self.jumped = Some(now.at);
        }
        jump
    }

    fn jumped_lately(&self, now: Instant) -> bool {
        self.jumped.is_some_and(|at| now.saturating_duration_since(at) < REPORTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_more_than_a_minute_is_reported_for_ten_minutes() {
        let start = ClockJumps::now();
        let seconds = Duration::from_secs;
        let after = |wall, at| ClockJumps { wall: start.wall + seconds(wall), at: start.at + seconds(at) };
        let mut clock = ClockWatch { jumps: start, jumped: None };
        assert_eq!((clock.observe(after(1, 1)), clock.jumped_lately(after(1, 1).at)), (None, false));
        // Slewed by half a minute; a pause of the process.
        assert_eq!(clock.observe(after(32, 2)), None);
        assert_eq!(clock.observe(after(3_632, 3_602)), None);
        assert_eq!(clock.observe(after(3_633 + 31 * 86_400, 3_603)), Some(ClockJump(31 * 86_400)));
        assert_eq!(clock.observe(after(3_636, 3_606)), Some(ClockJump(-31 * 86_400)));
        let lately = |at| clock.jumped_lately(after(0, at).at);
        assert!(lately(4_205) && !lately(4_206));
    }
}
