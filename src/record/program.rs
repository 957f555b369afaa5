//! The program's own log, apart from the exchange log: on stderr, for people on a terminal, as JSON
//! for machines elsewhere. A panic is an entry of it too.
//!
//! What always holds: of a panic's words only those are written that stand in the source. Words that were
//! put together from values may hold anything that was at hand, a key too, whatever care the types take
//! (`&text[..n]` quotes the text that it could not cut).

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, Write as _},
    panic::PanicHookInfo,
    sync::Once,
};

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Stands for a panic's words that may hold a value.
const WITHHELD: &str = "(not shown: it was put together from values)";

/// Starts it; to be called once, before threads start. A second call changes nothing.
pub fn init_program_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = std::io::stderr().is_terminal();
    // no-color.org: set and not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A stderr that nobody reads any more must not become a panic, least of all while one is reported.
    let log = log.log_internal_errors(false);
    // Fails only if a log was started before.
    let _ = if terminal { log.with_target(false).try_init() } else { log.json().flatten_event(true).try_init() };
    report_panics();
}

/// From here on a panic is an entry of the program's log, or a line on stderr where there is none. A
/// second call changes nothing.
pub fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(report)));
}

fn report(panic: &PanicHookInfo<'_>) {
    let words = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or(WITHHELD);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("-");
    // `RUST_BACKTRACE` asks for it; it names functions and places, no values.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    if tracing::dispatcher::has_been_set() {
        let (place, backtrace) =
            (panic.location().map(tracing::field::display), backtrace.map(tracing::field::display));
        tracing::error!(place, thread, words, backtrace, "panicked: a fault of the gateway itself");
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let _ = match panic.location() {
        Some(place) => writeln!(stderr, "fastrac-gateway: panicked at {place}: {words}"),
        None => writeln!(stderr, "fastrac-gateway: panicked: {words}"),
    };
    if let Some(backtrace) = backtrace {
        let _ = writeln!(stderr, "{backtrace}");
    }
}
