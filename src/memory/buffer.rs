//! Bytes that arrive in pieces, collected under a claim.
//!
//! What always holds: room is claimed before it is allocated, and for what has arrived, not for what was announced: at
//! most [`FIRST_STEP`] or twice as much, so that nobody holds memory with a head alone. A single piece is not copied; the
//! claim stays with the bytes until they are freed. Fails with [`MemoryExhausted`].

use bytes::Bytes;

use super::{MemoryAllowance, MemoryClaim, MemoryExhausted};

/// Room for a body in several pieces to begin with, in bytes: most need no more.
const FIRST_STEP: usize = 64 * 1024;

/// Bytes being collected.
pub struct ClaimedBuffer {
    claim: MemoryClaim,
    /// Length that was announced, in bytes; 0: none was.
    declared: usize,
    /// The first piece, while it is the only one.
    first: Bytes,
    /// All pieces, once there are two.
    all: Vec<u8>,
}

impl ClaimedBuffer {
    /// For `declared` bytes; 0: the length is not known. Claims nothing yet.
    ///
    /// # Errors
    /// [`MemoryExhausted`] if there is no room for them at present.
    pub fn new(allowance: MemoryAllowance, declared: usize) -> Result<Self, MemoryExhausted> {
        allowance.check(declared)?;
        Ok(ClaimedBuffer { claim: allowance.begin(), declared, first: Bytes::new(), all: Vec::new() })
    }

    /// Bytes collected so far.
    pub fn length(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    /// Replaces the claim by one for so many bytes as it will have at most.
    pub fn claimed(&mut self, claim: MemoryClaim) {
        self.claim = claim;
        if self.declared > self.all.capacity() {
            self.all.reserve_exact(self.declared - self.all.len());
        }
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// [`MemoryExhausted`]; the piece is lost.
    pub fn push(&mut self, piece: Bytes) -> Result<(), MemoryExhausted> {
        let length = self.length() + piece.len();
        if self.length() == 0 {
            self.claim.grow_to(length)?;
            self.first = piece;
            return Ok(());
        }
        if length > self.all.capacity() {
            // Grows like a vector, but not beyond a length that was declared truthfully.
            let grown = length.max(2 * self.all.capacity());
            let capacity = if length <= self.declared { grown.max(FIRST_STEP).min(self.declared) } else { grown };
            self.claim.grow_to(capacity)?;
            self.all.reserve_exact(capacity - self.all.len());
        }
        if !self.first.is_empty() {
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&piece);
        Ok(())
    }

    /// What was collected; the claim goes back when the last handle to it is dropped.
    pub fn into_bytes(self) -> Bytes {
        let (bytes, claim) = self.into_parts();
        claim.hold(bytes)
    }

    /// What was collected, and the claim for it.
    pub fn into_parts(self) -> (Bytes, MemoryClaim) {
        let ClaimedBuffer { mut claim, first, all, .. } = self;
        let (capacity, bytes) = if all.is_empty() { (first.len(), first) } else { (all.capacity(), Bytes::from(all)) };
        claim.shrink_to(capacity);
        (bytes, claim)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{config::Priority, memory::Memory};

    #[test]
    fn a_single_piece_is_not_copied_and_a_length_without_room_is_refused_at_once() {
        let memory = Memory::new(2000);
        let mut buffer = ClaimedBuffer::new(memory.share(None).allowance(Priority::High), 900).unwrap();
        assert_eq!(memory.used(), 0, "nothing has arrived");
        let piece = Bytes::from(vec![7; 100]);
        buffer.push(piece.clone()).unwrap();
        let bytes = buffer.into_bytes();
        assert_eq!((bytes.as_ptr(), memory.used()), (piece.as_ptr(), 100));
        drop(bytes);
        assert_eq!(memory.used(), 0);
        assert!(ClaimedBuffer::new(memory.share(None).allowance(Priority::Low), 601).is_err());
    }

    #[test]
    fn what_is_claimed_follows_what_arrives_and_a_declared_length_costs_few_copies() {
        const PIECE: usize = 16 * 1024;
        let memory = Memory::new(64 << 20);
        let declared = 60 * PIECE + 1;
        let mut buffer = ClaimedBuffer::new(memory.share(None).allowance(Priority::High), declared).unwrap();
        let mut allocations = Vec::new();
        for n in 1..=60 {
            buffer.push(Bytes::from(vec![7; PIECE])).unwrap();
            assert!(memory.used() <= FIRST_STEP.max(2 * n * PIECE), "{n}: {}", memory.used());
            allocations.push(buffer.all.capacity());
        }
        buffer.push(Bytes::from_static(&[7])).unwrap();
        assert_eq!((memory.used(), buffer.all.capacity()), (declared, declared), "no more than was declared");
        allocations.dedup();
        assert_eq!(allocations, [0, FIRST_STEP, 2 * FIRST_STEP, 4 * FIRST_STEP, 8 * FIRST_STEP, declared]);
    }

    #[test]
    fn what_was_claimed_as_a_whole_is_allocated_once_and_shrinks_to_what_came() {
        let memory = Memory::new(8 << 20);
        let allowance = memory.share(None).allowance(Priority::High);
        for (declared, pieces, used) in [(900_000, 9, 900_000), (0, 9, 1_600_000), (900_000, 1, 100_000)] {
            let mut buffer = ClaimedBuffer::new(allowance.clone(), declared).unwrap();
            buffer.push(Bytes::from(vec![7; 100_000])).unwrap();
            let claim = allowance.clone().unlimited().claim(2_000_000).unwrap();
            buffer.claimed(claim);
            assert_eq!(memory.used(), 2_000_000);
            let capacity = buffer.all.capacity();
            (1..pieces).for_each(|_| buffer.push(Bytes::from(vec![7; 100_000])).unwrap());
            assert!(declared == 0 || buffer.all.capacity() == capacity);
            let bytes = buffer.into_bytes();
            assert_eq!((bytes.len(), memory.used()), (pieces * 100_000, used), "{declared}");
        }
        assert_eq!(memory.used(), 0);
    }

    proptest! {
        #[test]
        fn collects_what_came_within_what_it_claimed(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20), declared in 0..2000_usize
        ) {
            let memory = Memory::new(2500);
            let Ok(mut buffer) = ClaimedBuffer::new(memory.share(None).allowance(Priority::High), declared) else { return Ok(()) };
            let mut expected = Vec::new();
            for piece in pieces {
                expected.extend_from_slice(&piece);
                if buffer.push(Bytes::from(piece)).is_err() {
                    drop(buffer);
                    prop_assert_eq!(memory.used(), 0);
                    return Ok(());
                }
                prop_assert!(memory.used() >= buffer.all.capacity().max(buffer.first.len()));
                prop_assert!(memory.used() <= FIRST_STEP.min(declared).max(2 * expected.len()), "no more than a vector");
            }
            let bytes = buffer.into_bytes();
            prop_assert_eq!(&bytes[..], &expected[..]);
            drop(bytes);
            prop_assert_eq!(memory.used(), 0);
        }
    }
}
