//! One record of every request: what is counted and written of it.
//!
//! The path opens a [`Record`], fills its fields, and lets go of it; metrics and log line are made
//! exactly once, when it is dropped, however the request ended. So requests counted = lines written
//! (+ lines counted as dropped). Secrets and personal data are masked on the way into the line.
//! Knows the closed lists of `outcome` and the names of the configuration, no other room. Never
//! fails and never waits, but for [`Record::reserve`].

mod attempt;
mod encode;
mod exchange;
mod handles;
mod id;
mod line;
mod mask;
mod metrics;
mod program;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Method, Uri};
use prometheus::IntGauge;

use self::handles::{MetricHandles, NONE};
pub use self::{
    attempt::AttemptTimer,
    exchange::{ExchangeLog, LogError, LogReservation, QueueFull},
    id::{InvalidRequestId, RequestId},
    line::CapturedBody,
    mask::{MASKED, Masker},
    metrics::{
        ConnectionGuard, ConnectionState, CountedConnection, Handshake, Handshakes, KeyInfo, Metrics,
        OPENMETRICS_CONTENT_TYPE, SERIES_LIMIT, Scrape, TEXT_CONTENT_TYPE, UpstreamConnections,
    },
    program::{init_program_log, report_panics},
};
use crate::{
    config::Class,
    outcome::{Code, Outcome, Sent},
};

/// A thread keeps the buffer it formats lines in, unless a body made it larger than this.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Names of one configuration snapshot. The indices are what records carry; no index, or an unknown one, reads `-`.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Accounts.
    pub accounts: Vec<String>,
    /// Services, each with the index of its account.
    pub services: Vec<(String, usize)>,
    /// Operations with their class; `unlisted` is one of them.
    pub operations: Vec<(String, Class)>,
}

impl Names {
    fn account(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.accounts.get(index)).map_or(NONE, String::as_str)
    }

    fn account_of(&self, service: Option<usize>) -> &str {
        self.account(service.and_then(|index| self.services.get(index)).map(|(_, account)| *account))
    }

    fn service(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.services.get(index)).map_or(NONE, |(name, _)| name)
    }

    fn operation(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.operations.get(index)).map_or(NONE, |(name, _)| name)
    }

    fn class(&self, index: Option<usize>) -> Option<Class> {
        index.and_then(|index| self.operations.get(index)).map(|(_, class)| *class)
    }
}

/// What the cache did for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// Answered from a fresh entry.
    Hit,
    /// Asked Fastrac.
    Miss,
    /// Answered from an entry past its freshness.
    Stale,
    /// Shared the answer of a request that was on its way.
    Joined,
    /// The cache was passed by.
    Bypass,
}

impl CacheResult {
    /// All, in the order of the discriminants.
    pub const ALL: [CacheResult; 5] =
        [CacheResult::Hit, CacheResult::Miss, CacheResult::Stale, CacheResult::Joined, CacheResult::Bypass];

    /// The word in metrics and log.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheResult::Hit => "hit",
            CacheResult::Miss => "miss",
            CacheResult::Stale => "stale",
            CacheResult::Joined => "joined",
            CacheResult::Bypass => "bypass",
        }
    }
}

/// One request sent to Fastrac.
#[derive(Clone, Copy, Debug)]
pub struct CountedAttempt {
    /// Index of the account.
    pub account: usize,
    /// Index of the operation.
    pub operation: Option<usize>,
    /// Fastrac's status; `None`: no answer.
    pub status: Option<u16>,
    /// From sending to the end of what was read.
    pub took: Duration,
}

/// Where records go. One for each configuration snapshot; a new one goes on counting in the same series.
pub struct Recorder {
    metrics: Arc<Metrics>,
    log: ExchangeLog,
    mask: Arc<Masker>,
    names: Names,
    slots: MetricHandles,
    labels: line::RenderedLabels,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Nothing is resolved yet: series appear when they are first used.
    pub fn new(metrics: Arc<Metrics>, log: ExchangeLog, mask: Arc<Masker>, names: Names) -> Arc<Recorder> {
        let (slots, labels) = (MetricHandles::new(&names), line::RenderedLabels::new(&names));
        Arc::new(Recorder { metrics, log, mask, names, slots, labels })
    }

    /// Opens the record of a request whose head was read, and starts its clock. Without an id it gets one.
    pub fn open(self: &Arc<Self>, id: Option<RequestId>, method: Method, uri: Uri) -> Record {
        self.begin(id, Some((method, uri)))
    }

    /// Opens the record of a head that could not be read: `-` everywhere, under an id made for the line.
    pub fn unreadable(self: &Arc<Self>, status: Option<u16>, code: Code) -> Record {
        let mut record = self.begin(None, None);
        record.refused(code);
        record.status = status;
        record
    }

    /// Counts one request sent to Fastrac, canary look-ups too.
    pub fn upstream(&self, attempt: CountedAttempt) {
        self.slots.upstream(&self.metrics, &self.names, attempt);
    }

    /// Counts a request that is sent again.
    pub fn retried(&self, account: usize) {
        self.slots.retried(&self.metrics, &self.names, account);
    }

    /// Whether bodies will be written, so that they are worth holding.
    pub fn wants_bodies(&self) -> bool {
        self.mask.bodies() && self.log.writes()
    }

    fn begin(self: &Arc<Self>, id: Option<RequestId>, request: Option<(Method, Uri)>) -> Record {
        let began = SystemTime::now();
        Record {
            id: id.unwrap_or_else(|| RequestId::made(began)),
            request,
            operation: None,
            status: None,
            outcome: Outcome::ClientGone,
            code: None,
            cache: None,
            sent: Sent::No,
            attempts: 0,
            key_version: None,
            upstream: Duration::ZERO,
            waited: Duration::ZERO,
            caller: Duration::ZERO,
            request_body: CapturedBody::default(),
            answer_body: CapturedBody::default(),
            stored_from: None,
            service: None,
            began,
            started: Instant::now(),
            answered: None,
            in_flight: None,
            place: None,
            recorder: Arc::clone(self),
        }
    }

    fn count(&self, record: &Record, took: Duration) {
        let labels =
            handles::RequestLabels { service: record.service, operation: record.operation, outcome: record.outcome };
        let (metrics, names) = (&self.metrics, &self.names);
        let own = record.answered.unwrap_or(took).saturating_sub(record.upstream).saturating_sub(record.caller);
        self.slots.count(metrics, names, labels);
        self.slots.observe(metrics, names, labels, (took, own));
        if let Some(result) = record.cache {
            self.slots.cache(metrics, names, record.operation, result);
            let saved = match result {
                CacheResult::Hit | CacheResult::Joined => true,
                CacheResult::Stale => record.sent == Sent::No,
                CacheResult::Miss | CacheResult::Bypass => false,
            };
            if saved {
                self.slots.saved(metrics, names, record.operation);
            }
        }
    }

    fn write(&self, record: &Record, place: Option<LogReservation>, took: Duration) {
        let went = record.sent != Sent::No && record.attempts > 0;
        let page = line::LineContext {
            labels: &self.labels,
            masker: &self.mask,
            began: record.began,
            took,
            bodies: went && self.mask.bodies(),
            readable: record.outcome != Outcome::Leak
                && !matches!(self.names.class(record.operation), None | Some(Class::Unlisted)),
        };
        LINE.with_borrow_mut(|line| {
            line.clear();
            line::write(line, record, &page);
            self.log.append(line, place);
            if line.capacity() > SCRATCH {
                *line = Vec::new();
            }
        });
    }
}

/// One request's account, filled by the path. Counted and written when it is dropped.
pub struct Record {
    /// The request's name.
    pub id: RequestId,
    /// Index of the operation.
    pub operation: Option<usize>,
    /// Status of the answer; `None`: none was given.
    pub status: Option<u16>,
    /// Until it is set, the caller is taken to have left.
    pub outcome: Outcome,
    /// Why the gateway answered itself.
    pub code: Option<Code>,
    /// What the cache did; `None`: it has nothing to do with this operation.
    pub cache: Option<CacheResult>,
    /// Whether Fastrac saw this request.
    pub sent: Sent,
    /// How often it was sent.
    pub attempts: u32,
    /// Version of the key pair of the last attempt.
    pub key_version: Option<Arc<str>>,
    /// Time spent waiting for Fastrac, also on another request's behalf (joined).
    pub upstream: Duration,
    /// Time spent waiting for the account's budget; part of the overhead.
    pub waited: Duration,
    /// Time spent waiting for the caller's bytes; no part of the overhead.
    pub caller: Duration,
    /// The request's body. Written only if the request went to Fastrac.
    pub request_body: CapturedBody,
    /// The answer's body. Written only if the request went to Fastrac.
    pub answer_body: CapturedBody,
    /// Id of the exchange whose stored answer was given.
    pub stored_from: Option<Arc<str>>,
    request: Option<(Method, Uri)>,
    service: Option<usize>,
    began: SystemTime,
    started: Instant,
    answered: Option<Duration>,
    in_flight: Option<IntGauge>,
    place: Option<LogReservation>,
    recorder: Arc<Recorder>,
}

impl Record {
    /// Where it goes.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Who asks is known: index of the service. From here to the end it is in flight.
    pub fn identified(&mut self, service: usize) {
        self.service = Some(service);
        let gauge = self.recorder.slots.in_flight(&self.recorder.metrics, &self.recorder.names, service).clone();
        gauge.inc();
        if let Some(before) = self.in_flight.replace(gauge) {
            before.dec();
        }
    }

    /// Index of the service, once known.
    pub fn service(&self) -> Option<usize> {
        self.service
    }

    /// Sets code and outcome of a refusal.
    pub fn refused(&mut self, code: Code) {
        self.code = Some(code);
        self.outcome = code.outcome();
    }

    /// A panic failed it: says so in the program's log, under the name that its caller knows.
    pub fn failed(&self) {
        tracing::error!(request_id = self.id.as_str(), "a request failed on a panic of the gateway");
    }

    /// The answer's head is ready: what follows is the caller's pace, not the gateway's.
    pub fn answered(&mut self) {
        self.answered.get_or_insert(self.started.elapsed());
    }

    /// When the request began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Makes sure that its line has a place in the log (`on_full = "block"`; else at once).
    ///
    /// # Errors
    /// [`QueueFull`] if there is none until the deadline: the request must not begin.
    pub async fn reserve(&mut self, deadline: Instant) -> Result<(), QueueFull> {
        self.place = Some(self.recorder.log.reserve(deadline).await?);
        Ok(())
    }
}

impl std::fmt::Debug for Record {
    /// Without target and bodies: what they hold is masked only on the way into the line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("id", &self.id).field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if let Some(gauge) = self.in_flight.take() {
            gauge.dec();
        }
        if self.outcome == Outcome::ClientGone && std::thread::panicking() {
            self.refused(Code::GatewayInternal);
            self.status.get_or_insert(Code::GatewayInternal.status().as_u16());
            self.failed();
        }
        let place = self.place.take();
        self.recorder.count(self, took);
        if self.recorder.log.writes() {
            self.recorder.write(self, place, took);
        }
    }
}
