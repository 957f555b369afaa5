//! When walks of the region tree begin by themselves: `cache.warm` of the configuration in force.
//!
//! What always holds: without that key none begins; the first begins some minutes after the start, or after a reload that
//! changes the key, and the others a little earlier than each interval, so that several gateways do not walk at the same
//! time and what is as old as the interval is fetched before its end. One that could not fetch everything is begun again
//! sooner. Never fails.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::Warmer;

/// How often it is checked whether a walk is due.
const TICK: Duration = Duration::from_secs(5);

/// When the first walk begins: at least, and at most, this long after the start.
const FIRST: (Duration, Duration) = (Duration::from_secs(2 * 60), Duration::from_secs(5 * 60));

/// How long after a walk that could not fetch everything the account's next one begins.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// Greatest part of an interval by which a walk begins earlier.
const EARLIER: f64 = 0.05;

/// Begins walks of all accounts at the interval of the configuration in force, until the shutdown.
pub async fn begin_walks_on_schedule(warmer: Arc<Warmer>) {
    let mut timetable = Timetable::default();
    while let Some(gateway) = warmer.gateway.upgrade()
        && !warmer.drain.begun()
    {
        let every = gateway.in_force.load().config.cache.warm;
        if timetable.is_due(every, Instant::now()) {
            let snapshot = gateway.current.load_full();
            let begun: Vec<_> = snapshot.accounts.iter().map(|it| &it.name).filter(|name| warmer.begin(name)).collect();
            tracing::info!(accounts = ?begun, "walks of the region tree have begun on schedule");
        }
        let unfinished = if every.is_some() { warmer.unfinished(AGAIN) } else { Vec::new() };
        for account in unfinished.into_iter().filter(|account| warmer.begin(account)) {
            tracing::info!(account, "a walk of the region tree has begun again, because the last one was not complete");
        }
        *warmer.next.lock() = timetable.next;
        drop(gateway);
        sleep(TICK).await;
    }
}

/// When the next walk begins.
#[derive(Debug, Default)]
struct Timetable {
    every: Option<Duration>,
    next: Option<Instant>,
}

impl Timetable {
    /// Whether a walk is due now, by this interval; if so, the next one is an interval later.
    fn is_due(&mut self, every: Option<Duration>, now: Instant) -> bool {
        if every != self.every {
            let first = FIRST.0 + (FIRST.1 - FIRST.0).mul_f64(fastrand::f64());
            (self.every, self.next) = (every, every.map(|_| now + first));
        }
        let (Some(every), Some(next)) = (every, self.next) else { return false };
        if now < next {
            return false;
        }
        self.next = Some(now + every.mul_f64(1.0 - EARLIER * fastrand::f64()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Times since the start at which walks began in `time`.
    async fn began(timetable: &mut Timetable, every: Option<Duration>, time: Duration) -> Vec<Duration> {
        let (start, mut began) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            if timetable.is_due(every, Instant::now()) {
                began.push(start.elapsed());
            }
            sleep(TICK).await;
        }
        began
    }

    #[tokio::test(start_paused = true)]
    async fn walks_begin_minutes_after_the_start_and_a_little_before_each_interval() {
        let times = began(&mut Timetable::default(), Some(DAY), 5 * DAY).await;
        assert!(times[0] >= FIRST.0 && times[0] <= FIRST.1 + TICK, "{times:?}");
        assert!((5..=6).contains(&times.len()), "{times:?}");
        for pair in times.windows(2) {
            let interval = pair[1] - pair[0];
            assert!(interval >= DAY.mul_f64(1.0 - EARLIER) && interval <= DAY + TICK, "{times:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn none_begins_without_an_interval_and_a_reload_changes_it() {
        let mut timetable = Timetable::default();
        assert!(began(&mut timetable, None, DAY).await.is_empty());
        assert_eq!(began(&mut timetable, Some(DAY), DAY / 2).await.len(), 1);
        assert_eq!(began(&mut timetable, Some(DAY / 24), DAY / 2 + FIRST.1).await.len(), 13);
        assert!(began(&mut timetable, None, DAY).await.is_empty());
        assert_eq!(timetable.next, None);
    }
}
