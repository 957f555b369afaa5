//! A file that redb may write to without changing it: what it writes stays in memory.
//!
//! To open a store is to write to it: redb marks it as open, and repairs what a killed process left. So a file is opened
//! here exactly as a gateway opens it, and stays as it was. Always holds: the file is only read. Its memory is what redb
//! writes at an opening, which is little beside the file. Fails with the system's errors. It must not know what redb writes.

use std::{collections::BTreeMap, fs::File, io, ops::Bound, os::unix::fs::FileExt as _, path::Path};

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

/// Bytes that are kept together.
const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(super) struct OverlayFile {
    file: File,
    overlay: Mutex<Overlay>,
}

#[derive(Debug)]
struct Overlay {
    /// Bytes, as redb has made it.
    length: u64,
    /// What is read of the file, bytes: all of it, until redb shortens it.
    beneath: u64,
    /// By their number.
    written: BTreeMap<u64, Box<[u8]>>,
}

impl OverlayFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(OverlayFile { file, overlay: Mutex::new(Overlay { length, beneath: length, written: BTreeMap::new() }) })
    }
}

impl Overlay {
    /// A block as redb has left it. Bytes after the end are zero.
    fn block(&self, file: &File, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(block) = self.written.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK as usize].into_boxed_slice();
        let there = self.beneath.saturating_sub(number * BLOCK).min(BLOCK) as usize;
        file.read_exact_at(&mut block[..there], number * BLOCK)?;
        Ok(block)
    }

    fn is_within(&self, offset: u64, length: usize) -> io::Result<()> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The parts of some bytes at an offset that lie in one block each: its number, where they begin in it, and how many.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + length as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        let (number, within) = (at / BLOCK, at % BLOCK);
        let count = (BLOCK - within).min(end - at);
        at += count;
        (count > 0).then_some((number, within as usize, count as usize))
    })
}

impl StorageBackend for OverlayFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.overlay.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let overlay = self.overlay.lock();
        overlay.is_within(offset, out.len())?;
        let mut rest = out;
        for (number, within, count) in parts(offset, rest.len()) {
            let (part, others) = rest.split_at_mut(count);
            part.copy_from_slice(&overlay.block(&self.file, number)?[within..within + count]);
            rest = others;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut overlay = self.overlay.lock();
        if length < overlay.length {
            overlay.written.retain(|number, _| number * BLOCK < length);
            if let Some(last) = overlay.written.get_mut(&(length / BLOCK)) {
                last[(length % BLOCK) as usize..].fill(0);
            }
        }
        overlay.beneath = overlay.beneath.min(length);
        overlay.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut overlay = self.overlay.lock();
        overlay.is_within(offset, bytes.len())?;
        let mut rest = bytes;
        for (number, within, count) in parts(offset, bytes.len()) {
            let mut block = overlay.block(&self.file, number)?;
            let (part, others) = rest.split_at(count);
            block[within..within + count].copy_from_slice(part);
            overlay.written.insert(number, block);
            rest = others;
        }
        Ok(())
    }

    // What is written here is nobody else's: each lock is free.

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model that is a vector: reads are the same, and the file stays as it was.
        #[test]
        fn reads_what_was_written_over_the_file(
            steps in prop::collection::vec((0_u8..3, 0_usize..20_000, 1_usize..9_000), 1..30),
            length in 0_usize..15_000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let begun: Vec<u8> = (0..length).map(|at| (at % 251) as u8 + 1).collect();
            std::fs::write(&path, &begun).unwrap();
            let (overlay, mut model) = (OverlayFile::open(&path).unwrap(), begun.clone());
            for (number, (what, at, count)) in steps.into_iter().enumerate() {
                let fits = at + count <= model.len();
                match what {
                    0 => {
                        overlay.set_len(at as u64).unwrap();
                        model.resize(at, 0);
                    }
                    1 => {
                        let bytes = vec![number as u8 + 1; count];
                        prop_assert_eq!(overlay.write(at as u64, &bytes).is_ok(), fits);
                        if fits {
                            model[at..at + count].copy_from_slice(&bytes);
                        }
                    }
                    _ => {
                        let mut bytes = vec![0; count];
                        prop_assert_eq!(overlay.read(at as u64, &mut bytes).is_ok(), fits);
                        prop_assert!(!fits || bytes == model[at..at + count]);
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), model.len() as u64);
            }
            let mut all = vec![0; model.len()];
            overlay.read(0, &mut all).unwrap();
            prop_assert!(all == model);
            prop_assert!(std::fs::read(&path).unwrap() == begun);
        }
    }
}
