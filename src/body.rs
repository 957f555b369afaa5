//! The body of a request, collected whole, and the body of a response.
//!
//! What always holds: a request is read whole before anything is spent on it, up to a limit and within its deadline;
//! the [`BodyEnd`] of a response is notified at most once, when the last byte is taken or the body fails, and dropped
//! with the body. Must not know what the bytes mean. Fails with [`BodyError`].

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use crate::deadline::Deadline;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

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
    #[error("the request's body is longer than {0} bytes (`limits.request_body`)")]
    TooLarge(usize),
    /// It was not complete at the deadline.
    #[error("the request's body did not come within the request's time (`limits.request`)")]
    TooSlow,
    /// The connection was lost, or the framing is wrong.
    #[error("the request's body could not be read")]
    Broken,
}

/// Reads a request's body whole.
///
/// # Errors
/// [`BodyError`] if it is longer than `limit` bytes, late, or cut off.
pub async fn collect<B>(body: B, limit: usize, deadline: Deadline) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge(limit));
    }
    // Most bodies arrive together with the head: only the others need a timer.
    let mut reading = pin!(read(body, limit));
    match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
        Poll::Ready(done) => done,
        Poll::Pending => Box::pin(deadline.bound(reading)).await.unwrap_or(Err(BodyError::TooSlow)),
    }
}

async fn read<B>(mut body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len().max(all.len()) + data.len() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        if all.is_empty() && first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Is notified of the end of a response body, and dropped with the body.
pub trait BodyEnd: Send {
    /// The last byte was taken by the connection.
    fn complete(&mut self);
    /// The body ended with an error: Fastrac's side failed, or the gateway withheld the rest.
    fn broken(&mut self, why: &io::Error);
}

/// The body of a response.
pub struct Body {
    content: Content,
    end: Option<Box<dyn BodyEnd>>,
}

enum Content {
    Whole(Bytes),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = io::Error> + Send>>),
}

impl Body {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Body { content: Content::Whole(bytes), end: None }
    }

    /// A body that is still being received.
    pub(crate) fn stream(stream: impl HttpBody<Data = Bytes, Error = io::Error> + Send + 'static) -> Self {
        Body { content: Content::Stream(Box::pin(stream)), end: None }
    }

    /// Attaches the [`BodyEnd`] of this body.
    pub(crate) fn ending(mut self, mut end: Box<dyn BodyEnd>) -> Self {
        // hyper never polls a body that is empty from the start.
        if self.is_end_stream() {
            end.complete();
        }
        self.end = Some(end);
        self
    }

    fn complete(&mut self) {
        if let Some(mut end) = self.end.take() {
            end.complete();
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(stream) => stream.as_mut().poll_frame(cx),
        };
        match &polled {
            Poll::Ready(None) => self.complete(),
            Poll::Ready(Some(Ok(_))) => {
                // hyper stops polling after the last byte of a known length: don't wait for `None`.
                if self.is_end_stream() {
                    self.complete();
                }
            }
            Poll::Ready(Some(Err(why))) => {
                if let Some(mut end) = self.end.take() {
                    end.broken(why);
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::Full;
    use tokio::time::Instant;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Instant::now(), Duration::from_secs(5))
    }

    struct Pieces<'p>(std::slice::Iter<'p, &'static str>);

    impl HttpBody for Pieces<'_> {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
        }
    }

    fn pieces<'p>(pieces: &'p [&'static str]) -> Pieces<'p> {
        Pieces(pieces.iter())
    }

    #[tokio::test]
    async fn reads_whole_up_to_the_bound() {
        assert_eq!(collect(pieces(&["ab", "", "c"]), 3, soon()).await, Ok(Bytes::from("abc")));
        assert_eq!(collect(pieces(&["ab", "cd"]), 3, soon()).await, Err(BodyError::TooLarge(3)));
        assert_eq!(collect(Full::new(Bytes::from("abcd")), 3, soon()).await, Err(BodyError::TooLarge(3)));
        assert_eq!(collect(Full::new(Bytes::new()), 0, soon()).await, Ok(Bytes::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_deadline() {
        struct Never;
        impl HttpBody for Never {
            type Data = Bytes;
            type Error = io::Error;
            fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
                Poll::Pending
            }
        }
        assert_eq!(collect(Never, 3, soon()).await, Err(BodyError::TooSlow));
    }
}
