//! Files of bucket marks: what token buckets held at one instant, which is known by two clocks.
//!
//! What always holds: a file is the old one or the new one, also if the process is killed while it writes; one that was
//! changed is not read. Nothing is synced. It does not know when marks are used. Reading never fails: such a file is
//! `None`. Writing fails with the system's error.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    admission::{BucketMark, CounterId},
    files::read::read_own,
    uptime::{MarkAge, STEP, TimeMark, millis},
};

/// Encoded as JSON, behind a line with its SHA-256.
#[derive(Serialize, Deserialize)]
pub(super) struct BucketFile {
    #[serde(flatten)]
    written: TimeMark,
    buckets: Vec<BucketRow>,
}

/// A counter's kind and name, tokens, part of the rate in millionths, and rest of a pause in milliseconds.
type BucketRow = (u8, String, u64, u32, u64);

impl BucketFile {
    /// The marks as they are now.
    pub(super) fn new<'a>(boot: u64, marks: impl Iterator<Item = (&'a CounterId, BucketMark)>) -> Self {
        let row = |(id, mark): (&CounterId, BucketMark)| {
            let (kind, name) = id.parts();
            (kind, name.to_owned(), mark.tokens, mark.rate_part, millis(mark.paused_for) + 1)
        };
        BucketFile { written: TimeMark::now(boot), buckets: marks.map(row).collect() }
    }

    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = read_own(path).ok()?;
        let at = bytes.iter().position(|byte| *byte == b'\n')?;
        let (sum, body) = (&bytes[..at], &bytes[at + 1..]);
        (sum == checksum(body).as_bytes()).then(|| serde_json::from_slice(body).ok()).flatten()
    }

    /// Replaces the file at `path`.
    ///
    /// # Errors
    /// The system's; the file has not changed then.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let body = serde_json::to_vec(self)?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", checksum(&body))?;
        file.write_all(&body)?;
        fs::rename(&new, path)
    }

    /// Time since it was written, rounded down.
    pub(super) fn age(&self, boot: u64) -> MarkAge {
        let age = self.written.until(TimeMark::now(boot));
        // The first uptime was rounded down.
        MarkAge { by_uptime: age.by_uptime.map(|age| age.saturating_sub(STEP)), ..age }
    }

    pub(super) fn marks(self) -> impl Iterator<Item = (CounterId, BucketMark)> {
        self.buckets.into_iter().filter_map(|(kind, name, tokens, rate_part, paused)| {
            let mark = BucketMark { tokens, rate_part, paused_for: Duration::from_millis(paused) };
            Some((CounterId::from_parts(kind, &name)?, mark))
        })
    }
}

fn checksum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
