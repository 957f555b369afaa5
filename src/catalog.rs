//! Services, accounts and operations of one configuration, compiled and immutable.
//!
//! Everything is known by its index in the configuration, so the path looks nothing up by name.
//! Answers which operation a request is and whether a service may use it; knows no live state.

pub mod route;
pub mod target;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method};

use crate::config::{Api, CachePolicy, Class, Config};
use route::{Malformed, Routes};

/// A compiled row of the operation table.
#[derive(Debug)]
pub struct Operation {
    /// Its index: the place in [`Catalog::operations`].
    pub index: usize,
    /// Its name, such as `v2.city`; `unlisted` for the last row.
    pub name: String,
    /// The name again, for what outlives the catalog.
    pub label: Arc<str>,
    /// Its path pattern; empty for `unlisted`.
    pub path: String,
    /// How it is handled.
    pub class: Class,
    /// Which address and auth style.
    pub api: Option<Api>,
    /// How long answers are stored, if they are.
    pub cache: Option<CachePolicy>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// What it takes out of the account's budget.
    pub cost: u32,
    /// Request headers that may vary its answer.
    pub vary: Vec<HeaderName>,
}

impl Operation {
    /// Whether asking again does no harm.
    pub fn repeatable(&self) -> bool {
        matches!(self.class, Class::Lookup | Class::Read | Class::Quote)
    }
}

/// The service may not call the operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{service} may not call {operation} (class {class}); its `allow` list in the gateway's configuration decides")]
pub struct Forbidden {
    service: String,
    operation: String,
    class: &'static str,
}

/// Why a request is no operation of this service's.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    /// The path could mean two things.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The service may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
}

/// A service, as far as the catalog goes.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Index of its account.
    pub account: usize,
    /// Its settings.
    pub config: crate::config::ServiceConfig,
    /// By index of operation.
    allowed: Vec<bool>,
}

/// The compiled configuration.
#[derive(Debug)]
pub struct Catalog {
    /// By index; the last row is `unlisted`.
    pub operations: Vec<Arc<Operation>>,
    /// By index.
    pub services: Vec<Service>,
    routes: Routes,
}

/// How long one attempt of an unlisted request may take.
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

    /// Which operation a request is.
    ///
    /// # Errors
    /// [`Malformed`] for a path that another server might read otherwise.
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
