//! Authentication: which key pair a request carries.
//!
//! What always holds: a request authenticates with the two headers (V1's style), with Basic (V2's style), or with
//! both if they name the same pair. Anything missing, repeated, malformed, wrong or revoked is refused. A pair can be
//! revoked at a time of the sandbox's clock. The documentation contradicts itself on whether V2 accepts the two
//! headers, so by default both styles are accepted for both versions. Secrets are compared byte by byte, not in
//! constant time: these pairs protect nothing. They never appear in `Debug` output.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use zeroize::Zeroizing;

use super::{clock, route::ApiVersion, when::When};

const ACCESS: HeaderName = HeaderName::from_static("access-key");
const SECRET: HeaderName = HeaderName::from_static("secret-key");

/// Which style of authentication is accepted for which version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthStyle {
    /// Either style for either version.
    #[default]
    Any,
    /// The two headers for V1, Basic for V2; the other style may be sent in addition.
    ByVersion,
}

/// A key pair.
#[derive(Clone)]
pub(crate) struct KnownPair {
    /// Names it in the journal, in counters and in faults; not a secret.
    pub label: Arc<str>,
    pub access: String,
    pub secret: Zeroizing<String>,
    /// From when it is refused, Unix milliseconds of the sandbox's clock; absent: never.
    pub until: Option<i64>,
}

/// A key pair in the configuration file or in a request to the control address.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPairEntry {
    pub(super) label: String,
    pub(super) access_key: String,
    pub(super) secret_key: String,
    /// Absent: never.
    pub(super) revoke_at: Option<When>,
}

/// All pairs ever added, including revoked ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyStore {
    pairs: Vec<KnownPair>,
}

/// The credentials of one style in a request.
enum Credentials<'a> {
    None,
    Bad,
    Pair(&'a [u8], &'a [u8]),
}

impl KeyStore {
    /// Adds a pair. A known access key takes the new label and secret and is no longer revoked.
    pub(crate) fn add(&mut self, label: &str, access: &str, secret: &str) {
        let pair = KnownPair {
            label: label.into(),
            access: access.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            until: None,
        };
        match self.pairs.iter_mut().find(|known| known.access == access) {
            Some(known) => *known = pair,
            None => self.pairs.push(pair),
        }
    }

    /// Revokes a pair immediately; false if no pair has this access key.
    pub(crate) fn revoke(&mut self, access: &str) -> bool {
        self.revoke_at(access, i64::MIN)
    }

    /// Revokes a pair at a time; false if no pair has this access key.
    pub(crate) fn revoke_at(&mut self, access: &str, at: i64) -> bool {
        let known = self.pairs.iter_mut().find(|pair| pair.access == access);
        known.map(|pair| pair.until = Some(at)).is_some()
    }

    /// Revokes all pairs with a label immediately.
    pub(crate) fn revoke_labelled(&mut self, label: &str) {
        let under = self.pairs.iter_mut().filter(|pair| &*pair.label == label);
        under.for_each(|pair| pair.until = Some(i64::MIN));
    }

    /// Labels, access keys, whether each is live at `now`, and when it is revoked, as JSON.
    pub(crate) fn json(&self, now: i64) -> serde_json::Value {
        let line = |pair: &KnownPair| {
            let until = pair.until.filter(|until| *until > i64::MIN).map(clock::utc);
            serde_json::json!({
                "label": &*pair.label, "access_key": pair.access, "live": pair.live(now), "until": until,
            })
        };
        serde_json::json!({"keys": self.pairs.iter().map(line).collect::<Vec<_>>()})
    }

    /// The label of the pair with which a request authenticates at `now` (Unix milliseconds); none if it does not.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        version: Option<ApiVersion>,
        style: AuthStyle,
        now: i64,
    ) -> Option<Arc<str>> {
        let basic = basic(headers);
        let (pair, basic) = (self.verify(two_headers(headers), now), self.verify(basic.as_proof(), now));
        let demanded = match (style, version) {
            (AuthStyle::Any, _) | (_, None) => true,
            (AuthStyle::ByVersion, Some(ApiVersion::V1)) => pair.is_some(),
            (AuthStyle::ByVersion, Some(ApiVersion::V2)) => basic.is_some(),
        };
        let known = match (pair, basic) {
            (Some(one), Some(other)) => one.filter(|one| other.is_some_and(|other| one.access == other.access)),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => None,
        };
        known.filter(|_| demanded).map(|pair| Arc::clone(&pair.label))
    }

    /// Whether a request mixes parts of two pairs, including revoked ones. A correct client never does that.
    pub(crate) fn mixed(&self, headers: &HeaderMap) -> bool {
        let basic = basic(headers);
        let mut owners = [two_headers(headers), basic.as_proof()].into_iter().flat_map(|proof| match proof {
            Credentials::Pair(access, secret) => [
                self.owner(|pair| pair.access.as_bytes() == access),
                self.owner(|pair| pair.secret.as_bytes() == secret),
            ],
            Credentials::None | Credentials::Bad => [None, None],
        });
        let first = owners.by_ref().flatten().next();
        first.is_some_and(|first| owners.flatten().any(|other| other != first))
    }

    fn owner(&self, has: impl Fn(&KnownPair) -> bool) -> Option<&str> {
        self.pairs.iter().rev().find(|pair| has(pair)).map(|pair| pair.access.as_str())
    }

    /// `None`: this style is not used. `Some(None)`: it is used with wrong credentials.
    fn verify(&self, proof: Credentials<'_>, now: i64) -> Option<Option<&KnownPair>> {
        match proof {
            Credentials::None => None,
            Credentials::Bad => Some(None),
            Credentials::Pair(access, secret) => {
                // The newest pair is the most likely one.
                Some(self.pairs.iter().rev().find(|pair| {
                    pair.live(now) && pair.access.as_bytes() == access && pair.secret.as_bytes() == secret
                }))
            }
        }
    }
}

fn two_headers(headers: &HeaderMap) -> Credentials<'_> {
    match (once(headers, &ACCESS), once(headers, &SECRET)) {
        (Ok(None), Ok(None)) => Credentials::None,
        (Ok(Some(access)), Ok(Some(secret))) => Credentials::Pair(access, secret),
        _ => Credentials::Bad,
    }
}

/// A header's value; an error if it is repeated.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, ()> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(()) } else { Ok(value.map(|value| value.as_bytes())) }
}

enum Basic {
    None,
    Bad,
    Decoded(Zeroizing<Vec<u8>>),
}

fn basic(headers: &HeaderMap) -> Basic {
    let value = match once(headers, &AUTHORIZATION) {
        Ok(None) => return Basic::None,
        Ok(Some(value)) => value,
        Err(()) => return Basic::Bad,
    };
    let decoded = value
        .split_at_checked(6)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"basic "))
        .and_then(|(_, text)| STANDARD.decode(text.trim_ascii()).ok());
    decoded.map_or(Basic::Bad, |decoded| Basic::Decoded(Zeroizing::new(decoded)))
}

impl Basic {
    fn as_proof(&self) -> Credentials<'_> {
        match self {
            Basic::None => Credentials::None,
            Basic::Bad => Credentials::Bad,
            Basic::Decoded(text) => match text.iter().position(|byte| *byte == b':') {
                Some(colon) => Credentials::Pair(&text[..colon], &text[colon + 1..]),
                None => Credentials::Bad,
            },
        }
    }
}

impl KnownPair {
    fn live(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl fmt::Debug for KnownPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownPair").field("label", &self.label).field("until", &self.until).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn keys() -> KeyStore {
        let mut keys = KeyStore::default();
        keys.add("one", "a1", "s1");
        keys.add("two", "a2", "s:2");
        keys
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn label(lines: &[(&'static str, &str)]) -> Option<String> {
        keys().authenticate(&headers(lines), Some(ApiVersion::V2), AuthStyle::Any, 0).map(|label| label.to_string())
    }

    fn basic_of(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn each_style_alone_and_both_together_are_known() {
        assert_eq!(label(&[("access-key", "a1"), ("secret-key", "s1")]).as_deref(), Some("one"));
        assert_eq!(label(&[("authorization", &basic_of("a1:s1"))]).as_deref(), Some("one"));
        assert_eq!(label(&[("authorization", &basic_of("a2:s:2"))]).as_deref(), Some("two"));
        let both = [("access-key", "a1"), ("secret-key", "s1"), ("authorization", &*basic_of("a1:s1"))];
        assert_eq!(label(&both).as_deref(), Some("one"));
    }

    #[test]
    fn anything_less_is_refused() {
        let wrong: &[&[(&str, &str)]] = &[
            &[],
            &[("authorization", "Basic Og==")],
            &[("authorization", "Basic")],
            &[("authorization", "Basic %%%")],
            &[("authorization", "Bearer a1.s1")],
            &[("authorization", "Basic YTE=")],
            &[("access-key", "a1")],
            &[("secret-key", "s1")],
            &[("access-key", "a1"), ("secret-key", "s2")],
            &[("access-key", ""), ("secret-key", "")],
            &[("access-key", "a1"), ("access-key", "a1"), ("secret-key", "s1")],
            &[("x-access-key", "a1"), ("x-secret-key", "s1")],
        ];
        for lines in wrong {
            let lines: Vec<(&'static str, &str)> = lines.to_vec();
            assert_eq!(label(&lines), None, "{lines:?}");
        }
    }

    #[test]
    fn two_styles_that_disagree_are_refused() {
        let lines = [("access-key", "a1"), ("secret-key", "s1"), ("authorization", &*basic_of("a2:s:2"))];
        assert_eq!(label(&lines), None);
        let lines = [("access-key", "a1"), ("secret-key", "s1"), ("authorization", "Basic Og==")];
        assert_eq!(label(&lines), None);
    }

    #[test]
    fn a_revoked_pair_is_refused_until_it_is_added_again() {
        let mut keys = keys();
        let lines = headers(&[("access-key", "a1"), ("secret-key", "s1")]);
        assert!(keys.revoke("a1"));
        assert!(keys.authenticate(&lines, None, AuthStyle::Any, 0).is_none());
        keys.add("three", "a1", "s1");
        assert_eq!(keys.authenticate(&lines, None, AuthStyle::Any, 0).as_deref(), Some("three"));
        assert!(!keys.revoke("nobody"));
    }

    #[test]
    fn a_pair_is_good_up_to_the_instant_at_which_it_is_revoked() {
        let mut keys = keys();
        let lines = headers(&[("access-key", "a1"), ("secret-key", "s1")]);
        assert!(keys.revoke_at("a1", 1_000));
        let live = |keys: &KeyStore, now| keys.authenticate(&lines, None, AuthStyle::Any, now).is_some();
        assert!(live(&keys, 999) && !live(&keys, 1_000) && !live(&keys, i64::MAX));
        assert_eq!(keys.json(0)["keys"][0]["until"], "1970-01-01T00:00:01.000Z");
        keys.add("one", "a1", "s1");
        assert!(live(&keys, 1_000));
        keys.revoke_labelled("one");
        assert!(!live(&keys, i64::MIN) && keys.json(0)["keys"][1]["live"] == true);
    }

    #[test]
    fn parts_of_two_pairs_are_seen_and_nothing_else_is() {
        let mut keys = keys();
        keys.revoke("a1");
        let mixed = |lines: &[(&'static str, &str)]| keys.mixed(&headers(lines));
        let (one, two) = (basic_of("a1:s1"), basic_of("a2:s:2"));
        assert!(mixed(&[("access-key", "a1"), ("secret-key", "s:2")]));
        assert!(mixed(&[("authorization", &basic_of("a2:s1"))]));
        assert!(mixed(&[("access-key", "a1"), ("secret-key", "s1"), ("authorization", &two)]));
        assert!(!mixed(&[("access-key", "a1"), ("secret-key", "s1"), ("authorization", &one)]));
        assert!(!mixed(&[("access-key", "a1"), ("secret-key", "unknown")]));
        assert!(!mixed(&[]));
    }

    #[test]
    fn by_version_each_version_wants_its_own_style() {
        let pair = headers(&[("access-key", "a1"), ("secret-key", "s1")]);
        let basic = headers(&[("authorization", &basic_of("a1:s1"))]);
        let known = |headers, version| keys().authenticate(headers, Some(version), AuthStyle::ByVersion, 0).is_some();
        assert!(known(&pair, ApiVersion::V1) && known(&basic, ApiVersion::V2));
        assert!(!known(&basic, ApiVersion::V1) && !known(&pair, ApiVersion::V2));
    }

    #[test]
    fn secrets_are_in_no_debug_text() {
        let mut keys = KeyStore::default();
        keys.add("one", "access-canary", "secret-canary");
        assert!(!format!("{keys:?}").contains("canary"));
    }
}
