//! What is known of a source without reading it. Knows no pair. Never fails.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tells the sources of an account apart: one that was opened later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceId(u64);

/// What the lifecycle of pairs knows of their source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceTraits {
    pub(crate) id: SourceId,
    /// `file`, `directory`, `vault` or `env`.
    pub(crate) kind: &'static str,
    /// Whether a pair becomes too old while the source can't be read.
    pub(crate) ages: bool,
}

/// The latest source that has returned a pair.
pub(super) struct LatestSource(AtomicU64);

impl SourceId {
    /// Of a source that is opened now.
    pub(crate) fn next() -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        Self(OPENED.fetch_add(1, Relaxed))
    }
}

impl LatestSource {
    pub(super) fn new(source: SourceId) -> Self {
        Self(AtomicU64::new(source.0))
    }

    pub(super) fn note(&self, source: SourceId) {
        self.0.fetch_max(source.0, Relaxed);
    }

    pub(super) fn get(&self) -> SourceId {
        SourceId(self.0.load(Relaxed))
    }
}
