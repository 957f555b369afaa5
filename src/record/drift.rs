//! How often stored responses had changed when they were fetched again, by operation, since the start.
//!
//! What always holds: each response that takes the place of a stored one is compared once; the counts survive reloads. A
//! lifetime is suggested from the times over which responses were observed, as if changes came at random. Never fails.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

/// Part of the stored responses that may have changed when the suggested lifetime is over.
const CHANGED_AT_END: f64 = 0.01;

/// The comparisons of all operations.
#[derive(Debug, Default)]
pub(super) struct DriftCounts(Mutex<BTreeMap<String, DriftTally>>);

/// A stored response, compared with the one that replaced it.
#[derive(Clone, Copy, Debug)]
pub struct ResponseComparison {
    /// Whether their data differ.
    pub changed: bool,
    /// Time between them.
    pub age: Duration,
}

/// The comparisons of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DriftTally {
    pub compared: u64,
    pub changed: u64,
    /// Sum of the times between the responses that were compared.
    pub observed: Duration,
}

impl DriftCounts {
    pub(super) fn add(&self, operation: &str, comparison: ResponseComparison) {
        let mut counts = self.0.lock();
        let tally = counts.entry(operation.to_owned()).or_default();
        tally.compared += 1;
        tally.changed += u64::from(comparison.changed);
        tally.observed = tally.observed.saturating_add(comparison.age);
    }

    pub(super) fn tallies(&self) -> BTreeMap<String, DriftTally> {
        self.0.lock().clone()
    }
}

impl DriftTally {
    /// How long a response could be fresh so that one in a hundred has changed at its end; `None`: none has changed yet.
    pub fn suggested_lifetime(&self) -> Option<Duration> {
        let each = self.observed.checked_div(u32::try_from(self.changed).ok()?)?;
        Some(each.mul_f64(-(1.0 - CHANGED_AT_END).ln()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifetime_follows_from_how_often_responses_change() {
        let (counts, day) = (DriftCounts::default(), Duration::from_secs(86_400));
        for number in 0..100 {
            counts.add("v2.city", ResponseComparison { changed: number == 0, age: day });
            counts.add("v2.province", ResponseComparison { changed: false, age: day });
        }
        let tallies = counts.tallies();
        let city = tallies["v2.city"];
        assert_eq!((city.compared, city.changed, city.observed), (100, 1, 100 * day));
        let hours = city.suggested_lifetime().unwrap().as_secs() / 3600;
        assert_eq!(hours, 24, "one change in a hundred days");
        assert_eq!(tallies["v2.province"].suggested_lifetime(), None);
    }
}
