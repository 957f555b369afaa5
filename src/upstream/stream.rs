//! A response too long to be read whole: passed on as it arrives, and cut off where the account's secret key appears.
//!
//! Nothing that the scan for the secret has not seen is passed on. Ends with an error (which closes the caller's
//! connection) at the deadline, beyond `limits.answer_body`, if the connection is lost, if the length declared beside
//! chunks is not that of the body, and at the secret. It holds the
//! connection to Fastrac and the place in flight as long as it lives; hyper does not poll it while its caller takes
//! nothing, so the caller's connection ends it then (`edge`). It must not know what the response means.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    UpstreamConnection,
    connection::DeadlineExceeded,
    framing::{Contradiction, DueLength},
};
use crate::{
    admission::Spent,
    attempts::Attempts,
    keys::{Leak, LeakScan, Lease},
    memory::MemoryClaim,
    outcome::Code,
};

/// What a stream holds beyond its beginning, in bytes: hyper's read buffer, at its largest.
const BUFFERED: usize = 512 * 1024;

/// The code for a stream that ended with an error.
pub(crate) fn code(why: &io::Error) -> Code {
    let leaked = why.get_ref().is_some_and(|why| why.is::<Leak>());
    if leaked { Code::UpstreamLeak } else { Code::UpstreamCut }
}

fn contradicted(Contradiction: Contradiction) -> io::Error {
    io::Error::other("the response's length is not the one that it declares beside its chunks")
}

/// The body of a long response.
pub struct Stream {
    connection: UpstreamConnection,
    incoming: Incoming,
    /// Holds back what could be the beginning of the secret.
    scan: LeakScan,
    /// Read before the stream was made, and not passed on yet.
    beginning: Option<Bytes>,
    ended: bool,
    /// Bytes that may still arrive.
    left: usize,
    due: DueLength,
    /// Told what arrives.
    attempts: Attempts,
    /// For what is read and not yet taken.
    claim: MemoryClaim,
    /// Holds the account's place in flight.
    spent: Option<Spent>,
}

/// What has been read of a long response.
pub(super) struct Beginning {
    pub(super) bytes: Bytes,
    pub(super) claim: MemoryClaim,
    /// Bytes that may still arrive.
    pub(super) left: usize,
    /// What the rest must come to.
    pub(super) due: DueLength,
    pub(super) attempts: Attempts,
}

impl Stream {
    pub(super) fn new(connection: UpstreamConnection, incoming: Incoming, beginning: Beginning, lease: &Lease) -> Self {
        let Beginning { bytes, claim, left, due, attempts } = beginning;
        let (beginning, scan) = (Some(bytes), lease.scan());
        Stream { connection, incoming, scan, left, due, attempts, claim, beginning, ended: false, spent: None }
    }

    /// Holds the account's place in flight until the last byte.
    pub fn holding(mut self, spent: Option<Spent>) -> Self {
        self.spent = spent;
        self
    }

    /// When it must be complete.
    pub(crate) fn deadline(&self) -> Instant {
        self.connection.deadline()
    }

    /// What has been read of it; empty once the stream is polled.
    pub fn beginning(&self) -> &[u8] {
        self.beginning.as_deref().unwrap_or_default()
    }

    fn checked(&mut self, data: &[u8]) -> io::Result<Bytes> {
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
            let out = if let Some(beginning) = this.beginning.take() {
                this.checked(&beginning)?
            } else {
                // The beginning has been taken.
                this.claim.shrink_to(BUFFERED);
                match ready!(this.connection.poll_frame(&mut this.incoming, cx)) {
                    Err(DeadlineExceeded) => return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into()))),
                    Ok(None) => {
                        this.due.end().map_err(contradicted)?;
                        this.ended = true;
                        this.spent = None;
                        this.scan.finish()
                    }
                    Ok(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                    Ok(Some(Ok(frame))) => {
                        let Ok(data) = frame.into_data() else { continue };
                        let too_long = || io::Error::other("the response is longer than limits.answer_body");
                        this.attempts.received(data.len());
                        this.due.take(data.len()).map_err(contradicted)?;
                        this.left = this.left.checked_sub(data.len()).ok_or_else(too_long)?;
                        this.checked(&data)?
                    }
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}
