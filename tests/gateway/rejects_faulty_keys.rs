//! The account's key pair can change under load, and a faulty pair never comes into use.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
};

use fastrac_sandbox::Sandbox;

use crate::{
    bodies,
    client::{get, post},
    test_gateway::{ACCESS, SECRET, Setup, TWIN, TestGateway, digest_of, pair, twin, until, write},
};

/// A second pair; it begins with the canaries.
const SECOND: (&str, &str) = ("canary-fastrac-access-7d1c-second", "canary/fastrac+secret=93f0a2-second");

fn replace(gateway: &TestGateway, text: &str) {
    write(&gateway.folder.path().join("keys.toml"), text);
}

fn label(gateway: &TestGateway) -> Option<String> {
    let request = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!((request.status, request.outcome()), (200, "ok"), "{}", request.text());
    gateway.sandbox.journal().pop().and_then(|entry| entry.key).map(|label| label.to_string())
}

#[test]
fn a_new_pair_takes_over_without_a_failed_request() {
    let gateway = TestGateway::new();
    gateway.sandbox.add_key("second", SECOND.0, SECOND.1);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = gateway.connect();
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(connection.send(&post("/tariff/express", bodies::TARIFF).by("shop")).outcome(), "ok");
                }
            });
        }
        replace(&gateway, &pair(SECOND.0, SECOND.1));
        until("the new pair is in use", || label(&gateway).as_deref() == Some("second"));
        ended.store(true, Ordering::Relaxed);
    });
    gateway.sandbox.revoke(ACCESS);
    assert_eq!(label(&gateway).as_deref(), Some("second"));
    let journal = gateway.sandbox.journal();
    let second = journal.iter().position(|entry| entry.key.as_deref() == Some("second")).expect("used");
    assert_eq!(journal[second].target(), "/region/province", "it is verified by a lookup first");
    assert!(journal.iter().all(|entry| entry.key.is_some()), "no request mixes two pairs");
    assert_eq!(gateway.sandbox.counters().unauthenticated, 0);
}

#[test]
fn a_pair_that_fastrac_refuses_never_takes_over() {
    let gateway = TestGateway::new();
    replace(&gateway, &pair("canary-fastrac-access-7d1c-bad", SECRET));
    until("it is tried", || gateway.sandbox.counters().unauthenticated >= 1);
    until("it is reported", || gateway.admin("/readyz").text().contains("refuses the new key pair"));
    assert_eq!(label(&gateway).as_deref(), Some("gateway"));
    replace(&gateway, &pair(ACCESS, SECRET));
    until("nothing is degraded any more", || gateway.admin("/readyz").json()["degraded"] == serde_json::json!([]));
}

#[test]
fn a_faulty_key_file_keeps_the_old_pair_and_is_reported() {
    let gateway = TestGateway::new();
    let half = "[main]\naccess_key = \"canary-fastrac-access-7d1c-half\"\n";
    let file = gateway.folder.path().join("keys.toml");
    for text in [half, "secret_key = canary-fastrac"] {
        replace(&gateway, text);
        until("it is reported", || gateway.admin("/readyz").text().contains("the key source cannot be read"));
        assert_eq!(label(&gateway).as_deref(), Some("gateway"), "{text}");
        replace(&gateway, &pair(ACCESS, SECRET));
        until("it is read again", || gateway.admin("/readyz").json()["degraded"] == serde_json::json!([]));
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
    until("the unsafe file mode is reported", || {
        gateway.admin("/readyz").text().contains("the key source cannot be read")
    });
    fs::remove_file(&file).expect("gone");
    assert_eq!(label(&gateway).as_deref(), Some("gateway"));
    assert_eq!(gateway.admin("/readyz").status, 200, "still ready: it can serve hits and refusals");
}

#[test]
fn a_pair_refused_in_use_is_replaced_at_once_from_its_source() {
    let gateway = TestGateway::new();
    gateway.sandbox.add_key("second", SECOND.0, SECOND.1);
    write(&gateway.folder.path().join("keys.toml"), &pair(SECOND.0, SECOND.1));
    gateway.sandbox.revoke(ACCESS);
    // No caller sees a refusal, whether the source had been read already or is read because of the refusal.
    for _ in 0..5 {
        assert_eq!(label(&gateway).as_deref(), Some("second"));
    }
}

#[test]
fn a_key_that_fastrac_refuses_locks_the_account_out_until_a_canary_is_good() {
    let gateway = TestGateway::new();
    let send = || gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert!(gateway.sandbox.revoke(ACCESS));
    assert_eq!(send().outcome(), "key_rejected");
    let (before, began) = (gateway.sandbox.counters().requests, std::time::Instant::now());
    while began.elapsed() < std::time::Duration::from_millis(3_500) {
        let response = send();
        let (outcome, sent, code) = (response.outcome(), response.sent(), response.code());
        assert_eq!((response.status, outcome, sent, code.as_str()), (503, "no_key", "no", "keys.unavailable"));
        let wait: u64 = response.header("retry-after").expect("a wait").parse().expect("seconds");
        assert!((1..=5).contains(&wait), "{wait} s");
    }
    let request = gateway.sandbox.counters().requests - before;
    assert!((1..=3).contains(&request), "{request} reached Fastrac");
    gateway.sandbox.add_key("gateway", ACCESS, SECRET);
    let began = std::time::Instant::now();
    until("a canary verifies it again", || send().outcome() == "ok");
    assert!(began.elapsed() < std::time::Duration::from_secs(6), "{:?}", began.elapsed());
}

/// systemd writes credentials just before it starts the program; files that new are accepted only after a short delay.
#[test]
fn a_start_waits_briefly_for_a_pair_that_was_just_written() {
    let fastrac = Sandbox::start(twin()).expect("a sandbox");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("access_key"), TWIN.0).expect("written");
    fs::write(folder.path().join("secret_key"), TWIN.1).expect("written");
    let more = format!(
        "[accounts.other]\nbase_url = \"http://{}\"\nkeys = {{ source = \"directory\", path = {:?} }}\n\
         budget = {{ per_day = 1000 }}\n[services.depot]\naccount = \"other\"\n\
         credentials = [{{ access_key = \"svc-depot-1\", secret_sha256 = \"{}\" }}]\n",
        fastrac.addr(),
        folder.path(),
        digest_of("depot")
    );
    let gateway = Setup { more: more.leak(), wait: false, ..Setup::default() }.start();
    let response = gateway.send(get("/region/province").by("depot"));
    assert_eq!(response.status, 200, "{}", response.text());
}
