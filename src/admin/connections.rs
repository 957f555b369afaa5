//! The open connections of the admin port: a table of fixed size.
//!
//! Always holds: a new connection is always admitted. If the table is full, a connection that has no request in progress
//! is closed for it: of the network that has most of them, the oldest, those without any request so far first. So a
//! client that opens connections as fast as it can closes its own, and not that of a probe. At most [`MAX_REQUESTS`]
//! requests other than health checks are in progress, so there is always such a connection: health has capacity that no
//! client can take. Must not know what requests mean. Never fails.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::peer::network;

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
    network: IpAddr,
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
    /// A request is in progress, or the response to a command is being read.
    Busy,
}

impl Connections {
    /// Adds a connection; closes another one for it if there are [`MAX_CONNECTIONS`].
    pub(super) fn admit(&self, peer: IpAddr) -> OpenConnection {
        let (mut table, network) = (self.0.lock(), network(peer));
        if table.open.len() >= MAX_CONNECTIONS
            && let Some(index) = table.least_useful()
        {
            table.open.swap_remove(index).close.cancel();
        }
        table.now += 1;
        let (id, close) = (table.now, CancellationToken::new());
        table.open.push(Entry { id, network, state: EntryState::New(id), close: close.clone() });
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

    /// Whether it has had no request so far.
    pub(super) fn is_unused(&self) -> bool {
        let table = self.connections.0.lock();
        table.open.iter().any(|entry| entry.id == self.id && matches!(entry.state, EntryState::New(_)))
    }

    /// Since when no request of it has been in progress; `None`: one is.
    pub(super) fn at_rest_since(&self) -> Option<u64> {
        let table = self.connections.0.lock();
        let state = table.open.iter().find(|entry| entry.id == self.id).map(|entry| entry.state);
        state.and_then(|state| match state {
            EntryState::New(since) | EntryState::Idle(since) => Some(since),
            EntryState::Busy => None,
        })
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
    /// The index of the connection to be closed for a new one.
    fn least_useful(&self) -> Option<usize> {
        let waiting = || self.open.iter().filter(|entry| entry.state != EntryState::Busy);
        let of = |network: IpAddr| waiting().filter(|entry| entry.network == network).count();
        let candidates = self.open.iter().enumerate().filter(|(_, entry)| entry.state != EntryState::Busy);
        candidates.min_by_key(|(_, entry)| (Reverse(of(entry.network)), entry.state)).map(|(index, _)| index)
    }

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
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn is_closed(connection: &OpenConnection) -> bool {
        connection.close.is_cancelled()
    }

    #[test]
    fn the_oldest_without_a_request_is_closed_for_a_new_one() {
        let table = Connections::default();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Arc::new(table.admit(PEER))).collect();
        drop(all[0].begin(false));
        let busy = all[1].begin(false);
        let new = table.admit(PEER);
        assert!(is_closed(&all[2]) && all.iter().filter(|one| is_closed(one)).count() == 1);
        let rest: Vec<_> = (3..MAX_CONNECTIONS).map(|_| table.admit(PEER)).collect();
        assert!(!is_closed(&all[0]) && !is_closed(&all[1]) && all[3..].iter().all(|one| is_closed(one)));
        assert!(!is_closed(&new) && !rest.iter().any(is_closed));
        drop((busy, all, new, rest));
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn requests_take_no_capacity_of_health() {
        let table = Connections::default();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Arc::new(table.admit(PEER))).collect();
        let begun: Vec<_> = all.iter().filter_map(|one| one.begin(false)).collect();
        assert_eq!(begun.len(), MAX_REQUESTS);
        let probe = Arc::new(table.admit(PEER));
        assert!(probe.begin(true).is_some() && probe.begin(false).is_none());
        drop(begun);
        assert!(probe.begin(false).is_some());
    }

    /// A flood of connections used to close the connection of a probe before its request had arrived.
    #[test]
    fn a_client_that_floods_closes_its_own_connections_only() {
        let table = Connections::default();
        let probe = Arc::new(table.admit("192.0.2.7".parse().unwrap()));
        let scraper = Arc::new(table.admit("2001:db8::1".parse().unwrap()));
        drop(scraper.begin(false));
        let flood: Vec<_> = (0..1000).map(|_| table.admit(PEER)).collect();
        assert!(!is_closed(&probe) && !is_closed(&scraper));
        assert!(flood.iter().filter(|one| !is_closed(one)).count() == MAX_CONNECTIONS - 2);
        // From many addresses of one network, too.
        let flood = (1..1000u128).map(|last| table.admit(IpAddr::V6((0x2001_0db8_0001 << 80 | last).into())));
        assert_eq!(flood.collect::<Vec<_>>().len(), 999);
        assert!(!is_closed(&probe) && !is_closed(&scraper));
    }
}
