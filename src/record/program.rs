//! The program's own log, on stderr: text on a terminal, JSON otherwise. Panics are logged too.
//!
//! Always holds: logging never waits for the reader of stderr (`output`), and no place in the source can
//! fill the log (`limit`). A panic message is written only if it is a literal in the source. A formatted
//! message may contain any value, even a key, whatever the types redact (the message of `&text[..n]` quotes
//! the text). Never fails.

mod limit;
mod output;
#[cfg(test)]
mod tests;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    sync::{LazyLock, Once, OnceLock},
};

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::writer::BoxMakeWriter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub(super) use self::output::lines_dropped;
use self::{
    limit::{LineLimit, REFILL},
    output::LineOutput,
};

/// Target of lines whose number is not limited here: each error of a faulty configuration, which only an operator can cause,
/// and the lines that the audit log could not write, which it bounds itself.
pub const UNLIMITED: &str = "fastrac_gateway::configuration";

/// The filters unless `RUST_LOG` is set.
const DEFAULT_FILTER: &str = "info";
const DEMO_FILTER: &str = "warn";

/// Replaces a formatted panic message.
const WITHHELD: &str = "(not shown: the message was formatted from values)";

/// stderr's queue.
static OUTPUT: LineOutput = LineOutput::new();

/// Limits the lines of each place in the source.
static LIMIT: LazyLock<LineLimit> = LazyLock::new(LineLimit::new);

/// Whether the queue has its thread; not set before the log is started.
static QUEUED: OnceLock<bool> = OnceLock::new();

/// Starts the log and its thread. A second call does nothing.
pub fn init_program_log() {
    let terminal = std::io::stderr().is_terminal();
    init(DEFAULT_FILTER, terminal, terminal);
}

/// The same for somebody who reads along and came for something else: text, and only what is wrong.
pub fn init_demo_log() {
    init(DEMO_FILTER, true, std::io::stderr().is_terminal());
}

fn init(default_filter: &str, text: bool, terminal: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    // no-color.org: set and not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let queued = *QUEUED.get_or_init(start_output);
    let writer = if queued { BoxMakeWriter::new(|| QueuedLine) } else { BoxMakeWriter::new(io::stderr) };
    // Below `info`, libraries show what they have received: h2 a malformed path with all that is in it.
    let own = filter_fn(|line| *line.level() <= Level::INFO || line.target().starts_with("fastrac_"));
    // A closed stderr must not cause a panic, least of all while one is being reported.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    let lines = if text { lines.with_target(false).boxed() } else { lines.json().flatten_event(true).boxed() };
    // Fails only if a log was started already.
    let _ = tracing_subscriber::registry().with(filter).with(own).with(&*LIMIT).with(lines).try_init();
    report_panics(|| false);
}

/// Starts the thread that writes to stderr. Without it, stderr is written directly.
fn start_output() -> bool {
    let thread = std::thread::Builder::new().name("program-log".into());
    thread.spawn(|| OUTPUT.run(io::stderr(), REFILL, || LIMIT.report())).is_ok()
}

/// Puts each line that it is given into the queue.
struct QueuedLine;

impl Write for QueuedLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        OUTPUT.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a message of a command to stderr: through the queue if the log was started, else directly. Unlike
/// `eprintln!`, it does not panic if stderr is closed.
pub fn print_message(message: impl Display) {
    let line = format!("{message}\n");
    if QUEUED.get() == Some(&true) {
        OUTPUT.push(line.as_bytes());
    } else {
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Writes the log's last lines to stderr when it is dropped, at the end of the process: waits only while its
/// reader takes them, and at most 2 s.
#[derive(Debug)]
#[must_use = "keep it until the end of the process"]
pub struct FlushAtExit;

impl Drop for FlushAtExit {
    fn drop(&mut self) {
        if QUEUED.get() == Some(&true) {
            LIMIT.report();
            OUTPUT.flush();
        }
    }
}

/// Reports panics in the program's log from now on, or on stderr if there is none; not those of which `is_expected` says that
/// they are reported in another way. A second call does nothing.
pub fn report_panics(is_expected: fn() -> bool) {
    static ONCE: Once = Once::new();
    let report = move |panic: &PanicHookInfo<'_>| {
        if !is_expected() {
            report(panic);
        }
    };
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
    match panic.location() {
        Some(place) => print_message(format_args!("fastrac-gateway: panicked at {place}: {message}")),
        None => print_message(format_args!("fastrac-gateway: panicked: {message}")),
    }
    if let Some(backtrace) = backtrace {
        print_message(backtrace);
    }
}
