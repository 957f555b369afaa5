//! The file `clock-mark` in `state.dir`: how far the wall clock is ahead of the system's uptime, so that a start notices a
//! clock that has jumped while no gateway ran.
//!
//! What always holds: a jump that is not followed yet is not recorded, so restarts do not make it true earlier. Nothing is
//! synced: after a restart of the system the file says nothing. Never fails: what cannot be read or written is not known.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    clock_jumps::{self, ClockJumps},
    uptime,
};

/// The file in `state.dir`.
const FILE: &str = "clock-mark";
/// Smaller changes are not written, milliseconds.
const FINE: i64 = 1_000;

/// Whether there is a file in `dir`: each start makes one.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

fn open(path: &Path) -> Option<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).ok()
}

/// The open file.
#[derive(Debug)]
pub(super) struct ClockMark {
    path: PathBuf,
    file: Option<File>,
    boot: u64,
    /// Milliseconds, as written.
    offset: Option<i64>,
    /// The clocks as they were expected at the start.
    expected: ClockJumps,
}

impl ClockMark {
    /// Reads the file in `dir`, and tells [`clock_jumps`] what the wall clock should show.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let mut file = open(&path);
        let mut text = String::new();
        let read = file.as_mut().and_then(|file| file.read_to_string(&mut text).ok());
        let boot = uptime::boot();
        let offset = read.and_then(|_| parse(&text, boot));
        let mut expected = ClockJumps::now();
        if let Some(wall) = offset.zip(uptime::since_boot()).and_then(|(offset, uptime)| wall(offset, uptime)) {
            expected.wall = wall;
            clock_jumps::expect(expected);
        }
        let mut mark = ClockMark { path, file, boot, offset, expected };
        mark.write();
        mark
    }

    /// The clocks at the start, as they should have been.
    pub(super) fn expected(&self) -> ClockJumps {
        self.expected
    }

    /// Writes what has changed, all of it if the file was removed.
    pub(super) fn write(&mut self) {
        if !self.path.exists() {
            (self.file, self.offset) = (open(&self.path), None);
        }
        let now = clock_jumps::agreed_offset(uptime::since_boot());
        let Some(offset) = now.filter(|now| self.offset.is_none_or(|known| (known - now).abs() >= FINE)) else {
            return;
        };
        let text = format!("{:016x} {offset:+021}\n", self.boot);
        if self.file.as_ref().is_some_and(|file| file.write_all_at(text.as_bytes(), 0).is_ok()) {
            self.offset = Some(offset);
        }
    }
}

fn parse(text: &str, boot: u64) -> Option<i64> {
    let (run, offset) = text.strip_suffix('\n')?.split_once(' ')?;
    (u64::from_str_radix(run, 16) == Ok(boot)).then(|| offset.parse().ok()).flatten()
}

fn wall(offset: i64, uptime: Duration) -> Option<SystemTime> {
    let millis = offset.checked_add(i64::try_from(uptime.as_millis()).ok()?)?;
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(millis).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_knows_what_the_clock_should_show() {
        let dir = tempfile::tempdir().unwrap();
        let off = |mark: &ClockMark| {
            let (wall, expected) = (ClockJumps::now().wall, mark.expected().wall);
            wall.duration_since(expected)
                .map_or_else(|late| -late.duration().as_secs_f64(), |early| early.as_secs_f64())
        };
        let mark = ClockMark::open(dir.path());
        assert!(off(&mark).abs() < 5.0 && (mark.offset.is_some() || uptime::since_boot().is_none()));
        let Some(offset) = mark.offset else { return };
        let again = ClockMark::open(dir.path());
        assert!(off(&again).abs() < 5.0);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        let mut again = again;
        again.write();
        assert!(ClockMark::open(dir.path()).offset.is_some(), "it is written again");
        // An hour less: the clock is ahead.
        let text = format!("{:016x} {:+021}\n", mark.boot, offset - 3_600_000);
        assert_eq!(parse(&text, mark.boot), Some(offset - 3_600_000));
        assert_eq!(parse(&text, mark.boot ^ 1), None, "another run of the system");
        for damaged in ["", "x\n", "0000000000000000 x\n", &text[..text.len() - 1]] {
            assert_eq!(parse(damaged, mark.boot), None);
        }
    }
}
