//! Tunnels through proxies, misbehaving ones included.

use std::{future::Future, time::Duration};

use proptest::prelude::*;
use tokio::net::TcpListener;

use super::*;

/// What a proxy received, and the result of the tunnel.
async fn through<F>(host: &str, port: u16, says: impl FnOnce(TcpStream) -> F) -> (String, io::Result<TcpStream>)
where
    F: Future<Output = TcpStream>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let acts = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            heard.push(socket.read_u8().await.unwrap());
        }
        (String::from_utf8(heard).unwrap(), says(socket).await)
    };
    let ((heard, _socket), opened) = tokio::join!(acts, tunnel(connected, host, port));
    (heard, opened)
}

/// Says this in pieces of `size` bytes, and stays.
async fn said(answer: &[u8], size: usize) -> io::Result<TcpStream> {
    let says = |mut socket: TcpStream| async move {
        socket.set_nodelay(true).unwrap();
        for piece in answer.chunks(size) {
            if socket.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        socket
    };
    through("fastrac.example", 443, says).await.1
}

async fn refused(answer: &[u8]) -> String {
    said(answer, 4096).await.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn a_proxy_learns_host_and_port_and_nothing_else() {
    for (host, target) in [("fastrac.example", "fastrac.example:8443"), ("::1", "[::1]:8443")] {
        let says = |mut socket: TcpStream| async move {
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            socket
        };
        let (heard, opened) = through(host, 8443, says).await;
        assert_eq!(heard, format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"));
        opened.unwrap();
    }
}

#[tokio::test]
async fn bytes_behind_the_head_belong_to_the_tunnel() {
    for head in [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200\r\nvia: p\r\n\r\n",
        "HTTP/1.1 204 \r\ncontent-length: 3\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        for size in [1, 3, 7, 4096] {
            let mut tunnel = said(format!("{head}\x16\x03\r\n\r\n").as_bytes(), size).await.unwrap();
            let mut behind = [0; 6];
            tunnel.read_exact(&mut behind).await.unwrap();
            assert_eq!(&behind, b"\x16\x03\r\n\r\n", "{head:?} in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn a_refusal_gives_its_status_and_nothing_of_its_text() {
    for status in [407, 403, 502, 503, 301, 101] {
        let answer = format!("HTTP/1.1 {status} canary\r\nproxy-authenticate: canary\r\n\r\ncanary");
        assert_eq!(refused(answer.as_bytes()).await, format!("the proxy answered {status} to CONNECT"));
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    for answer in [
        &b"HTTP/2 200\r\n\r\n"[..],
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"\r\n\r\n",
    ] {
        assert_eq!(refused(answer).await, "the proxy's response is not HTTP", "{answer:?}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(MAX_HEAD));
    assert_eq!(refused(long.as_bytes()).await, "the head of the proxy's response is longer than 8 KiB");
    let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_HEAD / 25 + 1);
    assert_eq!(refused(many.as_bytes()).await, "the head of the proxy's response is longer than 8 KiB");
}

#[tokio::test]
async fn a_proxy_that_closes_midway_opens_nothing() {
    for begun in ["", "HTTP/1.1 200 Connection est", "HTTP/1.1 200 OK\r\n"] {
        let says = |mut socket: TcpStream| async move {
            socket.write_all(begun.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            socket
        };
        let (_, opened) = through("fastrac.example", 443, says).await;
        assert_eq!(opened.unwrap_err().to_string(), "the proxy closed the connection before it responded");
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_waited_for_as_long_as_whoever_dials_likes() {
    let silent = through("fastrac.example", 443, |socket| async { socket });
    assert!(tokio::time::timeout(Duration::from_millis(50), silent).await.is_err());
}

proptest! {
    #[test]
    fn only_a_valid_status_line_is_read(head in proptest::collection::vec(any::<u8>(), 0..40), code in 100_u16..1000) {
        if let Some(status) = status(&head) {
            prop_assert!(head.starts_with(b"HTTP/1.") && (100..1000).contains(&status));
        }
        prop_assert_eq!(status(format!("HTTP/1.1 {code} x\r\n\r\n").as_bytes()), Some(code));
    }
}
