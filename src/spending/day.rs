//! The current date in an account's zone. Never fails.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use parking_lot::Mutex;

/// The day of an account: its date is computed when it changes, in either direction.
#[derive(Debug, Default)]
pub(super) struct AccountDay(Mutex<KnownDay>);

#[derive(Debug)]
struct KnownDay {
    /// Absent until the account is configured; UTC until then.
    zone: Option<TimeZone>,
    date: Date,
    /// First and last second of that date, since 1970.
    begins: i64,
    ends: i64,
}

impl Default for KnownDay {
    fn default() -> Self {
        KnownDay { zone: None, date: Date::ZERO, begins: 1, ends: 0 }
    }
}

/// A change of the zone that has changed the date or may have: the dates before and after it.
pub(super) struct MovedDay {
    pub(super) from: Date,
    pub(super) to: Date,
}

impl AccountDay {
    /// Changes the zone. `Some`: the account is at another date now.
    pub(super) fn set_zone(&self, zone: &TimeZone) -> Option<MovedDay> {
        let now = Timestamp::now();
        let mut day = self.0.lock();
        if day.zone.as_ref() == Some(zone) {
            return None;
        }
        let from = day.zone.is_some().then(|| day.at(now));
        day.zone = Some(zone.clone());
        day.forget();
        let to = day.at(now);
        from.filter(|from| *from != to).map(|from| MovedDay { from, to })
    }

    pub(super) fn today(&self) -> Date {
        self.0.lock().at(Timestamp::now())
    }
}

impl KnownDay {
    fn at(&mut self, now: Timestamp) -> Date {
        if !(self.begins..=self.ends).contains(&now.as_second()) {
            let at = now.to_zoned_datetime(self.zone.clone().unwrap_or(TimeZone::UTC));
            self.date = at.date();
            let begins = at.start_of_day().map(|start| start.timestamp().as_second());
            let next = at.tomorrow().and_then(|next| next.start_of_day()).map(|next| next.timestamp().as_second());
            // Without bounds, at the ends of the calendar, it is computed each time.
            (self.begins, self.ends) = begins.and_then(|begins| Ok((begins, next? - 1))).unwrap_or((1, 0));
        }
        self.date
    }

    fn forget(&mut self) {
        (self.begins, self.ends) = (1, 0);
    }
}
