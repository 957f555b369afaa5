//! The run of the system: which one it is, how long it has lasted, and points in time that later processes understand.
//!
//! The run and its time are known on Linux only; elsewhere callers do without. Never fails.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The step of [`since_boot`], which rounds down.
pub(crate) const STEP: Duration = Duration::from_millis(10);

/// The run of the system. Where it is unknown, a number that no other start has.
pub(crate) fn boot() -> u64 {
    match fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => {
            let digest = Sha256::digest(&id);
            digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        }
        Err(_) => fastrand::u64(..),
    }
}

/// Time since the system's start, suspends included; no change of the wall clock changes it. `None` where it is unknown.
pub(crate) fn since_boot() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(Duration::from_secs(seconds.parse().ok()?) + STEP * hundredths.parse().ok()?)
}

/// A point in time, by the two clocks that also later processes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeMark {
    /// The run of the system.
    pub boot: u64,
    /// `None` where it is unknown.
    pub uptime_ms: Option<u64>,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// Time since a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkAge {
    /// At most one step too short. `None` where it is unknown, and in another run of the system.
    pub(crate) by_uptime: Option<Duration>,
    /// `None`: the wall clock shows an earlier time than then.
    pub(crate) by_wall_clock: Option<Duration>,
}

impl TimeMark {
    /// This moment. `boot`: the run of the system.
    pub(crate) fn now(boot: u64) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        TimeMark { boot, uptime_ms: since_boot().map(millis), wall_ms: wall.map_or(0, millis) }
    }

    /// Time from this mark to a later one.
    pub(crate) fn until(self, now: TimeMark) -> MarkAge {
        let uptimes = self.uptime_ms.zip(now.uptime_ms).filter(|_| self.boot == now.boot);
        MarkAge {
            by_uptime: uptimes.and_then(|(then, now)| now.checked_sub(then)).map(Duration::from_millis),
            by_wall_clock: now.wall_ms.checked_sub(self.wall_ms).map(Duration::from_millis),
        }
    }
}

/// A time in whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_of_another_run_of_the_system_say_nothing() {
        let mark = TimeMark { boot: 1, uptime_ms: Some(5_000), wall_ms: 9_000 };
        let (seconds, later) = (Duration::from_secs, TimeMark { uptime_ms: Some(7_000), wall_ms: 10_000, ..mark });
        let age = |by_uptime, by_wall_clock| MarkAge { by_uptime, by_wall_clock };
        assert_eq!(mark.until(later), age(Some(seconds(2)), Some(seconds(1))));
        assert_eq!(mark.until(TimeMark { boot: 2, ..later }), age(None, Some(seconds(1))));
        assert_eq!(mark.until(TimeMark { uptime_ms: None, ..later }), age(None, Some(seconds(1))));
        assert_eq!(later.until(mark), age(None, None), "clocks that were set back");
    }

    #[test]
    fn this_moment_is_known() {
        let mark = TimeMark::now(7);
        let age = mark.until(TimeMark::now(7));
        assert!(age.by_uptime.is_some() || since_boot().is_none());
        assert!(age.by_wall_clock.is_some_and(|age| age < Duration::from_secs(60)));
    }
}
