//! The circuit breakers of an account: one for each class of operations.
//!
//! What always holds: what happens to calls of one class neither stops nor permits those of another, so that failing
//! lookups do not stop orders. Must not know requests. Never fails.

use strum::VariantArray as _;

use super::breaker::{Breaker, State};
use crate::config::{BreakerConfig, Class};

/// By class, in the order of [`Class::VARIANTS`].
#[derive(Debug)]
pub struct Breakers(Box<[Breaker]>);

impl Breakers {
    /// Closed breakers of the account with this name.
    pub fn new(account: &str, rules: &BreakerConfig) -> Self {
        Breakers(Class::VARIANTS.iter().map(|class| Breaker::new(account, *class, rules)).collect())
    }

    /// That of a class.
    pub fn of(&self, class: Class) -> &Breaker {
        &self.0[class as usize]
    }

    /// All of them.
    pub fn each(&self) -> impl Iterator<Item = &Breaker> {
        self.0.iter()
    }

    /// Takes new rules; the states are kept.
    pub fn reconfigure(&self, rules: &BreakerConfig) {
        self.each().for_each(|breaker| breaker.reconfigure(rules));
    }

    /// The state of the one that is farthest from closed.
    pub fn worst(&self) -> State {
        self.each().map(Breaker::state).max().unwrap_or(State::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_class_stops_no_other() {
        let open = Duration::from_secs(5);
        let rules = BreakerConfig { window: open, minimum: 1, failures: 0.5, open, probes: 1, slow: None };
        for failing in Class::VARIANTS {
            let breakers = Breakers::new("main", &rules);
            breakers.of(*failing).admit(true).unwrap().failure();
            assert_eq!(breakers.worst(), State::Open);
            for class in Class::VARIANTS {
                assert_eq!(breakers.of(*class).class(), *class);
                assert_eq!(breakers.of(*class).admit(true).is_err(), class == failing, "{class:?} {failing:?}");
            }
        }
    }
}
