//! Who may do what, on both ports, and what is recorded of it: tokens, roles, guesses, credentials that end, the audit
//! log, and the process's own memory.

use std::fs;

use fastrac_sandbox::Sandbox;

use crate::{
    bodies,
    client::{Connection, Request, get, post, request},
    process::Program,
    test_gateway::{ACCESS, SECRET, Setup, TestGateway, canary_in, digest_of, sandbox, secret_of, until},
};

/// Tokens by name and role; the token of `ops` is the secret of that name.
const TOKENS: [(&str, &str); 2] = [("ops", "operate"), ("eyes", "read")];

fn admin_table() -> String {
    let token = |(name, role)| format!("{{ name = \"{name}\", sha256 = \"{}\", role = \"{role}\" }}", digest_of(name));
    format!("[admin]\ntokens = [{}]\n", TOKENS.map(token).join(", "))
}

fn with_token(request: Request, holder: &str) -> Request {
    request.header("host", "localhost").header("authorization", &format!("Bearer {}", secret_of(holder)))
}

/// Contract section 7, Access: every POST and every refused token is a line beside the exchange log.
#[test]
fn the_audit_log_lies_beside_the_exchange_log_and_names_the_token() {
    let more: &'static str = admin_table().leak();
    let gateway = Setup { log: "exchanges = \"logs/exchanges.jsonl\"", more, ..Setup::default() }.start();
    let ask = |request| Connection::open(gateway.app().admin).send(&request).status;
    assert_eq!(ask(with_token(request("POST", "/cache/purge"), "ops")), 200);
    assert_eq!(ask(with_token(request("POST", "/cache/purge"), "eyes")), 403);
    assert_eq!(ask(with_token(get("/status"), "eyes")), 200);
    assert_eq!(ask(with_token(get("/status"), "nobody")), 401);
    let file = gateway.folder.path().join("logs/audit.jsonl");
    let lines = || fs::read_to_string(&file).unwrap_or_default();
    until("three lines", || lines().lines().count() == 3);
    let lines = lines();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |index: usize| {
        let word = |name: &str| lines[index][name].as_str().unwrap_or("-");
        [word("token"), word("action"), word("result"), word("peer")]
    };
    assert_eq!(told(0), ["ops", "cache_purge", "done", "127.0.0.1"]);
    assert_eq!(told(1), ["eyes", "cache_purge", "refused", "127.0.0.1"]);
    assert_eq!(told(2), ["-", "status", "refused", "127.0.0.1"]);
}

/// It covers the disk and what is being fetched too, so that a line without it would say that everything was purged.
#[test]
fn the_audit_line_of_a_purge_names_its_path_prefix_whatever_it_removes() {
    let more: &'static str = admin_table().leak();
    let gateway = Setup { more, ..Setup::default() }.start();
    assert_eq!(gateway.send(get("/region/city?province_id=31").by("shop")).status, 200);
    let prefixes = ["/region/city", "/region/city", "/elsewhere"];
    for prefix in prefixes {
        let purge = request("POST", "/cache/purge").json(&format!(r#"{{"path_prefix":"{prefix}"}}"#));
        assert_eq!(Connection::open(gateway.app().admin).send(&with_token(purge, "ops")).status, 200);
    }
    let file = gateway.folder.path().join("state/audit.jsonl");
    let lines = || fs::read_to_string(&file).unwrap_or_default();
    until("three lines", || lines().lines().count() == 3);
    let lines: Vec<serde_json::Value> = lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for ((line, prefix), entries) in lines.iter().zip(prefixes).zip([1, 0, 0]) {
        assert_eq!((&line["path_prefix"], &line["entries"]), (&prefix.into(), &entries.into()), "{line}");
    }
}

/// The time of last use that the admin port shows for the credential of a service.
fn last_used(gateway: &TestGateway, service: &str) -> Option<i64> {
    let status = gateway.admin("/status").json();
    let shown = status["services"][service]["credentials"][0]["last_used"].as_str().map(str::to_owned);
    shown.map(|text| text.parse::<jiff::Timestamp>().unwrap().as_second())
}

/// Contract section 3: `expires` ends a credential; `/status` and a metric show when each was last used.
#[test]
fn a_credential_ends_by_itself_and_says_when_it_was_last_used() {
    let services = &[("depot", "quota = { per_day = 1000 }")];
    let mut gateway = Setup { services, ..Setup::default() }.start();
    let outcome = |gateway: &TestGateway| gateway.send(get("/region/province").by("depot")).outcome().to_owned();
    assert_eq!(last_used(&gateway, "depot"), None);
    let series = [("service", "depot"), ("access_key", "svc-depot-1")];
    let began = jiff::Timestamp::now().as_second();
    assert!(["ok", "hit"].contains(&outcome(&gateway).as_str()));
    let used = last_used(&gateway, "depot").expect("it was used");
    assert!((began..=jiff::Timestamp::now().as_second()).contains(&used));
    let metrics = gateway.admin("/metrics").text();
    assert_eq!(crate::test_gateway::sum(&metrics, "credential_last_used_timestamp_seconds", &series), used as f64);

    let today = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::get("Asia/Jakarta").unwrap()).date();
    let digest = format!("secret_sha256 = \"{}\"", digest_of("depot"));
    let until_day = |date: jiff::civil::Date| format!("{digest}, expires = \"{date}\"");
    let (tomorrow, yesterday) = (today.tomorrow().unwrap(), today.yesterday().unwrap());
    gateway.reload(&digest, &until_day(tomorrow));
    assert_eq!(outcome(&gateway), "hit");
    assert!(last_used(&gateway, "depot") >= Some(used), "a reload forgot it");
    gateway.reload(&until_day(tomorrow), &until_day(yesterday));
    let response = gateway.send(get("/region/province").by("depot"));
    assert_eq!((response.status, response.code().as_str()), (401, "caller.unknown"));
    assert_eq!(
        gateway.admin("/status").json()["services"]["depot"]["credentials"][0]["expires"],
        yesterday.to_string()
    );
}

/// Contract section 4: from the 300th failed proof within a minute on, an address gets 429; a correct proof is never
/// slowed.
#[test]
fn guesses_of_a_secret_are_slowed_and_correct_proofs_are_not() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    let guess = get("/region/province").pair("svc-shop-1", "fgw_canary_guess");
    for failed in 1..300 {
        assert_eq!(connection.send(&guess).status, 401, "{failed}");
    }
    // One more passes in 12 s.
    until("failed proofs are slowed", || gateway.send(guess.clone()).status == 429);
    for _ in 0..3 {
        // From the same address, on any connection.
        let response = gateway.send(guess.clone());
        assert_eq!((response.status, response.code().as_str()), (429, "caller.unknown"));
        let wait: u64 = response.header("retry-after").expect("a wait").parse().expect("seconds");
        assert!((1..=65).contains(&wait), "{wait}");
        assert_eq!(response.outcome(), "unauthenticated");
        assert_eq!(connection.send(&get("/region/province").by("shop")).status, 200);
    }
    // Without a proof there is nothing to guess.
    assert_eq!(gateway.send(get("/region/province")).status, 401);
}

/// SECURITY.md: a stolen state folder shows responses to keyed orders, in clear, and no secret or digest of one.
#[test]
fn the_state_folder_holds_keyed_responses_and_no_secret() {
    let more: &'static str = admin_table().leak();
    let gateway = Setup { more, ..Setup::default() }.start();
    let order = post("/order/express", &bodies::order(1)).by("shop").header("idempotency-key", "first-order-of-a-test");
    let response = gateway.send(order.clone());
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(gateway.send(order).header("idempotent-replayed"), Some("true"));
    let purge = with_token(request("POST", "/cache/purge"), "ops");
    assert_eq!(Connection::open(gateway.app().admin).send(&purge).status, 200);
    gateway.lines(2);
    let folder = gateway.folder.path().join("state");
    let files: Vec<Vec<u8>> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| fs::read(entry.expect("an entry").path()).expect("a file"))
        .collect();
    assert!(files.len() >= 4, "store and logs: {}", files.len());
    let holds = |part: &[u8]| files.iter().any(|file| memchr::memmem::find(file, part).is_some());
    assert!(holds(&response.body), "the page says that it is there");
    assert_eq!(files.iter().find_map(|file| canary_in(file)), None);
    for holder in ["shop", "ops"] {
        assert!(!holds(secret_of(holder).as_bytes()) && !holds(digest_of(holder).as_bytes()), "{holder}");
        assert!(!holds(&hex::decode(digest_of(holder)).expect("a digest")), "{holder}");
    }
    assert!(!holds(b"first-order-of-a-test"), "keys are digests");
}

/// A bug: only the systemd unit switched core dumps off.
#[cfg(target_os = "linux")]
#[test]
fn the_process_dumps_no_core() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let configuration = format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[accounts.main]\nbase_url = \"http://{}\"\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\n[services.shop]\naccount = \"main\"\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        fastrac.addr(),
        digest_of("shop")
    );
    let program = Program::start(&configuration, ACCESS, SECRET);
    let limits = fs::read_to_string(program.proc("limits")).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}
