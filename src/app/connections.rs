//! How many client connections the process may have open: as many as its file descriptors and its memory allow.
//!
//! What always holds: the rest of the descriptors is reserved for the admin port, the state store, the logs, the key sources,
//! the connections to Fastrac and client connections that make room for others, so that no number of client connections
//! stops a health check; and connections that do nothing take a quarter of `limits.memory` at most, so that no number of them
//! takes the process its memory. Never fails: what the system refuses is left as it is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{config::Config, edge::connection_limit};

/// Descriptors of the process beside connections: the admin port's 64 connections, as many refused ones, listening
/// sockets, event queues, the store, the logs, and files and name lookups while they are open.
const OWN: u64 = 256;

/// Memory of an idle connection, bytes: about what one of HTTP/1.1 takes; one of HTTP/2 takes 10 KiB more.
const IDLE: usize = 16 * 1024;
/// The same over TLS.
const IDLE_OVER_TLS: usize = 40 * 1024;
/// As many may always be open: they take no more than the process itself.
const FEWEST: usize = 1024;

/// Raises the number of files that the process may open as far as it is allowed, and returns it.
pub(super) fn raise_open_files() -> u64 {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        // Refused only where "unlimited" is more than the system allows.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of client connections that may be open at a time: `limits.connections`, or what the process has room for, if
/// it may open `files`.
pub(super) fn allowed(config: &Config, files: u64) -> usize {
    let wanted = config.limits.connections;
    let in_flight = config.accounts.iter().map(|account| account.budget.in_flight as u64).sum::<u64>();
    // As many idle ones again, which may not have been closed yet.
    let fastrac = (2 * in_flight).min(files / 2);
    let left = files.saturating_sub(OWN + fastrac).max(files / 4);
    let by_files = connection_limit::allowed_of(usize::try_from(left).unwrap_or(usize::MAX));
    if by_files < wanted {
        tracing::warn!(
            files,
            connections = by_files,
            "limits.connections is lowered, because the process may not open more files: raise its limit (ulimit -n, \
             LimitNOFILE=) to {}",
            connection_limit::most_open(wanted) as u64 + OWN + 2 * in_flight,
        );
    }
    let each = if config.listen.tls.is_some() { IDLE_OVER_TLS } else { IDLE };
    let by_memory = connection_limit::allowed_of(config.limits.memory / 4 / each).max(FEWEST);
    if by_memory < wanted {
        // No fault: the default is meant for more memory than a small process has.
        tracing::info!(
            connections = by_memory,
            "limits.connections is lowered, because idle connections of {} KiB could take more than a quarter of \
             limits.memory: raise it to {} MiB",
            each / 1024,
            (connection_limit::most_open(wanted) * each * 4).div_ceil(1024 * 1024),
        );
    }
    wanted.min(by_files).min(by_memory)
}
