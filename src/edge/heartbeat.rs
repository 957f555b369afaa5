//! Whether threads make progress, for `/livez`.
//!
//! A thread counts its heartbeats, and another thread checks every second whether there were new ones. What always
//! holds: only checks are counted, never the time, so that a process that was stopped or suspended for an hour is not
//! thought to hang: its checks have stopped as well. Must not know what the threads do. Never fails.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Number of checks in a row without a heartbeat (one check a second) after which a thread is thought to hang. Threads
/// beat every two seconds; nothing that a data thread does takes a second.
const MISSED: u32 = 10;

/// The heartbeats of one thread; clones share them.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    name: String,
    count: AtomicU64,
    /// `count` at the last check.
    seen: AtomicU64,
    /// Checks since then that found no new heartbeat.
    missed: AtomicU32,
}

impl Heartbeat {
    /// `name`: of the thread.
    pub fn new(name: String) -> Self {
        Heartbeat(Arc::new(Beats {
            name,
            count: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            missed: AtomicU32::new(0),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Shows that the thread makes progress.
    pub fn beat(&self) {
        self.0.count.fetch_add(1, Relaxed);
    }

    /// To be called once a second, by one thread.
    pub fn check(&self) {
        let count = self.0.count.load(Relaxed);
        if self.0.seen.swap(count, Relaxed) == count {
            self.0.missed.fetch_add(1, Relaxed);
        } else {
            self.0.missed.store(0, Relaxed);
        }
    }

    /// Whether the thread has made no progress for ten checks.
    pub fn hangs(&self) -> bool {
        self.0.missed.load(Relaxed) >= MISSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_hangs_after_ten_checks_without_a_beat_and_recovers() {
        let heartbeat = Heartbeat::new("data-0".to_owned());
        for _ in 0..30 {
            heartbeat.beat();
            heartbeat.check();
            heartbeat.check();
        }
        assert!(!heartbeat.hangs());
        (0..8).for_each(|_| heartbeat.check());
        assert!(!heartbeat.hangs());
        heartbeat.check();
        assert!(heartbeat.hangs());
        heartbeat.beat();
        heartbeat.check();
        assert!(!heartbeat.hangs());
    }
}
