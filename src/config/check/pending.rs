//! Keys that this version reads and checks but does not act on.
//!
//! Ignoring such a key is a warning. Ignoring `state.shared` would multiply every limit by the number of replicas, so
//! it is an error. Remove a key from the lists here in the change that makes it work.

use super::{Diagnostics, KeyPath, key_path::KeySegment, read::Tree};

/// Keys without effect; `*` is any name.
const IGNORED: [&[&str]; 1] = [&["orders", "on_store_loss"]];

/// Keys that must not be ignored.
const UNSUPPORTED: [&[&str]; 1] = [&["state", "shared"]];

/// Reports every such key that the file sets.
pub(super) fn check(tree: &Tree<'_>, diagnostics: &mut Diagnostics) {
    tree.walk(|place, _| {
        let listed = |keys: &[&[&str]]| keys.iter().any(|pattern| matches(place, pattern));
        if listed(&IGNORED) {
            diagnostics.warn_as_written(place, "has no effect: this version does not act on it yet");
        } else if listed(&UNSUPPORTED) {
            let message = "is not supported yet: every replica would count each limit by itself; remove it, and run \
                           one instance";
            diagnostics.error_as_written(place, message);
        }
    });
}

fn matches(place: &KeyPath, pattern: &[&str]) -> bool {
    place.segments().len() == pattern.len()
        && place.segments().iter().zip(pattern).all(|(segment, wanted)| match segment {
            KeySegment::Key(key) => *wanted == "*" || key == wanted,
            KeySegment::Index(_) => false,
        })
}
