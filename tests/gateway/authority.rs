//! A certificate authority for server and client certificates.

use std::{net::Ipv4Addr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("a certificate")
    }
}

impl Authority {
    pub(crate) fn new() -> Authority {
        fastrac_gateway::app::choose_crypto();
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server certificate for loopback that expires in March of a year.
    pub(crate) fn server(&self, year: i32) -> Pair {
        self.server_until(year, 3, 9)
    }

    /// A server certificate for loopback that expires on a date.
    pub(crate) fn server_until(&self, year: i32, month: u8, day: u8) -> Pair {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params.not_after = date_time_ymd(year, month, day);
        self.sign(params)
    }

    /// A client certificate with these alternative names: URIs if they have a scheme, else DNS names. Its common
    /// name is that of a service, which must not authenticate anything.
    pub(crate) fn client(&self, names: &[&str]) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "shop");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for name in names {
            let text = (*name).try_into().expect("ASCII");
            let uri = name.contains("://");
            params.subject_alt_names.push(if uri { SanType::URI(text) } else { SanType::DnsName(text) });
        }
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        Pair { cert: params.signed_by(&key, &self.0).expect("signed").pem(), key: key.serialize_pem() }
    }

    /// A TLS client configuration that trusts this authority, with or without a client certificate.
    pub(crate) fn trusting(&self, shows: Option<&Pair>, speaks: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("added");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match shows {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                config.with_client_auth_cert(vec![pair.der()], key).expect("a pair")
            }
        };
        config.alpn_protocols = speaks.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}
