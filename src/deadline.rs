//! A point in time that ends a wait.
//!
//! Every wait between the head of a request and its response takes a [`Deadline`] and ends there at the latest. Also
//! measures waits. Reads `x-gateway-timeout`, because only the caller may shorten the time. Fails with [`InvalidTimeout`].
//!
//! What has arrived is read before the clock is. After the process was stopped (SIGSTOP, a suspended machine) or its
//! thread was starved, timers fire before the reactor has reported what arrived in the meantime, because a stop
//! interrupts `epoll_wait`. So a wait does not end when its timer has fired, but after the reactor was polled once
//! more: [`until`] for futures, [`LateTimer`] for `poll` functions. A future that waits for another task, which passes on
//! a piece at a time (hyper, of a request's body), goes on as long as each poll of the reactor brings it another one.
//! What a future waits for may also be the work of another thread, which goes on at the same moment and has to read first
//! what arrived. So [`until`] waits [`HAND_OVER`] longer, once, if its timer fired [`LATE`] or more after it was due, which
//! shows that this thread did not run. All of this costs nothing before the timer fires.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// Milliseconds, above 0, in which the caller wants the whole response.
const TIMEOUT: HeaderName = HeaderName::from_static("x-gateway-timeout");

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// How long what had arrived at the end of a wait may take to be read, if it comes in pieces.
pub(crate) const ARRIVED_WITHIN: Duration = Duration::from_secs(1);

/// A timer that fires so much after it was due shows that its thread did not run: those of tokio are up to 1 ms late, and a
/// turn of a busy thread takes a few, after which deadlines must still be exact.
const LATE: Duration = Duration::from_millis(20);

/// How long other threads have, after such a timer, to pass on what arrived while it was due. They need a few turns.
const HAND_OVER: Duration = Duration::from_millis(100);

/// How finely the time is measured in which a thread runs.
const SLICE: Duration = Duration::from_millis(250);

/// When a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// `x-gateway-timeout` cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimeout {
    #[error("x-gateway-timeout must be a whole number of milliseconds above 0: send digits only")]
    Number,
    /// Which of them would count?
    #[error("x-gateway-timeout is sent more than once: send one")]
    Repeated,
}

impl Deadline {
    /// One that bounds nothing.
    pub(crate) fn never() -> Self {
        Deadline(Instant::now() + YEAR)
    }

    /// `limit` after `began`; a year after it, if the clock does not reach that far.
    pub fn after(began: Instant, limit: Duration) -> Self {
        Deadline(began.checked_add(limit).unwrap_or(began + YEAR))
    }

    /// One that is earlier by this time.
    pub(crate) fn earlier(self, by: Duration) -> Self {
        self.0.checked_sub(by).map_or(self, Deadline)
    }

    /// One that is later by this time.
    pub(crate) fn later(self, by: Duration) -> Self {
        Deadline::after(self.0, by)
    }

    /// One that is at most `limit` from now.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Deadline::after(Instant::now(), limit).min(self)
    }

    /// One `limit` from now, but so much earlier than this one that there is time to do something else after it: a tenth
    /// of what is left, at most 100 ms.
    pub(crate) fn leaving_room(self, limit: Duration) -> Self {
        let now = Instant::now();
        let room = (self.0.saturating_duration_since(now) / 10).min(Duration::from_millis(100));
        Deadline::after(now, limit).min(self.earlier(room))
    }

    /// As a point on tokio's clock.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Whether it has passed at `now`.
    pub(crate) fn is_over(self, now: Instant) -> bool {
        now >= self.0
    }

    /// Whether `pause` would end before it.
    pub(crate) fn leaves(self, pause: Duration) -> bool {
        Instant::now() + pause < self.0
    }

    /// The output of `future`, or `None` if the deadline passes first.
    pub(crate) async fn bound<F: Future>(self, future: F) -> Option<F::Output> {
        until(self.0, future).await
    }

    /// The output of `future`, or `None` if the deadline passes first, or `limit` of the time in which this thread runs: a
    /// pause of the process counts as [`SLICE`] at most, and [`LATE`]. For what others must have done in time, a disk say: they could not
    /// tell before the pause was over.
    pub(crate) async fn bound_running<F: Future>(self, limit: Duration, future: F) -> Option<F::Output> {
        let (mut future, mut left) = (pin!(future), limit);
        loop {
            let began = Instant::now();
            let end = self.within(left.min(SLICE));
            if left <= SLICE || end == self {
                return end.bound(future).await;
            }
            if let Ok(output) = timeout_at(end.0, future.as_mut()).await {
                return Some(output);
            }
            left = left.saturating_sub(began.elapsed().min(SLICE + LATE));
        }
    }
}

/// The output of `future`, or `None` if `end` passes first.
pub(crate) async fn until<F: Future>(end: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // If `end` had passed when the wait began, it shows nothing that the timer is late.
    let mut began_before = false;
    {
        let mut in_time = pin!(timeout_at(end, future.as_mut()));
        let in_time = poll_fn(|cx| {
            let polled = in_time.as_mut().poll(cx);
            began_before |= polled.is_pending();
            polled
        });
        if let Ok(output) = in_time.await {
            return Some(output);
        }
    }
    // On the heap: few waits come to it.
    Box::pin(after(end, began_before, future)).await
}

/// The output of a future whose time was up at `end`, if it was only not read yet, by this thread or by another one.
async fn after<F: Future>(end: Instant, began_before: bool, mut future: Pin<&mut F>) -> Option<F::Output> {
    let now = Instant::now();
    if began_before
        && now.saturating_duration_since(end) >= LATE
        && let Ok(output) = timeout_at(now + HAND_OVER, future.as_mut()).await
    {
        return Some(output);
    }
    last_turns(future).await
}

/// The output of a future whose time is up, if it was only not read yet. Ends after a poll of the reactor that has brought
/// the future nothing.
async fn last_turns<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut give_up_at = None;
    // Of the poll before; there is none that tells of the first turn.
    let mut before: Option<Arc<SeenWaker>> = None;
    loop {
        let mut turn = ReactorTurn::default();
        poll_fn(|cx| turn.poll_over(cx)).await;
        let now = Instant::now();
        let brought = before.is_none_or(|waker| waker.woken.load(Relaxed));
        let polled = poll_fn(|cx| {
            let waker = Arc::new(SeenWaker { woken: AtomicBool::new(false), task: cx.waker().clone() });
            let polled = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker.clone())));
            Poll::Ready((polled, waker))
        });
        before = match polled.await {
            (Poll::Ready(output), _) => return Some(output),
            (Poll::Pending, _) if !brought || now >= *give_up_at.get_or_insert(now + ARRIVED_WITHIN) => return None,
            (Poll::Pending, waker) => Some(waker),
        };
    }
}

/// Wakes a task, and notes that it did.
#[derive(Debug)]
struct SeenWaker {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for SeenWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Relaxed);
        self.task.wake_by_ref();
    }
}

/// The same, with a duration from now.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    until(Instant::now() + limit, future).await
}

/// A timer that elapses after the reactor was polled once more. Poll the I/O that it limits first.
#[derive(Debug)]
pub(crate) struct LateTimer {
    sleep: Pin<Box<Sleep>>,
    turn: ReactorTurn,
}

impl LateTimer {
    pub(crate) fn at(end: Instant) -> Self {
        LateTimer { sleep: Box::pin(sleep_until(end)), turn: ReactorTurn::default() }
    }

    /// When it fires.
    pub(crate) fn end(&self) -> Instant {
        self.sleep.deadline()
    }

    /// Whether the next poll is more than a check.
    pub(crate) fn has_fired(&self) -> bool {
        self.sleep.is_elapsed()
    }

    pub(crate) fn reset(&mut self, end: Instant) {
        self.sleep.as_mut().reset(end);
        self.turn = ReactorTurn::default();
    }

    /// Ready once it has fired and the reactor was polled after that.
    pub(crate) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.sleep.is_elapsed() {
            ready!(self.sleep.as_mut().poll(cx));
        }
        self.turn.poll_over(cx)
    }
}

/// One poll of the reactor, from the first call of `poll_over` on.
#[derive(Debug, Default)]
struct ReactorTurn(Option<Arc<TurnWaker>>);

#[derive(Debug)]
struct TurnWaker {
    over: AtomicBool,
    task: Waker,
}

impl ReactorTurn {
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let turn = match &self.0 {
            Some(turn) if turn.over.load(Relaxed) => return Poll::Ready(()),
            Some(turn) if turn.task.will_wake(cx.waker()) => return Poll::Pending,
            _ => self.0.insert(Arc::new(TurnWaker { over: AtomicBool::new(false), task: cx.waker().clone() })),
        };
        // `yield_now` hands the waker to the scheduler, which calls it after it has polled the reactor. A task can be
        // polled earlier, by other wakers, so that being polled again proves nothing.
        let waker = Waker::from(turn.clone());
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        Poll::Pending
    }
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.over.store(true, Relaxed);
        self.task.wake_by_ref();
    }
}

/// How long the caller of one request waits, from the request's first byte on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallerTimeout {
    /// When the first byte came.
    began: Instant,
    /// `x-gateway-timeout`; absent: the limits of configuration and operation decide.
    ends: Option<Deadline>,
}

impl CallerTimeout {
    /// Reads `x-gateway-timeout` of a request whose first byte came at `began`.
    ///
    /// # Errors
    /// [`InvalidTimeout`] if it is not one whole number of milliseconds above 0. One beyond the clock is as long as can be.
    pub(crate) fn read(headers: &HeaderMap, began: Instant) -> Result<Self, InvalidTimeout> {
        let mut lines = headers.get_all(TIMEOUT).iter();
        let Some(value) = lines.next() else { return Ok(CallerTimeout { began, ends: None }) };
        if lines.next().is_some() {
            return Err(InvalidTimeout::Repeated);
        }
        let text = value.to_str().unwrap_or_default().trim_ascii();
        // `parse` takes a sign too.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidTimeout::Number);
        }
        let wanted = Duration::from_millis(text.parse().unwrap_or(u64::MAX));
        if wanted.is_zero() {
            return Err(InvalidTimeout::Number);
        }
        Ok(CallerTimeout { began, ends: began.checked_add(wanted).map(Deadline) })
    }

    /// When the whole request must have come: `limit` (`limits.request`) after its first byte, or earlier.
    pub(crate) fn upload(self, limit: Duration) -> Deadline {
        self.shorten(Deadline::after(self.began, limit))
    }

    /// `deadline`, or earlier if the caller does not wait so long.
    pub(crate) fn shorten(self, deadline: Deadline) -> Deadline {
        self.ends.map_or(deadline, |ends| ends.min(deadline))
    }
}

/// The output of a future. `add` is told how long it was pending, also if it is dropped meanwhile; it is not called, and
/// the clock not read, if the future was ready at once. The future is pinned by the caller (`pin!`, `Box::pin`): an async
/// function that owned it would have room for it twice.
pub(crate) async fn timed<F: Future + Unpin>(mut future: F, add: impl FnOnce(Duration)) -> F::Output {
    let mut wait = Wait { since: None, add: Some(add) };
    poll_fn(|cx| {
        let polled = Pin::new(&mut future).poll(cx);
        if polled.is_pending() {
            wait.since.get_or_insert_with(Instant::now);
        }
        polled
    })
    .await
}

/// A wait in progress: how long it took is told when it is dropped.
struct Wait<A: FnOnce(Duration)> {
    since: Option<Instant>,
    add: Option<A>,
}

impl<A: FnOnce(Duration)> Drop for Wait<A> {
    fn drop(&mut self) {
        if let (Some(since), Some(add)) = (self.since, self.add.take()) {
            add(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::UnixStream};

    use super::*;

    /// A socket with a byte of which the reactor knows nothing yet: it was written, and the deadline has passed, in the
    /// turn that began before.
    async fn behind() -> (UnixStream, UnixStream, Instant) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let nothing = until(Instant::now(), ours.read_u8()).await;
        assert!(nothing.is_none());
        theirs.try_write(b"x").unwrap();
        (ours, theirs, Instant::now())
    }

    #[tokio::test]
    async fn what_has_arrived_is_read_before_the_clock() {
        let (mut ours, _theirs, passed) = behind().await;
        assert_eq!(until(passed, ours.read_u8()).await.transpose().unwrap(), Some(b'x'));

        let (mut ours, _theirs, passed) = behind().await;
        let mut timer = LateTimer::at(passed);
        let mut read = pin!(ours.read_u8());
        let read = poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read.ok()),
            Poll::Pending => timer.poll_elapsed(cx).map(|()| None),
        });
        assert_eq!(read.await, Some(b'x'));
    }

    /// Another task reads, and passes on a byte at a time.
    #[tokio::test]
    async fn what_has_arrived_in_pieces_is_read_before_the_clock() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (pass_on, mut bytes) = tokio::sync::mpsc::channel(1);
        let mut reading = tokio::task::JoinSet::new();
        reading.spawn(async move {
            while let Ok(byte) = ours.read_u8().await
                && pass_on.send(byte).await.is_ok()
            {}
        });
        let mut left = 100;
        let mut all = pin!(async {
            while left > 0 {
                bytes.recv().await.unwrap();
                left -= 1;
            }
        });
        theirs.try_write(&[7; 100]).unwrap();
        assert!(until(Instant::now(), all.as_mut()).await.is_some());
    }

    /// The thread does not run for this time.
    async fn pause(time: Duration) {
        tokio::task::yield_now().await;
        std::thread::sleep(time);
    }

    /// Here it takes another task of this thread some turns.
    #[tokio::test]
    async fn what_others_pass_on_after_a_pause_is_read() {
        let (pass_on, passed_on) = tokio::sync::oneshot::channel();
        let others = async {
            pause(Duration::from_millis(100)).await;
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            pass_on.send(()).unwrap();
        };
        let end = Instant::now() + Duration::from_millis(20);
        let (output, ()) = tokio::join!(until(end, passed_on), others);
        assert_eq!(output, Some(Ok(())));
    }

    #[tokio::test]
    async fn after_a_pause_other_threads_are_waited_for_once() {
        let end = Instant::now() + Duration::from_millis(5);
        let (output, ()) = tokio::join!(until(end, std::future::pending::<()>()), pause(Duration::from_millis(80)));
        assert!(output.is_none() && end.elapsed() >= HAND_OVER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_takes_little_of_a_limit_and_all_of_a_deadline() {
        let second = Duration::from_secs(1);
        let deadline = |seconds| Deadline::after(Instant::now(), second * seconds);
        let paused = async {
            tokio::task::yield_now().await;
            tokio::time::advance(10 * second).await;
            tokio::time::sleep(second * 3 / 2).await;
        };
        assert!(deadline(60).bound_running(2 * second, paused).await.is_some());
        for (seconds, taken) in [(60, 2), (1, 1)] {
            let began = Instant::now();
            assert!(deadline(seconds).bound_running(2 * second, std::future::pending::<()>()).await.is_none());
            assert_eq!(began.elapsed(), second * taken);
        }
    }

    /// A deadline that had passed before the wait began, or that is met exactly, is extended by nothing.
    #[tokio::test(start_paused = true)]
    async fn without_a_pause_deadlines_are_exact() {
        let now = Instant::now();
        assert!(until(now - Duration::from_secs(3), std::future::pending::<()>()).await.is_none());
        assert!(until(now + Duration::from_secs(3), std::future::pending::<()>()).await.is_none());
        assert_eq!(now.elapsed(), Duration::from_secs(3));
    }

    /// A future to which each turn brings something ends all the same.
    #[tokio::test]
    async fn what_never_ends_is_not_waited_for() {
        let (endless, began) = (
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            }),
            Instant::now(),
        );
        assert!(until(began, endless).await.is_none());
        assert!(began.elapsed() >= ARRIVED_WITHIN);
    }

    #[tokio::test]
    async fn a_timer_that_is_polled_often_waits_for_the_reactor_all_the_same() {
        let mut timer = LateTimer::at(Instant::now());
        let mut first = true;
        poll_fn(|cx| {
            if std::mem::take(&mut first) {
                (0..3).for_each(|_| assert!(timer.poll_elapsed(cx).is_pending()));
            }
            timer.poll_elapsed(cx)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_spent_pending_counts() {
        let (nap, mut took) = (Duration::from_millis(20), Duration::ZERO);
        assert_eq!(timed(pin!(async { 1 }), |_| panic!("it was ready at once")).await, 1);
        timed(pin!(tokio::time::sleep(nap)), |time| took += time).await;
        assert_eq!(took, nap);
        // Whoever waits may leave.
        let sleep = Box::pin(tokio::time::sleep(nap));
        let left = tokio::time::timeout(nap / 2, timed(sleep, |time| took += time)).await.is_err();
        assert_eq!((left, took), (true, nap * 3 / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_leaves_room_ends_before_the_deadline() {
        let now = Instant::now();
        let of = |left| Deadline::after(now, left).leaving_room(Duration::from_secs(2)).instant() - now;
        let seconds = |text: f64| Duration::from_secs_f64(text);
        assert_eq!((of(seconds(10.0)), of(seconds(2.05))), (seconds(2.0), seconds(1.95)));
        assert_eq!((of(seconds(0.5)), of(Duration::ZERO)), (seconds(0.45), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_can_only_shorten_it() {
        let (began, limit) = (Instant::now(), Duration::from_secs(2));
        let of = |value: &'static str| {
            let headers = HeaderMap::from_iter([(TIMEOUT, value.parse().unwrap())]);
            CallerTimeout::read(&headers, began).map(|timeout| timeout.upload(limit).instant() - began)
        };
        assert_eq!((of("150"), of(" 9000 ")), (Ok(Duration::from_millis(150)), Ok(limit)));
        for beyond_the_clock in ["18446744073709551615", "18446744073709551616"] {
            assert_eq!(of(beyond_the_clock), Ok(limit));
        }
        for odd in ["0", "000", "-1", "+300", "1.5", "", "1s", "1_000", "0x10", "1e3", "100, 200", "\u{663}"] {
            assert_eq!(of(odd), Err(InvalidTimeout::Number), "{odd}");
        }
        let mut headers = HeaderMap::from_iter([(TIMEOUT, "100".parse().unwrap())]);
        headers.append(TIMEOUT, "100".parse().unwrap());
        assert_eq!(CallerTimeout::read(&headers, began).unwrap_err(), InvalidTimeout::Repeated);
    }
}
