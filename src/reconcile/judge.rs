//! What a balance history says of unknown orders: the rule. Pure; never fails.
//!
//! A wrong proposal is worse than none. So an order is proposed as executed only if one debit of its time belongs to a
//! shipment of its shipper and receiver, and nothing else can have caused that debit; as not executed only if each debit
//! of its time belongs to another order, another order's debit shows that the times are understood, long enough after Fastrac may still have been executing it. All else is
//! [`ProposedFinding::CannotTell`].

use std::collections::HashSet;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    history::HistoryRow,
    proposal::{FoundDebit, ProposedFinding},
};

/// How far the time of a debit may be from its order's, for clocks that differ, milliseconds.
const NEAR: i64 = 60_000;

/// How far around an order's time its debit is searched for before it is called not executed, milliseconds.
pub(super) const AROUND: i64 = 300_000;

/// How long after an order's time was up Fastrac may still execute it, milliseconds.
const STRAGGLE: i64 = 10_000;

/// An unknown order that buys a shipment.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) number: u64,
    /// When it came, milliseconds since 1970.
    pub(super) came: i64,
    /// When its time was up.
    pub(super) latest: i64,
    /// [`Parties::digest`](crate::orders::Parties::digest); `None`: it is not known from whom to whom.
    pub(super) parties: Option<String>,
    /// Its courier's code, if it is known.
    pub(super) courier: Option<String>,
}

impl Case {
    /// From when to when its debit may be.
    pub(super) fn window(&self) -> std::ops::RangeInclusive<i64> {
        self.came - AROUND..=self.latest + AROUND
    }
}

/// A debit of the history.
#[derive(Clone, Debug)]
pub(super) struct Debit {
    pub(super) row: HistoryRow,
    /// It belongs to an order whose outcome is known.
    pub(super) is_known: bool,
    /// A credit has the same code: it was given back.
    pub(super) is_refunded: bool,
    pub(super) shipment: Shipment,
}

/// What tracking said of a debit's shipment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shipment {
    /// It was not read, and need not be.
    NotNeeded,
    /// It could not be read so far.
    Unread,
    /// The row names no shipment that tracking knows with its parties.
    Nameless,
    Tracked {
        awb: String,
        parties: String,
        /// Its courier's code.
        courier: Option<String>,
        /// When its first event was, milliseconds since 1970.
        since: Option<i64>,
    },
}

impl Debit {
    fn parties(&self) -> Option<&str> {
        match &self.shipment {
            Shipment::Tracked { parties, .. } => Some(parties),
            _ => None,
        }
    }
}

/// An order that is not judged, but may have caused a debit that none of its ids explains: under way, settled, known
/// without ids.
#[derive(Clone, Debug)]
pub(super) struct OtherOrder {
    pub(super) came: i64,
    /// Until when its debit may be.
    pub(super) until: i64,
    pub(super) parties: Option<String>,
}

/// All that is known around some unknown orders.
#[derive(Debug, Default)]
pub(super) struct Scene {
    pub(super) cases: Vec<Case>,
    /// By time.
    pub(super) debits: Vec<Debit>,
    pub(super) others: Vec<OtherOrder>,
    /// From when on no order whose outcome is known is missing in `Debit::is_known`.
    pub(super) known_since: i64,
    /// When the reading began, milliseconds since 1970.
    pub(super) read_at: i64,
    /// Why tracking was not read to its end.
    pub(super) unread: Option<String>,
    /// For texts.
    pub(super) zone: Option<TimeZone>,
}

/// What is proposed of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) finding: ProposedFinding,
    pub(super) reason: String,
    pub(super) debit: Option<FoundDebit>,
    pub(super) is_whole: bool,
}

impl Judgement {
    pub(super) fn cannot_tell(reason: impl Into<String>) -> Self {
        Judgement { finding: ProposedFinding::CannotTell, reason: reason.into(), debit: None, is_whole: true }
    }
}

/// Judges each case; in the order of `scene.cases`.
pub(super) fn judge(scene: &Scene) -> Vec<Judgement> {
    let found: Vec<_> = scene.cases.iter().map(|case| scene.own_debit(case)).collect();
    let attributed: HashSet<usize> = found.iter().filter_map(|found| found.as_ref().ok().copied().flatten()).collect();
    let known = scene.debits.iter().any(|debit| debit.is_known);
    let is_calibrated = known || !attributed.is_empty();
    let claimed = scene.claimed();
    let judged = scene.cases.iter().zip(found).map(|(case, found)| match found {
        Ok(Some(index)) => scene.executed(&scene.debits[index]),
        Ok(None) => scene.not_executed(
            case,
            |index, debit| {
                // Its shipper and receiver are those of another order.
                let others = debit.parties().is_some_and(|parties| {
                    case.parties.as_deref().is_some_and(|own| own != parties) && claimed.contains(parties)
                });
                debit.is_known || attributed.contains(&index) || others
            },
            is_calibrated,
        ),
        Err(judgement) => judgement,
    });
    judged.collect()
}

impl Scene {
    /// Indexes of the debits in a stretch of time.
    fn within(&self, window: std::ops::RangeInclusive<i64>) -> std::ops::Range<usize> {
        let first = self.debits.partition_point(|debit| debit.row.at < *window.start());
        first..self.debits.partition_point(|debit| debit.row.at <= *window.end())
    }

    /// Parties of the orders that may have caused a debit.
    fn claimed(&self) -> HashSet<&str> {
        let cases = self.cases.iter().map(|case| &case.parties);
        cases.chain(self.others.iter().map(|other| &other.parties)).filter_map(Option::as_deref).collect()
    }

    /// The one debit that is certainly the case's; `None`: none is for its parties.
    fn own_debit(&self, case: &Case) -> Result<Option<usize>, Judgement> {
        let Some(own) = case.parties.as_deref() else { return Ok(None) };
        let window = self.within(case.window());
        let for_parties = |index: &usize| {
            let debit = &self.debits[*index];
            !debit.is_known && debit.parties() == Some(own)
        };
        let candidates: Vec<usize> = window.clone().filter(for_parties).collect();
        let &[index] = candidates.as_slice() else {
            if candidates.is_empty() {
                return Ok(None);
            }
            let debits = self.list(candidates.iter().copied());
            return Err(Judgement::cannot_tell(format!("several debits are for its shipper and receiver: {debits}")));
        };
        let debit = &self.debits[index];
        let found = Some(self.found(debit));
        let contradicted = |reason: String| Judgement { debit: found.clone(), ..Judgement::cannot_tell(reason) };
        let text = self.text(debit);
        if debit.is_refunded {
            return Err(contradicted(format!("its debit was given back: {text}")));
        }
        if !(case.came - NEAR..=case.latest + NEAR).contains(&debit.row.at) {
            return Err(contradicted(format!("a debit for its shipper and receiver is minutes away: {text}")));
        }
        if let Shipment::Tracked { courier, since, .. } = &debit.shipment {
            if let (Some(tracked), Some(ordered)) = (courier, &case.courier)
                && !tracked.eq_ignore_ascii_case(ordered)
            {
                return Err(contradicted(format!("the debit's shipment is of another courier: {text}")));
            }
            if since.is_some_and(|since| since < case.came - NEAR) {
                return Err(contradicted(format!("the debit's shipment is older than the order: {text}")));
            }
        }
        if self.has_rival(case, debit, own) {
            return Err(contradicted(format!("the debit may be that of another such order: {text}")));
        }
        // An order that caused it ended later than that, by either clock.
        if debit.row.at - NEAR < self.known_since {
            let reason = format!("the debit may be that of an order that the gateway no longer remembers: {text}");
            return Err(contradicted(reason));
        }
        match self.unread_in(window) {
            Some(judgement) => Err(judgement),
            None => Ok(Some(index)),
        }
    }

    /// Whether another order may have caused this debit.
    fn has_rival(&self, case: &Case, debit: &Debit, own: &str) -> bool {
        let may_be = |parties: &Option<String>| parties.as_deref().is_none_or(|parties| parties == own);
        let unknown = self.cases.iter().filter(|other| other.number != case.number && may_be(&other.parties));
        let mut others = self.others.iter().filter(|other| may_be(&other.parties));
        unknown.into_iter().any(|other| other.window().contains(&debit.row.at))
            || others.any(|other| other.came.saturating_sub(NEAR) <= debit.row.at && debit.row.at <= other.until)
    }

    fn executed(&self, debit: &Debit) -> Judgement {
        let reason =
            format!("a debit is for its shipper and receiver, and can be of no other order: {}", self.text(debit));
        let finding = ProposedFinding::Executed;
        Judgement { finding, reason, debit: Some(self.found(debit)), is_whole: true }
    }

    /// No debit is for its parties. `belongs`: whether a debit certainly belongs to another order.
    fn not_executed(&self, case: &Case, belongs: impl Fn(usize, &Debit) -> bool, is_calibrated: bool) -> Judgement {
        let doubtful = |index: &usize| !belongs(*index, &self.debits[*index]);
        let window = self.within(case.window());
        let count = window.len();
        let doubts: Vec<usize> = window.clone().filter(doubtful).collect();
        if let Some(judgement) = self.unread_in(window).filter(|_| !doubts.is_empty()) {
            return judgement;
        }
        let over = case.latest + STRAGGLE;
        if self.read_at < over {
            let over = self.time(over);
            let reason = format!("no debit so far, but Fastrac may execute it until {over}");
            return Judgement { is_whole: false, ..Judgement::cannot_tell(reason) };
        }
        if !doubts.is_empty() {
            let reason =
                format!("debits of that time belong to no order that the gateway knows: {}", self.list(doubts));
            return Judgement::cannot_tell(reason);
        }
        if !is_calibrated {
            let reason = "no debit is of that time, but no other order shows that the history's times are understood";
            return Judgement::cannot_tell(reason);
        }
        let reason = match count {
            0 => "the balance history has no debit of that time, and another order's debit is at its time".to_owned(),
            count => format!("each of the {count} debits of that time belongs to another order"),
        };
        Judgement { finding: ProposedFinding::NotExecuted, reason, debit: None, is_whole: true }
    }

    /// If tracking has not been read for all debits of a window.
    fn unread_in(&self, window: std::ops::Range<usize>) -> Option<Judgement> {
        let unread = self.debits[window].iter().filter(|debit| debit.shipment == Shipment::Unread).count();
        let why = self.unread.as_deref().unwrap_or("the reading is not over");
        let reason = format!("tracking of {unread} shipments of that time is still to be read: {why}");
        (unread > 0).then(|| Judgement { is_whole: false, ..Judgement::cannot_tell(reason) })
    }

    fn found(&self, debit: &Debit) -> FoundDebit {
        let awb = match &debit.shipment {
            Shipment::Tracked { awb, .. } => awb.clone(),
            _ => String::new(),
        };
        let at = Timestamp::from_millisecond(debit.row.at).unwrap_or(Timestamp::UNIX_EPOCH);
        FoundDebit { code: debit.row.code.clone(), awb, amount: debit.row.debit, at }
    }

    /// The first three.
    fn list(&self, debits: impl IntoIterator<Item = usize>) -> String {
        let all: Vec<_> = debits.into_iter().collect();
        let mut texts: Vec<_> = all.iter().take(3).map(|index| self.text(&self.debits[*index])).collect();
        if all.len() > 3 {
            texts.push(format!("{} more", all.len() - 3));
        }
        texts.join("; ")
    }

    fn text(&self, debit: &Debit) -> String {
        let FoundDebit { code, awb, amount, .. } = self.found(debit);
        let names: Vec<_> = [awb, code].into_iter().filter(|name| !name.is_empty()).collect();
        format!("{} of {amount} IDR at {}", names.join(" "), self.time(debit.row.at)).trim_start().to_owned()
    }

    fn time(&self, at: i64) -> String {
        let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
        let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
        at.to_zoned_datetime(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }
}

#[cfg(test)]
mod tests;
