//! Keys that are read and checked, but not obeyed yet.
//!
//! Whoever makes one work deletes its line here.

use toml::de::DeValue;

use super::{Findings, Place, place::Part, read::Tree};

/// A key (`*` is any name), and its value if it is about one value only.
const PENDING: [(&[&str], Option<&str>); 5] = [
    // later issues: fairness, cache in full, replicas
    (&["services", "*", "share"], None),
    (&["cache", "snapshot"], None),
    (&["operations", "*", "cache", "refresh_ahead"], None),
    (&["operations", "*", "cache", "stale_if_error"], None),
    (&["state", "shared"], None),
];

/// Warns of every such key that the file sets.
pub(super) fn warn(tree: &Tree<'_>, findings: &mut Findings) {
    tree.walk(|place, _, value| {
        if PENDING.iter().any(|(pattern, only)| matches(place, pattern) && only.is_none_or(|only| is(value, only))) {
            findings.warn_as_written(place, "is set, but this version does not obey it yet");
        }
    });
}

fn matches(place: &Place, pattern: &[&str]) -> bool {
    place.parts().len() == pattern.len()
        && place.parts().iter().zip(pattern).all(|(part, wanted)| match part {
            Part::Key(key) => *wanted == "*" || key == wanted,
            Part::Index(_) => false,
        })
}

fn is(value: &DeValue<'_>, only: &str) -> bool {
    value.as_str().is_some_and(|text| text == only)
}
