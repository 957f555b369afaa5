//! One record per request: its metrics and its line in the exchange log.
//!
//! The path opens a [`Record`], fills it in and drops it. The drop counts the request and writes its
//! line, exactly once, however the request ended. So requests counted = lines written + lines counted
//! as dropped, beside those of fetches that the gateway begins itself. Secrets and personal data are masked before they reach the line.
//!
//! The room knows the closed lists of `outcome`, the names in the configuration, and how waits are measured, and no other
//! room. Recording never fails and never waits; only [`Record::await_log`] waits, and fails with
//! [`QueueFull`].

mod attempt;
mod cache_counts;
mod drift;
mod encode;
mod exchange;
mod facts;
mod handles;
mod id;
mod line;
mod mask;
mod metrics;
mod names;
mod program;
mod recorder;
mod shown;
#[cfg(test)]
mod tests;

pub use self::{
    attempt::AttemptTimer,
    cache_counts::{CacheTally, ServiceOperation},
    drift::{DriftTally, ResponseComparison},
    exchange::{ExchangeLog, LineAdmission, LogError, QueueFull},
    facts::{CapturedBody, RequestFacts},
    id::{InvalidRequestId, RequestId},
    mask::stored::RememberedRequest,
    mask::{LiveSecrets, MASKED, Masker},
    metrics::{
        BreakerStateInfo, ConnectionGuard, ConnectionState, CountedConnection, Handshake, Handshakes, KeyInfo, Metrics,
        OPENMETRICS_CONTENT_TYPE, SERIES_LIMIT, Scrape, TEXT_CONTENT_TYPE, UpstreamConnections,
    },
    names::{CacheResult, Names},
    program::{FlushAtExit, UNLIMITED, init_demo_log, init_program_log, print_message, report_panics},
    recorder::{Record, Recorder},
    shown::{RequestToShow, ShownRequest},
};
