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

use super::{
    queue::{CAPACITY, UNIT},
    *,
};
use crate::config::LogBodies;

fn config(path: &Path, keep_size: u64) -> LogConfig {
    LogConfig {
        exchanges: LogTarget::File(path.to_owned()),
        bodies: LogBodies::Masked,
        keep_size,
        keep_days: 30,
        on_full: OnFull::Drop,
        mask: Vec::new(),
    }
}

fn open(path: &Path) -> ExchangeLog {
    ExchangeLog::open(&config(path, 1 << 30), &Metrics::new().unwrap()).unwrap()
}

fn values(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn seqs(path: &Path) -> Vec<u64> {
    values(path).iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

/// Files of the folder but `exchanges.jsonl`, oldest first.
fn rotated(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("exchanges.jsonl"));
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
            log.append(b"{\"a\":1", None);
            log.append(b"{\"a\":2", None);
            log.close();
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
            log.append(b"{\"a\":3", None);
            log.close();
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
        fs::write(&path, "notes of mine\n").unwrap();
        let log = open(&path);
        log.append(b"{\"a\":1", None);
        log.close();
        assert_eq!(seqs(&path), [1]);
        assert_eq!(fs::read_to_string(&rotated(folder.path())[0]).unwrap(), "notes of mine\n");
    }

    #[test]
    fn a_second_process_by_refusing_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let log = open(&path);
        let second = ExchangeLog::open(&config(&path, 1 << 30), &Metrics::new().unwrap());
        assert!(matches!(second, Err(LogError::Locked { .. })));
        log.close();
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
        let log = ExchangeLog::open(&config(&path, 64 * 1024), &metrics).unwrap();
        let line = format!("{{\"a\":\"{}\"", "x".repeat(500));
        for _ in 0..100 {
            log.append(line.as_bytes(), None);
        }
        log.close();
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
        let log = ExchangeLog::open(&config(&path, 64 * 1024), &metrics).unwrap();
        for _ in 0..200 {
            log.append(line.as_bytes(), None);
        }
        log.close();
        let total: u64 =
            rotated(folder.path()).iter().chain([&path]).map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(total <= 64 * 1024 + 4, "{total}");
        assert!(!files[0].exists() && folder.path().join("exchanges-notes.jsonl").exists());
        assert_eq!(counted(&metrics, "written"), 300);
    }

    #[test]
    fn by_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let old = folder.path().join("exchanges-20200101T000000.000Z.jsonl");
        fs::write(&old, "{\"seq\":1}\n").unwrap();
        fs::write(&path, "{\"time\":\"2026-01-01T00:00:00.000Z\",\"seq\":1}\n").unwrap();
        let (files, found) = LogFiles::open(&path, 1 << 30, 30).unwrap();
        assert_eq!(found.seq, 1);
        assert!(files.needs_new_file());
        assert!(!old.exists());
    }

    #[test]
    fn when_the_file_was_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let (mut files, _) = LogFiles::open(&path, 1 << 30, 30).unwrap();
        assert!(!files.needs_new_file());
        fs::rename(&path, folder.path().join("moved")).unwrap();
        assert!(files.needs_new_file());
        files.rotate().unwrap();
        assert!(!files.needs_new_file() && path.exists() && rotated(folder.path()).len() == 1);
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

fn gated(on_full: OnFull) -> (ExchangeLog, Gate, Arc<Metrics>) {
    let (gate, metrics) = (Gate::default(), Metrics::new().unwrap());
    let log = ExchangeLog::start(Queue::new(), LogOutput::Other(Box::new(gate.clone())), on_full, &metrics).unwrap();
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
            log.append(line.as_bytes(), None);
            sent += 1;
        }
        gate.open.store(true, Ordering::SeqCst);
        log.close();
        let (lines, dropped) = (gate.lines(), counted(&metrics, "dropped"));
        let told: u64 =
            lines.iter().filter(|line| line["event"] == "dropped").map(|line| line["count"].as_u64().unwrap()).sum();
        assert_eq!(told as usize, dropped);
        assert_eq!(lines.iter().filter(|line| line.get("a").is_some()).count() + dropped, sent);
        let seqs: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=lines.len() as u64).collect::<Vec<_>>());
        assert!(gate.tries.load(Ordering::SeqCst) > 1);
    }

    #[tokio::test]
    async fn a_request_waits_for_room_and_loses_no_line() {
        let (log, gate, metrics) = gated(OnFull::Block);
        let soon = || Instant::now() + Duration::from_millis(20);
        let line = format!("{{\"a\":\"{}\"", "x".repeat(100_000));
        let mut sent = 0;
        loop {
            match log.reserve(soon()).await {
                Ok(place) => log.append(line.as_bytes(), Some(place)),
                Err(QueueFull) => break,
            }
            sent += 1;
        }
        assert!((CAPACITY / line.len()..CAPACITY / line.len() + 2).contains(&sent), "{sent}");
        gate.open.store(true, Ordering::SeqCst);
        let place = log.reserve(Instant::now() + Duration::from_secs(10)).await.unwrap();
        log.append(line.as_bytes(), Some(place));
        log.close();
        assert_eq!(gate.lines().len(), sent + 1);
        assert_eq!(counted(&metrics, "dropped"), 0);
    }

    #[tokio::test]
    async fn released_room_is_available_again() {
        let (log, gate, _) = gated(OnFull::Block);
        gate.open.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            let mut places = Vec::new();
            for _ in 0..CAPACITY / UNIT {
                places.push(log.reserve(Instant::now()).await.unwrap());
            }
            assert_eq!(log.reserve(Instant::now()).await.unwrap_err(), QueueFull);
        }
        log.close();
    }
}

#[test]
fn lines_are_on_their_way_within_a_second_without_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exchanges.jsonl");
    let log = open(&path);
    log.append(b"{\"a\":1", None);
    let until = Instant::now() + Duration::from_secs(1);
    while fs::metadata(&path).unwrap().len() == 0 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    log.close();
}

#[test]
fn what_comes_after_the_close_is_counted_as_dropped() {
    let (log, gate, metrics) = gated(OnFull::Drop);
    gate.open.store(true, Ordering::SeqCst);
    log.append(b"{\"a\":1", None);
    log.close();
    log.append(b"{\"a\":2", None);
    log.close();
    assert_eq!((gate.lines().len(), counted(&metrics, "dropped")), (1, 1));
}

#[test]
fn a_target_that_accepts_nothing_does_not_block_the_end() {
    let (log, _, metrics) = gated(OnFull::Drop);
    log.append(b"{\"a\":1", None);
    let began = Instant::now();
    log.close();
    assert!(began.elapsed() < CLOSE_TIMEOUT);
    assert_eq!(counted(&metrics, "dropped"), 1);
}
