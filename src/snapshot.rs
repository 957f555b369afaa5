//! What a request finds standing: one immutable picture of the configuration, beside live state.
//!
//! A reload builds a new [`Snapshot`] and swaps it in; requests under way end on the one that they
//! began with. Quotas, budgets, keys, cache and breakers are live: the new snapshot points at the
//! same ones, so nothing is counted anew. Holds no logic.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::{
    admission::{Budget, Quota},
    attempts::Shared,
    cache::{Cache, Flights},
    caller::Callers,
    catalog::Catalog,
    config::{Api, LimitsConfig, MessagesConfig},
    keys::Keys,
    orders::Orders,
    record::Recorder,
    upstream::{Pool, breaker::Breaker, inject::Route},
};

/// One configuration, compiled, and the live state that it names.
pub struct Snapshot {
    /// Bounds on what one caller can take.
    pub limits: LimitsConfig,
    /// Who asks.
    pub callers: Callers,
    /// Services and operations.
    pub catalog: Catalog,
    /// By index of service.
    pub quotas: Vec<Arc<Quota>>,
    /// By index of account.
    pub accounts: Vec<Arc<Account>>,
    /// Stored answers.
    pub cache: Cache,
    /// Answers on their way.
    pub flights: Arc<Flights<Shared>>,
    /// What became of orders.
    pub orders: Orders,
    /// Where records go.
    pub recorder: Arc<Recorder>,
    /// Tasks that `drain` waits for.
    pub tasks: TaskTracker,
}

/// A Fastrac account.
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: usize,
    /// Where operations of neither version go.
    pub base: Route,
    /// Where `v1` operations go.
    pub v1: Route,
    /// Where `v2` operations go.
    pub v2: Route,
    /// Its key pairs.
    pub keys: Arc<Keys>,
    /// What may be asked of Fastrac.
    pub budget: Arc<Budget>,
    /// Whether Fastrac is well enough.
    pub breaker: Arc<Breaker>,
    /// What Fastrac's messages mean.
    pub messages: MessagesConfig,
    /// Name of the operation that proves a new pair.
    pub verify: String,
    /// Whether an order refused with 401 is sent again with the newer pair.
    pub resend_orders: bool,
}

impl Account {
    /// Where operations of an API version go.
    pub fn route(&self, api: Option<Api>) -> &Route {
        match api {
            None => &self.base,
            Some(Api::V1) => &self.v1,
            Some(Api::V2) => &self.v2,
        }
    }
}

/// What one data thread has for itself.
#[derive(Default)]
pub struct Worker {
    /// Its connections to Fastrac.
    pub pool: Pool,
}
