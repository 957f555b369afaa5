//! The API's server: HTTP/1.1 over TCP or TLS.
//!
//! What always holds: requests of a connection are answered one after another, and connections are kept open. Faults
//! that HTTP cannot express (a reset, a wrong length) end the connection: hyper stops, and the bytes are written to
//! the socket directly. If a client leaves, its request's delays end; an execution is never interrupted.
//!
//! How it fails: a broken connection is dropped silently; accepting continues.

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

/// Pause after a failed accept (no file descriptors left), to avoid a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The simulation, shared by the server, the control address and the handle.
pub(super) type SharedSimulation = Arc<Mutex<Simulation>>;

/// A stream over TCP, which can be reset.
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

/// Where a request leaves the bytes that end its connection.
type PendingEnding = Arc<Mutex<Option<Ending>>>;

#[derive(Debug, thiserror::Error)]
#[error("the sandbox ends this connection")]
struct ConnectionEnded;

/// Accepts connections until dropped.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    simulation: SharedSimulation,
    tasks: TaskTracker,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (simulation, tls) = (Arc::clone(&simulation), tls.clone());
        tasks.spawn(async move {
            let fault = simulation.lock().connection_fault();
            match (fault, tls) {
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
    // Borrowed, so that it can be used after a request has ended the connection.
    let served = http1::Builder::new()
        .half_close(false)
        .pipeline_flush(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(&mut stream), service)
        .await;
    let ending = last.lock().take();
    // Without an ending, the error means that the client left.
    let (Err(_), Some(ending)) = (served, ending) else { return Ok(()) };
    stream.write_all(&ending.bytes).await?;
    stream.flush().await?;
    if ending.reset {
        // With a zero linger time, closing resets the connection.
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
    let fault = if body.is_end_stream() { None } else { simulation.lock().upload_fault(&head) };
    // An unread body is kept until the connection ends: hyper closes the connection when it is dropped, and would do
    // so without a reset.
    let (body, whole) = match upload::read(&mut body, fault.as_ref()).await {
        BodyRead::Whole(body) => (body, true),
        BodyRead::TooLong => (Bytes::new(), false),
        BodyRead::Broken => return Err(broken(&simulation, fault.as_ref())),
        BodyRead::LimitReached => {
            let ended = broken(&simulation, fault.as_ref());
            pause(fault.map_or(0, |fault| fault.wait.saturating_add(fault.delay))).await;
            *last.lock() = Some(Ending { bytes: Vec::new(), reset: true });
            return Err(ended);
        }
    };
    let request =
        BufferedRequest { connection, method: head.method, uri: head.uri, headers: head.headers, body, fault };
    let received = simulation.lock().receive(request);
    let AppliedFault { act, wait, delay, .. } = received.fault.clone().unwrap_or_default();
    pause(wait).await;
    let answer = execute(&simulation, &received, &act, whole);
    pause(delay).await;
    let reaction = apply_fault(&simulation, &received, answer, act);
    match reaction {
        Reaction::Answer(response) => Ok(response),
        Reaction::End(ending, _) => {
            *last.lock() = Some(ending);
            Err(ConnectionEnded)
        }
    }
}

/// Counts an incomplete request.
fn broken(simulation: &SharedSimulation, fault: Option<&AppliedFault>) -> ConnectionEnded {
    let journal = &mut simulation.lock().journal;
    match fault {
        Some(fault) => journal.interrupted(fault.act.name()),
        None => journal.broken(),
    }
    ConnectionEnded
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// The simulation's response, if it gives one.
fn execute(simulation: &SharedSimulation, received: &JournaledRequest, act: &Act, whole: bool) -> Option<ApiResponse> {
    let mut simulation = simulation.lock();
    if whole { simulation.act(received, act) } else { act.executes().then(|| simulation.too_long(received)) }
}

/// Applies the fault to the response, and records its status.
fn apply_fault(
    simulation: &SharedSimulation,
    received: &JournaledRequest,
    answer: Option<ApiResponse>,
    act: Act,
) -> Reaction {
    let mut simulation = simulation.lock();
    let reaction = shape(answer, act, simulation.stated_time(received));
    let status = match &reaction {
        Reaction::Answer(response) => Some(response.status().as_u16()),
        Reaction::End(_, status) => *status,
    };
    if let Some(status) = status {
        simulation.answered(received, status);
    }
    reaction
}
