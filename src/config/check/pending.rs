//! Keys that are read and checked, but not obeyed yet.
//!
//! Whoever makes one work deletes its line here.

use super::{Diagnostics, KeyPath, key_path::KeySegment, read::Tree};

/// Keys; `*` is any name.
const PENDING: [&[&str]; 5] = [
    // later issues: fairness, cache in full, replicas
    &["services", "*", "share"],
    &["cache", "snapshot"],
    &["operations", "*", "cache", "refresh_ahead"],
    &["operations", "*", "cache", "stale_if_error"],
    &["state", "shared"],
];

/// Warns of every such key that the file sets.
pub(super) fn warn(tree: &Tree<'_>, diagnostics: &mut Diagnostics) {
    tree.walk(|place, _| {
        if PENDING.iter().any(|pattern| matches(place, pattern)) {
            diagnostics.warn_as_written(place, "is set, but this version does not obey it yet");
        }
    });
}

fn matches(place: &KeyPath, pattern: &[&str]) -> bool {
    place.segments().len() == pattern.len()
        && place.segments().iter().zip(pattern).all(|(part, wanted)| match part {
            KeySegment::Key(key) => *wanted == "*" || key == wanted,
            KeySegment::Index(_) => false,
        })
}
