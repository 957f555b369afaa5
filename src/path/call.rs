//! A request that is known: who asks, what, and by when.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::Exchange;
use crate::{
    admission::{DayReservation, Quota},
    body::Asked,
    catalog::Operation,
    config::{self, Priority},
    keys::Lease,
    orders::applies_to,
    refusal::Refusal,
    snapshot::{Account, Snapshot, Worker},
};

/// What is to be asked of Fastrac, whoever wants to know.
pub struct UpstreamCall {
    /// What it finds standing.
    pub snapshot: Arc<Snapshot>,
    /// The thread that runs it.
    pub worker: Arc<Worker>,
    /// The account that is asked.
    pub account: Arc<Account>,
    /// What it is.
    pub operation: Arc<Operation>,
    /// The request itself.
    pub asked: Asked,
    /// When it must be over.
    pub deadline: Instant,
    /// Who waits when the budget is short.
    pub priority: Priority,
}

impl UpstreamCall {
    /// Whether it must never be sent twice.
    pub fn moves_money(&self) -> bool {
        applies_to(self.operation.class, &self.asked.method)
    }

    /// Step 8: the account's current pair. No I/O.
    pub(super) fn lease(&self) -> Result<Lease, Refusal> {
        Ok(self.account.keys.lease()?)
    }
}

/// A service's request.
pub struct Call {
    /// What it wants to know.
    pub upstream_call: UpstreamCall,
    /// Index of the service.
    service: usize,
    /// Its id.
    pub request_id: HeaderValue,
}

impl Call {
    /// On the heap, because it is large and goes through many hands.
    pub(super) fn new(
        x: &Exchange,
        (service, operation): (usize, Arc<Operation>),
        asked: Asked,
        deadline: Instant,
    ) -> Box<Self> {
        let request_id = x.record.as_ref().map_or(HeaderValue::from_static("-"), |r| r.id.header());
        let snapshot = x.snapshot().clone();
        let config = &snapshot.catalog.services[service].config;
        let (account, priority) = (snapshot.accounts[config.account].clone(), config.priority);
        let worker = x.worker.clone();
        let upstream_call = UpstreamCall { snapshot, worker, account, operation, asked, deadline, priority };
        Box::new(Call { upstream_call, service, request_id })
    }

    /// The service's settings.
    pub fn service(&self) -> &config::ServiceConfig {
        &self.upstream_call.snapshot.catalog.services[self.service].config
    }

    fn quota(&self) -> &Arc<Quota> {
        &self.upstream_call.snapshot.quotas[self.service]
    }

    /// Step 5 where hits and joined calls count.
    pub(super) fn rate_of_all(&self) -> Result<(), Refusal> {
        if self.upstream_call.operation.cache.is_none() || self.service().charge_hits_second {
            self.rate()
        } else {
            Ok(())
        }
    }

    /// Step 5 where only what is asked counts.
    pub(super) fn rate_of_asked(&self) -> Result<(), Refusal> {
        if self.upstream_call.operation.cache.is_none() || self.service().charge_hits_second {
            Ok(())
        } else {
            self.rate()
        }
    }

    fn rate(&self) -> Result<(), Refusal> {
        self.quota().take_second().map_err(|exceeded| Refusal::over_quota(&exceeded, &self.service().name))
    }

    /// Step 7: one of the service's day, given back unless it is used.
    pub(super) fn day(&self) -> Result<DayReservation, Refusal> {
        self.quota().reserve_day().map_err(|exceeded| Refusal::over_quota(&exceeded, &self.service().name))
    }
}
