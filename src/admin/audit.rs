//! The audit log: one line for every POST and every refused token, in a file beside the exchange log.
//!
//! What always holds: writing never delays a request or the control thread, because a thread of its own collects the
//! lines, which leaves writing them to another; what finds no room in its queue is counted and reported in the file. A
//! flood can neither fill the disk nor push out lines of operators: a token that was compared has a line (how many those are of one peer is limited by `guard`); of
//! what is refused without that, a peer has few lines (`refused_requests`). The rest is summed up by
//! peer, with its time. The file is opened for each batch, so it may be moved at any time; it is never pruned. It has
//! whole lines only: a batch is written whole or not at all, and a line that a crash cut short becomes an event that
//! quotes it. While it cannot be written, or its disk does not respond, commands are carried out all the same (a key must be
//! revocable then, too), the lines wait, each is also in the program's log, and the gateway is degraded. What is not written
//! at the end is in the program's log. Opening fails with [`AuditError`].

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    net::IpAddr,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};

use super::refused_requests::{LineLimits, RefusedRequests, RefusedSums};
use crate::{
    config::{AUDIT, Config, LogTarget},
    degraded::{DegradedReason, DegradedReports},
    files::read::WITHOUT_WAITING,
    record::UNLIMITED,
};

/// How soon after a request without a line a summary says so, and the minimum time between two summaries.
const SUMMARY: Duration = Duration::from_secs(5);
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// Lines that may wait for the thread.
const QUEUE: usize = 1024;
/// Bytes that may wait for the disk.
const WAITING_MAX: usize = 256 * 1024;
/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a write may take until its disk counts as one that does not respond.
const SLOW: Duration = Duration::from_secs(1);
/// How long the last write may take at the end.
const LAST_WRITE: Duration = Duration::from_millis(250);
/// Maximum size of a torn last line, in bytes: that of a batch.
const TORN_MAX: u64 = WAITING_MAX as u64;

/// The audit log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {path} cannot be written: {source}", path = path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// Opens the log and starts its thread; clones share it.
#[derive(Clone)]
pub struct Audit {
    queue: Arc<SyncSender<QueueItem>>,
    left_out: Arc<LeftOut>,
    limits: Arc<LineLimits>,
    ended: Arc<Mutex<Option<Receiver<()>>>>,
}

/// What the thread is given.
enum QueueItem {
    Line(Vec<u8>),
    /// A request has no line: a summary is due.
    Summarize,
    Written(WriteResult),
    End,
}

/// What came of a write.
struct WriteResult {
    /// An event that quotes a line which the file does not hold any more; empty: there was none. Written with the others.
    torn: Vec<u8>,
    result: io::Result<()>,
}

/// What has no line.
#[derive(Default)]
struct LeftOut {
    /// Requests without a right token, beyond the limits, by peer.
    refused: RefusedSums,
    /// Lines that found no room in the queue.
    dropped: AtomicU64,
}

/// What a command acted on, and what came of it: members of its line. The command fills it in; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct AuditSubject(Arc<Mutex<Map<String, Value>>>);

impl AuditSubject {
    /// Adds a member. Never text of the request that was not recognised: it may be a misplaced secret.
    pub(super) fn name(&self, member: &str, value: impl Into<Value>) {
        self.0.lock().insert(member.to_owned(), value.into());
    }

    pub(super) fn take(&self) -> Map<String, Value> {
        std::mem::take(&mut self.0.lock())
    }
}

/// A request, as the log describes it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AuditLine<'a> {
    /// Name of the token; `None`: no token, or a wrong one.
    pub(super) token: Option<&'a str>,
    pub(super) peer: Option<IpAddr>,
    pub(super) action: &'static str,
    /// `done`, `refused`, or `unknown` if a command was cut off by a stop or has panicked.
    pub(super) result: &'static str,
    pub(super) status: u16,
    /// Whether a token was compared, and not only refused because there were too many.
    #[serde(skip)]
    pub(super) compared: bool,
    #[serde(flatten)]
    pub(super) subject: Map<String, Value>,
}

/// A line with its time.
#[derive(Serialize)]
struct TimedLine<'a> {
    time: String,
    #[serde(flatten)]
    line: AuditLine<'a>,
}

/// A line about the log itself.
#[derive(Serialize)]
struct AuditEvent {
    time: String,
    event: &'static str,
    count: u64,
    /// Whose requests, and when they came.
    #[serde(flatten)]
    refused: Option<RefusedSpan>,
}

#[derive(Serialize)]
struct RefusedSpan {
    /// `None`: of several peers.
    peer: Option<IpAddr>,
    from: String,
    to: String,
}

/// A line that was cut short.
#[derive(Serialize)]
struct TornLine {
    time: String,
    event: &'static str,
    text: String,
}

fn now() -> String {
    text(Timestamp::now())
}

fn text(time: Timestamp) -> String {
    format!("{time:.3}")
}

fn encode(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

impl Audit {
    /// Opens the file beside the exchange log, or in `state.dir` if that log is no file of a folder, and starts the
    /// thread.
    ///
    /// # Errors
    /// [`AuditError`] if the file cannot be opened, or the thread cannot be started.
    pub fn open(config: &Config, reports: Arc<DegradedReports>) -> Result<Audit, AuditError> {
        let beside = match &config.log.exchanges {
            // A device or a pipe has no folder for files.
            LogTarget::File(path) if path.metadata().is_ok_and(|meta| !meta.is_file()) => None,
            LogTarget::File(path) => Some(path.with_file_name(AUDIT)),
            LogTarget::Stdout | LogTarget::None => None,
        };
        let path = beside.unwrap_or_else(|| config.state.dir.join(AUDIT));
        let failed = |source| AuditError { path: path.clone(), source };
        let torn = open(&path).and_then(|mut file| take_torn_line(&mut file)).map_err(failed)?;
        let (queue, received) = sync_channel(QUEUE);
        let queue = Arc::new(queue);
        let (end, ended) = sync_channel(1);
        let left_out = Arc::new(LeftOut::default());
        let writer = AuditWriter {
            path: path.clone(),
            queue: Arc::downgrade(&queue),
            left_out: left_out.clone(),
            reports,
            waiting: torn,
            ongoing: None,
            told: 0,
            failing: false,
            retry_at: None,
            summary_at: None,
            summarized: None,
        };
        let thread = std::thread::Builder::new().name("audit-log".to_owned());
        let run = move || {
            writer.run(&received);
            drop(end);
        };
        thread.spawn(run).map_err(failed)?;
        let limits = Arc::new(LineLimits::new());
        Ok(Audit { queue, left_out, limits, ended: Arc::new(Mutex::new(Some(ended))) })
    }

    /// Appends a line. Does not wait.
    pub(super) fn write(&self, line: AuditLine<'_>) {
        if line.token.is_none() && !self.limits.admit(line.peer, line.compared) {
            if self.left_out.refused.add(line.peer) {
                // A full queue has other items that wake the thread.
                let _ = self.queue.try_send(QueueItem::Summarize);
            }
            return;
        }
        let line = encode(&TimedLine { time: now(), line });
        if self.queue.try_send(QueueItem::Line(line)).is_err() {
            self.left_out.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Writes what was appended so far, to the program's log if it cannot be otherwise, and ends the thread; later lines are
    /// lost. Waits at most so long. Blocks.
    pub fn close(&self, within: Duration) {
        if self.queue.try_send(QueueItem::End).is_ok()
            && let Some(ended) = self.ended.lock().take()
        {
            // An error says that the thread has ended.
            let _ = ended.recv_timeout(within);
        }
    }
}

/// Collects the lines, and has them written by a thread for each batch: nothing that a disk does keeps it from telling
/// operators of them.
struct AuditWriter {
    path: PathBuf,
    /// For the results of writes.
    queue: Weak<SyncSender<QueueItem>>,
    left_out: Arc<LeftOut>,
    reports: Arc<DegradedReports>,
    /// The batch that is being written.
    ongoing: Option<OngoingWrite>,
    /// Lines that come after it.
    waiting: Vec<u8>,
    /// Bytes of both that are in the program's log.
    told: usize,
    /// Whether the last write has failed, or hangs: each line is told.
    failing: bool,
    /// When a failed write is tried again.
    retry_at: Option<Instant>,
    /// When a summary of the requests without a line is due, and when the last one was written.
    summary_at: Option<Instant>,
    summarized: Option<Instant>,
}

struct OngoingWrite {
    lines: Arc<Vec<u8>>,
    /// When it counts as one that hangs; `None`: that was reported.
    slow_at: Option<Instant>,
}

impl AuditWriter {
    fn run(mut self, queue: &Receiver<QueueItem>) {
        loop {
            self.begin_write();
            let slow = self.ongoing.as_ref().and_then(|write| write.slow_at);
            let retry = self.retry_at.filter(|_| self.ongoing.is_none());
            let first = match [slow, retry, self.summary_at].into_iter().flatten().min() {
                Some(until) => queue.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut ended = matches!(first, Err(RecvTimeoutError::Disconnected));
            for item in first.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok())) {
                ended |= self.receive(item);
            }
            self.summarize(ended);
            if ended {
                return self.finish(queue);
            }
            self.report_hang();
            if self.failing {
                self.tell();
            }
        }
    }

    /// Returns whether that was the end.
    fn receive(&mut self, item: QueueItem) -> bool {
        match item {
            QueueItem::Line(line) => self.take(&line),
            QueueItem::Summarize => {}
            QueueItem::Written(written) => self.written(written),
            QueueItem::End => return true,
        }
        false
    }

    /// Writes the last lines; those for which there is no time, or no room, are told.
    fn finish(&mut self, queue: &Receiver<QueueItem>) {
        let until = Instant::now() + LAST_WRITE;
        let mut is_last = false;
        loop {
            while self.ongoing.is_some()
                && let Ok(item) = queue.recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                self.receive(item);
            }
            if self.ongoing.is_some() || std::mem::replace(&mut is_last, true) {
                return self.tell();
            }
            self.retry_at = None;
            self.begin_write();
        }
    }

    /// Adds lines about what has none, when that is due.
    fn summarize(&mut self, ended: bool) {
        if !self.left_out.refused.is_empty() {
            let now = Instant::now();
            let again = self.summarized.map(|last| last + SUMMARY_INTERVAL);
            let at = *self.summary_at.get_or_insert_with(|| (now + SUMMARY).max(again.unwrap_or(now)));
            if ended || at <= now {
                (self.summary_at, self.summarized) = (None, Some(now));
                for (peer, RefusedRequests { count, from, to }) in self.left_out.refused.take() {
                    let span = RefusedSpan { peer, from: text(from), to: text(to) };
                    self.event("suppressed", count, Some(span));
                }
            }
        }
        let dropped = self.left_out.dropped.swap(0, Relaxed);
        self.event("dropped", dropped, None);
    }

    fn take(&mut self, line: &[u8]) {
        if self.unwritten() + line.len() <= WAITING_MAX {
            self.waiting.extend_from_slice(line);
        } else {
            self.left_out.dropped.fetch_add(1, Relaxed);
        }
    }

    fn event(&mut self, event: &'static str, count: u64, refused: Option<RefusedSpan>) {
        if count > 0 && self.unwritten() <= WAITING_MAX {
            self.waiting.extend(encode(&AuditEvent { time: now(), event, count, refused }));
        } else if count > 0 {
            self.left_out.dropped.fetch_add(count, Relaxed);
        }
    }

    /// Bytes that are not written yet.
    fn unwritten(&self) -> usize {
        self.ongoing.as_ref().map_or(0, |write| write.lines.len()) + self.waiting.len()
    }

    /// Begins to write the waiting lines, if nothing is being written.
    fn begin_write(&mut self) {
        let now = Instant::now();
        if self.ongoing.is_some() || self.waiting.is_empty() || self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.retry_at = None;
        let lines = Arc::new(std::mem::take(&mut self.waiting));
        self.ongoing = Some(OngoingWrite { lines: lines.clone(), slow_at: Some(now + SLOW) });
        let path = self.path.clone();
        // Nobody sends lines any more: this is the end.
        let Some(queue) = self.queue.upgrade() else { return self.written(append(&path, &lines)) };
        // Not the last handle: its end is that of the collecting thread.
        let queue = SyncSender::clone(&queue);
        let write = move || {
            // An error: the collecting thread has ended, and has told the lines.
            let _ = queue.send(QueueItem::Written(append(&path, &lines)));
        };
        if let Err(error) = std::thread::Builder::new().name("audit-write".to_owned()).spawn(write) {
            self.written(WriteResult { torn: Vec::new(), result: Err(error) });
        }
    }

    fn written(&mut self, WriteResult { torn, result }: WriteResult) {
        let Some(OngoingWrite { lines, .. }) = self.ongoing.take() else { return };
        match result {
            Ok(()) => {
                self.told = self.told.saturating_sub(lines.len());
                if std::mem::take(&mut self.failing) {
                    self.reports.withdraw(DegradedReason::AuditFailing, "");
                }
            }
            Err(error) => {
                self.told += torn.len();
                self.waiting.splice(0..0, torn.into_iter().chain(lines.iter().copied()));
                self.retry_at = Some(Instant::now() + RETRY);
                tracing::error!(%error, "the audit log cannot be written");
                self.fail("audit log: the last line could not be written");
            }
        }
    }

    /// Reports a write that hangs, once.
    fn report_hang(&mut self) {
        let Some(write) = &mut self.ongoing else { return };
        if write.slow_at.is_some_and(|at| at <= Instant::now()) {
            write.slow_at = None;
            tracing::error!("the audit log cannot be written: its disk does not respond");
            self.fail("audit log: its disk does not respond; the last lines are not written yet");
        }
    }

    fn fail(&mut self, text: &'static str) {
        self.failing = true;
        self.reports.report(DegradedReason::AuditFailing, "", text);
    }

    /// Writes the lines that are not written to the program's log, each once.
    fn tell(&mut self) {
        let ongoing = self.ongoing.as_ref().map_or(&[][..], |write| &write.lines);
        let untold = [ongoing, &self.waiting].concat().split_off(self.told);
        for line in String::from_utf8_lossy(&untold).lines() {
            tracing::warn!(target: UNLIMITED, line, "a line of the audit log that could not be written yet");
        }
        self.told += untold.len();
    }
}

/// Appends lines: all of them or, where that fails, none.
fn append(path: &Path, lines: &[u8]) -> WriteResult {
    let mut torn = Vec::new();
    let mut write = || {
        let mut file = open(path)?;
        torn = take_torn_line(&mut file)?;
        let before = file.metadata()?.len();
        file.write_all(&[&torn, lines].concat()).inspect_err(|_| drop(file.set_len(before)))
    };
    let result = write();
    WriteResult { torn, result }
}

/// Opens the file for appending.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(WITHOUT_WAITING).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Cuts off a last line without an end, which a crash has left; returns an event that quotes it, or nothing.
fn take_torn_line(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut last = *b"\n";
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == *b"\n" {
        return Ok(Vec::new());
    }
    file.seek(SeekFrom::Start(length.saturating_sub(TORN_MAX)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let torn = end.split_off(memchr::memrchr(b'\n', &end).map_or(0, |at| at + 1));
    file.set_len(length - torn.len() as u64)?;
    Ok(encode(&TornLine { time: now(), event: "torn", text: String::from_utf8_lossy(&torn).into_owned() }))
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::admin::refused_requests::{BURST, SUMMARY_PEERS};

    fn line(token: Option<&str>) -> AuditLine<'_> {
        let (peer, subject) = (Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), Map::new());
        AuditLine { token, peer, action: "reload", result: "done", status: 200, compared: false, subject }
    }

    fn opened(folder: &Path) -> (Audit, Arc<DegradedReports>, PathBuf) {
        let text = super::super::tests::configuration("");
        let mut config = crate::config::check::check(&text, folder, &Default::default()).config.unwrap();
        config.log.exchanges = LogTarget::File(folder.join("exchanges.jsonl"));
        let reports = Arc::new(DegradedReports::default());
        (Audit::open(&config, reports.clone()).unwrap(), reports, folder.join(AUDIT))
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn floods_are_summed_up_by_peer_and_neither_operators_nor_compared_tokens_are() {
        let folder = tempfile::tempdir().unwrap();
        let (audit, _, path) = opened(folder.path());
        let peers = ["192.0.2.7", "2001:db8::7"].map(|peer| peer.parse::<IpAddr>().unwrap());
        let flood = 5 * u64::from(BURST.get());
        for index in 0..flood {
            for peer in peers {
                audit.write(AuditLine { peer: Some(peer), status: 429, ..line(None) });
            }
            if index % 50 == 0 {
                audit.write(line(Some("ops")));
                audit.write(AuditLine { status: 401, compared: true, ..line(None) });
                // The queue must not be the limit.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        audit.close(Duration::from_secs(10));
        let lines = lines(&path);
        let count = |name: &str, value: &serde_json::Value| lines.iter().filter(|line| line[name] == *value).count();
        let times = usize::try_from(flood / 50).unwrap();
        assert_eq!((count("token", &"ops".into()), count("status", &401.into())), (times, times));
        for peer in peers.map(|peer| serde_json::Value::from(peer.to_string())) {
            let of_peer = || lines.iter().filter(|line| line["peer"] == peer);
            let written = of_peer().filter(|line| line["status"] == 429).count() as u64;
            let sums = of_peer().filter(|line| line["event"] == "suppressed");
            let sum: u64 = sums.clone().map(|line| line["count"].as_u64().unwrap()).sum();
            assert_eq!(written + sum, flood, "each is on record");
            assert!(written <= u64::from(BURST.get()) + 1, "{written}");
            assert!(sums.clone().all(|line| line["from"].as_str() <= line["to"].as_str()), "{lines:?}");
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_flood_of_many_peers_has_a_bound_too() {
        let folder = tempfile::tempdir().unwrap();
        let (audit, _, path) = opened(folder.path());
        let peers = 2 * SUMMARY_PEERS as u32;
        for peer in 0..peers {
            audit.left_out.refused.add(Some(IpAddr::V4(Ipv4Addr::from_bits(peer))));
        }
        audit.close(Duration::from_secs(10));
        let counts: Vec<_> = lines(&path).iter().map(|line| line["count"].as_u64().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().sum()), (SUMMARY_PEERS + 1, u64::from(peers)));
    }

    #[test]
    fn a_torn_line_is_quoted_and_a_file_that_was_moved_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(AUDIT), "{\"whole\":1}\n{\"torn\"").unwrap();
        let (audit, _, path) = opened(folder.path());
        audit.write(line(Some("a")));
        while !fs::read_to_string(&path).unwrap().contains("\"a\"") {
            std::thread::yield_now();
        }
        let written = lines(&path);
        assert_eq!((&written[0]["whole"], &written[2]["token"]), (&1.into(), &"a".into()));
        assert_eq!((&written[1]["event"], &written[1]["text"]), (&"torn".into(), &"{\"torn\"".into()));
        fs::rename(&path, folder.path().join("audit-1.jsonl")).unwrap();
        audit.write(line(Some("b")));
        audit.close(Duration::from_secs(10));
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn while_it_cannot_be_written_lines_wait_and_the_gateway_is_degraded() {
        let folder = tempfile::tempdir().unwrap();
        let (audit, reports, path) = opened(folder.path());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        audit.write(line(Some("a")));
        let wait_until = |degraded: bool| {
            let until = Instant::now() + Duration::from_secs(20);
            while reports.list().is_empty() == degraded {
                assert!(Instant::now() < until);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait_until(true);
        fs::remove_dir(&path).unwrap();
        wait_until(false);
        assert_eq!(lines(&path)[0]["token"], "a");
        audit.close(Duration::from_secs(10));
    }
}
