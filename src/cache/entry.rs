//! A response of Fastrac, stored or about to be, and its age.
//!
//! What always holds: an entry never changes, except for what is known of the fetches that are to replace it; its
//! lifetimes are those in force; its age only grows while the process runs, whatever the wall clock does, and also while
//! the machine is suspended. All ages count from when the response was requested. Must not know keys, requests or the
//! cache. Never fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::DATE};
use tokio::time::Instant;

use super::{
    Key, Lifetimes, OperationLifetimes, heap,
    packed::{NameLists, PackedResponse},
    snapshot::SnapshotEntry,
    validator,
};
use crate::{
    date,
    memory::{MemoryShare, Readers},
    outcome::Outcome,
    standstill,
    uptime::millis,
};

/// Wait after the first failed fetch that was to replace an entry; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// How long a caller that could be given a stale response waits for a better one.
pub(crate) const STALE_WAIT: Duration = Duration::from_secs(2);

/// Longest wait after a failed fetch.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// When a response was received, and how old it was then.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedAt {
    /// When `age` was right: the monotonic clock as if it had never stood still.
    at: Instant,
    /// The time that Fastrac took, or the age in an earlier process.
    age: Duration,
}

impl ReceivedAt {
    pub fn now() -> Self {
        ReceivedAt::with_age(Duration::ZERO)
    }

    /// Received this long ago by another process, or requested this long ago: the time in which Fastrac made the response
    /// counts (RFC 9111, section 4.2.3).
    pub fn with_age(age: Duration) -> Self {
        ReceivedAt { at: Instant::now() + standstill::total(), age }
    }

    /// Time since then.
    pub fn age(self, now: Instant) -> Duration {
        (now + standstill::total()).saturating_duration_since(self.at) + self.age
    }
}

/// What an entry is made of.
#[derive(Debug)]
pub struct NewEntry {
    pub status: StatusCode,
    /// Cleaned: without hop-by-hop headers and those that concern one key.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// If it is stored: `Ok` or `NotFound`.
    pub outcome: Outcome,
    pub operation: Arc<OperationLifetimes>,
    /// Id of the request that fetched it.
    pub stored_from: HeaderValue,
    pub received: ReceivedAt,
}

impl NewEntry {
    /// With what a response that may be stored has: an `ETag`, and a `Date` that says when it was received, and not when it
    /// is used (RFC 9110, section 6.6.1).
    pub(super) fn completed(mut self) -> Self {
        validator::set_etag(&mut self.headers, &self.body);
        self.headers.entry(DATE).or_insert_with(date::now);
        self
    }
}

/// A response of Fastrac, stored or about to be.
#[derive(Debug)]
pub struct CacheEntry {
    status: StatusCode,
    outcome: Outcome,
    operation: Arc<OperationLifetimes>,
    received: ReceivedAt,
    /// Random.
    jitter: u16,
    content: Content,
    /// Who reads the body, if it may be stored.
    readers: Option<Readers>,
    /// Uses of late: hits and fetches, and those of the entry that it replaced.
    uses: AtomicU32,
    /// In the list of `popularity`.
    place: AtomicU32,
    refresh: RefreshState,
}

/// Head and body of an entry.
#[derive(Debug)]
enum Content {
    /// As received: its slices keep the buffers of a connection alive.
    Received {
        headers: HeaderMap,
        stored_from: HeaderValue,
        body: Bytes,
    },
    Packed(PackedResponse),
}

/// What a restored entry gets from the process that restores it.
#[derive(Debug)]
pub struct RestoredDetails {
    pub operation: Arc<OperationLifetimes>,
    pub age: Duration,
    pub uses: u32,
}

/// What is known of the fetches that are to replace an entry.
#[derive(Debug, Default)]
struct RefreshState {
    /// It is in the queue, or being fetched without a caller.
    queued: AtomicBool,
    /// Number of fetches that failed.
    failures: AtomicU32,
    /// Age before which no other fetch begins, milliseconds.
    resumes: AtomicU64,
    /// The same for one that no caller asks for.
    refreshes_resume: AtomicU64,
    /// Age at which Fastrac first said that it does not have this, milliseconds; 0: it did not.
    missing: AtomicU64,
}

impl CacheEntry {
    /// A response that is shared and not stored.
    pub fn shared(response: NewEntry) -> Self {
        let NewEntry { status, headers, body, outcome, operation, stored_from, received } = response;
        let (content, jitter) = (Content::Received { headers, stored_from, body }, fastrand::u16(..));
        let (readers, uses, place, refresh) = Default::default();
        CacheEntry { status, outcome, operation, received, jitter, content, readers, uses, place, refresh }
    }

    /// A response that may be stored. It gets bytes of its own: slices would keep the buffers of the connection alive,
    /// uncounted, as long as the entry lives.
    pub(super) fn packed(response: NewEntry, lists: &NameLists, memory: &Arc<MemoryShare>) -> Self {
        let NewEntry { headers, stored_from, body, .. } = &response;
        let content = PackedResponse::new(headers, stored_from, body, lists);
        CacheEntry::shared(response).with(content, memory)
    }

    /// The entry that another process has packed; `None`: it cannot be one.
    pub(super) fn restored(
        packed: SnapshotEntry<'_>,
        details: RestoredDetails,
        lists: &NameLists,
        memory: &Arc<MemoryShare>,
    ) -> Option<Self> {
        let SnapshotEntry { status, outcome, names, packed, .. } = packed;
        let content = PackedResponse::restored(names, packed.to_vec(), lists)?;
        let RestoredDetails { operation, age, uses } = details;
        let (headers, body, stored_from) = (HeaderMap::new(), Bytes::new(), HeaderValue::from_static(""));
        let received = ReceivedAt::with_age(age);
        let response = NewEntry { status, headers, body, outcome, operation, stored_from, received };
        Some(CacheEntry { uses: uses.into(), ..CacheEntry::shared(response) }.with(content, memory))
    }

    /// The entry in place of `old`.
    pub(crate) fn replacing(self, old: &CacheEntry) -> Self {
        CacheEntry { uses: old.uses().into(), ..self }
    }

    fn with(self, content: PackedResponse, memory: &Arc<MemoryShare>) -> Self {
        CacheEntry { content: Content::Packed(content), readers: Some(Readers::new(memory)), ..self }
    }

    /// The entry under `key`, for other processes; `None` if it was never to be stored.
    pub(crate) fn packed_at<'a>(&'a self, key: &'a Key, now: Instant) -> Option<SnapshotEntry<'a>> {
        let Content::Packed(response) = &self.content else { return None };
        let (names, packed) = (response.names().clone(), response.bytes());
        let (status, outcome, age, uses) = (self.status, self.outcome, self.age(now), self.uses());
        Some(SnapshotEntry { key: key.as_bytes(), status, outcome, age, uses, names, packed })
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers for one more caller, with room for `more`.
    pub(crate) fn headers(&self, more: usize) -> HeaderMap {
        match &self.content {
            Content::Received { headers, .. } => headers.clone(),
            Content::Packed(response) => response.headers(more),
        }
    }

    /// The body for one more caller.
    pub(crate) fn body(&self) -> Bytes {
        let body = match &self.content {
            Content::Received { body, .. } => body.clone(),
            Content::Packed(response) => response.body(),
        };
        match &self.readers {
            Some(readers) => readers.read(body),
            None => body,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Name of the operation, as in metrics.
    pub(crate) fn operation(&self) -> &Arc<str> {
        self.operation.name()
    }

    /// Whether something is found in its head or body, as stored.
    pub(crate) fn has(&self, mut found_in: impl FnMut(&[u8]) -> bool) -> bool {
        match &self.content {
            Content::Received { body, headers, .. } => {
                found_in(body) || headers.values().any(|value| found_in(value.as_bytes()))
            }
            Content::Packed(response) => found_in(response.bytes()),
        }
    }

    /// Id of the request that fetched it.
    pub(crate) fn stored_from(&self) -> HeaderValue {
        match &self.content {
            Content::Received { stored_from, .. } => stored_from.clone(),
            Content::Packed(response) => response.stored_from(),
        }
    }

    /// Whether it was requested later than another one.
    pub(crate) fn is_newer_than(&self, other: &CacheEntry, now: Instant) -> bool {
        self.age(now) < other.age(now)
    }

    /// Time since it was requested.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.received.age(now)
    }

    /// Those in force.
    pub(crate) fn lifetimes(&self) -> Lifetimes {
        self.operation.of(self.outcome, self.jitter)
    }

    /// It answers a request.
    pub(crate) fn count_use(&self) {
        self.uses.fetch_add(1, Relaxed);
    }

    pub(crate) fn uses(&self) -> u32 {
        self.uses.load(Relaxed)
    }

    /// It was used at least so often.
    pub(super) fn raise_uses(&self, uses: u32) {
        self.uses.fetch_max(uses, Relaxed);
    }

    /// Time has passed.
    pub(super) fn halve_uses(&self, times: u32) {
        let uses = self.uses();
        self.uses.fetch_sub(uses - (uses >> times), Relaxed);
    }

    pub(super) fn place(&self) -> usize {
        self.place.load(Relaxed) as usize
    }

    /// Fewer than four billion entries fit.
    pub(super) fn set_place(&self, place: usize) {
        self.place.store(place as u32, Relaxed);
    }

    /// Whether it may be used in some way.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        self.age(now) < self.lifetimes().usable
    }

    pub(super) fn set_stored(&self, stored: bool) {
        self.readers.iter().for_each(|readers| readers.set_stored(stored));
    }

    /// Bytes that it takes of the heap.
    pub(super) fn size(&self) -> usize {
        let content = match &self.content {
            // Not stored, but in tests.
            Content::Received { body, .. } => body.len(),
            Content::Packed(response) => response.heap(),
        };
        heap::arc(size_of::<CacheEntry>()) + content
    }

    /// Whether a fetch that replaces it may begin at this age: not soon after one has failed.
    pub(crate) fn may_be_fetched(&self, age: Duration) -> bool {
        age.as_millis() >= u128::from(self.refresh.resumes.load(Relaxed))
    }

    /// A fetch that was to replace it has failed.
    pub(crate) fn fetch_failed(&self, now: Instant) {
        let failures = self.refresh.failures.fetch_add(1, Relaxed);
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(MAX_PAUSE);
        // Entries that failed together must not be fetched together.
        self.pause(now, pause.mul_f64(0.75 + fastrand::f64() / 4.0));
    }

    /// Whether it may be fetched again at this age although no caller asks for it.
    pub(crate) fn may_be_refreshed(&self, age: Duration) -> bool {
        let resume = self.refresh.refreshes_resume.load(Relaxed);
        self.may_be_fetched(age) && age.as_millis() >= u128::from(resume)
    }

    /// A fetch has brought an answer that could not be stored in its place. That is no failure, so callers ask Fastrac
    /// first, when it is old enough; but what nobody asks for would be fetched again and again.
    pub(crate) fn could_not_be_replaced(&self, now: Instant) {
        self.leave_unrefreshed(now, MAX_PAUSE);
    }

    /// Nothing is fetched in its place for this time, unless a caller asks.
    pub(crate) fn leave_unrefreshed(&self, now: Instant, time: Duration) {
        let resume = millis(self.age(now) + time);
        self.refresh.refreshes_resume.fetch_max(resume, Relaxed);
    }

    /// A caller that could be given this entry has waited for a fetch to replace it, in vain. One that takes so long is not
    /// waited for again for a while.
    pub(crate) fn waited_for(&self, time: Duration, now: Instant) {
        if time >= STALE_WAIT {
            self.pause(now, FIRST_PAUSE);
        }
    }

    /// Fastrac has said "Data not found" to a fetch that no caller asked for. Returns whether this entry may be given up:
    /// it is no longer fresh, and Fastrac has said so before, a while ago. Otherwise it is fetched again when that may be so.
    pub(crate) fn report_missing(&self, now: Instant) -> bool {
        let age = self.age(now);
        let reported = millis(age).max(1);
        let first = self
            .refresh
            .missing
            .compare_exchange(0, reported, Relaxed, Relaxed)
            .map_or_else(|first| first, |_| reported);
        let fresh = self.lifetimes().fresh;
        // What is fresh for seconds is not given for a minute more.
        let confirms = fresh.clamp(FIRST_PAUSE, MAX_PAUSE);
        let is_confirmed = age >= fresh && age >= Duration::from_millis(first) + confirms;
        if !is_confirmed {
            self.pause(now, confirms.max(fresh.saturating_sub(age)));
        }
        is_confirmed
    }

    fn pause(&self, now: Instant, pause: Duration) {
        let resumes = millis(self.age(now) + pause);
        self.refresh.resumes.fetch_max(resumes, Relaxed);
    }

    /// Marks it as queued for a refresh. `false`: it is already.
    pub(super) fn enqueue(&self) -> bool {
        !self.refresh.queued.swap(true, Relaxed)
    }

    /// Its refresh is over, or was not begun.
    pub(super) fn dequeue(&self) {
        self.refresh.queued.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lifetimes: Lifetimes, received: ReceivedAt) -> CacheEntry {
        CacheEntry::shared(NewEntry {
            received,
            operation: OperationLifetimes::fixed("v2.city", lifetimes),
            ..crate::cache::test_response(0)
        })
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn an_entry_of_an_earlier_process_keeps_its_age() {
        let received = ReceivedAt::with_age(HOUR);
        tokio::time::advance(HOUR).await;
        assert_eq!(received.age(Instant::now()), 2 * HOUR);
        assert_eq!(received.age(Instant::now() - 5 * HOUR), HOUR, "never younger than it was");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_delay_the_next_fetch_up_to_a_minute() {
        let entry = entry(Lifetimes { fresh: HOUR, usable: 24 * HOUR, refresh: HOUR }, ReceivedAt::now());
        for exact in [5, 10, 20, 40, 60, 60] {
            let (began, exact) = (Instant::now(), Duration::from_secs(exact));
            entry.fetch_failed(began);
            let age = entry.age(began);
            assert!(!entry.may_be_fetched(age) && !entry.may_be_fetched(age + exact * 7 / 10), "{exact:?}");
            assert!(entry.may_be_fetched(age + exact));
            tokio::time::advance(exact).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_given_up_once_fastrac_has_said_twice_that_it_is_missing_and_it_is_stale() {
        let minutes = |count| Duration::from_secs(60) * count;
        let entry = entry(Lifetimes { fresh: HOUR, usable: 24 * HOUR, refresh: HOUR }, ReceivedAt::now());
        let mut given_up = Vec::new();
        for wait in [50, 5, 4, 1, 1] {
            tokio::time::advance(minutes(wait)).await;
            let now = Instant::now();
            given_up.push((entry.report_missing(now), entry.may_be_fetched(entry.age(now))));
        }
        // Asked again when it is stale.
        assert_eq!(given_up, [(false, false), (false, false), (false, false), (true, true), (true, true)]);
        let late = CacheEntry { received: ReceivedAt::with_age(2 * HOUR), ..entry };
        late.refresh.missing.store(0, Relaxed);
        assert!(!late.report_missing(Instant::now()), "the first time");
        tokio::time::advance(minutes(1)).await;
        assert!(late.report_missing(Instant::now()));
    }

    /// It was given for a minute more.
    #[tokio::test(start_paused = true)]
    async fn what_is_fresh_for_seconds_is_given_up_after_as_many_more() {
        let fresh = Duration::from_secs(10);
        let entry = entry(Lifetimes { fresh, usable: HOUR, refresh: fresh }, ReceivedAt::now());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!entry.report_missing(Instant::now()), "the first time");
        for (wait, given_up) in [(2, false), (7, false), (1, true)] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            let now = Instant::now();
            assert_eq!(entry.may_be_fetched(entry.age(now)), given_up);
            assert!(!given_up || entry.report_missing(now));
        }
    }

    #[test]
    fn a_stale_one_is_given_at_once_for_as_long_as_it_was_fresh_and_within_its_bound() {
        let of = |usable| Lifetimes { fresh: HOUR, usable, refresh: HOUR }.revalidated();
        assert_eq!([of(24 * HOUR), of(HOUR * 3 / 2), of(HOUR)], [HOUR * 2, HOUR * 3 / 2, HOUR]);
    }

    #[test]
    fn it_says_when_it_was_received() {
        let of = |date: Option<&'static str>| {
            let mut response = crate::cache::test_response(0);
            response.headers.extend(date.map(|date| (DATE, HeaderValue::from_static(date))));
            response.completed().headers[DATE].clone()
        };
        let date = "Sun, 29 Nov 2026 10:22:00 GMT";
        assert_eq!(of(Some(date)), date);
        assert!(of(None).to_str().unwrap().ends_with(" GMT"));
    }

    #[test]
    fn it_is_queued_once() {
        let entry = entry(Lifetimes::only_fresh(HOUR), ReceivedAt::now());
        assert!(entry.enqueue() && !entry.enqueue());
        entry.dequeue();
        assert!(entry.enqueue());
    }
}
