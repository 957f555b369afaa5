//! Promises of breaker and retry budget together, on tokio's paused clock: an outage of Fastrac's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::time::{self, Instant};
use tokio_util::task::TaskTracker;

use super::{
    breaker::{Breaker, State},
    retry::{self, RetryBudget},
    *,
};
use crate::config::{BreakerConfig, Class};

/// How long a healthy Fastrac takes.
const HEALTHY: Duration = Duration::from_millis(5);
/// `accounts.NAME.budget.in_flight`
const IN_FLIGHT: u64 = 64;
const RULES: BreakerConfig = BreakerConfig {
    window: Duration::from_secs(10),
    minimum: 20,
    failures: 0.5,
    open: Duration::from_secs(5),
    probes: 3,
    slow: None,
};

/// Fastrac, and what an account does on the way there.
struct Outage {
    breakers: Breakers,
    retries: Arc<RetryBudget>,
    began: Instant,
    /// From `began` until then, each call fails.
    lasts: Duration,
    /// How long a call takes that fails.
    failure: Duration,
    in_flight: AtomicU64,
    /// Calls at Fastrac, by tenth of a second.
    received: Mutex<BTreeMap<u128, u64>>,
    /// Most calls at a time while the breaker was not closed, without those sent before it opened.
    most: AtomicU64,
    probing: AtomicU64,
    served: AtomicU64,
}

impl Outage {
    fn new(lasts: Duration, failure: Duration) -> Arc<Self> {
        Arc::new(Outage {
            breakers: Breakers::new("main", &RULES),
            retries: Arc::new(RetryBudget::new(0.1)),
            began: Instant::now(),
            lasts,
            failure,
            in_flight: AtomicU64::new(0),
            received: Mutex::default(),
            most: AtomicU64::new(0),
            probing: AtomicU64::new(0),
            served: AtomicU64::new(0),
        })
    }

    fn breaker(&self) -> &Breaker {
        self.breakers.of(Class::Quote)
    }

    fn received(&self, tenths: std::ops::Range<u128>) -> u64 {
        self.received.lock().range(tenths).map(|(_, calls)| calls).sum()
    }

    /// One attempt; whether it failed. `None`: it was refused, at once.
    async fn attempt(&self) -> Option<bool> {
        self.breaker().check(true).ok()?;
        if self.in_flight.load(Relaxed) >= IN_FLIGHT {
            return None;
        }
        let (permit, is_probe) = (self.breaker().admit(true).ok()?, self.breaker().state() != State::Closed);
        self.in_flight.fetch_add(1, Relaxed);
        if is_probe {
            self.most.fetch_max(self.probing.fetch_add(1, Relaxed) + 1, Relaxed);
        }
        *self.received.lock().entry(self.began.elapsed().as_millis() / 100).or_default() += 1;
        let fails = self.began.elapsed() < self.lasts;
        time::sleep(if fails { self.failure } else { HEALTHY }).await;
        if is_probe {
            self.probing.fetch_sub(1, Relaxed);
        }
        self.in_flight.fetch_sub(1, Relaxed);
        permit.report(if fails { Evidence::Failing } else { Evidence::Healthy }, Duration::ZERO);
        Some(fails)
    }

    /// A request as the path sends it: a second attempt after a failure, if there may be one.
    async fn request(self: Arc<Self>) {
        let first = self.attempt().await;
        if first.is_some() {
            self.retries.earn();
        }
        let mut failed = first;
        if first == Some(true)
            && self.breaker().check(true).is_ok()
            && let Some(token) = self.retries.take()
        {
            retry::wait(retry::pause(None).expect("short")).await;
            token.spend();
            failed = self.attempt().await;
        }
        if failed == Some(false) {
            self.served.fetch_add(1, Relaxed);
        }
    }
}

/// The output of a future that needs only one poll.
fn poll_immediate<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// A thousand requests a second for one or ten minutes, while each call fails: at once, slowly, or at the operation's
/// timeout.
#[tokio::test(start_paused = true)]
async fn a_total_outage_gets_the_probes_and_nothing_else_and_ends_within_one_half_open_period() {
    for (failure, minutes) in
        [(Duration::from_millis(1), 1), (Duration::from_millis(200), 10), (Duration::from_secs(10), 1)]
    {
        let lasts = Duration::from_secs(60 * minutes);
        let outage = Outage::new(lasts, failure);
        // Recovers with the first half-open period that begins after the end: the one before may have to fail first.
        let recovers = lasts + failure + RULES.open + HEALTHY + Duration::from_millis(10);
        let (mut closed, mut before) = (None, 0);
        let tasks = TaskTracker::new();
        let mut clock = time::interval(Duration::from_millis(10));
        while outage.began.elapsed() < recovers + Duration::from_secs(2) {
            clock.tick().await;
            for _ in 0..10 {
                let mut request = Box::pin(outage.clone().request());
                // It is refused at once, or on its way.
                if poll_immediate(&mut request).is_none() {
                    tasks.spawn(request);
                }
            }
            let now = outage.began.elapsed();
            if now < lasts && outage.breaker().transitions(State::Open) == 0 {
                before = outage.received(0..u128::MAX);
            }
            if now >= lasts && closed.is_none() && outage.breaker().transitions(State::Closed) == 1 {
                closed = Some(now);
            }
        }
        let closed = closed.unwrap_or_else(|| panic!("{failure:?}: still not closed"));
        assert!(closed <= recovers, "{failure:?}: closed after {:?}", closed - lasts);

        // Before it opened: what had to fail first, and what was on its way then.
        assert!(before <= u64::from(RULES.minimum) + IN_FLIGHT.max(10) * 3, "{failure:?}: {before}");
        let periods = outage.breaker().transitions(State::HalfOpen);
        let most = lasts.as_secs() / RULES.open.as_secs() + 2;
        assert!(periods <= most, "{failure:?}: {periods} half-open periods");
        let tenth = closed.as_millis() / 100;
        let probes = outage.received(0..tenth) - before;
        let needed = u64::from(RULES.probes) * periods;
        assert!(probes * 10 <= needed * 11, "{failure:?}: {probes} calls in {periods} half-open periods");
        assert!(
            outage.most.load(Relaxed) <= u64::from(RULES.probes),
            "{failure:?}: {} at a time",
            outage.most.load(Relaxed)
        );

        // No herd: from then on what arrives, 100 in a tenth of a second, and nothing that has piled up.
        for tenth in tenth..tenth + 10 {
            let received = outage.received(tenth..tenth + 1);
            assert!(received <= 101, "{failure:?}: {received} in a tenth of a second");
        }
        assert_eq!(outage.breaker().state(), State::Closed);
        assert!(outage.served.load(Relaxed) >= 1900, "{failure:?}: {} of 2000", outage.served.load(Relaxed));
    }
}
