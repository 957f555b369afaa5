//! How many client connections may be open, and which are closed for new ones.
//!
//! What always holds: at most as many as allowed are open; a reload changes the number, and connections that are open stay.
//! If there are as many, those of strangers make room: connections without an identified request so far, older than
//! [`SETTLED`], of the network that has most of them the oldest first. So nobody without credentials keeps callers out, and a
//! client that has just connected has time for its first request. Never fails.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
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
/// How many are closed at a time, so that they are not searched for each new connection.
const BATCH: usize = 32;
/// How long a new connection waits for those that are closed for it: their threads may be busy.
const ROOM: Duration = Duration::from_millis(100);

pub struct ConnectionLimit {
    allowed: AtomicUsize,
    open: AtomicUsize,
    strangers: Mutex<Strangers>,
    /// One has been closed.
    closed: Notify,
}

/// The connections without an identified request.
#[derive(Default)]
struct Strangers {
    opened: u64,
    /// In the order in which they were opened. Some of them may have been identified meanwhile.
    waiting: BTreeMap<u64, Stranger>,
    /// Those that were told to make room and are still open, and not identified meanwhile.
    leaving: BTreeMap<u64, ConnectionStanding>,
}

struct Stranger {
    network: IpAddr,
    since: Instant,
    standing: ConnectionStanding,
}

/// One open connection, until it is dropped.
pub struct AdmittedConnection {
    limit: Arc<ConnectionLimit>,
    id: u64,
    pub(super) standing: ConnectionStanding,
}

/// Whether a connection is a stranger's, and is to make room.
#[derive(Clone, Default)]
pub struct ConnectionStanding {
    pub(super) identified: IdentifiedService,
    /// Cancelled when it is to make room, unless it was identified.
    leave: CancellationToken,
}

impl ConnectionLimit {
    /// At most `allowed` connections at a time.
    pub fn new(allowed: usize) -> Arc<Self> {
        Arc::new(Self {
            allowed: AtomicUsize::new(allowed),
            open: AtomicUsize::new(0),
            strangers: Mutex::default(),
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
        let network = network(peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        let standing = ConnectionStanding::default();
        let stranger = Stranger { network, since: Instant::now(), standing: standing.clone() };
        let mut strangers = self.strangers.lock();
        strangers.opened += 1;
        let id = strangers.opened;
        strangers.waiting.insert(id, stranger);
        Some(AdmittedConnection { limit: self.clone(), id, standing })
    }

    /// The same; if there are too many, strangers make room, which is waited for up to [`ROOM`]. Cancel safe.
    pub(super) async fn admit_for_strangers(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<AdmittedConnection> {
        let until = Instant::now() + ROOM;
        loop {
            if let Some(admitted) = self.admit(peer) {
                return Some(admitted);
            }
            if !self.strangers.lock().make_room() {
                return None;
            }
            timeout_at(until, self.closed.notified()).await.ok()?;
        }
    }
}

impl Strangers {
    /// Tells some to leave, unless some are leaving. Whether any are.
    fn make_room(&mut self) -> bool {
        self.leaving.retain(|_, one| !one.is_identified());
        if self.leaving.is_empty() {
            self.waiting.retain(|_, one| !one.standing.is_identified());
            let now = Instant::now();
            let settled = |(_, one): &(&u64, &Stranger)| now.duration_since(one.since) >= SETTLED;
            let mut in_network: HashMap<IpAddr, usize> = HashMap::new();
            for (_, one) in self.waiting.iter().take_while(settled) {
                *in_network.entry(one.network).or_default() += 1;
            }
            let mut settled: Vec<_> = self.waiting.iter().take_while(settled).collect();
            settled.sort_by_key(|(_, one)| Reverse(in_network[&one.network]));
            let batch: Vec<u64> = settled.iter().map(|(id, _)| **id).take(BATCH).collect();
            for id in batch {
                let Some(Stranger { standing, .. }) = self.waiting.remove(&id) else { continue };
                standing.leave.cancel();
                self.leaving.insert(id, standing);
            }
        }
        !self.leaving.is_empty()
    }
}

impl ConnectionStanding {
    fn is_identified(&self) -> bool {
        self.identified.get().is_some()
    }

    /// Whether it is to make room.
    pub(super) fn is_to_leave(&self) -> bool {
        self.leave.is_cancelled() && !self.is_identified()
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
            let mut strangers = self.limit.strangers.lock();
            strangers.waiting.remove(&self.id);
            strangers.leaving.remove(&self.id);
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
        assert!(limit.admit_for_strangers(peer(4)).await.is_none(), "they may be about to send a request");
        assert_eq!(told(&open), [0; 0]);
        tokio::time::advance(SETTLED).await;
        let (began, arrives) = (Instant::now(), limit.admit_for_strangers(peer(4)));
        let closes = async {
            tokio::time::sleep(ROOM / 2).await;
            assert_eq!(told(&open), [0, 1, 2]);
            drop(open.remove(1));
        };
        let (arrived, ()) = tokio::join!(arrives, closes);
        assert!(arrived.is_some() && began.elapsed() == ROOM / 2);
        // Those that were told are waited for; no others are.
        assert!(limit.admit_for_strangers(peer(5)).await.is_none());
        assert_eq!(began.elapsed(), ROOM / 2 + ROOM);
        drop((open, arrived));
        assert_eq!(limit.open.load(Relaxed), 0);
        let strangers = limit.strangers.lock();
        assert_eq!((strangers.waiting.len(), strangers.leaving.len()), (0, 0));
    }

    /// Its first request came at that moment, so it stays open.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_told_and_becomes_a_caller_keeps_no_stranger_open() {
        let limit = ConnectionLimit::new(2);
        let mut open = vec![limit.admit(peer(1)).unwrap()];
        tokio::time::advance(SETTLED).await;
        open.extend(limit.admit(peer(2)));
        assert!(limit.admit_for_strangers(peer(3)).await.is_none());
        assert_eq!(told(&open), [0]);
        identify(&open[0]);
        let reads = tokio::time::sleep(SETTLED);
        assert_eq!(open[0].standing.run_until_told(reads).await, Some(()), "its response is not cut off");
        assert!(limit.admit_for_strangers(peer(3)).await.is_none());
        assert_eq!(told(&open), [1]);
    }

    /// Who opens them from one network closes its own.
    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_largest_network_make_room_first() {
        let limit = ConnectionLimit::new(3 * BATCH);
        let networks = (0..limit.get()).map(|n| if n < 5 { 1 } else { 2 });
        let open: Vec<_> = networks.filter_map(|last| limit.admit(peer(last))).collect();
        tokio::time::advance(SETTLED).await;
        assert!(limit.admit_for_strangers(peer(3)).await.is_none());
        assert_eq!(told(&open), (5..5 + BATCH).collect::<Vec<_>>());
    }
}
