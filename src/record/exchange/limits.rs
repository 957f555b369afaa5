//! How much of a log is kept. A reload changes it while the log's threads run. Never fails.

use parking_lot::Mutex;

use crate::config::LogConfig;

/// `log.keep`, for all files of the log.
pub(super) struct LogLimits(Mutex<Kept>);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Bytes, all files together.
    pub(super) size: u64,
    /// 0: no limit.
    pub(super) days: u32,
}

impl LogLimits {
    pub(super) fn new(config: &LogConfig) -> Self {
        Self(Mutex::new(kept(config)))
    }

    pub(super) fn set(&self, config: &LogConfig) {
        *self.0.lock() = kept(config);
    }

    pub(super) fn get(&self) -> Kept {
        *self.0.lock()
    }
}

fn kept(config: &LogConfig) -> Kept {
    Kept { size: config.keep_size, days: config.keep_days }
}
