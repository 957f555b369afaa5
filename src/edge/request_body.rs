//! The body of a request as hyper reads it, with an end that is one.
//!
//! Over HTTP/2, hyper takes a stream that its client resets with NO_ERROR for the end of the body, which is right for a
//! response (RFC 9113, section 8.1) and wrong for a request: only END_STREAM ends one. Such a body fails, as one that is
//! reset with any other code does, and as one whose connection is to make room for another one (`connection_limit`). Must not
//! know what the bytes mean.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::activity::Activity;
use crate::body::BodyError;

pub(super) struct RequestBody {
    incoming: Incoming,
    /// Over HTTP/2. Over HTTP/1.1, hyper reports a body that is cut off.
    must_see_end: bool,
    /// Told of each piece, of the first wait, and of the end.
    activity: Arc<Activity>,
    /// Whether it has been waited for, and has not ended since.
    is_awaited: bool,
    /// Completes when the connection is told to make room. Made when the body is first waited for: most come with the head.
    told: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl RequestBody {
    /// Of a request of which the activity knows.
    pub(super) fn new(incoming: Incoming, must_see_end: bool, activity: Arc<Activity>) -> Self {
        RequestBody { incoming, must_see_end, activity, is_awaited: false, told: None }
    }

    fn ended(&mut self, whole: bool) {
        self.told = None;
        if std::mem::take(&mut self.is_awaited) {
            self.activity.body_ended(whole);
        }
    }

    /// Whether it is given up, if it has to be waited for.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let standing = &self.activity.standing;
        loop {
            let told = self.told.get_or_insert_with(|| {
                let standing = standing.clone();
                Box::pin(async move { standing.told().await })
            });
            let polled = told.as_mut().poll(cx);
            if standing.gives_bodies_up() {
                return Poll::Ready(());
            }
            std::task::ready!(polled);
            self.told = None;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                if !std::mem::replace(&mut self.is_awaited, true) {
                    self.activity.body_awaited();
                }
                std::task::ready!(self.poll_given_up(cx));
                Some(Err(BodyError::MakesRoom))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.activity.piece_came();
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Err(_))) => Some(Err(BodyError::Broken)),
            Poll::Ready(None) if self.must_see_end && !self.incoming.is_end_stream() => Some(Err(BodyError::Broken)),
            Poll::Ready(None) => None,
        };
        self.ended(polled.is_none());
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.ended(false);
    }
}
