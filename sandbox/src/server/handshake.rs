//! TLS handshakes that fail on purpose.

use std::{io, sync::Arc, time::Duration};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::faults::TlsFailure;

/// Fatal alert `handshake_failure` (RFC 8446, sections 5.1 and 6).
const ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// Name in the wrong certificate. `.invalid` is reserved, so the name cannot exist (RFC 6761).
const WRONG_NAME: &str = "somebody-else.invalid";

/// Maximum wait for the ClientHello, and for the handshake.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Fails the handshake. A connection without TLS is just closed.
pub(super) async fn fail(mut stream: TcpStream, how: TlsFailure, tls: bool) -> io::Result<()> {
    match how {
        _ if !tls => Ok(()),
        TlsFailure::Refuse => {
            // The ClientHello is read first: closing with unread bytes would send a reset, which discards the alert.
            let mut hello = [0; 16 * 1024];
            let _ = timeout(MAX_WAIT, stream.read(&mut hello)).await;
            stream.write_all(&ALERT).await?;
            stream.shutdown().await
        }
        TlsFailure::WrongCertificate => {
            let wrong = wrong_certificate().map_err(io::Error::other)?;
            // A client that accepts this certificate is disconnected.
            timeout(MAX_WAIT, wrong.accept(stream)).await.map_or(Ok(()), |accepted| accepted.map(drop))
        }
    }
}

fn wrong_certificate() -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![WRONG_NAME.to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
