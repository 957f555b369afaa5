//! The revoked versions as one account knows them, shared with every pair that was loaded for it.
//!
//! A lease can thus tell at any time, without the rotation task, whether its pair may still sign: a request
//! that waited in between must not be sent with a pair that was revoked meanwhile. Only grows. Never fails.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;

use super::version::PairVersion;

/// The versions that were revoked so far.
pub trait KnownRevocations: Send + Sync {
    /// In any account, also those that are not on disk yet: a version is that of a pair, and a pair may be loaded for an
    /// account of another name.
    fn versions(&self) -> Vec<PairVersion>;
}

/// The revoked versions of an account, in memory.
#[derive(Debug, Default)]
pub(crate) struct RevokedVersions(ArcSwap<BTreeSet<PairVersion>>);

impl RevokedVersions {
    /// Adds versions. Takes effect before it returns.
    pub(super) fn extend(&self, versions: impl IntoIterator<Item = PairVersion>) {
        let mut all = BTreeSet::clone(&self.0.load());
        all.extend(versions);
        self.0.store(Arc::new(all));
    }

    pub(super) fn contains(&self, version: PairVersion) -> bool {
        self.0.load().contains(&version)
    }

    pub(super) fn to_vec(&self) -> Vec<PairVersion> {
        self.0.load().iter().copied().collect()
    }
}
