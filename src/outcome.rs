//! What became of a request: one closed table, and the classifier of Fastrac's responses.
//!
//! Each [`Outcome`] has a row with its metric label, who decided it, what it tells the breaker, whether a second
//! attempt may follow and what the cache may keep; each [`Code`] has one with its outcome, its status and its
//! `Proxy-Status` error. The breaker, the second attempt and the cache read these columns instead of matching on outcomes.
//! Both tables are a `match` without a catch-all arm: a new variant does not compile until each column is filled in.
//! Pure: knows no socket, no clock and no room but the messages of `config`. Cannot fail.

mod code;
mod envelope;
mod retry;
mod scan;

use http::StatusCode;
use strum::{IntoStaticStr, VariantArray};

pub use code::Code;
pub use envelope::{Classification, classify, classify_beginning, classify_head, classify_strictly, data};
pub use retry::RetryReason;

/// What became of a request (contract section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, VariantArray)]
pub enum Outcome {
    Ok,
    Hit,
    Stale,
    NotFound,
    Rejected,
    UpstreamError,
    Throttled,
    Leak,
    KeyRejected,
    Unauthenticated,
    Forbidden,
    OverQuota,
    OverBudget,
    BreakerOpen,
    NoKey,
    Unreachable,
    Timeout,
    Cut,
    NotCached,
    Held,
    BadRequest,
    Overloaded,
    Draining,
    ClientGone,
    Internal,
}

/// Who decided an outcome: `error.by` of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DecidedBy {
    Fastrac,
    Gateway,
    Caller,
}

/// What an attempt tells the circuit breaker about Fastrac.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Fastrac responded, whatever it said, also if that is not the envelope (a page of HTML under 200, a redirect). A
    /// half-open breaker counts such a response as a success: it would never open a breaker, and an account that gets no
    /// others would stay half-open for ever.
    Healthy,
    /// Fastrac could not be reached, did not respond in time or whole, or responded with a server error.
    Failing,
    /// Nothing was sent, or the caller ended it; or Fastrac said something about the account's keys (401) or its limit
    /// (429), which is known elsewhere.
    Nothing,
}

/// How the evidence of an outcome is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EvidenceRule {
    Healthy,
    Failing,
    /// `Failing` if the status is 500 or above, else `Healthy`.
    ByStatus,
    Nothing,
}

/// Whether a second attempt may follow, for an operation that may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Always, for this reason.
    After(RetryReason),
    /// If the status is 502, 503 or 504.
    ByStatus,
    Never,
}

/// Which lifetime of the operation's cache policy a response has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// `fresh`, if the status is 200.
    Fresh,
    /// `not_found`, whatever the status.
    NotFound,
    /// It is not stored.
    Never,
}

/// The columns of the table.
struct OutcomeRow {
    /// In metrics, log and `X-Gateway-Outcome`.
    label: &'static str,
    by: DecidedBy,
    evidence: EvidenceRule,
    repeat: Repeat,
    lifetime: Lifetime,
}

impl Outcome {
    #[rustfmt::skip]
    const fn row(self) -> OutcomeRow {
        use {DecidedBy as By, EvidenceRule as E, OutcomeRow as Row, Repeat as R, RetryReason as Y, Lifetime as L};
        match self {
            Outcome::Ok              => Row { label: "ok",              by: By::Fastrac, evidence: E::Healthy,  repeat: R::Never,            lifetime: L::Fresh },
            Outcome::Hit             => Row { label: "hit",             by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Stale           => Row { label: "stale",           by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::NotFound        => Row { label: "not_found",       by: By::Fastrac, evidence: E::Healthy,  repeat: R::ByStatus,         lifetime: L::NotFound },
            Outcome::Rejected        => Row { label: "rejected",        by: By::Fastrac, evidence: E::Healthy,  repeat: R::ByStatus,         lifetime: L::Never },
            Outcome::UpstreamError   => Row { label: "upstream_error",  by: By::Fastrac, evidence: E::ByStatus, repeat: R::ByStatus,         lifetime: L::Never },
            Outcome::Throttled       => Row { label: "throttled",       by: By::Fastrac, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Leak            => Row { label: "leak",            by: By::Gateway, evidence: E::Healthy,  repeat: R::Never,            lifetime: L::Never },
            Outcome::KeyRejected     => Row { label: "key_rejected",    by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Unauthenticated => Row { label: "unauthenticated", by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Forbidden       => Row { label: "forbidden",       by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::OverQuota       => Row { label: "over_quota",      by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::OverBudget      => Row { label: "over_budget",     by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::BreakerOpen     => Row { label: "breaker_open",    by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::NoKey           => Row { label: "no_key",          by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Unreachable     => Row { label: "unreachable",     by: By::Gateway, evidence: E::Failing,  repeat: R::After(Y::Connect),lifetime: L::Never },
            Outcome::Timeout         => Row { label: "timeout",         by: By::Gateway, evidence: E::Failing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Cut             => Row { label: "cut",             by: By::Gateway, evidence: E::Failing,  repeat: R::After(Y::Reset),  lifetime: L::Never },
            Outcome::NotCached       => Row { label: "not_cached",      by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Held            => Row { label: "held",            by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::BadRequest      => Row { label: "bad_request",     by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Overloaded      => Row { label: "overloaded",      by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Draining        => Row { label: "draining",        by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::ClientGone      => Row { label: "client_gone",     by: By::Caller,  evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
            Outcome::Internal        => Row { label: "internal",        by: By::Gateway, evidence: E::Nothing,  repeat: R::Never,            lifetime: L::Never },
        }
    }

    /// The label in metrics, log and `X-Gateway-Outcome`.
    pub fn as_str(self) -> &'static str {
        self.row().label
    }

    pub fn by(self) -> DecidedBy {
        self.row().by
    }

    /// What it says about Fastrac; `status` is Fastrac's, `None` without a response.
    pub fn evidence(self, status: Option<StatusCode>) -> Evidence {
        match self.row().evidence {
            EvidenceRule::ByStatus if status.is_some_and(|status| status.as_u16() < 500) => Evidence::Healthy,
            EvidenceRule::Failing | EvidenceRule::ByStatus => Evidence::Failing,
            EvidenceRule::Healthy => Evidence::Healthy,
            EvidenceRule::Nothing => Evidence::Nothing,
        }
    }

    /// Why a second attempt may follow, `None` if none may; `status` is Fastrac's, `None` without a response.
    pub fn retry_reason(self, status: Option<StatusCode>) -> Option<RetryReason> {
        match self.row().repeat {
            Repeat::After(reason) => Some(reason),
            Repeat::ByStatus => RetryReason::of_status(status?.as_u16()),
            Repeat::Never => None,
        }
    }

    pub fn lifetime(self) -> Lifetime {
        self.row().lifetime
    }
}

/// Whether Fastrac may have received the request. Ordered: over the attempts of a request it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Sent {
    /// Fastrac never received it.
    #[default]
    No,
    /// It may have been executed.
    Unknown,
    /// Fastrac answered it.
    Yes,
}

impl Sent {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl DecidedBy {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_differ() {
        let labels: BTreeSet<&str> = Outcome::VARIANTS.iter().map(|outcome| outcome.as_str()).collect();
        assert_eq!(labels.len(), Outcome::VARIANTS.len());
    }

    #[test]
    fn only_fastracs_good_answers_are_stored() {
        for outcome in Outcome::VARIANTS {
            assert!(
                outcome.lifetime() == Lifetime::Never || outcome.by() == DecidedBy::Fastrac,
                "{}",
                outcome.as_str()
            );
            assert!(
                outcome.lifetime() == Lifetime::Never || outcome.evidence(None) == Evidence::Healthy,
                "{}",
                outcome.as_str()
            );
        }
    }

    #[test]
    fn only_a_server_error_or_no_response_is_evidence_of_a_failure() {
        let evidence = |outcome: Outcome, status| outcome.evidence(StatusCode::from_u16(status).ok());
        for outcome in Outcome::VARIANTS.iter().filter(|outcome| outcome.by() == DecidedBy::Fastrac) {
            let healthy = if *outcome == Outcome::Throttled { Evidence::Nothing } else { Evidence::Healthy };
            for status in [200, 204, 299, 301, 304, 399, 400, 404, 429, 499] {
                assert_eq!(evidence(*outcome, status), healthy, "{} {status}", outcome.as_str());
            }
        }
        for status in [500, 501, 502, 503, 504, 599, 600, 999] {
            assert_eq!(evidence(Outcome::UpstreamError, status), Evidence::Failing, "{status}");
        }
        for outcome in [Outcome::Unreachable, Outcome::Timeout, Outcome::Cut] {
            assert_eq!(outcome.evidence(None), Evidence::Failing);
        }
        for outcome in [Outcome::Overloaded, Outcome::KeyRejected, Outcome::Throttled] {
            assert_eq!(outcome.evidence(None), Evidence::Nothing);
        }
    }

    #[test]
    fn a_second_attempt_follows_only_what_was_sent() {
        for outcome in Outcome::VARIANTS.iter().filter(|outcome| outcome.evidence(None) == Evidence::Nothing) {
            let reasons = [Some(StatusCode::BAD_GATEWAY), None].map(|status| outcome.retry_reason(status));
            assert_eq!(reasons, [None, None], "{}", outcome.as_str());
        }
        let after = |status| Outcome::UpstreamError.retry_reason(StatusCode::from_u16(status).ok());
        assert_eq!([500, 501, 505, 302, 200].map(after), [None; 5]);
        assert_eq!(
            [502, 503, 504].map(|status| after(status).map(RetryReason::as_str)),
            ["502", "503", "504"].map(Some)
        );
        assert_eq!(Outcome::Cut.retry_reason(None), Some(RetryReason::Reset));
        assert_eq!(Outcome::Timeout.retry_reason(None), None);
    }
}
