//! The program's own log, on stderr: text on a terminal, JSON otherwise. Panics are logged too.
//!
//! Always holds: a panic message is written only if it is a literal in the source. A formatted message
//! may contain any value, even a key, whatever the types redact (the message of `&text[..n]` quotes
//! the text). Never fails.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, Write as _},
    panic::PanicHookInfo,
    sync::Once,
};

use tracing_subscriber::EnvFilter;

/// The filter unless `RUST_LOG` is set.
const DEFAULT_FILTER: &str = "info";

/// Replaces a formatted panic message.
const WITHHELD: &str = "(not shown: the message was formatted from values)";

/// Starts the log. Call it before other threads start; a second call does nothing.
pub fn init_program_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = std::io::stderr().is_terminal();
    // no-color.org: set and not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A closed stderr must not cause a panic, least of all while one is being reported.
    let log = log.log_internal_errors(false);
    // Fails only if a log was started already.
    let _ = if terminal { log.with_target(false).try_init() } else { log.json().flatten_event(true).try_init() };
    report_panics();
}

/// Reports panics in the program's log from now on, or on stderr if there is none. A second call does
/// nothing.
pub fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(report)));
}

fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or(WITHHELD);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("-");
    // Captured if `RUST_BACKTRACE` is set; it contains functions and locations, no values.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    if tracing::dispatcher::has_been_set() {
        let (place, backtrace) =
            (panic.location().map(tracing::field::display), backtrace.map(tracing::field::display));
        tracing::error!(place, thread, panic_message = message, backtrace, "panicked: a bug in the gateway");
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let _ = match panic.location() {
        Some(place) => writeln!(stderr, "fastrac-gateway: panicked at {place}: {message}"),
        None => writeln!(stderr, "fastrac-gateway: panicked: {message}"),
    };
    if let Some(backtrace) = backtrace {
        let _ = writeln!(stderr, "{backtrace}");
    }
}
