//! Single flight: of all concurrent requests with the same key, one fetches.
//!
//! The first request gets the [`Leader`]; the others are [`Follower`]s and get the result that the leader completes
//! with. What always holds: there is at most one leader for a key; a flight ends when its leader is dropped, and if
//! that was without a result, the followers are told, and one of them leads. Must not know what is fetched. Never fails.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{CacheEntry, Key};

/// The flights in progress.
#[derive(Debug)]
pub struct Flights<T> {
    /// Locked for one look-up or change, never across an `.await`.
    open: Mutex<HashMap<Key, watch::Receiver<Option<T>>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { open: Mutex::new(HashMap::new()) }
    }
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
    pub(crate) fn join(self: &Arc<Self>, key: &Key, stored: impl FnOnce() -> Option<Arc<CacheEntry>>) -> Flight<T> {
        let mut open = self.open.lock();
        if let Some(receiver) = open.get(key) {
            return Flight::Follower(Follower(receiver.clone()));
        }
        if let Some(entry) = stored() {
            return Flight::Stored(entry);
        }
        let (sender, receiver) = watch::channel(None);
        open.insert(key.clone(), receiver);
        Flight::Leader(Leader { flights: self.clone(), key: key.clone(), sender })
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
    sender: watch::Sender<Option<T>>,
}

impl<T> Leader<T> {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// A follower of this flight, for the request that started it.
    pub(crate) fn follow(&self) -> Follower<T> {
        Follower(self.sender.subscribe())
    }

    /// Ends the flight and gives the result to all followers. Store first what is to be stored: a request that joins after
    /// this looks in the cache.
    pub(crate) fn complete(self, result: T) {
        self.flights.open.lock().remove(&self.key);
        self.sender.send_replace(Some(result));
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock();
        // After `complete` the key may belong to the next flight.
        if open.get(&self.key).is_some_and(|receiver| receiver.same_channel(&self.sender.subscribe())) {
            open.remove(&self.key);
        }
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
    use crate::cache::KeyParts;

    fn key(path: &str) -> Key {
        Key::new(KeyParts { account: "a", service: None, method: "GET", path, query: None, vary: &[], body: b"" })
    }

    #[tokio::test]
    async fn one_leads_and_all_share() {
        let flights = Arc::new(Flights::<u32>::default());
        let Flight::Leader(leader) = flights.join(&key("/a"), || None) else { panic!("first leads") };
        let Flight::Follower(first) = flights.join(&key("/a"), || None) else { panic!("second waits") };
        let Flight::Follower(second) = flights.join(&key("/a"), || None) else { panic!("third waits") };
        assert!(matches!(flights.join(&key("/b"), || None), Flight::Leader(_)), "another key is another flight");
        leader.complete(7);
        assert_eq!((first.result().await, second.result().await), (Some(7), Some(7)));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_lost_leader_is_replaced() {
        let flights = Arc::new(Flights::<u32>::default());
        let Flight::Leader(leader) = flights.join(&key("/a"), || None) else { panic!("first leads") };
        let Flight::Follower(follower) = flights.join(&key("/a"), || None) else { panic!("second waits") };
        drop(leader);
        assert_eq!(follower.result().await, None);
        assert!(matches!(flights.join(&key("/a"), || None), Flight::Leader(_)));
    }
}
