//! What does not work although the gateway is ready: the closed list of reasons.
//!
//! `/readyz` and `/status` show the texts, `fastrac_gateway_degraded{reason}` the reasons. Most are derived from the
//! state of their rooms whenever they are asked for (`admin/degraded.rs`), so they cannot go stale. A fault that
//! leaves no such state is reported to [`DegradedReports`], and withdrawn by the code that reported it. Texts name
//! accounts, settings and conditions, never paths, addresses or values: they are shown without a token. Never fails.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Why the gateway is degraded. The names are the values of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum DegradedReason {
    /// The last write to the state store failed, or its file is lost.
    StoreFailing,
    /// The state store was missing at the start, in a folder that had one.
    StoreLost,
    /// Day counts cannot be recorded: the store or the file of day marks fails or does not respond.
    DayCountsFailing,
    /// A service has as many orders that are not over as it may: no other one of it is sent.
    OrdersFull,
    /// Both records of the day counts were lost before the start: what was used of today before it is not counted.
    DayCountsLost,
    /// The system clock has jumped by more than a minute within the last ten minutes.
    ClockJumped,
    /// The last line could not be written to the audit log, or its disk does not respond.
    AuditFailing,
    /// The last lines could not be written to the exchange log.
    LogFailing,
    /// The cache's snapshot could not be read or written, or its disk does not respond.
    CacheSnapshotFailing,
    /// A reload was refused; the previous configuration is in force.
    ReloadRefused,
    /// A changed setting waits for a restart.
    RestartPending,
    /// A listener's certificate has expired.
    CertificateExpired,
    /// A listener's new certificate cannot be used.
    CertificateUnusable,
    /// An account has no pair that it may sign with.
    NoKeyPair,
    /// A key source (file, folder, vault) cannot be read.
    KeySourceLost,
    /// Fastrac refuses the pair in use, and there is no other.
    KeyPairRefused,
    /// The pair in use, or the new one, is not verified.
    KeyPairUnverified,
    /// The source holds a pair that a restart could not use: refused, revoked, or half a pair.
    SourcePairUnusable,
    /// A revoked key version is not on disk yet.
    RevocationUnstored,
    /// A task that keeps an account's pairs current has failed, and was restarted.
    RotationFailed,
    /// A circuit breaker of an account is not closed.
    BreakerOpen,
    /// The last requests to Fastrac failed.
    UpstreamFailing,
}

impl DegradedReason {
    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One thing that does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degradation {
    pub reason: DegradedReason,
    /// For people: what, and of which account, listener or setting.
    pub text: String,
}

/// Faults of rooms that have no state from which they could be derived.
#[derive(Debug, Default)]
pub struct DegradedReports {
    /// By reason and subject.
    reported: Mutex<BTreeMap<(DegradedReason, String), String>>,
}

impl DegradedReports {
    /// Reports a fault of a subject (an account, a listener; empty: the gateway as a whole), or replaces its text.
    pub fn report(&self, reason: DegradedReason, subject: &str, text: impl Into<String>) {
        self.reported.lock().insert((reason, subject.to_owned()), text.into());
    }

    /// Withdraws a fault.
    pub fn withdraw(&self, reason: DegradedReason, subject: &str) {
        self.reported.lock().retain(|(known, of), _| (*known, of.as_str()) != (reason, subject));
    }

    /// What is reported at the moment.
    pub fn list(&self) -> Vec<Degradation> {
        let reported = self.reported.lock();
        reported.iter().map(|((reason, _), text)| Degradation { reason: *reason, text: text.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_until_it_is_withdrawn_for_its_subject() {
        let reports = DegradedReports::default();
        let texts = || reports.list().into_iter().map(|one| one.text).collect::<Vec<_>>();
        reports.report(DegradedReason::RotationFailed, "main", "a");
        reports.report(DegradedReason::RotationFailed, "main", "b");
        reports.report(DegradedReason::RotationFailed, "other", "c");
        reports.report(DegradedReason::AuditFailing, "", "d");
        assert_eq!(texts(), ["d", "b", "c"]);
        reports.withdraw(DegradedReason::RotationFailed, "main");
        reports.withdraw(DegradedReason::StoreFailing, "");
        assert_eq!(texts(), ["d", "c"]);
    }
}
