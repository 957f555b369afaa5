//! Fault injection.
//!
//! What always holds: at most one fault applies to a request, the first (in the order of adding) that selects it; a
//! fault is used up after `times` requests. Chance is drawn from the seed, the fault's number and the number of
//! requests that matched so far, so a run is reproducible. A fault changes how a response is sent or whether the
//! request is executed; what was executed is always in the journal.

mod act;
mod distribution;

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use act::{Act, CannedEnvelope, CannedResponse, TlsFailure};
pub(crate) use act::{MAX_UPLOAD, pad, page};
pub use distribution::DelayDistribution;

use super::{
    random::{self, Purpose},
    route::{Operation, Routes},
    when::When,
};

/// Used-up faults that are still listed.
const MAX_SPENT: usize = 100;

/// Which requests are affected, when, how often, and how.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Name of an operation, such as `v2.order_express`; absent: any request, also to unknown paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Path as received, without query; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Label of a key pair; absent: any request, also without a valid pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many requests it applies to; absent: all until it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Probability that it applies to a matching request, 0 to 1; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Applies to every n-th matching request; absent: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Start; absent: immediately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<When>,
    /// End (exclusive); absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    /// Delay before execution, in milliseconds.
    pub wait_ms: u64,
    /// Random delay in addition to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<DelayDistribution>,
    /// Delay after execution, before the response, in milliseconds.
    pub delay_ms: u64,
    /// Random delay in addition to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelayDistribution>,
    /// Error of the clock in `Date` and `timestamp` of the response, in milliseconds; positive: ahead.
    pub skew_ms: i64,
    /// The effect; the configuration key is `act`.
    pub act: Act,
}

/// The properties of a request that faults select by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestSummary<'a> {
    /// Absent: unknown path.
    pub operation: Option<Operation>,
    /// Path without query.
    pub path: &'a str,
    /// Label of its key pair; absent: no valid pair.
    pub key: Option<&'a str>,
    /// Time of arrival, Unix milliseconds of the sandbox's clock.
    pub at: i64,
}

/// A fault that applies to a request, with delays drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedFault {
    pub number: u64,
    /// The effect; the configuration key is `act`.
    pub act: Act,
    /// Delay before execution, in milliseconds.
    pub wait: u64,
    /// Delay after execution, in milliseconds.
    pub delay: u64,
    /// Error of the response's clock, in milliseconds.
    pub skew: i64,
}

/// The armed faults and the newest used-up ones.
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
    /// `times` counts down; `from` and `until` are absolute.
    fault: Fault,
    /// Matching requests while it was in force.
    seen: u64,
    /// Requests that it was applied to.
    applied: u64,
}

impl Fault {
    /// A fault for all requests of an operation.
    pub fn on(operation: &str, act: Act) -> Self {
        Fault { operation: Some(operation.to_owned()), act, ..Fault::default() }
    }

    /// A fault for all requests.
    pub fn everywhere(act: Act) -> Self {
        Fault { act, ..Fault::default() }
    }

    /// Limits it to a number of requests.
    pub fn times(self, times: u64) -> Self {
        Fault { times: Some(times), ..self }
    }

    /// Limits it to the requests of a key label.
    pub fn key(self, label: &str) -> Self {
        Fault { key: Some(label.to_owned()), ..self }
    }

    /// Adds a delay before execution.
    pub fn wait(self, time: Duration) -> Self {
        Fault { wait_ms: time.as_millis() as u64, ..self }
    }

    /// Adds a delay between execution and response.
    pub fn delay(self, time: Duration) -> Self {
        Fault { delay_ms: time.as_millis() as u64, ..self }
    }
}

impl Faults {
    /// No faults; random draws come from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Faults { seed, ..Faults::default() }
    }

    /// Adds a fault at `now`; returns its number.
    pub(crate) fn add(&mut self, mut fault: Fault, now: i64) -> u64 {
        self.next += 1;
        for when in [&mut fault.from, &mut fault.until] {
            *when = when.map(|when| When::At(when.millis(now)));
        }
        self.armed.push(Armed { number: self.next, fault, seen: 0, applied: 0 });
        self.next
    }

    /// Removes a fault; false if it is not armed.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        let before = self.armed.len();
        self.armed.retain(|armed| armed.number != number);
        self.armed.len() < before
    }

    /// Removes all faults.
    pub(crate) fn clear(&mut self) {
        self.armed.clear();
    }

    /// The armed faults with how often each was applied, and the used-up ones, as JSON.
    pub(crate) fn json(&self) -> Value {
        let line =
            |armed: &Armed| json!({"id": armed.number, "met": armed.applied, "seen": armed.seen, "fault": armed.fault});
        let spent: Vec<Value> = self.spent.iter().map(line).collect();
        json!({"faults": self.armed.iter().map(line).collect::<Vec<_>>(), "spent": spent})
    }

    /// How often a fault was applied; `None` if it is no longer known.
    pub(crate) fn times_applied(&self, number: u64) -> Option<u64> {
        self.armed.iter().chain(&self.spent).find(|armed| armed.number == number).map(|armed| armed.applied)
    }

    /// The fault that applies to a request; counts it.
    pub(crate) fn apply(&mut self, request: &RequestSummary<'_>) -> Option<AppliedFault> {
        self.apply_first(request.at, |fault| fault.matches(request))
    }

    /// The fault that applies to a request while its body is being received; counts it. If the first fault due is of
    /// another kind, nothing is counted: that one applies when the request is complete.
    pub(crate) fn apply_to_upload(&mut self, request: &RequestSummary<'_>) -> Option<AppliedFault> {
        let first = self.armed.iter().find(|armed| armed.would_apply(request, self.seed))?;
        if matches!(first.fault.act, Act::ResetUpload { .. }) { self.apply(request) } else { None }
    }

    /// Whether an armed fault can apply before a request is complete, so that its head must be checked.
    pub(crate) fn watches_uploads(&self) -> bool {
        self.armed.iter().any(|armed| matches!(armed.fault.act, Act::ResetUpload { .. }))
    }

    /// The fault that applies to a new connection; counts it.
    pub(crate) fn apply_to_connection(&mut self, at: i64) -> Option<AppliedFault> {
        self.apply_first(at, |fault| matches!(fault.act, Act::Tls(_)))
    }

    fn apply_first(&mut self, at: i64, matches: impl Fn(&Fault) -> bool) -> Option<AppliedFault> {
        let seed = self.seed;
        let due = |armed: &mut Armed| matches(&armed.fault) && armed.due(seed, at);
        let position = self.armed.iter_mut().position(due)?;
        let armed = &mut self.armed[position];
        armed.applied += 1;
        let fault = armed.draw(seed);
        if let Some(times) = &mut armed.fault.times {
            *times -= 1;
            if *times == 0 {
                let spent = self.armed.remove(position);
                self.spent.truncate(MAX_SPENT - 1);
                self.spent.push_front(spent);
            }
        }
        Some(fault)
    }
}

impl Armed {
    /// Whether it applies to a matching request; counts the request.
    fn due(&mut self, seed: u64, at: i64) -> bool {
        if !self.in_force(at) {
            return false;
        }
        self.seen += 1;
        self.selects(self.seen, seed)
    }

    /// Whether it would apply to a request that arrived now; counts nothing.
    fn would_apply(&self, request: &RequestSummary<'_>, seed: u64) -> bool {
        self.fault.matches(request) && self.in_force(request.at) && self.selects(self.seen + 1, seed)
    }

    fn in_force(&self, at: i64) -> bool {
        let fault = &self.fault;
        let begun = fault.from.is_none_or(|from| from.millis(0) <= at);
        let over = fault.until.is_some_and(|until| until.millis(0) <= at);
        begun && !over && fault.times != Some(0)
    }

    /// Whether `every` and `chance` select the n-th matching request.
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
    fn matches(&self, request: &RequestSummary<'_>) -> bool {
        let name = request.operation.map(Operation::name);
        !matches!(self.act, Act::Tls(_))
            && self.operation.as_deref().is_none_or(|wanted| name == Some(wanted))
            && self.path.as_deref().is_none_or(|wanted| request.path == wanted)
            && self.key.as_deref().is_none_or(|wanted| request.key == Some(wanted))
    }

    /// Whether it has a selector or delay that needs a request.
    fn selects_requests(&self) -> bool {
        let waits = self.wait.is_some() || self.delay.is_some() || self.wait_ms > 0 || self.delay_ms > 0;
        self.operation.is_some() || self.path.is_some() || self.key.is_some() || self.skew_ms != 0 || waits
    }
}

/// Checks that a fault can be applied.
///
/// # Errors
/// If it could never apply; the message begins with the member concerned.
pub(crate) fn check(fault: &Fault) -> Result<(), String> {
    let known = |name: &str| Routes::get().rows().iter().any(|row| row.operation.name() == name);
    if let Some(name) = fault.operation.as_deref().filter(|name| !known(name)) {
        return Err(format!("operation: unknown operation {name}"));
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
        return Err(
            "act.tls: applies to connections, before any request; only times, chance, every, from, until are allowed"
                .to_owned(),
        );
    }
    fault.act.check()
}

#[cfg(test)]
mod tests;
