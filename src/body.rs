//! The body of a request, collected whole, and the body of a response.
//!
//! What always holds: a request is read whole before anything is spent on it, up to a limit, within its deadline and
//! under a claim for its memory, and so is its head if that is large;
//! the [`BodyEnd`] of a response is notified at most once, when the last byte is taken or the body fails, and dropped
//! with the body; a response leaves in pieces, so that little of it waits in buffers. Must not know what the bytes mean.
//! Fails with [`BodyError`].

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, request::Parts, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::{
    deadline::Deadline,
    memory::{ClaimedBuffer, MemoryAllowance, MemoryClaim, MemoryExhausted},
};

/// A request whose body has been read whole.
pub struct BufferedRequest {
    pub method: Method,
    /// In origin form, byte for byte as received.
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl fmt::Debug for BufferedRequest {
    /// Without target, header values and body: they may hold the caller's credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (headers, bytes) = (self.headers.len(), self.body.len());
        write!(f, "BufferedRequest({}, {headers} headers, {bytes} bytes)", self.method)
    }
}

/// Why the body of a request could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than `limits.request_body`, in bytes.
    #[error("the request's body is longer than {0} bytes (`limits.request_body`): send a shorter one")]
    TooLarge(usize),
    /// It was not complete at the deadline.
    #[error(
        "the request's body did not come within the request's time (`limits.request`): send it again, without pauses"
    )]
    TooSlow,
    #[error(transparent)]
    NoMemory(#[from] MemoryExhausted),
    /// Its connection is to make room for another one.
    #[error(
        "The gateway has as many connections as `limits.connections` allows, and this one was waiting for the rest of the \
         request's body; try again in 1 s, and send the body without pauses"
    )]
    MakesRoom,
    /// The connection was lost, or the framing is wrong.
    #[error("the request's body could not be read: send it again, whole and with correct framing")]
    Broken,
}

impl From<Infallible> for BodyError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Heads up to this size are part of what every waiting request claims ([`memory::REQUEST`](crate::memory::REQUEST)), in bytes.
pub(crate) const SMALL_HEAD: usize = 4 * 1024;

/// Bodies that are declared to be as long at most are never refused for want of memory, in bytes: a hit waits for nothing, and
/// whoever waits claims more than that.
const SMALL_BODY: u64 = 1024;

/// What a header field takes beside its name and value, in bytes: its places in the tables of a `HeaderMap`, which double.
const FIELD: usize = 128;

/// Claims the memory of a request's head, if it is large. Over HTTP/2, a field that was sent before is one byte.
///
/// # Errors
/// [`MemoryExhausted`].
pub fn claim_head(
    head: &Parts,
    memory: impl FnOnce() -> MemoryAllowance,
) -> Result<Option<MemoryClaim>, MemoryExhausted> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    let size = target + fields.sum::<usize>();
    if size > SMALL_HEAD { memory().claim(size).map(Some) } else { Ok(None) }
}

/// Reads a request's body whole.
///
/// # Errors
/// [`BodyError`] if it is longer than `limit` bytes, late, or cut off, or if there is no memory for it.
pub async fn collect<B>(
    body: B,
    limit: usize,
    deadline: Deadline,
    memory: impl FnOnce() -> MemoryAllowance,
) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(BodyError::TooLarge(limit));
    }
    let is_small = body.size_hint().exact().is_some_and(|length| length <= SMALL_BODY);
    let memory = if is_small { memory().unlimited() } else { memory() };
    let buffer = ClaimedBuffer::new(memory, declared)?;
    // On the heap: a hit has no body. Most bodies arrive together with the head: only the others need a timer.
    let mut reading = Box::pin(read(body, limit, buffer));
    match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
        Poll::Ready(done) => done,
        Poll::Pending => Box::pin(deadline.bound(reading)).await.unwrap_or(Err(BodyError::TooSlow)),
    }
}

async fn read<B>(mut body: B, limit: usize, mut buffer: ClaimedBuffer) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Into::into)?.into_data() else { continue };
        if buffer.length() + data.len() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        buffer.push(data)?;
    }
    Ok(buffer.into_bytes())
}

/// Is notified of the end of a response body, and dropped with the body.
pub trait BodyEnd: Send {
    /// The last byte was taken by the connection.
    fn complete(&mut self);
    /// The body ended with an error: Fastrac's side failed, or the gateway withheld the rest.
    fn broken(&mut self, why: &io::Error);
}

/// Told how far the caller has taken a response. Time between `offered` and `awaits_upstream` in which nothing is
/// `written` is time in which the caller takes nothing.
pub trait Delivery: Send + Sync {
    /// A piece was handed to the connection.
    fn offered(&self);
    /// There is nothing to take: Fastrac is waited for.
    fn awaits_upstream(&self);
    /// The connection has taken so many bytes of a piece.
    fn written(&self, bytes: usize);
    /// The connection has taken the last byte.
    fn taken(&self);
}

/// How long after the last byte of a response was written a reset of the caller's connection shows that the caller has not
/// read it.
pub(crate) const RESET_WITHIN: Duration = Duration::from_secs(1);

/// Told whether a response has reached its caller. Dropped if it has not.
pub trait Receipt: Send {
    /// The last bytes are being written: from now on, a caller that leaves may have read them.
    fn begun(&mut self);
    /// The last byte was written to the caller's connection without an error.
    fn written(&mut self);
    /// And the caller has not reset the connection because of it.
    fn reached(self: Box<Self>);
}

/// The connection of a caller.
pub trait CallerConnection: Send + Sync {
    /// Whether the caller has closed it, or its sending half.
    fn has_left(&self) -> bool;
    /// Whether the caller has reset it: closed it without reading everything, or before everything was written.
    fn was_reset(&self) -> bool;
    /// Whether something that it has sent, or its end, waits to be read.
    fn has_unread(&self) -> bool;
    /// Whether its machine has not acknowledged everything that was written to it.
    fn has_unacknowledged(&self) -> bool;
}

/// A caller's connection as another request sees it, in any thread.
#[derive(Clone)]
pub struct CallerLink(Weak<dyn CallerConnection>);

impl CallerLink {
    pub(crate) fn new(connection: &Arc<dyn CallerConnection>) -> Self {
        CallerLink(Arc::downgrade(connection))
    }

    /// Whether the caller has closed the connection, or its sending half.
    pub(crate) fn has_left(&self) -> bool {
        self.0.upgrade().is_none_or(|connection| connection.has_left())
    }

    /// Whether the caller has reset the connection. Not once it has ended: then it has been decided.
    pub(crate) fn was_reset(&self) -> bool {
        self.0.upgrade().is_some_and(|connection| connection.was_reset())
    }

    /// Whether the caller's machine has not acknowledged everything that was written to it: it has not been read, then.
    pub(crate) fn has_unacknowledged(&self) -> bool {
        self.0.upgrade().is_some_and(|connection| connection.has_unacknowledged())
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &CallerLink) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }

    /// Whether something that the caller has sent waits to be read: it may be that it gives a response up.
    pub(crate) fn has_unread(&self) -> bool {
        self.0.upgrade().is_some_and(|connection| connection.has_unread())
    }
}

impl fmt::Debug for CallerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerLink")
    }
}

/// Maximum size of a [`Piece`], in bytes: of the frames that every HTTP/2 peer accepts (RFC 9113, section 4.2). hyper
/// keeps a piece until the caller's window opens, so this is also what a stream holds of its response meanwhile.
const PIECE: usize = 16 * 1024;

/// A part of a response's body, on its way to the caller.
pub struct Piece {
    bytes: Bytes,
    /// It ends with the last byte of the body.
    last: bool,
    delivery: Option<Arc<dyn Delivery>>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(delivery) = &self.delivery {
            delivery.written(count);
            if self.last && self.bytes.is_empty() {
                delivery.taken();
            }
        }
    }
}

/// The body of a response.
pub struct Body {
    /// What has been received and not been handed over yet.
    rest: Bytes,
    /// What is still being received.
    stream: Option<Pin<Box<dyn HttpBody<Data = Bytes, Error = io::Error> + Send>>>,
    delivery: Option<Arc<dyn Delivery>>,
    end: Option<Box<dyn BodyEnd>>,
}

impl Body {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Body { rest: bytes, stream: None, delivery: None, end: None }
    }

    /// A body that is still being received.
    pub(crate) fn stream(stream: impl HttpBody<Data = Bytes, Error = io::Error> + Send + 'static) -> Self {
        Body { rest: Bytes::new(), stream: Some(Box::pin(stream)), delivery: None, end: None }
    }

    /// The body of a response that is given up: an error, which resets its stream.
    pub(crate) fn given_up() -> Self {
        Body::stream(GivenUp)
    }

    /// Attaches what is told how far it has been taken.
    pub(crate) fn delivered_to(mut self, delivery: Option<Arc<dyn Delivery>>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Attaches the [`BodyEnd`] of this body.
    pub(crate) fn ending(mut self, mut end: Box<dyn BodyEnd>) -> Self {
        // hyper never polls a body that is empty from the start.
        if self.is_end_stream() {
            end.complete();
            self.delivery.iter().for_each(|delivery| delivery.taken());
        }
        self.end = Some(end);
        self
    }

    /// Receives more if nothing is left.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty()
            && let Some(stream) = &mut self.stream
        {
            match stream.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.rest = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(why))) => {
                    if let Some(mut end) = self.end.take() {
                        end.broken(&why);
                    }
                    return Poll::Ready(Err(why));
                }
                Poll::Ready(None) => self.stream = None,
                Poll::Pending => {
                    self.delivery.iter().for_each(|delivery| delivery.awaits_upstream());
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

struct GivenUp;

impl HttpBody for GivenUp {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::other("the response was given up"))))
    }
}

impl HttpBody for Body {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, io::Error>>> {
        if let Err(why) = ready!(self.poll_receive(cx)) {
            return Poll::Ready(Some(Err(why)));
        }
        let length = self.rest.len().min(PIECE);
        let bytes = self.rest.split_to(length);
        // hyper stops polling after the last byte of a known length: don't wait for `None`.
        let last = self.is_end_stream();
        if last && let Some(mut end) = self.end.take() {
            end.complete();
        }
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        self.delivery.iter().for_each(|delivery| delivery.offered());
        Poll::Ready(Some(Ok(Frame::data(Piece { bytes, last, delivery: self.delivery.clone() }))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.stream.as_ref().is_none_or(|stream| stream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stream {
            None => SizeHint::with_exact(self.rest.len() as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::Full;
    use tokio::time::Instant;

    use super::*;
    use crate::{config::Priority, memory::Memory};

    fn soon() -> Deadline {
        Deadline::after(Instant::now(), Duration::from_secs(5))
    }

    struct Pieces<'p>(std::slice::Iter<'p, &'static str>);

    impl HttpBody for Pieces<'_> {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
        }
    }

    fn pieces<'p>(pieces: &'p [&'static str]) -> Pieces<'p> {
        Pieces(pieces.iter())
    }

    #[tokio::test]
    async fn reads_whole_up_to_the_bound() {
        let memory = || Memory::new(100).share(None).allowance(Priority::Low);
        assert_eq!(collect(pieces(&["ab", "", "c"]), 3, soon(), memory).await, Ok(Bytes::from("abc")));
        assert_eq!(collect(pieces(&["ab", "cd"]), 3, soon(), memory).await, Err(BodyError::TooLarge(3)));
        let full = |text: &'static str| Full::new(Bytes::from(text));
        assert_eq!(collect(full("abcd"), 3, soon(), memory).await, Err(BodyError::TooLarge(3)));
        assert_eq!(collect(full(""), 0, soon(), memory).await, Ok(Bytes::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_what_it_reads_until_it_is_freed() {
        let memory = Memory::new(38_000);
        let allowance = || memory.share(None).allowance(Priority::High);
        let long = |length: usize| Full::new(Bytes::from(vec![7; length]));
        let body = collect(long(18_000), 40_000, soon(), allowance).await.unwrap();
        assert_eq!(memory.used(), 18_000);
        // A declared length is refused before a byte is read, one that is not declared once it is too long.
        let exhausted = Err(BodyError::NoMemory(MemoryExhausted::ShareUsed));
        assert_eq!(collect(long(2_001), 40_000, soon(), allowance).await, exhausted);
        assert_eq!(collect(pieces(&["x"; 2_001]), 40_000, soon(), allowance).await, exhausted);
        assert_eq!(collect(Never, 40_000, soon(), allowance).await, Err(BodyError::TooSlow));
        assert_eq!(memory.used(), 18_000);
        // A small one is claimed, and never refused.
        let mut small = Vec::new();
        for length in [1000, 1000, 1024] {
            small.push(collect(long(length), 40_000, soon(), allowance).await.unwrap());
        }
        assert_eq!(memory.used(), 21_024);
        drop((small, body));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_large_head_is_claimed_with_its_tables_and_a_small_one_costs_nothing() {
        let memory = Memory::new(1 << 20);
        let allowance = || memory.share(None).allowance(Priority::High);
        let head = |fields: usize, length: usize| {
            let mut builder = http::Request::get(format!("/a?{}", "x".repeat(length)));
            for _ in 0..fields {
                builder = builder.header("a", "b");
            }
            builder.body(()).unwrap().into_parts().0
        };
        assert!(claim_head(&head(20, 100), allowance).unwrap().is_none());
        let claims = [head(900, 0), head(1, 5000)].map(|head| claim_head(&head, allowance).unwrap());
        assert_eq!((memory.used(), claims.len()), (900 * (FIELD + 2) + 3 + FIELD + 2 + 5003, 2));
        drop(claims);
        memory.set_limit(200_000);
        assert_eq!(claim_head(&head(900, 0), allowance).err(), Some(MemoryExhausted::ShareUsed));
        assert_eq!(memory.used(), 0);
    }

    struct Never;

    impl HttpBody for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_response_leaves_in_pieces() {
        let bytes = Bytes::from(vec![7; 3 * PIECE + 1]);
        let start = bytes.as_ptr();
        let mut body = Body::whole(bytes);
        assert_eq!(body.size_hint().exact(), Some(3 * PIECE as u64 + 1));
        for (n, length) in [PIECE, PIECE, PIECE, 1].into_iter().enumerate() {
            assert!(!body.is_end_stream());
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap_or_else(|_| panic!("data"));
            assert_eq!((piece.remaining(), piece.chunk().as_ptr()), (length, start.wrapping_add(n * PIECE)), "no copy");
        }
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }
}
