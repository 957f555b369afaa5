//! Secrets that a request presents, or that the configuration knows by their digests, in every encoding of the table.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::super::{CallersText, LogBodies, Masker, Presented, known::MAX_DIGESTS};

/// Without the prefix of issued secrets, with characters that URIs and base64 encode.
const SECRET: &str = "S3cret/of-some+form_0x9";

fn presented(name: &'static str, value: &str) -> Presented {
    let mut headers = HeaderMap::new();
    headers.append(name, HeaderValue::from_str(value).unwrap());
    headers.append(name, HeaderValue::from_static("another, repeated"));
    Presented::read(&headers)
}

fn masker(secrets: &[&str]) -> Masker {
    let digests = secrets.iter().map(|secret| Sha256::digest(secret).into());
    Masker::new(LogBodies::Masked, &[]).recognizing(["key-1", "k"], digests)
}

/// Whether what a caller wrote is withheld.
fn withheld(masker: &Masker, presented: &Presented, uri: &str, body: &str) -> bool {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let target = [path, query].map(str::as_bytes);
    let written = CallersText { target, request_body: body.as_bytes(), answer_body: b"" };
    masker.holds_encoded_secret(None, presented, &written)
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn escaped(text: &str) -> String {
    text.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect()
}

/// A text in the encodings of the table.
fn encodings(text: &str) -> Vec<String> {
    let base64 = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].map(|base64| base64.encode(text));
    let hex = hex::encode(text);
    let mut all = vec![text.to_owned(), percent(text), percent(&percent(text)), hex.to_uppercase(), hex];
    all.extend(base64.iter().map(|text| percent(text)));
    all.extend(base64);
    all
}

#[test]
fn a_presented_secret_is_found_in_every_encoding() {
    let basic = format!("Basic {}", STANDARD.encode(format!("key-1:{SECRET}")));
    for (name, value) in [
        ("secret-key", SECRET),
        ("x-secret-key", SECRET),
        ("secret_key", SECRET),
        ("authorization", SECRET),
        ("authorization", &format!("Bearer key-1.{SECRET}")),
        ("authorization", &format!("Token {SECRET}")),
        ("authorization", &basic),
    ] {
        let presented = presented(name, value);
        let found = |uri: &str, body: &str| withheld(&masker(&[]), &presented, uri, body);
        for text in encodings(SECRET) {
            assert!(found(&format!("/a/x-{text}/b"), ""), "{name}: {text}");
            assert!(found(&format!("/a?b=1;c={text}.x"), ""), "{name}: {text}");
            let json = text.replace('/', "\\/");
            for text in [text.clone(), json.replace('\\', "\\\\"), json, escaped(&text)] {
                assert!(found("/a", &format!(r#"{{"x":["before {text}, after"]}}"#)), "{name}: {text}");
            }
        }
        // In base64 of a longer text, at each of its positions.
        for before in ["", "a", "ab", "abc"] {
            let text = URL_SAFE_NO_PAD.encode(format!("{before}{SECRET}{before}"));
            assert!(found(&format!("/a?x={text}"), ""), "{text}");
        }
        assert!(!found("/region/city?province_id=31", r#"{"awb":"S3cret/of-some+form_0x8","x":"aGVsbG8gd29ybGQ"}"#));
    }
}

#[test]
fn a_secret_that_is_known_by_its_digest_is_found_as_a_word() {
    let masker = masker(&[SECRET, "another-one-of-16"]);
    let found = |uri: &str, body: &str| withheld(&masker, &Presented::default(), uri, body);
    for text in encodings(SECRET).iter().chain(&encodings(&format!("key-1:{SECRET}"))) {
        if text != SECRET {
            assert!(!text.contains('/') || !text.contains(SECRET) || found(&format!("/a?x={text}"), ""), "{text}");
            assert!(text.contains('/') || found(&format!("/a/{text}/b"), ""), "{text}");
        }
        assert!(found(&format!("/a?b=1&c={text}"), "") || text.ends_with('='), "{text}");
        for text in [text.clone(), text.replace('/', "\\/"), escaped(text), format!("my key: {text}; thanks")] {
            assert!(found("/a", &format!(r#"{{"x":["{text}"]}}"#)), "{text}");
        }
        assert!(found("/a", &format!(r#"{{"x":"key={text}"}}"#)), "{text}");
    }
    assert!(!found("/region/sub_district/a-segment-of-24-bytes", r#"{"id":"0193b5a2-7c1e-7000-8000-000000000000"}"#));
}

/// As a bearer token, or in Basic form, also if it is shorter than what is compared as a word, or has what separates words.
#[test]
fn a_secret_that_is_known_by_its_digest_is_found_behind_its_access_key() {
    for secret in [SECRET, "sh0rt", "a;b&c=d", "x"] {
        let masker = masker(&[secret]);
        let found = |uri: &str, body: &str| withheld(&masker, &Presented::default(), uri, body);
        for pair in [format!("key-1.{secret}"), format!("key-1:{secret}"), format!("Bearer%20key-1.{secret}")] {
            for text in [pair.clone(), percent(&pair), percent(&percent(&pair)), pair.replace('.', "%2e")] {
                for uri in [format!("/a/{text}/b"), format!("/a?x={text}"), format!("/a?{text}"), format!("/{text}.x")]
                {
                    assert!(found(&uri, ""), "{uri}");
                }
                for text in [text.clone(), text.replace('/', "\\/"), escaped(&text)] {
                    assert!(found("/a", &format!(r#"{{"x":["It is '{text}'."]}}"#)), "{text}");
                    assert!(found("/a", &format!(r#"{{"x":"my-{text}"}}"#)), "{text}");
                }
            }
            if pair.len() >= 16 {
                for text in encodings(&pair) {
                    assert!(found(&format!("/a?x={text}"), ""), "{text}");
                }
            }
        }
        for other in ["key-1.", "key-1.y", "key-2.x", "key-1", "key-1: x", "key-1.xy", "1.5"] {
            assert!(!found(&format!("/{other}?x={other}"), &format!(r#"{{"{other}":"{other}"}}"#)), "{other}");
        }
    }
}

#[test]
fn the_work_on_digests_is_bounded_and_what_is_beyond_it_is_withheld() {
    let words = |count: usize| format!("[{}]", vec![r#""a-word-of-16-byte""#; count].join(","));
    let found = |text: &str| withheld(&masker(&[SECRET]), &Presented::default(), "/", text);
    assert!(!found(&words(MAX_DIGESTS / 2)));
    assert!(found(&words(MAX_DIGESTS + 1)));
    // None of these could be one.
    assert!(!found(&format!("[{}]", vec![r#"{"key-1":1.5,"k":"a.b","c":"k. l: m"}"#; MAX_DIGESTS].join(","))));
    assert!(!found(&"key-1.".repeat(10)) && found(&format!("[\"{}\"]", "key-1.".repeat(2 * MAX_DIGESTS))));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-f0-9%\\\\u+/=_-]{0,60}", secret in "[a-f0-9%]{1,12}") {
        let presented = presented("secret-key", &secret);
        let found = withheld(&masker(&[&secret]), &presented, "", &text);
        prop_assert!(found || secret.len() < 8 || !text.contains(&secret));
    }
}
