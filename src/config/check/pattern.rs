//! When two path patterns match the same path.
//!
//! No two rows of the table may match the same request, so no rule of precedence is needed, and
//! none can be got wrong.

/// Whether some path matches both.
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

/// Whether the segment matches any one.
fn any(segment: &str) -> bool {
    segment.starts_with('{')
}
