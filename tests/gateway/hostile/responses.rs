//! Hostile responses: whatever Fastrac sends, each caller gets one response whose length is that of its body, and no byte
//! of one response is in another, from Fastrac or from the cache.
//!
//! The cases are in `responses/corpus`, one file for each family; `README.md` explains their format and compares the
//! gateway with nginx, HAProxy and Envoy. Each case is tried as the response to a lookup, to a read and to an order, for
//! a caller of HTTP/1.1 and for one of HTTP/2.

mod caller;
mod case;
mod compare;
mod fastrac;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use self::{
    caller::{Caller, Http1Caller, Http2Caller, Received},
    case::{Act, Begin, ResponseCase, SMUGGLED},
    fastrac::HostileFastrac,
};
use super::{assert_all_tried, assert_differ};
use crate::{
    client::{Request, find, request},
    test_gateway::{Setup, TestGateway, until},
};

/// Small buffers, so that cases that exceed them are quick.
const LIMITS: &str = "answer_buffer = \"64KiB\"\nanswer_body = \"256KiB\"";

/// Short timeouts of the operations, so that cases that wait for one end soon.
const OPERATIONS: &str = "[operations.\"v2.city\"]\ntimeout = \"2s\"\n[operations.\"v2.track\"]\ntimeout = \"2s\"\n\
    [operations.\"v2.order_express\"]\ntimeout = \"2s\"\n";

/// `x-gateway-timeout` of a caller that does not wait for them, in milliseconds.
const IMPATIENCE: &str = "300";

/// Upper bound for every response: the longest timeout, and a margin for a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

/// Gateways that work on the cases of a test at the same time: many cases wait for something.
const AT_ONCE: usize = 6;

/// What is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// From the cache if it is there.
    Lookup,
    Read,
    Order,
}

const OPERATIONS_TRIED: [Operation; 3] = [Operation::Lookup, Operation::Read, Operation::Order];

impl Operation {
    fn named(name: &str) -> Operation {
        match name {
            "lookup" => Operation::Lookup,
            "read" => Operation::Read,
            "order" => Operation::Order,
            _ => panic!("no operation: {name}"),
        }
    }

    fn request(self, number: u64) -> Request {
        match self {
            Operation::Lookup => request("GET", &format!("/region/city?n={number:010}")),
            Operation::Read => request("GET", &format!("/order/track?n={number:010}")),
            Operation::Order => {
                request("POST", &format!("/order/express?n={number:010}")).json(&format!("{{\"n\":{number}}}"))
            }
        }
    }
}

/// A number that no other request has.
fn next_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A gateway in front of a hostile Fastrac.
struct HostileGateway {
    gateway: TestGateway,
    fastrac: HostileFastrac,
    /// Ids of the requests that were sent.
    ids: Vec<String>,
    faults: Vec<String>,
}

impl HostileGateway {
    fn open() -> HostileGateway {
        let fastrac = HostileFastrac::start("127.0.0.1:0");
        let base_url = Some(format!("http://{}", fastrac.addr));
        let gateway = Setup { base_url, wait: false, limits: LIMITS, more: OPERATIONS, ..Setup::default() }.start();
        until("a key pair", || gateway.admin("/readyz").status == 200);
        HostileGateway { gateway, fastrac, ids: Vec::new(), faults: Vec::new() }
    }

    fn callers(&self) -> [Box<dyn Caller>; 2] {
        let addr = self.gateway.data;
        [Box::new(Http1Caller::new(addr, LONGEST)), Box::new(Http2Caller::new(addr, LONGEST))]
    }

    /// One case, for one caller.
    fn run_case(&mut self, caller: &mut dyn Caller, case: &Arc<ResponseCase>) {
        let operations = if case.head || case.only_read { &OPERATIONS_TRIED[1..2] } else { &OPERATIONS_TRIED[..] };
        for operation in operations {
            let before = self.faults.len();
            self.run_exchange(caller, case, *operation);
            for fault in &mut self.faults[before..] {
                *fault = format!("{} ({operation:?}, {}): {fault}", case.name, caller.protocol());
            }
        }
    }

    fn run_exchange(&mut self, caller: &mut dyn Caller, case: &Arc<ResponseCase>, operation: Operation) {
        let number = next_number();
        let request = hostile_request(case, operation, number);
        self.fastrac.answer(number, case);
        let received = self.send(caller, request);
        if let Some(received) = &received {
            self.check(case, operation, number, received);
        }
        // A response that is held back arrives while the connection is idle, or after it has been closed.
        if !self.fastrac.ends(number, LONGEST) {
            self.faults.push("the connection to Fastrac is still open".to_owned());
        }
        self.fastrac.answer_correctly(number);
        self.send_good(caller, "the next request on the caller's connection");
        if case.once
            && let Some(next) = self.fastrac.follower_of(number)
        {
            self.faults.push(format!("request {next} was sent on the connection of {number}"));
        }
        if operation == Operation::Lookup {
            self.check_cache(case, number, received.as_ref());
        }
    }

    /// Sends a request; notes that it was sent, and what is wrong with any response.
    fn send(&mut self, caller: &mut dyn Caller, request: Request) -> Option<Received> {
        let id = format!("hostile-{}", self.ids.len());
        let received = caller.send(&request.header("x-request-id", &id));
        self.ids.push(id);
        match received {
            Ok(received) => {
                self.faults.extend(unwanted(&received));
                Some(received)
            }
            Err(why) => {
                self.faults.push(why);
                None
            }
        }
    }

    /// Sends a request that is answered correctly, and checks that it gets its own response.
    fn send_good(&mut self, caller: &mut dyn Caller, what: &str) {
        let number = next_number();
        let Some(received) = self.send(caller, Operation::Read.request(number).by("shop")) else { return };
        if received.status != 200 || !received.whole || received.body != case::correct_body(number) {
            self.faults.push(format!("{what}: {}", shown(&received)));
        }
    }

    fn check(&mut self, case: &ResponseCase, operation: Operation, number: u64, received: &Received) {
        let word = match received.code() {
            _ if !received.whole => "broken-off".to_owned(),
            Some(code) => code,
            None => received.header("x-gateway-outcome").unwrap_or("-").to_owned(),
        };
        let here = |allowed: &&case::Allowed| allowed.operations.is_empty() || allowed.operations.contains(&operation);
        let mut allowed = case.allowed.iter().filter(here);
        if !allowed.any(|allowed| allowed.word == word && [allowed.status, 0].contains(&received.status)) {
            self.faults.push(format!("not allowed: {} {word}: {}", received.status, shown(received)));
        }
        let passed_on = received.whole && received.code().is_none();
        if passed_on && !case.head && received.body != case.body(number) && received.body != case.body(0) {
            self.faults.push(format!("another body: {}", shown(received)));
        }
        if operation == Operation::Order {
            let expected = match (received.header("x-gateway-outcome").unwrap_or("-"), received.status) {
                ("ok" | "not_found" | "rejected" | "throttled", 200..=299 | 400..=499) => "yes",
                ("unreachable", _) => "no",
                _ => "unknown",
            };
            if received.header("x-gateway-sent") != Some(expected) {
                self.faults.push(format!("sent is not {expected}: {}", shown(received)));
            }
        }
    }

    /// Another service gets the stored response, or fetches a new one.
    fn check_cache(&mut self, case: &ResponseCase, number: u64, first: Option<&Received>) {
        let mut callers = self.callers();
        let mut results = Vec::new();
        for other in &mut callers {
            let request = Operation::Lookup.request(number).by("clerk");
            let Some(received) = self.send(&mut **other, request) else { continue };
            if case.late && received.code().is_some() {
                // The fetch goes on without its first caller, and this one has waited for it.
                continue;
            }
            let hit = received.header("x-gateway-outcome") == Some("hit");
            let stored = first.filter(|first| first.code().is_none() && first.whole);
            let bodies = [Some(case::correct_body(number)), stored.map(|_| case.body(number))];
            if !received.whole || !bodies.contains(&Some(received.body.clone())) {
                self.faults.push(format!("from the cache ({hit}): {}", shown(&received)));
            }
            results.push(received.body);
        }
        if results.windows(2).any(|pair| pair[0] != pair[1]) {
            self.faults.push("different responses from the cache".to_owned());
        }
    }

    /// Every request has one line in the exchange log, and nothing of the account or of the gateway leaked.
    fn close(mut self) -> Vec<String> {
        let expected: BTreeSet<String> = self.ids.iter().cloned().collect();
        until("a line for each request", || self.gateway.log().len() >= expected.len());
        let lines = self.gateway.log();
        let logged: BTreeSet<String> =
            lines.iter().filter_map(|line| line["request_id"].as_str()).map(str::to_owned).collect();
        if logged != expected || lines.len() != expected.len() {
            self.faults.push(format!("{} lines for {} requests", lines.len(), expected.len()));
        }
        assert_eq!(self.gateway.metric("requests_total", &[("outcome", "internal")]), 0.0);
        self.faults
    }
}

fn hostile_request(case: &ResponseCase, operation: Operation, number: u64) -> Request {
    let mut request = operation.request(number).by("shop");
    if case.head {
        request.method = "HEAD".to_owned();
    }
    if case.late {
        request = request.header("x-gateway-timeout", IMPATIENCE);
    }
    if case.begin == Begin::Head && operation == Operation::Order {
        request.body = format!("{{\"n\":{number},\"note\":\"{}\"}}", "x".repeat(900_000)).into_bytes();
    }
    request
}

/// What must not be in any response.
fn unwanted(received: &Received) -> Vec<String> {
    const NEVER: &str = "keep-alive proxy-connection te trailer upgrade set-cookie secret-key access-key \
        proxy-authenticate content_length transfer_encoding set_cookie x-hop alt-svc";
    /// Those of the gateway, which Fastrac may send too.
    const ONE: &str =
        "x-request-id x-gateway-outcome x-gateway-sent cache-status age ratelimit proxy-status content-length";
    let mut faults = Vec::new();
    for (name, value) in &received.headers {
        let own = match name.as_str() {
            "connection" => value == b"close" || value == b"keep-alive",
            // The reader has checked that it frames the body.
            "transfer-encoding" => value == b"chunked",
            name => !NEVER.split_whitespace().any(|never| never == name),
        };
        if !own {
            faults.push(format!("header {name}: {}", value.escape_ascii()));
        }
    }
    for name in ONE.split_whitespace() {
        let count = received.headers.iter().filter(|(known, _)| known == name).count();
        if count > 1 || count == 0 && name.starts_with("x-") && received.status > 0 {
            faults.push(format!("{count} {name}: {}", shown(received)));
        }
    }
    if find(&received.body, SMUGGLED.as_bytes()).is_some() {
        faults.push(format!("bytes of another response: {}", shown(received)));
    }
    faults
}

fn shown(received: &Received) -> String {
    let body = received.body[..received.body.len().min(200)].escape_ascii().to_string();
    let Received { status, whole, headers, .. } = received;
    let outcome = received.header("x-gateway-outcome");
    let length = received.body.len();
    format!("{status} {outcome:?}, {} headers, {length} bytes, whole: {whole}, {body}", headers.len())
}

fn check_families(families: &[&str]) {
    let cases: Vec<Arc<ResponseCase>> = families.iter().flat_map(|family| case::family(family)).map(Arc::new).collect();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut gateway = HostileGateway::open();
                let mut callers = gateway.callers();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for caller in &mut callers {
                        gateway.run_case(&mut **caller, case);
                    }
                }
                // Otherwise stopping waits for them.
                drop(callers);
                faults.lock().expect("whole").extend(gateway.close());
            });
        }
    });
    let faults = faults.into_inner().expect("whole");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// One test for each group of families, so that they run in parallel.
macro_rules! families {
    ($($test:ident: $($family:literal)*;)*) => {
        $(#[test] fn $test() { check_families(&[$($family),*]); })*

        #[test]
        fn every_family_is_tried_and_there_are_enough_cases() {
            assert_all_tried(vec![$($($family),*),*], &case::families());
            let cases = case::all();
            assert_differ(cases.iter().map(|case| case.name.as_str()));
            assert!(cases.iter().all(|case| !case.allowed.is_empty() && !case.acts.is_empty()));
            let mut streams: Vec<&[Act]> = cases.iter().map(|case| case.acts.as_slice()).collect();
            streams.dedup();
            assert!(streams.len() >= 120, "{} byte streams", streams.len());
        }
    };
}

families! {
    lengths_are_true: "lengths" "codings";
    chunks_are_delimited: "chunks" "trailers";
    heads_are_read_strictly: "status-lines" "fields";
    only_a_final_response_is_one: "interim" "bodiless";
    a_response_ends_where_it_ends: "after" "short";
    time_is_bounded: "time";
    bodies_are_what_they_are: "bodies";
}
