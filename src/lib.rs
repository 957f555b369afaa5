//! fastrac-gateway: a reverse proxy that lets many internal services use one Fastrac account.
//!
//! Services point their base URL here. The gateway authenticates the caller, enforces each service's quota and
//! the account's budget, answers slow-changing lookups from a cache, injects the account's key pair, never sends
//! an order twice by accident, and writes one record of every request.
//!
//! # The path
//!
//! A request goes through one straight function, [`path`], and the rooms in this order. A room is a module with
//! one responsibility; its `//!` says what always holds, what it must not know and how it fails.
//!
//! | room | question it answers |
//! | --- | --- |
//! | [`edge`] | how bytes become requests, and how connections are bounded and drained |
//! | [`caller`] | who is calling |
//! | [`catalog`] | which operation is it, and may this service use it |
//! | [`body`] | the bytes of the request, and of the response |
//! | [`orders`] | was this order sent before, and with what result |
//! | [`admission`] | may this service do this now; may Fastrac be asked for this account now |
//! | [`cache`] | is the response stored, or being fetched |
//! | [`keys`] | which key pair signs it |
//! | [`upstream`] | one attempt to call Fastrac |
//! | [`outcome`] | what Fastrac's response means |
//! | [`refusal`] | responses that the gateway itself generates |
//! | [`record`] | what is counted and logged |
//!
//! # Around it
//!
//! | room | what it is |
//! | --- | --- |
//! | [`app`] | wiring: the only room that sees most others |
//! | [`spending`] | who spends the accounts' budgets today, for reports |
//! | [`gateway`], [`snapshot`] | the configuration in force beside the state that outlives it, and how a reload swaps it |
//! | [`rotation`] | the task that keeps an account's key pairs current; above `keys` and the path |
//! | [`refresh`] | the task that fetches stored responses again before they are too old; above `cache` and the path |
//! | [`reconcile`] | proposals of what became of unknown orders, from balance history and tracking; above `orders` and the path |
//! | [`warm`] | the walk of the region tree that stores its responses ahead of use; above `cache` and the path |
//! | [`admin`] | health, metrics, status, commands of operators |
//! | [`cli`] | one file per command |
//! | [`inspect`] | the configuration file with the files and variables that it names: all errors at once, for `check`, `run` and a reload |
//! | [`config`] | the configuration: as written, and as checked; no I/O |
//! | [`files`] | reading files that others change |
//! | [`store`] | the embedded state store: what survives a restart |
//! | [`ledger`] | day counts, buckets and pauses that survive a restart: leases in the store, marks in files of their own |
//!
//! # Small shared values
//!
//! | module | what it is |
//! | --- | --- |
//! | [`attempts`] | whether and how often a request was sent; only grows |
//! | [`fetched`] | the result of a fetch that several requests share |
//! | [`reply`] | the response to a caller, before it is written |
//! | [`accept`] | how much a media type is wanted |
//! | [`spare`] | whether an account has budget that nobody else needs |
//! | [`degraded`] | why the gateway is degraded: the closed list of reasons |
//! | [`headers`] | which headers are never passed on, in either direction |
//! | [`date`] | the `Date` of responses that have none |
//! | [`deadline`] | the point in time at which a wait ends |
//! | [`memory`] | how many bytes of requests and responses are buffered, and who may buffer more |
//! | [`peer`] | failed attempts, limited by peer, and which clients count as one |
//! | [`retry_after`] | `Retry-After`: what callers are told and what Fastrac says, in whole seconds |
//! | [`connector`] | TCP connections to hosts by name: bounded, cached lookups and raced addresses |
//! | [`backoff`] | waits that double |
//! | [`http_client`] | one HTTP request on a connection of its own, for the vault and the command line |
//! | [`limited_read`] | reads of an HTTP client that leave its thread to others, whatever the server sends |
//! | [`deferred_write`] | writes at the end of a scheduler turn |
//! | [`catch_panic`] | the panic of a future as a value |
//! | [`uptime`] | the run of the system, how long it has lasted, and points in time that later processes understand |
//! | [`clock_jumps`] | jumps of the wall clock against the monotonic one, and the time without momentary ones |
//! | [`standstill`] | the time that the monotonic clock has not counted: suspends |
//!
//! The simulator of Fastrac is a crate of its own, in `sandbox/`. Imports only point downwards, and there are no
//! import cycles between files; `tests/gateway/layout.rs` enforces both.

pub mod accept;
pub mod admin;
pub mod admission;
pub mod app;
pub mod attempts;
pub mod backoff;
pub mod body;
pub mod cache;
pub mod caller;
pub mod catalog;
pub mod catch_panic;
pub mod cli;
pub mod clock_jumps;
pub mod config;
pub mod connector;
pub mod date;
pub mod deadline;
pub mod deferred_write;
pub mod degraded;
pub mod edge;
pub mod fetched;
pub mod files;
pub mod gateway;
pub mod headers;
pub mod http_client;
pub mod inspect;
pub mod keys;
pub mod ledger;
pub mod limited_read;
pub mod memory;
pub mod orders;
pub mod outcome;
pub mod path;
pub mod peer;
pub mod reconcile;
pub mod record;
pub mod refresh;
pub mod refusal;
pub mod reply;
pub mod retry_after;
pub mod rotation;
pub mod snapshot;
pub mod spare;
pub mod spending;
pub mod standstill;
pub mod store;
pub mod upstream;
pub mod uptime;
pub mod warm;

#[cfg(test)]
extern crate self as fastrac_gateway;
#[cfg(test)]
#[path = "../tests/fuzz/targets/replay.rs"]
#[allow(unreachable_pub, reason = "shared with cargo-fuzz")]
mod fuzzed;
