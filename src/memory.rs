//! How many bytes of requests and responses the process buffers, and who may buffer more (`limits.memory`).
//!
//! A buffer claims its bytes before they are allocated. What always holds: the claims of a priority are granted only
//! while all claims together stay within its part of the limit, so `low` is shed first and `high` last; a service may
//! hold as much as it leaves free of that part, so that there is room for others however many hold all they may (the
//! rule of "dynamic thresholds" for the buffers of a switch; Choudhury and Hahne, 1998); a claim goes back when its
//! bytes are freed, whatever ends the request. Two things may exceed the limit: the response to an order, which must be
//! read because nobody can ask for it again (it is not sent while its service may claim nothing, and a long one waits for room, for
//! a while, before more of it is read), and stored responses that left the cache while callers still read them. A
//! claim is an addition to two shared counters. Must not know requests. Fails with [`MemoryExhausted`], without
//! waiting.

mod buffer;
mod share;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

pub use buffer::ClaimedBuffer;
pub use share::{MemoryShare, MemoryShares};

use crate::config::Priority;

/// Part of the limit that each priority may fill, in percent; all count what the others have claimed.
const fn part_of(priority: Priority) -> usize {
    match priority {
        Priority::Low => 60,
        Priority::Normal => 80,
        Priority::High => 100,
    }
}

/// Most responses of Fastrac's are shorter, in bytes.
const SHORT_RESPONSE: usize = 16 * 1024;

/// How often the first that waits for room looks whether there is some.
const LOOK: Duration = Duration::from_millis(5);

/// What a waiting request takes, in bytes: a small head, its record, its futures, its HTTP/2 stream. A response that its caller
/// does not take holds as much.
pub(crate) const REQUEST: usize = 6 * 1024;

/// Whose share it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ShareOwner {
    Service(Box<str>),
    /// Its own calls.
    Gateway,
    /// Whoever is not known to be a service.
    Unidentified,
}

/// The bound on buffered bytes, and how many there are. One per process; it outlives configurations.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    limit: AtomicUsize,
    shares: Mutex<BTreeMap<ShareOwner, Weak<MemoryShare>>>,
}

/// No room for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryExhausted {
    #[error("The gateway buffers as many bytes of requests and responses as it may (`limits.memory`)")]
    Full,
    /// Others may claim as many.
    #[error("The requests and responses of this service take as many bytes as they may (its share of `limits.memory`)")]
    ShareUsed,
}

impl Memory {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Memory { limit: AtomicUsize::new(limit), used: AtomicUsize::default(), shares: Mutex::default() })
    }

    /// Changes the limit. What has been claimed stays.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Bytes that are claimed now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// What one request may claim.
#[derive(Clone, Debug)]
pub struct MemoryAllowance {
    share: Arc<MemoryShare>,
    /// Part of the limit, in percent. `None`: there is none.
    percent: Option<usize>,
}

impl MemoryAllowance {
    /// A number that allowances of the same service have in common.
    pub(crate) fn owner(&self) -> usize {
        Arc::as_ptr(&self.share).addr()
    }

    /// For bytes that must be read, whatever is claimed already.
    pub fn unlimited(self) -> Self {
        MemoryAllowance { percent: None, ..self }
    }

    /// Whether there may be so many bytes in all, `own` of them of the same service.
    fn allows(&self, all: usize, own: usize) -> Result<(), MemoryExhausted> {
        let Some(percent) = self.percent else { return Ok(()) };
        let limit = self.share.memory().limit() / 100 * percent;
        if all > limit {
            Err(MemoryExhausted::Full)
        } else if own > self.share.most_of(limit - all) {
            Err(MemoryExhausted::ShareUsed)
        } else {
            Ok(())
        }
    }

    /// Whether so many bytes could be claimed now: to be checked before a request causes bytes that it has no claim for
    /// yet.
    ///
    /// # Errors
    /// [`MemoryExhausted`].
    pub fn check(&self, bytes: usize) -> Result<(), MemoryExhausted> {
        let (all, own) = (self.share.memory().used(), self.share.used());
        self.allows(all.saturating_add(bytes), own.saturating_add(bytes))
    }

    /// Whether there is room for a response whose length is not known yet: for a short one at least.
    ///
    /// # Errors
    /// [`MemoryExhausted`].
    pub fn check_response(&self) -> Result<(), MemoryExhausted> {
        self.check(SHORT_RESPONSE)
    }

    /// Claims room for this many bytes.
    ///
    /// # Errors
    /// [`MemoryExhausted`]; nothing is claimed then.
    pub fn claim(&self, bytes: usize) -> Result<MemoryClaim, MemoryExhausted> {
        let mut claim = self.clone().begin();
        claim.grow_to(bytes)?;
        Ok(claim)
    }

    /// Claims room for bytes that must be read, whatever is claimed already; but waits for room first, up to `until`: after those
    /// of the same service that wait, and until it has room or nothing that has waited like this.
    pub async fn claim_in_turn(&self, bytes: usize, until: Instant) -> MemoryClaim {
        let room = async {
            let _turn = self.share.turn.lock().await;
            // Whoever gives bytes back tells nobody: that would cost all of them.
            while self.check(bytes).is_err() && Arc::strong_count(&self.share.waited) > 1 {
                sleep(LOOK).await;
            }
            self.claim_forced(bytes)
        };
        timeout_at(until, room).await.unwrap_or_else(|_| self.claim_forced(bytes))
    }

    fn claim_forced(&self, bytes: usize) -> MemoryClaim {
        self.share.add(bytes);
        let allowance = self.clone().unlimited();
        MemoryClaim { allowance, bytes, _waited: Some(self.share.waited.clone()) }
    }

    /// A claim for nothing yet.
    pub(crate) fn begin(self) -> MemoryClaim {
        MemoryClaim { allowance: self, bytes: 0, _waited: None }
    }
}

/// Claimed room; it goes back on drop.
#[derive(Debug)]
#[must_use = "the room goes back when the claim is dropped"]
pub struct MemoryClaim {
    allowance: MemoryAllowance,
    bytes: usize,
    /// Of one that has waited for its turn, as long as it is held.
    _waited: Option<Arc<()>>,
}

impl MemoryClaim {
    /// Claims more, up to `bytes` in all.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), MemoryExhausted> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let share = &self.allowance.share;
        let (all, own) = share.add(more);
        self.allowance.allows(all, own).inspect_err(|_| share.release(more))?;
        self.bytes = bytes;
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(less) = self.bytes.checked_sub(bytes).filter(|less| *less > 0) {
            self.allowance.share.release(less);
            self.bytes = bytes;
        }
    }

    /// The same bytes; the claim goes back when the last handle to them is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Held { bytes, _claim: self }) }
    }
}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        self.allowance.share.release(self.bytes);
    }
}

/// Bytes with what accounts for them.
struct Held<C> {
    bytes: Bytes,
    _claim: C,
}

impl<C> AsRef<[u8]> for Held<C> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes up to this size are handed out without a claim: they are copied into a connection's buffer at once.
const SMALL: usize = 16 * 1024;

/// The callers that read stored bytes. The cache accounts for the bytes while it stores them (`cache.memory`), and a
/// claim, in the share of the service that has fetched them, while they are read and not stored.
#[derive(Debug)]
pub struct Readers {
    share: Arc<MemoryShare>,
    state: Mutex<ReadersState>,
}

#[derive(Debug, Default)]
struct ReadersState {
    stored: bool,
    /// Shared by those who read now.
    claim: Weak<ReadersClaim>,
}

#[derive(Debug)]
struct ReadersClaim {
    share: Arc<MemoryShare>,
    bytes: usize,
    counted: AtomicBool,
}

impl Readers {
    /// None yet, of bytes that are not stored yet.
    pub fn new(share: &Arc<MemoryShare>) -> Self {
        Readers { share: share.clone(), state: Mutex::default() }
    }

    /// The bytes for one more reader.
    pub fn read(&self, bytes: Bytes) -> Bytes {
        if bytes.len() <= SMALL {
            return bytes;
        }
        let mut state = self.state.lock();
        let new = || ReadersClaim { share: self.share.clone(), bytes: bytes.len(), counted: AtomicBool::new(false) };
        let claim = state.claim.upgrade().unwrap_or_else(|| Arc::new(new()));
        claim.set_counted(!state.stored);
        state.claim = Arc::downgrade(&claim);
        drop(state);
        Bytes::from_owner(Held { bytes, _claim: claim })
    }

    /// The bytes are stored from here on, or no longer.
    pub fn set_stored(&self, stored: bool) {
        let mut state = self.state.lock();
        state.stored = stored;
        if let Some(claim) = state.claim.upgrade() {
            claim.set_counted(!stored);
        }
    }
}

impl ReadersClaim {
    /// Granted in any case: the bytes are in memory already.
    fn set_counted(&self, counted: bool) {
        if self.counted.swap(counted, Relaxed) != counted {
            if counted {
                self.share.add(self.bytes);
            } else {
                self.share.release(self.bytes);
            }
        }
    }
}

impl Drop for ReadersClaim {
    fn drop(&mut self) {
        self.set_counted(false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        MemoryExhausted::{Full, ShareUsed},
        *,
    };

    /// Of one service for each priority.
    fn allowance(memory: &Arc<Memory>, priority: Priority) -> MemoryAllowance {
        memory.share(Some(&format!("{priority:?}"))).allowance(priority)
    }

    #[test]
    fn low_is_refused_first_and_high_last() {
        let memory = Memory::new(1000);
        let [low, normal, high] = [Priority::Low, Priority::Normal, Priority::High].map(|it| allowance(&memory, it));
        let full = |allowance: &MemoryAllowance, bytes| {
            assert_eq!((allowance.check(bytes), allowance.claim(bytes).err()), (Err(Full), Some(Full)));
        };
        let first = ["a", "b", "c"].map(|name| memory.share(Some(name)).allowance(Priority::High).claim(160).unwrap());
        let second = low.claim(60).unwrap();
        full(&low, 61);
        let third = normal.claim(130).unwrap();
        full(&low, 1);
        full(&normal, 131);
        let fourth = high.claim(160).unwrap();
        full(&normal, 1);
        full(&high, 171);
        assert_eq!((high.check(5), memory.used()), (Ok(()), 830));
        // What must be read is read.
        let forced = low.clone().unlimited().claim(5000).unwrap();
        assert_eq!((memory.used(), low.clone().unlimited().check_response()), (5830, Ok(())));
        drop((first, second, third, fourth, forced));
        assert_eq!((memory.used(), low.check(300)), (0, Ok(())));
    }

    #[test]
    fn a_service_may_hold_what_it_leaves_free() {
        let memory = Memory::new(1000);
        let [greedy, other, late] = ["greedy", "other", "late"].map(|name| memory.share(Some(name)));
        let greedy = greedy.allowance(Priority::Normal);
        let held = greedy.claim(400).unwrap();
        assert_eq!((greedy.claim(1).err(), greedy.check(1)), (Some(ShareUsed), Err(ShareUsed)));
        let more = other.allowance(Priority::Normal).claim(200).unwrap();
        assert_eq!(other.allowance(Priority::Normal).check(1), Err(ShareUsed));
        assert_eq!(late.allowance(Priority::Normal).check(100), Ok(()));
        assert_eq!(late.allowance(Priority::Low).check(1), Err(Full), "of `low` there is nothing left");
        // Nothing comes back to it before it holds less than it would leave free.
        drop((held, more));
        assert_eq!((greedy.check(400), memory.used()), (Ok(()), 0));
    }

    /// All of them were read at once.
    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods, reason = "tasks of a test")]
    async fn what_must_be_read_waits_for_room_in_turn_but_not_for_ever() {
        let memory = Memory::new(1000);
        let [one, other] = ["one", "other"].map(|name| memory.share(Some(name)).allowance(Priority::High));
        let (began, until) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        // More than there will ever be.
        let first = one.claim_in_turn(2000, until).await;
        let third = tokio::spawn({
            let one = one.clone();
            async move { one.claim_in_turn(400, until).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let fourth = tokio::spawn({
            let one = one.clone();
            async move { one.claim_in_turn(300, until).await }
        });
        // Those of others do not wait for them; this one has none.
        let second = other.claim_in_turn(10, until).await;
        assert_eq!((began.elapsed(), memory.used()), (Duration::from_millis(100), 2010));
        drop(first);
        let third = third.await.unwrap();
        assert!(began.elapsed() <= Duration::from_millis(100) + LOOK);
        assert_eq!(memory.used(), 410);
        let fourth = fourth.await.unwrap();
        assert_eq!((until.elapsed(), memory.used()), (Duration::ZERO, 710), "it is read all the same");
        drop((second, third, fourth));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_claim_goes_back_with_the_last_handle_to_its_bytes() {
        let memory = Memory::new(1000);
        let claim = allowance(&memory, Priority::High).claim(300).unwrap();
        let mut bytes = claim.hold(Bytes::from(vec![7; 300]));
        let part = bytes.split_to(10);
        drop(bytes);
        assert_eq!((memory.used(), &part[..]), (300, &[7; 10][..]));
        drop(part);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn stored_bytes_count_while_they_are_read_and_not_stored() {
        let memory = Memory::new(1 << 20);
        let (readers, bytes) = (Readers::new(&memory.share(None)), Bytes::from(vec![7; SMALL + 1]));
        let early = readers.read(bytes.clone());
        assert_eq!((memory.used(), early[..] == bytes[..]), (SMALL + 1, true));
        readers.set_stored(true);
        let late = readers.read(bytes.clone());
        assert_eq!(memory.used(), 0);
        // Slow callers still have them when they leave the cache; those who are done do not.
        readers.set_stored(false);
        assert_eq!(memory.used(), SMALL + 1);
        drop(early);
        assert_eq!(memory.used(), SMALL + 1);
        drop(late);
        assert_eq!(memory.used(), 0);
        let again = readers.read(bytes.clone());
        assert_eq!(memory.used(), SMALL + 1);
        drop(again);
        readers.set_stored(true);
        readers.set_stored(false);
        let small = readers.read(bytes.slice(1..));
        assert_eq!((memory.used(), small.len()), (0, SMALL));
    }

    #[test]
    fn a_lower_limit_applies_at_once() {
        let memory = Memory::new(1000);
        let allowance = allowance(&memory, Priority::High);
        let claim = allowance.claim(500).unwrap();
        memory.set_limit(400);
        assert_eq!((allowance.claim(1).is_err(), memory.used(), memory.limit()), (true, 500, 400));
        drop(claim);
        assert!(allowance.claim(200).is_ok());
    }

    proptest! {
        #[test]
        fn claims_never_exceed_the_limit_and_all_go_back(
            steps in prop::collection::vec((0..3_u8, 0..700_usize, 0..700_usize), 1..60)
        ) {
            let memory = Memory::new(1000);
            let mut claims = Vec::new();
            for (what, bytes, other) in steps {
                let priority = [Priority::Low, Priority::Normal, Priority::High][usize::from(what)];
                if let Ok(mut claim) = allowance(&memory, priority).claim(bytes) {
                    let _ = claim.grow_to(other);
                    claim.shrink_to(other);
                    claims.push(claim);
                }
                if bytes % 3 == 0 {
                    claims.pop();
                }
                prop_assert!(memory.used() <= 1000);
                prop_assert_eq!(memory.used(), claims.iter().map(|claim| claim.bytes).sum::<usize>());
            }
            drop(claims);
            prop_assert_eq!(memory.used(), 0);
        }
    }
}
