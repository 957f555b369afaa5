//! Sends webhooks, and advances orders: this task carries out due steps while there are no requests.
//!
//! What always holds: one attempt at a time, each within its timeout; redirects are not followed; unless configured,
//! only loopback addresses are contacted and no name is resolved, so that nothing is sent to a real URL in a
//! test's request. The task ends with the sandbox.
//!
//! How it fails: a failed attempt has one of a few fixed reasons; the outbox decides what follows.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{AllowedHosts, AttemptResult, DeliveryJob};
use crate::server::SharedSimulation;

/// Maximum length of a response that is read, in bytes.
const MAX_RESPONSE: usize = 64 << 10;

/// How much of it is stored, in bytes.
const KEPT_RESPONSE: usize = 256;

/// Maximum sleep, so that changes of the machine's clock are noticed.
const MAX_SLEEP: Duration = Duration::from_secs(3_600);

/// Runs until dropped.
pub(crate) async fn run(simulation: SharedSimulation) {
    let bell = simulation.lock().wake_signal();
    loop {
        let (job, wakeup) = {
            let mut simulation = simulation.lock();
            simulation.catch_up();
            let job = simulation.next_delivery();
            (job, simulation.next_wakeup())
        };
        match job {
            Some(job) => {
                let outcome = attempt(&job).await;
                simulation.lock().finish_delivery(&job, outcome);
            }
            None => {
                tokio::select! {
                    () = tokio::time::sleep(wakeup.unwrap_or(MAX_SLEEP).min(MAX_SLEEP)) => {}
                    () = bell.notified() => {}
                }
            }
        }
    }
}

async fn attempt(job: &DeliveryJob) -> AttemptResult {
    let limit = Duration::from_millis(job.settings.timeout_ms.max(1));
    tokio::time::timeout(limit, send(job)).await.unwrap_or(AttemptResult::Failed("timeout"))
}

async fn send(job: &DeliveryJob) -> AttemptResult {
    let Ok(uri) = job.url.parse::<Uri>() else { return AttemptResult::Undeliverable("the address is invalid") };
    if uri.scheme_str() != Some("http") {
        return AttemptResult::Undeliverable("the sandbox sends to http addresses only");
    }
    let Some(host) = uri.host() else { return AttemptResult::Undeliverable("the address has no host") };
    let addresses = match resolve(host, uri.port_u16().unwrap_or(80), job.settings.hosts).await {
        Ok(addresses) => addresses,
        Err(outcome) => return outcome,
    };
    let stream = match connect(&addresses).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return AttemptResult::Failed("connection refused");
        }
        Err(_) => return AttemptResult::Failed("connection failed"),
    };
    let Some(request) = request(&uri, job) else { return AttemptResult::Undeliverable("the address is invalid") };
    exchange(stream, request).await.unwrap_or(AttemptResult::Failed("connection closed before the response"))
}

/// Addresses of a host, if they are allowed.
async fn resolve(host: &str, port: u16, hosts: AllowedHosts) -> Result<Vec<SocketAddr>, AttemptResult> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = name.parse::<IpAddr>() {
        return match hosts == AllowedHosts::Any || ip.is_loopback() {
            true => Ok(vec![SocketAddr::new(ip, port)]),
            false => Err(AttemptResult::Undeliverable("not a loopback address; webhook.hosts = \"any\" allows it")),
        };
    }
    if name.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    if hosts == AllowedHosts::Loopback {
        return Err(AttemptResult::Undeliverable("not a loopback address; webhook.hosts = \"any\" allows it"));
    }
    match tokio::net::lookup_host((name, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(_) => Err(AttemptResult::Failed("unknown host name")),
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn request(uri: &Uri, job: &DeliveryJob) -> Option<Request<Full<Bytes>>> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = uri.authority()?.as_str();
    // Without user information.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut request = Request::post(target)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "fastrac-sandbox")
        .header(header::CONNECTION, "close");
    if let Some(secret) = &job.settings.secret {
        request = request.header("x-fastrac-signature", signature(secret.as_bytes(), &job.body));
    }
    request.body(Full::new(job.body.clone())).ok()
}

/// `sha256=` and the HMAC-SHA256 of the body, in hex.
pub(crate) fn signature(secret: &[u8], body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, body);
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

async fn exchange(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<AttemptResult, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asked = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok::<_, hyper::Error>(AttemptResult::Answered(
            status,
            text[..text.floor_char_boundary(KEPT_RESPONSE)].to_owned(),
        ))
    };
    // The sender is dropped with its response, which ends the connection: no task is left.
    let (answered, _) = tokio::join!(asked, connection);
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let tag = signature(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(tag, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[tokio::test]
    async fn only_loopback_is_reached_unless_said_otherwise() {
        for host in ["127.0.0.1", "[::1]", "localhost", "LOCALHOST", "127.9.9.9"] {
            assert!(resolve(host, 80, AllowedHosts::Loopback).await.is_ok(), "{host}");
        }
        for host in ["192.0.2.1", "10.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "shop.example", "localhost.example"] {
            assert!(
                matches!(resolve(host, 80, AllowedHosts::Loopback).await, Err(AttemptResult::Undeliverable(_))),
                "{host}"
            );
        }
        assert!(resolve("192.0.2.1", 80, AllowedHosts::Any).await.is_ok());
    }
}
