//! The time of a reading of the source.

use jiff::Timestamp;
use tokio::time::Instant;

/// The time of a reading, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAt {
    /// For ages and deadlines.
    pub(crate) instant: Instant,
    /// For people.
    pub(crate) wall: Timestamp,
}

impl ReadAt {
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), wall: Timestamp::now() }
    }
}
