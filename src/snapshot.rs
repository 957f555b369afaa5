//! What a request works with: one immutable compiled configuration, beside live state.
//!
//! A reload builds a new [`Snapshot`] and swaps it in; a request ends with the one that it began with. What always
//! holds: quotas, budgets, keys, cache, refreshes and the in-flight count are live and shared, so that a new snapshot
//! refers to the same ones and nothing is counted anew; so are breakers and retry budgets, as long as the account is
//! called at the same addresses ([`AddressState`]). Must not know requests. Never fails, except as `address` says.

mod address;

use std::sync::Arc;

use http::HeaderMap;
use rustls::RootCertStore;
use tokio_util::task::TaskTracker;

use crate::{
    admission::{Budget, BudgetMember, Quota},
    body::BufferedRequest,
    cache::{Cache, Flights, Key, KeyParts, KeyRequest, RefreshQueue, key},
    caller::Callers,
    catalog::{Catalog, Operation},
    config::{Api, Class, LimitsConfig, MessagesConfig},
    fetched::SharedFetch,
    keys::{Keys, SourceId, Vault},
    memory::{Memory, MemoryAllowance, MemoryShares},
    orders::Orders,
    record::{Recorder, RememberedRequest},
    spending::Spenders,
    upstream::{Pool, inject::Route},
};
pub use address::AddressState;

/// One compiled configuration and the live state that belongs to it.
pub struct Snapshot {
    pub limits: LimitsConfig,
    /// Bytes that requests and responses may take, of the whole process.
    pub memory: Arc<Memory>,
    pub memory_shares: MemoryShares,
    pub callers: Callers,
    pub catalog: Catalog,
    /// By index of service.
    pub quotas: Vec<Arc<Quota>>,
    /// By index of service: its part in its account's budget.
    pub members: Vec<BudgetMember>,
    /// By index of account.
    pub accounts: Vec<Arc<Account>>,
    /// The vault that key pairs are read from.
    pub vault: Option<Arc<Vault>>,
    pub cache: Cache,
    pub flights: Arc<Flights<SharedFetch>>,
    pub orders: Orders,
    pub recorder: Arc<Recorder>,
    /// Who spends the accounts' budgets.
    pub spenders: Spenders,
    /// Orders and fills in progress; `drain` waits for them.
    pub tasks: TaskTracker,
}

impl Snapshot {
    /// What the requests of a service may claim of the memory.
    pub(crate) fn memory_for(&self, service: usize) -> MemoryAllowance {
        let priority = self.catalog.services[service].config.priority;
        self.memory_shares.of(Some(service)).allowance(priority)
    }

    /// Whether a key has a credential of the request that it is made of, which came with these headers.
    pub(crate) fn key_holds_credential(&self, headers: &HeaderMap, key: &Key) -> bool {
        let Some(request) = key.request() else { return false };
        let remembered = RememberedRequest { target: &request.target, body: &request.body, headers: &request.headers };
        self.recorder.request_holds_credential(headers, &remembered)
    }

    /// The operation of the request that a key was made of, if it would get the same key now: from the same account at the
    /// same address.
    pub(crate) fn operation_of(&self, key: &Key) -> Option<&Operation> {
        let KeyRequest { account, service, method, target, headers, body, .. } = key.request()?;
        let operation = self.catalog.classify(&method, target.path()).ok()?;
        let account = self.accounts.iter().find(|it| it.name == account)?;
        let is_known = |name: &str| self.catalog.services.iter().any(|service| service.name == name);
        let service = service.filter(|name| is_known(name));
        let today = account.cache_key(operation, service, &BufferedRequest { method, target, headers, body });
        let is_shared = operation.class == Class::Lookup;
        (today.as_ref() == Some(key) && is_shared == service.is_none()).then_some(operation.as_ref())
    }
}

/// A Fastrac account.
pub struct Account {
    pub name: String,
    /// In [`Snapshot::accounts`].
    pub index: usize,
    /// For operations without an API version.
    pub base: Route,
    pub v1: Route,
    pub v2: Route,
    /// They verify Fastrac's certificates; `None`: no address is `https://`.
    pub authorities: Option<Arc<RootCertStore>>,
    /// Of these three.
    pub address: Arc<AddressState>,
    pub keys: Arc<Keys>,
    /// Where its pairs are read.
    pub(crate) source: SourceId,
    pub budget: Arc<Budget>,
    /// Stored responses that are to be fetched again.
    pub refreshes: Arc<RefreshQueue>,
    /// How Fastrac's messages are classified.
    pub messages: MessagesConfig,
    /// Name of the operation that verifies a new key pair.
    pub verify: String,
    /// An order refused with 401 is sent again with a newer pair.
    pub resend_orders: bool,
}

impl Account {
    /// The cache key of a request. `service`: its caller; not part of the key where all services share responses. `None`: it
    /// has none (see [`Key::new`]).
    pub(crate) fn cache_key(
        &self,
        operation: &Operation,
        service: Option<&str>,
        request: &BufferedRequest,
    ) -> Option<Key> {
        Key::new(KeyParts {
            account: &self.name,
            address: &self.route(operation.api).url,
            operation: &operation.name,
            service: service.filter(|_| operation.class != Class::Lookup),
            method: key::method(&request.method),
            path: request.target.path(),
            query: request.target.query(),
            vary: &key::vary(&request.headers, &operation.vary),
            body: &request.body,
        })
    }

    /// The route for operations of an API version.
    pub fn route(&self, api: Option<Api>) -> &Route {
        match api {
            None => &self.base,
            Some(Api::V1) => &self.v1,
            Some(Api::V2) => &self.v2,
        }
    }
}

/// State of one data thread.
#[derive(Default)]
pub struct Worker {
    /// Connections to Fastrac.
    pub pool: Pool,
}
