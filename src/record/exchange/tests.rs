//! Promises of the exchange log.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use parking_lot::Mutex;

use super::*;
use crate::config::LogBodies;

fn config(path: &Path, keep_size: u64) -> LogConfig {
    LogConfig {
        exchanges: LogTarget::File(path.to_owned()),
        bodies: LogBodies::Masked,
        keep_size,
        keep_days: 30,
        queue: 128 << 20,
        on_full: OnFull::Drop,
        mask: Vec::new(),
    }
}

fn open(path: &Path) -> ExchangeLog {
    ExchangeLog::open(&config(path, 1 << 30), &Metrics::new().unwrap(), &Arc::default()).unwrap()
}

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(5);

fn push(log: &ExchangeLog, line: &str, importance: Importance, admitted: Option<LineAdmission>) {
    log.append(NewLine::Formatted(&mut line.as_bytes().to_vec()), importance, admitted);
}

fn append(log: &ExchangeLog, line: &str) {
    push(log, line, Importance::Ordinary, None);
}

fn values(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn seqs(path: &Path) -> Vec<u64> {
    values(path).iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

/// Files of the folder but `exchanges.jsonl` and `unidentified.jsonl`, oldest first.
fn rotated(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("exchanges.jsonl") && !path.ends_with("unidentified.jsonl"));
    files.sort();
    files
}

fn counted(metrics: &Metrics, result: &str) -> usize {
    let text = metrics.text();
    let series = format!("fastrac_gateway_log_records_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |value| value.parse().unwrap())
}

mod survives {
    use super::*;

    #[test]
    fn a_restart_with_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/exchanges.jsonl");
        for _ in 0..3 {
            let log = open(&path);
            append(&log, "{\"a\":1");
            append(&log, "{\"a\":2");
            log.close(CLOSE);
        }
        assert_eq!(seqs(&path), [1, 2, 3, 4, 5, 6]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for folder in [path.parent().unwrap(), path.parent().unwrap().parent().unwrap()] {
            assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_crash_in_the_middle_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        for (before, seq) in [("{\"a\":1,\"seq\":7}\n{\"a\":2,\"se", 8), ("{\"a\":2,\"se", 1), ("\0\0\0", 1)] {
            fs::write(&path, before).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let log = open(&path);
            append(&log, "{\"a\":3");
            log.close(CLOSE);
            let lines = values(&path);
            let [torn, next] = &lines[lines.len() - 2..] else { panic!("{lines:?}") };
            assert_eq!((&torn["event"], &torn["seq"]), (&"torn".into(), &seq.into()));
            assert!(torn["bytes"].as_u64().unwrap() > 0);
            assert_eq!(next["seq"], seq + 1);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_that_is_not_its_own_by_putting_it_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        fs::write(&path, "{\"notes\":\"of mine\"}\n").unwrap();
        let log = open(&path);
        append(&log, "{\"a\":1");
        log.close(CLOSE);
        assert_eq!(seqs(&path), [1]);
        assert_eq!(fs::read_to_string(&rotated(folder.path())[0]).unwrap(), "{\"notes\":\"of mine\"}\n");
    }

    #[test]
    fn a_file_that_is_no_log_by_leaving_it_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        for text in ["[main]\naccess_key = \"a\"\n", "no line break", "\n", "redb\u{1a}\n\u{a9}"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let opened = ExchangeLog::open(&config(&path, 1 << 30), &Metrics::new().unwrap(), &Arc::default());
            assert!(opened.is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
            assert!(rotated(folder.path()).is_empty());
        }
    }

    #[test]
    fn a_second_process_by_refusing_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let log = open(&path);
        let second = ExchangeLog::open(&config(&path, 1 << 30), &Metrics::new().unwrap(), &Arc::default());
        assert!(matches!(second, Err(LogError::Locked { .. })));
        log.close(CLOSE);
    }
}

mod rotates {
    use super::*;

    #[test]
    fn by_size_without_losing_a_line_or_growing_beyond_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        fs::write(folder.path().join("exchanges-notes.jsonl"), "mine").unwrap();
        let metrics = Metrics::new().unwrap();
        let log = ExchangeLog::open(&config(&path, 64 * 1024), &metrics, &Arc::default()).unwrap();
        let line = format!("{{\"a\":\"{}\"", "x".repeat(500));
        for _ in 0..100 {
            append(&log, &line);
        }
        log.close(CLOSE);
        let mut files = rotated(folder.path());
        files.retain(|path| !path.ends_with("exchanges-notes.jsonl"));
        files.push(path.clone());
        let lines: usize = files
            .iter()
            .map(|file| {
                let seqs = seqs(file);
                assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
                assert!(fs::metadata(file).unwrap().len() <= 8 * 1024);
                assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
                seqs.len()
            })
            .sum();
        assert_eq!(lines, 100);

        // Going on past what is kept removes the oldest, and nothing that is not its own.
        let log = ExchangeLog::open(&config(&path, 64 * 1024), &metrics, &Arc::default()).unwrap();
        for _ in 0..200 {
            append(&log, &line);
        }
        log.close(CLOSE);
        let total: u64 =
            rotated(folder.path()).iter().chain([&path]).map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(total <= 64 * 1024 + 4, "{total}");
        assert!(!files[0].exists() && folder.path().join("exchanges-notes.jsonl").exists());
        assert_eq!(counted(&metrics, "written"), 300);
    }

    #[test]
    fn to_what_a_reload_allows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let metrics = Metrics::new().unwrap();
        let log = ExchangeLog::open(&config(&path, 1 << 30), &metrics, &Arc::default()).unwrap();
        let old = folder.path().join("exchanges-20200101T000000.000Z.jsonl");
        fs::write(&old, "x".repeat(8_000)).unwrap();
        let append_one = |count: usize| {
            append(&log, "{\"a\":1");
            let until = Instant::now() + Duration::from_secs(20);
            while counted(&metrics, "written") < count {
                assert!(Instant::now() < until);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        log.set_limits(&LogConfig { keep_days: 0, ..config(&path, 1 << 30) });
        append_one(1);
        assert!(old.exists());
        log.set_limits(&LogConfig { keep_days: 0, ..config(&path, 8_000) });
        append_one(2);
        assert!(!old.exists());
        log.close(CLOSE);
    }

    #[test]
    fn by_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let old = ["exchanges-20200101T000000.000Z.jsonl", "exchanges-20200102T000000.000Z.jsonl.gz"];
        let others = ["exchanges-20200101T000000.000Z.txt", "unidentified-20200101.jsonl", "exchanges-notes.jsonl"];
        for name in old.iter().chain(&others) {
            fs::write(folder.path().join(name), "{\"seq\":1}\n").unwrap();
        }
        fs::write(&path, "{\"time\":\"2026-01-01T00:00:00.000Z\",\"seq\":1}\n").unwrap();
        let log = open(&path);
        append(&log, "{\"a\":1");
        log.close(CLOSE);
        assert_eq!(seqs(&path), [1], "the file of a day ago was put aside");
        assert!(old.iter().all(|name| !folder.path().join(name).exists()));
        assert!(others.iter().all(|name| folder.path().join(name).exists()));
        assert_eq!(rotated(folder.path()).len(), 1 + others.len());
    }

    #[test]
    fn to_names_in_the_order_of_rotation_whatever_the_clock_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        // Of a clock that was ahead; a file with the next name exists too.
        for name in ["exchanges-20990101T000000.000Z.jsonl.zst", "exchanges-20990101T000000.002Z.jsonl"] {
            fs::write(folder.path().join(name), "{\"seq\":1}\n").unwrap();
        }
        let log = ExchangeLog::open(&config(&path, 32 * 1024), &Metrics::new().unwrap(), &Arc::default()).unwrap();
        let line = format!("{{\"a\":\"{}\"", "x".repeat(1500));
        (0..12).for_each(|_| append(&log, &line));
        log.close(CLOSE);
        let names: Vec<_> = rotated(folder.path()).iter().map(|path| path.display().to_string()).collect();
        assert!(names.len() > 5, "{names:?}");
        for (index, name) in names[1..].iter().enumerate() {
            assert!(name.ends_with(&format!("exchanges-20990101T000000.00{}Z.jsonl", index + 2)), "{names:?}");
        }
    }
}

/// What other programs do to the file while it is written to.
mod withstands {
    use super::*;

    /// Appends `count` lines and waits until they are written.
    fn write(log: &ExchangeLog, metrics: &Metrics, count: usize) {
        let before = counted(metrics, "written");
        (0..count).for_each(|_| append(log, "{\"a\":1"));
        let until = Instant::now() + Duration::from_secs(10);
        while counted(metrics, "written") < before + count {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }

    /// Lines of requests and the names of events in a file; its numbers have no gap.
    fn contents(path: &Path) -> (usize, Vec<String>) {
        let values = values(path);
        assert_eq!(seqs(path), (1..=values.len() as u64).collect::<Vec<_>>(), "{}", path.display());
        let events = values.iter().filter_map(|line| Some(line["event"].as_str()?.to_owned())).collect();
        (values.iter().filter(|line| line.get("a").is_some()).count(), events)
    }

    struct Disturbed {
        folder: tempfile::TempDir,
        path: std::path::PathBuf,
        metrics: Arc<Metrics>,
        log: ExchangeLog,
    }

    /// A log with three lines.
    fn disturbed() -> Disturbed {
        let folder = tempfile::tempdir().unwrap();
        let (path, metrics) = (folder.path().join("log/exchanges.jsonl"), Metrics::new().unwrap());
        let log = ExchangeLog::open(&config(&path, 1 << 30), &metrics, &Arc::default()).unwrap();
        write(&log, &metrics, 3);
        Disturbed { folder, path, metrics, log }
    }

    #[test]
    fn a_file_that_is_moved_and_removed_between_two_batches() {
        let Disturbed { folder, path, metrics, log } = disturbed();
        for _ in 0..5 {
            let moved = folder.path().join("moved");
            fs::rename(&path, &moved).unwrap();
            fs::remove_file(&moved).unwrap();
            write(&log, &metrics, 2);
            assert_eq!(contents(&path), (2, vec![]));
        }
    }

    #[test]
    fn a_folder_that_is_removed() {
        let Disturbed { folder: _folder, path, metrics, log } = disturbed();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        write(&log, &metrics, 2);
        assert_eq!(contents(&path), (2, vec![]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_replaced() {
        let Disturbed { folder, path, metrics, log } = disturbed();
        // What logrotate does with `create`.
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        fs::write(&path, "").unwrap();
        write(&log, &metrics, 2);
        assert_eq!((contents(&moved).0, contents(&path).0), (3, 2));
        // Something else entirely.
        let other = folder.path().join("other");
        fs::write(&other, "mine\n").unwrap();
        fs::rename(&other, &path).unwrap();
        write(&log, &metrics, 2);
        assert_eq!(contents(&path), (2, vec![]));
        assert_eq!(fs::read_to_string(&rotated(path.parent().unwrap())[0]).unwrap(), "mine\n");
    }

    #[test]
    fn a_file_that_is_truncated() {
        let Disturbed { folder: _folder, path, metrics, log } = disturbed();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        write(&log, &metrics, 2);
        assert_eq!(contents(&path), (2, vec!["truncated".to_owned()]));
        // In the middle of a line.
        let length = fs::metadata(&path).unwrap().len();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
        write(&log, &metrics, 2);
        let events = ["truncated", "torn", "truncated"].map(str::to_owned).to_vec();
        assert_eq!(contents(&path), (3, events));
    }

    #[test]
    fn lines_of_another_program_in_the_file() {
        let Disturbed { folder: _folder, path, metrics, log } = disturbed();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"mine\n").unwrap();
        write(&log, &metrics, 2);
        assert_eq!(contents(&path), (2, vec![]));
        let aside = fs::read_to_string(&rotated(path.parent().unwrap())[0]).unwrap();
        assert!(aside.lines().count() == 4 && aside.ends_with("mine\n"));
    }

    #[test]
    fn a_read_only_file_and_a_read_only_name() {
        let Disturbed { folder: _folder, path, metrics, log } = disturbed();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        write(&log, &metrics, 2);
        assert_eq!(contents(&path).0, 5);
        // A folder in its place: nothing can be written, and nothing is counted as written.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        append(&log, "{\"a\":1");
        std::thread::sleep(TICKS);
        assert_eq!(counted(&metrics, "written"), 5);
        fs::remove_dir(&path).unwrap();
        write(&log, &metrics, 1);
        log.close(CLOSE);
        assert_eq!((contents(&path).0, counted(&metrics, "written"), counted(&metrics, "dropped")), (2, 7, 0));
    }

    /// Longer than the writer collects lines and than it waits before it tries again.
    const TICKS: Duration = Duration::from_millis(400);
}

/// Lines that take long to be masked were lost at a stop, and those behind them.
#[test]
fn bodies_are_left_out_once_the_time_for_closing_is_half_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exchanges.jsonl");
    let metrics = Metrics::new().unwrap();
    let log = ExchangeLog::open(&config(&path, 1 << 30), &metrics, &Arc::default()).unwrap();
    let within = Duration::from_secs(2);
    let (closes, closing) = std::sync::mpsc::channel();
    let first = move |out: &mut Vec<u8>, has_time| {
        out.extend_from_slice(format!("{{\"bodies\":{has_time}").as_bytes());
        closing.recv().unwrap();
        std::thread::sleep(within / 2 + within / 8);
    };
    let next = |out: &mut Vec<u8>, has_time| out.extend_from_slice(format!("{{\"bodies\":{has_time}").as_bytes());
    for line in [DeferredLine::new(9, first), DeferredLine::new(9, next)] {
        log.append(NewLine::Deferred(line), Importance::Ordinary, None);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| log.close(within));
        while !log.queues.as_ref().unwrap().identified.queue.lock().is_closing() {
            std::thread::sleep(Duration::from_millis(1));
        }
        closes.send(()).unwrap();
    });
    let bodies: Vec<_> = values(&path).iter().map(|line| line["bodies"].clone()).collect();
    assert_eq!(bodies, [true, false]);
    assert!(metrics.text().contains("fastrac_gateway_log_bodies_dropped_total 1"));
}

/// Requests of unknown callers beside those of services.
mod keeps_apart {
    use super::*;

    #[test]
    fn requests_of_unknown_callers_with_an_allowance_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let metrics = Metrics::new().unwrap();
        let log = ExchangeLog::open(&config(&path, 640 * 1024), &metrics, &Arc::default()).unwrap();
        let flood = format!("{{\"u\":\"{}\"", "x".repeat(2000));
        for index in 0..1000 {
            push(&log, &flood, Importance::Unidentified, None);
            if index % 50 == 0 {
                push(&log, "{\"a\":1", Importance::Order, None);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        log.close(CLOSE);
        assert_eq!(seqs(&path), (1..=20).collect::<Vec<_>>());
        let unidentified = folder.path().join("unidentified.jsonl");
        assert_eq!(fs::metadata(&unidentified).unwrap().permissions().mode() & 0o777, 0o600);
        let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        let sizes = files.filter(|file| file.file_name().to_str().unwrap().starts_with("unidentified"));
        let (count, total) =
            sizes.fold((0, 0), |(count, total), file| (count + 1, total + file.metadata().unwrap().len()));
        assert!(count > 3 && total <= 64 * 1024, "{count} files, {total} bytes");
        assert!(values(&unidentified).iter().all(|line| line.get("a").is_none()));
        assert_eq!(counted(&metrics, "written") + counted(&metrics, "dropped"), 1020);
    }

    #[test]
    fn nothing_where_the_output_is_no_file() {
        let (log, gate, _) = gated(OnFull::Block);
        gate.open.store(true, Ordering::SeqCst);
        push(&log, "{\"a\":1", Importance::Unidentified, None);
        append(&log, "{\"a\":2");
        log.close(CLOSE);
        let seqs: Vec<_> = gate.lines().iter().map(|line| (line["a"].clone(), line["seq"].clone())).collect();
        assert_eq!(seqs, [(1.into(), 1.into()), (2.into(), 2.into())]);
    }
}

/// A target that accepts nothing until it is opened, and keeps what it accepted.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<AtomicBool>,
    tries: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        if !self.open.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Never more than a part.
        let part = &bytes[..bytes.len().min(1000)];
        self.taken.lock().extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Size of a queue, in bytes. With `block`, requests begin until it is half full.
const QUEUE: usize = 64 << 20;
const ADMITTING: usize = QUEUE / 2;

fn gated(on_full: OnFull) -> (ExchangeLog, Gate, Arc<Metrics>) {
    let (gate, metrics) = (Gate::default(), Metrics::new().unwrap());
    let reports = LogReports { metrics: &metrics, degraded: &Arc::default() };
    let log = ExchangeLog::start_stream(gate.clone(), QueueSettings { size: QUEUE, on_full }, reports).unwrap();
    (log, gate, metrics)
}

impl Gate {
    fn lines(&self) -> Vec<Value> {
        let taken = self.taken.lock();
        taken.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}

mod when_full {
    use super::*;

    #[test]
    fn drops_counts_and_writes_the_gap() {
        let (log, gate, metrics) = gated(OnFull::Drop);
        let line = format!("{{\"a\":\"{}\"", "x".repeat(100_000));
        let mut sent = 0;
        // The writer holds one batch, so two queues' worth overflow it surely.
        while counted(&metrics, "dropped") < 5 {
            append(&log, &line);
            sent += 1;
        }
        gate.open.store(true, Ordering::SeqCst);
        log.close(CLOSE);
        let (lines, dropped) = (gate.lines(), counted(&metrics, "dropped"));
        let told: u64 =
            lines.iter().filter(|line| line["event"] == "dropped").map(|line| line["count"].as_u64().unwrap()).sum();
        assert_eq!(told as usize, dropped);
        assert_eq!(lines.iter().filter(|line| line.get("a").is_some()).count() + dropped, sent);
        let seqs: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=lines.len() as u64).collect::<Vec<_>>());
        assert!(gate.tries.load(Ordering::SeqCst) > 1);
    }

    #[test]
    fn no_line_takes_the_room_of_others_and_bodies_have_less_than_lines() {
        let (log, gate, metrics) = gated(OnFull::Drop);
        let line = |name: &str| format!("{{\"{name}\":\"{}\"", "x".repeat(100_000));
        let fill = |importance, name: &str| {
            let (before, mut with_bodies) = (counted(&metrics, "dropped"), 0);
            while counted(&metrics, "dropped") == before {
                with_bodies += usize::from(log.accepts_bodies(importance, 100_000));
                push(&log, &line(name), importance, None);
            }
            with_bodies
        };
        // In whichever order they come.
        let orders = fill(Importance::Order, "o");
        let unidentified = fill(Importance::Unidentified, "u");
        let ordinary = fill(Importance::Ordinary, "a");
        // Four fifths of 1, 15 and 48 MiB.
        assert_eq!((unidentified, ordinary, orders), (8, 125, 402));
        gate.open.store(true, Ordering::SeqCst);
        log.close(CLOSE);
        let lines = gate.lines();
        let count = |name: &str| lines.iter().filter(|line| line.get(name).is_some()).count();
        assert!(count("u") > unidentified && count("a") > ordinary && count("o") > orders);
        let dropped: u64 = lines
            .iter()
            .filter_map(|line| (line["event"] == "dropped").then(|| line["count"].as_u64()).flatten())
            .sum();
        assert_eq!((counted(&metrics, "dropped"), dropped), (3, 3));
    }

    #[test]
    fn a_large_body_takes_no_room_of_lines() {
        let (log, gate, metrics) = gated(OnFull::Drop);
        // A third of the room for ordinary lines.
        let large = format!("{{\"b\":\"{}\"", "x".repeat(5 << 20));
        let mut with_bodies = 0;
        for _ in 0..100 {
            if log.accepts_bodies(Importance::Ordinary, large.len() as u64) {
                with_bodies += 1;
                append(&log, &large);
            } else {
                append(&log, "{\"a\":1");
            }
        }
        assert_eq!((with_bodies, counted(&metrics, "dropped")), (2, 0));
        gate.open.store(true, Ordering::SeqCst);
        log.close(CLOSE);
        assert_eq!(gate.lines().len(), 100);
    }

    #[tokio::test]
    async fn a_request_waits_for_room_and_loses_no_line() {
        let (log, gate, metrics) = gated(OnFull::Block);
        let soon = || Instant::now() + Duration::from_millis(20);
        let line = format!("{{\"a\":\"{}\"", "x".repeat(100_000));
        let mut sent = 0;
        while let Ok(admitted) = log.await_room(soon()).await {
            push(&log, &line, Importance::Ordinary, admitted);
            sent += 1;
        }
        let fit = ADMITTING.div_ceil(line.len() + 1);
        assert_eq!(sent, fit);
        // In the order in which they came.
        let later = Instant::now() + Duration::from_secs(10);
        let waiting = (0..3).map(|_| log.await_room(later));
        let mut waiting: Vec<_> = waiting.map(Box::pin).collect();
        for one in &mut waiting {
            assert!(tokio::time::timeout(Duration::from_millis(5), one).await.is_err());
        }
        gate.open.store(true, Ordering::SeqCst);
        for one in waiting {
            push(&log, &line, Importance::Ordinary, one.await.unwrap());
        }
        log.close(CLOSE);
        assert_eq!(gate.lines().len(), sent + 3);
        assert_eq!(counted(&metrics, "dropped"), 0);
    }

    /// Each held a place until its line was written, so those that waited for slow uploads and slow readers refused all others.
    #[tokio::test]
    async fn a_request_waits_for_no_other_one() {
        let (log, gate, metrics) = gated(OnFull::Block);
        let line = "{\"a\":1";
        let mut begun = Vec::new();
        for _ in 0..2 * ADMITTING / 1024 {
            begun.push(log.await_room(Instant::now()).await.unwrap());
        }
        // What has begun has its line, however full the queue is.
        let long = format!("{{\"b\":\"{}\"", "x".repeat(ADMITTING));
        push(&log, &long, Importance::Order, begun.pop().unwrap());
        assert_eq!(log.await_room(Instant::now()).await.unwrap_err(), QueueFull);
        let count = begun.len();
        begun.into_iter().for_each(|admitted| push(&log, line, Importance::Ordinary, admitted));
        gate.open.store(true, Ordering::SeqCst);
        log.close(CLOSE);
        assert_eq!((gate.lines().len(), counted(&metrics, "dropped")), (count + 1, 0));
    }

    /// The room of all lines that the writer has taken came back with the last of them: masking long bodies takes long.
    #[tokio::test]
    async fn a_written_line_gives_its_room_back_before_those_after_it() {
        let (log, gate, _) = gated(OnFull::Block);
        let admitted = || async { log.await_room(Instant::now() + CLOSE).await.unwrap() };
        let (first, second) = (admitted().await, admitted().await);
        // The writer waits with this one, and takes the others together.
        append(&log, "{\"a\":1");
        while gate.tries.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let long = format!("{{\"b\":\"{}\"", "x".repeat(ADMITTING));
        push(&log, &long, Importance::Order, first);
        let slow = DeferredLine::new(1, move |line, _| {
            let _ = held.recv_timeout(2 * CLOSE);
            line.extend_from_slice(b"{\"c\":1");
        });
        log.append(NewLine::Deferred(slow), Importance::Order, second);
        assert_eq!(log.await_room(Instant::now()).await.unwrap_err(), QueueFull);
        gate.open.store(true, Ordering::SeqCst);
        admitted().await;
        go_on.send(()).unwrap();
        log.close(CLOSE);
        assert_eq!(gate.lines().len(), 3);
    }
}

#[test]
fn lines_are_on_their_way_within_a_second_without_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exchanges.jsonl");
    let log = open(&path);
    append(&log, "{\"a\":1");
    let until = Instant::now() + Duration::from_secs(1);
    while fs::metadata(&path).unwrap().len() == 0 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    log.close(CLOSE);
}

#[test]
fn what_comes_after_the_close_is_counted_as_dropped() {
    let (log, gate, metrics) = gated(OnFull::Drop);
    gate.open.store(true, Ordering::SeqCst);
    append(&log, "{\"a\":1");
    log.close(CLOSE);
    append(&log, "{\"a\":2");
    log.close(CLOSE);
    assert_eq!((gate.lines().len(), counted(&metrics, "dropped")), (1, 1));
}

#[test]
fn a_target_that_accepts_nothing_does_not_block_the_end() {
    let (log, _, metrics) = gated(OnFull::Drop);
    append(&log, "{\"a\":1");
    let began = Instant::now();
    log.close(CLOSE);
    assert!(began.elapsed() < CLOSE);
    assert_eq!(counted(&metrics, "dropped"), 1);
}
