//! Failed proofs of identity, counted by peer within a minute.
//!
//! Not the bucket of [`crate::peer::PeerLimit`]: that would refuse a peer whose slow failures never come to so many in one
//! minute. What always holds: a second that is a minute ago counts no more, and memory is bounded by the slots of
//! peers. Never fails.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::peer::PeerSlots;

/// The number of the failed proof within a minute from which on they are slowed (contract section 4).
const SLOWED_FROM: u32 = 300;

const MINUTE: usize = 60;

/// Failed proofs. Clones share the counts.
#[derive(Clone)]
pub(super) struct FailedProofs(Arc<FailuresByPeer>);

struct FailuresByPeer {
    start: Instant,
    slots: PeerSlots,
    minutes: Mutex<HashMap<u16, Minute>>,
}

impl FailedProofs {
    pub(super) fn new() -> Self {
        let (start, slots) = (Instant::now(), PeerSlots::default());
        FailedProofs(Arc::new(FailuresByPeer { start, slots, minutes: Mutex::default() }))
    }

    /// Counts a failed proof of a peer.
    ///
    /// # Errors
    /// There were too many within a minute: how long until the next one is not slowed.
    pub(super) fn count(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let since_start = now.saturating_duration_since(self.0.start);
        let mut minutes = self.0.minutes.lock();
        minutes.entry(self.0.slots.slot(peer)).or_default().count(since_start)
    }
}

/// The failed proofs of the last minute, by the seconds since the start.
struct Minute {
    newest: u64,
    counts: [u32; MINUTE],
}

impl Default for Minute {
    fn default() -> Self {
        Minute { newest: 0, counts: [0; MINUTE] }
    }
}

impl Minute {
    fn count(&mut self, now: Duration) -> Result<(), Duration> {
        // Two threads may come in the other order than their times.
        let second = now.as_secs().max(self.newest);
        let passed = second - self.newest;
        (1..=passed.min(MINUTE as u64)).for_each(|step| *self.of(second - passed + step) = 0);
        self.newest = second;
        let count = self.of(second);
        *count = count.saturating_add(1);
        let mut total = self.counts.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        if total < SLOWED_FROM {
            return Ok(());
        }
        // Until so many are a minute ago that there is room for one more.
        let oldest = (second + 1).saturating_sub(MINUTE as u64);
        let frees = (oldest..second).find(|second| {
            total -= *self.of(*second);
            total < SLOWED_FROM - 1
        });
        Err(Duration::from_secs(frees.unwrap_or(second) + MINUTE as u64).saturating_sub(now))
    }

    fn of(&mut self, second: u64) -> &mut u32 {
        &mut self.counts[(second % MINUTE as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(failed: &FailedProofs, millis: u64) -> Result<(), Duration> {
        failed.count(PEER, failed.0.start + Duration::from_millis(millis))
    }

    #[test]
    fn slow_failures_are_never_slowed_and_a_minute_later_all_begins_again() {
        let failed = FailedProofs::new();
        // 299 within each minute.
        let slow = (0..3000).map(|number| at(&failed, number * 60_000 / 299 + number / 299));
        assert_eq!(slow.filter(Result::is_err).count(), 0);
        let failed = FailedProofs::new();
        let first = |from: u64| (0..400).position(|_| at(&failed, from).is_err());
        assert_eq!(first(2_500), Some(299));
        // One of those that are slowed counts too: it failed.
        assert_eq!(at(&failed, 3_000), Err(Duration::from_secs(59)));
        assert!(at(&failed, 61_999).is_err());
        assert_eq!(at(&failed, 62_000), Ok(()));
        assert_eq!(first(200_000), Some(299));
    }

    proptest! {
        /// Whoever waits as long as it was told is not slowed, unless others fail at the same peer.
        #[test]
        fn the_wait_is_the_truth(times in prop::collection::vec((0..90_u64, 1..200_usize), 1..20)) {
            let failed = FailedProofs::new();
            let mut now = 0;
            for (pause, failures) in times {
                now += pause * 977;
                for _ in 1..failures {
                    let _ = at(&failed, now);
                }
                if let Err(wait) = at(&failed, now) {
                    prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
                    now += wait.as_millis() as u64;
                    prop_assert_eq!(at(&failed, now), Ok(()));
                }
            }
        }
    }
}
