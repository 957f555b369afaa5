//! One request from its head to the last byte of its response: its record and its attempts.
//!
//! What always holds: the record is written exactly once, when the [`Exchange`] that has it is dropped. While a task
//! works on an order, the record is with that task; the attempts are shared with it, so that `sent` is true at any time.
//! Must not know headers or metrics. Never fails by itself.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::request::Parts;
use tokio::time::Instant;

use crate::{
    admission::Claim,
    attempts::{Attempts, LoggedAttempts},
    body::{self, BodyError},
    caller::Client,
    catalog::Operation,
    config::Priority,
    deadline::{CallerTimeout, timed},
    memory::{self, MemoryAllowance, MemoryClaim, MemoryExhausted},
    orders::FirstSent,
    outcome::{Code, Sent},
    record::{CapturedBody, Record, RequestId},
    refusal::{Refusal, RepeatRule, quota_code},
    reply::{CacheStatusHeader, Reply, ReplyBody},
    snapshot::{Snapshot, Worker},
};

/// One request in progress.
pub(super) struct Exchange {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) worker: Arc<Worker>,
    pub(super) request_id: RequestId,
    /// `None` while a task has it.
    pub(super) record: Option<Record>,
    /// `None` before the first: a hit needs none.
    attempts: Option<Attempts>,
    /// The request has a body that has not been read completely.
    pub(super) body_pending: bool,
    /// What the response says of the first request with its `Idempotency-Key`, instead of this one.
    first_sent: Option<FirstSent>,
    /// What the connection says about its client.
    pub(super) client: Client,
    /// How it may be repeated.
    pub(super) repeat: RepeatRule,
    /// When the first byte of the request came.
    began: Instant,
    /// How long it has waited for room in the exchange log.
    pub(super) waited_for_log: Duration,
    /// What it takes while it waits, or what goes on for it without its caller.
    room: Option<Arc<MemoryClaim>>,
    /// What its head takes, if that is large, until the call has it.
    head: Option<MemoryClaim>,
    /// Whether its operation asks the cache.
    asks_cache: bool,
    /// The response is passed on as it comes.
    streamed: bool,
    /// How it was to be fetched, for `Cache-Status` of a refusal. `None`: the cache has not been asked, or had it.
    pub(super) fetched_as: Option<CacheStatusHeader>,
}

impl Exchange {
    /// Opens the record of a request whose first byte came at `began`.
    pub(super) fn open(snapshot: Arc<Snapshot>, worker: Arc<Worker>, head: &Parts, began: Instant) -> Self {
        let record = snapshot.recorder.open_request(head);
        Exchange::with(record, snapshot, worker, began)
    }

    /// The exchange of an opened record.
    pub(super) fn with(record: Record, snapshot: Arc<Snapshot>, worker: Arc<Worker>, began: Instant) -> Self {
        Exchange {
            snapshot,
            worker,
            request_id: record.id.clone(),
            record: Some(record),
            attempts: None,
            body_pending: false,
            first_sent: None,
            client: Client::default(),
            repeat: RepeatRule::default(),
            began,
            waited_for_log: Duration::ZERO,
            room: None,
            head: None,
            asks_cache: false,
            streamed: false,
            fetched_as: None,
        }
    }

    /// The exchange for those of these attempts that no line has yet. The last line of the others was taken `ago`.
    pub(super) fn of_attempts(mut self, attempts: Attempts, ago: Duration) -> Self {
        self.record.iter_mut().for_each(|record| record.began_earlier(ago));
        self.attempts = Some(attempts);
        self
    }

    /// When the request's head was read, on the wall clock.
    pub(super) fn opened(&self) -> SystemTime {
        self.record.as_ref().map_or_else(SystemTime::now, Record::began)
    }

    /// How long the caller waits.
    pub(super) fn timeout(&self, head: &Parts) -> Result<CallerTimeout, Refusal> {
        Ok(CallerTimeout::read(&head.headers, self.began)?)
    }

    /// Waits for room in the exchange log. The wait for that is a part of the operation's timeout.
    pub(super) async fn await_log(
        &mut self,
        caller: CallerTimeout,
        operation: Option<&Arc<Operation>>,
    ) -> Result<(), Refusal> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let limit = self.snapshot.limits.request;
        let deadline = caller.upload(operation.map_or(limit, |operation| operation.timeout.min(limit)));
        record.await_log(deadline.instant().into_std()).await.map_err(|_| Refusal::log_full())?;
        // It is the first thing that was waited for.
        self.waited_for_log = record.paused;
        Ok(())
    }

    pub(super) fn identified(&mut self, service: usize) {
        self.client.note_identified(|| self.snapshot.memory_for(service));
        if let Some(record) = &mut self.record {
            record.identified(service);
        }
    }

    /// Notes in the record if the service's quota would have refused the request.
    pub(super) fn claimed(&mut self, claim: &Claim) {
        if let Some(record) = &mut self.record {
            record.would_refuse = claim.would_refuse().map(quota_code);
        }
    }

    pub(super) fn classified(&mut self, operation: &Operation) {
        self.asks_cache = operation.asks_cache();
        if let Some(record) = &mut self.record {
            record.operation = Some(operation.index);
        }
    }

    /// Claims what the request's head takes, if it is large.
    pub(super) fn claim_head(
        &mut self,
        head: &Parts,
        memory: impl FnOnce() -> MemoryAllowance,
    ) -> Result<(), MemoryExhausted> {
        self.head = body::claim_head(head, memory)?;
        Ok(())
    }

    /// What it has claimed by that, for the call that has the head.
    pub(super) fn take_head(&mut self) -> Option<MemoryClaim> {
        self.head.take()
    }

    /// Claims what the request takes while it waits, once: a hit is served at once and claims nothing.
    pub(super) fn claim_room(&mut self, memory: impl FnOnce() -> MemoryAllowance) -> Result<(), MemoryExhausted> {
        if self.room.is_none() {
            self.room = Some(Arc::new(memory().claim(memory::REQUEST)?));
        }
        Ok(())
    }

    /// Claims what its response takes until it is delivered, if the request has claimed nothing so far. One that has waited
    /// has: so no response to an order is given up.
    pub(super) fn claim_delivery(&mut self) -> Result<(), MemoryExhausted> {
        let memory = match self.record.as_ref().and_then(Record::service) {
            Some(service) => self.snapshot.memory_for(service),
            None => self.snapshot.memory_shares.of_unidentified().allowance(Priority::High),
        };
        self.claim_room(|| memory)
    }

    /// What it has claimed by that: it goes back once nobody has it any more.
    pub(super) fn room(&self) -> Option<Arc<MemoryClaim>> {
        self.room.clone()
    }

    /// Waits for the request's body; the time counts as the caller's.
    pub(super) async fn collect(
        &mut self,
        mut body: impl Future<Output = Result<Bytes, BodyError>> + Unpin,
        memory: impl FnOnce() -> MemoryAllowance,
    ) -> Result<Bytes, Refusal> {
        let body = match poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll(cx))).await {
            Poll::Ready(body) => body,
            Poll::Pending => {
                self.claim_room(memory)?;
                let record = &mut self.record;
                // On the heap: most bodies arrive together with the head.
                Box::pin(timed(body, |time| record.iter_mut().for_each(|record| record.caller += time))).await
            }
        };
        self.body_pending &= body.is_err();
        if let Some(record) = &mut self.record
            && let Ok(body) = &body
            && self.snapshot.recorder.wants_bodies()
        {
            record.request_body = CapturedBody::whole(body.clone());
        }
        Ok(body?)
    }

    /// The attempts, also for a task that makes them.
    pub(super) fn attempts(&mut self) -> &Attempts {
        self.attempts.get_or_insert_default()
    }

    /// Moves the record into an exchange for a task, which writes it even if the caller leaves.
    pub(super) fn detach(&mut self) -> Exchange {
        Exchange {
            snapshot: self.snapshot.clone(),
            worker: self.worker.clone(),
            request_id: self.request_id.clone(),
            record: self.record.take(),
            attempts: Some(self.attempts().clone()),
            body_pending: false,
            first_sent: None,
            client: Client::default(),
            repeat: self.repeat,
            began: self.began,
            waited_for_log: self.waited_for_log,
            room: None,
            head: None,
            asks_cache: self.asks_cache,
            streamed: false,
            fetched_as: self.fetched_as,
        }
    }

    /// Takes the record back from the exchange of a task.
    pub(super) fn attach(&mut self, mut other: Exchange) {
        self.record = other.record.take();
    }

    /// Whether Fastrac may have received what the response speaks of: this request, or the first one with its key.
    pub(super) fn sent(&self) -> Sent {
        let own = || self.attempts.as_ref().map_or(Sent::No, Attempts::sent);
        self.first_sent.map_or_else(own, FirstSent::get)
    }

    /// What the cache did for a request that is refused with this code.
    pub(super) fn cache_status(&self, code: Code) -> Option<CacheStatusHeader> {
        self.fetched_as.or(self.asks_cache.then_some(CacheStatusHeader::NotAsked { code }))
    }

    /// A panic ended the request, here or in a task.
    pub(super) fn panicked(&self) -> Refusal {
        // A task that had the record has logged this itself.
        self.record.iter().for_each(Record::log_panic);
        Refusal::internal()
    }

    /// Fills in the record with the response that the caller gets, whose head is ready at `now`.
    pub(super) fn finish(&mut self, outcome: &Result<Reply, Refusal>, now: Instant) {
        let own_attempts = self.attempts.as_ref().map_or(0, Attempts::count);
        match outcome {
            Ok(reply) => self.first_sent = reply.first_sent,
            Err(refusal) => self.first_sent = refusal.first_sent,
        }
        let Some(record) = &mut self.record else { return };
        match outcome {
            Ok(reply) => {
                record.status = Some(reply.status.as_u16());
                (record.outcome, record.code) = (reply.outcome, reply.code);
                record.cache = reply.cached.and_then(CacheStatusHeader::result);
                record.stored_from.clone_from(&reply.stored_from);
                if own_attempts > 0 && self.snapshot.recorder.wants_bodies() {
                    record.answer_body = match &reply.body {
                        ReplyBody::Whole(body) => CapturedBody::whole(body.clone()),
                        ReplyBody::Stream(_) => CapturedBody::default(),
                    };
                }
                self.streamed = matches!(reply.body, ReplyBody::Stream(_));
            }
            Err(refusal) => {
                record.status = Some(refusal.status.as_u16());
                (record.outcome, record.code) = (refusal.outcome, Some(refusal.code));
                record.cache = self.fetched_as.and_then(CacheStatusHeader::result);
            }
        }
        if record.head_ready(now.into_std()) {
            self.take_attempts(now);
        }
    }

    /// Notes in the record what the attempts have come to at `now`. They may go on: what comes later belongs to another line.
    fn take_attempts(&mut self, now: Instant) {
        let sent = self.sent();
        let Some(record) = &mut self.record else { return };
        record.sent = sent;
        let Some(attempts) = &self.attempts else { return };
        let LoggedAttempts { count, times, key_version } = attempts.take_for_line(now);
        (record.attempts, record.key_version) = (count, key_version);
        (record.upstream, record.waited) = (times.upstream, times.budget);
        record.paused += times.between;
        self.take_received();
    }

    /// Notes in the record how much of Fastrac's response was received, unless it is held.
    fn take_received(&mut self) {
        let received = self.attempts.as_ref().and_then(Attempts::response_bytes);
        if let (Some(record), Some(received)) = (&mut self.record, received)
            && !record.answer_body.is_held()
        {
            record.answer_body = CapturedBody::part(received);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(record) = self.record.as_mut().filter(|record| !record.has_head()) {
            // The caller has left before its response.
            record.cache = self.fetched_as.and_then(CacheStatusHeader::result);
            self.take_attempts(Instant::now());
        } else if self.streamed {
            self.take_received();
        }
    }
}
