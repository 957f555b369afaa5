//! Finds jumps of the wall clock against the monotonic one.
//!
//! Slow corrections and pauses of the process are none. Never fails.

use std::time::{Duration, Instant, SystemTime};

/// A larger difference between two looks is a jump.
const JUMP: Duration = Duration::from_secs(60);

/// Both clocks at the last look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockJumps {
    pub(crate) wall: SystemTime,
    pub(crate) at: Instant,
}

/// By how far the wall clock has jumped, in whole seconds; negative: back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockJump(pub(crate) i64);

impl ClockJumps {
    pub(crate) fn now() -> Self {
        ClockJumps { wall: SystemTime::now(), at: Instant::now() }
    }

    /// The jump since the last look, if there was one.
    pub(crate) fn look(&mut self, now: ClockJumps) -> Option<ClockJump> {
        let expected = self.wall + now.at.saturating_duration_since(self.at);
        *self = now;
        let (ahead, difference) = match now.wall.duration_since(expected) {
            Ok(ahead) => (1, ahead),
            Err(behind) => (-1, behind.duration()),
        };
        (difference > JUMP).then(|| ClockJump(ahead * i64::try_from(difference.as_secs()).unwrap_or(i64::MAX)))
    }
}
