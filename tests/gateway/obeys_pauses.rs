//! A pause that Fastrac has demanded holds until it is over, whatever becomes of the process meanwhile.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, Sandbox};
use rustix::process::Signal;

use crate::{
    bodies,
    client::{Connection, Response, post},
    process::{CONFIG, Program},
    test_gateway::{ACCESS, SECRET, Setup, digest_of, sandbox, until},
};

const QUOTE: &str = "/tariff/express";

fn configuration(fastrac: &Sandbox, per_second: u32) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\
         [accounts.main]\nbase_url = \"http://{}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = {per_second}, burst = {per_second}, in_flight = 8, max_wait = \"0s\" }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"quote\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        fastrac.addr(),
        digest_of("shop")
    )
}

fn quote(program: &Program) -> Response {
    Connection::open(program.data).send(&post(QUOTE, bodies::TARIFF).by("shop"))
}

fn budget(program: &Program) -> serde_json::Value {
    let status: serde_json::Value = serde_json::from_slice(&program.admin_page("/status").body).expect("JSON");
    status["accounts"]["main"]["budget"].clone()
}

/// An account that Fastrac has throttled.
struct Throttled {
    fastrac: Sandbox,
    program: Program,
    /// Before the response that demanded the pause.
    before: Instant,
    pause: u64,
    /// Requests that Fastrac had received then.
    received: usize,
}

impl Throttled {
    fn new(pause: u64) -> Self {
        let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
        let program = Program::start(&configuration(&fastrac, 100), ACCESS, SECRET);
        until("it has a key pair", || quote(&program).status == 200);
        fastrac.fault(Fault::on("v2.tariff_express", Act::throttle(Some(pause))).times(1));
        let before = Instant::now();
        assert_eq!(quote(&program).outcome(), "throttled");
        until("it is recorded", || program.file("state/throttles").exists());
        let received = fastrac.journal().len();
        Throttled { fastrac, program, before, pause, received }
    }

    fn end(&mut self, signal: Signal) {
        self.program.signal(signal);
        self.program.ends(Duration::from_secs(10));
    }

    /// Fastrac is not called, and callers are told when it will be.
    fn is_paused(&self) {
        let refused = quote(&self.program);
        assert_eq!((refused.code().as_str(), refused.sent()), ("budget.second", "no"), "{refused:?}");
        let retry_after: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
        let left = self.pause as f64 - self.before.elapsed().as_secs_f64();
        assert!((left..left + 2.0).contains(&(retry_after as f64)), "{retry_after} s, {left} s are left");
        assert_eq!(budget(&self.program)["learned_per_second"].as_f64(), Some(50.0), "half of 100");
        assert_eq!(self.fastrac.journal().len(), self.received, "Fastrac was called");
    }
}

/// A refused caller never reads that plenty is left.
#[test]
fn a_pause_is_in_the_rate_limit_also_of_an_account_without_a_limit() {
    let services = &[("limited", "quota = { per_day = 100 }")];
    for service in ["limited", "shop"] {
        let gateway = Setup { services, budget: "max_wait = \"0s\"", ..Setup::default() }.start();
        gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::throttle(Some(30))).times(1));
        let quote = || gateway.send(post(QUOTE, bodies::TARIFF).by(service));
        assert_eq!(quote().outcome(), "throttled");
        let refused = quote();
        assert_eq!(refused.code(), "budget.second");
        let (limit, wait) =
            (refused.header("ratelimit").expect("RateLimit"), refused.header("retry-after").expect("a wait"));
        assert!(limit.ends_with(&format!("\"account-second\";r=0;t={wait}")), "{limit}");
        assert_eq!(limit.starts_with("\"day\";r=99;"), service == "limited", "{limit}");
        assert_eq!(refused.header("ratelimit-policy").is_some(), service == "limited", "{refused:?}");
    }
}

#[test]
fn no_end_of_the_process_and_no_reload_shortens_a_pause() {
    let mut account = Throttled::new(60);
    account.is_paused();
    for signal in [Signal::KILL, Signal::KILL, Signal::TERM, Signal::KILL, Signal::TERM, Signal::TERM] {
        account.end(signal);
        account.program.start_again();
        account.is_paused();
    }
    let other = configuration(&account.fastrac, 101);
    fs::write(account.program.file(CONFIG), other.replace("max_wait = \"0s\"", "max_wait = \"1s\"")).expect("written");
    account.program.signal(Signal::HUP);
    until("the reload is done", || budget(&account.program)["second"]["limit"] == 101);
    fs::write(account.program.file(CONFIG), configuration(&account.fastrac, 100)).expect("written");
    account.program.signal(Signal::HUP);
    until("the reload is done", || budget(&account.program)["second"]["limit"] == 100);
    account.is_paused();
}

#[test]
fn a_process_that_was_killed_in_a_pause_is_followed_by_one_that_calls_when_it_is_over() {
    let mut account = Throttled::new(4);
    account.end(Signal::KILL);
    account.program.start_again();
    account.is_paused();
    until("the pause is over", || quote(&account.program).status == 200);
    let over = account.before.elapsed();
    assert!((4.0..6.0).contains(&over.as_secs_f64()), "{over:?}");
}

/// The rate that the pause has taught climbs while no gateway runs, as it does while one runs.
#[test]
fn a_rate_that_was_learned_outlives_a_kill() {
    let mut account = Throttled::new(1);
    account.end(Signal::KILL);
    account.program.start_again();
    until("the pause is over", || quote(&account.program).status == 200);
    assert_eq!(budget(&account.program)["learned_per_second"].as_f64(), Some(50.0));
    account.end(Signal::KILL);
    // The rate climbs 10 s after the pause, and again 10 s later.
    thread::sleep(Duration::from_secs(15).saturating_sub(account.before.elapsed()));
    account.program.start_again();
    assert_eq!(budget(&account.program)["learned_per_second"].as_f64().map(f64::round), Some(60.0));
}

/// The clock is two hours ahead, or back again, when the next process starts.
#[cfg(target_os = "linux")]
#[test]
fn no_wall_clock_ends_a_pause_or_prolongs_it() {
    use crate::system_faults::{SystemFaults, begin, end};

    let mut account = Throttled::new(60);
    let faults = SystemFaults::new();
    for change in [begin, end] {
        account.end(Signal::KILL);
        change(&faults.clock_ahead());
        account.program.start_again_as(|command| faults.preload(command));
        account.is_paused();
    }
}
