//! Staggers connection attempts to several addresses and takes the first connection (RFC 8305, "Happy Eyeballs").
//!
//! The addresses come in the order of preference of RFC 6724, with their families alternating. Only TCP is raced: a
//! server that accepts connections and then fails the TLS handshake wins, as in curl; it is tried last from then on.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::error::{ConnectError, ConnectFault, FailedAttempt};
use crate::deadline;

/// Time from one attempt to the next (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The same, at least (RFC 8305, section 5).
const MIN_ATTEMPT_DELAY: Duration = Duration::from_millis(10);
/// Maximum number of addresses of a name that are tried.
pub(super) const MAX_ADDRESSES: usize = 16;
/// Maximum number of attempts that run at a time, each of which takes a descriptor; for another one, the oldest is given up.
const MAX_RUNNING: usize = 4;

/// The addresses in the order in which they are tried: their families alternate, beginning with that of the first
/// address; within a family they keep their order. At most [`MAX_ADDRESSES`].
pub(super) fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first_family = |address: &&SocketAddr| Some(address.is_ipv4()) == addresses.first().map(SocketAddr::is_ipv4);
    let mut families = [
        addresses.iter().filter(is_first_family).collect::<Vec<_>>().into_iter(),
        addresses.iter().filter(|address| !is_first_family(address)).collect::<Vec<_>>().into_iter(),
    ];
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(families.iter_mut().filter_map(Iterator::next));
    }
    order.truncate(MAX_ADDRESSES);
    order
}

/// Opens a connection with `connect` to one of the addresses, and says to which. The next attempt begins when the one
/// before it has failed or [`ATTEMPT_DELAY`] is over; earlier if there would not be time for all until `by`. At most
/// [`MAX_RUNNING`] run at a time. Cancel safe.
///
/// # Errors
/// [`ConnectError`] at `by`, or when all attempts have failed.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    by: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(T, SocketAddr), ConnectError>
where
    F: Future<Output = io::Result<T>>,
{
    let left = by.saturating_duration_since(Instant::now());
    let delay = (left / addresses.len().max(1) as u32).clamp(MIN_ATTEMPT_DELAY, ATTEMPT_DELAY);
    let mut waiting = addresses.iter().copied();
    let mut running = Vec::new();
    let mut most_telling: Option<FailedAttempt> = None;
    loop {
        if let Some(address) = waiting.next() {
            if running.len() == MAX_RUNNING {
                drop(running.remove(0));
            }
            let attempt = attempt(connect(address));
            running.push(Box::pin(async move { attempt.await.map(|connection| (connection, address)) }));
        } else if running.is_empty() {
            let none = || ConnectError::Remote("the name has no address".into());
            return Err(most_telling.map_or_else(none, ConnectError::from));
        }
        let is_last = waiting.len() == 0;
        let until = if is_last { by } else { by.min(Instant::now() + delay) };
        match deadline::until(until, first(&mut running)).await {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(failed)) => {
                if most_telling.as_ref().is_none_or(|known| known.fault <= failed.fault) {
                    most_telling = Some(failed);
                }
            }
            None if Instant::now() < by => {}
            None => {
                let exhausted = most_telling.filter(|failed| failed.fault == ConnectFault::Exhausted);
                return Err(exhausted.map_or_else(ConnectError::late, ConnectError::from));
            }
        }
    }
}

/// The result of an attempt, which calls socket(2) and connect(2) when it is first polled.
async fn attempt<T>(connect: impl Future<Output = io::Result<T>>) -> Result<T, FailedAttempt> {
    let mut connect = pin!(connect);
    match poll_fn(|cx| Poll::Ready(connect.as_mut().poll(cx))).await {
        Poll::Ready(connected) => connected.map_err(FailedAttempt::at_once),
        Poll::Pending => connect.await.map_err(FailedAttempt::later),
    }
}

/// The output of the first of these futures to complete, which is removed.
async fn first<F: Future>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|cx| {
        for index in 0..running.len() {
            if let Poll::Ready(output) = running[index].as_mut().poll(cx) {
                drop(running.remove(index));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
