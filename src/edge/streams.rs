//! The tasks of HTTP/2 streams, and the time that a caller has to take its response.
//!
//! hyper gives each stream to an executor; one that does not end at once becomes a task of its own. hyper polls neither
//! the body nor anything else of it while the peer's window is closed. So a timer in that task ends the stream
//! (RST_STREAM) when the caller has taken no byte for `limits.idle`, or is that long behind [`LEAST_RATE`] (what it does
//! not take is memory that others need), or when a response that is still being received is past its deadline. What
//! always holds: time in which Fastrac is waited for is not the caller's. An HTTP/1.1 response has its connection to
//! itself, so its deadlines are the connection's (`deadlines`). This file must not know requests. Never fails.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::activity::{Activity, LEAST_RATE, NEVER};
use crate::{
    body::{Delivery, Receipt},
    catch_panic::catch_panic,
    deadline::LateTimer,
    memory::MemoryClaim,
};

/// Time that a taken byte is good for, in microseconds.
const TIME_OF_BYTE: u64 = 1_000_000 / LEAST_RATE as u64;

/// Runs the streams of a data thread's connections.
#[derive(Clone, Default)]
pub(super) struct StreamExecutor {
    /// The stream whose request was passed on last. hyper calls the service and, in the same poll, the executor.
    opening: Arc<Mutex<Option<Arc<StreamDelivery>>>>,
}

impl StreamExecutor {
    /// A new stream, whose task is spawned next.
    pub(super) fn open(&self, activity: &Arc<Activity>) -> Arc<StreamDelivery> {
        activity.stream_began();
        let delivery = Arc::new(StreamDelivery {
            activity: activity.clone(),
            waits_since: AtomicU64::new(NEVER),
            ends_by: AtomicU64::new(NEVER),
            receipt: Mutex::default(),
            room: Mutex::default(),
        });
        *self.opening.lock() = Some(delivery.clone());
        delivery
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let opening = self.opening.lock().take();
        let Some(delivery) = opening else { return TokioExecutor::new().execute(stream) };
        // A response that is there at once is written in this poll of its connection. A task would wait for its turn behind
        // every task that is ready, and the connection then for another one. Whatever it waits for is asked again by the task.
        let mut stream = Box::pin(stream);
        let polled = pin!(catch_panic(stream.as_mut())).poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_ready() {
            return;
        }
        TokioExecutor::new().execute(async move {
            let mut timer = DeliveryTimer { delivery, timer: None };
            std::future::poll_fn(|cx| match stream.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                // Dropping a stream that has not ended resets it.
                Poll::Pending => timer.poll_elapsed(cx),
            })
            .await;
        });
    }
}

/// How far the caller has taken the response of a stream. The stream's task and each piece of the response, which h2 keeps
/// until it is written, hold it: it is dropped when the stream is over.
pub(super) struct StreamDelivery {
    activity: Arc<Activity>,
    /// Since when the caller has taken no byte of what it could take, in microseconds of the connection's clock; earlier by
    /// what it is behind [`LEAST_RATE`]. `NEVER` if there is nothing to take.
    waits_since: AtomicU64,
    /// When the response must be complete, on the same clock; `NEVER` if it is complete here.
    ends_by: AtomicU64,
    /// Told when the response has reached the caller.
    receipt: Mutex<Option<Box<dyn Receipt>>>,
    /// What the response takes of the memory until the stream is over.
    room: Mutex<Option<Arc<MemoryClaim>>>,
}

impl StreamDelivery {
    /// The head of the response is ready. `ends_by`: when a response that is still being received must be complete.
    pub(super) fn begin(
        &self,
        ends_by: Option<Instant>,
        receipt: Option<Box<dyn Receipt>>,
        room: Option<Arc<MemoryClaim>>,
    ) {
        if room.is_some() {
            *self.room.lock() = room;
        }
        if receipt.is_some() {
            *self.receipt.lock() = receipt;
        }
        self.ends_by.store(ends_by.map_or(NEVER, |end| self.activity.micros_at(end)), Relaxed);
        self.offered();
    }

    fn end(&self) -> Option<Instant> {
        let since = self.waits_since.load(Relaxed);
        let end = self.activity.idle_after(since).min(self.ends_by.load(Relaxed));
        (since != NEVER).then(|| self.activity.instant_of(end))
    }
}

impl Drop for StreamDelivery {
    fn drop(&mut self) {
        self.activity.stream_ended();
    }
}

impl Delivery for StreamDelivery {
    fn offered(&self) {
        self.waits_since.store(self.activity.now(), Relaxed);
    }

    fn awaits_upstream(&self) {
        self.waits_since.store(NEVER, Relaxed);
    }

    fn written(&self, bytes: usize) {
        let since = self.waits_since.load(Relaxed);
        if since != NEVER {
            let paid = since.saturating_add(TIME_OF_BYTE.saturating_mul(bytes as u64));
            self.waits_since.store(paid.min(self.activity.now()), Relaxed);
        }
        self.activity.response_bytes_went();
    }

    fn taken(&self) {
        self.activity.receipts.taken(self.receipt.lock().take());
    }
}

/// Elapses when a caller has not taken its response in time.
struct DeliveryTimer {
    delivery: Arc<StreamDelivery>,
    /// Made when the task first waits for its caller: most responses are taken at once.
    timer: Option<LateTimer>,
}

impl DeliveryTimer {
    fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The body, which is polled by the same task, decides when the caller is waited for again.
            let Some(end) = self.delivery.end() else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| LateTimer::at(end));
            if timer.end() > end {
                timer.reset(end);
            }
            ready!(timer.poll_elapsed(cx));
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::edge::activity::tests::{activity, limits};

    #[tokio::test]
    async fn a_response_that_is_there_at_once_waits_for_no_task() {
        let (executor, activity) = (StreamExecutor::default(), activity(&limits()));
        let ended = Arc::<AtomicBool>::default();
        for waits in [false, true] {
            let ends = ended.clone();
            executor.open(&activity);
            executor.execute(async move {
                if waits {
                    tokio::task::yield_now().await;
                }
                ends.store(true, Relaxed);
            });
            assert_eq!(ended.swap(false, Relaxed), !waits);
        }
        while !ended.load(Relaxed) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_alone() {
        let (executor, activity) = (StreamExecutor::default(), activity(&limits()));
        executor.open(&activity);
        executor.execute(async { panic!("of a test") });
        assert!(!activity.has_streams_beyond(0));
    }
}
