//! What an account's pairs survive: a service that causes 401s itself, and moves of the account to other addresses.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, KeyPair, Options, Sandbox};

use crate::{
    bodies,
    client::post,
    test_gateway::{ACCESS, SECRET, Setup, TestGateway, digest_of, pair, sandbox, until, write},
};

const NEXT: (&str, &str) = ("canary-fastrac-access-7d1c-next", "canary/fastrac+secret=93f0a2-next");

/// A vault that holds one pair and counts how often it is read.
#[derive(Default)]
struct VaultStub {
    pair: Mutex<(String, String)>,
    reads: AtomicU64,
}

impl VaultStub {
    fn start(access: &str, secret: &str) -> (Arc<VaultStub>, SocketAddr) {
        let stub = Arc::new(VaultStub { pair: Mutex::new((access.to_owned(), secret.to_owned())), ..Self::default() });
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let (serving, address) = (stub.clone(), listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
                    head.push(byte[0]);
                }
                let body = serving.body(&String::from_utf8_lossy(&head));
                let length = body.len();
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            }
        });
        (stub, address)
    }

    fn body(&self, head: &str) -> String {
        if !head.contains("/v1/secret/data/") {
            return r#"{"data":{"options":{"version":"2"}}}"#.to_owned();
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let (access, secret) = self.pair.lock().expect("whole").clone();
        let data = serde_json::json!({ "access_key": access, "secret_key": secret });
        serde_json::json!({ "data": { "data": data, "metadata": { "version": 1 } } }).to_string()
    }
}

/// A gateway whose account `other` has its pair in a vault, with the services `branch` and `depot`.
fn with_vault(vault: SocketAddr, fastrac: &Sandbox) -> TestGateway {
    let mut more = format!(
        "[vault]\naddress = \"http://{vault}\"\nauth = {{ method = \"token\", token_file = \"vault-token\" }}\n\
         [accounts.other]\nbase_url = \"http://{}\"\nkeys = {{ source = \"vault\", path = \"fastrac/main\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512 }}\n",
        fastrac.addr()
    );
    for service in ["branch", "depot"] {
        let digest = digest_of(service);
        more.push_str(&format!(
            "[services.{service}]\naccount = \"other\"\nallow = [\"quote\"]\n\
             credentials = [{{ access_key = \"svc-{service}-1\", secret_sha256 = \"{digest}\" }}]\n"
        ));
    }
    let files = vec![("vault-token", "hvs.canary-token-0123456789".to_owned())];
    Setup { more: more.leak(), files, ..Setup::default() }.start()
}

/// One request that caused its own 401 decided all later ones of its service and operation for ten seconds: they got
/// Fastrac's 401 after a rotation, and the vault, which had the new pair, was not read.
#[test]
fn what_a_service_caused_once_hides_no_rotation() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let (vault, address) = VaultStub::start(ACCESS, SECRET);
    let gateway = with_vault(address, &fastrac);
    let branch = post("/item/multi-items", bodies::MULTI_ITEMS).by("branch");
    let depot = post("/tariff/express", bodies::TARIFF).by("depot");
    until("the pair is in use", || gateway.send(branch.clone()).outcome() == "ok");
    fastrac.fault(Fault::on("v2.multi_items", Act::Html(401)).times(1));
    assert_eq!(gateway.send(branch.clone()).outcome(), "rejected");
    fastrac.add_key("next", NEXT.0, NEXT.1);
    *vault.pair.lock().expect("whole") = (NEXT.0.to_owned(), NEXT.1.to_owned());
    fastrac.revoke(ACCESS);
    let began = Instant::now();
    until("the new pair is in use", || gateway.send(branch.clone()).outcome() == "ok");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "about a second, not ten: {took:?}");

    // Twenty 401s a second that requests cause themselves cost neither readings nor canaries beside good traffic.
    fastrac.fault(Fault::on("v2.multi_items", Act::Html(401)));
    let (reads, canaries) = (vault.reads.load(Ordering::Relaxed), || {
        gateway.metric("upstream_requests_total", &[("account", "other"), ("operation", "v2.province")])
    });
    let before = canaries();
    for _ in 0..60 {
        assert_eq!(gateway.send(branch.clone()).outcome(), "rejected");
        assert_eq!(gateway.send(depot.clone()).outcome(), "ok");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (reads, canaries) = (vault.reads.load(Ordering::Relaxed) - reads, canaries() - before);
    // On a slow machine, good traffic may pause for more than a second.
    assert!(reads <= 3 && canaries <= 3.0, "{reads} readings and {canaries} canaries in three seconds");
}

/// Requests of 12 connections, until dropped.
struct Load<'a> {
    ended: &'a AtomicBool,
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Runs `change` while 12 connections send requests; returns the responses that were no success.
fn failures_during(data: SocketAddr, change: impl FnOnce(&dyn Fn())) -> Vec<String> {
    let (ended, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut connection = crate::client::Connection::open(data);
                while !ended.load(Ordering::Relaxed) {
                    let response = connection.send(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop"));
                    if response.outcome() != "ok" {
                        failures.lock().expect("whole").push(response.text());
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _load = Load { ended: &ended };
        let some = || {
            let before = served.load(Ordering::Relaxed);
            until("requests are served", || served.load(Ordering::Relaxed) > before + 48);
        };
        some();
        change(&some);
    });
    failures.into_inner().expect("whole")
}

fn key_file(folder: &Path, name: &str, (access, secret): (&str, &str)) {
    write(&folder.join(name), &pair(access, secret));
}

/// After a reload with another address, requests got `no_key` until the pair was verified there.
#[test]
fn a_move_of_the_account_fails_no_request() {
    let mut gateway = Setup { log: "exchanges = \"none\"", ..Setup::default() }.start();
    let others: Vec<_> = (0..2).map(|_| Sandbox::start(sandbox()).expect("a sandbox")).collect();
    let strangers = Options { keys: vec![KeyPair::new("next", NEXT.0, NEXT.1)], ..sandbox() };
    let stranger = Sandbox::start(strangers).expect("a sandbox");
    let mut address = gateway.sandbox.addr();
    key_file(gateway.folder.path(), "next.toml", NEXT);
    let data = gateway.data;
    let failures = failures_during(data, |some| {
        for number in 0..8 {
            let next = others[number % 2].addr();
            gateway.reload(&format!("http://{address}"), &format!("http://{next}"));
            address = next;
            some();
        }
        // An account of another Fastrac, with a pair of its own: the old pair is never sent there.
        gateway.rewrite("path = \"keys.toml\"", "path = \"next.toml\"");
        gateway.reload(&format!("http://{address}"), &format!("http://{}", stranger.addr()));
        some();
    });
    assert!(failures.is_empty(), "{} requests failed, such as {}", failures.len(), failures[0]);
    assert!(others.iter().all(|other| other.counters().requests > 0) && stranger.counters().requests > 0);
    assert_eq!(stranger.counters().unauthenticated, 0, "a pair was sent to an address that it was not configured for");
    let pairs = gateway.app().gateway.current.load().accounts[0].keys.status().pairs;
    assert_eq!(pairs.len(), 1, "{pairs:?}");
}
