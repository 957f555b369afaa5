//! The table of README, "What the exchange log masks": credentials inside ordinary values.

use proptest::prelude::*;

use super::{CANARY, body, path, query};

/// Values with a credential in them, one of each form of the table and more.
const VALUES: &[&str] = &[
    // a URL with a user or password
    "https://user:CaNaRy4711@host/",
    "redis://:CaNaRy4711@10.0.0.9:6379/0",
    "see postgres://gateway:CaNaRy4711@db/orders?x=1 for more",
    "https://CaNaRy4711@host",
    "https://user:CaNaRy4711%40host/",
    // an assignment to the name of a credential
    "secret_key=CaNaRy4711",
    "x-secret-key: CaNaRy4711",
    "Secret Key : CaNaRy4711",
    "a=1&client_secret=CaNaRy4711&b=2",
    "password='CaNaRy4711'",
    "the password: CaNaRy4711",
    "db_password_old=CaNaRy4711",
    "kata sandi: CaNaRy4711",
    "API-KEY = CaNaRy4711",
    "accessToken=CaNaRy4711",
    "cookie: session=CaNaRy4711",
    "secret_key%3DCaNaRy4711",
    "curl -H 'access-key: a' -H 'secret-key: CaNaRy4711'",
    // an Authorization header, or its value
    "Authorization: Token CaNaRy4711",
    "got Basic YTpDYU5hUnk0NzEx",
    "got basic  YTpD",
    "x Bearer CaNaRy4711",
    "x BEARER  aaaaaaaaaaaaaaaaaaaaaaaaa",
    // a private key
    "-----BEGIN PRIVATE KEY-----CaNaRy4711",
    "-----BEGIN RSA PRIVATE KEY-----\\nCaNaRy4711\\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    // tokens that show what they are
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJDYU5hUnkifQ.s5kFs3wz0a8",
    "id eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJDYU5hUnkifQ.",
    "hvs.CAESIJ4711CaNaRy4711CaNaRy",
    "token hvb.AAAAAQJ4711CaNaRy4711CaNaRy",
];

#[test]
fn credentials_inside_a_value_are_masked_in_bodies_queries_and_paths() {
    for value in VALUES {
        let escaped = value.replace('/', "\\/").replace('e', "\\u0065");
        for value in [value, &*escaped] {
            let text = format!(r#"{{"a":1,"b":[{{"x":"{value}"}},"{value}"]}}"#);
            assert_eq!(body(&text).unwrap(), r#"{"a":1,"b":[{"x":"***"},"***"]}"#, "{value}");
            let masked = body(&format!(r#"{{"{value}":{{"x":1}}}}"#)).unwrap();
            assert!(masked.starts_with(r#"{"***":"#), "{masked}");
        }
        let encoded: String = value.replace("\\n", "\n").bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(query(&format!("a=1&x={encoded}&b=2")), "a=1&x=***&b=2", "{value}");
        assert_eq!(path(&format!("/a/{encoded}/b")), "/a/***/b", "{value}");
    }
}

#[test]
fn the_siblings_of_a_credentials_name_are_masked() {
    for name in ["Authorization", "secret_key", "X-Api-Key", "password", "client secret", "cookie", "db.password"] {
        for (naming, value) in [("name", "value"), ("key", "val"), ("header", "v"), ("Field", "content"), ("n", "x")] {
            for pair in [
                format!(r#"{{"{naming}":"{name}","{value}":"{CANARY}"}}"#),
                format!(r#"{{"{value}":["{CANARY}"],"c":{{"d":"{CANARY}"}},"{naming}":"{name}"}}"#),
            ] {
                let masked = body(&format!(r#"{{"a":1,"headers":[{pair},{{"b":2}}],"c":{{"d":3}}}}"#)).unwrap();
                assert_eq!(masked, r#"{"a":1,"headers":["***",{"b":2}],"c":{"d":3}}"#, "{pair}");
            }
            assert!(!query(&format!("a=1&{naming}={name}&{value}={CANARY}")).contains(CANARY), "{naming}={name}");
            assert!(!query(&format!("{value}={CANARY}&{naming}={name}")).contains(CANARY), "{naming}={name}");
        }
        let masked = body(&format!(r#"{{"raw":["x","1","{name}","{CANARY}","y"],"b":2}}"#)).unwrap();
        assert_eq!(masked, format!(r#"{{"raw":["x","1","{name}","***","y"],"b":2}}"#));
    }
    let escaped = format!(r#"{{"a":{{"n\u0061me":"secr\u0065t_key","v":"{CANARY}"}}}}"#);
    assert_eq!(body(&escaped).unwrap(), r#"{"a":"***"}"#);
}

/// What looks similar and is needed by those who read the log.
#[test]
fn ordinary_values_stay_readable() {
    for value in [
        "https://tracking.example/awb?x=1",
        "https://cdn.example/logo.png?at=@2x",
        "JNE: YES 1-1 days",
        "etd=2-3 Days",
        "price: 18000",
        "Data not found",
        "Invalid access key or secret key",
        "secret key is missing.",
        "the token has expired",
        "a basic service: reg",
        "Economy, basic; bearer of good news",
        "2026-01-02T03:04:05.678Z",
        "hv. hvs.short hivs.CAESIJ4711CaNaRy4711CaNaRy",
        "eyJ and eyJhbGciOi.x",
        "BEGIN PUBLIC KEY-----",
        "Kelurahan: Gambir, Kecamatan: Gambir",
        "Jl. Medan Merdeka Barat No. 12",
        "FST0001112223334",
        "a = b",
        "Secretaria: Jakarta Pusat",
        "Secret Garden",
        "REG=JNE-REG-2026",
    ] {
        let text = format!(r#"{{"awb":"{value}","list":["{value}","{value}"]}}"#);
        assert_eq!(body(&text).unwrap(), text, "{value}");
    }
    for text in [
        r#"{"courier":{"label":"Secret Garden","city_id":3171},"key_version":"a","code":"token_ring"}"#,
        r#"{"list":["name","city","status"],"n":"REG","k":31}"#,
    ] {
        let masked = body(text).unwrap();
        assert!(masked.contains("3171") || masked.contains("REG"), "{masked}");
    }
    assert_eq!(query("name=&value=1&city=31"), "name=&value=1&city=31");
}

proptest! {
    /// Wherever in a text a credential is.
    #[test]
    fn a_credential_in_the_middle_of_a_text_is_masked(
        before in "([a-z0-9]{1,8}[ ,;]){0,4}",
        after in "([ ,;][a-z0-9]{1,8}){0,4}",
        index in 0..VALUES.len(),
    ) {
        let text = format!(r#"{{"a":"{before}{}{after}"}}"#, VALUES[index]);
        prop_assert_eq!(body(&text).unwrap(), r#"{"a":"***"}"#, "{}", text);
    }
}
