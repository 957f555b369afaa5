//! The sandbox's door: HTTP/1.1 over TCP or TLS.
//!
//! What always holds: one request is answered after another on a connection, which is kept open; a
//! fault that can't be said in HTTP (a reset, a lying length) ends the connection and writes its
//! bytes itself, past hyper. A caller that leaves ends its request's waiting, never an execution.
//!
//! How it fails: a connection that breaks is dropped without a word; accepting goes on.

mod flow;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
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
    faults::{self, Act, Canned},
    world::{Answer, Received, Request, World},
};
use flow::Flow;

/// The longest body that is read, in bytes.
const LONGEST: usize = 16 << 20;

/// Pause after a failed accept (no file descriptors left), so that it doesn't spin.
const PAUSE: Duration = Duration::from_millis(20);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

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

/// How a connection ends past hyper.
#[derive(Debug, Default)]
struct Ending {
    bytes: Vec<u8>,
    reset: bool,
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
            match tls {
                None => connection(stream, world).await,
                Some(tls) => match tls.accept(stream).await {
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
    let (head, body) = request.into_parts();
    let (body, whole) = match body.is_end_stream() {
        true => (Bytes::new(), true),
        false => match Limited::new(body, LONGEST).collect().await {
            Ok(body) => (body.to_bytes(), true),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => (Bytes::new(), false),
            Err(_) => return Err(broken(&world)),
        },
    };
    let request = Request { connection, method: head.method, uri: head.uri, headers: head.headers, body };
    let mut received = world.lock().receive(request);
    let fault = received.fault.take().unwrap_or_default();
    pause(fault.wait_ms).await;
    let answer = execute(&world, &received, &fault.act, whole);
    pause(fault.delay_ms).await;
    let given = shape(answer, fault.act);
    let status = match &given {
        Given::Answer(response) => Some(response.status().as_u16()),
        Given::End(_, status) => *status,
    };
    if let Some(status) = status {
        world.lock().answered(&received, status);
    }
    match given {
        Given::Answer(response) => Ok(response),
        Given::End(ending, _) => {
            *last.lock() = Some(ending);
            Err(Ended)
        }
    }
}

fn broken(world: &Shared) -> Ended {
    world.lock().journal.broken();
    Ended
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// The right answer, if the request is executed at all.
fn execute(world: &Shared, received: &Received, act: &Act, whole: bool) -> Option<Answer> {
    let mut world = world.lock();
    match (act.executes(), whole) {
        (false, _) => None,
        (true, false) => Some(world.too_long(received)),
        (true, true) => Some(world.execute(received)),
    }
}

/// What goes out: an answer, or the connection's end and the status that its bytes carry or would
/// have carried.
enum Given {
    Answer(Response<Flow>),
    End(Ending, Option<u16>),
}

fn shape(answer: Option<Answer>, act: Act) -> Given {
    let status = answer.as_ref().map(|answer| answer.status);
    let ending = |reset| Given::End(Ending { bytes: Vec::new(), reset }, status);
    match (act, answer) {
        (Act::Reset | Act::LoseReset, _) => ending(true),
        (Act::Close | Act::Lose, _) => ending(false),
        (Act::Answer(canned), _) => Given::Answer(canned_response(canned)),
        (_, None) => ending(false),
        (Act::Cut { after, reset }, Some(answer)) => {
            let sent = answer.body.slice(..after.min(answer.body.len()));
            Given::End(Ending { bytes: raw(answer.status, answer.body.len(), &sent), reset }, status)
        }
        (Act::WrongLength { by }, Some(answer)) => {
            let length = (answer.body.len() as i64).saturating_add(by).max(0);
            Given::End(Ending { bytes: raw(answer.status, length as usize, &answer.body), reset: false }, status)
        }
        (Act::Drip { bytes, every_ms }, Some(answer)) => {
            Given::Answer(response(answer.status, Flow::drip(answer.body, bytes, Duration::from_millis(every_ms))))
        }
        (Act::Long { bytes }, Some(answer)) => {
            Given::Answer(response(answer.status, Flow::whole(faults::pad(&answer.body, bytes))))
        }
        (Act::Pass, Some(answer)) => Given::Answer(response(answer.status, Flow::whole(answer.body))),
    }
}

fn response(status: u16, flow: Flow) -> Response<Flow> {
    let mut response = Response::new(flow);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn canned_response(canned: Canned) -> Response<Flow> {
    let mut response = response(canned.status, Flow::whole(canned.body.into()));
    let mut replaced = Vec::new();
    for (name, value) in canned.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else { continue };
        // The first of a name replaces what stands there (the content type), further ones add up.
        if replaced.contains(&name) {
            response.headers_mut().append(name, value);
        } else {
            response.headers_mut().insert(name.clone(), value);
            replaced.push(name);
        }
    }
    response
}

/// An answer as bytes, with a length that need not be true.
fn raw(status: u16, length: usize, body: &[u8]) -> Vec<u8> {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let head =
        format!("HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}
