//! Certificates made at run time, for callers on the same machine.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// TLS for a sandbox on loopback.
#[derive(Debug)]
pub struct LoopbackTls {
    /// For [`Options::tls`](crate::Options::tls).
    pub server: Arc<ServerConfig>,
    /// The authority that signed the server's certificate, as PEM: what callers must trust.
    pub authority: String,
}

/// Makes an authority and, signed by it, a certificate for `localhost` and `127.0.0.1`.
///
/// # Errors
///
/// If no key can be generated.
pub fn loopback() -> Result<LoopbackTls, Box<dyn std::error::Error + Send + Sync>> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned()])?;
    server.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(LoopbackTls { server: Arc::new(server), authority: authority.pem() })
}
