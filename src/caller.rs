//! Authenticates callers: finds the service that a request's credentials identify.
//!
//! Stores digests only. All credentials of a request must be valid and identify the same service; a repeated or
//! unreadable one is refused. A client certificate counts only if a service lists one of its names, because meshes send
//! one on every connection. The comparison takes the same time whether the access key or the secret is wrong. Knows no
//! quota and no operation. Fails with [`Unknown`], which does not say what was wrong.

mod certificate;
mod failed_proofs;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use foldhash::fast::RandomState;
use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, HeaderValue},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub use self::certificate::ClientCertificate;
use self::failed_proofs::FailedProofs;
use crate::{body::CallerLink, config, memory::MemoryAllowance};

const ACCESS_KEY: HeaderName = HeaderName::from_static("access-key");
const SECRET_KEY: HeaderName = HeaderName::from_static("secret-key");

/// The request's credentials identify no service. Never says whether a key or a secret was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("the request carries no credentials")]
    None,
    #[error("the request's credentials are incomplete, repeated or unreadable")]
    Unreadable,
    #[error("the request's credentials are not valid")]
    Wrong,
    #[error("the request's credentials belong to different services")]
    Disagree,
    /// Too many failed proofs came from the same address.
    #[error("too many wrong credentials came from this address")]
    Slowed {
        /// How long until its next failed proof is answered.
        wait: Duration,
    },
}

/// What a connection says about its client.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// `None`: the address is not known.
    pub peer: Option<IpAddr>,
    /// The certificate that it has presented.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// `None` in tests.
    pub connection: Option<CallerLink>,
    pub identified: IdentifiedService,
}

/// What a connection may claim of the memory once a request of it has identified a service: as that service's.
pub type IdentifiedService = Arc<OnceLock<MemoryAllowance>>;

impl Client {
    /// Notes that a request has identified a service, the first one.
    pub(crate) fn note_identified(&self, allowance: impl FnOnce() -> MemoryAllowance) {
        self.identified.get_or_init(allowance);
    }
}

/// The credentials of all services.
pub struct Callers {
    /// The keys are those of the configuration: no caller can choose some that collide.
    by_access_key: HashMap<Vec<u8>, StoredCredential, RandomState>,
    /// Services by the names of their client certificates.
    by_identity: HashMap<String, usize>,
    /// Shared with the configurations before and after this one.
    failed: FailedProofs,
}

impl std::fmt::Debug for Callers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let credentials: Vec<_> = self.by_access_key.values().collect();
        f.debug_struct("Callers").field("credentials", &credentials).finish_non_exhaustive()
    }
}

struct StoredCredential {
    service: usize,
    secret_sha256: [u8; 32],
    /// From when on it is refused, in seconds since 1970; `u64::MAX`: never.
    ends: u64,
    /// When it was last used, in seconds since 1970; 0: not since the start. Shared with the configurations before and
    /// after this one.
    last_used: Arc<AtomicU64>,
}

impl StoredCredential {
    /// Notes its use, unless it has expired.
    fn use_at(&self, now: u64) -> Result<usize, Unknown> {
        if now >= self.ends {
            return Err(Unknown::Wrong);
        }
        // Written once a second, so that the threads do not contend for the cache line.
        if self.last_used.load(Relaxed) < now {
            self.last_used.store(now, Relaxed);
        }
        Ok(self.service)
    }
}

impl std::fmt::Debug for StoredCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known(service {})", self.service)
    }
}

impl Callers {
    /// The callers of a configuration. A service is identified by its index in `services`. `before`: the callers of
    /// the previous configuration, from which the times of last use are taken over.
    pub fn new(services: &[config::ServiceConfig], before: Option<&Callers>) -> Self {
        let stored = |service, credential: &config::CredentialConfig| {
            let before = before.and_then(|before| before.by_access_key.get(credential.access_key.as_bytes()));
            let same = before.filter(|before| before.secret_sha256 == credential.secret_sha256);
            StoredCredential {
                service,
                secret_sha256: credential.secret_sha256,
                ends: credential.expires.map_or(u64::MAX, |expiry| expiry.ends.as_second().try_into().unwrap_or(0)),
                last_used: same.map_or_else(Arc::default, |same| same.last_used.clone()),
            }
        };
        let by_access_key = services
            .iter()
            .enumerate()
            .flat_map(|(service, s)| s.credentials.iter().map(move |c| (service, c)))
            .map(|(service, c)| (c.access_key.clone().into_bytes(), stored(service, c)))
            .collect();
        let identities = services.iter().enumerate();
        let by_identity =
            identities.flat_map(|(service, s)| s.identities.iter().map(move |name| (name.clone(), service))).collect();
        let failed = before.map_or_else(FailedProofs::new, |before| before.failed.clone());
        Callers { by_access_key, by_identity, failed }
    }

    /// When a credential was last used, in seconds since 1970; `None`: not since the start.
    pub fn last_used(&self, access_key: &str) -> Option<u64> {
        let used = self.by_access_key.get(access_key.as_bytes())?.last_used.load(Relaxed);
        (used > 0).then_some(used)
    }

    /// The index of the service that the headers of a request, which came at `now`, and its connection's certificate
    /// identify.
    ///
    /// # Errors
    /// [`Unknown`] without credentials, or if any of them is wrong, repeated, unreadable, or identifies another service
    /// than the others. After many failed proofs of a peer, its next ones are [`Unknown::Slowed`].
    pub fn identify(&self, headers: &HeaderMap, client: &Client, now: SystemTime) -> Result<usize, Unknown> {
        let proved = self.prove(headers, client.certificate.as_deref(), seconds(now));
        match (proved, client.peer) {
            (Err(unknown), Some(peer)) if unknown != Unknown::None => {
                Err(self.failed.count(peer, Instant::now()).map_or_else(|wait| Unknown::Slowed { wait }, |()| unknown))
            }
            _ => proved,
        }
    }

    /// `now`: seconds since 1970.
    fn prove(&self, headers: &HeaderMap, certificate: Option<&ClientCertificate>, now: u64) -> Result<usize, Unknown> {
        let sent = SentCredentials::read(headers)?;
        let pair = match (sent.access_key, sent.secret_key) {
            (None, None) => None,
            (Some(access), Some(secret)) => Some(self.verify(access.as_bytes(), secret.as_bytes(), now)?),
            _ => return Err(Unknown::Unreadable),
        };
        let authorization = match sent.authorization {
            None => None,
            Some(value) => Some(self.authorization(value.as_bytes(), now)?),
        };
        let headers = combine(pair, authorization)?;
        let certificate = match certificate {
            None => None,
            Some(certificate) => self.listed(certificate)?,
        };
        combine(headers, certificate)?.ok_or(Unknown::None)
    }

    /// The service that lists a certificate's names; `None` if none does.
    fn listed(&self, certificate: &ClientCertificate) -> Result<Option<usize>, Unknown> {
        let mut services = certificate.names().map(|name| self.by_identity.get(name).copied());
        services.try_fold(None, combine)
    }

    /// `Basic base64(access:secret)`, or `Bearer access.secret`.
    fn authorization(&self, value: &[u8], now: u64) -> Result<usize, Unknown> {
        let space = value.iter().position(|b| *b == b' ').ok_or(Unknown::Unreadable)?;
        let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"basic") {
            let decoded = Zeroizing::new(STANDARD.decode(rest).map_err(|_| Unknown::Unreadable)?);
            let (access, secret) = split(&decoded, b':').ok_or(Unknown::Unreadable)?;
            self.verify(access, secret, now)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            let (access, secret) = split(rest, b'.').ok_or(Unknown::Unreadable)?;
            self.verify(access, secret, now)
        } else {
            Err(Unknown::Unreadable)
        }
    }

    fn verify(&self, access: &[u8], secret: &[u8], now: u64) -> Result<usize, Unknown> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let known = self.by_access_key.get(access);
        // An unknown access key is compared too, with a digest whose preimage is unknown.
        let expected = known.map_or(&[0; 32], |known| &known.secret_sha256);
        let right = bool::from(digest.ct_eq(expected));
        // No digest of the empty string passes the checks of the configuration; it would be no proof either.
        known.filter(|_| right && !secret.is_empty()).ok_or(Unknown::Wrong)?.use_at(now)
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Combines the results of two credentials.
fn combine(a: Option<usize>, b: Option<usize>) -> Result<Option<usize>, Unknown> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Err(Unknown::Disagree),
        _ => Ok(a.or(b)),
    }
}

/// The values of a request's credential headers, each `None` if it is absent.
#[derive(Default)]
struct SentCredentials<'h> {
    access_key: Option<&'h HeaderValue>,
    secret_key: Option<&'h HeaderValue>,
    authorization: Option<&'h HeaderValue>,
}

impl<'h> SentCredentials<'h> {
    /// Fails if one of them is repeated. One pass takes a third of three look-ups.
    fn read(headers: &'h HeaderMap) -> Result<Self, Unknown> {
        let mut sent = SentCredentials::default();
        for (name, value) in headers {
            let place = match name {
                name if *name == ACCESS_KEY => &mut sent.access_key,
                name if *name == SECRET_KEY => &mut sent.secret_key,
                name if *name == AUTHORIZATION => &mut sent.authorization,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(Unknown::Unreadable);
            }
        }
        Ok(sent)
    }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|b| *b == at)?;
    Some((&text[..position], &text[position + 1..]))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn stored(service: usize, secret: &str, ends: u64) -> StoredCredential {
        StoredCredential { service, secret_sha256: Sha256::digest(secret).into(), ends, last_used: Arc::default() }
    }

    fn callers() -> Callers {
        let entry = |service, secret: &str| stored(service, secret, u64::MAX);
        let by_access_key = HashMap::from_iter([
            (b"checkout-1".to_vec(), entry(0, "s1")),
            (b"checkout-2".to_vec(), entry(0, "s.2:x")),
            (b"warehouse".to_vec(), entry(1, "s3")),
        ]);
        let identity = |name: &str, service| (name.to_owned(), service);
        let by_identity = HashMap::from([
            identity("spiffe://shop/checkout", 0),
            identity("checkout.internal", 0),
            identity("spiffe://shop/warehouse", 1),
        ]);
        Callers { by_access_key, by_identity, failed: FailedProofs::new() }
    }

    fn ask(headers: &[(&'static str, &str)]) -> Result<usize, Unknown> {
        ask_with(headers, None)
    }

    fn ask_with(headers: &[(&'static str, &str)], names: Option<&[&str]>) -> Result<usize, Unknown> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let certificate = names.map(|names| Arc::new(ClientCertificate::with(names)));
        callers().identify(&map, &Client { certificate, ..Client::default() }, SystemTime::now())
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn proves_by_pair_basic_and_bearer() {
        assert_eq!(ask(&[("access-key", "checkout-1"), ("secret-key", "s1")]), Ok(0));
        assert_eq!(ask(&[("authorization", &basic("checkout-2:s.2:x"))]), Ok(0));
        assert_eq!(ask(&[("authorization", "bearer checkout-2.s.2:x")]), Ok(0));
        assert_eq!(ask(&[("authorization", "Bearer warehouse.s3")]), Ok(1));
    }

    #[test]
    fn both_live_credentials_name_one_service() {
        let proofs = [("access-key", "checkout-1"), ("secret-key", "s1"), ("authorization", "Bearer checkout-2.s.2:x")];
        assert_eq!(ask(&proofs), Ok(0));
    }

    #[test]
    fn refuses_what_is_wrong_repeated_or_unreadable() {
        let good = ("authorization", "Bearer warehouse.s3");
        for headers in [
            &[][..],
            &[("access-key", "warehouse")],
            &[("secret-key", "s3")],
            &[("access-key", "warehouse"), ("secret-key", "S3")],
            &[("access-key", "nobody"), ("secret-key", "s3")],
            &[("access-key", "warehouse"), ("access-key", "warehouse"), ("secret-key", "s3")],
            &[good, good],
            &[good, ("access-key", "checkout-1"), ("secret-key", "s1")],
            &[good, ("access-key", "warehouse"), ("secret-key", "wrong")],
            &[good, ("access-key", "warehouse")],
            &[("authorization", "Basic Og==")],
            &[("authorization", "Basic ***")],
            &[("authorization", "Digest x")],
            &[("authorization", "Bearer warehouse")],
            &[("authorization", "")],
        ] {
            assert!(ask(headers).is_err(), "{headers:?}");
        }
    }

    #[test]
    fn an_empty_secret_proves_nothing_whatever_the_digest() {
        let empty = stored(0, "", u64::MAX);
        let by_access_key = HashMap::from_iter([(b"a".to_vec(), empty)]);
        let callers = Callers { by_access_key, by_identity: HashMap::new(), failed: FailedProofs::new() };
        for value in [&basic("a:"), "Bearer a."] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
            assert_eq!(
                callers.identify(&headers, &Client::default(), SystemTime::now()),
                Err(Unknown::Wrong),
                "{value}"
            );
        }
        let pair = [(ACCESS_KEY, HeaderValue::from_static("a")), (SECRET_KEY, HeaderValue::from_static(""))];
        assert_eq!(
            callers.identify(&HeaderMap::from_iter(pair), &Client::default(), SystemTime::now()),
            Err(Unknown::Wrong)
        );
    }

    /// Contract section 6, `unauthenticated`: the message distinguishes these, and never which half was wrong.
    #[test]
    fn says_what_kind_of_mistake_it_was() {
        let (good, other) = (("authorization", "Bearer warehouse.s3"), ("access-key", "checkout-1"));
        for (headers, expected) in [
            (&[][..], Unknown::None),
            (&[("access-key", "warehouse")], Unknown::Unreadable),
            (&[good, good], Unknown::Unreadable),
            (&[("authorization", "Digest x")], Unknown::Unreadable),
            (&[("authorization", "Basic ***")], Unknown::Unreadable),
            (&[("access-key", "warehouse"), ("secret-key", "S3")], Unknown::Wrong),
            (&[("access-key", "nobody"), ("secret-key", "s3")], Unknown::Wrong),
            (&[good, other, ("secret-key", "s1")], Unknown::Disagree),
        ] {
            assert_eq!(ask(headers), Err(expected), "{headers:?}");
        }
    }

    /// Contract section 4: from the 300th failed proof of a peer within a minute on; a correct proof is never slowed.
    #[test]
    fn failed_proofs_of_a_peer_are_slowed_and_correct_ones_are_not() {
        let callers = callers();
        let client = Client { peer: Some("192.0.2.1".parse().unwrap()), ..Client::default() };
        let proof = |value: &'static str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        for _ in 0..1000 {
            assert_eq!(callers.identify(&HeaderMap::new(), &client, SystemTime::now()), Err(Unknown::None));
        }
        for _ in 1..300 {
            assert_eq!(
                callers.identify(&proof("Bearer warehouse.guess"), &client, SystemTime::now()),
                Err(Unknown::Wrong)
            );
        }
        for _ in 0..10 {
            let slowed = callers.identify(&proof("Bearer warehouse.guess"), &client, SystemTime::now());
            assert!(matches!(slowed, Err(Unknown::Slowed { wait }) if wait > Duration::ZERO), "{slowed:?}");
            assert_eq!(callers.identify(&proof("Bearer warehouse.s3"), &client, SystemTime::now()), Ok(1));
        }
    }

    #[test]
    fn an_expired_credential_proves_nothing_and_a_used_one_says_when() {
        let now = seconds(SystemTime::now());
        let entries = [("ended", now), ("lives", now + 1000), ("unused", u64::MAX)];
        let by_access_key =
            entries.map(|(key, ends)| (key.as_bytes().to_vec(), stored(0, "s", ends))).into_iter().collect();
        let callers = Callers { by_access_key, by_identity: HashMap::new(), failed: FailedProofs::new() };
        let proves = |key: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {key}.s")).unwrap();
            callers.identify(&HeaderMap::from_iter([(AUTHORIZATION, value)]), &Client::default(), SystemTime::now())
        };
        assert_eq!((proves("ended"), proves("lives")), (Err(Unknown::Wrong), Ok(0)));
        let used = callers.last_used("lives").unwrap();
        assert!((now..now + 100).contains(&used), "{used}");
        for key in ["ended", "unused", "nobody"] {
            assert_eq!(callers.last_used(key), None, "{key}");
        }
    }

    #[test]
    fn a_certificate_proves_who_lists_it() {
        assert_eq!(ask_with(&[], Some(&["spiffe://shop/warehouse"])), Ok(1));
        assert_eq!(ask_with(&[], Some(&["checkout.internal", "other.internal", "spiffe://shop/checkout"])), Ok(0));
        for names in [&[][..], &["nobody.internal"], &["spiffe://shop/checkout/"], &["*.internal"]] {
            assert_eq!(ask_with(&[], Some(names)), Err(Unknown::None), "{names:?}");
        }
    }

    #[test]
    fn a_certificate_and_the_headers_prove_the_same_or_nothing() {
        let warehouse = ("authorization", "Bearer warehouse.s3");
        assert_eq!(ask_with(&[warehouse], Some(&["spiffe://shop/warehouse"])), Ok(1));
        // A certificate that no service lists is ignored.
        assert_eq!(ask_with(&[warehouse], Some(&["nobody.internal"])), Ok(1));
        for (headers, names) in [
            (&[warehouse][..], &["spiffe://shop/checkout"][..]),
            (&[("authorization", "Bearer warehouse.wrong")], &["spiffe://shop/warehouse"]),
            (&[("access-key", "warehouse")], &["spiffe://shop/warehouse"]),
            (&[], &["spiffe://shop/warehouse", "checkout.internal"]),
        ] {
            assert!(ask_with(headers, Some(names)).is_err(), "{headers:?} {names:?}");
        }
    }

    #[test]
    fn debug_shows_no_digest() {
        let text = format!("{:?}", callers());
        assert!(text.contains("service 0") && !text.contains("secret"), "{text}");
    }
}
