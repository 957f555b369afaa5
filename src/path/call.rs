//! A request that is understood: who calls, which operation, and until when.

use std::sync::Arc;

use super::Exchange;
use crate::{
    admission::{DayReservation, Quota},
    body::BufferedRequest,
    catalog::Operation,
    config::{self, Class, Priority},
    deadline::Deadline,
    keys::Lease,
    orders::applies_to,
    record::RequestId,
    refusal::Refusal,
    snapshot::{Account, Snapshot, Worker},
};

/// What is to be asked of Fastrac, for a caller or for the gateway itself.
pub struct UpstreamCall {
    pub snapshot: Arc<Snapshot>,
    /// The data thread whose connections are used.
    pub worker: Arc<Worker>,
    pub account: Arc<Account>,
    pub operation: Arc<Operation>,
    pub request: BufferedRequest,
    /// When the response must be complete.
    pub deadline: Deadline,
    /// Decides who waits when the account's budget is short.
    pub priority: Priority,
}

impl UpstreamCall {
    /// Whether it must never be executed twice: an order, or an unlisted request with an unsafe method.
    pub(super) fn moves_money(&self) -> bool {
        applies_to(self.operation.class, &self.request.method)
    }

    /// Whether the response must be read whole and checked before anything of it is passed on: it may be stored, or
    /// it decides what became of an order.
    pub(super) fn needs_whole_answer(&self) -> bool {
        matches!(self.operation.class, Class::Order | Class::Unlisted) || self.operation.cache.is_some()
    }

    /// Step 8: the account's current key pair. No I/O.
    pub(super) fn lease(&self) -> Result<Lease, Refusal> {
        Ok(self.account.keys.lease()?)
    }
}

/// A service, and the operation that it may call.
pub(super) struct Permitted {
    /// Index of the service.
    pub(super) service: usize,
    pub(super) operation: Arc<Operation>,
}

/// The request of a service.
pub(super) struct Call {
    pub(super) upstream: UpstreamCall,
    /// Index of the service.
    service: usize,
    pub(super) request_id: RequestId,
}

impl Call {
    /// On the heap: it is large and moves into tasks.
    pub(super) fn new(
        x: &Exchange,
        Permitted { service, operation }: Permitted,
        request: BufferedRequest,
        deadline: Deadline,
    ) -> Box<Self> {
        let snapshot = x.snapshot.clone();
        let config = &snapshot.catalog.services[service].config;
        let (account, priority) = (snapshot.accounts[config.account].clone(), config.priority);
        let worker = x.worker.clone();
        let upstream = UpstreamCall { snapshot, worker, account, operation, request, deadline, priority };
        Box::new(Call { upstream, service, request_id: x.request_id.clone() })
    }

    /// The service's configuration.
    pub(super) fn service(&self) -> &config::ServiceConfig {
        &self.upstream.snapshot.catalog.services[self.service].config
    }

    fn quota(&self) -> &Arc<Quota> {
        &self.upstream.snapshot.quotas[self.service]
    }

    /// Step 5: takes from the service's quota of the second, unless that is done after the cache lookup.
    pub(super) fn take_rate_before_lookup(&self) -> Result<(), Refusal> {
        if self.charges_hits() { self.take_rate() } else { Ok(()) }
    }

    /// Step 5 of a cached operation whose hits are not charged (`charge_hits`).
    pub(super) fn take_rate_after_lookup(&self) -> Result<(), Refusal> {
        if self.charges_hits() { Ok(()) } else { self.take_rate() }
    }

    fn charges_hits(&self) -> bool {
        self.upstream.operation.cache.is_none() || self.service().charge_hits_second
    }

    fn take_rate(&self) -> Result<(), Refusal> {
        self.quota().take_second().map_err(|exceeded| Refusal::over_quota(&exceeded, &self.service().name))
    }

    /// Step 7: reserves one unit of the service's day; it goes back unless it is used.
    pub(super) fn reserve_day(&self) -> Result<DayReservation, Refusal> {
        self.quota().reserve_day().map_err(|exceeded| Refusal::over_quota(&exceeded, &self.service().name))
    }

    /// Charges a hit or a shared response to the service's day, where those count (`charge_hits`).
    pub(super) fn charge_hit(&self) -> Result<(), Refusal> {
        if self.service().charge_hits_day {
            self.reserve_day()?.keep();
        }
        Ok(())
    }
}
