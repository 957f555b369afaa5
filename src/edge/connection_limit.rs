//! How many client connections may be open, and which are closed for new ones.
//!
//! What always holds: at most as many as allowed are open; a reload changes the number, and closes none by itself.
//! If there are as many, some make room. First those of strangers: connections without an identified request so far, older
//! than [`SETTLED`], of the network that has most of them the oldest first. Then, while strangers are few, idle ones of
//! services: without a request for [`IDLE`], of the service that has most connections the one that was used least recently
//! first. So neither somebody without credentials nor a service whose pool leaks keeps callers out, and a client that has
//! just connected has time for its first request. Never fails.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{caller::IdentifiedService, peer::network};

/// How long a connection is not closed for another one: the time for its handshakes and its first request.
pub(super) const SETTLED: Duration = Duration::from_secs(1);
/// How long a service's connection has had no request if it is closed for another one.
const IDLE: Duration = Duration::from_secs(5);
/// Connections of services are closed for new ones only while at most one in so many is a stranger's: a flood of strangers
/// would close them all.
const STRANGERS: usize = 8;
/// How many are closed at a time, so that they are not searched for each new connection.
const BATCH: usize = 32;
/// How long they are not searched again after a search that has found none that may be closed: a flood of new connections
/// costs little.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a new connection waits for those that are closed for it: their threads may be busy.
const ROOM: Duration = Duration::from_millis(100);

pub struct ConnectionLimit {
    allowed: AtomicUsize,
    open: AtomicUsize,
    connections: Mutex<ConnectionTable>,
    /// One has been closed.
    closed: Notify,
}

/// The open connections.
#[derive(Default)]
struct ConnectionTable {
    opened: u64,
    /// Those that have not been told to make room, in the order in which they were opened.
    staying: BTreeMap<u64, Arc<ConnectionStanding>>,
    /// Those that were told within [`SETTLED`], with the time.
    leaving: BTreeMap<u64, (Instant, Arc<ConnectionStanding>)>,
    /// When the last search found none that may be closed.
    searched_in_vain: Option<Instant>,
}

/// One open connection, until it is dropped.
pub struct AdmittedConnection {
    limit: Arc<ConnectionLimit>,
    id: u64,
    pub(super) standing: Arc<ConnectionStanding>,
}

/// A time that stands for "now": a request is in progress.
const BUSY: u64 = u64::MAX;

/// Whose a connection is, when it was used, and whether it is to make room. Written by its thread, and read by that which
/// accepts connections.
pub struct ConnectionStanding {
    opened: Instant,
    network: IpAddr,
    pub(super) identified: IdentifiedService,
    /// When its last request ended, in microseconds since `opened`; [`BUSY`] while one is in progress.
    used: AtomicU64,
    /// Cancelled when it is to make room.
    leave: CancellationToken,
    /// It was told so as an idle one of a service.
    leaves_as_idle: AtomicBool,
}

impl ConnectionLimit {
    /// At most `allowed` connections at a time.
    pub fn new(allowed: usize) -> Arc<Self> {
        Arc::new(Self {
            allowed: AtomicUsize::new(allowed),
            open: AtomicUsize::new(0),
            connections: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// The number that is allowed.
    pub fn get(&self) -> usize {
        self.allowed.load(Relaxed)
    }

    pub fn set(&self, allowed: usize) {
        self.allowed.store(allowed, Relaxed);
    }

    /// Counts one more connection, unless there are too many.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<AdmittedConnection> {
        let one_more = |open| (open < self.get()).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        let standing = Arc::new(ConnectionStanding::new(peer));
        let mut connections = self.connections.lock();
        connections.opened += 1;
        let id = connections.opened;
        connections.staying.insert(id, standing.clone());
        Some(AdmittedConnection { limit: self.clone(), id, standing })
    }

    /// The same; if there are too many, others are closed, which is waited for up to [`ROOM`]. Cancel safe.
    pub(super) async fn admit_or_make_room(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<AdmittedConnection> {
        let until = Instant::now() + ROOM;
        loop {
            if let Some(admitted) = self.admit(peer) {
                return Some(admitted);
            }
            if !self.connections.lock().make_room() {
                return None;
            }
            timeout_at(until, self.closed.notified()).await.ok()?;
        }
    }
}

impl ConnectionTable {
    /// Tells some to leave, unless some are leaving. Whether any are.
    fn make_room(&mut self) -> bool {
        let now = Instant::now();
        // One that takes longer is not waited for.
        self.leaving.retain(|_, (told, one)| one.is_to_leave() && now.duration_since(*told) < SETTLED);
        let searches = self.searched_in_vain.is_none_or(|at| now.duration_since(at) >= PAUSE);
        if self.leaving.is_empty() && searches {
            let mut batch = self.settled_strangers(now);
            let of_services = batch.is_empty();
            if of_services && self.strangers() <= self.staying.len() / STRANGERS {
                batch = self.idle_of_services(now);
            }
            self.searched_in_vain = batch.is_empty().then_some(now);
            for id in batch.into_iter().take(BATCH) {
                let Some(standing) = self.staying.remove(&id) else { continue };
                standing.leaves_as_idle.store(of_services, Relaxed);
                standing.leave.cancel();
                self.leaving.insert(id, (now, standing));
            }
        }
        !self.leaving.is_empty()
    }

    fn strangers(&self) -> usize {
        self.staying.values().filter(|one| !one.is_identified()).count()
    }

    fn settled_strangers(&self, now: Instant) -> Vec<u64> {
        let settled = self.staying.iter().take_while(|(_, one)| now.duration_since(one.opened) >= SETTLED);
        let mut strangers: Vec<_> = settled.filter(|(_, one)| !one.is_identified()).collect();
        let in_network = counts(strangers.iter().map(|(_, one)| one.network));
        strangers.sort_by_key(|(_, one)| Reverse(in_network[&one.network]));
        strangers.into_iter().map(|(id, _)| *id).collect()
    }

    fn idle_of_services(&self, now: Instant) -> Vec<u64> {
        let known = self.staying.iter().filter_map(|(id, one)| Some((one.identified.get()?.owner(), id, one)));
        let known: Vec<_> = known.collect();
        let of_service = counts(known.iter().map(|(service, ..)| *service));
        // The times are read once: they change while they are sorted.
        let idle = known.into_iter().map(|(service, id, one)| (one.idle_for(now), service, *id));
        let mut idle: Vec<_> = idle.filter(|(time, ..)| *time >= IDLE).collect();
        idle.sort_by_key(|(time, service, _)| (Reverse(of_service[service]), Reverse(*time)));
        idle.into_iter().map(|(.., id)| id).collect()
    }
}

/// How often each of them comes.
fn counts<T: Eq + Hash>(all: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    all.for_each(|one| *counts.entry(one).or_default() += 1);
    counts
}

impl ConnectionStanding {
    pub(super) fn new(peer: Option<IpAddr>) -> Self {
        ConnectionStanding {
            opened: Instant::now(),
            network: network(peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
            identified: Arc::default(),
            used: AtomicU64::new(0),
            leave: CancellationToken::new(),
            leaves_as_idle: AtomicBool::new(false),
        }
    }

    /// A request has begun.
    pub(super) fn busy_begins(&self) {
        self.used.store(BUSY, Relaxed);
    }

    /// The last request in progress has ended.
    pub(super) fn idle_begins(&self) {
        self.used.store(self.opened.elapsed().as_micros() as u64, Relaxed);
    }

    /// How long no request has been in progress.
    fn idle_for(&self, now: Instant) -> Duration {
        match self.used.load(Relaxed) {
            BUSY => Duration::ZERO,
            used => now.duration_since(self.opened + Duration::from_micros(used)),
        }
    }

    pub(super) fn is_identified(&self) -> bool {
        self.identified.get().is_some()
    }

    /// Whether it is to make room: a stranger's is not any more once it is identified.
    pub(super) fn is_to_leave(&self) -> bool {
        self.leave.is_cancelled() && (!self.is_identified() || self.leaves_as_idle.load(Relaxed))
    }

    /// Returns when it may be to make room. Cancel safe.
    pub(super) async fn told(&self) {
        self.leave.cancelled().await;
    }

    /// Runs a future of a connection that is not served; `None`: it made room. Cancel safe if the future is.
    pub(super) async fn run_until_told<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        if self.is_identified() {
            return Some(future.await);
        }
        self.leave.run_until_cancelled(future).await
    }
}

impl Drop for AdmittedConnection {
    fn drop(&mut self) {
        {
            let mut connections = self.limit.connections.lock();
            connections.staying.remove(&self.id);
            connections.leaving.remove(&self.id);
        }
        self.limit.open.fetch_sub(1, Relaxed);
        self.limit.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Priority, memory::Memory};

    fn peer(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    fn identify(connection: &AdmittedConnection) {
        let allowance = || Memory::new(1000).share(None).allowance(Priority::High);
        connection.standing.identified.get_or_init(allowance);
    }

    fn told(connections: &[AdmittedConnection]) -> Vec<usize> {
        let told = connections.iter().enumerate().filter(|(_, connection)| connection.standing.is_to_leave());
        told.map(|(at, _)| at).collect()
    }

    #[test]
    fn a_lower_limit_holds_once_connections_have_ended() {
        let limit = ConnectionLimit::new(2);
        let mut open: Vec<_> = (0..3).filter_map(|_| limit.admit(None)).collect();
        assert_eq!(open.len(), 2);
        limit.set(1);
        open.pop();
        assert!(limit.admit(None).is_none(), "one is open");
        open.pop();
        open.extend(limit.admit(None));
        assert!(open.len() == 1 && limit.admit(None).is_none());
        limit.set(3);
        open.extend((0..3).filter_map(|_| limit.admit(None)));
        assert_eq!(open.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_and_callers_do_not() {
        let limit = ConnectionLimit::new(4);
        let mut open: Vec<_> = [1, 2, 2, 3].into_iter().filter_map(|last| limit.admit(peer(last))).collect();
        identify(&open[3]);
        assert!(limit.admit_or_make_room(peer(4)).await.is_none(), "they may be about to send a request");
        assert_eq!(told(&open), [0; 0]);
        tokio::time::advance(SETTLED).await;
        let (began, arrives) = (Instant::now(), limit.admit_or_make_room(peer(4)));
        let closes = async {
            tokio::time::sleep(ROOM / 2).await;
            assert_eq!(told(&open), [0, 1, 2]);
            drop(open.remove(1));
        };
        let (arrived, ()) = tokio::join!(arrives, closes);
        assert!(arrived.is_some() && began.elapsed() == ROOM / 2);
        // Those that were told are waited for; no others are.
        assert!(limit.admit_or_make_room(peer(5)).await.is_none());
        assert_eq!(began.elapsed(), ROOM / 2 + ROOM);
        drop((open, arrived));
        assert_eq!(limit.open.load(Relaxed), 0);
        let connections = limit.connections.lock();
        assert_eq!((connections.staying.len(), connections.leaving.len()), (0, 0));
    }

    /// Its first request came at that moment, so it stays open.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_told_and_becomes_a_caller_keeps_no_stranger_open() {
        let limit = ConnectionLimit::new(2);
        let mut open = vec![limit.admit(peer(1)).unwrap()];
        tokio::time::advance(SETTLED).await;
        open.extend(limit.admit(peer(2)));
        assert!(limit.admit_or_make_room(peer(3)).await.is_none());
        assert_eq!(told(&open), [0]);
        identify(&open[0]);
        let reads = tokio::time::sleep(SETTLED);
        assert_eq!(open[0].standing.run_until_told(reads).await, Some(()), "its response is not cut off");
        assert!(limit.admit_or_make_room(peer(3)).await.is_none());
        assert_eq!(told(&open), [1]);
    }

    /// A service whose pool leaks kept all others out. Until a connection has been idle for a while, nobody makes room.
    #[tokio::test(start_paused = true)]
    async fn idle_connections_of_the_service_that_has_most_make_room_where_there_are_no_strangers() {
        let limit = ConnectionLimit::new(6);
        let memory = Memory::new(1000);
        let open: Vec<_> = [0; 6].iter().filter_map(|_| limit.admit(peer(1))).collect();
        for (at, connection) in open.iter().enumerate() {
            let service = if at < 4 { "leaky" } else { "other" };
            let allowance = || memory.share(Some(service)).allowance(Priority::High);
            connection.standing.identified.get_or_init(allowance);
            connection.standing.busy_begins();
            if at != 1 {
                connection.standing.idle_begins();
            }
        }
        tokio::time::advance(IDLE / 2).await;
        open[0].standing.busy_begins();
        open[0].standing.idle_begins();
        assert!(limit.admit_or_make_room(peer(1)).await.is_none());
        assert_eq!(told(&open), [0; 0]);
        tokio::time::advance(IDLE / 2).await;
        assert!(limit.admit_or_make_room(peer(1)).await.is_none());
        assert_eq!(told(&open), [2, 3, 4, 5], "not that which is busy, nor that which was used");
    }

    /// Who opens them from one network closes its own.
    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_largest_network_make_room_first() {
        let limit = ConnectionLimit::new(3 * BATCH);
        let networks = (0..limit.get()).map(|n| if n < 5 { 1 } else { 2 });
        let open: Vec<_> = networks.filter_map(|last| limit.admit(peer(last))).collect();
        tokio::time::advance(SETTLED).await;
        assert!(limit.admit_or_make_room(peer(3)).await.is_none());
        assert_eq!(told(&open), (5..5 + BATCH).collect::<Vec<_>>());
    }
}
