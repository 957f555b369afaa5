//! A week without Fastrac, as far as the clocks know, with the operation table as it is shipped: what was fetched once is
//! answered until its bound, and not beyond; then Fastrac is back, and gets no more than the budget.
//!
//! The gateway is a process under `system_faults`: the week passes as suspends of the machine.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, Sandbox};

use crate::{
    caches_through_outages::{FAILURE_LIMITS, cache_status, failures},
    client::{Connection, Request, Response, get},
    process::Program,
    system_faults::SystemFaults,
    test_gateway::{digest_of, sandbox, until},
};

const HOUR: u64 = 3600;

/// The bound of all rows, hours.
const WEEK: u64 = 7 * 24;

/// What the budget admits a second, and at once.
const PER_SECOND: u64 = 20;

/// Lookups of some rows for each way of failing.
const ROWS: [&str; 2] = ["/region/city?province_id=31&", "/courier/all?"];

fn configuration(fastrac: SocketAddr) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n[limits]\n{FAILURE_LIMITS}\n\
         [accounts.main]\nbase_url = \"http://{fastrac}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = {PER_SECOND}, burst = {PER_SECOND} }}\nretries = 0\n\
         breaker = {{ minimum = 10000 }}\n\
         [services.shop]\naccount = \"main\"\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("shop")
    )
}

fn lookups(group: usize) -> impl Iterator<Item = Request> {
    ROWS.iter().map(move |row| get(&format!("{row}n={group}")).by("shop"))
}

/// A gateway with warm lookups, the Fastrac that it calls, and clocks that can be moved.
struct Week {
    faults: SystemFaults,
    fastrac: Sandbox,
    program: Program,
    /// The first responses, by group.
    stored: Vec<Vec<Response>>,
}

impl Week {
    fn start(groups: usize) -> Week {
        let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
        let program = faults.start(&configuration(fastrac.addr()));
        let mut week = Week { faults, fastrac, program, stored: Vec::new() };
        for group in 0..groups {
            until("the budget admits it", || week.ask(group).iter().all(|response| response.outcome() == "hit"));
            week.stored.push(week.ask(group));
        }
        week
    }

    fn ask(&self, group: usize) -> Vec<Response> {
        let mut connection = Connection::open(self.program.data);
        lookups(group).map(|request| connection.send(&request)).collect()
    }

    /// The responses were stored this many hours ago.
    fn hours_pass(&self, total: u64) {
        self.faults.suspend(Duration::from_secs(total * HOUR));
        until("the gateway knows it", || age(&self.ask(0)[0]).is_none_or(|age| age >= total * HOUR));
    }

    fn calls(&self) -> usize {
        self.fastrac.journal().len()
    }

    fn wait_for_pauses(&self) {
        until("no pause is left", || {
            let status = self.program.admin_page("/status");
            let status: serde_json::Value = serde_json::from_slice(&status.body).expect("JSON");
            status["accounts"]["main"]["budget"]["paused_seconds"] == 0.0
        });
    }
}

fn age(response: &Response) -> Option<u64> {
    response.header("age").map(|age| age.parse().expect("seconds"))
}

#[test]
fn a_week_of_failures_is_answered_within_its_bound_and_ends_without_a_herd() {
    // Those last that slow the account down or lock it out, so that each is met by requests.
    let mut ways = failures();
    ways.sort_by_key(|(_, status)| status.filter(|status| [401, 429].contains(status)).map(std::cmp::Reverse));
    let week = Week::start(ways.len());
    for (way, (act, _)) in ways.iter().enumerate() {
        week.fastrac.clear_faults();
        week.wait_for_pauses();
        week.fastrac.fault(Fault::everywhere(act.clone()));
        // The first while responses are a day old, the last ten minutes before their bound.
        let hours = 25 + (WEEK - 26) * way as u64 / (ways.len() as u64 - 1);
        let before = week.calls();
        week.hours_pass(hours);
        // The newest group first: nobody has asked for it since the outage began.
        for group in (0..=way).rev() {
            for (response, stored) in week.ask(group).iter().zip(&week.stored[group]) {
                let case = format!("{act:?} after {hours} hours: {:?}", response.headers);
                assert_eq!(
                    (response.status, response.outcome(), &response.body),
                    (200, "stale", &stored.body),
                    "{case}"
                );
                assert!(age(response).is_some_and(|age| age >= hours * HOUR && age < WEEK * HOUR), "{case}");
                let marks = ["fwd=stale", "hit; ttl=-"];
                assert!(marks.iter().any(|mark| cache_status(response).starts_with(mark)), "{case}");
            }
        }
        assert!(week.calls() > before, "Fastrac was not asked: {act:?}");
    }
    // Fastrac is back.
    week.fastrac.clear_faults();
    let (before, began) = (week.calls(), Instant::now());
    let groups = || (0..ways.len()).flat_map(|group| week.ask(group));
    while began.elapsed() < Duration::from_millis(900) {
        assert!(groups().all(|response| response.status == 200));
    }
    let (calls, took) = (week.calls() - before, began.elapsed().as_secs_f64());
    assert!(calls as f64 <= PER_SECOND as f64 * (1.0 + took), "{calls} calls within {took} s");
    // Those whose fetch has failed more often take up to a minute.
    until("those that failed last are fresh", || {
        week.ask(ways.len() - 1).iter().all(|response| response.outcome() == "hit")
    });
}

#[test]
fn beyond_its_bound_nothing_is_answered() {
    let week = Week::start(1);
    week.fastrac.fault(Fault::everywhere(Act::Html(500)));
    week.hours_pass(WEEK - 1);
    assert!(week.ask(0).iter().all(|response| response.outcome() == "stale"));
    week.faults.suspend(Duration::from_secs(WEEK * HOUR));
    until("the bound is over", || week.ask(0).iter().all(|response| response.outcome() == "upstream_error"));
}

/// Also of those that come before the gateway's clocks have ticked again.
#[test]
fn the_first_request_after_a_suspend_counts_it() {
    let week = Week::start(1);
    week.fastrac.fault(Fault::everywhere(Act::Html(500)));
    for hours in 1..=5 {
        week.faults.suspend(Duration::from_secs(hours * HOUR));
        let ages: Vec<_> = week.ask(0).iter().map(age).collect();
        // A suspend is known less two steps of the uptime.
        assert!(ages.iter().all(|age| age.is_some_and(|age| age + 1 >= hours * HOUR)), "{hours} hours: {ages:?}");
    }
    week.faults.suspend(Duration::from_secs(WEEK * HOUR + 1));
    assert!(week.ask(0).iter().all(|response| response.outcome() == "upstream_error"));
}
