//! Chance that is the same for the same seed.
//!
//! What always holds: a draw depends on the seed and on the words given, never on the order in
//! which draws are made, so an answer doesn't change because another request came first. The
//! algorithm is Wyrand (crate `fastrand` 2), one step for each word. Not for secrets.

/// What a draw is for: keeps draws for different things apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The price of a lane.
    Tariff = 1,
    /// The text of a `tariff_id`.
    Quote = 2,
    /// The number block of air waybills.
    Awb = 3,
    /// The letters of booking ids and order codes.
    Letters = 4,
    /// Which way an order takes.
    Branch = 5,
    /// How long its steps take.
    Pace = 6,
    /// Which webhook a rule meets.
    Webhook = 7,
    /// Whether a fault meets a request.
    Fault = 16,
    /// How long a fault waits.
    Delay = 17,
}

/// A number from the seed, the purpose and the words.
pub(crate) fn draw(seed: u64, purpose: Purpose, words: &[u64]) -> u64 {
    let first = fastrand::Rng::with_seed(seed ^ (purpose as u64).rotate_right(8)).u64(..);
    words.iter().fold(first, |state, word| fastrand::Rng::with_seed(state ^ word).u64(..))
}

/// A draw as a number from 0 to just below 1; 53 bits are what fits a double.
pub(crate) fn fraction(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1_u64 << 53) as f64
}

/// Five letters A to Z made from `number`.
pub(crate) fn letters(mut number: u64) -> [u8; 5] {
    std::array::from_fn(|_| {
        // Below 26, so it fits.
        let letter = (number % 26) as u8;
        number /= 26;
        b'A' + letter
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_purpose_and_words_alone() {
        let one = draw(1, Purpose::Tariff, &[7, 8]);
        assert_eq!(one, draw(1, Purpose::Tariff, &[7, 8]));
        for other in
            [draw(2, Purpose::Tariff, &[7, 8]), draw(1, Purpose::Quote, &[7, 8]), draw(1, Purpose::Tariff, &[8, 7])]
        {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn the_algorithm_is_pinned() {
        // A seed printed in somebody's test must mean the same tomorrow.
        assert_eq!(draw(1, Purpose::Awb, &[]), fastrand::Rng::with_seed(1 ^ (3 << 56)).u64(..));
        assert_eq!(&letters(0), b"AAAAA");
        assert_eq!(&letters(27), b"BBAAA");
    }
}
