//! Strings of the file with a syntax: names, addresses, digests, path patterns. Each is checked when it is parsed.

use std::net::SocketAddr;

use super::values::TextValue;
use crate::headers::may_vary;

/// Characters of an access key, and of names.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Declares a string type that accepts what passes a test.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $test:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub String);

        impl TextValue for $name {
            const KIND: &'static str = $kind;

            fn parse(text: &str) -> Result<Self, String> {
                let test: fn(&str) -> bool = $test;
                if test(text) { Ok(Self(text.to_owned())) } else { Err(Self::must_be()) }
            }

            fn to_text(&self) -> String {
                self.0.clone()
            }
        }
    };
}

word!(
    /// Name of an account, a service or an operation: a metric label.
    Name,
    "a name of 1 to 64 letters, digits, \"_\", \"-\" or \".\", with a letter or digit first",
    |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| plain(b) || b == b'.')
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
    }
);
word!(
    /// The access key of a service's credential.
    AccessKey,
    "1 to 64 characters of A-Z, a-z, 0-9, \"_\" and \"-\"",
    |text| (1..=64).contains(&text.len()) && text.bytes().all(plain)
);
word!(
    /// Name of an environment variable.
    VariableName,
    "the name of an environment variable, such as \"FASTRAC_SECRET_KEY\" (never the value itself)",
    |text| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
    }
);
word!(
    /// A text that is not blank.
    NonBlank,
    "a text that is not blank",
    |text| !text.trim().is_empty() && text.len() <= 1024 && !text.contains(char::is_control)
);
word!(
    /// A host name as the `Host` header has it, without a port.
    HostName,
    "a host name without scheme, port or path",
    |text| {
        (1..=253).contains(&text.len())
            && text.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(plain))
    }
);
word!(
    /// Subject alternative name of a client certificate.
    Identity,
    "a URI such as \"spiffe://shop/checkout\" or a DNS name",
    |text| match text.split_once("://") {
        Some((scheme, rest)) =>
            !scheme.is_empty()
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
                && !rest.is_empty()
                && rest.bytes().all(|b| b.is_ascii_graphic()),
        None => HostName::parse(text).is_ok(),
    }
);
word!(
    /// Method of an operation. HEAD is answered from GET; the others never reach Fastrac as operations.
    MethodName,
    "\"GET\", \"POST\", \"PUT\", \"PATCH\" or \"DELETE\"",
    |text| matches!(text, "GET" | "POST" | "PUT" | "PATCH" | "DELETE")
);
word!(
    /// Path pattern of an operation: non-empty segments, `{name}` for any one of them.
    PathPattern,
    "a path such as \"/region/city\" or \"/shipment/{awb}\": segments without percent signs, dots alone, query or \
     slash at the end",
    |text| match text.strip_prefix('/') {
        Some(rest) => text.len() <= 1024 && rest.split('/').all(segment),
        None => false,
    }
);
word!(
    /// Request header that may vary the answer of a cached operation; lower case.
    VaryHeader,
    "the name, in lower case, of a request header that the gateway neither removes nor sets, such as \
     \"accept-language\"",
    |text| !text.is_empty() && text.bytes().all(|b| plain(b) && !b.is_ascii_uppercase()) && may_vary(text)
);

/// One segment of a pattern.
fn segment(segment: &str) -> bool {
    if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    }
    // RFC 3986 pchar without percent-encoding, so that patterns match raw bytes
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b))
}

/// SHA-256 of the empty string, which is nobody's secret: what `printf "$SECRET" | sha256sum` prints where the variable
/// is not set.
const EMPTY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// SHA-256 of a secret; never that of the empty string.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Digest(pub [u8; 32]);

impl std::fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[digest]")
    }
}

impl TextValue for Sha256Digest {
    const KIND: &'static str =
        "the SHA-256 of the secret, 64 hexadecimal digits (`fastrac-gateway service issue` and `admin issue` make one)";

    fn parse(text: &str) -> Result<Self, String> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| Self::must_be())?;
        if digest == EMPTY { Err("must not be the digest of the empty string".to_owned()) } else { Ok(Self(digest)) }
    }

    fn to_text(&self) -> String {
        hex::encode(self.0)
    }
}

impl TextValue for SocketAddr {
    const KIND: &'static str = "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| Self::must_be())
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl TextValue for jiff::civil::Date {
    const KIND: &'static str = "a date in quotes, such as \"2027-01-31\"";

    fn parse(text: &str) -> Result<Self, String> {
        // jiff also accepts a time after the date.
        text.parse().ok().filter(|_| text.len() == "2027-01-31".len()).ok_or_else(Self::must_be)
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl TextValue for jiff::tz::TimeZone {
    const KIND: &'static str = "a zone of the IANA database, such as \"Asia/Jakarta\" or \"UTC\"";

    fn parse(text: &str) -> Result<Self, String> {
        Self::get(text).map_err(|_| Self::must_be())
    }

    fn to_text(&self) -> String {
        self.iana_name().unwrap_or("UTC").to_owned()
    }
}
