//! What the head of Fastrac's response says about its body, and whether it contradicts itself (RFC 9112, section 6.3).
//!
//! hyper delimits the body; this decides whether the head may be believed, and whether the connection may carry another
//! request. Framing fields are never passed on: each leg generates its own (contract section 4). Pure. Fails with
//! [`Contradiction`].

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

/// The head does not delimit one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradiction;

/// The framing of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) due: DueLength,
    /// Nobody could take it for longer or shorter than it is. Otherwise bytes that come late might be taken for the
    /// response to the next request.
    pub(super) is_certain: bool,
    /// What its `Content-Length` says of the body that a GET would have got (RFC 9110, section 8.6): where there is no body
    /// although the status has one (HEAD), or would have had one (304). `None` if it is not the only framing field.
    pub(super) described_length: Option<u64>,
}

/// The bytes that the body must still have, where hyper has not delimited it by its declared length: the response has
/// a `Transfer-Encoding` too, which takes precedence. `None`: nothing to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DueLength(Option<u64>);

impl DueLength {
    /// So many bytes of the body have come.
    ///
    /// # Errors
    /// [`Contradiction`] if they are more than were declared.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Contradiction> {
        if let Some(left) = &mut self.0 {
            *left = left.checked_sub(bytes as u64).ok_or(Contradiction)?;
        }
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// [`Contradiction`] if it is shorter than was declared.
    pub(super) fn end(self) -> Result<(), Contradiction> {
        if self.0.is_none_or(|left| left == 0) { Ok(()) } else { Err(Contradiction) }
    }
}

impl Framing {
    /// Reads the head of a response; `head_only`: to HEAD.
    ///
    /// # Errors
    /// [`Contradiction`] if the status is not final (an unasked 101: nothing was to be upgraded), if there are lengths
    /// that are no number or not all the same, or if a body has another coding than `chunked`: the gateway sends no
    /// `TE`, and hyper would hand the coded bytes over as the body.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, head_only: bool) -> Result<Framing, Contradiction> {
        if status.is_informational() {
            return Err(Contradiction);
        }
        let length = declared_length(headers)?;
        let coded = headers.contains_key(TRANSFER_ENCODING);
        if head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            // Some servers send the body that they announce.
            let is_certain = !coded && length.is_none_or(|length| length == 0);
            let describes = status != StatusCode::NO_CONTENT && !coded && is_declared_once(headers);
            return Ok(Framing { due: DueLength(None), is_certain, described_length: length.filter(|_| describes) });
        }
        if coded && !is_only_chunked(headers) {
            return Err(Contradiction);
        }
        let length = length.filter(|_| coded);
        Ok(Framing { due: DueLength(length), is_certain: length.is_none(), described_length: None })
    }
}

/// The one number that all `Content-Length` fields have.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Contradiction> {
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
    Ok(length)
}

/// Whether there is one `Content-Length` with one number.
fn is_declared_once(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    values.next().is_some_and(|value| !value.as_bytes().contains(&b',')) && values.next().is_none()
}

/// Whether `chunked` is the only coding, and applied once.
fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    values.next().is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framing(status: u16, fields: &[(&'static str, &str)], head_only: bool) -> Result<Framing, Contradiction> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        Framing::of(StatusCode::from_u16(status).unwrap(), &headers, head_only)
    }

    fn decide(status: u16, fields: &[(&'static str, &str)]) -> Result<Option<u64>, Contradiction> {
        framing(status, fields, false).map(|framing| framing.due.0)
    }

    #[test]
    fn a_length_beside_chunks_has_to_be_true() {
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(decide(200, &[("content-length", "5"), chunked]), Ok(Some(5)));
        assert_eq!(decide(200, &[("content-length", "9999"), chunked]), Ok(Some(9999)));
        assert_eq!(decide(200, &[chunked]), Ok(None));
        assert_eq!(decide(200, &[("content-length", "218")]), Ok(None), "hyper delimits the body by it");
        for (pieces, agrees) in [(&[2, 3][..], true), (&[5], true), (&[], false), (&[4], false), (&[5, 1], false)] {
            let mut due = framing(200, &[("content-length", "5"), chunked], false).unwrap().due;
            let taken = pieces.iter().try_for_each(|piece| due.take(*piece)).and_then(|()| due.end());
            assert_eq!(taken.is_ok(), agrees, "{pieces:?}");
        }
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
    fn a_length_without_a_body_describes_that_of_a_get() {
        let described = |status, fields: &[(&'static str, &str)], head_only| {
            framing(status, fields, head_only).unwrap().described_length
        };
        let five = ("content-length", "5");
        assert_eq!((described(200, &[five], true), described(304, &[five], false)), (Some(5), Some(5)));
        assert_eq!(described(304, &[five], true), Some(5));
        assert_eq!(described(200, &[five], false), None, "the framing of a body");
        for head_only in [true, false] {
            assert_eq!(described(204, &[five], head_only), None, "no body is allowed");
        }
        for fields in [&[five, ("transfer-encoding", "chunked")][..], &[five, five], &[("content-length", "5, 5")], &[]]
        {
            assert_eq!((described(200, fields, true), described(304, fields, false)), (None, None), "{fields:?}");
        }
    }

    #[test]
    fn a_body_has_no_coding_but_chunked() {
        for value in
            ["gzip", "identity", "gzip, chunked", "chunked, chunked", "chunked, gzip", "xchunked", "chunked,", ""]
        {
            assert_eq!(decide(200, &[("transfer-encoding", value)]), Err(Contradiction), "{value}");
        }
        for other in ["chunked", "gzip"] {
            let two = [("transfer-encoding", other), ("transfer-encoding", "chunked")];
            assert_eq!(decide(200, &two), Err(Contradiction), "{other}");
        }
        assert_eq!(decide(200, &[("transfer-encoding", " CHUNKED\t")]), Ok(None));
    }

    #[test]
    fn a_body_that_must_not_come_may_come_late() {
        let certain =
            |status, fields: &[(&'static str, &str)], head_only| framing(status, fields, head_only).unwrap().is_certain;
        for (status, head_only) in [(204, false), (304, false), (200, true)] {
            assert!(certain(status, &[], head_only) && certain(status, &[("content-length", "0")], head_only));
            for announced in [("content-length", "5"), ("transfer-encoding", "chunked"), ("transfer-encoding", "gzip")]
            {
                assert!(!certain(status, &[announced], head_only), "{status} {announced:?}");
            }
        }
        assert!(certain(200, &[("content-length", "5")], false));
        assert!(certain(200, &[("transfer-encoding", "chunked")], false));
        assert!(!certain(200, &[("transfer-encoding", "chunked"), ("content-length", "5")], false));
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
