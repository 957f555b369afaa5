//! Whole-program tests: one binary, so that it is linked once.
//!
//! Each test runs the real program in-process behind real sockets, with a sandbox as Fastrac (the
//! stage), and asks it with a raw client of its own.
//!
//! | file | holds that |
//! | --- | --- |
//! | `config` | a bad configuration gives all its faults with places; the examples and the commands around it work |
//! | `answers_truly` | what comes through the gateway is what Fastrac said |
//! | `never_leaks` | keys stay where they belong, whatever anybody tries |
//! | `refuses_clearly` | every refusal says what is wrong, whether Fastrac saw the request, and when to come back |
//! | `caches` | stored responses are reused; concurrent requests with one key are one fetch |
//! | `sends_once` | an order is sent once, whatever happens to its caller, its response or the gateway |
//! | `accounts_for_everything` | requests sent = requests counted = lines written, and nothing is left in flight |
//! | `drains` | connections begin and end in an orderly way; nothing that was accepted is lost |
//! | `spends_once` | quotas and budgets hold exactly, also when everybody asks at once |
//! | `keeps_keys` | the key pair may change under load; a faulty one never takes over |
//! | `rotates` | a thousand changes of the key pair under load, of every kind, and nobody notices |
//! | `survives_panics` | a fault of the gateway's own fails one request, clearly, and shows no key |
//! | `forgets` | a retired pair is gone from the program's memory |
//! | `reloads` | a thousand changes of the configuration under load fail nobody and forget nothing that lives |
//! | `hostile` | bad bytes at the door are refused, and nothing of them reaches Fastrac |
//! | `doors` | HTTP/2 and TLS at the door keep the same promises |
//! | `shows_certificates` | certificates at the door change while running, and nobody notices but by the certificate |
//! | `knows_certificates` | a client's certificate proves a service, as long as the service lists it |
//! | `goes_through_proxies` | what an account's proxy does to it, and what the proxy learns |
//! | `knows_answers` | a corpus of answers means the same to the contract, the sandbox and the gateway |
//! | `meets_faults` | every fault of the sandbox is seen by a plain client, and told truly by the gateway |
//! | `sandbox` | what steers the sandbox is reached by nobody who talks to Fastrac; a lost order is seen for what it is |
//! | `deploy` | what `deploy/` and its runbooks name exists: commands, metrics, outcomes, panels, configuration keys |
//! | `layout` | rooms import down only, pure rooms know no runtime |

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod accounts_for_everything;
mod answers_truly;
mod authority;
mod bodies;
mod caches;
mod client;
mod config;
mod deploy;
mod doors;
mod drains;
mod forgets;
mod goes_through_proxies;
mod h2;
mod hostile;
mod keeps_keys;
mod knows_answers;
mod knows_certificates;
mod layout;
mod meets_faults;
mod never_leaks;
mod process;
mod refuses_clearly;
mod reloads;
mod rotates;
mod sandbox;
mod sends_once;
mod shows_certificates;
mod spends_once;
mod stage;
mod survives_panics;
