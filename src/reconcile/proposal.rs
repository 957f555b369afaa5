//! What is proposed of an unknown order, and when a newer proposal takes its place. Data; never fails.

use std::time::Duration;

use jiff::Timestamp;

/// What evidence says of an unknown order. Only an operator decides (`orders settle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposedFinding {
    Executed,
    NotExecuted,
    CannotTell,
}

impl ProposedFinding {
    /// As `/orders/ID` and the command line show it; the first two are also what an order is settled as.
    pub fn as_str(self) -> &'static str {
        match self {
            ProposedFinding::Executed => "executed",
            ProposedFinding::NotExecuted => "not-executed",
            ProposedFinding::CannotTell => "cannot-tell",
        }
    }
}

/// The debit of an order in the balance history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDebit {
    /// Fastrac's order code (`kd_pesanan`); may be empty.
    pub code: String,
    pub awb: String,
    /// IDR.
    pub amount: u64,
    pub at: Timestamp,
}

/// A proposal, and what it is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub finding: ProposedFinding,
    /// The evidence, or why there is none.
    pub reason: String,
    /// Of [`ProposedFinding::Executed`] by a debit.
    pub debit: Option<FoundDebit>,
    pub made_at: Timestamp,
    /// How long the order had been unknown then, in time in which the gateway ran.
    pub(super) age: Duration,
    /// Whether everything could be read that it needs.
    pub(super) is_whole: bool,
}

/// How long after a reading that was not whole the background reads again.
const AGAIN: Duration = Duration::from_secs(60);

/// When the background reads of an order, as multiples of `orders.reconcile`: a debit may come late.
const READINGS: [u32; 3] = [1, 5, 30];

impl Proposal {
    /// Whether this one is shown instead of `before`. A debit that was found stays found; other orders of the history
    /// are forgotten with time, so a later reading may know less.
    pub(super) fn replaces(&self, before: &Proposal) -> bool {
        match (before.finding, self.finding) {
            (ProposedFinding::CannotTell, _) | (ProposedFinding::NotExecuted, ProposedFinding::Executed) => true,
            (ProposedFinding::NotExecuted, ProposedFinding::CannotTell) => self.debit.is_some(),
            (_, now) => before.finding == now,
        }
    }
}

/// Whether the background is to read of an order that has been unknown for `age`. `after`: `orders.reconcile`.
pub(super) fn is_due(last: Option<&Proposal>, age: Duration, after: Duration) -> bool {
    let Some(last) = last else { return age >= after };
    if last.finding == ProposedFinding::Executed {
        return false;
    }
    let unread = !last.is_whole && age >= after && age >= last.age + AGAIN;
    unread || READINGS.iter().map(|times| after * *times).any(|mark| last.age < mark && mark <= age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(finding: ProposedFinding, age: u64) -> Proposal {
        let age = Duration::from_secs(age);
        Proposal { finding, reason: String::new(), debit: None, made_at: Timestamp::UNIX_EPOCH, age, is_whole: true }
    }

    #[test]
    fn the_background_reads_at_a_few_ages_and_soon_again_what_it_could_not_read() {
        let due = |last: Option<&Proposal>, age| is_due(last, Duration::from_secs(age), Duration::from_secs(120));
        assert!(!due(None, 119) && due(None, 120));
        let early = proposal(ProposedFinding::CannotTell, 5);
        assert!(!due(Some(&early), 119) && due(Some(&early), 120), "shown before");
        let first = proposal(ProposedFinding::NotExecuted, 121);
        assert!(!due(Some(&first), 599) && due(Some(&first), 600));
        assert!(!due(Some(&proposal(ProposedFinding::Executed, 121)), 600));
        assert!(!due(Some(&proposal(ProposedFinding::CannotTell, 3_601)), 1_000_000));
        let unread = Proposal { is_whole: false, ..proposal(ProposedFinding::CannotTell, 121) };
        assert!(!due(Some(&unread), 180) && due(Some(&unread), 181));
    }

    #[test]
    fn what_was_found_stays_found() {
        use ProposedFinding::{CannotTell, Executed, NotExecuted};
        let replaces = |now, before| proposal(now, 2).replaces(&proposal(before, 1));
        for (now, before) in [(Executed, NotExecuted), (Executed, CannotTell), (NotExecuted, CannotTell)] {
            assert!(replaces(now, before), "{now:?} after {before:?}");
            assert!(!replaces(before, now), "{before:?} after {now:?}");
        }
        assert!(replaces(NotExecuted, NotExecuted));
        let debit = FoundDebit { code: String::new(), awb: "A".into(), amount: 1, at: Timestamp::UNIX_EPOCH };
        let contradicted = Proposal { debit: Some(debit), ..proposal(CannotTell, 2) };
        assert!(contradicted.replaces(&proposal(NotExecuted, 1)) && !contradicted.replaces(&proposal(Executed, 1)));
    }
}
