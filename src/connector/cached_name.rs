//! What is known of one name, and for how long. Time is passed in. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::error::LookupError;

/// How long the addresses of a name are used without another lookup. getaddrinfo(3) reports no TTL; a name that moves is
/// followed within this time.
pub(super) const FRESH: Duration = Duration::from_secs(30);
/// How long the last addresses are used while lookups fail or give no result (RFC 8767, section 5: one to three days).
const STALE: Duration = Duration::from_secs(24 * 3600);
/// How long a failed lookup is not repeated.
const FAILED: Duration = Duration::from_secs(1);
/// How long after a failed lookup the next one comes after those of other names.
const COMES_LAST: Duration = Duration::from_secs(600);

/// How long an address with which a connection could not be used is tried after the others.
const AVOIDED: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct CachedName {
    /// The last addresses, in the order in which they are tried, and when they were looked up.
    good: Option<(Vec<SocketAddr>, Instant)>,
    /// Why the last lookup failed, and when.
    failed: Option<(LookupError, Instant)>,
    /// Addresses that accept connections and do nothing else, and until when they are avoided.
    avoided: Vec<(IpAddr, Instant)>,
}

/// What is to be done for the addresses of a name.
#[derive(Debug, PartialEq)]
pub(super) enum Known {
    Addresses(Vec<SocketAddr>),
    Failed(LookupError),
    /// A lookup is due. Until it succeeds, these addresses may be used.
    Due(Option<Vec<SocketAddr>>),
}

impl CachedName {
    pub(super) fn at(&self, now: Instant) -> Known {
        let usable = |limit: Duration| self.good.iter().find(|(_, since)| now < *since + limit).map(|(good, _)| good);
        if let Some(fresh) = usable(FRESH) {
            return Known::Addresses(fresh.clone());
        }
        let stale = usable(STALE).cloned();
        match (&self.failed, stale) {
            (Some((error, at)), stale) if now < *at + FAILED => {
                stale.map_or_else(|| Known::Failed(error.clone()), Known::Addresses)
            }
            (_, stale) => Known::Due(stale),
        }
    }

    /// Keeps the result of a lookup. A failure does not replace addresses.
    pub(super) fn keep(&mut self, result: Result<Vec<SocketAddr>, LookupError>, now: Instant) {
        match result {
            Ok(addresses) => {
                self.good = Some((addresses, now));
                self.failed = None;
            }
            Err(error) => self.failed = Some((error, now)),
        }
    }

    /// Tries `address` first until the next lookup (RFC 8305, section 4). No longer, because it may be one that accepts
    /// connections and does nothing else.
    pub(super) fn prefer(&mut self, address: IpAddr) {
        if let Some((good, _)) = &mut self.good
            && let Some(place) = good.iter().position(|known| known.ip() == address)
        {
            good[..=place].rotate_right(1);
        }
    }

    /// Tries `address` after the others for some time: it has accepted a connection that could not be used.
    pub(super) fn avoid(&mut self, address: IpAddr, now: Instant) {
        self.avoided.retain(|(known, until)| *known != address && now < *until);
        self.avoided.push((address, now + AVOIDED));
    }

    /// Moves the addresses that are avoided to the end, and counts the others.
    pub(super) fn order(&self, addresses: &mut [SocketAddr], now: Instant) -> usize {
        let is_avoided =
            |address: &SocketAddr| self.avoided.iter().any(|(avoided, until)| *avoided == address.ip() && now < *until);
        addresses.sort_by_key(is_avoided);
        addresses.iter().filter(|address| !is_avoided(address)).count()
    }

    /// Whether its last lookup has failed.
    pub(super) fn has_failed(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|(_, at)| now < *at + COMES_LAST)
    }

    /// Whether nothing of it would be used any more.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        self.at(now) == Known::Due(None) && !self.has_failed(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[u8]) -> Vec<SocketAddr> {
        hosts.iter().map(|host| SocketAddr::from(([192, 0, 2, *host], 0))).collect()
    }

    fn failure() -> LookupError {
        LookupError::Failed("x".into())
    }

    #[test]
    fn addresses_are_used_for_a_stated_time() {
        let (mut name, began) = (CachedName::default(), Instant::now());
        assert_eq!(name.at(began), Known::Due(None));
        name.keep(Ok(addresses(&[1])), began);
        let last = began + FRESH - Duration::from_nanos(1);
        assert_eq!(name.at(last), Known::Addresses(addresses(&[1])));
        assert_eq!(name.at(began + FRESH), Known::Due(Some(addresses(&[1]))));
        assert_eq!(name.at(began + STALE), Known::Due(None));
        assert!(!name.is_forgotten(began + FRESH) && name.is_forgotten(began + STALE));
    }

    #[test]
    fn a_failure_is_kept_shortly_and_does_not_replace_addresses() {
        let (mut name, began) = (CachedName::default(), Instant::now());
        name.keep(Err(failure()), began);
        assert_eq!(name.at(began), Known::Failed(failure()));
        assert_eq!(name.at(began + FAILED), Known::Due(None));
        let gone = LookupError::NoAddress("gone".into());
        for error in [failure(), gone] {
            let mut name = CachedName::default();
            name.keep(Ok(addresses(&[1])), began);
            let later = began + FRESH;
            name.keep(Err(error), later);
            assert_eq!(name.at(later), Known::Addresses(addresses(&[1])));
            assert_eq!(name.at(later + FAILED), Known::Due(Some(addresses(&[1]))));
            name.keep(Ok(addresses(&[2])), later + FAILED);
            assert_eq!(name.at(later + FAILED), Known::Addresses(addresses(&[2])));
        }
    }

    #[test]
    fn an_address_that_could_not_be_used_is_tried_last_for_some_time() {
        let (mut name, now) = (CachedName::default(), Instant::now());
        let order = |name: &CachedName, now| {
            let mut found = addresses(&[1, 2, 3]);
            (name.order(&mut found, now), found)
        };
        name.avoid(addresses(&[1])[0].ip(), now);
        // Whatever a lookup finds meanwhile.
        name.keep(Ok(addresses(&[1, 2, 3])), now);
        assert_eq!(order(&name, now), (2, addresses(&[2, 3, 1])));
        name.avoid(addresses(&[2])[0].ip(), now);
        assert_eq!(order(&name, now), (1, addresses(&[3, 1, 2])));
        assert_eq!(order(&name, now + AVOIDED), (3, addresses(&[1, 2, 3])));
    }

    #[test]
    fn the_address_that_worked_is_tried_first_until_the_next_lookup() {
        let (mut name, now) = (CachedName::default(), Instant::now());
        name.keep(Ok(addresses(&[1, 2, 3, 4])), now);
        let mut prefer = |host| {
            name.prefer(addresses(&[host])[0].ip());
            name.at(now)
        };
        assert_eq!(prefer(3), Known::Addresses(addresses(&[3, 1, 2, 4])));
        assert_eq!(prefer(1), Known::Addresses(addresses(&[1, 3, 2, 4])));
        assert_eq!(prefer(9), Known::Addresses(addresses(&[1, 3, 2, 4])), "the name does not have it");
        name.keep(Ok(addresses(&[1, 2, 3, 4])), now);
        assert_eq!(name.at(now), Known::Addresses(addresses(&[1, 2, 3, 4])));
    }
}
