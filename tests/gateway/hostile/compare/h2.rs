//! HTTP/2 sequences at other proxies: what becomes of the streams, of the connection, and how soon.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::Peer;
use crate::hostile::h2::{self, Attack, PROBED, Seen};

/// What ends later than this was ended by a deadline, not by what was sent.
const AT_ONCE: Duration = Duration::from_millis(400);

/// What a server made of a sequence.
pub(super) struct Met {
    seen: Seen,
    forwarded: usize,
    violations: usize,
}

impl Met {
    /// Whether the connection ended on account of what was sent.
    fn refuses_connection(&self) -> bool {
        self.seen.ended && self.seen.took < AT_ONCE
    }

    /// In words: the streams, the connection, the time.
    fn told(&self) -> String {
        let mut fates: BTreeMap<String, usize> = BTreeMap::new();
        for fate in self.seen.fates.values() {
            let word = fate.map_or("reset".to_owned(), |status| status.to_string());
            *fates.entry(word).or_default() += 1;
        }
        let mut words: Vec<String> =
            fates.into_iter().map(|(word, count)| if count > 1 { format!("{count} × {word}") } else { word }).collect();
        words.extend(self.seen.goaway.map(|code| format!("GOAWAY {code}")));
        words.push(if self.seen.ended { "closed" } else { "stands" }.to_owned());
        if self.seen.usable {
            words.pop();
            words.push("goes on".to_owned());
        }
        if self.forwarded > 0 {
            words.push(format!("{} forwarded", self.forwarded));
        }
        if self.violations > 0 {
            words.push(format!("{} broken", self.violations));
        }
        if self.seen.took >= AT_ONCE {
            words.push(format!("{:.1} s", self.seen.took.as_secs_f64()));
        }
        words.join(", ")
    }
}

impl Peer {
    pub(super) fn meet_all(&self, attacks: &[Attack]) -> Vec<Met> {
        attacks.iter().map(|attack| self.meet(attack)).collect()
    }

    fn meet(&self, attack: &Attack) -> Met {
        let seen = h2::perform(self.frames, attack);
        self.ask_good(&attack.name);
        let (forwarded, violations) = self.received(&[PROBED]);
        Met { seen, forwarded: forwarded.len(), violations }
    }
}

/// For each family: in how many sequences something was forwarded, in how many the connection was ended on
/// account of it, and the longest that one took.
pub(super) fn by_family(peers: &[Peer], attacks: &[Attack], met: &[Vec<Met>]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = format!("| family | sequences | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, attack) in attacks.iter().enumerate() {
        rows.entry(family(attack)).or_default().push(at);
        rows.entry("~ all").or_default().push(at);
    }
    for (family, members) in rows {
        let _ = write!(text, "| {} | {} |", family.trim_start_matches("~ "), members.len());
        for met in met {
            let count = |holds: fn(&Met) -> bool| members.iter().filter(|at| holds(&met[**at])).count();
            let (forwarded, ended) = (count(|met| met.forwarded > 0), count(Met::refuses_connection));
            let longest = members.iter().map(|at| met[*at].seen.took).max().unwrap_or_default();
            let broken = match count(|met| met.violations > 0) {
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

/// Where another one forwards less, ends the connection that the gateway goes on with, or is done sooner.
pub(super) fn laxer(peers: &[Peer], attacks: &[Attack], met: &[Vec<Met>]) -> String {
    let mut text = String::from("| sequence | gateway | stricter |\n|---|---|---|\n");
    for (at, attack) in attacks.iter().enumerate() {
        let own = &met[0][at];
        let stricter: Vec<String> = (1..peers.len())
            .filter(|peer| {
                let theirs = &met[*peer][at];
                theirs.violations == 0
                    && (theirs.forwarded < own.forwarded || theirs.refuses_connection() && !own.refuses_connection())
            })
            .map(|peer| format!("{} ({})", peers[peer].name, met[peer][at].told()))
            .collect();
        if !stricter.is_empty() {
            let _ = writeln!(text, "| {} | {} | {} |", attack.name, own.told(), stricter.join("; "));
        }
    }
    text
}

/// Everything, for who wants to know.
pub(super) fn each(peers: &[Peer], attacks: &[Attack], met: &[Vec<Met>]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = format!("| sequence | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (at, attack) in attacks.iter().enumerate() {
        let cells: Vec<String> = met.iter().map(|met| met[at].told()).collect();
        let _ = writeln!(text, "| {} | {} |", attack.name, cells.join(" | "));
    }
    text
}
