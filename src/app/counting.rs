//! What day counts need while the gateway runs: tomorrow's leases, and reports of a failing ledger or a clock that jumps.
//!
//! Never fails: faults are reported as degradations.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{degraded::DegradedReason, gateway::Gateway, ledger::Ledger};

/// How long the start waits for the first leases. After that the first requests wait for them.
const FIRST_LEASES: Duration = Duration::from_secs(1);
/// Interval of the checks.
const TICK: Duration = Duration::from_secs(1);
/// Checks from one preparation of tomorrow to the next.
const PREPARE: u32 = 30;
/// A change of the wall clock against the monotonic one that is reported.
const JUMP: Duration = Duration::from_secs(60);
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

/// Runs until the control runtime ends.
pub(super) async fn watch(gateway: Arc<Gateway>, ledger: Arc<Ledger>) {
    let reports = &gateway.live.degraded;
    let mut clock = ClockWatch::new(wall(), Instant::now());
    for tick in 1_u32.. {
        tokio::time::sleep(TICK).await;
        if tick.is_multiple_of(PREPARE) {
            gateway.prepare_tomorrow();
        }
        if ledger.is_healthy() {
            reports.withdraw(DegradedReason::DayCountsFailing, "");
        } else {
            let text =
                "day counts: the state folder cannot be written; requests are refused once their leases are used up";
            reports.report(DegradedReason::DayCountsFailing, "", text);
        }
        let now = Instant::now();
        if let Some(seconds) = clock.observe(wall(), now) {
            tracing::error!(seconds, "the system clock has jumped; days are counted by what it says now");
            let text = format!("system clock: it has jumped by {seconds} s; the day counts of each date are kept");
            reports.report(DegradedReason::ClockJumped, "", text);
        } else if !clock.jumped_lately(now) {
            reports.withdraw(DegradedReason::ClockJumped, "");
        }
    }
}

/// Milliseconds since 1970.
fn wall() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

/// Compares the wall clock with the monotonic one.
#[derive(Debug)]
struct ClockWatch {
    wall: i64,
    at: Instant,
    jumped: Option<Instant>,
}

impl ClockWatch {
    fn new(wall: i64, at: Instant) -> Self {
        ClockWatch { wall, at, jumped: None }
    }

    /// The seconds by which the wall clock has jumped since the last call, if it has. Slow corrections are none.
    fn observe(&mut self, wall: i64, at: Instant) -> Option<i64> {
        let elapsed = at.saturating_duration_since(self.at).as_millis() as i64;
        let jump = wall - self.wall - elapsed;
        (self.wall, self.at) = (wall, at);
        let has_jumped = jump.unsigned_abs() > JUMP.as_millis() as u64;
        if has_jumped {
            self.jumped = Some(at);
        }
        has_jumped.then_some(jump / 1000)
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
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut clock = ClockWatch::new(0, start);
        assert_eq!((clock.observe(1_000, after(1)), clock.jumped_lately(after(1))), (None, false));
        // Slewed by half a minute; a pause of the process.
        assert_eq!(clock.observe(32_000, after(2)), None);
        assert_eq!(clock.observe(3_632_000, after(3_602)), None);
        assert_eq!(clock.observe(3_633_000 + 31 * 86_400_000, after(3_603)), Some(31 * 86_400));
        assert_eq!(clock.observe(3_636_000, after(3_606)), Some(-31 * 86_400));
        assert!(clock.jumped_lately(after(4_205)) && !clock.jumped_lately(after(4_206)));
    }
}
