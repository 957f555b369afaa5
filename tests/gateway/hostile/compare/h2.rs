//! HTTP/2 sequences against other proxies: the results of streams and connection, and how long they take.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::Peer;
use crate::hostile::h2::{self, Attack, AttackResult, PROBED};

/// A connection that closes later than this was closed by a timeout, not because of the input.
const AT_ONCE: Duration = Duration::from_millis(400);

/// The result of a sequence at one server.
pub(super) struct PeerResult {
    result: AttackResult,
    forwarded: usize,
    violations: usize,
}

impl PeerResult {
    /// Whether the server closed the connection because of the input.
    fn refuses_connection(&self) -> bool {
        self.result.ended && self.result.took < AT_ONCE
    }

    /// In words: results of the streams, state of the connection, duration.
    fn description(&self) -> String {
        let mut fates: BTreeMap<String, usize> = BTreeMap::new();
        for fate in self.result.fates.values() {
            let word = fate.map_or("reset".to_owned(), |status| status.to_string());
            *fates.entry(word).or_default() += 1;
        }
        let mut words: Vec<String> =
            fates.into_iter().map(|(word, count)| if count > 1 { format!("{count} × {word}") } else { word }).collect();
        words.extend(self.result.goaway.map(|code| format!("GOAWAY {code}")));
        words.push(if self.result.ended { "closed" } else { "stands" }.to_owned());
        if self.result.usable {
            words.pop();
            words.push("goes on".to_owned());
        }
        if self.forwarded > 0 {
            words.push(format!("{} forwarded", self.forwarded));
        }
        if self.violations > 0 {
            words.push(format!("{} broken", self.violations));
        }
        if self.result.took >= AT_ONCE {
            words.push(format!("{:.1} s", self.result.took.as_secs_f64()));
        }
        words.join(", ")
    }
}

impl Peer {
    pub(super) fn run_attacks(&self, attacks: &[Attack]) -> Vec<PeerResult> {
        attacks.iter().map(|attack| self.run_attack(attack)).collect()
    }

    fn run_attack(&self, attack: &Attack) -> PeerResult {
        let result = h2::perform(self.frames, attack);
        self.send_good_request(&attack.name);
        let (forwarded, violations) = self.received(&[PROBED]);
        PeerResult { result, forwarded: forwarded.len(), violations }
    }
}

/// For each family: the number of sequences in which something was forwarded, the number in which the connection
/// was closed because of the input, and the longest duration.
pub(super) fn by_family(peers: &[Peer], attacks: &[Attack], results: &[Vec<PeerResult>]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = format!("| family | sequences | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, attack) in attacks.iter().enumerate() {
        rows.entry(family(attack)).or_default().push(at);
        rows.entry("~ all").or_default().push(at);
    }
    for (family, members) in rows {
        let _ = write!(text, "| {} | {} |", family.trim_start_matches("~ "), members.len());
        for results in results {
            let count = |holds: fn(&PeerResult) -> bool| members.iter().filter(|at| holds(&results[**at])).count();
            let (forwarded, ended) = (count(|result| result.forwarded > 0), count(PeerResult::refuses_connection));
            let longest = members.iter().map(|at| results[*at].result.took).max().unwrap_or_default();
            let broken = match count(|result| result.violations > 0) {
                0 => String::new(),
                odd => format!(" + {odd} broken"),
            };
            let _ = write!(text, " {forwarded}{broken}, {ended} ended, {:.1} s |", longest.as_secs_f64());
        }
        text.push('\n');
    }
    text
}

fn family(attack: &Attack) -> &str {
    attack.name.split('/').nth(1).expect("a family")
}

/// Sequences for which another server forwards less or closes a connection that the gateway keeps.
pub(super) fn stricter_peers(peers: &[Peer], attacks: &[Attack], results: &[Vec<PeerResult>]) -> String {
    let mut text = String::from("| sequence | gateway | stricter |\n|---|---|---|\n");
    for (at, attack) in attacks.iter().enumerate() {
        let own = &results[0][at];
        let stricter: Vec<String> = (1..peers.len())
            .filter(|peer| {
                let theirs = &results[*peer][at];
                theirs.violations == 0
                    && (theirs.forwarded < own.forwarded || theirs.refuses_connection() && !own.refuses_connection())
            })
            .map(|peer| format!("{} ({})", peers[peer].name, results[peer][at].description()))
            .collect();
        if !stricter.is_empty() {
            let _ = writeln!(text, "| {} | {} | {} |", attack.name, own.description(), stricter.join("; "));
        }
    }
    text
}

/// The results of all servers for all sequences.
pub(super) fn full_table(peers: &[Peer], attacks: &[Attack], results: &[Vec<PeerResult>]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = format!("| sequence | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (at, attack) in attacks.iter().enumerate() {
        let cells: Vec<String> = results.iter().map(|results| results[at].description()).collect();
        let _ = writeln!(text, "| {} | {} |", attack.name, cells.join(" | "));
    }
    text
}
