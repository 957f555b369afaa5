//! The format of a snapshot of the cache: a head, the entries with the lists of their headers' names, an end. Pure.
//!
//! ```text
//! head    MAGIC, version (u32), when it was taken (a time mark: 3 × u64), the purges that it includes (2 × u64)
//! names   length (u32, above 0), 1 (u8), that many bytes, digest
//! entry   length (u32, above 0), 2 (u8), that many bytes, digest
//! end     0 (u32), number of entries (u64), digest
//! ```
//!
//! Numbers are little-endian. A digest covers everything before it, so an entry is known to be whole and in its place, and
//! the last one covers the file. A list of names is written once, before the first of the entries that have it, which name
//! it by its number. What always holds: only what was written is read, whatever bytes a file has; an entry takes no more of
//! the file than of the cache; reading takes no more memory than the lists, and the largest entry that the caller accepts.
//! Must not know files or the cache. Fails with [`SnapshotFault`].

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, StatusCode};
use ring::digest;

use crate::{
    outcome::Outcome,
    uptime::{TimeMark, millis},
};

/// The first bytes of a file.
const MAGIC: &[u8; 12] = b"fastrac-warm";

/// An uptime that is not known.
const UNKNOWN: u64 = u64::MAX;

/// Of the format. Another one is not read.
const VERSION: u32 = 5;

/// What a part is: a list of names.
const NAMES: u8 = 1;

/// An entry.
const ENTRY: u8 = 2;

/// Bytes of a digest: SHA-256, cut. It guards against damage, not against those who can write to the state folder.
const DIGEST: usize = 16;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// Why a snapshot cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    #[error("it is no snapshot of a cache")]
    Foreign,
    #[error("it has version {0} of the format, and this program reads version {VERSION}")]
    Version(u32),
    #[error("it is damaged")]
    Damaged,
    #[error("it ends too early")]
    Truncated,
    #[error("the list of what was purged since is damaged")]
    Purges,
    #[error("the system clock has been set back since it was taken, so that nothing is known of its age")]
    Undated,
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
}

impl From<io::Error> for SnapshotFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotFault::Truncated,
            _ => SnapshotFault::Unreadable(error),
        }
    }
}

/// The purges after which a snapshot was taken: those of one process, up to a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncludedPurges {
    pub run: u64,
    pub number: u64,
}

/// A stored response with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry<'a> {
    pub key: &'a [u8],
    pub status: StatusCode,
    /// `Ok` or `NotFound`.
    pub outcome: Outcome,
    /// When the snapshot was taken.
    pub age: Duration,
    /// How often it was used, with less weight of uses that are longer ago.
    pub uses: u32,
    pub names: Arc<[HeaderName]>,
    /// The values of the headers, and the body; see `packed`.
    pub packed: &'a [u8],
}

/// The digest of all that was written or read so far.
struct Chain([u8; DIGEST]);

impl Chain {
    fn extend(&mut self, parts: &[&[u8]]) -> [u8; DIGEST] {
        let mut context = self.context();
        parts.iter().for_each(|part| context.update(part));
        self.finish(context)
    }

    fn context(&self) -> digest::Context {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.0);
        context
    }

    fn finish(&mut self, context: digest::Context) -> [u8; DIGEST] {
        self.0 = context.finish().as_ref().first_chunk().copied().unwrap_or_default();
        self.0
    }
}

/// Encodes a snapshot, piece by piece.
pub struct SnapshotEncoder {
    chain: Chain,
    /// Those that are written, with their numbers.
    lists: HashMap<Arc<[HeaderName]>, u32>,
    entries: u64,
}

impl SnapshotEncoder {
    /// Appends the head to `out`.
    pub fn begin(taken: TimeMark, included: IncludedPurges, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let TimeMark { boot, uptime_ms, wall_ms } = taken;
        for number in [boot, uptime_ms.unwrap_or(UNKNOWN), wall_ms, included.run, included.number] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let mut chain = Chain([0; DIGEST]);
        chain.extend(&[&out[start..]]);
        SnapshotEncoder { chain, lists: HashMap::new(), entries: 0 }
    }

    /// Appends an entry, and before it the list of its names if no entry before had it. Leaves out one that is too long for
    /// the format (4 GiB).
    pub fn entry(&mut self, entry: &SnapshotEntry<'_>, out: &mut Vec<u8>) {
        let list = self.list(&entry.names, out);
        let is_written = self.part(ENTRY, out, |out| {
            out.extend_from_slice(&entry.status.as_u16().to_le_bytes());
            out.push(u8::from(entry.outcome == Outcome::NotFound));
            out.extend_from_slice(&millis(entry.age).to_le_bytes());
            out.extend_from_slice(&entry.uses.to_le_bytes());
            out.extend_from_slice(&list.to_le_bytes());
            field(out, entry.key);
            out.extend_from_slice(entry.packed);
        });
        self.entries += u64::from(is_written);
    }

    /// The number of a list, which is appended if it is a new one.
    fn list(&mut self, names: &Arc<[HeaderName]>, out: &mut Vec<u8>) -> u32 {
        if let Some(number) = self.lists.get(names) {
            return *number;
        }
        let number = self.lists.len() as u32;
        self.lists.insert(names.clone(), number);
        self.part(NAMES, out, |out| {
            out.extend_from_slice(&(names.len() as u32).to_le_bytes());
            names.iter().for_each(|name| field(out, name.as_str().as_bytes()));
        });
        number
    }

    /// Appends what `write` writes. Returns whether it did, or it was too long.
    fn part(&mut self, kind: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.push(kind);
        let content = out.len();
        write(out);
        let Ok(length) = u32::try_from(out.len() - content) else {
            out.truncate(start);
            return false;
        };
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        let digest = self.chain.extend(&[&out[start..]]);
        out.extend_from_slice(&digest);
        true
    }

    /// Appends the end. Returns the number of entries.
    pub fn end(mut self, out: &mut Vec<u8>) -> u64 {
        let start = out.len();
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        let digest = self.chain.extend(&[&out[start..]]);
        out.extend_from_slice(&digest);
        self.entries
    }
}

/// Lengths fit: keys and names are parts of requests and responses, whose heads and bodies have limits far below.
fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Decodes a snapshot, entry by entry.
pub struct SnapshotDecoder<R> {
    input: R,
    /// Bytes that are left in the file.
    left: u64,
    /// Longer entries are skipped, bytes.
    longest: usize,
    chain: Chain,
    /// Those that were read, by number.
    lists: Vec<Arc<[HeaderName]>>,
    entries: u64,
    taken: TimeMark,
    included: IncludedPurges,
    buffer: Vec<u8>,
}

impl<R: Read> SnapshotDecoder<R> {
    /// Reads the head. `length`: of the file; `longest`: entries above are skipped, bytes; 0: all, to find out whether it is
    /// whole.
    ///
    /// # Errors
    /// [`SnapshotFault`].
    pub fn begin(input: R, length: u64, longest: usize) -> Result<Self, SnapshotFault> {
        let (chain, left, entries, buffer) = (Chain([0; DIGEST]), length, 0, Vec::new());
        let (taken, included) = (TimeMark { boot: 0, uptime_ms: None, wall_ms: 0 }, IncludedPurges::default());
        let lists = Vec::new();
        let mut decoder = SnapshotDecoder { input, left, longest, chain, lists, entries, taken, included, buffer };
        let magic: [u8; MAGIC.len()] = decoder.read().map_err(|fault| match fault {
            SnapshotFault::Truncated => SnapshotFault::Foreign,
            other => other,
        })?;
        if magic != *MAGIC {
            return Err(SnapshotFault::Foreign);
        }
        let version: [u8; 4] = decoder.read()?;
        if u32::from_le_bytes(version) != VERSION {
            return Err(SnapshotFault::Version(u32::from_le_bytes(version)));
        }
        let mut numbers = [[0; 8]; 5];
        for number in &mut numbers {
            *number = decoder.read()?;
        }
        decoder.chain.extend(&[&magic, &version, numbers.as_flattened()]);
        let [boot, uptime, wall_ms, run, number] = numbers.map(u64::from_le_bytes);
        decoder.taken = TimeMark { boot, uptime_ms: (uptime != UNKNOWN).then_some(uptime), wall_ms };
        decoder.included = IncludedPurges { run, number };
        Ok(decoder)
    }

    /// When the snapshot was taken. To be believed once an entry or the end was read.
    pub fn taken(&self) -> TimeMark {
        self.taken
    }

    /// The purges that it includes. To be believed as [`SnapshotDecoder::taken`].
    pub fn included(&self) -> IncludedPurges {
        self.included
    }

    /// Number of entries so far, with those that were skipped.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry; `None` at the end of a whole snapshot.
    ///
    /// # Errors
    /// [`SnapshotFault`]; nothing more can be read then.
    pub fn read_next(&mut self) -> Result<Option<SnapshotEntry<'_>>, SnapshotFault> {
        loop {
            let length: [u8; 4] = self.read()?;
            if length == [0; 4] {
                return self.end(length);
            }
            let kind = self.read::<1>()?;
            let is_kept = self.read_part(length, kind)?;
            match kind {
                [NAMES] if is_kept => {
                    self.lists.push(parse_names(&self.buffer).ok_or(SnapshotFault::Damaged)?);
                }
                [NAMES] => {}
                [ENTRY] => {
                    self.entries += 1;
                    if is_kept {
                        return parse(&self.buffer, &self.lists).map(Some).ok_or(SnapshotFault::Damaged);
                    }
                }
                _ => return Err(SnapshotFault::Damaged),
            }
        }
    }

    /// Reads a part into the buffer. `false`: it is an entry that is too long to be kept, or nothing is.
    fn read_part(&mut self, length: [u8; 4], kind: [u8; 1]) -> Result<bool, SnapshotFault> {
        let size = u32::from_le_bytes(length);
        if u64::from(size) > self.left {
            return Err(SnapshotFault::Truncated);
        }
        let longest = if kind == [NAMES] && self.longest > 0 { usize::MAX } else { self.longest };
        let is_kept = usize::try_from(size).is_ok_and(|size| size <= longest);
        let mut context = self.chain.context();
        context.update(&length);
        context.update(&kind);
        self.buffer.clear();
        let mut unread = size as usize;
        while unread > 0 {
            let start = if is_kept { self.buffer.len() } else { 0 };
            self.buffer.resize(start + unread.min(CHUNK), 0);
            let chunk = &mut self.buffer[start..];
            self.input.read_exact(chunk)?;
            context.update(chunk);
            unread -= chunk.len();
        }
        self.left -= u64::from(size);
        let digest = self.chain.finish(context);
        if self.read::<DIGEST>()? != digest {
            return Err(SnapshotFault::Damaged);
        }
        Ok(is_kept)
    }

    fn end(&mut self, length: [u8; 4]) -> Result<Option<SnapshotEntry<'_>>, SnapshotFault> {
        let entries: [u8; 8] = self.read()?;
        let digest = self.chain.extend(&[&length, &entries]);
        let is_whole = self.read::<DIGEST>()? == digest && entries == self.entries.to_le_bytes() && self.left == 0;
        if is_whole { Ok(None) } else { Err(SnapshotFault::Damaged) }
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], SnapshotFault> {
        self.left = self.left.checked_sub(N as u64).ok_or(SnapshotFault::Truncated)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// An entry whose digest was right.
fn parse<'a>(bytes: &'a [u8], lists: &[Arc<[HeaderName]>]) -> Option<SnapshotEntry<'a>> {
    let (status, rest) = bytes.split_first_chunk()?;
    let (outcome, rest) = rest.split_first()?;
    let (age, rest) = rest.split_first_chunk()?;
    let (uses, rest) = rest.split_first_chunk()?;
    let (list, rest) = rest.split_first_chunk()?;
    let (key, packed) = split_field(rest)?;
    Some(SnapshotEntry {
        key,
        status: StatusCode::from_u16(u16::from_le_bytes(*status)).ok()?,
        outcome: if *outcome == 0 { Outcome::Ok } else { Outcome::NotFound },
        age: Duration::from_millis(u64::from_le_bytes(*age)),
        uses: u32::from_le_bytes(*uses),
        names: lists.get(u32::from_le_bytes(*list) as usize)?.clone(),
        packed,
    })
}

/// A list whose digest was right.
fn parse_names(bytes: &[u8]) -> Option<Arc<[HeaderName]>> {
    let (count, mut rest) = bytes.split_first_chunk()?;
    let mut names = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (name, after) = split_field(rest)?;
        names.push(HeaderName::from_bytes(name).ok()?);
        rest = after;
    }
    Some(names.into())
}

fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Owned {
        key: Vec<u8>,
        not_found: bool,
        age: Duration,
        uses: u32,
        names: Arc<[HeaderName]>,
        packed: Vec<u8>,
    }

    impl Owned {
        fn of(entry: &SnapshotEntry<'_>) -> Self {
            let not_found = entry.outcome == Outcome::NotFound;
            assert_eq!(entry.status, if not_found { StatusCode::NOT_FOUND } else { StatusCode::OK });
            let (key, packed) = (entry.key.to_vec(), entry.packed.to_vec());
            Owned { key, not_found, age: entry.age, uses: entry.uses, names: entry.names.clone(), packed }
        }

        fn encode(&self, encoder: &mut SnapshotEncoder, out: &mut Vec<u8>) {
            let (status, outcome) = match self.not_found {
                true => (StatusCode::NOT_FOUND, Outcome::NotFound),
                false => (StatusCode::OK, Outcome::Ok),
            };
            let names = self.names.clone();
            let (key, age, uses, packed) = (&self.key, self.age, self.uses, &self.packed);
            let entry = SnapshotEntry { key, status, outcome, age, uses, names, packed };
            encoder.entry(&entry, out);
        }
    }

    const INCLUDED: IncludedPurges = IncludedPurges { run: u64::MAX - 1, number: 5 };

    /// Bytes.
    const HEAD: usize = 56;

    fn taken() -> TimeMark {
        TimeMark { boot: u64::MAX - 3, uptime_ms: Some(77_010), wall_ms: 1_764_400_000_123 }
    }

    fn encode(entries: &[Owned]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = SnapshotEncoder::begin(taken(), INCLUDED, &mut out);
        entries.iter().for_each(|entry| entry.encode(&mut encoder, &mut out));
        assert_eq!(encoder.end(&mut out), entries.len() as u64);
        out
    }

    /// What can be read, and whether it is whole.
    fn decode(bytes: &[u8], longest: usize) -> (Vec<Owned>, Result<(), SnapshotFault>) {
        let mut found = Vec::new();
        let mut decoder = match SnapshotDecoder::begin(bytes, bytes.len() as u64, longest) {
            Ok(decoder) => decoder,
            Err(fault) => return (found, Err(fault)),
        };
        loop {
            match decoder.read_next() {
                Ok(Some(entry)) => found.push(Owned::of(&entry)),
                Ok(None) => {
                    assert_eq!((decoder.taken(), decoder.included()), (taken(), INCLUDED));
                    return (found, Ok(()));
                }
                Err(fault) => {
                    assert!(decoder.buffer.capacity() <= bytes.len().max(2 * CHUNK), "bounded memory");
                    return (found, Err(fault));
                }
            }
        }
    }

    fn entry() -> impl Strategy<Value = Owned> {
        let names = prop::sample::select(vec!["content-type", "date", "x-powered-by"]);
        let names = prop::collection::vec(names.prop_map(HeaderName::from_static), 0..4);
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let numbers = (any::<u32>(), any::<u32>());
        (bytes(), any::<bool>(), numbers, names, bytes()).prop_map(|(key, not_found, (age, uses), names, packed)| {
            Owned { key, not_found, age: Duration::from_millis(age.into()), uses, names: names.into(), packed }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..8)) {
            let (found, end) = decode(&encode(&entries), usize::MAX);
            prop_assert!(end.is_ok());
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn long_entries_are_skipped(entries in prop::collection::vec(entry(), 0..8), longest in 0..500_usize) {
            let bytes = encode(&entries);
            let (found, end) = decode(&bytes, longest);
            prop_assert!(end.is_ok());
            prop_assert!(found.len() == entries.len() || longest < 500);
            prop_assert!(found.iter().all(|entry| entries.contains(entry) && entry.packed.len() <= longest));
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, after_head: bool) {
            let mut file = if after_head { encode(&[])[..HEAD].to_vec() } else { Vec::new() };
            file.extend_from_slice(&bytes);
            prop_assert!(decode(&file, 1000).1.is_err());
        }
    }

    fn sample() -> Vec<Owned> {
        let entry = |number: u8| Owned {
            key: vec![number; 40],
            not_found: number.is_multiple_of(3),
            age: Duration::from_secs(number.into()),
            uses: number.into(),
            names: [http::header::CONTENT_TYPE, HeaderName::from_static("x-powered-by")].into(),
            packed: vec![number ^ 0x55; usize::from(number) * 40],
        };
        (1..9).map(entry).collect()
    }

    /// 8,000 damaged files: none is taken for a whole one, and no entry is wrong.
    #[test]
    fn single_byte_flips_and_truncations_are_noticed() {
        let entries = sample();
        let file = encode(&entries);
        assert!(file.len() > 1000);
        let check = |damaged: &[u8]| {
            let (found, end) = decode(damaged, 10_000);
            assert!(end.is_err());
            assert_eq!(found, entries[..found.len()]);
        };
        let mut random = fastrand::Rng::with_seed(17);
        for _ in 0..7000 {
            let mut damaged = file.clone();
            damaged[random.usize(..file.len())] ^= random.u8(1..);
            check(&damaged);
        }
        (0..1000).for_each(|_| check(&file[..random.usize(..file.len())]));
    }

    #[test]
    fn pieces_of_several_snapshots_are_no_snapshot() {
        let entries = sample();
        let file = encode(&entries);
        // The same head and other entries: the first part of one, in the place of the other's.
        let other = encode(&entries[1..]);
        let head = HEAD;
        let first =
            head + 5 + usize::try_from(u32::from_le_bytes(*file[head..].first_chunk().unwrap())).unwrap() + DIGEST;
        let mixed = [&file[..first], &other[head..]].concat();
        assert!(decode(&mixed, 10_000).1.is_err());
        assert!(decode(&[&file[..], &file[..]].concat(), 10_000).1.is_err());
    }

    /// As in the cache, whatever its names take.
    #[test]
    fn names_that_entries_share_are_written_once() {
        let name = |number: usize| HeaderName::try_from(format!("x-{number}-{}", "name".repeat(50))).unwrap();
        let lists: [Arc<[HeaderName]>; 2] = [0, 100].map(|first| (first..first + 100).map(name).collect());
        let with_names = |(number, entry): (usize, Owned)| Owned { names: lists[number % 2].clone(), ..entry };
        let entries: Vec<_> = (0..100).flat_map(|_| sample()).enumerate().map(with_names).collect();
        let names: usize = lists.iter().flat_map(|list| list.iter()).map(|name| name.as_str().len() + 4).sum();
        let others: usize = entries.iter().map(|entry| entry.key.len() + entry.packed.len() + 50).sum();
        let bytes = encode(&entries);
        assert!(bytes.len() < names + others + 200, "{}", bytes.len());
        // Also if entries are left out because they are too long.
        let (found, end) = decode(&bytes, 150);
        assert!(end.is_ok() && !found.is_empty() && found.len() < entries.len());
        assert!(found.iter().all(|entry| entries.contains(entry)));
        assert_eq!(decode(&bytes, usize::MAX).0, entries);
    }

    #[test]
    fn says_what_is_wrong() {
        let file = encode(&sample());
        let fault = |bytes: &[u8]| decode(bytes, 10_000).1.unwrap_err().to_string();
        assert_eq!(fault(b""), "it is no snapshot of a cache");
        assert_eq!(fault(b"{\"some\": \"other file\"}"), "it is no snapshot of a cache");
        let mut newer = file.clone();
        newer[MAGIC.len()] = 9;
        assert_eq!(fault(&newer), "it has version 9 of the format, and this program reads version 5");
        assert_eq!(fault(&file[..file.len() - 1]), "it ends too early");
        assert_eq!(fault(&[&file[..], b"x"].concat()), "it is damaged");
    }
}
