//! A stored order: small, because a million of them are kept.
//!
//! What always holds: an order takes about 120 bytes, plus its names and addresses in one allocation; each of those
//! four texts is cut at a character boundary to at most [`MAX_TEXT`] bytes.

use std::fmt;

use super::{
    ids::OrderIds,
    steps::{Branch, MAX_STEPS, OrderFlow, Step},
};
use crate::couriers::{self, Courier, Etd, Minutes};

/// Maximum length of a stored name or address, in bytes: its length is stored in one byte.
pub(super) const MAX_TEXT: usize = 255;

/// `due` of an order without a scheduled step.
pub(super) const NEVER: i64 = i64::MAX;

#[derive(Debug)]
pub(super) struct Order {
    pub(super) number: u64,
    /// When it was placed, Unix milliseconds.
    pub(super) at: i64,
    /// When its next step is due, Unix milliseconds; [`NEVER`]: none is scheduled.
    pub(super) due: i64,
    /// Debited from the wallet, IDR.
    pub(super) charge: u64,
    /// Credited on delivery (COD), IDR; 0: no COD.
    pub(super) proceeds: u64,
    pub(super) parties: Parties,
    pub(super) history: StepHistory,
    courier: u8,
    /// Position in the courier's list of services of its kind.
    service: u8,
    pub(super) instant: bool,
    pub(super) pickup: bool,
    pub(super) branch: Branch,
}

/// Parameters of a new order.
pub(super) struct NewOrder {
    pub(super) number: u64,
    pub(super) at: i64,
    pub(super) charge: u64,
    pub(super) proceeds: u64,
    pub(super) parties: Parties,
    pub(super) courier: &'static Courier,
    pub(super) service: &'static str,
    pub(super) flow: OrderFlow,
}

/// Name and address of shipper and receiver: four texts, each preceded by its length.
#[derive(Clone)]
pub(super) struct Parties(Box<[u8]>);

/// The newest steps, with their times in seconds after the order was placed.
#[derive(Clone, Debug, Default)]
pub(super) struct StepHistory {
    after: [u32; MAX_STEPS],
    steps: [u8; MAX_STEPS],
    made: u8,
}

impl Order {
    pub(super) fn new(birth: NewOrder) -> Self {
        let couriers = couriers::all();
        let courier = couriers.iter().position(|known| known.code == birth.courier.code).unwrap_or(0);
        let service = match birth.flow.instant {
            true => birth.courier.instant.iter().position(|known| known.name == birth.service),
            false => birth.courier.express.iter().position(|known| known.name == birth.service),
        };
        Order {
            number: birth.number,
            at: birth.at,
            due: NEVER,
            charge: birth.charge,
            proceeds: birth.proceeds,
            parties: birth.parties,
            history: StepHistory::default(),
            // There are a handful of each, so they fit.
            courier: courier as u8,
            service: service.unwrap_or(0) as u8,
            instant: birth.flow.instant,
            pickup: birth.flow.pickup,
            branch: birth.flow.branch,
        }
    }

    pub(super) fn courier(&self) -> &'static Courier {
        &couriers::all()[usize::from(self.courier)]
    }

    /// The chosen service's name and time of delivery.
    fn chosen(&self) -> (&'static str, Etd) {
        let (courier, position) = (self.courier(), usize::from(self.service));
        match self.instant {
            true => {
                courier.instant.get(position).map_or(("-", Etd::hours(1, 2)), |service| (service.name, service.etd))
            }
            false => {
                courier.express.get(position).map_or(("-", Etd::days(1, 2)), |service| (service.name, service.etd))
            }
        }
    }

    pub(super) fn service(&self) -> &'static str {
        self.chosen().0
    }

    pub(super) fn etd(&self) -> Minutes {
        self.chosen().1.minutes()
    }

    pub(super) fn flow(&self) -> OrderFlow {
        OrderFlow { instant: self.instant, pickup: self.pickup, branch: self.branch }
    }

    pub(super) fn ids(&self) -> OrderIds {
        OrderIds { number: self.number, at: self.at, instant: self.instant }
    }

    /// Bytes allocated in addition to the order itself.
    pub(super) fn heap(&self) -> usize {
        self.parties.0.len()
    }
}

impl Parties {
    /// Texts: shipper's name and address, receiver's name and address.
    pub(super) fn new(texts: [&str; 4]) -> Self {
        let texts = texts.map(cut);
        let mut all = Vec::with_capacity(texts.iter().map(|text| text.len() + 1).sum());
        for text in texts {
            // `cut` limits it to one byte.
            all.push(text.len() as u8);
            all.extend_from_slice(text.as_bytes());
        }
        Parties(all.into())
    }

    pub(super) fn texts(&self) -> [&str; 4] {
        let mut rest = &self.0[..];
        std::array::from_fn(|_| {
            let (length, after) = rest.split_first().unwrap_or((&0, &[]));
            let (text, after) = after.split_at_checked(usize::from(*length)).unwrap_or((after, &[]));
            rest = after;
            std::str::from_utf8(text).unwrap_or_default()
        })
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

impl StepHistory {
    /// Adds a step `after` milliseconds. A full history forgets its oldest step.
    pub(super) fn push(&mut self, after: i64, step: Step) {
        let mut place = usize::from(self.made);
        if place == MAX_STEPS {
            self.after.rotate_left(1);
            self.steps.rotate_left(1);
            place -= 1;
        } else {
            self.made += 1;
        }
        self.after[place] = u32::try_from(after / 1_000).unwrap_or(if after < 0 { 0 } else { u32::MAX });
        self.steps[place] = step as u8;
    }

    /// The steps (oldest first) and how many of them are valid.
    pub(super) fn steps(&self) -> ([Step; MAX_STEPS], usize) {
        (self.steps.map(|number| Step::ALL[usize::from(number)]), usize::from(self.made))
    }

    pub(super) fn last(&self) -> Step {
        let place = usize::from(self.made).saturating_sub(1);
        Step::ALL[usize::from(self.steps[place])]
    }

    /// Milliseconds after the order was placed, and the step; oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (i64, Step)> + '_ {
        let made = usize::from(self.made);
        self.after[..made]
            .iter()
            .zip(&self.steps[..made])
            .map(|(after, step)| (i64::from(*after) * 1_000, Step::ALL[usize::from(*step)]))
    }
}

impl fmt::Debug for Parties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[parties]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_order_is_small() {
        assert!(size_of::<Order>() <= 136, "{}", size_of::<Order>());
    }

    #[test]
    fn a_full_trail_forgets_the_oldest() {
        let mut trail = StepHistory::default();
        for step in 0..20 {
            trail.push(step * 1_000, Step::ALL[step as usize % 17]);
        }
        let kept: Vec<i64> = trail.iter().map(|(after, _)| after / 1_000).collect();
        assert_eq!(kept, (8..20).collect::<Vec<_>>());
        assert_eq!(trail.last(), Step::ALL[2]);
    }

    proptest! {
        #[test]
        fn people_come_back_as_they_went_in_up_to_the_bound(texts: [String; 4]) {
            let refs = [&*texts[0], &*texts[1], &*texts[2], &*texts[3]];
            let parties = Parties::new(refs);
            for (came, was) in parties.texts().into_iter().zip(refs) {
                prop_assert!(was.starts_with(came));
                prop_assert!(came == was || came.len() > MAX_TEXT - 4);
            }
        }
    }
}
