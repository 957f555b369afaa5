//! Runs the fuzz targets as ordinary tests, on the committed corpora and on configurations of other tests. An input for
//! which a target failed is kept as a file in `tests/fuzz/corpus/TARGET`.

mod config;
mod envelope;
mod head;
mod key;
mod mask;

use std::{fs, path::Path};

/// Runs a target on every file of its corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let mut count = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    for entry in fs::read_dir(folder).expect("a corpus") {
        run(&fs::read(entry.expect("an entry").path()).expect("a file"));
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn a_head_is_forwarded_as_one_request_or_refused() {
    replay("head", head::run);
}

#[test]
fn envelopes_are_parsed_as_serde_parses_them() {
    replay("envelope", envelope::run);
}

#[test]
fn cache_keys_are_equal_for_equivalent_requests_only() {
    replay("key", key::run);
}

#[test]
fn masked_bodies_keep_their_shape() {
    replay("mask", mask::run);
}

#[test]
fn configurations_are_checked_without_a_panic() {
    replay("config", config::run);
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/corpus/config"));
    for entry in files.expect("a corpus") {
        config::run(&fs::read(entry.expect("an entry").path()).expect("a file"));
    }
}
