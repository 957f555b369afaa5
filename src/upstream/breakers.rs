//! The circuit breakers of an account at its addresses: two for each class of operations, of calls that callers wait
//! for and of those that nobody waits for.
//!
//! What always holds: what happens to calls of one class neither stops nor permits those of another, so that failing
//! lookups do not stop orders; what happens to calls that nobody waits for neither stops nor permits one that a caller waits
//! for, and none of them is permitted while the callers' breaker is open. While that is half-open they are, without one of its
//! probes: where nobody calls, nothing else would find out that Fastrac has recovered. Reports show the callers' breakers.
//! Must not know requests. Never fails.

use strum::VariantArray as _;

use super::breaker::{Breaker, BreakerPermit, State};
use crate::config::{BreakerConfig, Class};

/// By class, in the order of [`Class::VARIANTS`].
#[derive(Debug)]
pub struct Breakers(Box<[ClassBreakers]>);

#[derive(Debug)]
struct ClassBreakers {
    /// Of calls that callers wait for.
    callers: Breaker,
    /// Of calls that nobody waits for.
    unawaited: Breaker,
}

impl Breakers {
    /// Closed breakers of the account with this name.
    pub fn new(account: &str, rules: &BreakerConfig) -> Self {
        let unawaited = "circuit breaker of refreshes and walks";
        let of_class = |class: &Class| ClassBreakers {
            callers: Breaker::new(account, *class, rules),
            unawaited: Breaker::named(unawaited, account, *class, rules),
        };
        Breakers(Class::VARIANTS.iter().map(of_class).collect())
    }

    /// That of callers, for a class.
    pub fn of(&self, class: Class) -> &Breaker {
        &self.0[class as usize].callers
    }

    /// Whether a call of this class that nobody waits for would be permitted now. Takes no probe.
    pub(crate) fn permits_unawaited(&self, class: Class) -> bool {
        let ClassBreakers { callers, unawaited } = &self.0[class as usize];
        callers.state() != State::Open && unawaited.check(true).is_ok()
    }

    /// Permits one call of this class that nobody waits for, which is to be sent at once.
    pub(crate) fn admit_unawaited(&self, class: Class) -> Option<BreakerPermit> {
        let ClassBreakers { callers, unawaited } = &self.0[class as usize];
        (callers.state() != State::Open).then(|| unawaited.admit(true).ok()).flatten()
    }

    /// Those of callers.
    pub fn each(&self) -> impl Iterator<Item = &Breaker> {
        self.0.iter().map(|of_class| &of_class.callers)
    }

    /// Takes new rules; the states are kept.
    pub fn reconfigure(&self, rules: &BreakerConfig) {
        self.all().for_each(|breaker| breaker.reconfigure(rules));
    }

    /// Closed ones of the same account at other addresses.
    pub(crate) fn elsewhere(&self, rules: &BreakerConfig) -> Self {
        let of_class = |ClassBreakers { callers, unawaited }: &ClassBreakers| ClassBreakers {
            callers: callers.elsewhere(rules),
            unawaited: unawaited.elsewhere(rules),
        };
        Breakers(self.0.iter().map(of_class).collect())
    }

    /// The account is not called at their addresses any more.
    pub(crate) fn leave(&self) {
        self.all().for_each(Breaker::leave);
    }

    fn all(&self) -> impl Iterator<Item = &Breaker> {
        self.0.iter().flat_map(|of_class| [&of_class.callers, &of_class.unawaited])
    }

    /// The state of the callers' one that is farthest from closed.
    pub fn worst(&self) -> State {
        self.each().map(Breaker::state).max().unwrap_or(State::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const OPEN: Duration = Duration::from_secs(5);
    const RULES: BreakerConfig =
        BreakerConfig { window: OPEN, minimum: 1, failures: 0.5, open: OPEN, probes: 1, slow: None };

    #[tokio::test(start_paused = true)]
    async fn a_failing_class_stops_no_other() {
        for failing in Class::VARIANTS {
            let breakers = Breakers::new("main", &RULES);
            breakers.of(*failing).admit(true).unwrap().failure();
            assert_eq!(breakers.worst(), State::Open);
            for class in Class::VARIANTS {
                assert_eq!(breakers.of(*class).class(), *class);
                assert_eq!(breakers.of(*class).admit(true).is_err(), class == failing, "{class:?} {failing:?}");
                assert_eq!(breakers.permits_unawaited(*class), class != failing, "{class:?} {failing:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_nobody_waits_for_stop_only_what_nobody_waits_for() {
        let (breakers, class) = (Breakers::new("main", &RULES), Class::Lookup);
        let permitted = || (breakers.permits_unawaited(class), breakers.admit_unawaited(class).is_some());
        breakers.admit_unawaited(class).unwrap().failure();
        assert_eq!((permitted(), breakers.worst()), ((false, false), State::Closed));
        assert_eq!(breakers.of(class).failures_in_a_row(), 0);
        assert!(breakers.permits_unawaited(Class::Quote));
        // Nor does a caller's success end it.
        breakers.of(class).admit(true).unwrap().success();
        assert_eq!(permitted(), (false, false));
        advance(OPEN).await;
        let probe = breakers.admit_unawaited(class).unwrap();
        assert_eq!(permitted(), (false, false), "there is one probe");
        probe.success();
        assert_eq!(permitted(), (true, true));
        breakers.reconfigure(&BreakerConfig { minimum: 2, ..RULES });
        breakers.admit_unawaited(class).unwrap().failure();
        assert_eq!(permitted(), (true, true), "the new minimum");
        breakers.admit_unawaited(class).unwrap().failure();
        assert_eq!(permitted(), (false, false));
        assert!(breakers.elsewhere(&RULES).admit_unawaited(class).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_takes_no_probe_of_callers_and_waits_while_theirs_is_open() {
        let (breakers, class) = (Breakers::new("main", &RULES), Class::Lookup);
        let late = breakers.admit_unawaited(class).unwrap();
        breakers.of(class).admit(true).unwrap().failure();
        assert!(breakers.admit_unawaited(class).is_none());
        advance(OPEN).await;
        assert!(breakers.permits_unawaited(class));
        late.success();
        breakers.admit_unawaited(class).unwrap().success();
        assert_eq!(breakers.of(class).state(), State::HalfOpen);
        let probe = breakers.of(class).admit(true).expect("the probe is there");
        (0..2).for_each(|_| breakers.admit_unawaited(class).unwrap().failure());
        assert!(!breakers.permits_unawaited(class), "their own is open");
        probe.success();
        assert_eq!(breakers.of(class).state(), State::Closed);
    }
}
