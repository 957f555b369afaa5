//! An HTTP/2 client with prior knowledge: hyper's.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{client::Request, stage::canary_in};

/// Asks one after the other on one connection; gives status and body of each, in the order asked.
pub(crate) fn ask(addr: SocketAddr, requests: Vec<Request>) -> Vec<(u16, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(addr).await.expect("connected");
        let opened = http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = opened.expect("a handshake");
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(connection);
        let mut answers = Vec::new();
        for asked in requests {
            let mut sender = sender.clone();
            let mut request = http::Request::builder()
                .method(asked.method.as_str())
                .uri(format!("http://gateway.test{}", asked.target));
            for (name, value) in &asked.headers {
                request = request.header(name, value);
            }
            let request = request.body(Full::new(Bytes::from(asked.body))).expect("a request");
            sender.ready().await.expect("ready");
            let answer = sender.send_request(request).await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body").to_bytes().to_vec();
            assert_eq!(canary_in(&body), None);
            answers.push((status, body));
        }
        answers
    })
}
