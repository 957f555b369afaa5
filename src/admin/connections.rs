//! The open connections of the admin port: a table of fixed size.
//!
//! Always holds: a new connection is always admitted. If the table is full, the oldest connection that has no request in
//! progress is closed for it, those without any request so far first. At most [`MAX_REQUESTS`] requests other than health
//! checks are in progress, so there is always such a connection: health has capacity that no client can take. Must not
//! know what requests mean. Never fails.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Maximum number of open connections: a few scrapers, probes and people.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Maximum number of requests in progress, health checks not counted.
pub(super) const MAX_REQUESTS: usize = 32;

/// The table.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Counts what happens, to know what was first.
    now: u64,
    open: Vec<Entry>,
    /// Requests in progress, health checks not counted.
    requests: usize,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    state: EntryState,
    /// Ends the connection.
    close: CancellationToken,
}

/// In the order in which connections are closed for new ones; the numbers are times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EntryState {
    /// No request so far; opened then.
    New(u64),
    /// Between two requests, or its response is being read; since then.
    Idle(u64),
    /// A request is in progress.
    Busy,
}

impl Connections {
    /// Adds a connection; closes another one for it if there are [`MAX_CONNECTIONS`].
    pub(super) fn admit(&self) -> OpenConnection {
        let mut table = self.0.lock();
        if table.open.len() >= MAX_CONNECTIONS {
            let oldest = table.open.iter().enumerate().min_by_key(|(_, entry)| entry.state);
            if let Some(index) = oldest.map(|(index, _)| index) {
                table.open.swap_remove(index).close.cancel();
            }
        }
        table.now += 1;
        let (id, close) = (table.now, CancellationToken::new());
        table.open.push(Entry { id, state: EntryState::New(id), close: close.clone() });
        OpenConnection { connections: self.clone(), id, close }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().open.len()
    }
}

/// A connection in the table; leaves it when dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    connections: Connections,
    id: u64,
    close: CancellationToken,
}

impl OpenConnection {
    /// Returns when the connection is to be closed for another one. Cancel safe.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// Begins a request. `None`: there are too many; a health check is never refused.
    pub(super) fn begin(self: &Arc<Self>, health: bool) -> Option<RequestInProgress> {
        let mut table = self.connections.0.lock();
        if !health && table.requests >= MAX_REQUESTS {
            return None;
        }
        table.requests += usize::from(!health);
        table.set(self.id, EntryState::Busy);
        Some(RequestInProgress { connection: self.clone(), health })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.0.lock().open.retain(|entry| entry.id != self.id);
    }
}

impl Table {
    fn set(&mut self, id: u64, state: EntryState) {
        if let Some(entry) = self.open.iter_mut().find(|entry| entry.id == id) {
            entry.state = state;
        }
    }
}

/// A request in progress; ends when dropped.
#[derive(Debug)]
pub(super) struct RequestInProgress {
    connection: Arc<OpenConnection>,
    health: bool,
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut table = self.connection.connections.0.lock();
        table.requests -= usize::from(!self.health);
        table.now += 1;
        let idle = EntryState::Idle(table.now);
        table.set(self.connection.id, idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(connection: &OpenConnection) -> bool {
        connection.close.is_cancelled()
    }

    #[test]
    fn the_oldest_without_a_request_is_closed_for_a_new_one() {
        let table = Connections::default();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Arc::new(table.admit())).collect();
        drop(all[0].begin(false));
        let busy = all[1].begin(false);
        let new = table.admit();
        assert!(is_closed(&all[2]) && all.iter().filter(|one| is_closed(one)).count() == 1);
        let rest: Vec<_> = (3..MAX_CONNECTIONS).map(|_| table.admit()).collect();
        assert!(!is_closed(&all[0]) && !is_closed(&all[1]) && all[3..].iter().all(|one| is_closed(one)));
        assert!(!is_closed(&new) && !rest.iter().any(is_closed));
        drop((busy, all, new, rest));
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn requests_take_no_capacity_of_health() {
        let table = Connections::default();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Arc::new(table.admit())).collect();
        let begun: Vec<_> = all.iter().filter_map(|one| one.begin(false)).collect();
        assert_eq!(begun.len(), MAX_REQUESTS);
        let probe = Arc::new(table.admit());
        assert!(probe.begin(true).is_some() && probe.begin(false).is_none());
        drop(begun);
        assert!(probe.begin(false).is_some());
    }
}
