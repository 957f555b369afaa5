//! The fuzz targets' bodies as ordinary tests: the committed corpora, and what other tests have, are
//! replayed. A finding becomes a file in `tests/fuzz/corpus/TARGET`.

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
fn heads_cross_as_one_request_or_not_at_all() {
    replay("head", head::run);
}

#[test]
fn envelopes_are_read_as_serde_reads_them() {
    replay("envelope", envelope::run);
}

#[test]
fn keys_are_shared_by_the_same_question_only() {
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
