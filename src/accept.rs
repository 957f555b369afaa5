//! The weight that a request's `Accept` gives to a media type (RFC 9110, section 12.5.1).
//!
//! Only exact types are looked for: a range such as `*/*` does not ask for any of the gateway's own formats. Pure; an
//! invalid weight counts as 0.

use http::{HeaderMap, header::ACCEPT};

/// From 0 (not acceptable, or not named) to 1. If it is named several times, with different parameters, the largest.
pub(crate) fn weight(headers: &HeaderMap, media_type: &str) -> f32 {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = values.flat_map(|value| value.split(','));
    ranges.filter_map(|range| range_weight(range, media_type)).fold(0.0, f32::max)
}

/// The weight of one media range, if it is this type.
fn range_weight(range: &str, media_type: &str) -> Option<f32> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(media_type) {
        return None;
    }
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let weight = quality.map_or(Some(1.0), |quality| quality.trim().parse().ok());
    Some(weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_bounded() {
        for (accept, expected) in [
            ("", 0.0),
            ("*/*", 0.0),
            ("application/*", 0.0),
            ("a/b", 1.0),
            ("A/B", 1.0),
            ("x/y, a/b;q=0.5", 0.5),
            ("a/b;q=0", 0.0),
            ("a/b; version=1.0.0 ; q=0.3", 0.3),
            ("a/b;q=0.2, a/b;v=2;q=0.7", 0.7),
            ("a/b;Q=1.000", 1.0),
            ("a/b;q=2", 0.0),
            ("a/b;q=-1", 0.0),
            ("a/b;q=NaN", 0.0),
            ("a/b;q=", 0.0),
            ("a/bc", 0.0),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert!((weight(&headers, "a/b") - expected).abs() < f32::EPSILON, "{accept}");
        }
        assert!(weight(&HeaderMap::new(), "a/b") < f32::EPSILON);
    }
}
