//! When a sealed copy is to be written: at once for another pair, and now and then to say that its
//! source was read well since. Never fails.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::keys::{LoadedPair, PairVersion};

/// How far behind the copy's own age may be, at most, and which part of `max_age`: so much earlier does
/// a pair out of it end.
const BEHIND: Duration = Duration::from_secs(60);
const PART: u32 = 20;

/// The copy's state.
#[derive(Default)]
pub(super) struct CopySchedule {
    /// What was written last, and how fresh its source was then.
    last: Option<(PairVersion, Instant)>,
    busy: bool,
}

impl CopySchedule {
    /// Whether this pair, whose source was read well at `read_at`, is to be written now. It counts as
    /// being written.
    pub(super) fn begins(&mut self, held: &Arc<LoadedPair>, read_at: Instant, max_age: Duration) -> bool {
        let behind = BEHIND.min(max_age / PART);
        let written = |(version, at): (PairVersion, Instant)| version == held.version() && read_at < at + behind;
        if self.busy || self.last.is_some_and(written) {
            return false;
        }
        (self.busy, self.last) = (true, Some((held.version(), read_at)));
        true
    }

    /// It was written, or not: then it is tried again when it would be anyway.
    pub(super) fn ended(&mut self) {
        self.busy = false;
    }
}
