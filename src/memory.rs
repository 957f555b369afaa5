//! How many bytes of requests and responses the process buffers, and who may buffer more (`limits.memory`).
//!
//! A buffer claims its bytes before they are allocated. What always holds: the claims of a priority are granted only
//! while all claims together stay within its part of the limit, so `low` is shed first and `high` last; a claim goes
//! back when its bytes are freed, whatever ends the request. Two things may exceed the limit: the response to an order,
//! which must be read because nobody can ask for it again, and stored responses that left the cache while callers still
//! read them. A claim is one addition to a shared counter. Must not know requests. Fails with
//! [`MemoryExhausted`], without waiting.

mod buffer;

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::Mutex;

pub use buffer::ClaimedBuffer;

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

/// The bound on buffered bytes, and how many there are. One per process; it outlives configurations.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    limit: AtomicUsize,
}

/// No room for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The gateway buffers as many bytes of requests and responses as it may (`limits.memory`)")]
pub struct MemoryExhausted;

impl Memory {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Memory { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit) })
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

    /// What a request of this priority may claim.
    pub fn allowance(self: &Arc<Self>, priority: Priority) -> MemoryAllowance {
        MemoryAllowance { memory: self.clone(), percent: Some(part_of(priority)) }
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// What one request may claim.
#[derive(Clone, Debug)]
pub struct MemoryAllowance {
    memory: Arc<Memory>,
    /// Part of the limit, in percent. `None`: there is none.
    percent: Option<usize>,
}

impl MemoryAllowance {
    /// For bytes that must be read, whatever is claimed already.
    pub fn unlimited(self) -> Self {
        MemoryAllowance { percent: None, ..self }
    }

    /// Bytes that all claims together may have for this one to be granted.
    fn limit(&self) -> usize {
        let part = |percent| self.memory.limit() / 100 * percent;
        self.percent.map_or(usize::MAX, part)
    }

    /// Whether so many bytes could be claimed now: to be checked before a request causes bytes that it has no claim for
    /// yet.
    ///
    /// # Errors
    /// [`MemoryExhausted`].
    pub fn check(&self, bytes: usize) -> Result<(), MemoryExhausted> {
        if self.memory.used().saturating_add(bytes) <= self.limit() { Ok(()) } else { Err(MemoryExhausted) }
    }

    /// Whether there is room for a response whose length is not known yet: for a short one at least.
    ///
    /// # Errors
    /// [`MemoryExhausted`].
    pub fn check_response(&self) -> Result<(), MemoryExhausted> {
        self.check(SHORT_RESPONSE)
    }

    fn empty_claim(&self) -> MemoryClaim {
        MemoryClaim { memory: self.memory.clone(), bytes: 0 }
    }

    /// Claims room for this many bytes.
    ///
    /// # Errors
    /// [`MemoryExhausted`]; nothing is claimed then.
    pub fn claim(&self, bytes: usize) -> Result<MemoryClaim, MemoryExhausted> {
        let mut claim = self.empty_claim();
        claim.grow_to(bytes, self)?;
        Ok(claim)
    }
}

/// Claimed room; it goes back on drop.
#[derive(Debug)]
#[must_use = "the room goes back when the claim is dropped"]
pub struct MemoryClaim {
    memory: Arc<Memory>,
    bytes: usize,
}

impl MemoryClaim {
    /// Claims more, up to `bytes` in all.
    fn grow_to(&mut self, bytes: usize, allowance: &MemoryAllowance) -> Result<(), MemoryExhausted> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let before = self.memory.used.fetch_add(more, Relaxed);
        if before.saturating_add(more) > allowance.limit() {
            self.memory.release(more);
            return Err(MemoryExhausted);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.memory.release(less);
        self.bytes -= less;
    }

    /// The same bytes; the claim goes back when the last handle to them is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Held { bytes, _claim: self }) }
    }
}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
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
/// claim while they are read and not stored.
#[derive(Debug)]
pub struct Readers {
    memory: Arc<Memory>,
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
    memory: Arc<Memory>,
    bytes: usize,
    counted: AtomicBool,
}

impl Readers {
    /// None yet, of bytes that are not stored yet.
    pub fn new(memory: &Arc<Memory>) -> Self {
        Readers { memory: memory.clone(), state: Mutex::default() }
    }

    /// The bytes for one more reader.
    pub fn read(&self, bytes: Bytes) -> Bytes {
        if bytes.len() <= SMALL {
            return bytes;
        }
        let mut state = self.state.lock();
        let new = || ReadersClaim { memory: self.memory.clone(), bytes: bytes.len(), counted: AtomicBool::new(false) };
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
                self.memory.used.fetch_add(self.bytes, Relaxed);
            } else {
                self.memory.release(self.bytes);
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

    use super::*;

    #[test]
    fn low_is_refused_first_and_high_last() {
        let memory = Memory::new(1000);
        let [low, normal, high] = [Priority::Low, Priority::Normal, Priority::High].map(|it| memory.allowance(it));
        let first = low.claim(600).unwrap();
        assert_eq!((low.claim(1).err(), low.check(1)), (Some(MemoryExhausted), Err(MemoryExhausted)));
        let second = normal.claim(200).unwrap();
        assert!(normal.claim(1).is_err() && normal.check(1).is_err() && high.check(200).is_ok());
        let third = high.claim(200).unwrap();
        assert!(high.claim(1).is_err() && high.check(1).is_err());
        assert_eq!(memory.used(), 1000);
        // What must be read is read.
        let forced = low.clone().unlimited().claim(5000).unwrap();
        assert_eq!((memory.used(), low.clone().unlimited().check_response()), (6000, Ok(())));
        drop((first, second, third, forced));
        assert_eq!((memory.used(), low.check(600)), (0, Ok(())));
    }

    #[test]
    fn a_claim_goes_back_with_the_last_handle_to_its_bytes() {
        let memory = Memory::new(1000);
        let claim = memory.allowance(Priority::High).claim(300).unwrap();
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
        let (readers, bytes) = (Readers::new(&memory), Bytes::from(vec![7; SMALL + 1]));
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
        let allowance = memory.allowance(Priority::High);
        let claim = allowance.claim(500).unwrap();
        memory.set_limit(400);
        assert_eq!((allowance.claim(1).is_err(), memory.used(), memory.limit()), (true, 500, 400));
        drop(claim);
        assert!(allowance.claim(400).is_ok());
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
                if let Ok(mut claim) = memory.allowance(priority).claim(bytes) {
                    let _ = claim.grow_to(other, &memory.allowance(priority));
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
