//! The metric families, in one registry.
//!
//! Names, labels and help texts are only in `families`. Label values come from the configuration and
//! from closed lists, never from a request. A series appears when it is first used. Handles are
//! resolved once and kept by their users. Of families with the label `service`, label sets beyond [`SERIES_LIMIT`] are
//! folded into `overflow`, so sums stay correct; no other family is. Gauges whose values belong to other rooms
//! are set by a [`Scrape`], which starts empty. Metrics know no requests, and never fail once
//! created.

mod connections;
mod families;
mod openmetrics;
mod registry;
mod scrape;
#[cfg(test)]
mod tests;

pub(super) use self::registry::{DurationHandles, UpstreamHandles};
pub use self::{
    connections::{ConnectionGuard, ConnectionState, CountedConnection, Handshake, Handshakes, UpstreamConnections},
    openmetrics::CONTENT_TYPE as OPENMETRICS_CONTENT_TYPE,
    registry::{Metrics, SERIES_LIMIT, TEXT_CONTENT_TYPE},
    scrape::{BreakerStateInfo, KeyInfo, Scrape},
};
