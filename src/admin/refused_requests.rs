//! Requests to the admin port without a right token: how many have a line of the audit log, and the sums of the others.
//!
//! What always holds: both tables have a bound, however many peers there are. Never fails.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::peer::PeerLimit;

/// Lines of one peer about requests that were refused without a token that was compared, written at once.
pub(super) const BURST: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// After how long one more is written.
const PERIOD: Duration = Duration::from_secs(60);
/// Lines of all clients without a right token that are written at once, and after how long one more is: many peers may be
/// one attacker.
const BURST_OF_ALL: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
const PERIOD_OF_ALL: Duration = Duration::from_secs(1);
/// Peers that one summary names; the others have one line together.
pub(super) const SUMMARY_PEERS: usize = 256;

/// How many lines requests without a right token have.
pub(super) struct LineLimits {
    by_peer: PeerLimit,
    all: DefaultDirectRateLimiter,
}

impl LineLimits {
    pub(super) fn new() -> Self {
        let quota = Quota::with_period(PERIOD_OF_ALL).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let all = DefaultDirectRateLimiter::direct(quota.allow_burst(BURST_OF_ALL));
        LineLimits { by_peer: PeerLimit::new(BURST, PERIOD), all }
    }

    /// Whether a request has a line of its own. `compared`: its token was compared with the right ones.
    pub(super) fn admit(&self, peer: Option<IpAddr>, compared: bool) -> bool {
        let of_peer = || self.by_peer.attempt(peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))).is_ok();
        (compared || of_peer()) && self.all.check().is_ok()
    }
}

/// Requests that have no line, by peer.
#[derive(Default)]
pub(super) struct RefusedSums(Mutex<BTreeMap<Option<IpAddr>, RefusedRequests>>);

pub(super) struct RefusedRequests {
    pub(super) count: u64,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl RefusedSums {
    /// Adds a request; returns whether it is the first since the last summary.
    pub(super) fn add(&self, peer: Option<IpAddr>) -> bool {
        let (mut refused, now) = (self.0.lock(), Timestamp::now());
        let first = refused.is_empty();
        let peer = if refused.len() < SUMMARY_PEERS || refused.contains_key(&peer) { peer } else { None };
        let sum = refused.entry(peer).or_insert(RefusedRequests { count: 0, from: now, to: now });
        (sum.count, sum.to) = (sum.count + 1, now);
        first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Takes the sums; they begin anew.
    pub(super) fn take(&self) -> BTreeMap<Option<IpAddr>, RefusedRequests> {
        std::mem::take(&mut self.0.lock())
    }
}
