//! The admin port: health, metrics, status, and what operators may ask for.
//!
//! Everything is read when it is asked for, from the snapshot in force and the live rooms. What
//! always holds: who may ask is decided in one place, `guard`, before anything is looked up or
//! read, by the configuration in force at that moment; nothing secret stands in an answer, because
//! every answer is built from named fields; one client can hold a seat, an answer or a body only for
//! a bounded time (`server`). It must not be seen by the path, and never serves the data port. It
//! fails with small JSON objects, `{"error": {"code", "message"}}`.

mod answer;
mod commands;
mod console;
mod effective;
mod guard;
mod health;
mod keys;
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

pub use self::server::serve;
use crate::{edge::Drain, gateway::Gateway, store::Store};

/// Longest body of a request: the longest sensible one has a hundred bytes.
const BODY: usize = 64 * 1024;

/// What the admin port speaks for.
pub struct Admin {
    /// What runs.
    pub gateway: Arc<Gateway>,
    /// How far the end has come.
    pub drain: Drain,
    /// The state store, open.
    pub store: Store,
    /// Where services call, as bound.
    pub data: Vec<SocketAddr>,
    /// Where operators call, as bound: on any other than a loopback address a token is asked for.
    pub address: SocketAddr,
}

/// What every answer is made from.
struct Desk {
    admin: Admin,
    guesses: guard::Guesses,
    began: SystemTime,
    clock: Instant,
}

/// Every page of the admin port. Peers' addresses come in as [`axum::extract::ConnectInfo`].
pub fn router(admin: Admin) -> Router {
    let guesses = guard::Guesses::default();
    let desk = Arc::new(Desk { admin, guesses, began: SystemTime::now(), clock: Instant::now() });
    Router::new()
        .route("/", get(console::page))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(scrape::metrics))
        .route("/status", get(status::status))
        .route("/config", get(effective::config))
        .route("/reload", post(commands::reload))
        .route("/cache/purge", post(commands::purge))
        .route("/keys/rotate", post(keys::rotate))
        .route("/keys/verify", post(keys::verify))
        .route("/keys/revoke", post(keys::revoke))
        .fallback(answer::not_found)
        .method_not_allowed_fallback(answer::not_allowed)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(desk.clone(), guard::check))
        .layer(from_fn(answer::frame))
        .with_state(desk)
}
