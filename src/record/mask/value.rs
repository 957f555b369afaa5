//! Values that are recognized as secret whatever their name. Pure; never fails.

/// Beginning of the secrets that the gateway issues to services: masked wherever they occur.
const OWN_SECRET: &str = "fgw_";

/// Whether a value looks secret under any name: a secret issued by the gateway, an `Authorization`
/// value, or JSON packed into a string, whose contents are not examined.
pub(super) fn looks_secret(value: &str) -> bool {
    starts_like_secret(value) || contains_own_secret(value)
}

pub(super) fn starts_like_secret(value: &str) -> bool {
    let trimmed = value.trim_start();
    let scheme = |scheme: &str| trimmed.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    match trimmed.as_bytes().first() {
        Some(b'{' | b'[') => trimmed.contains(['"', ':']),
        Some(b'b' | b'B') => scheme("basic ") || scheme("bearer "),
        _ => false,
    }
}

pub(super) fn contains_own_secret(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), OWN_SECRET.as_bytes()).is_some()
}
