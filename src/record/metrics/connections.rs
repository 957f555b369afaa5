//! Gauges of open connections, and counts of TLS handshakes.
//!
//! Always holds: each connection has a guard whose drop takes it off its gauge. Never fails.

use prometheus::{IntCounterVec, IntGauge};

use super::registry::Metrics;

/// Counts an open connection of a caller until it is dropped.
#[derive(Debug)]
#[must_use = "keep it as long as the connection"]
pub struct ConnectionGuard {
    gauge: IntGauge,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// What a connection to Fastrac is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// In use by a request.
    Active,
    /// In the pool.
    Idle,
}

/// Counts an account's connections to Fastrac. Cheap to clone; resolve it once per pool.
#[derive(Clone, Debug)]
pub struct UpstreamConnections {
    active: IntGauge,
    idle: IntGauge,
}

impl UpstreamConnections {
    /// Counts a connection that was opened for a request.
    pub fn opened(&self) -> CountedConnection {
        self.active.inc();
        CountedConnection { gauges: self.clone(), state: ConnectionState::Active }
    }

    fn gauge(&self, state: ConnectionState) -> &IntGauge {
        match state {
            ConnectionState::Active => &self.active,
            ConnectionState::Idle => &self.idle,
        }
    }
}

/// Counts an open connection to Fastrac until it is dropped.
#[derive(Debug)]
#[must_use = "keep it as long as the connection"]
pub struct CountedConnection {
    gauges: UpstreamConnections,
    state: ConnectionState,
}

impl CountedConnection {
    /// Changes its state.
    pub fn set_state(&mut self, state: ConnectionState) {
        if state != self.state {
            self.gauges.gauge(self.state).dec();
            self.gauges.gauge(state).inc();
            self.state = state;
        }
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.gauges.gauge(self.state).dec();
    }
}

/// Result of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Handshake {
    /// Completed.
    Ok,
    /// The peers did not agree, or the client disconnected.
    Failed,
    /// Not completed in time.
    Timeout,
    /// The client sent cleartext HTTP.
    Cleartext,
}

/// Counts a listener's handshakes. Looking up the series each time is negligible beside a signature.
#[derive(Clone, Debug)]
pub struct Handshakes {
    family: IntCounterVec,
    listener: &'static str,
}

impl Handshakes {
    /// Counts a handshake that ended.
    pub fn count(&self, handshake: Handshake) {
        self.family.with_label_values(&[self.listener, handshake.into()]).inc();
    }
}

impl Metrics {
    /// `tls_handshakes_total` of a listener (`data`, `admin`).
    pub fn handshakes(&self, listener: &'static str) -> Handshakes {
        Handshakes { family: self.families.tls_handshakes.clone(), listener }
    }

    /// Counts a connection of a caller.
    pub fn client_connection(&self) -> ConnectionGuard {
        let gauge = self.families.client_connections.with_label_values::<&str>(&[]);
        gauge.inc();
        ConnectionGuard { gauge }
    }

    /// Resolves `upstream_connections` of an account.
    pub fn upstream_connections(&self, account: &str) -> UpstreamConnections {
        let gauge = |state| self.families.upstream_connections.with_label_values(&[account, state]);
        UpstreamConnections { active: gauge("active"), idle: gauge("idle") }
    }
}
