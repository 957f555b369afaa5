//! How many client connections may be open. A reload changes the number; connections that are open stay. Never fails.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

pub struct ConnectionLimit {
    allowed: AtomicUsize,
    open: AtomicUsize,
}

/// One open connection, until it is dropped.
pub(super) struct AdmittedConnection(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// At most `allowed` connections at a time.
    pub fn new(allowed: usize) -> Arc<Self> {
        Arc::new(Self { allowed: AtomicUsize::new(allowed), open: AtomicUsize::new(0) })
    }

    /// The number that is allowed.
    pub fn get(&self) -> usize {
        self.allowed.load(Relaxed)
    }

    pub fn set(&self, allowed: usize) {
        self.allowed.store(allowed, Relaxed);
    }

    /// Counts one more connection, unless there are too many.
    pub(super) fn admit(self: &Arc<Self>) -> Option<AdmittedConnection> {
        let one_more = |open| (open < self.get()).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| AdmittedConnection(self.clone()))
    }
}

impl Drop for AdmittedConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_limit_holds_once_connections_have_ended() {
        let limit = ConnectionLimit::new(2);
        let mut open: Vec<_> = (0..3).filter_map(|_| limit.admit()).collect();
        assert_eq!(open.len(), 2);
        limit.set(1);
        open.pop();
        assert!(limit.admit().is_none(), "one is open");
        open.pop();
        open.extend(limit.admit());
        assert!(open.len() == 1 && limit.admit().is_none());
        limit.set(3);
        open.extend((0..3).filter_map(|_| limit.admit()));
        assert_eq!(open.len(), 3);
    }
}
