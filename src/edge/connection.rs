//! One client connection, from its first byte to its last.
//!
//! hyper parses and frames; [`DeadlineIo`] bounds every wait on the client. What always holds: once a
//! request head was read, the request is served, also while draining; heads that hyper refuses by itself
//! are counted and logged (`unread`). This file must not know what requests mean.

use std::{
    convert::Infallible,
    error::Error as StdError,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Drain,
    activity::Activity,
    client_socket::ClientSocket,
    connection_limit::{ConnectionStanding, SETTLED},
    deadlines::DeadlineIo,
    departure::DepartureWatch,
    frames::FollowedIo,
    linger::{await_reset, close, linger, linger_until_acknowledged, respond},
    request_body::RequestBody,
    shared_io::SharedIo,
    streams::{StreamDelivery, StreamExecutor},
    unfinished_head::UnfinishedHead,
    unread,
};
use crate::{
    body::{Body, Delivery, Receipt},
    caller::Client,
    deadline::{LateTimer, within},
    deferred_write::DeferredWrite,
    outcome::Code,
    path::{self, Arrival, ConnectionClose, ResponseStart},
    refusal::Refusal,
    snapshot::{Snapshot, Worker},
};

/// Maximum size of a request head over HTTP/1.1 and of hyper's read buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// Maximum size of a request head over HTTP/2, in bytes, each field with 32 more (RFC 9113, section 6.5.2): up to 960 fields,
/// which take some 75 to 150 bytes each.
const HEAD_LIST: u32 = 32 * 1024;

/// Maximum number of open streams on one HTTP/2 connection.
const STREAMS: u32 = 128;

/// Streams of a connection whose responses claim no memory of their own while they are not delivered: as many take what any
/// busy connection takes.
const UNCOUNTED_STREAMS: usize = 16;

/// How much of a response hyper takes ahead of an HTTP/2 caller, in bytes: a response of the default
/// `limits.answer_buffer` in one scheduler turn instead of three. Its pieces are shared with the cache.
const SEND_BUFFER: usize = 1024 * 1024;

/// What every connection of a data thread shares.
pub struct Context {
    /// The snapshot in force; a reload swaps it.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// State of this thread alone.
    pub worker: Arc<Worker>,
    pub drain: Drain,
    http1: http1::Builder,
    http2: http2::Builder<StreamExecutor>,
    either: auto::Builder<StreamExecutor>,
    streams: StreamExecutor,
}

impl Context {
    pub fn new(current: Arc<ArcSwap<Snapshot>>, worker: Arc<Worker>, drain: Drain) -> Arc<Self> {
        let mut http1 = http1::Builder::new();
        // Responses are small: one plain write is cheaper than a vectored one of two pieces.
        http1
            .half_close(false)
            .max_header_size(BUFFER)
            .max_buf_size(BUFFER)
            .writev(false)
            .timer(TokioTimer::new())
            .header_read_timeout(None);
        let streams = StreamExecutor::default();
        let mut http2 = http2::Builder::new(streams.clone());
        http2
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_LIST)
            .max_send_buf_size(SEND_BUFFER)
            .timer(TokioTimer::new());
        let mut either = auto::Builder::new(streams.clone());
        either.http1().half_close(false).max_buf_size(BUFFER).timer(TokioTimer::new()).header_read_timeout(None);
        either
            .http2()
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_LIST)
            .max_send_buf_size(SEND_BUFFER)
            .timer(TokioTimer::new());
        Arc::new(Context { current, worker, drain, http1, http2, either, streams })
    }

    /// Passes one request to the path.
    fn serve_request(
        &self,
        request: Request<Incoming>,
        activity: &Arc<Activity>,
        client: Client,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let began = activity.request_began(hyper::body::Body::is_end_stream(request.body()));
        let http2 = request.version() >= Version::HTTP_2;
        let close = match request.version() {
            Version::HTTP_2 => ConnectionClose::Never,
            Version::HTTP_11 => ConnectionClose::IfUnreadable,
            _ => ConnectionClose::IfUnreadableOrUnended,
        };
        let stream = http2.then(|| self.streams.open(activity));
        let has_chunks = request.version() >= Version::HTTP_11;
        let closing = self.drain.closing.clone();
        let guard = RequestGuard { activity: activity.clone(), closing, stream, has_chunks, delivers: false };
        let arrival = Arrival { began, close, client, guard };
        let request = request.map(|body| RequestBody::new(body, http2, activity.clone()));
        path::serve(self.current.load_full(), self.worker.clone(), request, arrival)
    }
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 with prior knowledge, or by ALPN.
    Http2,
    /// Too few bytes were received to tell; hyper decides later.
    Either,
}

impl Protocol {
    /// Detects the HTTP/2 preface in the first bytes of a connection (RFC 9113, section 3.4).
    pub fn of(first: &[u8]) -> Self {
        const PREFACE: &[u8] = b"PRI ";
        if first.len() >= PREFACE.len() && first.starts_with(PREFACE) {
            Protocol::Http2
        } else if PREFACE.starts_with(first) {
            Protocol::Either
        } else {
            Protocol::Http1
        }
    }
}

/// Serves a connection until it ends by itself, is ended by the drain, or makes room for another one.
/// `client` is who opened it.
pub async fn serve<S>(
    io: S,
    protocol: Protocol,
    mut client: Client,
    standing: &Arc<ConnectionStanding>,
    context: Arc<Context>,
) where
    S: AsyncRead + AsyncWrite + ClientSocket + Unpin + Send + 'static,
{
    let (activity, strangers) = {
        let current = context.current.load();
        (Activity::new(&current.limits, standing.clone()), current.memory_shares.of_unidentified().clone())
    };
    let shared_io = SharedIo::new(io);
    client.connection = Some(shared_io.link());
    activity.receipts.are_of(shared_io.link());
    let head = UnfinishedHead::of(strangers, client.identified.clone());
    let io = DeferredWrite::new(DeadlineIo::new(shared_io.clone(), activity.clone(), head));
    let followed = |io| TokioIo::new(FollowedIo::new(io, activity.clone()));
    let (shared, state) = (context.clone(), activity.clone());
    let service = service_fn(move |request| shared.serve_request(request, &state, client.clone()));
    let watch = DepartureWatch::new(shared_io.clone(), activity.clone());
    match protocol {
        Protocol::Http1 => {
            drive(context.http1.serve_connection(TokioIo::new(io), service), &context, watch, standing).await
        }
        // Boxed, so that the future of an idle HTTP/1 connection is not as large as these.
        Protocol::Http2 => {
            Box::pin(drive(context.http2.serve_connection(followed(io), service), &context, watch, standing)).await;
        }
        Protocol::Either => {
            Box::pin(drive(context.either.serve_connection(followed(io), service), &context, watch, standing)).await;
        }
    }
    if S::CLOSE_WRITES && !activity.has_unended_response() && activity.receipts.undecided_until().is_some() {
        await_decision(&activity, &shared_io, &context).await;
        context.drain.cut.run_until_cancelled(Box::pin(close(shared_io.clone()))).await;
    }
    if activity.has_unended_response() {
        shared_io.reset_on_close();
    } else if activity.is_head_refused() && !activity.is_on_http2() {
        let refuses = standing.run_until_told(Box::pin(refuse_head(shared_io.clone(), &context)));
        context.drain.cut.run_until_cancelled(refuses).await;
    } else if activity.is_given_up() {
        await_decision(&activity, &shared_io, &context).await;
    } else {
        let may_be_sending = activity.may_be_sending();
        if !may_be_sending {
            await_decision(&activity, &shared_io, &context).await;
        }
        // Else one more byte from the client would take it what it has not received.
        let lingers = async {
            if may_be_sending || shared_io.has_unread() {
                linger(shared_io.clone()).await;
            } else {
                linger_until_acknowledged(shared_io.clone()).await;
            }
        };
        context.drain.cut.run_until_cancelled(standing.run_until_told(Box::pin(lingers))).await;
    }
    activity.receipts.decide(|| shared_io.was_reset() || shared_io.has_unacknowledged());
}

/// Waits until it can be told whether the responses that were written last have reached the client.
async fn await_decision<S>(activity: &Activity, io: &SharedIo<S>, context: &Context)
where
    S: AsyncWrite + ClientSocket + Unpin + Send,
{
    let Some(until) = activity.receipts.undecided_until().filter(|_| !io.was_reset()) else { return };
    let is_cut = context.drain.cut.run_until_cancelled(Box::pin(await_reset(io.clone(), until))).await.is_none();
    // Cut off before it could be seen: to the safe side.
    activity.receipts.decide(|| is_cut || io.was_reset() || io.has_unacknowledged());
}

/// Tells a client that there is no memory for the rest of its request's head.
async fn refuse_head<S: AsyncRead + AsyncWrite + Unpin>(io: S, context: &Context) {
    let message = "The gateway buffers as many bytes of request heads as it may (`limits.memory`); try again in 1 s, and \
                   send the head without pauses";
    let refusal = Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1));
    let response = unread::refuse(&context.current.load().recorder, &refusal);
    respond(io, &response).await;
}

/// Why a connection is not simply polled any more.
enum Ending<T> {
    Ended(T),
    /// There are as many connections as may be, and this one was told to leave.
    MakesRoom,
    Drains,
}

/// Polls a connection to its end.
async fn drive<C, S>(connection: C, context: &Context, mut watch: DepartureWatch<S>, standing: &ConnectionStanding)
where
    C: GracefulConnection,
    C::Error: Into<Box<dyn StdError + Send + Sync>>,
    S: ClientSocket + Send,
{
    let activity = &*watch.activity.clone();
    let mut connection = std::pin::pin!(connection);
    let mut stopped = std::pin::pin!(context.drain.stop.cancelled());
    // The number first: it is behind what `told` has seen, if they differ.
    let mut times_told = standing.times_told();
    let mut told = std::pin::pin!(standing.told());
    let (mut registered, mut sent_goaway) = (false, false);
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = poll(connection.as_mut(), context, &mut watch, cx) {
            return Poll::Ready(Ending::Ended(ended));
        }
        if standing.is_to_leave() && !activity.has_work() {
            return Poll::Ready(Ending::MakesRoom);
        }
        // HTTP/2 has no `Connection: close`. GOAWAY comes with a request in progress or a response: a client that is just
        // sending its first request could not send it.
        let serves = activity.is_busy() || activity.is_closing();
        if context.drain.begun() && !sent_goaway && activity.is_on_http2() && serves {
            sent_goaway = true;
            activity.heads.go_away();
            connection.as_mut().graceful_shutdown();
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Ending::Ended(ended));
            }
        }
        // The first poll registers the waker; afterwards checking the flags is enough, and cheaper.
        let registered = std::mem::replace(&mut registered, true);
        if !registered || times_told != standing.times_told() {
            // Noted only with the wake-up, which comes after the number.
            while told.as_mut().poll(cx).is_ready() {
                times_told = standing.times_told();
                told.set(standing.told());
                cx.waker().wake_by_ref();
            }
        }
        if registered && !context.drain.stopped() {
            return Poll::Pending;
        }
        stopped.as_mut().poll(cx).map(|()| Ending::Drains)
    });
    let ended = match ended.await {
        Ending::Ended(ended) => ended,
        // What a stranger was told lately, it can still read.
        Ending::MakesRoom if standing.is_identified() || activity.since_last_head() < SETTLED => {
            let mut winds_down = std::pin::pin!(wind_down(connection, context, &mut watch));
            let ends = async {
                loop {
                    if let Some(ended) = within(SETTLED, winds_down.as_mut()).await {
                        return ended;
                    }
                    // Unless a request has come meanwhile, or the response to an order may not be written.
                    if standing.is_to_leave() && !activity.has_work() && activity.receipts.are_none() {
                        activity.given_up.store(true, Ordering::Relaxed);
                        return Ok(());
                    }
                }
            };
            context.drain.cut.run_until_cancelled(ends).await.unwrap_or(Ok(()))
        }
        Ending::MakesRoom => Ok(()),
        Ending::Drains => tokio::select! {
            ended = wind_down(connection, context, &mut watch) => ended,
            () = context.drain.cut.cancelled() => return,
        },
    };
    let made_room = standing.is_to_leave() && (activity.is_given_up() || !standing.is_identified());
    if made_room && activity.is_in_head() && !activity.is_head_refused() {
        return drop(context.current.load().recorder.unreadable(None, Code::GatewayOverloaded));
    }
    let error = ended.err().map(Into::into);
    unread::report_at_end(&context.current.load().recorder, activity, error.as_deref());
}

/// Polls a connection, and reports the heads that h2 has refused meanwhile. The connection ends if its client has left.
fn poll<C: GracefulConnection, S: ClientSocket + Send>(
    connection: Pin<&mut C>,
    context: &Context,
    watch: &mut DepartureWatch<S>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<(), C::Error>> {
    watch.before_poll();
    let polled = connection.poll(cx);
    if let Poll::Ready(ended) = &polled {
        if ended.is_ok() {
            watch.activity.response_is_unended(false);
        }
        return polled;
    }
    if let Some(refused) = watch.activity.heads.take_refused() {
        unread::report(&context.current.load().recorder, refused);
    }
    if watch.poll_left(cx) { Poll::Ready(Ok(())) } else { Poll::Pending }
}

/// How long a connection without a request so far may still send one after the drain has begun.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How often a connection that was told to end is asked whether it still has a request in progress or a response to be
/// written.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// Ends a connection after the requests in progress. A head that has begun is one of them, and so is one that has
/// arrived but was not read yet. An HTTP/2 client need not acknowledge that the connection ends: without a request in
/// progress and a response to be written, it is closed after [`IDLE_CHECK`]. An HTTP/1.1 connection ends by itself once
/// its last response is written.
async fn wind_down<C: GracefulConnection, S: ClientSocket + Send>(
    mut connection: Pin<&mut C>,
    context: &Context,
    watch: &mut DepartureWatch<S>,
) -> Result<(), C::Error> {
    let activity = &*watch.activity.clone();
    let grace = if activity.has_begun_a_request() { Duration::ZERO } else { FIRST_REQUEST };
    let mut timer = LateTimer::at(Instant::now() + grace);
    let mut shut_down = false;
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = poll(connection.as_mut(), context, watch, cx) {
                return Poll::Ready(ended);
            }
            if timer.poll_elapsed(cx).is_pending() {
                return Poll::Pending;
            }
            timer.reset(Instant::now() + IDLE_CHECK);
            if activity.is_in_head() {
                continue;
            }
            if !std::mem::replace(&mut shut_down, true) {
                activity.heads.go_away();
                connection.as_mut().graceful_shutdown();
            } else if activity.is_on_http2() && !activity.has_responses() {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}

/// Reports the progress of one request to its connection.
struct RequestGuard {
    activity: Arc<Activity>,
    /// Whether the gateway is draining.
    closing: Arc<AtomicBool>,
    /// On HTTP/2.
    stream: Option<Arc<StreamDelivery>>,
    /// Whether the protocol says where a response without a length ends.
    has_chunks: bool,
    /// The response is complete here, and waits for its client.
    delivers: bool,
}

impl path::ExchangeGuard for RequestGuard {
    fn is_ending(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.activity.standing.is_to_leave()
    }

    fn is_crowded(&self) -> bool {
        self.stream.is_some() && self.activity.has_streams_beyond(UNCOUNTED_STREAMS)
    }

    fn answered(&mut self, response: ResponseStart) -> Option<Arc<dyn Delivery>> {
        // Over HTTP/2, GOAWAY follows it.
        if response.closes || (self.stream.is_some() && self.is_ending()) {
            self.activity.response_closes();
        }
        if response.ends_by.is_none() && response.receipt.is_none() {
            self.delivers = true;
            self.activity.delivery_began(response.at);
        }
        if !self.has_chunks && response.ends_by.is_some() {
            self.activity.response_is_unended(true);
        }
        match &self.stream {
            Some(stream) => {
                stream.begin(response.ends_by, response.receipt, response.room);
                Some(stream.clone())
            }
            None if response.ends_by.is_none() && response.receipt.is_none() => None,
            None => {
                let (ends_by, receipt) = (response.ends_by, Mutex::new(response.receipt));
                Some(Arc::new(Http1Delivery { activity: self.activity.clone(), ends_by, receipt }))
            }
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.request_ended(self.delivers);
    }
}

/// How far the caller has taken an HTTP/1.1 response.
struct Http1Delivery {
    activity: Arc<Activity>,
    /// When it must be complete, if it is still being received.
    ends_by: Option<Instant>,
    /// Told when it has reached the caller.
    receipt: Mutex<Option<Box<dyn Receipt>>>,
}

impl Delivery for Http1Delivery {
    fn offered(&self) {
        if self.ends_by.is_some() {
            self.activity.response_ends_at(self.ends_by);
        }
    }

    fn awaits_upstream(&self) {
        if self.ends_by.is_some() {
            self.activity.response_ends_at(None);
        }
    }

    /// hyper copies each piece at once into its own buffer, whose writes the connection watches.
    fn written(&self, _bytes: usize) {}

    fn taken(&self) {
        self.activity.receipts.taken(self.receipt.lock().take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for (first, protocol) in [
            ("PRI * HTTP/2.0", Protocol::Http2),
            ("PRI ", Protocol::Http2),
            ("PR", Protocol::Either),
            ("P", Protocol::Either),
            ("", Protocol::Either),
            ("PROPFIND /", Protocol::Http1),
            ("POST", Protocol::Http1),
            ("G", Protocol::Http1),
        ] {
            assert_eq!(Protocol::of(first.as_bytes()), protocol, "{first}");
        }
    }
}
