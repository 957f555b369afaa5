//! Requests to a server of the vault: its headers, deadlines and TLS settings.
//!
//! Each request has a connection of its own, so that nothing is kept alive between two readings. Knows
//! nothing of the requests' meaning. Fails with [`VaultError`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::{fault::VaultError, tls::VaultTls};
use crate::{
    config::file::BaseUrl,
    connector::Connector,
    http_client::{self, Connection, HttpBounds, HttpError, HttpResponse, HttpServer},
    keys::secret::{Secret, sensitive_header},
};

/// A vault is in the same network, and a secret is small.
const BOUNDS: HttpBounds =
    HttpBounds { connect: Duration::from_secs(3), exchange: Duration::from_secs(6), max_response: 1 << 20 };

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

pub(super) type VaultResponse = HttpResponse;

pub(super) struct VaultClient {
    namespace: Option<String>,
    tls: Arc<VaultTls>,
    connector: Connector,
    #[cfg(test)]
    pub(super) stub: Option<Stub>,
}

/// Opens a connection to the server in a test.
#[cfg(test)]
pub(super) type Stub = Box<dyn Fn(&BaseUrl) -> tokio::io::DuplexStream + Send + Sync>;

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
    pub(super) fn new(namespace: Option<String>, tls: VaultTls, connector: Connector) -> Self {
        Self {
            namespace,
            tls: Arc::new(tls),
            connector,
            #[cfg(test)]
            stub: None,
        }
    }

    /// Sends a request to a server of the vault.
    ///
    /// # Errors
    /// [`VaultError`] when there is no complete answer in time. Any status is an answer.
    pub(super) async fn send(&self, server: &BaseUrl, call: &VaultRequest<'_>) -> Result<VaultResponse, VaultError> {
        http_client::send(self.connect(server), self.request(server, call)?, BOUNDS).await
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

    async fn connect(&self, server: &BaseUrl) -> Result<Box<dyn Connection>, VaultError> {
        #[cfg(test)]
        if let Some(stub) = &self.stub {
            return Ok(Box::new(stub(server)));
        }
        // The files are read even if this server needs none: a leader to which it redirects may.
        let tls = if server.tls || self.tls.names_files() { Some(self.tls_config().await?) } else { None };
        let tls = tls.filter(|_| server.tls);
        let server = HttpServer { host: &server.host, port: server.port, tls };
        Ok(http_client::connect(&self.connector, server, BOUNDS.connect).await?)
    }

    /// Reads the certificates, on a thread that may block.
    async fn tls_config(&self) -> Result<Arc<ClientConfig>, VaultError> {
        let tls = self.tls.clone();
        let config = tokio::task::spawn_blocking(move || tls.config()).await;
        config.unwrap_or_else(|_| Err(VaultError::Unfit("reading the certificates was interrupted".to_owned())))
    }
}

impl From<HttpError> for VaultError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Name => Self::Unfit("its host is not a name that TLS can check".to_owned()),
            HttpError::Connect(error) => Self::Unreachable(error.to_string()),
            HttpError::Exchange(error) => Self::Unreachable(error.to_string()),
            HttpError::Deadline(deadline) => Self::DeadlineExceeded(deadline),
            HttpError::TooLong(_) | HttpError::Kept(_) => Self::Malformed(error.to_string()),
        }
    }
}

/// Characters that are percent-encoded in a path (RFC 3986: all but the unreserved ones and slashes).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A mount or a path, percent-encoded for [`VaultRequest::path`].
pub(super) fn encoded(path: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(path, ENCODED)
}
