//! Times one attempt to send a request to Fastrac, and counts it. Never fails.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{handles::CountedAttempt, recorder::Recorder};
use crate::attempts::{Attempts, CountedWait, WaitFor};

/// An attempt in progress. It is counted when this is dropped, also if the caller leaves after it was sent: Fastrac counts
/// it too. The time until then counts as waited for Fastrac.
pub struct AttemptTimer<'a> {
    recorder: &'a Recorder,
    wait: Option<CountedWait<'a>>,
    account: usize,
    operation: usize,
    began: Instant,
    status: Option<u16>,
    took: Option<Duration>,
    sent: AtomicBool,
}

impl<'a> AttemptTimer<'a> {
    /// Starts the clock; account and operation by their indices.
    pub fn start(recorder: &'a Recorder, attempts: &'a Attempts, account: usize, operation: usize) -> Self {
        let began = Instant::now();
        AttemptTimer {
            recorder,
            wait: Some(attempts.begin_wait(WaitFor::Upstream, began)),
            account,
            operation,
            began,
            status: None,
            took: None,
            sent: AtomicBool::new(false),
        }
    }

    /// When its clock was started.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The request may have been sent.
    pub fn sent(&self) {
        self.sent.store(true, Relaxed);
    }

    /// Stops the clock. `status`: that of Fastrac's response, if there is one.
    pub fn stop(&mut self, status: Option<u16>) {
        self.status = status;
        self.took = Some(self.began.elapsed());
        self.wait = None;
    }
}

impl Drop for AttemptTimer<'_> {
    fn drop(&mut self) {
        let took = self.took.unwrap_or_else(|| self.began.elapsed());
        if self.took.is_none() && !self.sent.load(Relaxed) {
            // The caller left while a connection was being opened.
            return;
        }
        self.recorder.count_attempt(CountedAttempt {
            account: self.account,
            operation: Some(self.operation),
            status: self.status,
            took,
        });
    }
}
