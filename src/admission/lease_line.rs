//! Who waits for a lease or a mark, in the order of their arrival.
//!
//! Always holds: only the first is woken when something is granted, and the next one when the first has left, so that a
//! grant costs as much with one waiter as with ten thousand. A value without a lock. Never fails.

use std::{collections::BTreeMap, task::Waker};

use super::lease::Level;

/// Those that wait for one level. A waiter that has not been polled yet has no waker.
#[derive(Debug, Default)]
struct LeaseLine(BTreeMap<u64, Option<Waker>>);

/// The lines of a counter.
#[derive(Debug, Default)]
pub(super) struct LeaseLines {
    lease: LeaseLine,
    mark: LeaseLine,
    /// Number of the last arrival.
    arrivals: u64,
}

/// A place in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinePlace {
    pub(super) level: Level,
    number: u64,
}

impl LeaseLines {
    fn line(&mut self, level: Level) -> &mut LeaseLine {
        match level {
            Level::Lease => &mut self.lease,
            Level::Mark => &mut self.mark,
        }
    }

    pub(super) fn is_empty(&mut self, level: Level) -> bool {
        self.line(level).0.is_empty()
    }

    pub(super) fn enter(&mut self, level: Level) -> LinePlace {
        self.arrivals += 1;
        let number = self.arrivals;
        self.line(level).0.insert(number, None);
        LinePlace { level, number }
    }

    /// Whether the place is the first of its line. It is woken when it may be, or when something is granted then.
    pub(super) fn is_first(&mut self, place: LinePlace, waker: &Waker) -> bool {
        let line = &mut self.line(place.level).0;
        if let Some(known) = line.get_mut(&place.number)
            && !known.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            *known = Some(waker.clone());
        }
        line.first_key_value().is_some_and(|(first, _)| *first == place.number)
    }

    /// The first of a line.
    pub(super) fn first(&mut self, level: Level) -> Option<Waker> {
        self.line(level).0.first_key_value().and_then(|(_, waker)| waker.clone())
    }

    /// Gives the place up. Returns who is the first of the line now.
    pub(super) fn leave(&mut self, place: LinePlace) -> Option<Waker> {
        let line = &mut self.line(place.level).0;
        let was_first = line.first_key_value().is_some_and(|(first, _)| *first == place.number);
        line.remove(&place.number);
        if was_first { self.first(place.level) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_is_woken_at_a_time_and_each_that_leaves_wakes_the_next() {
        let mut lines = LeaseLines::default();
        let woken: Vec<Arc<Woken>> = (0..4).map(|_| Arc::default()).collect();
        let wakers: Vec<Waker> = woken.iter().map(|woken| woken.clone().into()).collect();
        let places: Vec<LinePlace> = (0..4).map(|_| lines.enter(Level::Mark)).collect();
        assert!(lines.first(Level::Mark).is_none(), "none was polled");
        let first: Vec<bool> = places.iter().zip(&wakers).map(|(at, waker)| lines.is_first(*at, waker)).collect();
        assert_eq!(first, [true, false, false, false]);
        let counts = || woken.iter().map(|woken| woken.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        lines.first(Level::Mark).unwrap().wake();
        assert_eq!(counts(), [1, 0, 0, 0]);
        // One in the middle leaves; then the first.
        assert!(lines.leave(places[1]).is_none());
        lines.leave(places[0]).unwrap().wake();
        assert_eq!(counts(), [1, 0, 1, 0]);
        assert!(lines.is_first(places[2], &wakers[2]) && !lines.is_first(places[3], &wakers[3]));
        assert!(lines.is_empty(Level::Lease) && !lines.is_empty(Level::Mark));
        lines.leave(places[2]).unwrap().wake();
        assert!(lines.leave(places[3]).is_none() && lines.is_empty(Level::Mark));
        assert_eq!(counts(), [1, 0, 1, 1]);
    }
}
