//! Limits how many lines one place in the source may log, so that clients cannot fill the log.
//!
//! Always holds: each place has [`BURST`] lines at once and one more per [`REFILL`]; what is left out is counted,
//! and a line says how many there were. This covers every line, not only those known to be caused by clients: a
//! new one cannot be forgotten. Lines of [`UNLIMITED`] and of other crates, which are logged only on request
//! (`RUST_LOG`), are not limited. Never fails.

use std::{
    collections::HashMap,
    fmt::Debug,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::UNLIMITED;

/// Lines of one place at once.
pub(super) const BURST: u32 = 20;

/// Time after which a place has one more line, and interval at which the number of those left out is logged.
pub(super) const REFILL: Duration = Duration::from_secs(10);

/// Beginning of the targets that are limited.
const OWN: &str = "fastrac_";

/// The layer. It is small: places in the source are few.
pub(super) struct LineLimit {
    places: Mutex<HashMap<Place, Allowance>>,
}

/// File and line of a log statement.
type Place = (Option<&'static str>, Option<u32>);

struct Allowance {
    lines: u32,
    refilled: Instant,
    left_out: u64,
    /// Of the last line left out.
    message: String,
}

impl LineLimit {
    pub(super) fn new() -> LineLimit {
        LineLimit { places: Mutex::default() }
    }

    /// Whether a line of this place may be logged now.
    fn admit(&self, place: &'static Metadata<'static>, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut places = self.places.lock();
        let fresh = || Allowance { lines: BURST, refilled: now, left_out: 0, message: String::new() };
        let allowance = places.entry((place.file(), place.line())).or_insert_with(fresh);
        let due = now.saturating_duration_since(allowance.refilled).as_secs() / REFILL.as_secs();
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            allowance.lines = allowance.lines.saturating_add(due).min(BURST);
            allowance.refilled = now;
        }
        if allowance.lines > 0 {
            allowance.lines -= 1;
            return true;
        }
        if allowance.left_out == 0 {
            allowance.message = message();
        }
        allowance.left_out += 1;
        false
    }

    /// Logs how many lines were left out since the last call.
    pub(super) fn report(&self) {
        let mut reports = Vec::new();
        for allowance in self.places.lock().values_mut().filter(|allowance| allowance.left_out > 0) {
            reports.push((std::mem::take(&mut allowance.left_out), std::mem::take(&mut allowance.message)));
        }
        for (lines, like) in reports {
            tracing::warn!(target: UNLIMITED, lines, like, "lines were left out: there were too many of this kind");
        }
    }
}

impl<S: Subscriber> Layer<S> for &'static LineLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let place = event.metadata();
        if !place.target().starts_with(OWN) || place.target() == UNLIMITED {
            return true;
        }
        self.admit(place, Instant::now(), || {
            let mut message = Message::default();
            event.record(&mut message);
            message.0
        })
    }
}

/// The message of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// A buffer that a subscriber writes to.
    #[derive(Clone, Default)]
    struct LineBuffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for LineBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_place_cannot_fill_the_log_and_says_what_it_left_out() {
        let (limit, lines) = (Box::leak(Box::new(LineLimit::new())), LineBuffer::default());
        let limit: &'static LineLimit = limit;
        let writer = lines.clone();
        let log = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(limit).with(log), || {
            for peer in 0..10_000 {
                tracing::warn!(peer, "a handshake failed");
            }
            tracing::warn!("another place");
            (0..100).for_each(|fault| tracing::error!(target: UNLIMITED, fault, "a faulty configuration"));
            limit.report();
            limit.report();
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("\"message\":\"a handshake failed\""), BURST as usize);
        assert_eq!((count("another place"), count("a faulty configuration")), (1, 100));
        assert_eq!(count("\"lines\":9980,\"like\":\"a handshake failed\""), 1, "{text}");
    }
}
