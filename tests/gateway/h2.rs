//! An HTTP/2 client based on hyper, with prior knowledge or over TLS.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsConnector;

use crate::{client::Request, test_gateway::canary_in};

/// Status and body.
pub(crate) type StatusAndBody = (u16, Vec<u8>);

/// An open connection, driven by its own task.
pub(crate) struct Http2Connection {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    /// The task that drives the connection; it ends with it.
    pub(crate) driver: JoinSet<hyper::Result<()>>,
}

impl Http2Connection {
    /// Opens a connection with prior knowledge, or over TLS if an authority is given.
    pub(crate) async fn open(addr: SocketAddr, authority: Option<&str>) -> Http2Connection {
        match authority {
            None => Http2Connection::begin(TcpStream::connect(addr).await.expect("connected")).await,
            Some(pem) => Http2Connection::over_tls(addr, client_config(pem)).await,
        }
    }

    /// Opens a TLS connection; the server must select HTTP/2 by ALPN.
    pub(crate) async fn over_tls(addr: SocketAddr, client: Arc<ClientConfig>) -> Http2Connection {
        let stream = TcpStream::connect(addr).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let stream = TlsConnector::from(client).connect(name, stream).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Http2Connection::begin(stream).await
    }

    pub(crate) async fn begin<S>(stream: S) -> Http2Connection
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = opened.expect("a handshake");
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Http2Connection { sender, driver }
    }

    /// Sends a request in a task of its own.
    pub(crate) fn send(&self, request: Request) -> JoinHandle<hyper::Result<StatusAndBody>> {
        let mut sender = self.sender.clone();
        let target = format!("http://gateway.test{}", request.target);
        let mut head = http::Request::builder().method(request.method.as_str()).uri(target);
        for (name, value) in &request.headers {
            head = head.header(name, value);
        }
        let request = head.body(Full::new(Bytes::from(request.body))).expect("a request");
        let exchange = async move {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            assert!(response.headers().get("connection").is_none(), "{response:?}");
            let body = response.into_body().collect().await?.to_bytes().to_vec();
            assert_eq!(canary_in(&body), None);
            Ok((status, body))
        };
        tokio::runtime::Handle::current().spawn(exchange)
    }
}

fn client_config(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("added");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Runs an asynchronous client on a runtime of its own.
pub(crate) fn run<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(client)
}
