//! The request heads of an HTTP/2 connection that h2 has refused by itself.
//!
//! h2 answers a malformed head with RST_STREAM and a long one with 431, and tells nobody. So the heads that have been
//! received are counted, and those that were passed on: when h2 has read everything and written everything, the
//! difference is what it has refused. What always holds: each head is taken once. Must not know how heads are found
//! (`frames`) or reported (`connection`). Never fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of one connection, all of whose users run in one thread.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Heads that were received and not passed on.
    pending: AtomicU64,
    /// Responses with 431 that h2 has written.
    too_large: AtomicU64,
    /// h2 has processed everything that was received.
    all_read: AtomicBool,
    /// Bytes that h2 has to write are waiting.
    write_waits: AtomicBool,
    /// The peer has closed its half of the connection.
    peer_closed: AtomicBool,
    /// GOAWAY was requested: h2 ignores heads that come later, and their clients send them again elsewhere.
    going_away: AtomicBool,
}

/// Heads that h2 has refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RefusedHeads {
    /// Number of those answered with RST_STREAM or GOAWAY.
    pub(super) malformed: u64,
    /// Number of those answered with 431.
    pub(super) too_large: u64,
}

impl Heads {
    /// Heads have been received to their end.
    pub(super) fn received(&self, heads: u64) {
        if !self.going_away.load(Relaxed) {
            self.pending.store(self.pending.load(Relaxed) + heads, Relaxed);
        }
    }

    /// A head was passed on as a request.
    pub(super) fn passed_on(&self) {
        self.pending.store(self.pending.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// h2 has written a 431.
    pub(super) fn answered_431(&self) {
        self.too_large.store(self.too_large.load(Relaxed) + 1, Relaxed);
    }

    /// Notes whether the last read found nothing.
    pub(super) fn all_read(&self, all: bool) {
        self.all_read.store(all, Relaxed);
    }

    /// Notes whether the last write has to wait.
    pub(super) fn write_waits(&self, waits: bool) {
        self.write_waits.store(waits, Relaxed);
    }

    pub(super) fn is_write_waiting(&self) -> bool {
        self.write_waits.load(Relaxed)
    }

    pub(super) fn peer_closed(&self) {
        self.peer_closed.store(true, Relaxed);
    }

    pub(super) fn is_peer_closed(&self) -> bool {
        self.peer_closed.load(Relaxed)
    }

    /// GOAWAY is sent because of a drain.
    pub(super) fn go_away(&self) {
        self.going_away.store(true, Relaxed);
        self.pending.store(0, Relaxed);
    }

    /// Those refused so far, to be called when h2 has nothing more to do at present.
    pub(super) fn take_refused(&self) -> Option<RefusedHeads> {
        let settled = self.pending.load(Relaxed) > 0 && self.all_read.load(Relaxed) && !self.write_waits.load(Relaxed);
        settled.then(|| self.take_rest())
    }

    /// Those that were not passed on before the connection ended.
    pub(super) fn take_rest(&self) -> RefusedHeads {
        let pending = self.pending.swap(0, Relaxed);
        let too_large = self.too_large.swap(0, Relaxed).min(pending);
        RefusedHeads { malformed: pending - too_large, too_large }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(heads: &Heads) -> Option<RefusedHeads> {
        heads.all_read(true);
        heads.write_waits(false);
        heads.take_refused()
    }

    #[test]
    fn what_was_not_passed_on_was_refused_once() {
        let heads = Heads::default();
        assert_eq!(settled(&heads), None);
        heads.received(4);
        heads.passed_on();
        heads.answered_431();
        assert_eq!(settled(&heads), Some(RefusedHeads { malformed: 2, too_large: 1 }));
        assert_eq!(settled(&heads), None);
        heads.received(1);
        heads.passed_on();
        assert_eq!(settled(&heads), None);
    }

    #[test]
    fn nothing_is_decided_while_bytes_wait() {
        let heads = Heads::default();
        heads.received(1);
        heads.all_read(true);
        heads.write_waits(true);
        assert_eq!(heads.take_refused(), None);
        heads.write_waits(false);
        heads.all_read(false);
        assert_eq!(heads.take_refused(), None);
        assert_eq!(heads.take_rest(), RefusedHeads { malformed: 1, too_large: 0 });
    }

    #[test]
    fn heads_after_goaway_are_not_refused() {
        let heads = Heads::default();
        heads.received(1);
        heads.go_away();
        heads.received(1);
        assert_eq!((settled(&heads), heads.take_rest()), (None, RefusedHeads::default()));
    }
}
