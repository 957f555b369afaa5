//! The admin port: health, metrics, status, and commands of operators.
//!
//! Pages are built at request time from the snapshot in force and the live rooms. What always holds:
//! access is decided in one place, `guard`, before anything else is read, and by the configuration in
//! force at that moment; no secret appears in a response, because each is built from named fields; one
//! client can hold a connection, a response or a request body only for a bounded time (`server`). The path
//! must not know this room. It fails with small JSON objects, `{"error": {"code", "message"}}`.

mod audit;
mod backup;
mod cache_status;
mod commands;
pub(crate) mod config;
mod connections;
mod console;
mod degraded;
mod error;
mod guard;
mod health;
mod keys;
mod orders;
mod quota;
mod quota_count;
mod refused_requests;
mod scrape;
mod server;
mod status;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};

pub use self::{
    audit::{Audit, AuditError},
    server::{AdminListener, serve},
};
use crate::{
    edge::{Drain, connection_limit::ConnectionLimit, heartbeat::Heartbeat},
    gateway::Gateway,
    reconcile::Reconciler,
    store::Store,
    warm::Warmer,
};

/// Maximum size of a request body, in bytes. Real ones have about a hundred.
const MAX_BODY: usize = 64 * 1024;

/// What the admin port reports on and controls.
pub struct Admin {
    pub gateway: Arc<Gateway>,
    pub audit: Audit,
    pub drain: Drain,
    pub store: Store,
    /// The data addresses as bound.
    pub data: Vec<SocketAddr>,
    /// The admin address as bound. On an address other than loopback a token is required.
    pub address: SocketAddr,
    pub connections: Arc<ConnectionLimit>,
    /// Of the data threads.
    pub heartbeats: Vec<Heartbeat>,
    pub reconciler: Arc<Reconciler>,
    pub warmer: Arc<Warmer>,
}

/// State shared by all pages.
struct AdminState {
    admin: Admin,
    throttle: guard::TokenThrottle,
    texts: scrape::KeptTexts,
    started_at: SystemTime,
    started: Instant,
}

impl AdminState {
    fn new(admin: Admin) -> Self {
        AdminState {
            admin,
            throttle: guard::TokenThrottle::default(),
            texts: scrape::KeptTexts::default(),
            started_at: SystemTime::now(),
            started: Instant::now(),
        }
    }
}

/// All pages of the admin port. Requests carry the peer's address as [`axum::extract::ConnectInfo`].
pub fn router(admin: Admin) -> Router {
    let state = Arc::new(AdminState::new(admin));
    Router::new()
        .route("/", get(console::page))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(scrape::metrics))
        .route("/status", get(status::status))
        .route("/config", get(config::config))
        .route("/reload", post(commands::reload))
        .route("/cache/purge", post(commands::purge))
        .route("/cache/warm", post(commands::warm))
        .route("/state/backup", post(backup::backup))
        .route("/keys/rotate", post(keys::rotate))
        .route("/keys/verify", post(keys::verify))
        .route("/keys/revoke", post(keys::revoke))
        .route("/orders", get(orders::list))
        .route("/orders/{id}", get(orders::show))
        .route("/orders/settle", post(orders::settle))
        .route("/quota", get(quota::show).post(quota::set))
        .route("/quota/count", post(quota_count::set))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::not_allowed)
        .layer(from_fn_with_state(state.clone(), guard::check))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(error::limit_and_mark))
        .with_state(state)
}
