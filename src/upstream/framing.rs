//! Which length a response of Fastrac declares, and whether its framing contradicts itself (RFC 9112, section 6.3).
//!
//! hyper delimits the body; this decides whether the head may be believed. Framing fields are never passed on:
//! each leg generates its own (contract section 4). Pure. Fails with [`Contradiction`].

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

/// The head does not delimit one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradiction;

/// The length that the body must turn out to have, where hyper has not delimited the body by it: the response has
/// a `Transfer-Encoding` too, which takes precedence. `None`: nothing to compare.
///
/// # Errors
/// [`Contradiction`] if the status is not final (an unasked 101: nothing was to be upgraded), or if there are
/// lengths that are no number or not all the same.
pub(super) fn length_to_compare(status: StatusCode, headers: &HeaderMap) -> Result<Option<u64>, Contradiction> {
    if status.is_informational() {
        return Err(Contradiction);
    }
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        // One field value may list the same length several times (RFC 9110, section 8.6).
        for item in value.to_str().map_err(|_| Contradiction)?.split(',') {
            let digits = item.trim_matches([' ', '\t']);
            let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
            let number: u64 = number.ok_or(Contradiction)?;
            if length.replace(number).is_some_and(|before| before != number) {
                return Err(Contradiction);
            }
        }
    }
    let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(length.filter(|_| !no_body && headers.contains_key(TRANSFER_ENCODING)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decide(status: u16, fields: &[(&'static str, &str)]) -> Result<Option<u64>, Contradiction> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        length_to_compare(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn a_length_beside_chunks_has_to_be_true() {
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(decide(200, &[("content-length", "5"), chunked]), Ok(Some(5)));
        assert_eq!(decide(200, &[("content-length", "9999"), chunked]), Ok(Some(9999)));
        assert_eq!(decide(200, &[chunked]), Ok(None));
        assert_eq!(decide(200, &[("content-length", "218")]), Ok(None), "hyper delimits the body by it");
    }

    #[test]
    fn lengths_must_be_one_number() {
        for value in ["218, 218", "218,218", "218 , 218"] {
            assert_eq!(decide(200, &[("content-length", value)]), Ok(None), "{value}");
        }
        for value in ["218, 219", "-1", "+5", "0x10", "", "5,", "1 2", "99999999999999999999"] {
            assert_eq!(decide(200, &[("content-length", value)]), Err(Contradiction), "{value}");
        }
        assert_eq!(decide(200, &[("content-length", "1"), ("content-length", "2")]), Err(Contradiction));
        assert_eq!(decide(200, &[("content-length", "2"), ("content-length", "2")]), Ok(None));
    }

    #[test]
    fn responses_without_a_body_have_nothing_to_compare() {
        for status in [204, 304] {
            assert_eq!(decide(status, &[("content-length", "5"), ("transfer-encoding", "chunked")]), Ok(None));
        }
    }

    #[test]
    fn only_a_final_status_is_a_response() {
        for status in [100, 101, 103, 199] {
            assert_eq!(decide(status, &[]), Err(Contradiction), "{status}");
        }
    }

    proptest! {
        #[test]
        fn two_different_lengths_are_never_believed(a in any::<u32>(), b in any::<u32>(), in_one in any::<bool>()) {
            let (first, second) = (a.to_string(), b.to_string());
            let listed = format!("{first}, {second}");
            let decided = if in_one {
                decide(200, &[("content-length", &listed)])
            } else {
                decide(200, &[("content-length", &first), ("content-length", &second)])
            };
            prop_assert_eq!(decided.is_ok(), a == b);
        }
    }
}
