//! What becomes of a request that meets a connection which is no longer good.

use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{AuthStyle, Endpoint},
    record::Metrics,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A connection that has carried one request and is idle, and its other end.
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
    let destination = Arc::new(Destination::new(&endpoint, None, None, connections).unwrap());
    let opened = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut link = Link::open(Io::Plain(opened), &destination).await.unwrap();
    peer.write_all(ANSWER).await.unwrap();
    let mut response = link.ask(request("/first")).await.unwrap();
    while let Some(frame) = link.frame(response.body_mut()).await {
        frame.unwrap();
    }
    let pool = Pool::default();
    pool.put(link, response.headers());
    while !heard(&mut peer).await.contains("/first") {}
    (pool, destination, peer)
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "fastrac").body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

async fn heard(peer: &mut TcpStream) -> String {
    let mut text = vec![0; 4096];
    let length = peer.read(&mut text).await.unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// As long as the other end's doings may take to arrive here.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn an_idle_connection_carries_the_next_request() {
    let (pool, destination, mut peer) = idle().await;
    let mut link = pool.take(&destination, Instant::now()).unwrap();
    peer.write_all(ANSWER).await.unwrap();
    assert!(link.ask(request("/second")).await.is_ok());
    assert!(heard(&mut peer).await.starts_with("POST /second "));
}

#[tokio::test]
async fn a_connection_closed_while_idle_gives_the_request_back() {
    let (pool, destination, peer) = idle().await;
    drop(peer);
    a_moment().await;
    let mut link = pool.take(&destination, Instant::now()).unwrap();
    let mut refused = link.ask(request("/second")).await.unwrap_err();
    assert_eq!(refused.take_message().unwrap().uri(), "/second");
}

#[tokio::test]
async fn a_connection_that_spoke_while_idle_gives_the_request_back_and_writes_nothing() {
    let (pool, destination, mut peer) = idle().await;
    // The answer to a request that nobody sent: it must never be taken for the next one's.
    peer.write_all(ANSWER).await.unwrap();
    a_moment().await;
    let mut link = pool.take(&destination, Instant::now()).unwrap();
    let mut refused = link.ask(request("/second")).await.unwrap_err();
    assert_eq!(refused.take_message().unwrap().uri(), "/second");
    drop(link);
    let mut rest = String::new();
    peer.read_to_string(&mut rest).await.ok();
    assert_eq!(rest, "");
}

#[tokio::test]
async fn the_sweep_drops_what_was_closed() {
    let (pool, destination, peer) = idle().await;
    pool.sweep();
    let kept = pool.take(&destination, Instant::now()).unwrap();
    pool.put(kept, &HeaderMap::new());
    drop(peer);
    a_moment().await;
    pool.sweep();
    assert!(pool.take(&destination, Instant::now()).is_none());
}
