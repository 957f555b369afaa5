//! Random numbers that are the same for the same seed.
//!
//! What always holds: a draw depends on the seed, the purpose and the words only, never on the order in which draws
//! are made, so a response does not change because another request came first. The algorithm is Wyrand (crate
//! `fastrand` 2), one step for each word. Not for secrets.

/// What a draw is for; draws for different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The surcharge of a lane.
    Tariff = 1,
    /// The text of a `tariff_id`.
    Quote = 2,
    /// The block of numbers of air waybills.
    Awb = 3,
    /// The letters of booking ids and order codes.
    Letters = 4,
    /// The branch of an order.
    Branch = 5,
    /// How long the steps of an order take.
    Pace = 6,
    /// Whether a rule applies to a webhook.
    Webhook = 7,
    /// Whether a fault applies to a request.
    Fault = 16,
    /// How long a fault delays a request.
    Delay = 17,
}

/// A number determined by the seed, the purpose and the words.
pub(crate) fn draw(seed: u64, purpose: Purpose, words: &[u64]) -> u64 {
    let first = fastrand::Rng::with_seed(seed ^ (purpose as u64).rotate_right(8)).u64(..);
    words.iter().fold(first, |state, word| fastrand::Rng::with_seed(state ^ word).u64(..))
}

/// A draw as a number from 0 (inclusive) to 1 (exclusive), with the 53 bits that a double holds.
pub(crate) fn fraction(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1_u64 << 53) as f64
}

/// Five letters A to Z, determined by `number`.
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
        // A seed in a user's test must give the same numbers in every version.
        assert_eq!(draw(1, Purpose::Awb, &[]), fastrand::Rng::with_seed(1 ^ (3 << 56)).u64(..));
        assert_eq!(&letters(0), b"AAAAA");
        assert_eq!(&letters(27), b"BBAAA");
    }
}
