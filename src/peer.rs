//! Failed attempts by peer: [`PeerSlots`] says what is counted together, [`PeerLimit`] limits guesses of admin tokens.
//!
//! [`PeerLimit`] is `tower_governor`'s, as a layer or to be asked directly. Clients of one network count as one peer: a
//! client chooses its address within an IPv6 /64 prefix freely. A table by address would grow with every address that an
//! attacker has; therefore networks are hashed, with a key that nobody knows, into [`SLOTS`] slots, so the limiter's table
//! needs no shrinking. Two networks in one slot share a limit: only for failed attempts. Never fails.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{
    NotUntil,
    clock::{Clock as _, DefaultClock, QuantaInstant},
    middleware::NoOpMiddleware,
};
use http::Request;
use tower_governor::{
    GovernorError, GovernorLayer,
    governor::{GovernorConfig, GovernorConfigBuilder},
    key_extractor::KeyExtractor,
};

/// Number of slots.
const SLOTS: u16 = 4096;

/// Limits attempts by peer. Clones share the limit.
#[derive(Clone, Debug)]
pub struct PeerLimit {
    slots: PeerSlots,
    config: Arc<GovernorConfig<PeerSlots, NoOpMiddleware<QuantaInstant>>>,
}

impl PeerLimit {
    /// `burst` attempts at once, and one more after each `period`, which must not be zero.
    #[expect(clippy::expect_used, reason = "a constant, at start-up")]
    pub fn new(burst: NonZeroU32, period: Duration) -> Self {
        let slots = PeerSlots::default();
        let mut builder = GovernorConfigBuilder::default().key_extractor(slots.clone());
        let config = builder.period(period).burst_size(burst.get()).finish();
        PeerLimit { slots, config: Arc::new(config.expect("period and burst are above zero")) }
    }

    /// Counts an attempt of a peer, unless there were too many.
    ///
    /// # Errors
    /// How long until the peer's next attempt.
    pub fn attempt(&self, peer: IpAddr) -> Result<(), Duration> {
        let wait = |refused: NotUntil<QuantaInstant>| refused.wait_time_from(DefaultClock::default().now());
        self.config.limiter().check_key(&self.slots.slot(peer)).map_err(wait)
    }

    /// The layer that counts requests, by the [`PeerAddress`] among their extensions.
    pub fn layer<B>(&self) -> GovernorLayer<PeerSlots, NoOpMiddleware<QuantaInstant>, B> {
        GovernorLayer::new(self.config.clone())
    }
}

/// The peer of a request, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// Assigns slots to peers.
#[derive(Clone, Debug, Default)]
pub struct PeerSlots(RandomState);

impl PeerSlots {
    /// The slot of a peer, below [`SLOTS`].
    pub(crate) fn slot(&self, peer: IpAddr) -> u16 {
        let slot = self.0.hash_one(network(peer)) % u64::from(SLOTS);
        u16::try_from(slot).unwrap_or_default()
    }
}

impl KeyExtractor for PeerSlots {
    type Key = u16;

    fn extract<T>(&self, request: &Request<T>) -> Result<u16, GovernorError> {
        let peer = request.extensions().get::<PeerAddress>();
        Ok(self.slot(peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)))
    }
}

/// The network of a peer: an IPv4 address, or the /64 prefix of an IPv6 address.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_slot() {
        let slots = PeerSlots::default();
        let slot = |peer: &str| slots.slot(peer.parse().unwrap());
        assert_eq!(slot("192.0.2.1"), slot("::ffff:192.0.2.1"));
        assert_eq!(slot("2001:db8:0:1::1"), slot("2001:db8:0:1:ffff::2"));
        // 1 in 2^120 that this fails by chance.
        assert!((2..12).any(|last| slot("192.0.2.1") != slot(&format!("192.0.2.{last}"))));
    }

    #[test]
    fn peers_are_counted_apart() {
        let limit = PeerLimit::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(60));
        let peers = ["192.0.2.1", "192.0.2.2"].map(|peer| peer.parse().unwrap());
        let passes = |peer| (0..9).filter(|_| limit.attempt(peer).is_ok()).count();
        assert_eq!(passes(peers[0]), 3);
        let wait = limit.attempt(peers[0]).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
        let together = limit.slots.slot(peers[0]) == limit.slots.slot(peers[1]);
        assert_eq!(passes(peers[1]), if together { 0 } else { 3 });
    }
}
