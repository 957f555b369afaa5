//! When Fastrac last accepted a request signed with a pair. Noted by every such request: no lock, and seldom a write.
//! Never fails.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Minimum distance of two times that are noted, in microseconds, so that the threads do not contend for the cache line.
const STEP: u64 = 10_000;

pub(super) struct LastAccepted {
    loaded: Instant,
    /// Microseconds since `loaded`; 0: never.
    after: AtomicU64,
}

impl LastAccepted {
    pub(super) fn new(loaded: Instant) -> Self {
        Self { loaded, after: AtomicU64::new(0) }
    }

    /// When the pair was read.
    pub(super) fn loaded(&self) -> Instant {
        self.loaded
    }

    /// Notes that a request sent at `sent` was accepted.
    pub(super) fn note(&self, sent: Instant) {
        let after = sent.saturating_duration_since(self.loaded).as_micros();
        let after = u64::try_from(after).unwrap_or(u64::MAX).max(1);
        let noted = self.after.load(Relaxed);
        if noted == 0 || after >= noted.saturating_add(STEP) {
            self.after.fetch_max(after, Relaxed);
        }
    }

    /// When the last request that was noted was sent.
    pub(super) fn get(&self) -> Option<Instant> {
        let after = self.after.load(Relaxed);
        (after > 0).then(|| self.loaded + Duration::from_micros(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_counts_whatever_the_order() {
        let loaded = Instant::now();
        let (last, at) = (LastAccepted::new(loaded), |millis| loaded + Duration::from_millis(millis));
        assert_eq!(last.get(), None);
        last.note(at(500));
        last.note(at(100));
        assert_eq!(last.get(), Some(at(500)));
        last.note(at(505));
        assert_eq!(last.get(), Some(at(500)), "too soon to be noted");
        last.note(at(510));
        assert_eq!(last.get(), Some(at(510)));
    }
}
