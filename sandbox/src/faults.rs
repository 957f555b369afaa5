//! Misbehaviour on request.
//!
//! What always holds: the first fault that is due for a request (in the order of adding) meets it, at
//! most one does, and it is used up after its count. Chance is drawn from the seed, the fault's
//! number and how many requests matched it so far, so a run can be repeated. A fault only changes how
//! an answer is given or whether the request is executed; what was executed is always in the journal.

mod act;
mod distribution;

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use act::{Act, CannedEnvelope, CannedResponse, TlsFailure};
pub(crate) use act::{LONGEST_UPLOAD, pad, page};
pub use distribution::DelayDistribution;

use super::{
    random::{self, Purpose},
    route::{Operation, Routes},
    when::When,
};

/// Faults that are used up and still shown.
const SPENT: usize = 100;

/// Which requests are met, when, how often, and by what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Name of an operation, such as `v2.order_express`; absent: any, unlisted requests too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Path as received, without query; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Label of a key pair; absent: any, also none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many requests it meets; absent: all until it is cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Which part of the matching requests it meets, 0 to 1; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Meets every n-th of the matching requests; absent: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// When it begins; absent: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<When>,
    /// When it ends (that instant is no longer met); absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    /// Milliseconds to wait before anything is executed.
    pub wait_ms: u64,
    /// A distribution of further waiting there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<DelayDistribution>,
    /// Milliseconds to wait after execution, before the answer.
    pub delay_ms: u64,
    /// A distribution of further waiting there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelayDistribution>,
    /// Milliseconds by which `Date` and `timestamp` of the answer are ahead of the clock, or behind it.
    pub skew_ms: i64,
    /// What happens.
    pub act: Act,
}

/// A request, as far as faults look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestSummary<'a> {
    /// The operation asked for, if one is served there.
    pub operation: Option<Operation>,
    /// Its path, without query.
    pub path: &'a str,
    /// The label of its key pair, if a good one.
    pub key: Option<&'a str>,
    /// Unix milliseconds of the sandbox's clock.
    pub at: i64,
}

/// What a request was met by.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedFault {
    /// The fault's number.
    pub number: u64,
    /// What happens.
    pub act: Act,
    /// Milliseconds to wait before execution.
    pub wait: u64,
    /// Milliseconds to wait after it.
    pub delay: u64,
    /// Milliseconds by which the answer's clock is wrong.
    pub skew: i64,
}

/// The faults in force, and the newest that are used up.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    seed: u64,
    next: u64,
    armed: Vec<Armed>,
    spent: VecDeque<Armed>,
}

#[derive(Debug)]
struct Armed {
    number: u64,
    /// `times` is what is left; `from` and `until` are absolute.
    fault: Fault,
    /// Requests that matched it while it was in force.
    seen: u64,
    /// Requests that it met.
    met: u64,
}

impl Fault {
    /// A fault for an operation, forever.
    pub fn on(operation: &str, act: Act) -> Self {
        Fault { operation: Some(operation.to_owned()), act, ..Fault::default() }
    }

    /// A fault for every request, forever.
    pub fn everywhere(act: Act) -> Self {
        Fault { act, ..Fault::default() }
    }

    /// The same, for so many requests only.
    pub fn times(self, times: u64) -> Self {
        Fault { times: Some(times), ..self }
    }

    /// The same, only for requests under this key label.
    pub fn key(self, label: &str) -> Self {
        Fault { key: Some(label.to_owned()), ..self }
    }

    /// The same, waiting before execution.
    pub fn wait(self, time: Duration) -> Self {
        Fault { wait_ms: time.as_millis() as u64, ..self }
    }

    /// The same, waiting between execution and answer.
    pub fn delay(self, time: Duration) -> Self {
        Fault { delay_ms: time.as_millis() as u64, ..self }
    }
}

impl Faults {
    /// No faults; chance comes from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Faults { seed, ..Faults::default() }
    }

    /// Adds a fault at `now`; gives its number.
    pub(crate) fn add(&mut self, mut fault: Fault, now: i64) -> u64 {
        self.next += 1;
        for when in [&mut fault.from, &mut fault.until] {
            *when = when.map(|when| When::At(when.millis(now)));
        }
        self.armed.push(Armed { number: self.next, fault, seen: 0, met: 0 });
        self.next
    }

    /// Ends a fault; false if it isn't in force.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        let before = self.armed.len();
        self.armed.retain(|armed| armed.number != number);
        self.armed.len() < before
    }

    /// Ends all faults.
    pub(crate) fn clear(&mut self) {
        self.armed.clear();
    }

    /// The faults in force with how often each met, and those that are used up, as JSON.
    pub(crate) fn json(&self) -> Value {
        let line =
            |armed: &Armed| json!({"id": armed.number, "met": armed.met, "seen": armed.seen, "fault": armed.fault});
        let spent: Vec<Value> = self.spent.iter().map(line).collect();
        json!({"faults": self.armed.iter().map(line).collect::<Vec<_>>(), "spent": spent})
    }

    /// How often a fault met; nothing if it is no longer known.
    pub(crate) fn times_applied(&self, number: u64) -> Option<u64> {
        self.armed.iter().chain(&self.spent).find(|armed| armed.number == number).map(|armed| armed.met)
    }

    /// The fault that meets a request; counts it.
    pub(crate) fn apply(&mut self, asked: &RequestSummary<'_>) -> Option<AppliedFault> {
        self.apply_first(asked.at, |fault| fault.matches(asked))
    }

    /// The fault that meets a request while its body is on its way; counts it. If another kind of fault is the
    /// first one due, nothing is counted: the request meets it when it is whole.
    pub(crate) fn apply_to_upload(&mut self, asked: &RequestSummary<'_>) -> Option<AppliedFault> {
        let first = self.armed.iter().find(|armed| armed.would_apply(asked, self.seed))?;
        if matches!(first.fault.act, Act::ResetUpload { .. }) { self.apply(asked) } else { None }
    }

    /// Whether a fault in force would meet a request before it is whole, so that its head is worth a look.
    pub(crate) fn watches_uploads(&self) -> bool {
        self.armed.iter().any(|armed| matches!(armed.fault.act, Act::ResetUpload { .. }))
    }

    /// The fault that meets a new connection; counts it.
    pub(crate) fn apply_to_connection(&mut self, at: i64) -> Option<AppliedFault> {
        self.apply_first(at, |fault| matches!(fault.act, Act::Tls(_)))
    }

    fn apply_first(&mut self, at: i64, matches: impl Fn(&Fault) -> bool) -> Option<AppliedFault> {
        let seed = self.seed;
        let due = |armed: &mut Armed| matches(&armed.fault) && armed.due(seed, at);
        let position = self.armed.iter_mut().position(due)?;
        let armed = &mut self.armed[position];
        armed.met += 1;
        let met = armed.draw(seed);
        if let Some(times) = &mut armed.fault.times {
            *times -= 1;
            if *times == 0 {
                let spent = self.armed.remove(position);
                self.spent.truncate(SPENT - 1);
                self.spent.push_front(spent);
            }
        }
        Some(met)
    }
}

impl Armed {
    /// Whether it meets a request that it matches; counts the request.
    fn due(&mut self, seed: u64, at: i64) -> bool {
        if !self.in_force(at) {
            return false;
        }
        self.seen += 1;
        self.selects(self.seen, seed)
    }

    /// Whether it would meet a request that came now; counts nothing.
    fn would_apply(&self, asked: &RequestSummary<'_>, seed: u64) -> bool {
        self.fault.matches(asked) && self.in_force(asked.at) && self.selects(self.seen + 1, seed)
    }

    fn in_force(&self, at: i64) -> bool {
        let fault = &self.fault;
        let begun = fault.from.is_none_or(|from| from.millis(0) <= at);
        let over = fault.until.is_some_and(|until| until.millis(0) <= at);
        begun && !over && fault.times != Some(0)
    }

    /// Whether it is the turn of the n-th request that it matches.
    fn selects(&self, nth: u64, seed: u64) -> bool {
        let fault = &self.fault;
        let turn = fault.every.is_none_or(|every| nth.is_multiple_of(every.max(1)));
        let lucky = || random::fraction(random::draw(seed, Purpose::Fault, &[self.number, nth]));
        turn && fault.chance.is_none_or(|chance| lucky() < chance)
    }

    fn draw(&self, seed: u64) -> AppliedFault {
        let Fault { wait_ms, wait, delay_ms, delay, skew_ms, act, .. } = &self.fault;
        let drawn = |spread: &Option<DelayDistribution>, which| {
            let draw = || random::draw(seed, Purpose::Delay, &[self.number, self.seen, which]);
            spread.as_ref().map_or(0, |spread| spread.millis(draw()))
        };
        AppliedFault {
            number: self.number,
            act: act.clone(),
            wait: wait_ms.saturating_add(drawn(wait, 0)),
            delay: delay_ms.saturating_add(drawn(delay, 1)),
            skew: *skew_ms,
        }
    }
}

impl Fault {
    fn matches(&self, asked: &RequestSummary<'_>) -> bool {
        let name = asked.operation.map(Operation::name);
        !matches!(self.act, Act::Tls(_))
            && self.operation.as_deref().is_none_or(|wanted| name == Some(wanted))
            && self.path.as_deref().is_none_or(|wanted| asked.path == wanted)
            && self.key.as_deref().is_none_or(|wanted| asked.key == Some(wanted))
    }

    /// Whether it says anything of a single request.
    fn selects_requests(&self) -> bool {
        let waits = self.wait.is_some() || self.delay.is_some() || self.wait_ms > 0 || self.delay_ms > 0;
        self.operation.is_some() || self.path.is_some() || self.key.is_some() || self.skew_ms != 0 || waits
    }
}

/// What is wrong with a fault, if anything.
///
/// # Errors
/// If it could never do what it says; the text begins with the member concerned.
pub(crate) fn check(fault: &Fault) -> Result<(), String> {
    let known = |name: &str| Routes::get().rows().iter().any(|row| row.operation.name() == name);
    if let Some(name) = fault.operation.as_deref().filter(|name| !known(name)) {
        return Err(format!("operation: no operation is called {name}"));
    }
    if fault.chance.is_some_and(|chance| !(0.0..=1.0).contains(&chance)) {
        return Err("chance: 0 to 1".to_owned());
    }
    if fault.every == Some(0) || fault.times == Some(0) {
        return Err("every, times: at least 1".to_owned());
    }
    for (name, spread) in [("wait", &fault.wait), ("delay", &fault.delay)] {
        if let Some(spread) = spread {
            spread.check().map_err(|error| format!("{name}.{error}"))?;
        }
    }
    if matches!(fault.act, Act::Tls(_)) && fault.selects_requests() {
        return Err("act.tls: meets connections, before any request; only times, chance, every, from, until".to_owned());
    }
    fault.act.check()
}

#[cfg(test)]
mod tests;
