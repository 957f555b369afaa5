//! The sandbox's door: HTTP/1.1 over TCP or TLS.
//!
//! What always holds: one request is answered after another on a connection, which is kept open; a
//! fault that can't be said in HTTP (a reset, a lying length) ends the connection and writes its
//! bytes itself, past hyper. A caller that leaves ends its request's waiting, never an execution.
//!
//! How it fails: a connection that breaks is dropped without a word; accepting goes on.

mod flow;
mod handshake;
mod shape;
mod upload;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

use super::{
    faults::{Act, Met},
    world::{Answer, Received, Request, World},
};
use flow::Flow;
use shape::{Ending, Given, shape};
use upload::Upload;

/// Pause after a failed accept (no file descriptors left), so that it doesn't spin.
const PAUSE: Duration = Duration::from_millis(20);

/// The world, for the door and for whoever holds the sandbox.
pub(super) type Shared = Arc<Mutex<World>>;

/// A connection that can be reset.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Where a request leaves the ending for its connection.
type Last = Arc<Mutex<Option<Ending>>>;

/// The request has ended its connection.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox ends this connection")]
struct Ended;

/// Accepts connections until it is dropped.
pub(super) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, world: Shared, tasks: TaskTracker) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (world, tls) = (Arc::clone(&world), tls.clone());
        tasks.spawn(async move {
            let met = world.lock().greet();
            match (met, tls) {
                (Some(Act::Tls(how)), tls) => handshake::fail(stream, how, tls.is_some()).await,
                (_, None) => connection(stream, world).await,
                (_, Some(tls)) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, world).await,
                    Err(_) => Ok(()),
                },
            }
        });
    }
}

async fn connection(mut stream: impl Stream, world: Shared) -> io::Result<()> {
    let number = world.lock().journal.connect();
    let last = Last::default();
    let service = service_fn(|request| {
        let (world, last) = (Arc::clone(&world), Arc::clone(&last));
        async move { respond(world, number, last, request).await }
    });
    // Lent, so that it is here again when a request has ended its connection.
    let served = http1::Builder::new()
        .half_close(false)
        .pipeline_flush(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(&mut stream), service)
        .await;
    let ending = last.lock().take();
    // Without one, the error is the caller's leaving: nothing to say.
    let (Err(_), Some(ending)) = (served, ending) else { return Ok(()) };
    stream.write_all(&ending.bytes).await?;
    stream.flush().await?;
    if ending.reset {
        // With a zero linger time the close that follows is a reset.
        return stream.tcp().set_zero_linger();
    }
    stream.shutdown().await
}

async fn respond(
    world: Shared,
    connection: u64,
    last: Last,
    request: hyper::Request<Incoming>,
) -> Result<Response<Flow>, Ended> {
    let (head, mut body) = request.into_parts();
    let met = if body.is_end_stream() { None } else { world.lock().uploads(&head) };
    // A body that is given up stays here until the connection ends: dropped, it would end the connection in its way.
    let (body, whole) = match upload::read(&mut body, met.as_ref()).await {
        Upload::Whole(body) => (body, true),
        Upload::TooLong => (Bytes::new(), false),
        Upload::Broken => return Err(broken(&world, met.as_ref())),
        Upload::Enough => {
            let ended = broken(&world, met.as_ref());
            pause(met.map_or(0, |met| met.wait.saturating_add(met.delay))).await;
            *last.lock() = Some(Ending { bytes: Vec::new(), reset: true });
            return Err(ended);
        }
    };
    let request = Request { connection, method: head.method, uri: head.uri, headers: head.headers, body, met };
    let received = world.lock().receive(request);
    let Met { act, wait, delay, .. } = received.met.clone().unwrap_or_default();
    pause(wait).await;
    let answer = execute(&world, &received, &act, whole);
    pause(delay).await;
    let given = give(&world, &received, answer, act);
    match given {
        Given::Answer(response) => Ok(response),
        Given::End(ending, _) => {
            *last.lock() = Some(ending);
            Err(Ended)
        }
    }
}

/// Counts a request that was never whole.
fn broken(world: &Shared, met: Option<&Met>) -> Ended {
    let journal = &mut world.lock().journal;
    match met {
        Some(met) => journal.interrupted(met.act.name()),
        None => journal.broken(),
    }
    Ended
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// The answer that the world gives, if it gives one at all.
fn execute(world: &Shared, received: &Received, act: &Act, whole: bool) -> Option<Answer> {
    let mut world = world.lock();
    if whole { world.act(received, act) } else { act.executes().then(|| world.too_long(received)) }
}

/// Shapes what goes out, and notes its status.
fn give(world: &Shared, received: &Received, answer: Option<Answer>, act: Act) -> Given {
    let mut world = world.lock();
    let given = shape(answer, act, world.said(received));
    let status = match &given {
        Given::Answer(response) => Some(response.status().as_u16()),
        Given::End(_, status) => *status,
    };
    if let Some(status) = status {
        world.answered(received, status);
    }
    given
}
