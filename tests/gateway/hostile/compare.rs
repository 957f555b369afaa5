//! The same input to other proxies, in front of the same recorder. Started by `peers/compare`.

mod h2;

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, thread, time::Duration};

use super::{
    RecordedGateway,
    corpus::{self, Case},
    h2::attacks,
    recorder::Recorder,
    runner::{AGAIN, Observed, Runner},
};
use crate::{
    client::Connection,
    test_gateway::{TestGateway, until},
};

/// The result of a case at one server.
struct CaseResult {
    observed: Observed,
    /// Requests that reached the recorder.
    forwarded: Vec<String>,
    /// Number of inputs that reached the recorder and are not strict requests.
    violations: usize,
}

/// A server in front of its own recorder.
struct Peer {
    name: String,
    runner: Runner,
    /// Its address for cleartext HTTP/2.
    frames: SocketAddr,
    recorder: Recorder,
}

impl Peer {
    fn run_cases(&self, cases: &[Case]) -> Vec<CaseResult> {
        cases.iter().map(|case| self.run_case(case)).collect()
    }

    fn run_case(&self, case: &Case) -> CaseResult {
        let observed = self.runner.survey(case);
        self.send_good_request(&case.name);
        let (forwarded, violations) = self.received(&[AGAIN]);
        CaseResult { observed, forwarded, violations }
    }

    /// Sends a valid request. When it is answered, the server has finished with the case before it.
    fn send_good_request(&self, case: &str) {
        let good = format!("GET /good HTTP/1.1\r\nhost: gw\r\n{}\r\nconnection: close\r\n\r\n", self.runner.auth);
        let mut connection = Connection::open(self.runner.addr);
        connection.write(good.as_bytes());
        assert_eq!(
            connection.read_response("GET").map(|response| response.status),
            Some(200),
            "{} after {case}",
            self.name
        );
    }

    /// The forwarded requests except the valid ones sent afterwards, and the number of violations.
    fn received(&self, good: &[&str]) -> (Vec<String>, usize) {
        let (mut forwarded, mut violations) = (Vec::new(), 0);
        for received in self.recorder.take() {
            match received {
                Ok(request) => {
                    let target = request.target.escape_ascii().to_string();
                    if target != "/good" && !good.contains(&target.as_str()) {
                        forwarded.push(format!("{} {target}", request.method));
                    }
                }
                Err(_) => violations += 1,
            }
        }
        (forwarded, violations)
    }
}

/// A real server that `peers/compare` has started.
pub(super) struct NamedPeer {
    pub(super) name: String,
    /// For HTTP/1.1 and for HTTP/2.
    pub(super) addrs: [SocketAddr; 2],
    /// Where the server expects Fastrac.
    pub(super) fastrac: String,
}

impl NamedPeer {
    pub(super) fn all() -> Vec<NamedPeer> {
        let named = std::env::var("HOSTILE_PEERS").expect("HOSTILE_PEERS, as peers/compare sets it");
        let address = |text: Option<&str>| text.and_then(|text| text.parse::<SocketAddr>().ok()).expect("an address");
        let peer = |text: &str| {
            let mut words = text.split('=');
            let name = words.next().expect("a name").to_owned();
            let addrs = [address(words.next()), address(words.next())];
            NamedPeer { name, addrs, fastrac: words.next().expect("Fastrac's address").to_owned() }
        };
        named.split_whitespace().map(peer).collect()
    }

    /// Waits until the server listens.
    pub(super) fn listens(&self) {
        until(&format!("{} listens", self.name), || {
            self.addrs.iter().all(|addr| Connection::try_open(*addr).is_some())
        });
    }
}

fn peers() -> Vec<Peer> {
    let peer = |peer: NamedPeer| {
        let recorder = Recorder::start(&peer.fastrac);
        peer.listens();
        let NamedPeer { name, addrs: [addr, frames], .. } = peer;
        let runner = Runner { addr, read_timeout: Duration::from_secs(3), auth: super::auth() };
        Peer { name, runner, frames, recorder }
    };
    NamedPeer::all().into_iter().map(peer).collect()
}

/// The gateway and the peers, each in front of a recorder.
fn gateway_and_peers() -> (TestGateway, Vec<Peer>) {
    let RecordedGateway { gateway, recorder, runner } = RecordedGateway::open();
    let frames = runner.addr;
    let runner = Runner { read_timeout: Duration::from_secs(3), ..runner };
    let own = Peer { name: "gateway".to_owned(), runner, frames, recorder };
    (gateway, std::iter::once(own).chain(peers()).collect())
}

#[test]
#[ignore = "needs other proxies: hostile/peers/compare"]
fn http1_with_peers() {
    let cases = corpus::all();
    let (_stage, peers) = gateway_and_peers();
    let results: Vec<Vec<CaseResult>> = thread::scope(|scope| {
        let threads: Vec<_> = peers.iter().map(|peer| scope.spawn(|| peer.run_cases(&cases))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("{}", by_family(&peers, &cases, &results));
    println!("{}", stricter_peers(&peers, &cases, &results));
}

#[test]
#[ignore = "needs other proxies: hostile/peers/compare"]
fn http2_with_peers() {
    let attacks = attacks();
    let (_stage, peers) = gateway_and_peers();
    // All servers run at the same time: nearly all of the duration is waiting.
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = peers.iter().map(|peer| scope.spawn(|| peer.run_attacks(&attacks))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("{}", h2::by_family(&peers, &attacks, &results));
    println!("{}", h2::stricter_peers(&peers, &attacks, &results));
    println!("{}", h2::full_table(&peers, &attacks, &results));
}

/// For each family: the number of cases in which something was forwarded, and of violations.
fn by_family(peers: &[Peer], cases: &[Case], results: &[Vec<CaseResult>]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = format!("| family | cases | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, case) in cases.iter().enumerate() {
        let family = case.name.split('/').next().expect("a family");
        rows.entry(family).or_default().push(at);
        rows.entry("~ all").or_default().push(at);
    }
    for (family, members) in rows {
        let _ = write!(text, "| {} | {} |", family.trim_start_matches("~ "), members.len());
        for results in results {
            let forwarded = members.iter().filter(|at| !results[**at].forwarded.is_empty()).count();
            let odd = members.iter().filter(|at| results[**at].violations > 0).count();
            let _ = match odd {
                0 => write!(text, " {forwarded} |"),
                odd => write!(text, " {forwarded} + {odd} broken |"),
            };
        }
        text.push('\n');
    }
    text
}

/// Cases in which the gateway forwards more than another server.
fn stricter_peers(peers: &[Peer], cases: &[Case], results: &[Vec<CaseResult>]) -> String {
    let mut text = String::from("| case | gateway | refused by |\n|---|---|---|\n");
    for (at, case) in cases.iter().enumerate() {
        let own = &results[0][at];
        let stricter: Vec<String> = (1..peers.len())
            .filter(|peer| {
                results[*peer][at].forwarded.len() < own.forwarded.len() && results[*peer][at].violations == 0
            })
            .map(|peer| format!("{} ({})", peers[peer].name, results[peer][at].observed.responses))
            .collect();
        if !stricter.is_empty() {
            let _ = writeln!(text, "| {} | {} | {} |", case.name, own.forwarded.join(", "), stricter.join(", "));
        }
    }
    text
}
