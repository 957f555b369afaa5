//! Which clients count as one when failed attempts are limited: those of one network, in a bounded number of slots.
//!
//! A client chooses its address within an IPv6 /64 prefix freely, so that prefix counts as one address. A table by
//! address would grow with every address that an attacker has; therefore networks are hashed, with a key that nobody
//! knows, into [`SLOTS`] slots. Two networks in one slot share a limit: only for failed attempts. Never fails.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    net::{IpAddr, Ipv6Addr},
};

/// Number of slots.
pub const SLOTS: u16 = 4096;

/// Assigns slots to peers.
#[derive(Clone, Debug, Default)]
pub struct PeerSlots(RandomState);

impl PeerSlots {
    /// The slot of a peer, below [`SLOTS`].
    pub fn slot(&self, peer: IpAddr) -> u16 {
        let slot = self.0.hash_one(network(peer)) % u64::from(SLOTS);
        u16::try_from(slot).unwrap_or_default()
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
}
