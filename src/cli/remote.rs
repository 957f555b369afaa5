//! Requests to the admin port of a running gateway, from the command line.
//!
//! Time and size of a response are bounded. Redirects are not followed, so the token is sent nowhere else;
//! it is never printed and in no error. Fails with [`AdminClientError`].

use std::{
    fs::File,
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::Full;
use rustls::ClientConfig;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{FAILED, WRONG, output};
use crate::{
    app::choose_crypto,
    connector::Connector,
    files::{read::read_input, roots},
    http_client::{self, Connection, HttpBounds, HttpError, HttpResponse, HttpServer},
    upstream::connect::client_config,
};

/// Longer than the gateway takes to answer that something took too long, and larger than the status of
/// thousands of services.
const BOUNDS: HttpBounds =
    HttpBounds { connect: Duration::from_secs(30), exchange: Duration::from_secs(30), max_response: 16 << 20 };
/// For a copy of a store. The gateway ends a connection after two minutes.
const DOWNLOAD: HttpBounds =
    HttpBounds { connect: Duration::from_secs(30), exchange: Duration::from_secs(150), max_response: usize::MAX };
/// Maximum size of an error in place of it, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// Maximum size of a token file, in bytes.
const MAX_TOKEN: u64 = 64 << 10;
/// The variable with the token, if there is no file.
const TOKEN: &str = "FASTRAC_GATEWAY_ADMIN_TOKEN";

/// Options that name the gateway, and how to reach it.
#[derive(Debug, clap::Args)]
pub(super) struct AdminClient {
    /// Address of the gateway's admin port, such as http://127.0.0.1:9464
    #[arg(long, value_name = "URL")]
    admin: Uri,
    #[command(flatten)]
    credentials: AdminCredentials,
    /// Whether no token is sent.
    #[arg(skip)]
    anonymous: bool,
}

/// Options for the admin port's token and certificate.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct AdminCredentials {
    /// File with the admin token [default: the token in FASTRAC_GATEWAY_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM roots for https, instead of the platform's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// There is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminClientError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The server does not respond, or not as a gateway does.
    #[error("{0}")]
    Failed(String),
}

impl AdminClientError {
    /// Prints the error; returns the exit code.
    pub(super) fn report(&self) -> u8 {
        output::error(self);
        match self {
            AdminClientError::Usage(_) => WRONG,
            AdminClientError::Failed(_) => FAILED,
        }
    }
}

#[derive(Debug)]
pub(super) struct AdminResponse {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl AdminResponse {
    /// The gateway's error message.
    pub(super) fn error_message(&self) -> String {
        let message = self.body["error"]["message"].as_str().unwrap_or("without a message");
        format!("the gateway answers {}: {}", self.status.as_u16(), printable(message))
    }
}

/// The error if a success does not say what was done.
pub(super) const NOT_A_GATEWAY: &str = "the answer is not that of a gateway: it does not say what was done";

/// Prints lines with what a gateway has sent.
pub(super) fn print(lines: &[String]) -> io::Result<()> {
    output::print(|out| lines.iter().try_for_each(|line| writeln!(out, "{}", printable(line))))
}

/// Formats a response as lines for stdout.
type FormatLines = fn(&Value) -> Vec<String>;

/// Prints the result of a command; returns the exit code.
pub(super) fn report(response: &AdminResponse, format: FormatLines) -> io::Result<u8> {
    let lines = format(&response.body);
    let printed = print(&lines);
    if response.status.is_success() {
        if lines.is_empty() {
            output::error(NOT_A_GATEWAY);
            return Ok(FAILED);
        }
        return printed.map(|()| 0);
    }
    output::error(response.error_message());
    // The gateway does not know what the command names.
    let wrong = matches!(response.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
    Ok(if wrong { WRONG } else { FAILED })
}

/// The text with control characters escaped, and those that change the direction of text: a response must not control
/// the terminal.
fn printable(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

impl AdminClient {
    /// For pages that need no token.
    pub(super) fn without_token(admin: Uri, ca: Option<PathBuf>) -> Self {
        AdminClient { admin, credentials: AdminCredentials { token_file: None, ca }, anonymous: true }
    }

    pub(super) fn new(admin: Uri, credentials: &AdminCredentials) -> Self {
        AdminClient { admin, credentials: credentials.clone(), anonymous: false }
    }

    /// Sends a request and waits for the response. Blocks.
    ///
    /// # Errors
    /// [`AdminClientError`]. Any status is a response.
    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<AdminResponse, AdminClientError> {
        let address = AdminAddress::parse(&self.admin)?;
        let mut request = self.request(&address, path, body)?;
        *request.method_mut() = method;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&address, error))?;
        runtime.block_on(self.exchange(&address, request))
    }

    /// Sends an empty POST, and writes the body of the response to a file. Returns its size, bytes. Blocks.
    ///
    /// # Errors
    /// [`AdminClientError`], also if the gateway answers with an error.
    pub(super) fn download(&self, path: &str, to: &mut File) -> Result<u64, AdminClientError> {
        let address = AdminAddress::parse(&self.admin)?;
        let mut request = self.request(&address, path, None)?;
        *request.method_mut() = Method::POST;
        request.headers_mut().remove(ACCEPT);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&address, error))?;
        let (mut written, mut refused) = (0, Vec::new());
        let mut keep = |status: StatusCode, bytes: Bytes| {
            if status.is_success() {
                written += bytes.len() as u64;
                to.write_all(&bytes)
            } else {
                let room = MAX_ERROR.saturating_sub(refused.len()).min(bytes.len());
                refused.extend_from_slice(&bytes[..room]);
                Ok(())
            }
        };
        let connect = self.connect(&address, DOWNLOAD)?;
        let head = runtime.block_on(http_client::receive(connect, request, DOWNLOAD, &mut keep));
        let status = head.map_err(|error| client_error(&address, error))?.status;
        if status.is_success() {
            return Ok(written);
        }
        let mut body: Value = serde_json::from_slice(&refused).unwrap_or_default();
        if let Some(token) = self.token()? {
            withhold(&mut body, token.trim());
        }
        Err(AdminClientError::Failed(AdminResponse { status, body }.error_message()))
    }

    /// Sends a request, and prints the response as `format` says. Returns the exit code. Blocks.
    ///
    /// # Errors
    /// If the result cannot be printed.
    pub(super) fn run(&self, method: Method, path: &str, body: Option<&Value>, format: FormatLines) -> io::Result<u8> {
        match self.send(method, path, body) {
            Ok(response) => report(&response, format),
            Err(error) => Ok(error.report()),
        }
    }

    fn request(
        &self,
        address: &AdminAddress,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, AdminClientError> {
        let mut request = Request::builder()
            .uri(format!("{}{path}", address.prefix))
            .header(HOST, &address.authority)
            .header(ACCEPT, "application/json");
        if let Some(token) = self.token()? {
            if !address.is_private() {
                output::error("the token is sent over the network unencrypted; use https");
            }
            let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
            let mut bearer = HeaderValue::from_str(&bearer)
                .map_err(|_| AdminClientError::Usage("the admin token has a character that no token has".to_owned()))?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| given(body).to_string()).unwrap_or_default();
        request.body(Full::from(body)).map_err(|error| AdminClientError::Usage(format!("--admin: {error}")))
    }

    fn token(&self) -> Result<Option<Zeroizing<String>>, AdminClientError> {
        if self.anonymous {
            return Ok(None);
        }
        let Some(file) = &self.credentials.token_file else {
            return Ok(std::env::var(TOKEN).ok().filter(|token| !token.trim().is_empty()).map(Zeroizing::new));
        };
        let unreadable =
            |error: io::Error| AdminClientError::Usage(format!("--token-file: {}: {error}", file.display()));
        let bytes = read_input(file, MAX_TOKEN).map_err(unreadable)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| unreadable(io::Error::other("it is not text")))?;
        let token = Zeroizing::new(text.to_owned());
        if token.trim().is_empty() {
            return Err(AdminClientError::Usage(format!("--token-file: {}: is empty", file.display())));
        }
        Ok(Some(token))
    }

    async fn exchange(
        &self,
        address: &AdminAddress,
        request: Request<Full<Bytes>>,
    ) -> Result<AdminResponse, AdminClientError> {
        let HttpResponse { status, body, .. } = self.bytes(address, request, BOUNDS).await?;
        let body = serde_json::from_slice(&body);
        let mut body = body.map_err(|_| failed(address, format!("its answer ({status}) is not that of a gateway")))?;
        // A server that echoes the token must not get it onto the screen.
        if let Some(token) = self.token()? {
            withhold(&mut body, token.trim());
        }
        Ok(AdminResponse { status, body })
    }

    async fn bytes(
        &self,
        address: &AdminAddress,
        request: Request<Full<Bytes>>,
        bounds: HttpBounds,
    ) -> Result<HttpResponse, AdminClientError> {
        let connect = self.connect(address, bounds)?;
        http_client::send(connect, request, bounds).await.map_err(|error| client_error(address, error))
    }

    /// Opens a connection when it is polled.
    fn connect<'a>(
        &self,
        address: &'a AdminAddress,
        bounds: HttpBounds,
    ) -> Result<impl Future<Output = Result<Box<dyn Connection>, HttpError>> + use<'a>, AdminClientError> {
        let tls = if address.tls { Some(self.tls_config()?) } else { None };
        Ok(async move {
            let server = HttpServer { host: &address.host, port: address.port, tls };
            http_client::connect(&Connector::default(), server, bounds.connect).await
        })
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, AdminClientError> {
        choose_crypto();
        let roots = roots(self.credentials.ca.as_deref()).map_err(|error| usage(format!("--ca: {error}")))?;
        Ok(client_config(Arc::new(roots)))
    }
}

/// The members of a command that were given: an option that is absent is not sent.
fn given(body: &Value) -> Value {
    let mut body = body.clone();
    if let Value::Object(members) = &mut body {
        members.retain(|_, value| !value.is_null());
    }
    body
}

/// Replaces the token wherever it is in a response.
fn withhold(body: &mut Value, token: &str) {
    match body {
        Value::String(text) if text.contains(token) => *text = text.replace(token, "[redacted]"),
        Value::Array(items) => items.iter_mut().for_each(|item| withhold(item, token)),
        Value::Object(members) => {
            members.values_mut().for_each(|value| withhold(value, token));
            if members.keys().any(|name| name.contains(token)) {
                let old = std::mem::take(members);
                members.extend(old.into_iter().map(|(name, value)| (name.replace(token, "[redacted]"), value)));
            }
        }
        _ => {}
    }
}

fn usage(message: impl Into<String>) -> AdminClientError {
    AdminClientError::Usage(message.into())
}

fn client_error(address: &AdminAddress, error: HttpError) -> AdminClientError {
    match error {
        HttpError::Name => usage(format!("--admin: {error}")),
        _ => failed(address, error),
    }
}

fn failed(address: &AdminAddress, why: impl std::fmt::Display) -> AdminClientError {
    AdminClientError::Failed(format!("{}: {why}", address.authority))
}

/// The address of an admin port.
#[derive(Debug, PartialEq, Eq)]
struct AdminAddress {
    tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    authority: String,
    /// Path, without a slash at its end.
    prefix: String,
}

impl AdminAddress {
    fn parse(url: &Uri) -> Result<Self, AdminClientError> {
        let wrong = |what: &str| AdminClientError::Usage(format!("--admin: {what}"));
        let tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("must be a URL such as http://127.0.0.1:9464")),
        };
        let authority = url.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must have no user or password: name a --token-file"));
        }
        if url.query().is_some() {
            return Err(wrong("must have no query"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(AdminAddress { tls, host, port, authority: authority.to_string(), prefix })
    }

    /// Whether the token cannot be read on the way: TLS, or a loopback address.
    fn is_private(&self) -> bool {
        self.tls || self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_is_given_is_sent() {
        let body = serde_json::json!({ "operation": null, "account": "main", "force": false, "more": { "a": null } });
        assert_eq!(given(&body), serde_json::json!({ "account": "main", "force": false, "more": { "a": null } }));
    }

    fn place(url: &str) -> Result<AdminAddress, AdminClientError> {
        AdminAddress::parse(&url.parse().unwrap())
    }

    #[test]
    fn an_echoed_token_is_withheld() {
        let mut body = serde_json::json!({ "error": { "message": "got Bearer fgw_x", "fgw_x": ["a", "fgw_xfgw_x"] } });
        withhold(&mut body, "fgw_x");
        assert!(!body.to_string().contains("fgw_x"), "{body}");
    }

    #[test]
    fn a_url_tells_where_to_ask() {
        for (url, tls, host, port, prefix) in [
            ("http://127.0.0.1:9464", false, "127.0.0.1", 9464, ""),
            ("http://[::1]:9464/", false, "::1", 9464, ""),
            ("https://gateway.internal/gw/", true, "gateway.internal", 443, "/gw"),
        ] {
            let place = place(url).unwrap();
            assert_eq!((place.tls, place.host.as_str(), place.port), (tls, host, port));
            assert_eq!(place.prefix, prefix);
        }
        for url in
            ["gateway.internal:9464", "ftp://gateway", "/status", "http://a:canary@gateway", "http://a/?token=canary"]
        {
            let Err(AdminClientError::Usage(why)) = place(url) else { panic!("{url}") };
            assert!(!why.contains("canary"), "{why}");
        }
    }

    /// A server that answers one request with `answer`; its thread returns the request.
    fn once(answer: String) -> (AdminClient, std::thread::JoinHandle<String>) {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = format!("http://{}/gw/", listener.local_addr().unwrap()).parse().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            // The client may have read enough.
            let _ = socket.write_all(answer.as_bytes());
            String::from_utf8(asked).unwrap()
        });
        (AdminClient::new(admin, &AdminCredentials::default()), asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nlocation: http://evil.example/\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn asks_once_with_the_token_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "fgw_token\n").unwrap();
        let (mut remote, asked) = once(answer("409 Conflict", r#"{"error": {"message": "no"}}"#));
        remote.credentials.token_file = Some(file.path().to_owned());
        let response =
            remote.send(Method::POST, "/keys/verify", Some(&serde_json::json!({ "account": "main" }))).unwrap();
        assert_eq!(response.error_message(), "the gateway answers 409: no");
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /gw/keys/verify HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nauthorization: Bearer fgw_token\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"account":"main"}"#), "{asked}");
    }

    #[test]
    fn what_is_no_gateways_answer_is_an_error_and_is_not_followed() {
        let long = format!("\"{}\"", "x".repeat(BOUNDS.max_response));
        for canned in [answer("302 Found", ""), answer("200 OK", "<html>"), answer("200 OK", &long), String::new()] {
            let (remote, asked) = once(canned);
            let error = remote.send(Method::POST, "/", Some(&serde_json::json!({}))).unwrap_err();
            assert!(matches!(error, AdminClientError::Failed(_)), "{error}");
            asked.join().unwrap();
        }
    }

    #[test]
    fn a_token_file_without_a_token_is_wrong_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path().to_owned(), PathBuf::from("/nonexistent")] {
            let remote = AdminClient::new(
                "http://127.0.0.1:1".parse().unwrap(),
                &AdminCredentials { token_file: Some(path), ca: None },
            );
            assert!(matches!(remote.send(Method::GET, "/status", None), Err(AdminClientError::Usage(_))));
        }
    }

    #[test]
    fn only_tls_and_loopback_are_private() {
        for url in ["https://gateway", "http://localhost", "http://127.0.0.9", "http://[::1]"] {
            assert!(place(url).unwrap().is_private(), "{url}");
        }
        for url in ["http://gateway", "http://10.0.0.1", "http://[2001:db8::1]"] {
            assert!(!place(url).unwrap().is_private(), "{url}");
        }
    }

    #[test]
    fn a_response_does_not_control_the_terminal() {
        let shown = printable("\u{1b}[31mred\u{7}\nnext\u{202e} \u{9b}é");
        assert_eq!(shown, "\\u{1b}[31mred\\u{7}\\nnext\\u{202e} \\u{9b}é");
    }
}
