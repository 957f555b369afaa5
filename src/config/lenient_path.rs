//! How the most lenient server would read a path: two paths that it would take for the same are spellings of each other.
//!
//! The checks of the operation table and the routing of requests both decide with these functions, so a row that the
//! checks accept is no spelling of an order, and neither is a request that the routing accepts. Pure; any bytes will do.

/// The byte that the `%xy` at `at` encodes.
pub(crate) fn decoded(bytes: &[u8], at: usize) -> Option<u8> {
    let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
    Some((hex(at + 1)? * 16 + hex(at + 2)?) as u8)
}

/// Percent-decoded, once.
pub(crate) fn all_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], decoded(bytes, i)) {
            (b'%', Some(byte)) => {
                text.push(byte);
                i += 3;
            }
            (byte, _) => {
                text.push(byte);
                i += 1;
            }
        }
    }
    text
}

/// The path as the most lenient server would read it: decoded once, cut at a decoded `?` or `#`, lower
/// case, no empty segments, no path parameters, no white space or control bytes at a segment's end,
/// without PHP's front controller.
pub(crate) fn plain(path: &str) -> String {
    let text = all_decoded(path.as_bytes());
    // Both conversions are needed: some letters exist in only one case.
    let text = String::from_utf8_lossy(&text).to_uppercase().to_lowercase();
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    for segment in text.split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        let segment = segment.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if !segment.is_empty() {
            plain.push('/');
            plain.push_str(segment);
        }
    }
    match plain.strip_prefix("/index.php/") {
        Some(rest) => format!("/{rest}"),
        None => plain,
    }
}
