//! Connections are bounded in number, size and time.

use std::time::Duration;

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::time::{Instant, timeout};

use super::*;
use crate::admin::{
    connections::Connections,
    server::{AdminConnection, GRACE, MAX_AGE},
};

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read() {
    let stage = TestAdmin::usual().await;
    let reply = stage.post("/keys/rotate", &" ".repeat(MAX_BODY + 1)).await;
    assert_eq!((reply.status, reply.code()), (413, "request.too_large".to_owned()));
    assert_eq!(stage.post("/keys/rotate", &" ".repeat(MAX_BODY)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_and_a_silent_client_are_cut() {
    for begun in ["GET /status HT", ""] {
        let stage = TestAdmin::usual().await;
        let began = Instant::now();
        let mut socket = TcpStream::connect(stage.address).await.unwrap();
        socket.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        assert!((9..=11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_answered_in_time() {
    let stage = TestAdmin::usual().await;
    let began = Instant::now();
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    let head = TestRequest::post("/keys/rotate")
        .token(TOKEN)
        .text(stage.address)
        .replace("content-length: 0", "content-length: 9");
    socket.write_all(head.as_bytes()).await.unwrap();
    let reply = TestResponse::read(&mut socket).await;
    assert_eq!((reply.status, reply.code()), (503, "request.timeout".to_owned()));
    assert!(began.elapsed() <= error::REQUEST_TIMEOUT + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_cut() {
    let stage = TestAdmin::usual().await;
    let (mut client, io) = tokio::io::duplex(64);
    let asks = TestRequest::get("/").text(stage.address).replace("connection: close\r\n", "");
    let began = Instant::now();
    let connection = AdminConnection { router: router(stage.admin()), tls: None, drain: stage.drain.clone() };
    let served = connection.serve(io, stage.address, Arc::new(Connections::default().admit(stage.address.ip())));
    let (asked, ()) = tokio::join!(client.write_all(asks.as_bytes()), served);
    asked.unwrap();
    let took = began.elapsed();
    assert!(took >= MAX_AGE && took <= MAX_AGE + GRACE, "{took:?}");
}

/// What comes back of a request on a connection with little room, whose client reads nothing until `reads_after` the stop;
/// and how long after the stop the connection ended.
async fn stopped(stage: &TestAdmin, request: TestRequest, reads_after: Duration) -> (Vec<u8>, Duration) {
    let (mut client, io) = tokio::io::duplex(64);
    let asks = request.text(stage.address).replace("connection: close\r\n", "");
    let connection = AdminConnection { router: router(stage.admin()), tls: None, drain: stage.drain.clone() };
    let served = async {
        connection.serve(io, stage.address, Arc::new(Connections::default().admit(stage.address.ip()))).await;
        Instant::now()
    };
    let reads = async {
        client.write_all(asks.as_bytes()).await.unwrap();
        let mut response = vec![0];
        client.read_exact(&mut response).await.unwrap();
        stage.drain.begin();
        stage.drain.stop_admin.cancel();
        let stopped = Instant::now();
        tokio::time::sleep(reads_after).await;
        let _ = client.read_to_end(&mut response).await;
        (response, stopped)
    };
    let (ended, (response, stopped)) = tokio::join!(served, reads);
    (response, ended - stopped)
}

/// Anybody may read metrics: who does not take them made each stop last `limits.drain`.
#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_no_client_that_does_not_read() {
    let stage = TestAdmin::usual().await;
    for request in [TestRequest::get("/metrics"), TestRequest::post("/state/backup")] {
        let (_, lasted) = stopped(&stage, request, Duration::from_secs(20)).await;
        assert!(lasted <= Duration::from_secs(2), "{lasted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_response_of_a_command() {
    let stage = TestAdmin::usual().await;
    let backup = TestRequest::post("/state/backup").token(TOKEN);
    let (response, lasted) = stopped(&stage, backup, Duration::from_secs(20)).await;
    let head = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let text = String::from_utf8_lossy(&response[..head]).to_ascii_lowercase();
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a length");
    assert_eq!(response.len() - head - 4, length.parse::<usize>().unwrap(), "{text}");
    assert!(lasted >= Duration::from_secs(20), "{lasted:?}");
}

/// Contract section 7: health responses have reserved capacity that no other client can take.
#[tokio::test]
async fn idle_connections_keep_nobody_from_health_and_metrics() {
    let stage = TestAdmin::usual().await;
    let mut idle = Vec::new();
    for begun in ["", "GET /status HTTP/1.1\r\n", "POST /keys/rotate HTTP/1.1\r\ncontent-length: 9\r\n"] {
        for _ in 0..100 {
            let mut socket = TcpStream::connect(stage.address).await.unwrap();
            socket.write_all(begun.as_bytes()).await.unwrap();
            idle.push(socket);
        }
        for path in ["/livez", "/readyz", "/metrics"] {
            let mut probe = TcpStream::connect(stage.address).await.unwrap();
            probe.write_all(TestRequest::get(path).text(stage.address).as_bytes()).await.unwrap();
            let reply = timeout(Duration::from_secs(5), TestResponse::read(&mut probe)).await;
            assert!(matches!(reply.unwrap().status, 200 | 503), "{path}");
        }
    }
    // Connections that are kept after a request are closed like others.
    let mut kept = Vec::new();
    for _ in 0..100 {
        let mut socket = TcpStream::connect(stage.address).await.unwrap();
        let request = TestRequest::get("/livez").text(stage.address).replace("connection: close\r\n", "");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0];
        timeout(Duration::from_secs(5), socket.read_exact(&mut first)).await.unwrap().unwrap();
        kept.push(socket);
    }
}

#[tokio::test]
async fn ends_when_it_is_told_to() {
    let stage = TestAdmin::usual().await;
    let mut kept = TcpStream::connect(stage.address).await.unwrap();
    stage.drain.stop_admin.cancel();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(5), kept.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a kept connection outlived the port");
    while TcpStream::connect(stage.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Issue: the last probes of a stop got a reset.
#[tokio::test]
async fn what_waits_in_the_backlog_of_a_stop_is_answered() {
    let stage = TestAdmin::usual().await;
    let probes = ["/livez", "/readyz", "/metrics", "/livez"].map(|path| {
        // Nothing else runs meanwhile.
        let mut probe = std::net::TcpStream::connect(stage.address).unwrap();
        std::io::Write::write_all(&mut probe, TestRequest::get(path).text(stage.address).as_bytes()).unwrap();
        probe.set_nonblocking(true).unwrap();
        probe
    });
    stage.drain.begin();
    stage.drain.stop_admin.cancel();
    for probe in probes {
        let reply = TestResponse::read(&mut TcpStream::from_std(probe).unwrap()).await;
        assert!(matches!(reply.status, 200 | 503), "{reply:?}");
    }
}

/// A client that keeps its connection learns of a stop from a response, not from a reset of its next request.
#[tokio::test]
async fn responses_close_their_connection_once_the_drain_has_begun() {
    let stage = TestAdmin::usual().await;
    let livez = TestRequest::get("/livez").text(stage.address).replace("connection: close\r\n", "");
    let mut kept = TcpStream::connect(stage.address).await.unwrap();
    stage.drain.begin();
    kept.write_all(livez.as_bytes()).await.unwrap();
    let reply = timeout(Duration::from_secs(5), TestResponse::read(&mut kept)).await.expect("it ends");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
}

#[tokio::test]
async fn speaks_tls_where_it_is_given() {
    choose_crypto();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let stage = TestAdmin::new(TestSettings {
        tls: Some((made.cert.pem(), made.signing_key.serialize_pem())),
        ..TestSettings::default()
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(stage.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
    tls.write_all(TestRequest::get("/status").token(TOKEN).host("localhost").text(stage.address).as_bytes())
        .await
        .unwrap();
    assert_eq!(TestResponse::read(&mut tls).await.status, 200);
    tls.get_ref();
    // And nothing else there.
    let mut plain = TcpStream::connect(stage.address).await.unwrap();
    plain.write_all(TestRequest::get("/livez").text(stage.address).as_bytes()).await.unwrap();
    let reply = TestResponse::read(&mut plain).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "request.malformed"));
}

/// 48 readers of 10,000 services used to occupy a core: each text took 71 ms.
#[tokio::test]
async fn many_readers_share_a_text_that_is_at_most_a_second_old() {
    let stage = TestAdmin::usual().await;
    let metrics = stage.gateway.live.metrics.clone();
    let read = || async { stage.ask(TestRequest::get("/metrics")).await.body };
    // One reader at a time gets what is true now.
    for event in ["seen", "verified", "promoted"] {
        metrics.key_event("main", event);
        assert!(read().await.contains(&format!("event=\"{event}\"")), "{event}");
    }
    // Texts take more than their share of the time: then one is kept.
    let began = Instant::now();
    loop {
        metrics.key_event("main", "refused");
        let text = read().await;
        let last = text.lines().find_map(|line| {
            line.strip_prefix("fastrac_gateway_key_events_total{account=\"main\",event=\"refused\"} ")
        });
        let count = |text: &str| text.parse::<u64>().unwrap();
        let now = stage.gateway.live.metrics.text();
        let now = now.lines().find_map(|line| {
            line.strip_prefix("fastrac_gateway_key_events_total{account=\"main\",event=\"refused\"} ")
        });
        if count(last.unwrap()) < count(now.unwrap()) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "every reader had a text of its own");
    }
    let until = Instant::now() + Duration::from_secs(5);
    metrics.key_event("main", "revoked");
    while !read().await.contains("event=\"revoked\"") {
        assert!(Instant::now() < until, "a text is kept for longer than a second");
    }
}

/// Contract section 7, Access: health has capacity that idle connections, slow readers and scrapes cannot take.
#[tokio::test]
async fn slow_readers_and_scrapes_keep_nobody_from_health() {
    let stage = TestAdmin::usual().await;
    let scrape = TestRequest::get("/metrics").text(stage.address).replace("connection: close\r\n", "");
    let mut readers = Vec::new();
    for _ in 0..100 {
        // Pipelined, and nothing is read: responses fill every buffer on the way.
        let mut socket = TcpStream::connect(stage.address).await.unwrap();
        let _ = socket.write_all(scrape.repeat(50).as_bytes()).await;
        readers.push(socket);
    }
    for path in ["/livez", "/readyz"] {
        let mut probe = TcpStream::connect(stage.address).await.unwrap();
        probe.write_all(TestRequest::get(path).text(stage.address).as_bytes()).await.unwrap();
        let reply = timeout(Duration::from_secs(5), TestResponse::read(&mut probe)).await;
        assert_eq!(reply.expect("in time").status, 200, "{path}");
    }
}
