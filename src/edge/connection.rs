//! One client connection, from its first byte to its last.

use std::{convert::Infallible, error::Error, future::Future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Drain,
    phase::{Phase, Timed},
};
use crate::{
    body::Body,
    caller::Certificate,
    deferred_write::DeferredWrite,
    outcome::Code,
    path::{self, Arrival},
    snapshot::{Snapshot, Worker},
};

/// Longest head, and what hyper buffers of a request: bytes.
const BUFFER: usize = 64 * 1024;

/// Streams that one HTTP/2 connection may have open.
const STREAMS: u32 = 128;

/// What every connection of a data thread shares.
pub struct Context {
    /// The configuration in force, swapped by a reload.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// The thread's own.
    pub worker: Arc<Worker>,
    /// How far the end has come.
    pub drain: Drain,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    either: auto::Builder<TokioExecutor>,
}

impl Context {
    /// Of a thread that serves `current`.
    pub fn new(current: Arc<ArcSwap<Snapshot>>, worker: Arc<Worker>, drain: Drain) -> Arc<Self> {
        let mut http1 = http1::Builder::new();
        // Answers are small: one plain write costs less than gathering two pieces.
        http1
            .half_close(false)
            .max_header_size(BUFFER)
            .max_buf_size(BUFFER)
            .writev(false)
            .timer(TokioTimer::new())
            .header_read_timeout(None);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.max_concurrent_streams(STREAMS).max_header_list_size(BUFFER as u32).timer(TokioTimer::new());
        let mut either = auto::Builder::new(TokioExecutor::new());
        either.http1().half_close(false).max_buf_size(BUFFER).timer(TokioTimer::new()).header_read_timeout(None);
        either.http2().max_concurrent_streams(STREAMS).max_header_list_size(BUFFER as u32).timer(TokioTimer::new());
        Arc::new(Context { current, worker, drain, http1, http2, either })
    }

    /// Takes a request to the path.
    fn ask(
        &self,
        request: Request<Incoming>,
        (phase, certificate): (&Arc<Phase>, &Option<Arc<Certificate>>),
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let began = phase.request_began();
        let http2 = request.version() >= Version::HTTP_2;
        if http2 {
            phase.is_http2();
        }
        let close = !http2 && self.drain.begun();
        let certificate = certificate.clone();
        let arrival = Arrival { began, close, certificate, ended: Ended { phase: phase.clone(), answering: false } };
        path::serve(self.current.load_full(), self.worker.clone(), request, arrival)
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge, or by ALPN.
    Http2,
    /// Its first bytes were too few to tell.
    Either,
}

impl Protocol {
    /// By the first bytes of a connection (RFC 9113, section 3.4).
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

/// Serves a connection until it ends, by itself or by the drain. What it speaks was seen, and so was
/// the certificate that its client showed.
pub async fn serve<S>(io: S, (speaks, certificate): (Protocol, Option<Arc<Certificate>>), context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = {
        let current = context.current.load();
        Phase::new(&current.limits)
    };
    let io = TokioIo::new(DeferredWrite::new(Timed::new(io, phase.clone())));
    let (asked, watched) = (context.clone(), phase.clone());
    let service = service_fn(move |request| asked.ask(request, (&watched, &certificate)));
    match speaks {
        Protocol::Http1 => carry(context.http1.serve_connection(io, service), &context, &phase).await,
        // On the heap: an idle HTTP/1 connection should not be as large as these.
        Protocol::Http2 => Box::pin(carry(context.http2.serve_connection(io, service), &context, &phase)).await,
        Protocol::Either => Box::pin(carry(context.either.serve_connection(io, service), &context, &phase)).await,
    }
}

async fn carry<C>(connection: C, context: &Context, phase: &Phase)
where
    C: GracefulConnection,
    C::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut connection = std::pin::pin!(connection);
    let stop = &context.drain.stop;
    let mut stopped = std::pin::pin!(stop.cancelled());
    let mut asked = false;
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // This task will be woken by the first poll; later a look is enough, and cheaper.
        if std::mem::replace(&mut asked, true) && !stop.is_cancelled() {
            return Poll::Pending;
        }
        stopped.as_mut().poll(cx).map(|()| None)
    });
    let ended = match ended.await {
        Some(ended) => ended,
        None => tokio::select! {
            ended = wind_down(connection, phase) => ended,
            () = context.drain.cut.cancelled() => return,
        },
    };
    if let Err(error) = ended {
        unreadable(context, phase, &*error.into());
    }
}

/// How long a connection that has asked nothing yet may still ask once the drain has begun.
pub(super) const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// Ends a connection after the request under way.
async fn wind_down<C: GracefulConnection>(mut connection: Pin<&mut C>, phase: &Phase) -> Result<(), C::Error> {
    if !phase.is_used()
        && let Ok(ended) = tokio::time::timeout(FIRST_REQUEST, connection.as_mut()).await
    {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Tells a connection how far a request is.
struct Ended {
    phase: Arc<Phase>,
    answering: bool,
}

impl path::Guard for Ended {
    fn answered(&mut self) {
        self.answering = true;
        self.phase.answer_began();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.phase.request_ended(self.answering);
    }
}

/// Counts a head that hyper could not read, and has answered itself.
fn unreadable(context: &Context, phase: &Phase, error: &(dyn Error + Send + Sync + 'static)) {
    let Some((status, code)) = judge(phase, error) else { return };
    let record = context.current.load().recorder.unreadable(status, code);
    drop(record);
}

fn judge(phase: &Phase, error: &(dyn Error + 'static)) -> Option<(Option<u16>, Code)> {
    let hyper = error.downcast_ref::<hyper::Error>();
    if hyper.is_some_and(hyper::Error::is_parse_too_large) {
        // hyper answers 414 to a long target, 431 to long headers, and tells them apart only in words.
        let target = error.source().unwrap_or(error).to_string().contains("URI");
        return Some((Some(if target { 414 } else { 431 }), Code::RequestHeaders));
    }
    if hyper.is_some_and(hyper::Error::is_parse) {
        return Some((Some(400), Code::RequestMalformed));
    }
    // The head broke off: by its deadline, or because the peer left.
    phase.is_in_head().then_some((None, Code::RequestTimeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_is_spoken() {
        for (first, speaks) in [
            ("PRI * HTTP/2.0", Protocol::Http2),
            ("PRI ", Protocol::Http2),
            ("PR", Protocol::Either),
            ("P", Protocol::Either),
            ("", Protocol::Either),
            ("PROPFIND /", Protocol::Http1),
            ("POST", Protocol::Http1),
            ("G", Protocol::Http1),
        ] {
            assert_eq!(Protocol::of(first.as_bytes()), speaks, "{first}");
        }
    }
}
