//! The sandbox's door: HTTP/1.1 over TCP or TLS.
//!
//! What always holds: one request is answered after another on a connection, which is kept open; a
//! fault that can't be said in HTTP (a reset, a lying length) ends the connection and writes its
//! bytes itself, past hyper. A caller that leaves ends its request's waiting, never an execution.
//!
//! How it fails: a connection that breaks is dropped without a word; accepting goes on.

mod body;
mod handshake;
mod response;
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
    faults::{Act, AppliedFault},
    simulation::{ApiResponse, BufferedRequest, JournaledRequest, Simulation},
};
use body::ResponseBody;
use response::{Ending, Reaction, shape};
use upload::BodyRead;

/// Pause after a failed accept (no file descriptors left), so that it doesn't spin.
const PAUSE: Duration = Duration::from_millis(20);

/// The simulation, for the door and for whoever holds the sandbox.
pub(super) type SharedSimulation = Arc<Mutex<Simulation>>;

/// A connection that can be reset.
trait ResettableStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl ResettableStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl ResettableStream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Where a request leaves the ending for its connection.
type PendingEnding = Arc<Mutex<Option<Ending>>>;

/// The request has ended its connection.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox ends this connection")]
struct ConnectionEnded;

/// Accepts connections until it is dropped.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    simulation: SharedSimulation,
    tasks: TaskTracker,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (simulation, tls) = (Arc::clone(&simulation), tls.clone());
        tasks.spawn(async move {
            let met = simulation.lock().connection_fault();
            match (met, tls) {
                (Some(Act::Tls(how)), tls) => handshake::fail(stream, how, tls.is_some()).await,
                (_, None) => connection(stream, simulation).await,
                (_, Some(tls)) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, simulation).await,
                    Err(_) => Ok(()),
                },
            }
        });
    }
}

async fn connection(mut stream: impl ResettableStream, simulation: SharedSimulation) -> io::Result<()> {
    let number = simulation.lock().journal.connect();
    let last = PendingEnding::default();
    let service = service_fn(|request| {
        let (simulation, last) = (Arc::clone(&simulation), Arc::clone(&last));
        async move { respond(simulation, number, last, request).await }
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
    simulation: SharedSimulation,
    connection: u64,
    last: PendingEnding,
    request: hyper::Request<Incoming>,
) -> Result<Response<ResponseBody>, ConnectionEnded> {
    let (head, mut body) = request.into_parts();
    let met = if body.is_end_stream() { None } else { simulation.lock().upload_fault(&head) };
    // A body that is given up stays here until the connection ends: dropped, it would end the connection in its way.
    let (body, whole) = match upload::read(&mut body, met.as_ref()).await {
        BodyRead::Whole(body) => (body, true),
        BodyRead::TooLong => (Bytes::new(), false),
        BodyRead::Broken => return Err(broken(&simulation, met.as_ref())),
        BodyRead::Enough => {
            let ended = broken(&simulation, met.as_ref());
            pause(met.map_or(0, |met| met.wait.saturating_add(met.delay))).await;
            *last.lock() = Some(Ending { bytes: Vec::new(), reset: true });
            return Err(ended);
        }
    };
    let request = BufferedRequest { connection, method: head.method, uri: head.uri, headers: head.headers, body, met };
    let received = simulation.lock().receive(request);
    let AppliedFault { act, wait, delay, .. } = received.met.clone().unwrap_or_default();
    pause(wait).await;
    let answer = execute(&simulation, &received, &act, whole);
    pause(delay).await;
    let given = give(&simulation, &received, answer, act);
    match given {
        Reaction::Answer(response) => Ok(response),
        Reaction::End(ending, _) => {
            *last.lock() = Some(ending);
            Err(ConnectionEnded)
        }
    }
}

/// Counts a request that was never whole.
fn broken(simulation: &SharedSimulation, met: Option<&AppliedFault>) -> ConnectionEnded {
    let journal = &mut simulation.lock().journal;
    match met {
        Some(met) => journal.interrupted(met.act.name()),
        None => journal.broken(),
    }
    ConnectionEnded
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// The answer that the simulation gives, if it gives one at all.
fn execute(simulation: &SharedSimulation, received: &JournaledRequest, act: &Act, whole: bool) -> Option<ApiResponse> {
    let mut simulation = simulation.lock();
    if whole { simulation.act(received, act) } else { act.executes().then(|| simulation.too_long(received)) }
}

/// Shapes what goes out, and notes its status.
fn give(simulation: &SharedSimulation, received: &JournaledRequest, answer: Option<ApiResponse>, act: Act) -> Reaction {
    let mut simulation = simulation.lock();
    let given = shape(answer, act, simulation.stated_time(received));
    let status = match &given {
        Reaction::Answer(response) => Some(response.status().as_u16()),
        Reaction::End(_, status) => *status,
    };
    if let Some(status) = status {
        simulation.answered(received, status);
    }
    given
}
