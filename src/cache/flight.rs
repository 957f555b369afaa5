//! Single flight: of all that ask the same at once, one asks Fastrac.
//!
//! The first is given the [`Leader`]; the others wait. What the leader lands is shared by all; if it
//! goes without landing, the waiters are told and one of them leads anew. A flight is over when the
//! [`Leader`] is dropped, whatever happened.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Key;

/// Flights under way.
#[derive(Debug)]
pub struct Flights<T> {
    /// Locked only for a look-up or a change, never across an `.await`.
    open: Mutex<HashMap<Key, watch::Receiver<Option<T>>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { open: Mutex::new(HashMap::new()) }
    }
}

/// What a request is in a flight.
pub enum Seat<T> {
    /// It is known by now after all.
    Known(Arc<super::Entry>),
    /// It asks for all.
    Leader(Leader<T>),
    /// It waits.
    Follower(Follower<T>),
}

impl<T: Clone> Flights<T> {
    /// Joins the flight for `key`, or opens it. `known` looks the key up once more under the lock,
    /// because a flight may have landed since the caller looked.
    pub fn join(self: &Arc<Self>, key: &Key, known: impl FnOnce() -> Option<Arc<super::Entry>>) -> Seat<T> {
        let mut open = self.open.lock();
        if let Some(receiver) = open.get(key) {
            return Seat::Follower(Follower(receiver.clone()));
        }
        if let Some(entry) = known() {
            return Seat::Known(entry);
        }
        let (sender, receiver) = watch::channel(None);
        open.insert(key.clone(), receiver);
        Seat::Leader(Leader { flights: self.clone(), key: key.clone(), sender })
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The right and the duty to ask.
pub struct Leader<T> {
    flights: Arc<Flights<T>>,
    key: Key,
    sender: watch::Sender<Option<T>>,
}

impl<T> Leader<T> {
    /// The key that is asked for.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A place among those who wait.
    pub fn wait(&self) -> Follower<T> {
        Follower(self.sender.subscribe())
    }

    /// Shares what came of it. Whatever is to be stored has been stored before.
    pub fn land(self, result: T) {
        self.flights.open.lock().remove(&self.key);
        self.sender.send_replace(Some(result));
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock();
        // After `land` the key may be another flight's already.
        if open.get(&self.key).is_some_and(|receiver| receiver.same_channel(&self.sender.subscribe())) {
            open.remove(&self.key);
        }
    }
}

/// A place among those who wait.
pub struct Follower<T>(watch::Receiver<Option<T>>);

impl<T: Clone> Follower<T> {
    /// What the leader landed; `None` if it went without landing.
    pub async fn landed(mut self) -> Option<T> {
        let value = self.0.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Parts;

    fn key(path: &str) -> Key {
        Key::new(Parts { account: "a", service: None, method: "GET", path, query: None, vary: &[], body: b"" })
    }

    #[tokio::test]
    async fn one_leads_and_all_share() {
        let flights = Arc::new(Flights::<u32>::default());
        let Seat::Leader(lead) = flights.join(&key("/a"), || None) else { panic!("first leads") };
        let Seat::Follower(first) = flights.join(&key("/a"), || None) else { panic!("second waits") };
        let Seat::Follower(second) = flights.join(&key("/a"), || None) else { panic!("third waits") };
        assert!(matches!(flights.join(&key("/b"), || None), Seat::Leader(_)), "another key is another flight");
        lead.land(7);
        assert_eq!((first.landed().await, second.landed().await), (Some(7), Some(7)));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_lost_leader_is_replaced() {
        let flights = Arc::new(Flights::<u32>::default());
        let Seat::Leader(lead) = flights.join(&key("/a"), || None) else { panic!("first leads") };
        let Seat::Follower(wait) = flights.join(&key("/a"), || None) else { panic!("second waits") };
        drop(lead);
        assert_eq!(wait.landed().await, None);
        assert!(matches!(flights.join(&key("/a"), || None), Seat::Leader(_)));
    }
}
