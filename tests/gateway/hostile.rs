//! Hostile input: nothing unintended is forwarded, each request is either refused with a clear status or
//! answered, each connection is closed in time, and the next valid request is served.
//!
//! The cases are in `hostile/corpus`, one file for each family; `hostile/README.md` explains their format
//! and compares the gateway with nginx, HAProxy and Envoy. Hostile responses are in `hostile/responses`.

mod compare;
mod corpus;
pub(crate) mod frames;
mod h2;
mod recorder;
mod responses;
mod rounds;
mod runner;
mod strict;
mod unread;

use std::time::{Duration, Instant};

use self::{
    corpus::{Case, Forwarded},
    recorder::{Received, Recorder},
    runner::{AGAIN, Observed, Runner},
    strict::Request,
};
use crate::{
    client::get,
    test_gateway::{ACCESS, SECRET, Setup, TestGateway, secret_of, until},
};

/// Short timeouts, so that cases that wait for one end soon; `request` is the longest.
const LIMITS: &str = "header_read = \"500ms\"\nidle = \"900ms\"\nrequest = \"1500ms\"\nrequest_body = \"64KiB\"";

/// Upper bound for every case: the longest timeout, and a margin for a busy machine.
const LONGEST: Duration = Duration::from_secs(6);

/// The gateway in front of a recording upstream.
pub(crate) struct RecordedGateway {
    gateway: TestGateway,
    recorder: Recorder,
    runner: Runner,
}

impl RecordedGateway {
    pub(crate) fn open() -> RecordedGateway {
        let recorder = Recorder::start("127.0.0.1:0");
        let base_url = Some(format!("http://{}", recorder.addr));
        let gateway = Setup { base_url, wait: false, limits: LIMITS, ..Setup::default() }.start();
        until("the canary lookup", || recorder.count() > 0);
        until("the pair is in use", || gateway.send(get("/good").by("shop")).status == 200);
        recorder.take();
        let runner = Runner { addr: gateway.data, read_timeout: Duration::from_secs(5), auth: auth() };
        RecordedGateway { gateway, recorder, runner }
    }

    /// Runs a case and then a valid request; returns what the upstream received from both.
    fn run_case(&self, case: &Case) -> (Observed, Vec<Received>) {
        let observed = self.runner.run(case);
        let good = self.gateway.send(get("/good").by("shop"));
        assert_eq!((good.status, good.outcome()), (200, "ok"), "{}: the valid request after it", case.name);
        (observed, self.recorder.take())
    }

    /// The number of requests that were counted, refused ones included.
    fn counted(&self) -> f64 {
        self.gateway.metric("requests_total", &[])
    }

    /// Waits until at least this many more requests are counted than before; a fault if they are not.
    fn counts(&self, before: f64, requests: usize) -> Option<String> {
        let deadline = Instant::now() + LONGEST;
        while self.counted() < before + requests as f64 {
            if Instant::now() > deadline {
                return Some(format!("counted {} of {requests} requests", self.counted() - before));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Everything that differs from what a case expects; empty if nothing does.
    fn faults_of(&self, case: &Case) -> Vec<String> {
        let before = self.counted();
        let (observed, received) = self.run_case(case);
        let mut faults = Vec::new();
        // Those of the case, the one on the same connection if it stays open, and the valid one.
        let finals = observed.responses.statuses.iter().filter(|status| **status >= 200).count();
        faults.extend(self.counts(before, finals + usize::from(!observed.responses.closed) + 1));
        if !case.allowed.contains(&observed.responses) {
            let responses: Vec<String> = case.allowed.iter().map(ToString::to_string).collect();
            faults.push(format!("got `{}`, expected `{}`", observed.responses, responses.join("` or `")));
        }
        if let Some(unparsed) = observed.unparsed.as_ref().filter(|_| !case.frames) {
            faults.push(format!("told what is no answer: {unparsed}"));
        }
        if observed.took > LONGEST {
            faults.push(format!("took {:?}", observed.took));
        }
        let mut expected = case.forwarded.clone();
        if !observed.responses.closed {
            expected.push(forwarded("GET", AGAIN));
        }
        expected.push(forwarded("GET", "/good"));
        let (forwarded, violations) = self.read(received);
        faults.extend(violations);
        if forwarded != expected {
            faults.push(format!("forwarded {:?}, expected {:?}", shown(&forwarded), shown(&expected)));
        }
        faults
    }

    /// The forwarded requests without injected headers, and the faults found in them.
    fn read(&self, received: Vec<Received>) -> (Vec<Forwarded>, Vec<String>) {
        let (mut forwarded, mut faults) = (Vec::new(), Vec::new());
        for received in received {
            match received.and_then(|request| self.without_injected(request)) {
                Ok(request) => forwarded.push(request),
                Err(why) => faults.push(why),
            }
        }
        (forwarded, faults)
    }

    /// Removes the headers that the gateway injects; each must be present exactly once with the right value.
    fn without_injected(&self, request: Request) -> Result<Forwarded, String> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let basic = format!("Basic {}", STANDARD.encode(format!("{ACCESS}:{SECRET}")));
        let host = self.recorder.addr.to_string();
        let own: [(&str, &str); 5] = [
            ("host", &host),
            ("access-key", ACCESS),
            ("secret-key", SECRET),
            ("authorization", &basic),
            ("accept-encoding", "identity"),
        ];
        for (name, value) in own {
            // V1 operations use the header pair, V2 operations use Basic.
            let absent = request.target == b"/order/express" && matches!(name, "access-key" | "secret-key");
            let expected: &[&[u8]] = if absent { &[] } else { &[value.as_bytes()] };
            if request.all(name) != expected {
                return Err(format!("{name} in {:?}", request.target.escape_ascii().to_string()));
            }
        }
        if !request.body.is_empty() && request.all("content-length").is_empty() {
            return Err("a body without its length".to_owned());
        }
        let own = |name: &str| name == "content-length" || own.iter().any(|(own, _)| *own == name);
        let mut headers: Vec<_> = request.headers.into_iter().filter(|(name, _)| !own(name)).collect();
        headers.sort();
        Ok(Forwarded { method: request.method, target: request.target, headers, body: request.body })
    }

    /// Checks at the end: no panic, no error in the log, no further request at the upstream.
    fn close(self) {
        assert_eq!(self.gateway.metric("requests_total", &[("outcome", "internal")]), 0.0);
        let log = crate::test_gateway::LOG.lock().expect("whole").clone();
        let log = String::from_utf8_lossy(&log).into_owned();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        assert!(errors.is_empty(), "{errors:?}");
        drop(self.gateway);
        let late = self.recorder.take();
        assert!(late.is_empty(), "forwarded late: {late:?}");
    }
}

/// The credentials of a service, as header lines, and its word that an equal order is a new one: the same bytes are
/// sent again and again.
fn auth() -> String {
    format!("access-key: svc-shop-1\r\nsecret-key: {}\r\nx-gateway-resend: confirmed", secret_of("shop"))
}

fn forwarded(method: &str, target: &str) -> Forwarded {
    Forwarded { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
}

fn shown(forwarded: &[Forwarded]) -> Vec<String> {
    let headers = |request: &Forwarded| {
        let headers = request.headers.iter().map(|(name, value)| format!(" [{name}: {}]", value.escape_ascii()));
        headers.collect::<String>()
    };
    forwarded
        .iter()
        .map(|request| {
            let (target, body) = (request.target.escape_ascii(), request.body.escape_ascii().to_string());
            format!("{} {target} {}{}", request.method, &body[..body.len().min(80)], headers(request))
        })
        .collect()
}

fn check_families(families: &[&str]) {
    let gateway = RecordedGateway::open();
    let mut faults = Vec::new();
    for case in families.iter().flat_map(|family| corpus::family(family)) {
        faults.extend(gateway.faults_of(&case).into_iter().map(|fault| format!("{}: {fault}", case.name)));
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
    gateway.close();
}

/// Each family of a corpus is tried once.
fn assert_all_tried(mut tried: Vec<&str>, families: &[String]) {
    tried.sort_unstable();
    assert_eq!(tried, families);
}

/// No two cases have the same name.
fn assert_differ<'a>(names: impl Iterator<Item = &'a str>) {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        assert!(seen.insert(name), "duplicate name: {name}");
    }
}

/// One test for each group of families, so that they run in parallel.
macro_rules! families {
    ($($test:ident: $($family:literal)*;)*) => {
        $(#[test] fn $test() { check_families(&[$($family),*]); })*

        #[test]
        fn every_family_is_tried_and_there_are_enough_cases() {
            assert_all_tried(vec![$($($family),*),*], &corpus::families());
            let cases = corpus::all();
            assert_differ(cases.iter().map(|case| case.name.as_str()));
            assert!(cases.iter().all(|case| !case.allowed.is_empty() && !case.steps.is_empty()));
            assert!(cases.len() >= 300, "{} cases", cases.len());
        }
    };
}

families! {
    framing_is_unambiguous: "cl-te" "te-cl" "te-te" "lengths";
    chunks_are_read_strictly: "chunks" "trailers";
    line_endings_are_read_strictly: "lines" "control";
    versions_and_methods_are_checked: "versions" "methods" "expect" "upgrade";
    targets_and_hosts_are_checked: "targets" "paths" "hosts";
    connection_cannot_nominate_injected_headers: "connection";
    oversized_requests_are_refused: "sizes";
    slow_connections_are_closed: "time";
    garbage_is_never_forwarded: "garbage" "pipelining";
}
