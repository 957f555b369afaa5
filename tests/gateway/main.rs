//! Whole-program tests: one binary, so that it is linked only once.
//!
//! Each test runs the real program in-process behind real sockets, with a sandbox as Fastrac
//! (`test_gateway`), and sends requests with a client of its own (`client`, `h2`).
//!
//! | file | what it tests |
//! | --- | --- |
//! | `config` | a faulty configuration is reported with all its faults and their places; the examples and the commands around it work |
//! | `passes_responses_unchanged` | requests and responses are passed on unchanged, byte for byte |
//! | `never_leaks` | the account's keys and the callers' credentials never leave the gateway |
//! | `refuses_clearly` | every refusal says what is wrong, whether Fastrac received the request, and when to retry |
//! | `accepts_stored_responses` | which stored response a caller gets by its directives and conditions, and never another's |
//! | `caches` | lookups are served from the cache, and concurrent requests share one fetch |
//! | `caches_through_outages` | what was fetched once is answered while Fastrac fails, and refreshed at no caller's expense |
//! | `caches_through_a_week` | the same for a week of the clocks: within the bound all, beyond it nothing |
//! | `refreshes_stored_responses` | what the gateway fetches by itself takes no good response away, and has a line in the log |
//! | `cuts_at_every_byte` | connections cut at every byte of an order and of its response, on both legs: `sent` is never wrong |
//! | `notices_callers_that_left` | a caller that leaves is noticed, whatever is behind its order and whenever it leaves |
//! | `protects_orders_without_a_key` | an order that is repeated blindly is executed once, and two that are wanted are two |
//! | `sends_again` | second attempts after failures: few, counted by reason, never against Fastrac's will or too late |
//! | `sends_once` | an order is sent once, whatever happens to its caller, its response or the gateway |
//! | `accounts_for_everything` | requests sent = requests counted = lines written, and nothing is left in flight |
//! | `drains` | connection limits, timeouts and draining: no accepted request is lost |
//! | `keeps_day_counts` | day counts survive kills, restarts and a lost store |
//! | `keeps_ended_orders` | ended orders with a key are on disk only: what that disk does, and kills, send nothing twice |
//! | `keeps_the_exchange_log` | nothing pushes lines out of the exchange log, and no line of an order is lost |
//! | `logs_despite_disks` | a full disk and a `kill -9` cost no request and only the lines that the logs say |
//! | `proposes_what_became_of_orders` | balance history and tracking show what became of unknown orders; settling them |
//! | `logs_without_waiting` | the program's own log stops nothing, whatever its reader does |
//! | `replays_a_trace` | a trace of lookups over the real region tree is answered from the cache, and never wrongly |
//! | `restarts` | restarts under load, with every pattern of connections: what was read is answered, no order is unknown or doubled |
//! | `restores_the_cache` | the cache survives a restart, and nothing that was purged or damaged comes back |
//! | `ends_in_time` | signals, limits of the process, and what hangs: start-up and end are in bounded time |
//! | `says_when_to_return` | `Retry-After` is the truth, to a second; pacing releases the day bit by bit |
//! | `shares_the_budget` | guaranteed shares of the budget hold in a flood; a limit response of Fastrac pauses the account for all |
//! | `spends_once` | quotas and budgets are exact, also under concurrent requests |
//! | `obeys_pauses` | a pause that Fastrac has demanded outlives kills, restarts and reloads |
//! | `operates_limits` | what operators see of quotas and budgets, and change of them while the gateway runs |
//! | `rejects_faulty_keys` | the key pair can change under load; a faulty one never comes into use |
//! | `keeps_key_pairs` | what an account's pairs survive: 401s that requests cause, moves to other addresses |
//! | `rotates_without_failures` | many rotations of the key pair under load, of every kind, without a failed request |
//! | `survives_panics` | a panic inside the gateway fails one request with a 500 and shows no key |
//! | `survives_pauses` | what arrived while the process was stopped is read before a time limit counts |
//! | `erases_retired_keys` | a retired pair is gone from the process's memory |
//! | `frames_each_leg` | a response is one response for its caller, whatever its framing says |
//! | `reloads_without_failures` | many reloads of the configuration under load, without a failed request or lost state |
//! | `leaves_addresses` | what an account's earlier address says decides nothing at its present one |
//! | `hostile` | malformed and hostile input is refused, and none of it reaches Fastrac |
//! | `serves_http2_and_tls` | HTTP/2 and TLS listeners behave like HTTP/1.1 |
//! | `replaces_certificates` | the listeners' certificates are replaced while running, without a failed handshake |
//! | `authenticates_certificates` | a client certificate authenticates the service that lists one of its names |
//! | `connects_through_proxies` | connections to Fastrac through a proxy, and what the proxy can see |
//! | `connects_despite_faults` | silent addresses, name lookups that hang and faults of the gateway's own host |
//! | `classifies_responses` | contract, sandbox and gateway agree on a corpus of responses |
//! | `handles_upstream_faults` | every fault that the sandbox can inject has the expected effect, directly and through the gateway |
//! | `sandbox` | the sandbox's control API is separate from the simulated API; a lost order is processed and reported |
//! | `deploy` | everything that `deploy/` and its runbooks name exists: commands, metrics, outcomes, panels, configuration keys |
//! | `waits_within_deadlines` | every wait has a deadline, and it is the waiter's own |
//! | `isolates_callers` | what one caller does ends with that caller |
//! | `judges_fastrac` | what counts as a failure of Fastrac, for all services of its account |
//! | `bounds_memory` | the bytes of requests and responses are bounded, shed by priority, and go back |
//! | `isolates_slow_callers` | a caller that takes its response slowly keeps nothing from others |
//! | `delivers_refusals` | a refusal reaches a client that is still sending |
//! | `counts_early_refusals` | what is refused before its head was read is counted and logged |
//! | `guards_the_admin_port` | who may do what, what is recorded of it, and credentials that end |
//! | `layout` | no import cycles, pure rooms do no I/O, a type name means one thing |
//! | `documents` | the README lists exactly the refusals that the gateway can send |

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod accepts_stored_responses;
mod accounts_for_everything;
mod authenticates_certificates;
mod authority;
mod bodies;
mod bounds_memory;
mod caches;
mod caches_through_a_week;
mod caches_through_outages;
mod classifies_responses;
mod client;
mod config;
mod connects_despite_faults;
mod connects_through_proxies;
mod counts_early_refusals;
mod cuts_at_every_byte;
mod delivers_refusals;
mod deploy;
mod documents;
mod drains;
mod ends_in_time;
mod erases_retired_keys;
mod frames_each_leg;
mod guards_the_admin_port;
mod h2;
mod handles_upstream_faults;
mod hostile;
mod isolates_callers;
mod isolates_slow_callers;
mod judges_fastrac;
mod keeps_day_counts;
mod keeps_ended_orders;
mod keeps_key_pairs;
mod keeps_the_exchange_log;
mod layout;
mod leaves_addresses;
mod logs_despite_disks;
mod logs_without_waiting;
mod never_leaks;
mod notices_callers_that_left;
mod obeys_pauses;
mod operates_limits;
mod passes_responses_unchanged;
mod process;
mod proposes_what_became_of_orders;
mod protects_orders_without_a_key;
mod refreshes_stored_responses;
mod refuses_clearly;
mod rejects_faulty_keys;
mod reloads_without_failures;
mod replaces_certificates;
mod replays_a_trace;
mod restarts;
mod restores_the_cache;
mod rotates_without_failures;
mod sandbox;
mod says_when_to_return;
mod sends_again;
mod sends_once;
mod serves_http2_and_tls;
mod shares_the_budget;
mod spends_once;
mod survives_panics;
mod survives_pauses;
mod system_faults;
mod test_gateway;
mod waits_within_deadlines;
mod walks_the_region_tree;
