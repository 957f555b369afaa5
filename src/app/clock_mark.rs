//! The file `clock-mark` in `state.dir`: how far the wall clock is ahead of the system's uptime, so that a start notices a
//! clock that has jumped while no gateway ran; and the time that it has shown, to the minute.
//!
//! What always holds: a jump that is not followed yet is not recorded, so restarts do not make it true earlier. Nothing is
//! synced: after a restart of the system, only the time may be known. Never fails: what cannot be read or written is not
//! known.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    clock_jumps::{self, ClockJumps},
    uptime::{self, millis},
};

/// The file in `state.dir`.
const FILE: &str = "clock-mark";
/// Smaller changes are not written, milliseconds.
const FINE: i64 = 1_000;
/// How often the time is written, milliseconds.
const MINUTE: u64 = 60_000;
/// Interval of the checks.
const TICK: Duration = Duration::from_secs(1);

/// Whether there is a file in `dir`: each start makes one.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

fn open(path: &Path) -> Option<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).ok()?;
    // A FIFO would keep the start waiting.
    file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
}

/// The open file.
#[derive(Debug)]
pub(super) struct ClockMark {
    path: PathBuf,
    file: Option<File>,
    boot: u64,
    written: Option<Mark>,
    /// The clocks as they were expected at the start.
    expected: ClockJumps,
    /// What the wall clock has shown an earlier process.
    latest: u64,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The run of the system.
    boot: u64,
    /// The wall clock is so far ahead of the uptime, milliseconds.
    offset: i64,
    /// What the wall clock has shown, milliseconds since 1970.
    latest: u64,
}

impl ClockMark {
    /// Reads the file in `dir`, and tells [`clock_jumps`] what the wall clock should show.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let mut file = open(&path);
        let mut text = String::new();
        let read = file.as_mut().and_then(|file| file.read_to_string(&mut text).ok());
        let boot = uptime::boot();
        let written = read.and_then(|_| Mark::parse(&text));
        let offset = written.filter(|mark| mark.boot == boot).map(|mark| mark.offset);
        let mut expected = ClockJumps::now();
        if let Some(wall) = offset.zip(uptime::since_boot()).and_then(|(offset, uptime)| wall(offset, uptime)) {
            expected.wall = wall;
            clock_jumps::expect(expected);
        }
        let latest = written.map_or(0, |mark| mark.latest);
        let mut mark = ClockMark { path, file, boot, written, expected, latest };
        mark.write();
        mark
    }

    /// The clocks at the start, as they should have been.
    pub(super) fn expected(&self) -> ClockJumps {
        self.expected
    }

    /// What the wall clock has shown an earlier process, milliseconds since 1970; 0: unknown.
    pub(super) fn latest(&self) -> u64 {
        self.latest
    }

    /// Keeps the file true until the control runtime ends. A disk that hangs delays nothing else.
    pub(super) async fn keep(mut self) {
        loop {
            tokio::time::sleep(TICK).await;
            let write = move || {
                self.write();
                self
            };
            let Ok(kept) = tokio::task::spawn_blocking(write).await else { return };
            self = kept;
        }
    }

    /// Writes what has changed, all of it if the file was removed.
    fn write(&mut self) {
        if !self.path.exists() {
            (self.file, self.written) = (open(&self.path), None);
        }
        let uptime = uptime::since_boot();
        let Some((offset, uptime)) = clock_jumps::agreed_offset(uptime).zip(uptime) else { return };
        let latest = offset.saturating_add_unsigned(millis(uptime)).try_into().unwrap_or(0);
        let mark = Mark { boot: self.boot, offset, latest };
        if self.written.is_some_and(|written| mark.is_like(written)) {
            return;
        }
        if self.file.as_ref().is_some_and(|file| file.write_all_at(mark.line().as_bytes(), 0).is_ok()) {
            self.written = Some(mark);
        }
    }
}

impl Mark {
    /// Lines are equally long.
    fn line(self) -> String {
        let Mark { boot, offset, latest } = self;
        format!("{boot:016x} {offset:+021} {latest:020}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let (boot, offset, latest) = (words.next()?, words.next()?, words.next()?);
        let boot = u64::from_str_radix(boot, 16).ok()?;
        Some(Mark { boot, offset: offset.parse().ok()?, latest: latest.parse().ok()? })
    }

    /// Whether a file that says the other need not be written again.
    fn is_like(self, other: Mark) -> bool {
        let is_same = self.boot == other.boot && (self.offset - other.offset).abs() < FINE;
        is_same && self.latest.abs_diff(other.latest) < MINUTE
    }
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
        assert!(off(&mark).abs() < 5.0 && (mark.written.is_some() || uptime::since_boot().is_none()));
        assert_eq!(mark.latest(), 0);
        let Some(written) = mark.written else { return };
        let mut again = ClockMark::open(dir.path());
        assert!(off(&again).abs() < 5.0 && again.latest().abs_diff(written.latest) < 5_000);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        again.write();
        assert!(ClockMark::open(dir.path()).written.is_some(), "it is written again");
        // In another run of the system, the clock was an hour ahead.
        let (offset, latest) = (written.offset + 3_600_000, written.latest + 3_600_000);
        let later = Mark { boot: !written.boot, offset, latest };
        std::fs::write(dir.path().join(FILE), later.line()).unwrap();
        let other_run = ClockMark::open(dir.path());
        assert!(off(&other_run).abs() < 5.0, "its uptime says nothing");
        assert_eq!(other_run.latest(), later.latest);
        let line = later.line();
        assert_eq!(Mark::parse(&line), Some(later));
        for damaged in ["", "x\n", "0000000000000000 x 1\n", "0000000000000000 +1\n", &line[..line.len() - 1]] {
            assert_eq!(Mark::parse(damaged), None);
        }
    }

    #[test]
    fn the_time_is_written_each_minute() {
        let mark = Mark { boot: 1, offset: 5_000, latest: 100_000 };
        assert!(mark.is_like(Mark { offset: 5_999, latest: 159_999, ..mark }));
        for other in [Mark { boot: 2, ..mark }, Mark { offset: 4_000, ..mark }, Mark { latest: 160_000, ..mark }] {
            assert!(!mark.is_like(other), "{other:?}");
        }
    }
}
