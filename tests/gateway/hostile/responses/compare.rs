//! The same responses to other proxies, in front of the same Fastrac. Started by `peers/compare`.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, sync::Arc, thread, time::Duration};

use super::{
    super::compare::NamedPeer,
    HostileGateway, Operation,
    caller::{Caller, Http1Caller, Http2Caller, Received},
    case::{self, Begin, ResponseCase, SMUGGLED},
    fastrac::HostileFastrac,
    hostile_request, next_number,
};
use crate::client::find;

/// Longer than the timeouts of the peers.
const LONGEST: Duration = Duration::from_secs(6);

/// What a caller got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// An error of the proxy's own.
    Refused(u16),
    /// A response whose end is where its framing says.
    Passed(u16),
    /// A response that visibly breaks off.
    BrokenOff,
    /// What a caller cannot read, or takes for something else.
    Broken(String),
}

/// A proxy in front of its own Fastrac.
struct Peer {
    name: String,
    /// Addresses for HTTP/1.1 and for HTTP/2.
    addrs: [SocketAddr; 2],
    fastrac: HostileFastrac,
}

impl Peer {
    fn run_cases(&self, cases: &[Arc<ResponseCase>]) -> Vec<[Verdict; 2]> {
        let mut http1 = Http1Caller::new(self.addrs[0], LONGEST);
        let mut http2 = Http2Caller::new(self.addrs[1], LONGEST);
        cases.iter().map(|case| [self.run_case(&mut http1, case), self.run_case(&mut http2, case)]).collect()
    }

    fn run_case(&self, caller: &mut dyn Caller, case: &Arc<ResponseCase>) -> Verdict {
        let number = next_number();
        let mut request = hostile_request(case, Operation::Read, number);
        request.headers.retain(|(name, _)| name != "x-gateway-timeout");
        self.fastrac.answer(number, case);
        let received = caller.send(&request);
        let ended = self.fastrac.ends(number, LONGEST);
        self.fastrac.answer_correctly(number);
        let verdict = verdict(case, number, received);
        if !ended {
            self.fastrac.disconnect();
            return Verdict::Broken("it is still being received".to_owned());
        }
        let next = next_number();
        match caller.send(&Operation::Read.request(next).by("shop")) {
            Ok(good) if good.status == 200 && good.whole && good.body == case::correct_body(next) => verdict,
            Ok(other) => {
                let (status, body) = (other.status, &other.body[..other.body.len().min(60)]);
                Verdict::Broken(format!("then {status} {}", body.escape_ascii()))
            }
            Err(why) => Verdict::Broken(format!("then {why}")),
        }
    }
}

fn verdict(case: &ResponseCase, number: u64, received: Result<Received, String>) -> Verdict {
    let received = match received {
        // The caller knows that there was no response.
        Err(why) if why.ends_with("before a head: ") => return Verdict::BrokenOff,
        Err(why) => return Verdict::Broken(why),
        Ok(received) => received,
    };
    if !received.whole {
        return Verdict::BrokenOff;
    }
    let hop = |(name, _): &&(String, Vec<u8>)| {
        matches!(name.as_str(), "te" | "trailer" | "upgrade" | "proxy-connection" | "x-hop")
    };
    if let Some((name, _)) = received.headers.iter().find(hop) {
        return Verdict::Broken(format!("{name} is passed on"));
    }
    let known = [case.body(number), case.body(0)];
    if matches!(received.status, 502..=504) && !known.contains(&received.body) {
        return Verdict::Refused(received.status);
    }
    // Bytes of the framing, or of another response, in a body.
    let stray = |part: &[u8]| find(&received.body, part).is_some() && find(&known[0], part).is_none();
    if let Some(part) = [&b"\r\n"[..], b"HTTP/1", SMUGGLED.as_bytes()].into_iter().find(|part| stray(part)) {
        return Verdict::Broken(format!("{} in the body", part.escape_ascii()));
    }
    Verdict::Passed(received.status)
}

fn peers() -> Vec<Peer> {
    let peer = |peer: NamedPeer| {
        let fastrac = HostileFastrac::start(&peer.fastrac);
        peer.listens();
        let NamedPeer { name, addrs, .. } = peer;
        Peer { name, addrs, fastrac }
    };
    NamedPeer::all().into_iter().map(peer).collect()
}

#[test]
#[ignore = "needs other proxies: hostile/peers/compare"]
fn responses_with_peers() {
    let cases: Vec<Arc<ResponseCase>> = case::all().into_iter().map(Arc::new).collect();
    let HostileGateway { gateway, fastrac, .. } = HostileGateway::open();
    let own = Peer { name: "gateway".to_owned(), addrs: [gateway.data; 2], fastrac };
    let peers: Vec<Peer> = std::iter::once(own).chain(peers()).collect();
    let results: Vec<Vec<[Verdict; 2]>> = thread::scope(|scope| {
        let threads: Vec<_> = peers.iter().map(|peer| scope.spawn(|| peer.run_cases(&cases))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("{}", by_family(&peers, &cases, &results));
    println!("{}", broken(&peers, &cases, &results));
    println!("{}", stricter_peers(&peers, &cases, &results));
}

/// For each family: the number of cases that were passed on to one of the callers, and those that were broken.
fn by_family(peers: &[Peer], cases: &[Arc<ResponseCase>], results: &[Vec<[Verdict; 2]>]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = format!("| family | cases | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, case) in cases.iter().enumerate() {
        rows.entry(case.name.split('/').next().expect("a family")).or_default().push(at);
        rows.entry("~ all").or_default().push(at);
    }
    for (family, members) in rows {
        let _ = write!(text, "| {} | {} |", family.trim_start_matches("~ "), members.len());
        for results in results {
            let count =
                |holds: fn(&Verdict) -> bool| members.iter().filter(|at| results[**at].iter().any(holds)).count();
            let passed = count(|verdict| matches!(verdict, Verdict::Passed(_)));
            let _ = match count(|verdict| matches!(verdict, Verdict::Broken(_))) {
                0 => write!(text, " {passed} |"),
                broken => write!(text, " {passed} + {broken} broken |"),
            };
        }
        text.push('\n');
    }
    text
}

/// Every broken response.
fn broken(peers: &[Peer], cases: &[Arc<ResponseCase>], results: &[Vec<[Verdict; 2]>]) -> String {
    let mut text = String::new();
    for (at, case) in cases.iter().enumerate() {
        for (peer, results) in peers.iter().zip(results) {
            for (protocol, verdict) in ["HTTP/1.1", "HTTP/2"].iter().zip(&results[at]) {
                if let Verdict::Broken(why) = verdict {
                    let _ = writeln!(text, "{} {} ({protocol}): {why}", peer.name, case.name);
                }
            }
        }
    }
    text
}

/// Cases that the gateway passes on and another proxy refuses.
fn stricter_peers(peers: &[Peer], cases: &[Arc<ResponseCase>], results: &[Vec<[Verdict; 2]>]) -> String {
    let mut text = String::from("| case | gateway | refused by |\n|---|---|---|\n");
    for (at, case) in cases.iter().enumerate() {
        let own = &results[0][at];
        if case.begin == Begin::Early || !own.iter().any(|verdict| matches!(verdict, Verdict::Passed(_))) {
            continue;
        }
        let refuses = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_) | Verdict::BrokenOff);
        let stricter: Vec<&str> = (1..peers.len())
            .filter(|peer| results[*peer][at].iter().all(refuses))
            .map(|peer| peers[peer].name.as_str())
            .collect();
        if !stricter.is_empty() {
            let _ = writeln!(text, "| {} | {:?} | {} |", case.name, own[0], stricter.join(", "));
        }
    }
    text
}
