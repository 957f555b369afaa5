//! What happens to a request whose connection can no longer be used.

use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{AuthStyle, Endpoint},
    record::Metrics,
    upstream::connect::Dialer,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A connection that has carried one request and is idle, and its peer.
async fn idle() -> (Pool, Arc<Destination>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = Endpoint {
        tls: false,
        host: "127.0.0.1".into(),
        port,
        authority: format!("127.0.0.1:{port}"),
        prefix: String::new(),
        auth: AuthStyle::Headers,
    };
    let connections = Metrics::new().unwrap().upstream_connections("main");
    let destination = Arc::new(Destination::new(&endpoint, None, Dialer::default(), connections).unwrap());
    let opened = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut connection = UpstreamConnection::open(UpstreamIo::Plain(opened), &destination, soon()).await.unwrap();
    let pool = Pool::default();
    let exchange = async {
        let headers = answered(&mut connection, request("/first")).await;
        pool.put(connection, &headers, Instant::now());
    };
    let peer_side = async {
        while !heard(&mut peer).await.contains("/first") {}
        peer.write_all(ANSWER).await.unwrap();
    };
    tokio::join!(exchange, peer_side);
    (pool, destination, peer)
}

/// The headers of a response that is read to its end.
async fn answered(connection: &mut UpstreamConnection, request: Request<Full<Bytes>>) -> HeaderMap {
    let Ok(mut response) = connection.send(request).await else { panic!("no response") };
    while let Some(frame) = connection.frame(response.body_mut()).await.unwrap() {
        frame.unwrap();
    }
    response.headers().clone()
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "fastrac").body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

async fn heard(peer: &mut TcpStream) -> String {
    let mut text = vec![0; 4096];
    let length = peer.read(&mut text).await.unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Longer than loopback takes to deliver what the peer did.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Issue: a caller that left at that moment had paid for a request of which Fastrac got no byte.
#[tokio::test]
async fn a_request_that_is_dropped_before_its_first_write_has_not_left() {
    for polls in 0..=2 {
        let (pool, destination, mut peer) = idle().await;
        let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
        let limits = connection.limits();
        let mut sent = Box::pin(connection.send(request("/second")));
        let mut context = Context::from_waker(Waker::noop());
        (0..polls).for_each(|_| assert!(sent.as_mut().poll(&mut context).is_pending()));
        drop(sent);
        drop(connection);
        // The first poll defers the write. Before it, the flag is that of the request before.
        assert_eq!(limits.has_written(), polls != 1, "{polls}");
        assert_eq!(heard(&mut peer).await.contains("/second"), polls == 2, "{polls}");
    }
}

#[tokio::test]
async fn an_idle_connection_carries_the_next_request() {
    let (pool, destination, mut peer) = idle().await;
    let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
    peer.write_all(ANSWER).await.unwrap();
    assert!(connection.send(request("/second")).await.is_ok());
    assert!(heard(&mut peer).await.starts_with("POST /second "));
}

/// Issue: the next order was "sent" behind what was left of the body, and got whatever Fastrac said to that.
#[tokio::test]
async fn a_connection_whose_request_was_perhaps_not_taken_whole_carries_no_other() {
    // The last one is more than the buffers of both sockets.
    for (length, is_kept) in [(10_000, true), (100_000, false), (32 << 20, false)] {
        let (pool, destination, mut peer) = idle().await;
        let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
        let long = Request::post("/long").body(Full::new(Bytes::from(vec![0; length]))).unwrap();
        let early = async {
            heard(&mut peer).await;
            peer.write_all(ANSWER).await.unwrap();
        };
        let (headers, ()) = tokio::join!(answered(&mut connection, long), early);
        let has_flushed = connection.limits.has_flushed();
        assert_eq!(has_flushed, length < 32 << 20, "{length}");
        pool.put(connection, &headers, Instant::now());
        assert_eq!(pool.take(&destination, Instant::now(), soon()).is_some(), is_kept, "{length}");
    }
}

/// Issue: the read that looks for more after a long last piece failed, and ended the connection.
#[tokio::test]
async fn a_connection_whose_response_was_long_carries_the_next_request() {
    for of in (50_000..=400_000).step_by(25_000) {
        let (pool, destination, mut peer) = idle().await;
        let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {of}\r\n\r\n");
        let long = [head.as_bytes(), &vec![0; of]].concat();
        let peer_side = async {
            heard(&mut peer).await;
            peer.write_all(&long).await.unwrap();
        };
        let exchange = async {
            let Ok(mut response) = connection.send(request("/long")).await else { panic!("no response") };
            let mut length = 0;
            while length < of {
                // Much comes meanwhile.
                tokio::time::sleep(Duration::from_millis(10)).await;
                let frame = connection.frame(response.body_mut()).await.unwrap().unwrap();
                length += frame.unwrap().into_data().unwrap().len();
            }
            pool.put(connection, response.headers(), Instant::now());
        };
        tokio::join!(exchange, peer_side);
        assert!(pool.take(&destination, Instant::now(), soon()).is_some(), "{of}");
    }
}

/// The body of a chunked response: its pieces, and the most of them in one poll; `Err`: it failed.
async fn pieces(body: Vec<u8>) -> hyper::Result<(usize, usize)> {
    let (pool, destination, mut peer) = idle().await;
    let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
    let peer_side = async {
        heard(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        // It may be closed before.
        let _ = peer.write_all(&body).await;
    };
    let read = async {
        let Ok(mut response) = connection.send(request("/chunks")).await else { panic!("no response") };
        let (mut count, mut most) = (0, 0);
        std::future::poll_fn(|cx| {
            let mut in_poll = 0;
            loop {
                match connection.poll_frame(response.body_mut(), cx) {
                    Poll::Ready(frame) => match frame.unwrap() {
                        None => return Poll::Ready(Ok((count, most))),
                        Some(Err(error)) => return Poll::Ready(Err(error)),
                        Some(Ok(_)) => (count, in_poll) = (count + 1, in_poll + 1),
                    },
                    Poll::Pending => return Poll::Pending,
                }
                most = most.max(in_poll);
            }
        })
        .await
    };
    tokio::select! { read = read => read, () = async { peer_side.await; std::future::pending().await } => unreachable!() }
}

#[tokio::test]
async fn a_body_in_tiny_pieces_leaves_other_tasks_their_turn() {
    let mut body = b"1\r\nx\r\n".repeat(50_000);
    body.extend(b"0\r\n\r\n");
    let (count, most) = pieces(body).await.unwrap();
    assert!(count == 50_000 && most < 1_000, "{count} pieces, {most} of them in one poll");
}

#[tokio::test]
async fn zeros_before_the_size_of_a_chunk_have_an_end() {
    let body = |zeros: usize| [&b"0".repeat(zeros), &b"1\r\nx\r\n0\r\n\r\n"[..]].concat();
    assert_eq!(pieces(body(1_000)).await.unwrap(), (1, 1));
    assert!(pieces(body(1_000_000)).await.is_err());
}

#[tokio::test]
async fn a_connection_closed_while_idle_gives_the_request_back() {
    let (pool, destination, peer) = idle().await;
    drop(peer);
    a_moment().await;
    let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
    let Err(SendError::Unsent(unsent)) = connection.send(request("/second")).await else { panic!("not given back") };
    assert_eq!(unsent.uri(), "/second");
}

#[tokio::test]
async fn a_connection_with_bytes_to_read_gives_the_request_back_and_writes_nothing() {
    let (pool, destination, mut peer) = idle().await;
    // A response without a request must never be taken for that of the next request.
    peer.write_all(ANSWER).await.unwrap();
    a_moment().await;
    let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
    let Err(SendError::Unsent(unsent)) = connection.send(request("/second")).await else { panic!("not given back") };
    assert_eq!(unsent.uri(), "/second");
    drop(connection);
    let mut rest = String::new();
    peer.read_to_string(&mut rest).await.ok();
    assert_eq!(rest, "");
}

/// Issue: an order of which the kernel had taken no byte was "unknown", and equal ones were held for a day.
#[tokio::test]
async fn a_connection_that_is_reset_before_its_first_write_has_taken_nothing() {
    let (pool, destination, peer) = idle().await;
    let mut connection = pool.take(&destination, Instant::now(), soon()).unwrap();
    let limits = connection.limits();
    let mut sent = Box::pin(connection.send(request("/second")));
    // The first poll defers the write.
    assert!(sent.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    a_moment().await;
    assert!(matches!(sent.await, Err(SendError::Unwritten(_))));
    assert!(!limits.has_written());
}

#[tokio::test]
async fn the_sweep_drops_closed_connections() {
    let (pool, destination, peer) = idle().await;
    pool.sweep();
    let kept = pool.take(&destination, Instant::now(), soon()).unwrap();
    pool.put(kept, &HeaderMap::new(), Instant::now());
    drop(peer);
    a_moment().await;
    pool.sweep();
    assert!(pool.take(&destination, Instant::now(), soon()).is_none());
}

/// A connection whose peer sends nothing, with tokio's clock paused.
async fn waiting(within: Duration) -> (UpstreamConnection, TcpStream) {
    let (pool, destination, peer) = idle().await;
    tokio::time::pause();
    let now = Instant::now();
    (pool.take(&destination, now, now + within).unwrap(), peer)
}

#[tokio::test]
async fn a_request_ends_at_its_own_deadline_whatever_that_of_an_earlier_one_was() {
    for within in [Duration::from_secs(1), Duration::from_secs(30)] {
        let (mut connection, _peer) = waiting(within).await;
        let began = Instant::now();
        assert!(matches!(connection.send(request("/second")).await, Err(SendError::DeadlineExceeded)));
        assert_eq!(began.elapsed().as_secs(), within.as_secs());
        tokio::time::resume();
    }
}
