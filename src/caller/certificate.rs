//! The names in a verified client certificate.
//!
//! Only subject alternative names count, URIs and DNS names; the common name is ignored (RFC 9525 section 2). The
//! handshake has already verified the certificate; the same parser reads it here, so both see the same names. Names
//! that cannot be read are ignored.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The names of a verified certificate. Created once for each connection.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    names: Box<[String]>,
}

impl ClientCertificate {
    /// Reads a verified leaf certificate.
    pub fn of(leaf: &CertificateDer<'_>) -> Self {
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return ClientCertificate { names: Box::default() } };
        // Only a URI has a scheme, so a URI and a DNS name can never be equal.
        let uris = leaf.valid_uri_names().filter(|uri| uri.contains("://")).map(str::to_owned);
        let hosts = leaf.valid_dns_names().map(str::to_ascii_lowercase);
        ClientCertificate { names: uris.chain(hosts).collect() }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    impl ClientCertificate {
        pub(crate) fn with(names: &[&str]) -> Self {
            ClientCertificate { names: names.iter().map(|name| (*name).to_owned()).collect() }
        }
    }

    fn made(names: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "checkout.internal");
        params.subject_alt_names = names;
        ClientCertificate::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn its_names_are_its_alternative_names() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let mail = SanType::Rfc822Name("checkout@shop.internal".try_into().unwrap());
        let made = made(vec![uri("spiffe://shop/Checkout"), dns("Checkout.Internal"), mail, uri("checkout.other")]);
        assert_eq!(made, ClientCertificate::with(&["spiffe://shop/Checkout", "checkout.internal"]));
    }

    #[test]
    fn the_common_name_is_none() {
        assert_eq!(made(Vec::new()), ClientCertificate::with(&[]));
        assert_eq!(ClientCertificate::of(&vec![0x30, 0x03, 1, 2, 3].into()), ClientCertificate::with(&[]));
    }
}
