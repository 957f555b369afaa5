//! What each service has claimed of the memory.
//!
//! What always holds: a share outlives configurations, as long as the service has claims or is configured. Must not know
//! what a share allows (`memory`). Never fails.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{Memory, MemoryAllowance, ShareOwner, part_of};
use crate::config::Priority;

/// The part of the limit that all may fill together that are not known to be a service, in percent: of any priority, since they
/// may become requests of any.
const UNIDENTIFIED: usize = 12;

/// The claims of one service, or of the gateway's own calls.
#[derive(Debug)]
pub struct MemoryShare {
    memory: Arc<Memory>,
    used: AtomicUsize,
    /// How much of the limit it may be at most, in percent.
    most: usize,
    /// Held by the first of those that wait for room: the others come after it.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Shared by what has waited so.
    pub(super) waited: Arc<()>,
}

impl MemoryShare {
    /// What a request of this priority may claim.
    pub fn allowance(self: &Arc<Self>, priority: Priority) -> MemoryAllowance {
        MemoryAllowance { share: self.clone(), percent: Some(part_of(priority)) }
    }

    /// Of all services.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many bytes it may be at most, where so many are left for its priority.
    pub(super) fn most_of(&self, left: usize) -> usize {
        left.min(self.memory.limit() / 100 * self.most)
    }

    /// Bytes that the service has claimed.
    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Counts more bytes. Returns how many all services have claimed now, and this one.
    pub(super) fn add(&self, bytes: usize) -> (usize, usize) {
        let add = |to: &AtomicUsize| to.fetch_add(bytes, Relaxed).saturating_add(bytes);
        (add(&self.memory.used), add(&self.used))
    }

    pub(super) fn release(&self, bytes: usize) {
        self.memory.used.fetch_sub(bytes, Relaxed);
        self.used.fetch_sub(bytes, Relaxed);
    }
}

impl Memory {
    /// The share of a service; `None`: of the gateway's own calls.
    pub fn share(self: &Arc<Self>, service: Option<&str>) -> Arc<MemoryShare> {
        self.share_of(service.map_or(ShareOwner::Gateway, |name| ShareOwner::Service(name.into())))
    }

    fn share_of(self: &Arc<Self>, owner: ShareOwner) -> Arc<MemoryShare> {
        let mut shares = self.shares.lock();
        shares.retain(|_, share| share.strong_count() > 0);
        let known = shares.get(&owner).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let most = if owner == ShareOwner::Unidentified { UNIDENTIFIED } else { 100 };
            let share = Arc::new(MemoryShare {
                memory: self.clone(),
                used: AtomicUsize::new(0),
                most,
                turn: tokio::sync::Mutex::default(),
                waited: Arc::default(),
            });
            shares.insert(owner, Arc::downgrade(&share));
            share
        })
    }
}

/// The shares of a configuration's services.
#[derive(Debug)]
pub struct MemoryShares {
    /// By index of service.
    services: Vec<Arc<MemoryShare>>,
    gateway: Arc<MemoryShare>,
    unidentified: Arc<MemoryShare>,
}

impl MemoryShares {
    pub fn new<'a>(memory: &Arc<Memory>, services: impl Iterator<Item = &'a str>) -> Self {
        let services = services.map(|name| memory.share(Some(name))).collect();
        let unidentified = memory.share_of(ShareOwner::Unidentified);
        MemoryShares { services, gateway: memory.share(None), unidentified }
    }

    /// That of whatever is not known to be a service's.
    pub fn of_unidentified(&self) -> &Arc<MemoryShare> {
        &self.unidentified
    }

    /// That of a service, by its index; `None`: of the gateway's own calls.
    pub fn of(&self, service: Option<usize>) -> &Arc<MemoryShare> {
        service.map_or(&self.gateway, |service| &self.services[service])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_changes_nothing_that_is_claimed() {
        let memory = Memory::new(1000);
        let before = MemoryShares::new(&memory, ["a", "b"].into_iter());
        let claims = [Some(0), Some(1), None].map(|service| before.of(service).allowance(Priority::High).claim(100));
        drop(before);
        let after = MemoryShares::new(&memory, ["b", "c"].into_iter());
        assert_eq!([Some(0), Some(1), None].map(|service| after.of(service).used()), [100, 0, 100]);
        drop(claims);
        assert_eq!((after.of(Some(0)).used(), memory.used()), (0, 0));
    }
}
