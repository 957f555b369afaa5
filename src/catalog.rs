//! Services and operations of one configuration, compiled and immutable.
//!
//! Decides which operation a request is, and whether a service may use it. Services and operations are identified by
//! their index in the configuration, so that requests need no lookup by name. Knows no live state, and does no I/O.
//! Fails with [`NotServed`].

pub mod route;
pub mod target;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method};

use crate::config::{Api, CachePolicy, Class, Config};
use route::{Malformed, Routes};

/// A compiled row of the operation table.
#[derive(Debug)]
pub struct Operation {
    /// Index in [`Catalog::operations`].
    pub index: usize,
    /// Such as `v2.city`; `unlisted` for the last row.
    pub name: String,
    /// The name, shared with values that outlive the catalog.
    pub label: Arc<str>,
    /// Path pattern; empty for `unlisted`.
    pub path: String,
    pub class: Class,
    /// Selects the account's address and auth style; `None`: the account's own.
    pub api: Option<Api>,
    /// How long responses are stored; `None`: never.
    pub cache: Option<CachePolicy>,
    /// Maximum duration of one attempt.
    pub timeout: Duration,
    /// Units of the account's budget that one request takes.
    pub cost: u32,
    /// Whether requests come before others of their priority in the wait queue. Orders always do.
    pub urgent: bool,
    /// Request headers that are passed on and are part of the cache key.
    pub vary: Vec<HeaderName>,
}

impl Operation {
    /// Whether a request may safely be sent twice.
    pub fn repeatable(&self) -> bool {
        matches!(self.class, Class::Lookup | Class::Read | Class::Quote)
    }

    /// Whether the cache is asked for its responses, and its responses say what the cache did. A lookup without a policy
    /// bypasses it.
    pub fn asks_cache(&self) -> bool {
        self.cache.is_some() || self.class == Class::Lookup
    }

    /// The method of what is sent to Fastrac for a request with this one: what may be stored is whole.
    pub fn method_sent<'a>(&self, method: &'a Method) -> &'a Method {
        if self.cache.is_some() && *method == Method::HEAD { &Method::GET } else { method }
    }
}

/// The service may not call the operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{service} may not call {operation} (class {class}); its `allow` list in the gateway's configuration decides: \
     ask the gateway's operators"
)]
pub struct Forbidden {
    service: String,
    operation: String,
    class: &'static str,
}

/// Why a service's request is not served.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
}

/// A service, and which operations it may call.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    /// Index of its account in the configuration.
    pub account: usize,
    pub config: crate::config::ServiceConfig,
    /// Indexed by operation.
    allowed: Vec<bool>,
}

/// The compiled configuration.
#[derive(Debug)]
pub struct Catalog {
    /// The rows of the configuration, then `unlisted`.
    pub operations: Vec<Arc<Operation>>,
    /// In the order of the configuration.
    pub services: Vec<Service>,
    routes: Routes,
}

/// Maximum duration of an attempt of an unlisted request.
const UNLISTED_TIMEOUT: Duration = Duration::from_secs(30);

impl Catalog {
    /// Compiles a checked configuration.
    pub fn new(config: &Config) -> Self {
        let mut operations: Vec<_> = config
            .operations
            .iter()
            .enumerate()
            .map(|(index, row)| {
                Arc::new(Operation {
                    index,
                    name: row.name.clone(),
                    label: row.name.as_str().into(),
                    path: row.path.clone(),
                    class: row.class,
                    api: row.api,
                    cache: row.cache.clone(),
                    timeout: row.timeout,
                    cost: row.cost,
                    urgent: row.urgent,
                    vary: row.vary.iter().filter_map(|name| name.parse().ok()).collect(),
                })
            })
            .collect();
        operations.push(Arc::new(Operation {
            index: operations.len(),
            name: "unlisted".into(),
            label: "unlisted".into(),
            path: String::new(),
            class: Class::Unlisted,
            api: None,
            cache: None,
            timeout: UNLISTED_TIMEOUT,
            cost: 1,
            urgent: false,
            vary: Vec::new(),
        }));
        let services = config
            .services
            .iter()
            .map(|service| Service {
                name: service.name.clone(),
                account: service.account,
                config: service.clone(),
                allowed: operations
                    .iter()
                    .map(|o| service.allow_classes.contains(&o.class) || service.allow_operations.contains(&o.name))
                    .collect(),
            })
            .collect();
        Catalog { operations, services, routes: Routes::new(&config.operations) }
    }

    /// Whether a service may place orders.
    pub fn may_order(&self, service: usize) -> bool {
        self.allowed(service).any(|operation| operation.class == Class::Order)
    }

    /// Units of the budget that a request of a service costs at most.
    pub fn highest_cost(&self, service: usize) -> u64 {
        self.allowed(service).map(|operation| u64::from(operation.cost)).max().unwrap_or(0)
    }

    fn allowed(&self, service: usize) -> impl Iterator<Item = &Operation> {
        let allowed = self.operations.iter().zip(&self.services[service].allowed);
        allowed.filter(|(_, allowed)| **allowed).map(|(operation, _)| operation.as_ref())
    }

    /// The operation of a request.
    ///
    /// # Errors
    /// [`Malformed`] for a path that another server might interpret differently.
    pub fn classify(&self, method: &Method, path: &str) -> Result<&Arc<Operation>, Malformed> {
        let index = self.routes.find(method, path)?.unwrap_or(self.operations.len() - 1);
        Ok(&self.operations[index])
    }

    /// Whether a service may use an operation.
    ///
    /// # Errors
    /// [`Forbidden`], which names both.
    pub fn permit(&self, service: usize, operation: &Operation) -> Result<(), Forbidden> {
        let service = &self.services[service];
        if service.allowed[operation.index] {
            return Ok(());
        }
        let class = operation.class.as_str();
        Err(Forbidden { service: service.name.clone(), operation: operation.name.clone(), class })
    }
}
