//! Response bodies: at once, or in pieces with pauses.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

#[derive(Debug)]
pub(super) struct ResponseBody {
    rest: Bytes,
    drip: Option<Drip>,
}

#[derive(Debug)]
struct Drip {
    bytes: usize,
    every: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(super) fn whole(body: Bytes) -> Self {
        ResponseBody { rest: body, drip: None }
    }

    /// Sends `bytes` (at least one) at a time, with pauses between them.
    pub(super) fn drip(body: Bytes, bytes: usize, every: Duration) -> Self {
        ResponseBody { rest: body, drip: Some(Drip { bytes: bytes.max(1), every, pause: None }) }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match &mut this.drip {
            None => std::mem::take(&mut this.rest),
            Some(drip) => {
                if let Some(pause) = &mut drip.pause {
                    ready!(pause.as_mut().poll(cx));
                }
                drip.pause = Some(Box::pin(sleep(drip.every)));
                this.rest.split_to(drip.bytes.min(this.rest.len()))
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
