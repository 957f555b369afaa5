//! Random delays.
//!
//! What always holds: the same draw gives the same delay; no delay is longer than [`MAX_DELAY`].

use serde::{Deserialize, Serialize};

use crate::random;

/// Longest delay, in milliseconds: a day.
pub(super) const MAX_DELAY: u64 = 86_400_000;

/// A distribution of delays, in milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DelayDistribution {
    /// Uniform from `least` to `most`.
    Uniform {
        /// Minimum.
        least: u64,
        /// Maximum.
        most: u64,
    },
    /// Exponential, cut off at `most`.
    Exponential {
        /// Mean before the cut-off.
        mean: u64,
        /// Maximum.
        most: u64,
    },
    /// `[[50, 20], [99, 400]]`: half of the delays are at most 20, 99 of 100 at most 400. Linear in between, starting
    /// at 0; beyond the last point the delay is that of the last point.
    Percentiles(Vec<(f64, u64)>),
}

impl DelayDistribution {
    /// The delay for a draw.
    pub fn millis(&self, draw: u64) -> u64 {
        let fraction = random::fraction(draw);
        let millis = match self {
            DelayDistribution::Uniform { least, most } => *least as f64 + fraction * (most - least) as f64,
            DelayDistribution::Exponential { mean, most } => (-(1.0 - fraction).ln() * *mean as f64).min(*most as f64),
            DelayDistribution::Percentiles(points) => between(points, fraction * 100.0),
        };
        (millis.round() as u64).min(MAX_DELAY)
    }

    /// Checks that delays can be drawn.
    ///
    /// # Errors
    /// If the parameters are not a distribution.
    pub fn check(&self) -> Result<(), String> {
        match self {
            DelayDistribution::Uniform { least, most } if least > most => {
                Err("uniform: least is above most".to_owned())
            }
            DelayDistribution::Uniform { most, .. } | DelayDistribution::Exponential { most, .. }
                if *most > MAX_DELAY =>
            {
                Err(format!("most: at most {MAX_DELAY}"))
            }
            DelayDistribution::Percentiles(points) => {
                let in_range =
                    points.iter().all(|(percent, millis)| (0.0..=100.0).contains(percent) && *millis <= MAX_DELAY);
                let rising = points.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
                let good = !points.is_empty() && in_range && rising;
                if good { Ok(()) } else { Err("percentiles: pairs of percent and milliseconds that rise".to_owned()) }
            }
            _ => Ok(()),
        }
    }
}

fn between(points: &[(f64, u64)], percent: f64) -> f64 {
    let (mut low, mut shortest) = (0.0, 0.0);
    for (high, millis) in points {
        let longest = *millis as f64;
        if percent <= *high {
            return shortest + (longest - shortest) * (percent - low) / (high - low).max(f64::MIN_POSITIVE);
        }
        (low, shortest) = (*high, longest);
    }
    shortest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Draws spread evenly.
    fn waits(spread: &DelayDistribution) -> Vec<u64> {
        (0..1_000_u64).map(|n| spread.millis(n * (u64::MAX / 1_000))).collect()
    }

    #[test]
    fn each_has_the_shape_that_it_names() {
        let uniform = waits(&DelayDistribution::Uniform { least: 10, most: 30 });
        assert_eq!((uniform[0], uniform[500], uniform[999]), (10, 20, 30));
        let exponential = waits(&DelayDistribution::Exponential { mean: 100, most: 400 });
        let sum: u64 = exponential.iter().sum();
        assert!((90_000..102_000).contains(&sum), "{sum}");
        assert_eq!((exponential[0], exponential[500], exponential[999]), (0, 69, 400));
        let percentiles = waits(&DelayDistribution::Percentiles(vec![(50.0, 20), (99.0, 400)]));
        assert_eq!((percentiles[0], percentiles[250], percentiles[500]), (0, 10, 20));
        assert_eq!((percentiles[990], percentiles[999]), (400, 400));
    }

    #[test]
    fn a_spread_without_a_shape_is_refused() {
        for wrong in [
            DelayDistribution::Uniform { least: 2, most: 1 },
            DelayDistribution::Exponential { mean: 1, most: MAX_DELAY + 1 },
            DelayDistribution::Percentiles(Vec::new()),
            DelayDistribution::Percentiles(vec![(101.0, 1)]),
            DelayDistribution::Percentiles(vec![(f64::NAN, 1)]),
            DelayDistribution::Percentiles(vec![(50.0, 2), (99.0, 1)]),
            DelayDistribution::Percentiles(vec![(99.0, 1), (50.0, 2)]),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_later_draw_never_waits_shorter(one in any::<u64>(), other in any::<u64>()) {
            for spread in [
                DelayDistribution::Uniform { least: 3, most: 900 },
                DelayDistribution::Exponential { mean: 50, most: 1_000 },
                DelayDistribution::Percentiles(vec![(0.0, 1), (10.0, 4), (100.0, 70)]),
            ] {
                prop_assert_eq!(spread.check(), Ok(()));
                prop_assert!(spread.millis(one.min(other)) <= spread.millis(one.max(other)));
            }
        }
    }
}
