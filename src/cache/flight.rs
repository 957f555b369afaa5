//! Single flight: of all concurrent requests with the same key, one fetches.
//!
//! The first request gets the [`Leader`]; the others are [`Follower`]s and get the result that the leader completes
//! with. What always holds: there is at most one leader for a key and a generation; a flight ends when its leader is
//! dropped, and if that was without a result, the followers are told, and one of them leads; a flight that began before
//! a purge that covers it is joined by nobody after it. Must not know what is fetched. Never fails.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Cache, CacheEntry, Generation, Key};
use crate::config::Priority;

/// The flights in progress.
#[derive(Debug)]
pub struct Flights<T> {
    /// Locked for one look-up or change, never across an `.await`.
    open: Mutex<HashMap<Key, OpenFlight<T>>>,
}

#[derive(Debug)]
struct OpenFlight<T> {
    generation: Generation,
    result: watch::Receiver<Option<T>>,
    /// The highest of those that have joined.
    priority: watch::Sender<Priority>,
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
    pub(crate) priority: Priority,
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
        let JoinRequest { cache, priority } = request;
        let mut open = self.open.lock();
        if let Some(flight) = open.get(key).filter(|flight| cache.shares(key, flight.generation)) {
            flight.priority.send_if_modified(|highest| {
                let rises = priority > *highest;
                *highest = priority.max(*highest);
                rises
            });
            return Flight::Follower(Follower(flight.result.clone()));
        }
        if let Some(entry) = stored() {
            return Flight::Stored(entry);
        }
        let generation = cache.generation();
        let (sender, result) = watch::channel(None);
        let (raise, priority) = watch::channel(priority);
        open.insert(key.clone(), OpenFlight { generation, result, priority: raise });
        Flight::Leader(Leader { flights: self.clone(), key: key.clone(), generation, priority, sender })
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
    priority: watch::Receiver<Priority>,
    sender: watch::Sender<Option<T>>,
}

impl<T> Leader<T> {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The cache's when the flight began.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// The highest priority of those that have joined; it may rise.
    pub(crate) fn priority(&self) -> watch::Receiver<Priority> {
        self.priority.clone()
    }

    /// Whether requests wait for the result.
    pub(crate) fn is_awaited(&self) -> bool {
        self.sender.receiver_count() > 1
    }

    /// A follower of this flight, for the request that started it.
    pub(crate) fn follow(&self) -> Follower<T> {
        Follower(self.sender.subscribe())
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
        // The key may belong to another flight: the next one, or one that began after a purge.
        if open.get(&self.key).is_some_and(|flight| flight.result.same_channel(&self.sender.subscribe())) {
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
pub struct Follower<T>(watch::Receiver<Option<T>>);

impl<T: Clone> Follower<T> {
    /// The result; `None` if the leader was dropped without one.
    pub(crate) async fn result(mut self) -> Option<T> {
        let value = self.0.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::key_of_path as key;

    fn join(flights: &Arc<Flights<u32>>, path: &str) -> Flight<u32> {
        let request = JoinRequest { cache: &Cache::new(0), priority: Priority::Normal };
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
    fn the_highest_priority_of_those_that_joined_counts() {
        let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
        let joins = |priority| flights.join(&key("/a"), JoinRequest { cache: &cache, priority }, || None);
        let Flight::Leader(leader) = joins(Priority::Low) else { panic!("first leads") };
        let mut highest = leader.priority();
        let of_the_others = [Priority::Normal, Priority::High, Priority::Low].map(joins);
        assert!(of_the_others.iter().all(|flight| matches!(flight, Flight::Follower(_))));
        assert!(highest.has_changed().unwrap());
        assert_eq!(*highest.borrow_and_update(), Priority::High);
    }

    #[tokio::test]
    async fn a_flight_that_began_before_a_purge_is_not_joined_after_it() {
        let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
        let joins = || {
            let request = JoinRequest { cache: &cache, priority: Priority::Normal };
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
