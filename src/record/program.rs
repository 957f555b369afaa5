//! The program's own log, apart from the exchange log: on stderr, for people on a terminal, as JSON
//! for machines elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Starts it; to be called once, before threads start. A second call changes nothing.
pub fn init_program_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = std::io::stderr().is_terminal();
    // no-color.org: set and not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // Fails only if a log was started before.
    let _ = if terminal { log.with_target(false).try_init() } else { log.json().flatten_event(true).try_init() };
}
