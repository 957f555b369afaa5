//! When an encrypted copy is written: at once for another pair, and from time to time to record that its
//! source was read successfully. Never fails.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::keys::{LoadedPair, PairVersion};

/// How much older than the last reading the time in a copy may be: at most this long, and at most `max_age /
/// PART`. A pair restored from it becomes too old that much earlier.
const BEHIND: Duration = Duration::from_secs(60);
const PART: u32 = 20;

struct WrittenCopy {
    version: PairVersion,
    /// When its source had been read.
    read_at: Instant,
}

#[derive(Default)]
pub(super) struct CopySchedule {
    /// The copy that was written last.
    last: Option<WrittenCopy>,
    /// Whether a copy is being written.
    busy: bool,
}

impl CopySchedule {
    /// Whether this pair, whose source was last read at `read_at`, is to be written now; if so, it counts as
    /// being written.
    pub(super) fn begins(&mut self, held: &Arc<LoadedPair>, read_at: Instant, max_age: Duration) -> bool {
        let behind = BEHIND.min(max_age / PART);
        let current = |last: &WrittenCopy| last.version == held.version() && read_at < last.read_at + behind;
        if self.busy || self.last.as_ref().is_some_and(current) {
            return false;
        }
        (self.busy, self.last) = (true, Some(WrittenCopy { version: held.version(), read_at }));
        true
    }

    /// Writing ended. A copy that failed is written again when the next one is due.
    pub(super) fn ended(&mut self) {
        self.busy = false;
    }
}
