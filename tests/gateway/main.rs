//! Whole-program tests: one binary, so that it is linked once.
//!
//! Each test runs the real program in-process behind real sockets, with a sandbox as Fastrac (the
//! stage), and asks it with a raw client of its own.
//!
//! | file | holds that |
//! | --- | --- |
//! | `config` | a bad configuration gives all its faults with places; the examples and the commands around it work |
//! | `passes_responses_unchanged` | what comes through the gateway is what Fastrac said |
//! | `never_leaks` | keys stay where they belong, whatever anybody tries |
//! | `refuses_clearly` | every refusal says what is wrong, whether Fastrac saw the request, and when to come back |
//! | `caches` | stored responses are reused; concurrent requests with one key are one fetch |
//! | `sends_once` | an order is sent once, whatever happens to its caller, its response or the gateway |
//! | `accounts_for_everything` | requests sent = requests counted = lines written, and nothing is left in flight |
//! | `drains` | connections begin and end in an orderly way; nothing that was accepted is lost |
//! | `spends_once` | quotas and budgets hold exactly, also when everybody asks at once |
//! | `rejects_faulty_keys` | the key pair may change under load; a faulty one never takes over |
//! | `rotates_without_failures` | a thousand changes of the key pair under load, of every kind, and nobody notices |
//! | `survives_panics` | a fault of the gateway's own fails one request, clearly, and shows no key |
//! | `erases_retired_keys` | a retired pair is gone from the program's memory |
//! | `reloads_without_failures` | a thousand changes of the configuration under load fail nobody and forget nothing that lives |
//! | `hostile` | bad bytes at the door are refused, and nothing of them reaches Fastrac |
//! | `serves_http2_and_tls` | HTTP/2 and TLS at the door keep the same promises |
//! | `replaces_certificates` | certificates at the door change while running, and nobody notices but by the certificate |
//! | `authenticates_certificates` | a client's certificate proves a service, as long as the service lists it |
//! | `connects_through_proxies` | what an account's proxy does to it, and what the proxy learns |
//! | `classifies_responses` | a corpus of answers means the same to the contract, the sandbox and the gateway |
//! | `handles_upstream_faults` | every fault of the sandbox is seen by a plain client, and told truly by the gateway |
//! | `sandbox` | what steers the sandbox is reached by nobody who talks to Fastrac; a lost order is seen for what it is |
//! | `deploy` | what `deploy/` and its runbooks name exists: commands, metrics, outcomes, panels, configuration keys |
//! | `layout` | rooms import down only, pure rooms know no runtime |

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod accounts_for_everything;
mod authenticates_certificates;
mod authority;
mod bodies;
mod caches;
mod classifies_responses;
mod client;
mod config;
mod connects_through_proxies;
mod deploy;
mod drains;
mod erases_retired_keys;
mod h2;
mod handles_upstream_faults;
mod hostile;
mod layout;
mod never_leaks;
mod passes_responses_unchanged;
mod process;
mod refuses_clearly;
mod rejects_faulty_keys;
mod reloads_without_failures;
mod replaces_certificates;
mod rotates_without_failures;
mod sandbox;
mod sends_once;
mod serves_http2_and_tls;
mod spends_once;
mod survives_panics;
mod test_gateway;
