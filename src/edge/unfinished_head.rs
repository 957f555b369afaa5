//! The memory of a request head, or of a TLS handshake, that is not complete.
//!
//! hyper keeps what has come of it, and nobody knows yet whose it is: 10,000 connections with half a head each would take
//! 600 MB. So a head that is not small claims what it takes, in the share of those who are no service, or of the service
//! whose request the connection has carried, until it is complete (then `body::claim_head` goes on). Must not know what is
//! in it. Fails with [`MemoryExhausted`].

use std::sync::Arc;

use crate::{
    body::SMALL_HEAD,
    caller::IdentifiedService,
    config::Priority,
    memory::{MemoryClaim, MemoryExhausted, MemoryShare},
};

/// What h2 keeps of a head that has not ended, at most, in bytes: 32 KiB as RFC 9113, section 6.5.2, counts them, in its table.
const HTTP2_HEAD: usize = 48 * 1024;

#[derive(Debug)]
pub(super) struct UnfinishedHead {
    /// Of those who are no service.
    strangers: Arc<MemoryShare>,
    identified: IdentifiedService,
    /// What has come of the head in progress.
    bytes: usize,
    claim: Option<MemoryClaim>,
}

impl UnfinishedHead {
    /// On a connection that may have `identified` a service.
    pub(super) fn of(strangers: Arc<MemoryShare>, identified: IdentifiedService) -> Self {
        UnfinishedHead { strangers, identified, bytes: 0, claim: None }
    }

    /// Whether its connection has identified a service.
    pub(super) fn is_of_service(&self) -> bool {
        self.identified.get().is_some()
    }

    /// So many bytes have come, perhaps with its end and more.
    pub(super) fn came(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// What has come was not its end.
    pub(super) fn claim(&mut self) -> Result<(), MemoryExhausted> {
        // hyper's buffer doubles.
        if self.bytes > SMALL_HEAD { self.grow_to(self.bytes.next_power_of_two()) } else { Ok(()) }
    }

    /// The same over HTTP/2: one byte may be a whole field (RFC 7541, section 6.1), so it is taken for the longest one.
    pub(super) fn claim_longest(&mut self) -> Result<(), MemoryExhausted> {
        self.grow_to(HTTP2_HEAD)
    }

    fn grow_to(&mut self, size: usize) -> Result<(), MemoryExhausted> {
        let claim = self.claim.get_or_insert_with(|| match self.identified.get() {
            Some(service) => service.clone().begin(),
            None => self.strangers.allowance(Priority::High).begin(),
        });
        claim.grow_to(size)
    }

    /// It is complete, or there is none.
    pub(super) fn end(&mut self) {
        self.bytes = 0;
        self.claim = None;
    }
}
