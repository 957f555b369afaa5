//! What may be stored in the cache. Pure.
//!
//! What always holds: only `success:true` with 200, and `not_found`, are ever stored, without a content coding or a byte
//! order mark, and only of an operation that declares a cache policy (`config` allows one on lookups only). Must not know
//! the cache. Never fails.

use http::{HeaderMap, StatusCode, header::CONTENT_ENCODING};

use crate::{
    config::CachePolicy,
    outcome::{Classification, Lifetime},
};

/// A response that could be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) reading: Classification,
    pub(crate) status: StatusCode,
    /// Of the body, in bytes.
    pub(crate) length: usize,
    /// `limits.answer_buffer`, in bytes.
    pub(crate) max_length: usize,
    /// See [`is_coded`] and [`is_marked`].
    pub(crate) is_unreadable: bool,
}

impl Candidate {
    /// Whether it answers the request, whatever the cache may keep of it. `has_good`: a good response is stored. An error
    /// of Fastrac's own proves nothing against that, whatever its message says.
    pub(crate) fn is_answer(&self, has_good: bool) -> bool {
        let is_error = self.status.is_server_error();
        self.reading.outcome.lifetime() != Lifetime::Never && !(has_good && is_error)
    }
}

/// Whether a response is labelled with a content coding. The gateway asks for none and reads the envelope as it came: where
/// that could be read, the label is wrong, and callers that believe it cannot read the body.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let codings =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings.map(<[u8]>::trim_ascii).any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// Whether a body begins with a byte order mark. Readers of JSON may refuse it (RFC 8259, section 8.1), and many do.
pub fn is_marked(body: &[u8]) -> bool {
    body.starts_with("\u{feff}".as_bytes())
}

/// Whether a response of this kind may ever be stored.
pub fn storable(reading: Classification, status: StatusCode) -> bool {
    match reading.outcome.lifetime() {
        Lifetime::Fresh => status == StatusCode::OK,
        Lifetime::NotFound => true,
        Lifetime::Never => false,
    }
}

/// Whether a response may be stored by this policy.
pub(crate) fn may_store(policy: &CachePolicy, candidate: &Candidate) -> bool {
    let Candidate { reading, status, length, max_length, is_unreadable } = *candidate;
    let lifetime = match reading.outcome.lifetime() {
        Lifetime::Fresh => policy.fresh,
        Lifetime::NotFound => policy.not_found,
        Lifetime::Never => return false,
    };
    storable(reading, status) && length <= max_length && !is_unreadable && !lifetime.is_zero()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn only_good_responses_are_stored() {
        let policy = CachePolicy {
            fresh: Duration::from_secs(60),
            stale_if_error: Duration::ZERO,
            refresh_ahead: 1.0,
            not_found: Duration::from_secs(5),
        };
        let may_store = |outcome, status, length| {
            let reading = Classification { outcome, is_envelope: true, key_refused: false };
            let status = StatusCode::from_u16(status).unwrap();
            super::may_store(&policy, &Candidate { reading, status, length, max_length: 100, is_unreadable: false })
        };
        assert!(may_store(Outcome::Ok, 200, 100) && may_store(Outcome::NotFound, 404, 1));
        assert!(!may_store(Outcome::Ok, 200, 101), "too long");
        assert!(!may_store(Outcome::Ok, 201, 1) && !may_store(Outcome::Rejected, 200, 1));
    }

    #[test]
    fn every_coding_but_identity_is_one() {
        let is_coded = |lines: &[&str]| {
            let lines = lines.iter().map(|line| (CONTENT_ENCODING, line.parse().unwrap()));
            super::is_coded(&lines.collect())
        };
        for lines in [&[][..], &["identity"], &["Identity , identity"], &["", "identity"]] {
            assert!(!is_coded(lines), "{lines:?}");
        }
        for lines in [&["gzip"][..], &["x-gzip"], &["identity, br"], &["identity", "zstd"], &["identity;q=1"], &["*"]] {
            assert!(is_coded(lines), "{lines:?}");
        }
    }
}
