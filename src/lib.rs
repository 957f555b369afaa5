//! fastrac-gateway: one safe way from many internal services to the Fastrac B2B API.
//!
//! Services point their base URL here. The gateway proves who calls, enforces each service's quota
//! and the account's budget, answers slow-changing lookups from a cache, puts the account's key
//! pair in, never sends an order twice, and writes one record of every request.
//!
//! # Layout
//!
//! A request goes down one straight function, [`path`], through the rooms in this order:
//!
//! | room | question it answers |
//! | --- | --- |
//! | [`edge`] | how bytes become requests, how connections are bounded and drained |
//! | [`caller`] | who asks |
//! | [`catalog`] | which operation is it, and may this service use it |
//! | [`body`] | the request's bytes in, the answer's bytes out |
//! | [`orders`] | was this order sent before, and how did that end |
//! | [`admission`] | may this service do this now; may this account be asked now |
//! | [`cache`] | is the answer known already, or on its way |
//! | [`keys`] | which key pair signs it |
//! | [`upstream`] | how it is sent to Fastrac, and how the answer comes back |
//! | [`outcome`] | what the answer means |
//! | [`refusal`] | what the gateway says when it answers itself |
//! | [`record`] | what is counted and written of it |
//!
//! Around them: [`config`] (the file, checked), [`files`] (reading files that others change),
//! [`inspect`] (`check` of the files that a configuration names), [`store`] (what survives a restart), [`admin`]
//! (health, metrics, status), [`cli`] (one file a command), and
//! [`app`], which wires everything and is the only one that sees most rooms. Between rooms stand
//! [`gateway`] and [`snapshot`] (the configuration in force, beside what lives longer), [`reply`]
//! (the response to a caller), [`attempts`] (what the attempts to send a request came to), [`fetched`] (the
//! result of a shared fetch) and [`deadline`] (when a wait ends). [`headers`] says which headers are never passed
//! on, in either direction, and [`retry_after`] how a wait becomes whole seconds.
//! Tasks that stand above two rooms have files of their own: [`rotation`]. [`deferred_write`] decides when streams
//! write; [`backoff`] gives waits that double.
//!
//! Imports run down only; there are no circles. `tests/gateway/layout.rs` holds that.

pub mod admin;
pub mod admission;
pub mod app;
pub mod attempts;
pub mod backoff;
pub mod body;
pub mod cache;
pub mod caller;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod deferred_write;
pub mod edge;
pub mod fetched;
pub mod files;
pub mod gateway;
pub mod headers;
pub mod inspect;
pub mod keys;
pub mod orders;
pub mod outcome;
pub mod path;
pub mod record;
pub mod refusal;
pub mod reply;
pub mod retry_after;
pub mod rotation;
pub mod snapshot;
pub mod store;
pub mod upstream;

#[cfg(test)]
extern crate self as fastrac_gateway;
#[cfg(test)]
#[path = "../tests/fuzz/targets/replay.rs"]
#[allow(unreachable_pub, reason = "shared with cargo-fuzz")]
mod fuzzed;
