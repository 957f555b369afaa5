//! Which purges there were, so that what was requested before one that covers it is not stored after it.
//!
//! What always holds: the scopes of a bounded number of purges are remembered; an older one counts as one of everything.
//! Never fails.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::{Key, PurgeScope};

/// Purges whose scopes are remembered.
const REMEMBERED: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Purges(Mutex<PurgeLog>);

#[derive(Debug, Default)]
struct PurgeLog {
    /// Number of purges so far.
    count: u64,
    /// Scopes of the last ones, the newest at the end.
    scopes: VecDeque<PurgeScope>,
}

impl Purges {
    pub(super) fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// A purge begins.
    pub(super) fn begin(&self, scope: PurgeScope) {
        let mut log = self.0.lock();
        log.count += 1;
        if log.scopes.len() == REMEMBERED {
            log.scopes.pop_front();
        }
        log.scopes.push_back(scope);
    }

    /// Whether a purge that covers this key has begun since there were `before` purges.
    pub(super) fn have_covered(&self, key: &Key, before: u64) -> bool {
        let log = self.0.lock();
        let since = usize::try_from(log.count.saturating_sub(before)).unwrap_or(usize::MAX);
        since > log.scopes.len() || log.scopes.iter().rev().take(since).any(|scope| key.is_within(scope))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::key::key_of_path as key, *};

    fn scope(path: &str) -> PurgeScope {
        PurgeScope { path_prefix: Some(path.to_owned()), ..PurgeScope::default() }
    }

    #[test]
    fn a_purge_covers_what_is_within_its_scope() {
        let purges = Purges::default();
        purges.begin(scope("/a"));
        let before = purges.count();
        purges.begin(scope("/b"));
        let covered = ["/a", "/b", "/b/c", "/c"].map(|path| purges.have_covered(&key(path), before));
        assert_eq!(covered, [false, true, true, false]);
        purges.begin(PurgeScope::default());
        assert!(purges.have_covered(&key("/c"), before) && !purges.have_covered(&key("/c"), purges.count()));
    }

    #[test]
    fn a_forgotten_purge_covers_everything() {
        let purges = Purges::default();
        (0..REMEMBERED).for_each(|_| purges.begin(scope("/a")));
        assert!(!purges.have_covered(&key("/b"), 0));
        purges.begin(scope("/a"));
        assert!(purges.have_covered(&key("/b"), 0) && !purges.have_covered(&key("/b"), 1));
    }
}
