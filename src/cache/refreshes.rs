//! Stored responses that are to be fetched again although no caller waits for them.
//!
//! What always holds: an entry is in the queue at most once, and not while it is being refreshed; the queue is bounded, and
//! what finds no room is dropped: the next hit asks again. It keeps no response alive. Must not know who refreshes. Never
//! fails.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{CacheEntry, Key};

/// Number of entries that wait.
const MAX_QUEUED: usize = 1024;

/// The queue of one account. It outlives configurations.
#[derive(Debug, Default)]
pub struct RefreshQueue {
    /// Locked for one change, never across an `.await`.
    due: Mutex<VecDeque<DueRefresh>>,
    arrived: Notify,
}

/// A stored response that is to be fetched again. While this exists, the entry is not queued once more.
#[derive(Debug)]
pub struct DueRefresh {
    pub key: Key,
    entry: Weak<CacheEntry>,
}

impl RefreshQueue {
    /// Asks for a refresh of an entry that was used at this age, unless a fetch of it has just failed, or brought nothing
    /// that could be stored.
    pub(crate) fn request(&self, key: &Key, entry: &Arc<CacheEntry>, now: Instant) {
        if !entry.may_be_refreshed(entry.age(now)) || !entry.enqueue() {
            return;
        }
        let due = DueRefresh { key: key.clone(), entry: Arc::downgrade(entry) };
        let mut queue = self.due.lock();
        // One that finds no room is dropped after the lock.
        let _dropped = if queue.len() < MAX_QUEUED {
            queue.push_back(due);
            None
        } else {
            Some(due)
        };
        drop(queue);
        self.arrived.notify_one();
    }

    /// Takes the entry that has waited longest; waits for one. For one task.
    pub async fn next(&self) -> DueRefresh {
        loop {
            let due = self.due.lock().pop_front();
            match due {
                Some(due) => return due,
                None => self.arrived.notified().await,
            }
        }
    }

    /// Number of entries that wait.
    pub fn len(&self) -> usize {
        self.due.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl DueRefresh {
    /// Whether something still refers to the entry: the cache, or a caller.
    pub(crate) fn is_stored(&self) -> bool {
        self.entry.strong_count() > 0
    }

    /// The entry; `None` once the cache has dropped it.
    pub(crate) fn entry(&self) -> Option<Arc<CacheEntry>> {
        self.entry.upgrade()
    }
}

impl Drop for DueRefresh {
    fn drop(&mut self) {
        if let Some(entry) = self.entry() {
            entry.dequeue();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::{key::key_of_path, test_entry};

    #[tokio::test(start_paused = true)]
    async fn an_entry_waits_once_and_may_wait_again_when_its_refresh_is_over() {
        let (queue, entry, key) = (RefreshQueue::default(), test_entry(10), key_of_path("/a"));
        let ask = || queue.request(&key, &entry, Instant::now());
        ask();
        ask();
        assert_eq!(queue.len(), 1);
        let due = queue.next().await;
        ask();
        assert!(queue.is_empty() && due.key == key && due.entry().is_some());
        drop(due);
        ask();
        assert_eq!(queue.len(), 1);
        drop(queue.next().await);
        entry.fetch_failed(Instant::now());
        ask();
        assert!(queue.is_empty(), "a fetch has just failed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_stored_is_not_fetched_again_behind_every_use() {
        let (queue, entry, key) = (RefreshQueue::default(), test_entry(10), key_of_path("/a"));
        entry.could_not_be_replaced(Instant::now());
        for (wait, queued) in [(0, false), (59, false), (1, true)] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            queue.request(&key, &entry, Instant::now());
            assert_eq!(queue.len() == 1, queued);
            assert!(entry.may_be_fetched(entry.age(Instant::now())), "for a caller");
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_asked_for_again_later() {
        let queue = RefreshQueue::default();
        let entries: Vec<_> = (0..=MAX_QUEUED).map(|_| test_entry(1)).collect();
        for (index, entry) in entries.iter().enumerate() {
            queue.request(&key_of_path(&format!("/{index}")), entry, Instant::now());
        }
        assert_eq!(queue.len(), MAX_QUEUED);
        drop(queue.next().await);
        queue.request(&key_of_path("/last"), &entries[MAX_QUEUED], Instant::now());
        assert_eq!(queue.len(), MAX_QUEUED);
        // It keeps nothing alive.
        drop(entries);
        assert!(queue.next().await.entry().is_none());
    }
}
