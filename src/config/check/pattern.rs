//! Whether two path patterns match the same path.
//!
//! No two rows of the operation table may match the same request, so there is no rule of precedence.

/// Whether there is a path that both match.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || any(a) || any(b) => {}
            _ => return false,
        }
    }
}

/// Whether the pattern's segment matches any segment.
pub(super) fn any(segment: &str) -> bool {
    segment.starts_with('{')
}
