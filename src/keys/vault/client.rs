//! One request to the vault over HTTP/1.1, on a connection of its own.
//!
//! Certificates are verified; connecting and the whole exchange have a deadline; the size of an answer is
//! bounded; received bytes are zeroed in every buffer that this process owns alone. Knows nothing of the
//! requests' meaning. Fails with [`VaultError`].

use std::{io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use zeroize::{Zeroize as _, Zeroizing};

use super::{fault::VaultError, tls::VaultTls};
use crate::{
    config::file::BaseUrl,
    keys::secret::{Secret, sensitive_header},
};

/// Deadline for TCP and TLS together; a vault is in the same network.
const CONNECT: Duration = Duration::from_secs(3);
/// Deadline for the whole exchange, including the connection.
const EXCHANGE: Duration = Duration::from_secs(6);
/// Maximum size of a vault answer, in bytes.
const MAX_RESPONSE: usize = 1 << 20;

/// Says that the request comes from a client and not from a page in a browser (Vault's protection against
/// request forgery).
const REQUEST: &str = "x-vault-request";
const TOKEN: &str = "x-vault-token";
const NAMESPACE: &str = "x-vault-namespace";

pub(super) struct VaultRequest<'a> {
    pub(super) method: Method,
    /// Path below `/v1/`, percent-encoded.
    pub(super) path: &'a str,
    pub(super) token: Option<&'a Secret>,
    /// JSON; empty: no body.
    pub(super) body: Zeroizing<Vec<u8>>,
    /// Whether it is sent to the namespace, or to the vault as a whole.
    pub(super) namespaced: bool,
}

pub(super) struct VaultResponse {
    pub(super) status: StatusCode,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// Value of `location`.
    pub(super) location: Option<String>,
}

pub(super) struct VaultClient {
    namespace: Option<String>,
    tls: Arc<VaultTls>,
    #[cfg(test)]
    pub(super) stub: Option<Stub>,
}

/// Opens a connection to the server in a test.
#[cfg(test)]
pub(super) type Stub = Box<dyn Fn(&BaseUrl) -> tokio::io::DuplexStream + Send + Sync>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl<'a> VaultRequest<'a> {
    pub(super) fn get(path: &'a str, token: &'a Secret) -> Self {
        Self { method: Method::GET, path, token: Some(token), body: Zeroizing::default(), namespaced: true }
    }

    /// Reads what needs no login and is the same in all namespaces.
    pub(super) fn open(path: &'a str) -> Self {
        Self { method: Method::GET, path, token: None, body: Zeroizing::default(), namespaced: false }
    }

    pub(super) fn post(path: &'a str, token: Option<&'a Secret>, body: Zeroizing<Vec<u8>>) -> Self {
        Self { method: Method::POST, path, token, body, namespaced: true }
    }
}

impl VaultClient {
    pub(super) fn new(namespace: Option<String>, tls: VaultTls) -> Self {
        Self {
            namespace,
            tls: Arc::new(tls),
            #[cfg(test)]
            stub: None,
        }
    }

    /// Sends a request to a server of the vault.
    ///
    /// # Errors
    /// [`VaultError`] when there is no complete answer in time. Any status is an answer.
    pub(super) async fn send(&self, server: &BaseUrl, call: &VaultRequest<'_>) -> Result<VaultResponse, VaultError> {
        let request = self.request(server, call)?;
        let exchange = async {
            let io = tokio::time::timeout(CONNECT, self.connect(server)).await;
            exchange(io.unwrap_or(Err(VaultError::DeadlineExceeded(CONNECT)))?, request).await
        };
        tokio::time::timeout(EXCHANGE, exchange).await.unwrap_or(Err(VaultError::DeadlineExceeded(EXCHANGE)))
    }

    fn request(&self, server: &BaseUrl, call: &VaultRequest<'_>) -> Result<Request<Full<Bytes>>, VaultError> {
        let unfit = |_| VaultError::Unfit("a name in its settings can't be sent in a request".to_owned());
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}/v1/{}", server.prefix, call.path))
            .header(HOST, server.authority())
            .header(REQUEST, "true")
            .header(ACCEPT, "application/json");
        if let Some(namespace) = self.namespace.as_ref().filter(|_| call.namespaced) {
            request = request.header(NAMESPACE, HeaderValue::try_from(namespace).map_err(|e| unfit(e.into()))?);
        }
        if let Some(token) = call.token {
            let value = sensitive_header(token.expose().as_bytes().to_vec());
            request = request.header(TOKEN, value.map_err(|_| VaultError::Unfit("the token is no text".to_owned()))?);
        }
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(Bytes::from_owner(call.body.clone()))).map_err(unfit)
    }

    async fn connect(&self, server: &BaseUrl) -> Result<Box<dyn Io>, VaultError> {
        #[cfg(test)]
        if let Some(stub) = &self.stub {
            return Ok(Box::new(stub(server)));
        }
        let tls = self.tls.clone();
        // Files are read, and certificates parsed.
        let config =
            if server.tls {
                let built = tokio::task::spawn_blocking(move || tls.config()).await;
                Some(built.unwrap_or_else(|_| {
                    Err(VaultError::Unfit("reading the certificates was interrupted".to_owned()))
                })?)
            } else {
                None
            };
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let Some(config) = config else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|_| VaultError::Unfit("its host is not a name that TLS can check".to_owned()))?;
        Ok(Box::new(TlsConnector::from(config).connect(name, tcp).await.map_err(unreachable)?))
    }
}

fn unreachable(error: io::Error) -> VaultError {
    VaultError::Unreachable(error.to_string())
}

async fn exchange(io: Box<dyn Io>, request: Request<Full<Bytes>>) -> Result<VaultResponse, VaultError> {
    let cut = |error: hyper::Error| VaultError::Unreachable(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(cut)?;
    let mut frames = Vec::new();
    let head = {
        let mut asked = pin!(async {
            let answer = sender.send_request(request).await.map_err(cut)?;
            let (head, body) = answer.into_parts();
            collect(body, &mut frames).await?;
            let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            Ok((head.status, location.map(str::to_owned)))
        });
        // Boxed, so that it is dropped before the buffers are zeroed.
        let mut connection = Box::pin(connection);
        tokio::select! {
            biased;
            head = &mut asked => head,
            // The connection ended, perhaps after the complete answer.
            _ = &mut connection => asked.await,
        }
    };
    drop(sender);
    let body = joined(frames);
    head.map(|(status, location)| VaultResponse { status, body, location })
}

/// Collects the frames of a body of at most [`MAX_RESPONSE`].
async fn collect(mut body: Incoming, frames: &mut Vec<Bytes>) -> Result<(), VaultError> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| VaultError::Unreachable(error.to_string()))?.into_data() else {
            continue;
        };
        length += bytes.len();
        if length > MAX_RESPONSE {
            return Err(VaultError::Malformed("its answer is longer than 1 MiB".to_owned()));
        }
        frames.push(bytes);
    }
    Ok(())
}

/// Copies the frames into one buffer, and zeroes each frame that nothing else shares.
fn joined(frames: Vec<Bytes>) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(frames.iter().map(Bytes::len).sum()));
    for frame in frames {
        body.extend_from_slice(&frame);
        if let Ok(mut own) = frame.try_into_mut() {
            own.as_mut().zeroize();
        }
    }
    body
}

/// Characters that are percent-encoded in a path (RFC 3986: all but the unreserved ones and slashes).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A mount or a path, percent-encoded for [`VaultRequest::path`].
pub(super) fn encoded(path: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(path, ENCODED)
}
