//! Ids of an order: booking id, air waybill, order code; determined by the seed and its number.
//!
//! What always holds: the same seed, number and day give the same ids; no two of [`WORDS`] consecutive orders share a
//! word; an air waybill contains its order's number, so finding an order needs no index.

use crate::{
    clock,
    random::{Purpose, draw, letters},
};

/// Number of five-letter words.
const WORDS: u64 = 26_u64.pow(5);

/// Range of the running number in an express air waybill; the digits above come from the seed.
const BLOCK: u64 = 10_u64.pow(10);

/// What an order's ids are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrderIds {
    /// From 1.
    pub number: u64,
    /// When it was placed, Unix milliseconds.
    pub at: i64,
    /// True: instant; false: express.
    pub instant: bool,
}

impl OrderIds {
    fn word(self, seed: u64) -> String {
        let first = draw(seed, Purpose::Letters, &[]) % WORDS;
        letters((first + self.number) % WORDS).map(char::from).iter().collect()
    }

    fn day(self) -> String {
        let day = clock::jakarta(self.at);
        format!("{:04}{:02}{:02}", day.year(), day.month(), day.day())
    }

    /// `FSTRA…` for express, `CO.FASTRAC-<date>-<n>-<word>` for instant.
    pub(crate) fn awb(self, seed: u64) -> String {
        if self.instant {
            return format!("CO.FASTRAC-{}-{}-{}", self.day(), self.number, self.word(seed));
        }
        let block = draw(seed, Purpose::Awb, &[]) % 1_000_000_000;
        format!("FSTRA{:019}", block * BLOCK + self.number)
    }

    /// `FSTR.CO-<date><word>`.
    pub(crate) fn booking_id(self, seed: u64) -> String {
        format!("FSTR.CO-{}{}", self.day(), self.word(seed))
    }

    /// `PSN-<short date><word>`: `kd_pesanan` in the balance history.
    pub(crate) fn code(self, seed: u64) -> String {
        format!("PSN-{}{}", self.day().get(2..).unwrap_or_default(), self.word(seed))
    }
}

/// The order number contained in an air waybill.
pub(crate) fn number_in(awb: &str) -> Option<u64> {
    match awb.strip_prefix("FSTRA") {
        Some(digits) => digits.parse::<u64>().ok().map(|number| number % BLOCK),
        None => awb.split('-').nth(2)?.parse().ok(),
    }
}
