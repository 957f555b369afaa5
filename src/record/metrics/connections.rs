//! Gauges of open connections: each holds a guard, so a connection that ends however it ends is taken off.
//! And how connections began, where they began with TLS.

use prometheus::{IntCounterVec, IntGauge};

use super::Metrics;

/// An open connection of a caller. Dropping it takes it off.
#[derive(Debug)]
#[must_use = "hold it as long as the connection"]
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
    /// It carries a request.
    Active,
    /// It waits in the pool.
    Idle,
}

/// Counts an account's connections to Fastrac. Cheap to clone; resolve once for each pool.
#[derive(Clone, Debug)]
pub struct UpstreamConnections {
    active: IntGauge,
    idle: IntGauge,
}

impl UpstreamConnections {
    /// A connection was opened, for a request.
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

/// An open connection to Fastrac. Dropping it takes it off.
#[derive(Debug)]
#[must_use = "hold it as long as the connection"]
pub struct CountedConnection {
    gauges: UpstreamConnections,
    state: ConnectionState,
}

impl CountedConnection {
    /// It does something else from now on.
    pub fn becomes(&mut self, state: ConnectionState) {
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

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Well.
    Ok,
    /// Not: the peers did not agree, or the client left.
    Failed,
    /// Not in time.
    Timeout,
    /// The client spoke HTTP in the clear.
    Cleartext,
}

impl Handshake {
    fn as_str(self) -> &'static str {
        match self {
            Handshake::Ok => "ok",
            Handshake::Failed => "failed",
            Handshake::Timeout => "timeout",
            Handshake::Cleartext => "cleartext",
        }
    }
}

/// Counts a listener's handshakes. Each costs a signature, so the look-up of its series is nothing.
#[derive(Clone, Debug)]
pub struct Handshakes {
    family: IntCounterVec,
    listener: &'static str,
}

impl Handshakes {
    /// One ended.
    pub fn count(&self, handshake: Handshake) {
        self.family.with_label_values(&[self.listener, handshake.as_str()]).inc();
    }
}

impl Metrics {
    /// `tls_handshakes_total` of a listener (`data`, `admin`).
    pub fn handshakes(&self, listener: &'static str) -> Handshakes {
        Handshakes { family: self.families.tls_handshakes.clone(), listener }
    }

    /// A caller connected.
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
