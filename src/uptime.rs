//! The run of the system: which one it is, and how long it has lasted.
//!
//! Linux only; elsewhere nothing is known, and callers do without. Never fails.

use std::{fs, time::Duration};

use sha2::{Digest as _, Sha256};

/// The step of [`since_boot`], which rounds down.
pub(crate) const STEP: Duration = Duration::from_millis(10);

/// The run of the system. Where it is unknown, a number that no other start has.
pub(crate) fn boot() -> u64 {
    match fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => {
            let digest = Sha256::digest(&id);
            digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        }
        Err(_) => fastrand::u64(..),
    }
}

/// Time since the system's start, suspends included; no change of the wall clock changes it. `None` where it is unknown.
pub(crate) fn since_boot() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(Duration::from_secs(seconds.parse().ok()?) + STEP * hundredths.parse().ok()?)
}
