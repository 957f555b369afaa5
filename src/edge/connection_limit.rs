//! How many client connections may be open, and which are closed for new ones.
//!
//! What always holds: at most as many as allowed are open, beside those that were told to make room and have not ended yet: an
//! eighth of that at most. A reload changes the number, and closes none by itself.
//! If there are as many, some make room ([`LeavesAs`] says which, in this order). First strangers: connections without an
//! identified request so far, older than [`SETTLED`], of the network that has most of them the oldest first. Then, while
//! strangers are few, connections of services on which the gateway has had nothing to do for [`UNUSED`], of the service that has
//! most connections: idle ones, and if there is none, those that wait for their client to send a body or to take a response. So
//! neither somebody without credentials nor a service whose pool leaks, whose uploads do not end or which takes no responses keeps
//! callers out, and a client that has just connected has time for its first request. One that is used before it ends stays. Never fails.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::{caller::IdentifiedService, deadline, peer::network};

/// How long a connection is not closed for another one: the time for its handshakes and its first request.
pub(super) const SETTLED: Duration = Duration::from_secs(1);
/// How long the gateway has had nothing to do on a service's connection if that is closed for another one.
const UNUSED: Duration = Duration::from_secs(5);
/// Connections of services are closed for new ones only while at most one in so many is a stranger's: a flood of strangers
/// would close them all.
const STRANGERS: usize = 8;
/// For one in so many that are allowed, another one that was told to make room is not counted: until it has ended, which takes a
/// client of HTTP/2 a round trip, and one that is still sending the time to read its response.
const LEAVING: usize = 8;
/// How many are closed at a time, so that they are not searched for each new connection.
const BATCH: usize = 32;
/// How long they are not searched again after a search that has found none that may be closed: a flood of new connections
/// costs little.
const PAUSE: Duration = Duration::from_millis(100);
/// How long new connections wait after others were told to make room: their threads may be busy.
const ROOM: Duration = Duration::from_millis(100);

pub struct ConnectionLimit {
    allowed: AtomicUsize,
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
    /// Those that have been told.
    leaving: BTreeMap<u64, Arc<ConnectionStanding>>,
    /// When the last ones were told.
    told: Option<Instant>,
    /// When the last search found none that may be closed.
    searched_in_vain: Option<Instant>,
}

/// One open connection, until it is dropped.
pub struct AdmittedConnection {
    limit: Arc<ConnectionLimit>,
    id: u64,
    pub(super) standing: Arc<ConnectionStanding>,
}

/// Why a connection is to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum LeavesAs {
    /// No request has been identified.
    Stranger = 1,
    /// A service's, without a request.
    Idle,
    /// A service's, whose client is waited for.
    AwaitsClient,
}

/// The requests in progress on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ConnectionUse {
    /// There is none.
    Idle,
    /// Each waits for its client: to send the rest of its body, or to take the rest of a response that is complete here. (Not
    /// that to an order, which is worth a place.)
    AwaitsClient,
    Busy,
}

/// Whose a connection is, how it is used, and whether it is to make room. Written by its thread, and read by that which
/// accepts connections.
pub struct ConnectionStanding {
    opened: Instant,
    network: IpAddr,
    pub(super) identified: IdentifiedService,
    /// How it is used ([`ConnectionUse`]), and four times the microseconds since `opened` at which that began.
    used: AtomicU64,
    /// [`LeavesAs`]; 0: it stays.
    leaves_as: AtomicU8,
    /// How often it was told to make room.
    times_told: AtomicU32,
    told: Notify,
}

/// How many may be open beside those that are allowed.
const fn beside(allowed: usize) -> usize {
    allowed.div_ceil(LEAVING)
}

/// The number of connections that may be open if so many are allowed.
pub(crate) const fn most_open(allowed: usize) -> usize {
    allowed.saturating_add(beside(allowed))
}

/// The number that may be allowed if so many may be open; [`most_open`] of it is at most that.
pub(crate) const fn allowed_of(open: usize) -> usize {
    open - open.div_ceil(LEAVING + 1)
}

impl ConnectionLimit {
    /// At most `allowed` connections at a time.
    pub fn new(allowed: usize) -> Arc<Self> {
        Arc::new(Self { allowed: AtomicUsize::new(allowed), connections: Mutex::default(), closed: Notify::new() })
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
        let mut connections = self.connections.lock();
        connections.has_room(self.get()).then(|| self.open(&mut connections, peer))
    }

    /// The same; if there are too many, others are told to make room. If those that may be open beside the others are not enough, it
    /// is waited for them, up to [`ROOM`]. Cancel safe.
    pub(super) async fn admit_or_make_room(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<AdmittedConnection> {
        loop {
            let until = {
                let (mut connections, allowed) = (self.connections.lock(), self.get());
                connections.make_room(allowed);
                if connections.has_room(allowed) {
                    return Some(self.open(&mut connections, peer));
                }
                connections.told.filter(|_| !connections.leaving.is_empty())? + ROOM
            };
            deadline::until(until, self.closed.notified()).await?;
        }
    }

    fn open(self: &Arc<Self>, connections: &mut ConnectionTable, peer: Option<IpAddr>) -> AdmittedConnection {
        let standing = Arc::new(ConnectionStanding::new(peer));
        connections.opened += 1;
        let id = connections.opened;
        connections.staying.insert(id, standing.clone());
        AdmittedConnection { limit: self.clone(), id, standing }
    }
}

impl ConnectionTable {
    fn has_room(&self, allowed: usize) -> bool {
        let open = self.staying.len() + self.leaving.len();
        open - self.leaving.len().min(beside(allowed)) < allowed
    }

    /// If there are too many, tells some to leave: as many as may be open beside the others, or more if those take too long.
    fn make_room(&mut self, allowed: usize) {
        if self.staying.len() + self.leaving.len() < allowed {
            return;
        }
        let now = Instant::now();
        for (id, standing) in self.leaving.extract_if(.., |_, standing| !standing.is_to_leave()) {
            standing.leaves_as.store(0, Relaxed);
            self.staying.insert(id, standing);
        }
        let mut number = beside(allowed).saturating_sub(self.leaving.len()).min(BATCH);
        if number == 0 && self.told.is_none_or(|told| now.duration_since(told) >= SETTLED) {
            number = BATCH;
        }
        let searches = self.searched_in_vain.is_none_or(|at| now.duration_since(at) >= PAUSE);
        if self.has_room(allowed) || number == 0 || !searches {
            return;
        }
        let (leaves_as, found) = self.unneeded(now);
        self.searched_in_vain = found.is_empty().then_some(now);
        for id in found.into_iter().take(number) {
            let Some(standing) = self.staying.remove(&id) else { continue };
            standing.tell(leaves_as);
            self.leaving.insert(id, standing);
            self.told = Some(now);
        }
    }

    /// Those that may be told to leave, the first of them first.
    fn unneeded(&self, now: Instant) -> (LeavesAs, Vec<u64>) {
        let strangers = self.settled_strangers(now);
        let number = self.staying.values().filter(|one| !one.is_identified()).count();
        if !strangers.is_empty() || number > self.staying.len() / STRANGERS {
            return (LeavesAs::Stranger, strangers);
        }
        match self.of_services(ConnectionUse::Idle, now) {
            idle if !idle.is_empty() => (LeavesAs::Idle, idle),
            _ => (LeavesAs::AwaitsClient, self.of_services(ConnectionUse::AwaitsClient, now)),
        }
    }

    fn settled_strangers(&self, now: Instant) -> Vec<u64> {
        let settled = self.staying.iter().take_while(|(_, one)| now.duration_since(one.opened) >= SETTLED);
        let strangers: Vec<_> =
            settled.filter(|(_, one)| !one.is_identified()).map(|(id, one)| (one.network, *id)).collect();
        largest_first(counts(strangers.iter().map(|(network, _)| *network)), strangers)
    }

    fn of_services(&self, used: ConnectionUse, now: Instant) -> Vec<u64> {
        let known = self.staying.iter().filter_map(|(id, one)| Some((one.identified.get()?.owner(), id, one)));
        let known: Vec<_> = known.collect();
        let counts = counts(known.iter().map(|(service, ..)| *service));
        // The times are read once: they change while they are sorted.
        let times = known.into_iter().map(|(service, id, one)| (one.used(now), service, *id));
        let mut long: Vec<_> = times.filter(|((how, time), ..)| *how == used && *time >= UNUSED).collect();
        long.sort_by_key(|((_, time), ..)| Reverse(*time));
        largest_first(counts, long.into_iter().map(|(_, service, id)| (service, id)).collect())
    }
}

/// How often each of them comes.
fn counts<T: Eq + Hash>(all: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    all.for_each(|one| *counts.entry(one).or_default() += 1);
    counts
}

/// So that each is of the owner that has most connections after those before it. Those of an owner keep their order.
fn largest_first<T: Eq + Hash>(mut counts: HashMap<T, usize>, connections: Vec<(T, u64)>) -> Vec<u64> {
    let mut left: Vec<_> = connections
        .into_iter()
        .map(|(owner, id)| {
            let count = counts.entry(owner).or_default();
            *count = count.saturating_sub(1);
            (*count, id)
        })
        .collect();
    left.sort_by_key(|(count, _)| Reverse(*count));
    left.into_iter().map(|(_, id)| id).collect()
}

impl ConnectionStanding {
    pub(super) fn new(peer: Option<IpAddr>) -> Self {
        ConnectionStanding {
            opened: Instant::now(),
            network: network(peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
            identified: Arc::default(),
            used: AtomicU64::new(ConnectionUse::Idle as u64),
            leaves_as: AtomicU8::new(0),
            times_told: AtomicU32::new(0),
            told: Notify::new(),
        }
    }

    /// It is used like that from then on.
    pub(super) fn set_use(&self, used: ConnectionUse, since: impl FnOnce() -> Instant) {
        let number = used as u64;
        if self.used.load(Relaxed) % 4 == number {
            return;
        }
        if used == ConnectionUse::Busy {
            self.used.store(number, Relaxed);
            if self.leaves_as.load(Relaxed) != LeavesAs::Stranger as u8 {
                self.leaves_as.store(0, Relaxed);
            }
        } else {
            let since = since().saturating_duration_since(self.opened);
            self.used.store(since.as_micros() as u64 * 4 + number, Relaxed);
        }
    }

    /// How it is used, and how long if it is not busy.
    fn used(&self, now: Instant) -> (ConnectionUse, Duration) {
        let number = self.used.load(Relaxed);
        let used = match number % 4 {
            0 => ConnectionUse::Idle,
            1 => ConnectionUse::AwaitsClient,
            _ => ConnectionUse::Busy,
        };
        (used, now.duration_since(self.opened + Duration::from_micros(number / 4)))
    }

    pub(super) fn is_identified(&self) -> bool {
        self.identified.get().is_some()
    }

    fn tell(&self, leaves_as: LeavesAs) {
        self.leaves_as.store(leaves_as as u8, Relaxed);
        self.times_told.fetch_add(1, Relaxed);
        self.told.notify_waiters();
    }

    /// Whether it is to make room: a stranger's is not any more once it is identified, nor a service's once the gateway has something
    /// to do.
    pub(super) fn is_to_leave(&self) -> bool {
        match self.leaves_as.load(Relaxed) {
            0 => false,
            leaves_as => leaves_as != LeavesAs::Stranger as u8 || !self.is_identified(),
        }
    }

    /// Whether the bodies that it receives are not waited for any longer.
    pub(super) fn gives_bodies_up(&self) -> bool {
        self.leaves_as.load(Relaxed) == LeavesAs::AwaitsClient as u8
    }

    /// How often it was told to make room; [`ConnectionStanding::told`] waits for the next time.
    pub(super) fn times_told(&self) -> u32 {
        self.times_told.load(Relaxed)
    }

    /// Returns when it is told to make room. Cancel safe.
    pub(super) fn told(&self) -> Notified<'_> {
        self.told.notified()
    }

    /// Runs a future of a connection that is not served; `None`: it made room. Cancel safe if the future is.
    pub(super) async fn run_until_told<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        if self.is_identified() {
            return Some(future.await);
        }
        let leaves = async {
            loop {
                let told = self.told();
                if self.is_to_leave() {
                    return;
                }
                told.await;
            }
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = leaves => None,
        }
    }
}

impl Drop for AdmittedConnection {
    fn drop(&mut self) {
        {
            let mut connections = self.limit.connections.lock();
            connections.staying.remove(&self.id);
            connections.leaving.remove(&self.id);
        }
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

    #[test]
    fn those_that_leave_stay_within_what_may_be_open() {
        for open in 0..2_000 {
            let most = most_open(allowed_of(open));
            assert!(most <= open && open - most <= 1, "{open}: {most}");
        }
        assert_eq!(most_open(usize::MAX), usize::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_and_callers_do_not() {
        let limit = ConnectionLimit::new(4);
        let mut open: Vec<_> = [1, 2, 2, 3].into_iter().filter_map(|last| limit.admit(peer(last))).collect();
        identify(&open[3]);
        assert!(limit.admit_or_make_room(peer(4)).await.is_none(), "they may be about to send a request");
        assert_eq!(told(&open), [0; 0]);
        tokio::time::advance(SETTLED).await;
        // One that leaves is not waited for.
        let began = Instant::now();
        open.extend(limit.admit_or_make_room(peer(4)).await);
        assert_eq!((open.len(), told(&open), began.elapsed()), (5, vec![1], Duration::ZERO));
        // Another one is.
        let arrives = limit.admit_or_make_room(peer(5));
        let closes = async {
            tokio::time::sleep(ROOM / 2).await;
            drop(open.remove(1));
        };
        let (arrived, ()) = tokio::join!(arrives, closes);
        assert!(arrived.is_some() && began.elapsed() == ROOM / 2);
        open.extend(arrived);
        assert_eq!((open.len(), told(&open)), (5, vec![0]));
        // Until it could have left. Then new ones are refused at once: they cannot all wait, one after the other.
        assert!(limit.admit_or_make_room(peer(5)).await.is_none());
        assert_eq!(began.elapsed(), ROOM / 2 + ROOM);
        assert!(limit.admit_or_make_room(peer(5)).await.is_none());
        assert_eq!(began.elapsed(), ROOM / 2 + ROOM);
        // One that takes much longer makes others leave.
        tokio::time::advance(SETTLED).await;
        assert!(limit.admit_or_make_room(peer(5)).await.is_none());
        assert_eq!(told(&open), [0, 1, 3, 4]);
        drop(open);
        let connections = limit.connections.lock();
        assert_eq!((connections.staying.len(), connections.leaving.len()), (0, 0));
    }

    /// Its first request came at that moment, so it stays open. It was never told again.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_told_and_becomes_a_caller_keeps_its_place_until_it_is_idle() {
        let limit = ConnectionLimit::new(2);
        let mut open = vec![limit.admit(peer(1)).unwrap()];
        tokio::time::advance(SETTLED).await;
        open.extend(limit.admit(peer(2)));
        open.extend(limit.admit_or_make_room(peer(3)).await);
        assert_eq!(told(&open), [0]);
        identify(&open[0]);
        let reads = tokio::time::sleep(SETTLED);
        assert_eq!(open[0].standing.run_until_told(reads).await, Some(()), "its response is not cut off");
        assert!(limit.admit_or_make_room(peer(4)).await.is_none());
        assert_eq!(told(&open), [1]);
        drop((open.remove(1), open.remove(1)));
        open.extend(limit.admit(peer(3)));
        identify(&open[1]);
        open[1].standing.set_use(ConnectionUse::Busy, Instant::now);
        tokio::time::advance(UNUSED).await;
        open.extend(limit.admit_or_make_room(peer(4)).await);
        assert_eq!((open.len(), told(&open)), (3, vec![0]));
    }

    fn of_services(limit: &Arc<ConnectionLimit>, owners: &[&str]) -> Vec<AdmittedConnection> {
        let memory = Memory::new(1000);
        let open = |owner: &&str| {
            let connection = limit.admit(peer(1)).unwrap();
            let allowance = || memory.share(Some(owner)).allowance(Priority::High);
            connection.standing.identified.get_or_init(allowance);
            connection
        };
        owners.iter().map(open).collect()
    }

    fn use_all(connections: &[AdmittedConnection], used: ConnectionUse) {
        connections.iter().for_each(|connection| connection.standing.set_use(used, Instant::now));
    }

    /// A service whose pool leaks kept all others out. Until a connection has been idle for a while, nobody makes room.
    #[tokio::test(start_paused = true)]
    async fn idle_connections_of_the_service_that_has_most_make_room_where_there_are_no_strangers() {
        use ConnectionUse::{Busy, Idle};
        let limit = ConnectionLimit::new(24);
        let mut owners = ["leaky"; 24];
        owners[22..].copy_from_slice(&["other", "other"]);
        let open = of_services(&limit, &owners);
        use_all(&open, Busy);
        use_all(&open[..1], Idle);
        use_all(&open[2..4], Idle);
        use_all(&open[22..], Idle);
        tokio::time::advance(UNUSED / 2).await;
        use_all(&open[..1], Busy);
        use_all(&open[..1], Idle);
        assert!(limit.admit_or_make_room(peer(1)).await.is_none());
        assert_eq!(told(&open), [0; 0]);
        tokio::time::advance(UNUSED / 2).await;
        let _arrived = limit.admit_or_make_room(peer(1)).await.unwrap();
        assert_eq!(told(&open), [2, 3, 22], "not that which is busy, nor that which was used");
        // One that is used before it ends stays.
        use_all(&open[2..3], Busy);
        use_all(&open[2..3], Idle);
        assert_eq!(told(&open), [3, 22]);
    }

    /// Uploads that did not end kept all others out, for `limits.request`.
    #[tokio::test(start_paused = true)]
    async fn uploads_make_room_where_no_connection_is_idle() {
        use ConnectionUse::{AwaitsClient, Busy, Idle};
        let limit = ConnectionLimit::new(8);
        let open = of_services(&limit, &["low", "low", "low", "low", "low", "low", "high", "high"]);
        use_all(&open, Busy);
        use_all(&open[4..], AwaitsClient);
        use_all(&open[..1], Idle);
        tokio::time::advance(UNUSED / 2).await;
        use_all(&open[4..5], Busy);
        use_all(&open[4..5], AwaitsClient);
        tokio::time::advance(UNUSED / 2).await;
        let first = limit.admit_or_make_room(peer(1)).await.unwrap();
        assert_eq!((told(&open), open[0].standing.gives_bodies_up()), (vec![0], false));
        use_all(&open[..1], Busy);
        drop(first);
        let _second = limit.admit_or_make_room(peer(1)).await.unwrap();
        assert_eq!((told(&open), open[5].standing.gives_bodies_up()), (vec![5], true), "of the service that has most");
        // It is closed, unless a request has come whole meanwhile.
        use_all(&open[5..6], Idle);
        assert_eq!(told(&open), [5]);
        use_all(&open[5..6], Busy);
        assert_eq!(told(&open), [0; 0]);
    }

    /// Who opens them from one network closes its own.
    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_largest_network_make_room_first() {
        let limit = ConnectionLimit::new(LEAVING * BATCH);
        let networks = (0..limit.get()).map(|n| if n < 5 { 1 } else { 2 });
        let open: Vec<_> = networks.filter_map(|last| limit.admit(peer(last))).collect();
        tokio::time::advance(SETTLED).await;
        assert!(limit.admit_or_make_room(peer(3)).await.is_some());
        assert_eq!(told(&open), (5..5 + BATCH).collect::<Vec<_>>());
    }
}
