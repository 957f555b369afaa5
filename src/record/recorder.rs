//! Opens records and, when they are dropped, counts them and writes their lines.
//!
//! Always holds: a record is counted and written exactly once (one that no caller waits for is only written, if it was sent);
//! its drop does not panic. Only
//! [`Record::await_log`] waits or fails.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Uri, request::Parts};
use prometheus::IntGauge;
use tokio_util::sync::CancellationToken;

use super::{
    drift::ResponseComparison,
    exchange::{DeferredLine, ExchangeLog, Importance, LineAdmission, NewLine, QueueFull},
    facts::{RequestFacts, RequestTarget},
    handles::{CountedAttempt, Durations, MetricHandles, RequestLabels},
    id::RequestId,
    line,
    mask::{Masker, Presented, stored::RememberedRequest},
    metrics::Metrics,
    names::{CacheResult, Names},
    shown::{self, RequestToShow, ShownRequest},
};
use crate::{
    config::Class,
    deadline::timed,
    outcome::{Code, Outcome, RetryReason, Sent},
};

/// Largest buffer that a thread keeps for formatting lines, bytes.
const MAX_KEPT_BUFFER: usize = 64 * 1024;

/// Size of bodies above which the log's thread masks them and not the thread that serves requests, bytes. One service's
/// large bodies would make the requests of others wait: masking 1 MiB takes milliseconds.
const DEFER_ABOVE: u64 = 64 * 1024;

/// About how long a line is without its bodies, bytes.
const LINE_SIZE: u64 = 1024;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where records go. Each configuration snapshot has its own; all count in the same series.
pub struct Recorder {
    log: ExchangeLog,
    masker: Arc<Masker>,
    handles: MetricHandles,
    labels: line::RenderedLabels,
    /// Cancelled when a shutdown cuts off what is still in progress.
    cut: CancellationToken,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("names", self.handles.names()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Series appear when they are first used, so this creates none.
    pub fn new(
        metrics: Arc<Metrics>,
        log: ExchangeLog,
        masker: Arc<Masker>,
        names: Names,
        cut: CancellationToken,
    ) -> Arc<Recorder> {
        let labels = line::RenderedLabels::new(&names);
        Arc::new(Recorder { log, masker, handles: MetricHandles::new(metrics, names), labels, cut })
    }

    /// Opens the record of a request whose head was read. It gets a new id unless it has a valid one.
    pub fn open_request(self: &Arc<Self>, head: &Parts) -> Record {
        let presented = Presented::read(&head.headers);
        // A caller that confuses its headers must not find its secret in the log.
        let secret = |id: &RequestId| {
            let id = id.as_str().as_bytes();
            self.masker.holds_live_secret(None, id) || self.masker.holds_callers_secret(&presented, id)
        };
        let id = RequestId::from_headers(&head.headers).filter(|id| !secret(id));
        let mut record = self.open(id, head.method.clone(), head.uri.clone());
        record.facts.presented = presented;
        record
    }

    /// Opens the record of a request, and starts its clock. Without an `id` it gets a new one.
    pub fn open(self: &Arc<Self>, id: Option<RequestId>, method: Method, uri: Uri) -> Record {
        self.begin(id, Some(RequestTarget { method, uri }))
    }

    /// Opens the record of a fetch for an account that no caller waits for. It is not counted as a request, and has a line
    /// only if it was sent.
    pub fn open_own(self: &Arc<Self>, account: usize, method: Method, uri: Uri) -> Record {
        let mut record = self.open(None, method, uri);
        record.facts.own_account = Some(account);
        record
    }

    /// Opens the record of a request that is refused before its head was read: it has `-` for every label and a new id.
    /// `status`: of the response, if there is one.
    pub fn unreadable(self: &Arc<Self>, status: Option<u16>, code: Code) -> Record {
        let mut record = self.begin(None, None);
        record.refused(code);
        record.status = status;
        record
    }

    /// Opens the record of a head that was received but not read before its client left.
    pub fn abandoned(self: &Arc<Self>) -> Record {
        self.begin(None, None)
    }

    /// Counts one attempt to send a request to Fastrac, canary look-ups included.
    pub(super) fn count_attempt(&self, attempt: CountedAttempt) {
        self.handles.upstream(attempt);
    }

    /// Counts a request that may have been sent, for the service that it is for; absent: it is the gateway's own.
    pub fn sent(&self, service: Option<usize>, account: usize) {
        self.handles.sent(service, account);
    }

    /// Counts a stored response that was compared with the one that replaced it.
    pub fn compared(&self, operation: usize, comparison: ResponseComparison) {
        self.handles.compared(operation, comparison);
    }

    /// Counts a request that is sent again.
    pub fn retried(&self, account: usize, class: Class, reason: RetryReason) {
        self.handles.retried(account, class, reason);
    }

    /// Counts an order that got the stored response to the first one that it repeats.
    pub fn order_replayed(&self, account: usize) {
        self.handles.order_replayed(account);
    }

    /// Whether bodies are logged, so that holding them is worthwhile.
    pub fn wants_bodies(&self) -> bool {
        self.masker.logs_bodies() && self.log.writes()
    }

    /// A request as operators may see it.
    pub fn shown(&self, request: RequestToShow<'_>) -> ShownRequest {
        ShownRequest::new(request, &self.masker)
    }

    /// Whether a request with these headers has written a credential into its target, its body or these values of headers, so
    /// that a file must not have them as they are.
    pub(crate) fn request_holds_credential(&self, presented: &HeaderMap, request: &RememberedRequest<'_>) -> bool {
        self.masker.holds_credential(&Presented::read(presented), request)
    }

    /// Whether a text that an operator has written contains a secret of an account, a caller or an operator.
    pub fn holds_credential(&self, text: &str) -> bool {
        shown::holds_credential(text, &self.masker)
    }

    fn begin(self: &Arc<Self>, id: Option<RequestId>, target: Option<RequestTarget>) -> Record {
        let (began, callers_id) = (SystemTime::now(), id.is_some());
        let mut facts = RequestFacts::new(id.unwrap_or_else(|| RequestId::generate(began)), target);
        facts.callers_id = callers_id;
        Record {
            facts,
            began,
            started: Instant::now(),
            head_ready: None,
            in_flight: None,
            admitted: None,
            recorder: Arc::clone(self),
        }
    }

    fn count(&self, record: &Record, took: Duration) {
        let labels = RequestLabels { service: record.service, operation: record.operation, outcome: record.outcome };
        let until_head = record.head_ready.unwrap_or(took);
        let waits = record.upstream + record.caller + record.waited + record.paused;
        let overhead = until_head.saturating_sub(waits);
        self.handles.count(labels);
        self.handles.observe(labels, Durations { total: took, overhead });
        let Some(result) = record.cache else { return };
        let saved = match result {
            CacheResult::Hit | CacheResult::Joined => true,
            CacheResult::Stale => record.sent == Sent::No,
            CacheResult::Miss | CacheResult::Bypass => false,
        };
        self.handles.cache(labels, result, saved);
    }

    fn plan(&self, record: &Record, took: Duration, admitted: bool) -> LinePlan {
        let class = self.handles.names().class(record.operation);
        let importance = match class {
            _ if record.own_account.is_some() && record.service.is_none() => Importance::Ordinary,
            _ if record.service.is_none() => Importance::Unidentified,
            Some(Class::Order) => Importance::Order,
            Some(Class::Unlisted) if record.attempts > 0 => Importance::Order,
            _ => Importance::Ordinary,
        };
        let with_bodies = record.sent != Sent::No && record.attempts > 0 && self.masker.logs_bodies();
        let readable = record.outcome != Outcome::Leak && line::shows_bodies(class);
        let body_bytes = if with_bodies && readable { record.held_body_bytes() } else { 0 };
        let bodies_readable = body_bytes > 0 && (admitted || self.log.accepts_bodies(importance, body_bytes));
        let body_bytes = if bodies_readable { body_bytes } else { 0 };
        LinePlan { importance, began: record.began, took, with_bodies, bodies_readable, body_bytes }
    }

    fn format(&self, out: &mut Vec<u8>, facts: &RequestFacts, plan: LinePlan) {
        let LinePlan { began, took, with_bodies, bodies_readable, .. } = plan;
        let (labels, masker) = (&self.labels, &*self.masker);
        let service = facts.service.and_then(|service| self.handles.names().services.get(service));
        let account = facts.own_account.or(service.map(|(_, account)| *account));
        let context = line::LineContext { labels, masker, account, began, took, with_bodies, bodies_readable };
        line::write(out, facts, &context);
    }

    fn write(&self, record: &Record, plan: LinePlan, admitted: Option<LineAdmission>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format(line, record, plan);
            self.log.append(NewLine::Formatted(line), plan.importance, admitted);
            if line.capacity() > MAX_KEPT_BUFFER {
                *line = Vec::new();
            }
        });
    }
}

/// How a record's line is written.
#[derive(Clone, Copy)]
struct LinePlan {
    importance: Importance,
    began: SystemTime,
    took: Duration,
    with_bodies: bool,
    bodies_readable: bool,
    /// Of the bodies that are to be masked.
    body_bytes: u64,
}

/// The record of one request. The path fills in its [`RequestFacts`]; dropping it counts the request
/// and writes its line.
pub struct Record {
    facts: RequestFacts,
    began: SystemTime,
    started: Instant,
    /// When the response's head was ready, since `started`.
    head_ready: Option<Duration>,
    in_flight: Option<IntGauge>,
    admitted: Option<LineAdmission>,
    recorder: Arc<Recorder>,
}

impl Record {
    /// Sets the service by its index; the request counts as in flight from here to its end.
    pub fn identified(&mut self, service: usize) {
        self.facts.service = Some(service);
        let gauge = self.recorder.handles.in_flight(service);
        gauge.inc();
        if let Some(before) = self.in_flight.replace(gauge) {
            before.dec();
        }
    }

    /// The gateway goes on with a fetch that a request of this service (by its index) with these headers has begun.
    pub(crate) fn begun_by(&mut self, service: usize, headers: &HeaderMap) {
        self.facts.service = Some(service);
        self.facts.presented = Presented::read(headers);
    }

    /// It began so much earlier than it was opened.
    pub(crate) fn began_earlier(&mut self, by: Duration) {
        self.began = self.began.checked_sub(by).unwrap_or(self.began);
        self.started = self.started.checked_sub(by).unwrap_or(self.started);
    }

    /// When it was opened.
    pub fn began(&self) -> SystemTime {
        self.began
    }

    /// Index of the service, once known.
    pub fn service(&self) -> Option<usize> {
        self.facts.service
    }

    /// Sets code and outcome of a refusal.
    pub fn refused(&mut self, code: Code) {
        self.facts.code = Some(code);
        self.facts.outcome = code.outcome();
    }

    /// Logs to the program's log that a panic failed the request, with the id that its caller knows.
    pub fn log_panic(&self) {
        tracing::error!(request_id = self.id.as_str(), "a request failed because the gateway panicked");
    }

    /// The response's head is ready at `now`; from here on the caller sets the pace, so the overhead ends. Returns whether it
    /// was not before.
    pub fn head_ready(&mut self, now: Instant) -> bool {
        let is_new = !self.has_head();
        self.head_ready.get_or_insert(now.saturating_duration_since(self.started));
        is_new
    }

    /// Whether the response's head is ready.
    pub fn has_head(&self) -> bool {
        self.head_ready.is_some()
    }

    /// Waits for room in the log, with `on_full = "block"`.
    ///
    /// # Errors
    /// [`QueueFull`] if there is none by `deadline`: the request must not begin.
    pub async fn await_log(&mut self, deadline: Instant) -> Result<(), QueueFull> {
        let waits = pin!(self.recorder.log.await_room(deadline));
        self.admitted = timed(waits, |time| self.facts.paused += time).await?;
        Ok(())
    }

    fn write_line(&mut self, took: Duration) {
        let admitted = self.admitted.take();
        let plan = self.recorder.plan(self, took, admitted.is_some());
        if plan.body_bytes <= DEFER_ABOVE {
            return self.recorder.write(self, plan, admitted);
        }
        let nothing = RequestFacts::new(self.id.clone(), None);
        let facts = std::mem::replace(&mut self.facts, nothing);
        let recorder = Arc::clone(&self.recorder);
        let size = usize::try_from(plan.body_bytes + LINE_SIZE).unwrap_or(usize::MAX);
        let line = DeferredLine::new(size, move |out, has_time| {
            let bodies_readable = plan.bodies_readable && has_time;
            recorder.format(out, &facts, LinePlan { bodies_readable, ..plan });
        });
        self.recorder.log.append(NewLine::Deferred(line), plan.importance, admitted);
    }
}

impl Deref for Record {
    type Target = RequestFacts;

    fn deref(&self) -> &RequestFacts {
        &self.facts
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut RequestFacts {
        &mut self.facts
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Record").field(&self.facts).finish()
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
            self.log_panic();
        } else if self.outcome == Outcome::ClientGone && self.recorder.cut.is_cancelled() {
            self.refused(Code::GatewayDraining);
        }
        let is_own = self.own_account.is_some();
        if !is_own {
            self.recorder.count(self, took);
        }
        if self.recorder.log.writes() && (!is_own || self.attempts > 0) {
            self.write_line(took);
        }
    }
}
