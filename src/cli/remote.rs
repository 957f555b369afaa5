//! A running gateway's admin port, asked from the command line.
//!
//! One request, one connection, one answer of bounded size and time; redirects are not followed, so
//! the token goes nowhere else. It must not print the token, nor put it into an error.

use std::{fs, io, net::IpAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{app::choose_crypto, upstream::connect::client_config};

/// How long everything may take: longer than the gateway takes to say that it took too long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer, bytes: far above a status of thousands of services.
const LONGEST: usize = 16 * 1024 * 1024;
/// Where the token is, if in no file.
const TOKEN: &str = "FASTRAC_GATEWAY_ADMIN_TOKEN";

/// Which gateway is asked, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    /// Address of the gateway's admin port, such as http://127.0.0.1:9464
    #[arg(long, value_name = "URL")]
    admin: Uri,
    /// File with the admin token [default: the token in FASTRAC_GATEWAY_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM roots for https, instead of the platform's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers, or not as a gateway would.
    #[error("{0}")]
    Failed(String),
}

/// What the gateway says.
#[derive(Debug)]
pub(super) struct Said {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its body.
    pub(super) body: Value,
}

impl Said {
    /// What is wrong, in the gateway's words.
    pub(super) fn complaint(&self) -> String {
        let message = self.body["error"]["message"].as_str().unwrap_or("it does not say why");
        format!("the gateway answers {}: {message}", self.status.as_u16())
    }
}

impl Remote {
    /// Asks for one page.
    ///
    /// # Errors
    /// [`Unanswered`]. A refusal of the gateway's is an answer.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Said, Unanswered> {
        let place = Place::of(&self.admin)?;
        let request = self.request(method, &place, (path, body))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&place, error))?;
        let said = runtime.block_on(async { timeout(PATIENCE, self.exchange(&place, request)).await });
        // A name look-up may still hang.
        runtime.shutdown_background();
        said.unwrap_or_else(|_| Err(failed(&place, "no answer in time")))
    }

    fn request(
        &self,
        method: Method,
        place: &Place,
        (path, body): (&str, Option<&Value>),
    ) -> Result<Request<Full<Bytes>>, Unanswered> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", place.prefix))
            .header(HOST, &place.authority)
            .header(ACCEPT, "application/json");
        if let Some(token) = self.token()? {
            if !place.is_private() {
                eprintln!("fastrac-gateway: the token goes over the network in the clear; use https");
            }
            let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
            let mut bearer = HeaderValue::from_str(&bearer)
                .map_err(|_| Unanswered::Usage("the admin token holds a character that no token has".to_owned()))?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::from(body)).map_err(|error| Unanswered::Usage(format!("--admin: {error}")))
    }

    fn token(&self) -> Result<Option<Zeroizing<String>>, Unanswered> {
        let Some(file) = &self.token_file else {
            return Ok(std::env::var(TOKEN).ok().filter(|token| !token.trim().is_empty()).map(Zeroizing::new));
        };
        let unreadable = |error: io::Error| Unanswered::Usage(format!("--token-file: {}: {error}", file.display()));
        let token = Zeroizing::new(fs::read_to_string(file).map_err(unreadable)?);
        if token.trim().is_empty() {
            return Err(Unanswered::Usage(format!("--token-file: {}: is empty", file.display())));
        }
        Ok(Some(token))
    }

    async fn exchange(&self, place: &Place, request: Request<Full<Bytes>>) -> Result<Said, Unanswered> {
        let socket = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(|e| failed(place, e))?;
        if !place.tls {
            return talk(socket, place, request).await;
        }
        choose_crypto();
        let config = client_config(self.ca.as_deref()).map_err(|error| Unanswered::Usage(format!("--ca: {error}")))?;
        let name = ServerName::try_from(place.host.clone());
        let name = name.map_err(|_| Unanswered::Usage("--admin: the host is no name that TLS can check".to_owned()))?;
        let socket = TlsConnector::from(config).connect(name, socket).await.map_err(|e| failed(place, e))?;
        talk(socket, place, request).await
    }
}

async fn talk<S>(io: S, place: &Place, request: Request<Full<Bytes>>) -> Result<Said, Unanswered>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| failed(place, e))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| failed(place, e))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|e| failed(place, e))?.to_bytes();
        let body = serde_json::from_slice(&body);
        let body = body.map_err(|_| failed(place, format!("its answer ({}) is no gateway's", head.status.as_u16())))?;
        Ok(Said { status: head.status, body })
    };
    // The connection is driven here, and ends with the answer.
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        said = answered.as_mut() => said,
        _ = connection => answered.await,
    }
}

fn failed(place: &Place, why: impl std::fmt::Display) -> Unanswered {
    Unanswered::Failed(format!("{}: {why}", place.authority))
}

/// Where an admin port is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    authority: String,
    /// Path without a slash at its end.
    prefix: String,
}

impl Place {
    fn of(url: &Uri) -> Result<Self, Unanswered> {
        let wrong = |what: &str| Unanswered::Usage(format!("--admin: {what}"));
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
        Ok(Place { tls, host, port, authority: authority.to_string(), prefix })
    }

    /// Whether nobody on the way can read along.
    fn is_private(&self) -> bool {
        self.tls || self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<Place, Unanswered> {
        Place::of(&url.parse().unwrap())
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
            let Err(Unanswered::Usage(why)) = place(url) else { panic!("{url}") };
            assert!(!why.contains("canary"), "{why}");
        }
    }

    /// A server that answers one request with `answer`, and gives what it was asked.
    fn once(answer: String) -> (Remote, std::thread::JoinHandle<String>) {
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
        (Remote { admin, token_file: None, ca: None }, asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nlocation: http://evil.example/\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn asks_once_with_the_token_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "fgw_token\n").unwrap();
        let (mut remote, asked) = once(answer("409 Conflict", r#"{"error": {"message": "no"}}"#));
        remote.token_file = Some(file.path().to_owned());
        let said = remote.ask(Method::POST, "/keys/verify", Some(&serde_json::json!({ "account": "main" }))).unwrap();
        assert_eq!(said.complaint(), "the gateway answers 409: no");
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /gw/keys/verify HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nauthorization: Bearer fgw_token\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"account":"main"}"#), "{asked}");
    }

    #[test]
    fn what_is_no_gateways_answer_is_an_error_and_is_not_followed() {
        let long = format!("\"{}\"", "x".repeat(LONGEST));
        for canned in [answer("302 Found", ""), answer("200 OK", "<html>"), answer("200 OK", &long), String::new()] {
            let (remote, asked) = once(canned);
            let error = remote.ask(Method::POST, "/", Some(&serde_json::json!({}))).unwrap_err();
            assert!(matches!(error, Unanswered::Failed(_)), "{error}");
            asked.join().unwrap();
        }
    }

    #[test]
    fn a_token_file_without_a_token_is_wrong_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path().to_owned(), PathBuf::from("/nonexistent")] {
            let remote = Remote { admin: "http://127.0.0.1:1".parse().unwrap(), token_file: Some(path), ca: None };
            assert!(matches!(remote.ask(Method::GET, "/status", None), Err(Unanswered::Usage(_))));
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
}
