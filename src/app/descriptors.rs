//! File descriptors: how many the process may open, and how many of them client connections may use.
//!
//! What always holds: the rest is reserved for the admin port, the state store, the logs, the key sources, the
//! connections to Fastrac and client connections that make room for others, so that no number of client connections stops a
//! health check. Never fails: what the system refuses is left as it is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{config::Config, edge::connection_limit};

/// Descriptors of the process beside connections: the admin port's 64 connections, as many refused ones, listening
/// sockets, event queues, the store, the logs, and files and name lookups while they are open.
const OWN: u64 = 256;

/// Raises the number of files that the process may open as far as it is allowed, and returns it.
pub(super) fn raise_limit() -> u64 {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        // Refused only where "unlimited" is more than the system allows.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of client connections that may be open at a time, if the process may open `files`.
pub(super) fn connections(config: &Config, files: u64) -> usize {
    let in_flight = config.accounts.iter().map(|account| account.budget.in_flight as u64).sum::<u64>();
    // As many idle ones again, which may not have been closed yet.
    let fastrac = (2 * in_flight).min(files / 2);
    let left = files.saturating_sub(OWN + fastrac).max(files / 4);
    let open = usize::try_from(left).unwrap_or(usize::MAX);
    let allowed = connection_limit::allowed_of(open).min(config.limits.connections);
    if allowed < config.limits.connections {
        tracing::warn!(
            files,
            connections = allowed,
            "limits.connections is lowered, because the process may not open more files: raise its limit (ulimit -n, \
             LimitNOFILE=) to {}",
            connection_limit::most_open(config.limits.connections) as u64 + OWN + 2 * in_flight,
        );
    }
    allowed
}
