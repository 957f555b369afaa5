//! The body of a request as hyper reads it, with an end that is one.
//!
//! Over HTTP/2, hyper takes a stream that its client resets with NO_ERROR for the end of the body, which is right for a
//! response (RFC 9113, section 8.1) and wrong for a request: only END_STREAM ends one. Such a body fails, as one that is
//! reset with any other code does. Must not know what the bytes mean.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::activity::Activity;
use crate::body::BodyError;

pub(super) struct RequestBody {
    pub(super) incoming: Incoming,
    /// Over HTTP/2. Over HTTP/1.1, hyper reports a body that is cut off.
    pub(super) must_see_end: bool,
    /// Told of each piece.
    pub(super) activity: Arc<Activity>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(frame) => {
                self.activity.piece_came();
                Poll::Ready(Some(frame.map_err(|_| BodyError::Broken)))
            }
            None if self.must_see_end && !self.incoming.is_end_stream() => Poll::Ready(Some(Err(BodyError::Broken))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
