//! An answer too long to be read whole: passed on as it comes, cut off where the secret shows.
//!
//! Ends with an error (the caller's connection is then closed) at the deadline, beyond
//! `limits.answer_body`, on a lost connection, and on the secret.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::{Bounds, UpstreamConnection, connection::DeadlineExceeded};
use crate::{
    admission::Spent,
    keys::{Leak, LeakScan, Lease},
    outcome::Code,
};

/// The code for a stream that ended with an error.
pub(crate) fn code(why: &io::Error) -> Code {
    let leaked = why.get_ref().is_some_and(|why| why.is::<Leak>());
    if leaked { Code::UpstreamLeak } else { Code::UpstreamCut }
}

/// The body of a long answer.
pub struct Stream {
    link: UpstreamConnection,
    incoming: Incoming,
    /// Holds back what could be the beginning of the secret.
    scan: LeakScan,
    /// What has come and was not looked at.
    begun: Option<Bytes>,
    ended: bool,
    left: usize,
    /// The place in flight.
    spent: Option<Spent>,
}

impl Stream {
    pub(super) fn new(
        (link, incoming): (UpstreamConnection, Incoming),
        begun: Bytes,
        lease: &Lease,
        bounds: Bounds,
    ) -> Self {
        Stream {
            link,
            incoming,
            scan: lease.scan(),
            left: bounds.body - begun.len(),
            begun: Some(begun),
            ended: false,
            spent: None,
        }
    }

    /// Holds the place in flight until the last byte.
    pub fn holding(mut self, spent: Spent) -> Self {
        self.spent = Some(spent);
        self
    }

    /// What has come so far.
    pub fn begun(&self) -> &[u8] {
        self.begun.as_deref().unwrap_or_default()
    }

    fn next(&mut self, data: &[u8]) -> io::Result<Bytes> {
        self.scan.feed(data).map_err(io::Error::other)
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            let out = if let Some(begun) = this.begun.take() {
                this.next(&begun)?
            } else {
                match ready!(this.link.poll_frame(&mut this.incoming, cx)) {
                    Err(DeadlineExceeded) => return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into()))),
                    Ok(None) => {
                        this.ended = true;
                        this.spent = None;
                        this.scan.finish()
                    }
                    Ok(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                    Ok(Some(Ok(frame))) => {
                        let Ok(data) = frame.into_data() else { continue };
                        let too_long = || io::Error::other("the answer is longer than limits.answer_body");
                        this.left = this.left.checked_sub(data.len()).ok_or_else(too_long)?;
                        this.next(&data)?
                    }
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}
