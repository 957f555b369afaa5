//! Bytes of a request in, bytes of an answer out.
//!
//! A request is read whole before anything is spent on it, up to a bound and within a deadline. An
//! answer's body carries whatever must end with it (the record, the permit) and lets go of it when
//! its last byte was taken or it was dropped, whichever comes first.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

/// A request, whole.
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its target in origin form, bytes as they came.
    pub target: PathAndQuery,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl fmt::Debug for Asked {
    /// Neither target nor values nor body: a caller's credentials stand in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (headers, bytes) = (self.headers.len(), self.body.len());
        write!(f, "Asked({}, {headers} headers, {bytes} bytes)", self.method)
    }
}

/// Why a request's body is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is longer than allowed.
    #[error("the request's body is longer than {0} bytes (`limits.request_body`)")]
    TooLarge(usize),
    /// It did not come in time.
    #[error("the request's body did not come within the request's time (`limits.request`)")]
    TooSlow,
    /// The caller broke off, or its framing is wrong.
    #[error("the request's body could not be read")]
    Broken,
}

/// Reads a request's body whole.
///
/// # Errors
/// [`Unread`] if it is longer than `limit` bytes, late, or broken off.
pub async fn collect<B>(body: B, limit: usize, deadline: Instant) -> Result<Bytes, Unread>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLarge(limit));
    }
    // Most bodies come with their head: only the others need a timer.
    let mut reading = pin!(read(body, limit));
    match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
        Poll::Ready(done) => done,
        Poll::Pending => Box::pin(timeout_at(deadline, reading)).await.unwrap_or(Err(Unread::TooSlow)),
    }
}

async fn read<B>(mut body: B, limit: usize) -> Result<Bytes, Unread>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if first.len().max(all.len()) + data.len() > limit {
            return Err(Unread::TooLarge(limit));
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

/// What must end with an answer's body.
pub trait Ending: Send {
    /// The last byte was taken.
    fn complete(&mut self);
    /// The body broke off on Fastrac's side, or was cut off.
    fn broken(&mut self, why: &io::Error);
}

/// The body of an answer. Dropping it drops its ending.
pub struct Body {
    content: Content,
    ending: Option<Box<dyn Ending>>,
}

enum Content {
    Whole(Bytes),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = io::Error> + Send>>),
}

impl Body {
    /// A body that is there already.
    pub fn whole(bytes: Bytes) -> Self {
        Body { content: Content::Whole(bytes), ending: None }
    }

    /// A body that is still on its way.
    pub fn stream(stream: impl HttpBody<Data = Bytes, Error = io::Error> + Send + 'static) -> Self {
        Body { content: Content::Stream(Box::pin(stream)), ending: None }
    }

    /// Attaches what must end with it.
    pub fn ending(mut self, mut ending: Box<dyn Ending>) -> Self {
        // hyper never polls a body that is at its end from the start.
        if self.is_end_stream() {
            ending.complete();
        }
        self.ending = Some(ending);
        self
    }

    fn complete(&mut self) {
        if let Some(mut ending) = self.ending.take() {
            ending.complete();
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
                if let Some(mut ending) = self.ending.take() {
                    ending.broken(why);
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

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
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
        assert_eq!(collect(pieces(&["ab", "cd"]), 3, soon()).await, Err(Unread::TooLarge(3)));
        assert_eq!(collect(Full::new(Bytes::from("abcd")), 3, soon()).await, Err(Unread::TooLarge(3)));
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
        assert_eq!(collect(Never, 3, soon()).await, Err(Unread::TooSlow));
    }
}
