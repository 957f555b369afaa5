//! Single flight: of all concurrent requests with the same key, one fetches.
//!
//! The first request gets the [`Leader`]; the others are [`Follower`]s and get the result that the leader completes
//! with. What always holds: at most one flight for a key is joined; a flight ends when its leader is
//! dropped, and if that was without a result, the followers are told, and one of them leads; a flight that began before
//! a purge that covers it is joined by nobody after it, and one that may have been sent by no request that needs a newer
//! response; a bid counts as long as somebody waits who has made it. Must not know what is fetched. Never fails.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{Cache, CacheEntry, Generation, Key};
use crate::{config::Priority, deadline::Deadline};

/// The flights in progress.
#[derive(Debug)]
pub struct Flights<T> {
    /// Locked for one look-up or change, never across an `.await`.
    open: Mutex<HashMap<Key, OpenFlight<T>>>,
}

struct OpenFlight<T> {
    generation: Generation,
    result: watch::Receiver<Option<T>>,
    bids: watch::Sender<Bids>,
    course: Course,
}

/// On whose behalf a flight may be sent, and how urgently.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bid {
    /// Name of the service.
    pub(crate) service: Box<str>,
    pub(crate) priority: Priority,
}

/// The bids of those that wait for the result of a flight now, in the order in which they came. Equal ones are one, as
/// long as anyone waits who has made it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bids(Vec<CountedBid>);

#[derive(Clone, Debug)]
struct CountedBid {
    bid: Arc<Bid>,
    /// Those who wait and have made it.
    waiters: usize,
    /// How often it was made.
    made: u64,
}

impl Bids {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Bid>> {
        self.0.iter().map(|counted| &counted.bid)
    }

    /// Each with how often it was made: the number grows when another one comes to wait.
    pub(crate) fn with_counts(&self) -> impl Iterator<Item = (&Arc<Bid>, u64)> {
        self.0.iter().map(|counted| (&counted.bid, counted.made))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this very bid counts still. One that was withdrawn and made again is another.
    pub(crate) fn include(&self, bid: &Arc<Bid>) -> bool {
        self.iter().any(|other| Arc::ptr_eq(other, bid))
    }

    /// The highest; the lowest that there is, if nobody waits.
    pub(crate) fn priority(&self) -> Priority {
        self.iter().map(|bid| bid.priority).max().unwrap_or(Priority::Low)
    }

    /// Counts one more who waits; `bid` is the one that counts for all equal ones after it.
    fn add(&mut self, bid: &mut Arc<Bid>) {
        if let Some(counted) = self.0.iter_mut().find(|counted| counted.bid == *bid) {
            (counted.waiters, counted.made) = (counted.waiters + 1, counted.made + 1);
            *bid = counted.bid.clone();
        } else {
            self.0.push(CountedBid { bid: bid.clone(), waiters: 1, made: 1 });
        }
    }

    /// One who has made this bid waits no longer. Returns whether it was the last.
    fn withdraw(&mut self, bid: &Arc<Bid>) -> bool {
        let Some(at) = self.0.iter().position(|counted| Arc::ptr_eq(&counted.bid, bid)) else { return false };
        self.0[at].waiters -= 1;
        let is_last = self.0[at].waiters == 0;
        if is_last {
            self.0.remove(at);
        }
        is_last
    }
}

/// The bid of one who waits; withdrawn when dropped.
struct PlacedBid {
    bids: watch::Sender<Bids>,
    bid: Arc<Bid>,
}

impl PlacedBid {
    fn new(bids: &watch::Sender<Bids>, bid: Bid) -> Self {
        let mut bid = Arc::new(bid);
        bids.send_modify(|bids| bids.add(&mut bid));
        PlacedBid { bids: bids.clone(), bid }
    }
}

impl Drop for PlacedBid {
    fn drop(&mut self) {
        self.bids.send_if_modified(|bids| bids.withdraw(&self.bid));
    }
}

/// What followers may know of a flight under way.
struct FetchCourse {
    ends: Deadline,
    may_be_sent: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Empty: the fetch has not begun.
#[derive(Clone, Default)]
pub(crate) struct Course(Arc<OnceLock<FetchCourse>>);

impl Course {
    /// Whether the request of the flight may have been sent.
    pub(crate) fn may_be_sent(&self) -> bool {
        self.0.get().is_some_and(|fetch| (fetch.may_be_sent)())
    }

    /// Whether the fetch ends by `instant`, whatever becomes of it.
    pub(crate) fn ends_by(&self, instant: Instant) -> bool {
        self.0.get().is_some_and(|fetch| fetch.ends.is_over(instant))
    }
}

impl<T> fmt::Debug for OpenFlight<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFlight").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { open: Mutex::new(HashMap::new()) }
    }
}

/// A request that joins a flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JoinRequest<'a> {
    /// Where the result would be stored.
    pub(crate) cache: &'a Cache,
    /// Name of the service; `None`: the gateway itself, which makes no bid, because nobody waits.
    pub(crate) service: Option<&'a str>,
    pub(crate) priority: Priority,
    /// It takes only a response to what is sent from now on (RFC 9111, section 5.2.1.4).
    pub(crate) only_unsent: bool,
}

/// The part of a request in a flight.
pub enum Flight<T> {
    /// None: the response was stored in the meantime.
    Stored(Arc<CacheEntry>),
    Leader(Leader<T>),
    Follower(Follower<T>),
}

impl<T: Clone> Flights<T> {
    /// Joins the flight for `key`, or opens one. `stored` looks the key up once more under the lock, because a flight
    /// may have ended since the caller looked.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: &Key,
        request: JoinRequest<'_>,
        stored: impl FnOnce() -> Option<Arc<CacheEntry>>,
    ) -> Flight<T> {
        let JoinRequest { cache, service, priority, only_unsent } = request;
        let place = |bids: &_| {
            let bid = service.map(|service| Bid { service: service.into(), priority });
            bid.map(|bid| PlacedBid::new(bids, bid))
        };
        let mut open = self.open.lock();
        let under_way = open.get(key).filter(|flight| cache.shares(key, flight.generation));
        if let Some(flight) = under_way.filter(|flight| !only_unsent || !flight.course.may_be_sent()) {
            let (result, course) = (flight.result.clone(), flight.course.clone());
            return Flight::Follower(Follower { result, course, _bid: place(&flight.bids) });
        }
        if let Some(entry) = stored() {
            return Flight::Stored(entry);
        }
        let generation = cache.generation();
        let (sender, result) = watch::channel(None);
        let (placing, bids) = watch::channel(Bids::default());
        let (bid, course) = (place(&placing), Course::default());
        let flight = OpenFlight { generation, result, bids: placing, course: course.clone() };
        open.insert(key.clone(), flight);
        let (flights, key) = (self.clone(), key.clone());
        Flight::Leader(Leader { flights, key, generation, bids, bid, sender, course })
    }

    /// Number of flights in progress.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Must fetch for all requests with its key.
#[must_use = "dropping it makes a follower lead"]
pub struct Leader<T> {
    flights: Arc<Flights<T>>,
    key: Key,
    generation: Generation,
    bids: watch::Receiver<Bids>,
    /// Of the request that leads, until it follows.
    bid: Option<PlacedBid>,
    sender: watch::Sender<Option<T>>,
    course: Course,
}

impl<T> Leader<T> {
    /// The fetch begins; from now on, `may_be_sent` says whether its request may have been sent.
    pub(crate) fn begins(&self, ends: Deadline, may_be_sent: impl Fn() -> bool + Send + Sync + 'static) {
        // Only a second call could fail.
        let _ = self.course.0.set(FetchCourse { ends, may_be_sent: Box::new(may_be_sent) });
    }

    fn is_open_in(&self, open: &HashMap<Key, OpenFlight<T>>) -> bool {
        open.get(&self.key).is_some_and(|flight| flight.result.same_channel(&self.sender.subscribe()))
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The cache's when the flight began.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// The bids of those that wait. They change.
    pub(crate) fn bids(&self) -> watch::Receiver<Bids> {
        self.bids.clone()
    }

    /// Whether requests wait for the result.
    pub(crate) fn is_awaited(&self) -> bool {
        self.sender.receiver_count() > 1
    }

    /// A follower of this flight, for the request that started it: its bid counts as long as that waits.
    pub(crate) fn follow(&mut self) -> Follower<T> {
        Follower { result: self.sender.subscribe(), course: self.course.clone(), _bid: self.bid.take() }
    }

    /// Ends the flight and gives the result to all followers. Store first what is to be stored: a request that joins after
    /// this looks in the cache.
    pub(crate) fn complete(self, result: T) {
        self.close();
        self.sender.send_replace(Some(result));
    }

    /// Lets nobody join any more.
    fn close(&self) {
        let mut open = self.flights.open.lock();
        // The key may belong to another flight: the next one, or one that began after a purge or has overtaken it.
        if self.is_open_in(&open) {
            open.remove(&self.key);
        }
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits for the leader's result.
pub struct Follower<T> {
    result: watch::Receiver<Option<T>>,
    course: Course,
    _bid: Option<PlacedBid>,
}

impl<T: Clone> Follower<T> {
    pub(crate) fn course(&self) -> Course {
        self.course.clone()
    }

    /// The result; `None` if the leader was dropped without one.
    pub(crate) async fn result(mut self) -> Option<T> {
        let value = self.result.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::key_of_path as key;

    fn join(flights: &Arc<Flights<u32>>, path: &str) -> Flight<u32> {
        let request =
            JoinRequest { cache: &Cache::new(0), service: None, priority: Priority::Normal, only_unsent: false };
        flights.join(&key(path), request, || None)
    }

    #[tokio::test]
    async fn one_leads_and_all_share() {
        let flights = Arc::new(Flights::<u32>::default());
        let Flight::Leader(leader) = join(&flights, "/a") else { panic!("first leads") };
        let Flight::Follower(first) = join(&flights, "/a") else { panic!("second waits") };
        let Flight::Follower(second) = join(&flights, "/a") else { panic!("third waits") };
        assert!(matches!(join(&flights, "/b"), Flight::Leader(_)), "another key is another flight");
        leader.complete(7);
        assert_eq!((first.result().await, second.result().await), (Some(7), Some(7)));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_lost_leader_is_replaced() {
        let flights = Arc::new(Flights::<u32>::default());
        let Flight::Leader(leader) = join(&flights, "/a") else { panic!("first leads") };
        let Flight::Follower(follower) = join(&flights, "/a") else { panic!("second waits") };
        drop(leader);
        assert_eq!(follower.result().await, None);
        assert!(matches!(join(&flights, "/a"), Flight::Leader(_)));
    }

    #[test]
    fn those_who_wait_bid_as_long_as_they_do() {
        let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
        let joins = |service: Option<&str>, priority| {
            let request = JoinRequest { cache: &cache, service, priority, only_unsent: false };
            flights.join(&key("/a"), request, || None)
        };
        let Flight::Leader(mut leader) = joins(Some("a"), Priority::Normal) else { panic!("first leads") };
        let mut bids = leader.bids();
        let mut changes = || (bids.has_changed().unwrap(), bids.borrow_and_update().priority());
        let follow = |service, priority| {
            let Flight::Follower(follower) = joins(service, priority) else { panic!("one flight") };
            follower
        };
        assert_eq!(changes(), (true, Priority::Normal));
        let first = leader.follow();
        let same = follow(Some("a"), Priority::Normal);
        assert_eq!(changes(), (true, Priority::Normal), "one more waits");
        let other = follow(Some("b"), Priority::Low);
        assert_eq!(changes(), (true, Priority::Normal), "it may have a share of its own");
        let urgent = [follow(Some("c"), Priority::High), follow(Some("c"), Priority::High)];
        assert_eq!(changes(), (true, Priority::High));
        let own = follow(None, Priority::High);
        assert_eq!(changes(), (false, Priority::High), "the gateway does not wait");
        let [urgent, last] = urgent;
        drop(urgent);
        assert_eq!(changes(), (false, Priority::High), "one of them is left");
        drop((last, first));
        assert_eq!(changes(), (true, Priority::Normal));
        drop(same);
        assert_eq!(changes(), (true, Priority::Low));
        drop((other, own));
        assert_eq!(changes(), (true, Priority::Low));
        assert_eq!(leader.bids().borrow().iter().count(), 0);
        let late = follow(Some("a"), Priority::High);
        assert_eq!(changes(), (true, Priority::High));
        drop(late);
    }

    #[tokio::test]
    async fn what_may_have_been_sent_is_not_joined_by_a_request_that_needs_a_newer_response() {
        let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
        let joins = |only_unsent| {
            let request = JoinRequest { cache: &cache, service: None, priority: Priority::Normal, only_unsent };
            flights.join(&key("/a"), request, || None)
        };
        let Flight::Leader(old) = joins(false) else { panic!("first leads") };
        assert!(matches!(joins(true), Flight::Follower(_)), "nothing was sent yet");
        let sent = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = sent.clone();
        old.begins(Deadline::after(Instant::now(), std::time::Duration::from_secs(1)), move || {
            told.load(std::sync::atomic::Ordering::SeqCst)
        });
        assert!(matches!(joins(true), Flight::Follower(_)));
        sent.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(joins(false), Flight::Follower(_)));
        let Flight::Leader(new) = joins(true) else { panic!("it needs a newer one") };
        let Flight::Follower(follower) = joins(false) else { panic!("the newer one is open") };
        new.complete(2);
        old.complete(1);
        assert_eq!(follower.result().await, Some(2));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_that_began_before_a_purge_is_not_joined_after_it() {
        let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
        let joins = || {
            let request = JoinRequest { cache: &cache, service: None, priority: Priority::Normal, only_unsent: false };
            flights.join(&key("/a"), request, || None)
        };
        let Flight::Leader(before) = joins() else { panic!("first leads") };
        cache.purge();
        let Flight::Leader(after) = joins() else { panic!("leads anew") };
        before.complete(1);
        let Flight::Follower(follower) = joins() else { panic!("the second flight is still open") };
        after.complete(2);
        assert_eq!(follower.result().await, Some(2));
        assert!(flights.is_empty());
    }
}
