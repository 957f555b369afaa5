//! The configuration can be reloaded under load any number of times, and no state is lost.
//!
//! `a_thousand_reloads_in_a_minute` takes a minute and is ignored by default: run it with
//! `cargo nextest run --release -E 'test(a_thousand_reloads)' --run-ignored all --no-capture`. A shorter form,
//! sixty reloads in three seconds, always runs.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};

use fastrac_gateway::{files::configuration::LoadError, gateway::ReloadError};

use crate::{
    authority::Authority,
    bodies,
    client::{get, post},
    test_gateway::{Setup, TestGateway, digest_of, until, write},
};

/// The budget of most gateways here.
const BUDGET: &str = "per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512";

fn configuration(gateway: &TestGateway) -> std::path::PathBuf {
    gateway.folder.path().join("gateway.toml")
}

/// The outcome of a request that is always sent to Fastrac.
fn quote(gateway: &TestGateway, by: &str) -> String {
    gateway.send(post("/tariff/express", bodies::TARIFF).by(by)).outcome().to_owned()
}

fn failing() -> Fault {
    Fault::on("v2.tariff_express", Act::Html(503))
}

#[test]
fn a_changed_quota_keeps_the_count_of_the_day() {
    let services = &[("shelf", "quota = { per_day = 10 }")];
    let mut gateway = Setup { services, ..Setup::default() }.start();
    for _ in 0..4 {
        assert_eq!(quote(&gateway, "shelf"), "ok");
    }
    gateway.reload("quota = { per_day = 10 }", "quota = { per_day = 5 }");
    assert_eq!((quote(&gateway, "shelf"), quote(&gateway, "shelf")), ("ok".to_owned(), "over_quota".to_owned()));
    gateway.reload("quota = { per_day = 5 }", "quota = { per_day = 6 }");
    assert_eq!((quote(&gateway, "shelf"), quote(&gateway, "shelf")), ("ok".to_owned(), "over_quota".to_owned()));
}

#[test]
fn a_changed_budget_keeps_the_count_of_the_day() {
    let mut gateway = Setup { budget: "per_second = 1000, per_day = 10", ..Setup::default() }.start();
    // The canary lookup was one of them.
    for _ in 0..4 {
        assert_eq!(quote(&gateway, "shop"), "ok");
    }
    gateway.reload("per_day = 10", "per_day = 6");
    assert_eq!((quote(&gateway, "shop"), quote(&gateway, "shop")), ("ok".to_owned(), "over_budget".to_owned()));
    gateway.reload("per_day = 6", "per_day = 7");
    assert_eq!((quote(&gateway, "shop"), quote(&gateway, "shop")), ("ok".to_owned(), "over_budget".to_owned()));
}

#[test]
fn a_changed_rate_grants_no_second_burst() {
    let mut gateway = Setup { budget: "per_second = 1, burst = 20, max_wait = \"0s\"", ..Setup::default() }.start();
    while quote(&gateway, "shop") == "ok" {}
    gateway.reload("burst = 20", "burst = 21");
    let sent = (0..10).filter(|_| quote(&gateway, "shop") == "ok").count();
    assert!(sent <= 3, "{sent} were sent out of a new burst");
}

#[test]
fn an_open_breaker_stays_open_when_its_settings_change() {
    let breaker = "minimum = 5, failures = 0.5, open = \"30m\"";
    let mut gateway = Setup { breaker, ..Setup::default() }.start();
    gateway.sandbox.fault(failing());
    until("it opens", || quote(&gateway, "shop") == "breaker_open");
    gateway.sandbox.clear_faults();
    for (from, to) in [("minimum = 5", "minimum = 6"), ("open = \"30m\"", "open = \"40m\"")] {
        gateway.reload(from, to);
        assert_eq!(quote(&gateway, "shop"), "breaker_open", "{to}");
    }
}

#[test]
fn failures_before_a_reload_count_after_it() {
    let breaker = "minimum = 100, failures = 0.5, open = \"30m\"";
    let mut gateway = Setup { breaker, ..Setup::default() }.start();
    gateway.sandbox.fault(failing());
    // Each request is attempted at most twice.
    for _ in 0..5 {
        assert_eq!(quote(&gateway, "shop"), "upstream_error");
    }
    gateway.reload("minimum = 100", "minimum = 6");
    quote(&gateway, "shop");
    assert_eq!(quote(&gateway, "shop"), "breaker_open");
}

#[test]
fn a_faulty_configuration_changes_no_limit() {
    let mut gateway = Setup { budget: "per_second = 1000, per_day = 10", ..Setup::default() }.start();
    let good = fs::read_to_string(configuration(&gateway)).expect("read");
    // Valid TOML, but the CA file of the second account contains no certificate.
    let more = "[accounts.other]\nbase_url = \"https://127.0.0.1:1\"\nca = \"gateway.toml\"\n\
                keys = { source = \"file\", path = \"keys.toml\" }\n";
    write(&configuration(&gateway), &format!("{}{more}", good.replace("per_day = 10", "per_day = 2")));
    assert!(gateway.app().gateway.reload().is_err());
    for _ in 0..5 {
        assert_eq!(quote(&gateway, "shop"), "ok");
    }
    gateway.reload("per_day = 10", "per_day = 11");
    assert_eq!(quote(&gateway, "shop"), "ok");
}

#[test]
fn a_changed_file_is_loaded_by_itself_and_a_faulty_one_is_logged_once() {
    let gateway = TestGateway::new();
    let file = configuration(&gateway);
    let good = fs::read_to_string(&file).expect("read");
    let others = good.replace("allow = [\"lookup\"]", "allow = [\"lookup\", \"quote\"]");
    assert_eq!(quote(&gateway, "clerk"), "forbidden");
    write(&file, &others);
    until("the new settings are in force", || quote(&gateway, "clerk") == "ok");
    let since = gateway.app().gateway.in_force.load().since;
    write(&file, &format!("{others}\nbogus_key_of_a_test = 1\n"));
    until("it is reported", || gateway.admin("/readyz").text().contains("the last reload failed"));
    // Written in place, as some editors do.
    fs::write(&file, &good).expect("written");
    until("the old settings are in force", || quote(&gateway, "clerk") == "forbidden");
    // A moment later.
    until("it is over", || !gateway.admin("/readyz").text().contains("the last reload failed"));
    assert!(gateway.app().gateway.in_force.load().since > since);
    let log = String::from_utf8_lossy(&crate::test_gateway::LOG.lock().expect("whole")).into_owned();
    let fault_lines = log.lines().filter(|line| line.contains("bogus_key_of_a_test")).count();
    assert_eq!(fault_lines, 1, "lines about the fault");
}

/// A service that may do everything, with more lines.
fn service(name: &str, account: &str, more: &str) -> String {
    let digest = digest_of(name);
    format!(
        "[services.{name}]\naccount = \"{account}\"\n\
         credentials = [{{ access_key = \"svc-{name}-1\", secret_sha256 = \"{digest}\" }}]\n{more}\n"
    )
}

/// Issue: an emptied or half written file took effect, and every caller got 401.
#[test]
fn what_would_be_removed_is_confirmed_first() {
    let services = &[("a", ""), ("b", ""), ("c", ""), ("d", "")];
    let gateway = Setup { services, more: ADMIN, ..Setup::default() }.start();
    let file = configuration(&gateway);
    let whole = fs::read_to_string(&file).expect("read");
    let half = whole.replace(&service("c", "main", ""), "").replace(&service("d", "main", ""), "");
    assert_ne!(half, whole);
    let hash = || gateway.app().gateway.in_force.load().config.hash.clone();
    let before = hash();
    for text in ["", "# nothing\n", &half] {
        write(&file, text);
        // The changed file is read by itself, too.
        until("it is refused", || !gateway.app().gateway.reloaded_well());
        let refused = cli(&gateway, &["reload"]);
        let code = if text == half { 1 } else { 2 };
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        assert!(gateway.admin("/readyz").text().contains("the last reload failed"));
        assert_eq!((hash(), quote(&gateway, "shop")), (before.clone(), "ok".to_owned()));
        assert_eq!(gateway.send(get("/region/province").by("d")).status, 200);
        write(&file, &whole);
        until("the whole file is in force", || gateway.app().gateway.reloaded_well());
    }
    // One service may go unconfirmed.
    write(&file, &whole.replace(&service("d", "main", ""), ""));
    until("one is removed", || gateway.send(get("/region/province").by("d")).status == 401);
    write(&file, &half.replace(&service("b", "main", ""), ""));
    until("two more are refused", || !gateway.app().gateway.reloaded_well());
    let refused = cli(&gateway, &["reload"]);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!((refused.status.code(), &*said), (Some(1), "would remove service b\nwould remove service c\n"));
    let done = cli(&gateway, &["reload", "--confirm-removals"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains(&hash()), "{done:?}");
    assert_eq!(gateway.send(get("/region/province").by("b")).status, 401);
    assert_eq!(quote(&gateway, "shop"), "ok");
    assert!(!gateway.admin("/readyz").text().contains("the last reload failed"));
    assert_eq!(cli(&gateway, &["health"]).status.code(), Some(0));
}

/// The token of [`ADMIN`].
const TOKEN: &str = "an-admin-token";
const ADMIN: &str = "[admin]\ntoken_sha256 = \"1566387083da0f47b569a8a26d1252d5fb7b818f3e8620e93b62f16a0eaf63a1\"\n";

/// Runs a command against the admin port.
fn cli(gateway: &TestGateway, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
    command.args(arguments).arg("--admin").arg(format!("http://{}", gateway.app().admin));
    command.env_clear().env("FASTRAC_GATEWAY_ADMIN_TOKEN", TOKEN).output().expect("the program starts")
}

/// Issue: a certificate that arrived 1.5 s late was loaded, the configuration that came with it never was.
#[test]
fn a_reload_that_failed_for_a_missing_file_succeeds_when_it_arrives() {
    let gateway = TestGateway::new();
    let file = configuration(&gateway);
    let more = "[accounts.other]\nbase_url = \"https://127.0.0.1:1\"\nca = \"late.pem\"\n\
                keys = { source = \"file\", path = \"keys.toml\" }\n";
    let text = fs::read_to_string(&file).expect("read") + more;
    write(&file, &text);
    until("it is refused", || !gateway.app().gateway.reloaded_well());
    let line = text.lines().position(|line| line.starts_with("ca = ")).expect("a line") + 1;
    let errors = match gateway.app().gateway.reload() {
        Err(ReloadError::Load(LoadError::Invalid { errors, .. })) => errors,
        other => panic!("{other:?}"),
    };
    let places: Vec<_> = errors.iter().map(|error| (error.key.as_str(), error.line)).collect();
    assert_eq!(places, [("accounts.other.ca", Some(line))]);
    write(&gateway.folder.path().join("late.pem"), &Authority::new().pem());
    until("it is in force", || gateway.app().gateway.reloaded_well());
    assert_eq!(gateway.app().gateway.current.load().accounts.len(), 2);
}

#[test]
fn an_unwatched_file_is_read_on_command_only() {
    let mut gateway = Setup { more: "[reload]\nwatch = false\n", ..Setup::default() }.start();
    gateway.rewrite("allow = [\"lookup\"]", "allow = [\"lookup\", \"quote\"]");
    gateway.rewrite("watch = false", "watch = true");
    let text = gateway.text().to_owned();
    write(&configuration(&gateway), &text);
    for _ in 0..4 {
        assert!(!gateway.app().gateway.poll_file());
    }
    assert_eq!(quote(&gateway, "clerk"), "forbidden");
    gateway.app().gateway.reload().expect("reloaded");
    assert_eq!(quote(&gateway, "clerk"), "ok");
    write(&configuration(&gateway), &text.replace("\"lookup\", \"quote\"", "\"lookup\""));
    until("it is watched", || quote(&gateway, "clerk") == "forbidden");
}

/// Issue: removing and adding a service, another zone or another account began the day anew.
#[test]
fn what_was_used_today_stays_counted_whatever_changes() {
    let second = "[accounts.second]\nbase_url = \"BASE\"\nkeys = { source = \"file\", path = \"keys.toml\" }\n";
    let gateway = Setup { budget: "per_second = 1000, per_day = 20", ..Setup::default() }.start();
    let base = gateway.text().lines().find_map(|line| line.strip_prefix("base_url = ")).expect("a line").to_owned();
    let second = second.replace("\"BASE\"", &base);
    let file = configuration(&gateway);
    let text = gateway.text().to_owned();
    let reload = |text: String| {
        write(&file, &text);
        gateway.app().gateway.reload_confirmed().expect("reloaded");
    };
    let used = |text: &str| {
        reload(text.to_owned());
        let snapshot = gateway.app().gateway.current.load_full();
        let index = snapshot.catalog.services.iter().position(|service| service.config.name == "shelf");
        (index.map(|index| snapshot.quotas[index].used_today()), snapshot.accounts[0].budget.usage().used_today)
    };
    let with = |more: &str| format!("{text}{more}");
    let shelf = |account: &str| service("shelf", account, "quota = { per_day = 10 }");
    assert_eq!(used(&with(&shelf("main"))), (Some(0), 1));
    for _ in 0..4 {
        assert_eq!(quote(&gateway, "shelf"), "ok");
    }
    let zoned = |zone: &str| {
        with(&shelf("main")).replace("[accounts.main]\n", &format!("[accounts.main]\nday_zone = \"{zone}\"\n"))
    };
    for changed in [
        with(""),
        with(&shelf("main")),
        with(&service("shelf", "main", "")),
        zoned("UTC"),
        zoned("Pacific/Kiritimati"),
        zoned("Pacific/Niue"),
        with(&format!("{second}{}", shelf("second"))),
        with(&shelf("main")),
    ] {
        let (service, account) = used(&changed);
        assert_eq!((service.unwrap_or(4), account), (4, 5), "{changed}");
    }
    for _ in 0..6 {
        assert_eq!(quote(&gateway, "shelf"), "ok");
    }
    assert_eq!(quote(&gateway, "shelf"), "over_quota");
    // An account that is gone for a while spends no second budget.
    let third = second.replace("second", "third").replace("accounts.third]", "accounts.third]\nday_zone = \"UTC\"");
    reload(
        with(&third).replace("[accounts.main]", "[accounts.away]").replace("account = \"main\"", "account = \"third\""),
    );
    reload(with(&shelf("main")));
    assert_eq!(
        gateway.app().gateway.current.load().accounts[0].budget.usage().used_today,
        12,
        "and the canary of an account that is back"
    );
}

#[test]
fn included_files_are_watched() {
    let gateway = Setup { more: ADMIN, ..Setup::default() }.start();
    let file = configuration(&gateway);
    let folder = gateway.folder.path().join("services.d");
    fs::create_dir(&folder).expect("made");
    let text = format!("include = [\"services.d/*.toml\"]\n{}", fs::read_to_string(&file).expect("read"));
    write(&file, &text);
    let known = |name: &str| {
        let in_force = gateway.app().gateway.in_force.load();
        in_force.config.services.iter().any(|service| service.name == name)
    };
    let status = |name: &str| gateway.send(get("/region/province").by(name)).status;
    until("it includes", || !gateway.app().gateway.in_force.load().config.include.is_empty());
    assert_eq!(status("more"), 401);
    write(&folder.join("more.toml"), &service("more", "main", ""));
    until("a new file is read", || known("more"));
    assert_eq!(status("more"), 200);
    write(&folder.join("other.toml"), &service("other", "main", "").replace("svc-other", "svc-more"));
    until("a faulty one is refused", || !gateway.app().gateway.reloaded_well());
    write(&folder.join("other.toml"), &service("other", "main", ""));
    until("its correction is read", || known("other"));
    fs::remove_file(folder.join("other.toml")).expect("removed");
    until("its removal is read", || !known("other"));
    until("it is reported", || gateway.app().gateway.reloaded_well());
    assert_eq!((status("more"), status("other")), (200, 401));
}

#[test]
fn check_tells_what_a_reload_would_change() {
    let gateway = Setup { more: ADMIN, services: &[("a", "")], ..Setup::default() }.start();
    // Where the file is silent, the machine decides: that is no change.
    let against = |text: &str| {
        let file = configuration(&gateway).with_file_name("next.toml");
        write(&file, text);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
        command.arg("check").arg(&file).arg("--against").arg(format!("http://{}", gateway.app().admin));
        let output =
            command.env_clear().env("FASTRAC_GATEWAY_ADMIN_TOKEN", TOKEN).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = String::from_utf8(output.stdout).expect("text");
        printed.lines().filter(|line| !line.starts_with("warning: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let text = gateway.text();
    assert_eq!(against(text), ["no change"]);
    let other =
        text.replace(&service("a", "main", ""), &service("b", "main", "")).replace("drain = \"10s\"", "drain = \"9s\"");
    assert_eq!(against(&other), ["change: limits.drain: \"10s\" to \"9s\"", "remove: services.a", "add: services.b"]);
    // A digest is not shown, but that something differs is.
    let replaced = against(&text.replace(&digest_of("a"), &digest_of("b")));
    assert!(replaced.len() == 1 && replaced[0].starts_with("change: services.a.credentials: "), "{replaced:?}");
    assert!(!replaced[0].contains(&digest_of("b")), "{replaced:?}");
    assert!(against(&format!("{text}\n# a comment\n"))[0].starts_with("change: only what"));
    let refused =
        against(&text.replace(&service("a", "main", ""), "").replace("[services.clerk]", "[services.renamed]"));
    assert!(refused.last().is_some_and(|line| line.starts_with("a reload would be refused: ")), "{refused:?}");
}

/// Random numbers from a fixed seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Issue: 200 reloads with faults. After each, `/config`, `/status` and what callers see are those of one configuration.
#[test]
fn any_reload_takes_effect_as_a_whole_or_not_at_all() {
    const FAULTS: [&str; 8] = ["good", "missing", "empty", "half", "a folder", "no certificate", "not text", "slow"];
    let names = ["x1", "x2", "x3", "x4", "x5", "x6"];
    let setup = Setup { more: "[reload]\nwatch = false\n", ..Setup::default() };
    let gateway = Setup { files: vec![("bad.pem", "not PEM".to_owned())], ..setup }.start();
    let file = configuration(&gateway);
    let base = gateway.text().to_owned();
    let (mut random, mut in_force) = (Random(0x5eed), base.clone());
    let (mut services, mut outcomes) = ([false; 6], std::collections::BTreeMap::new());
    let mut began = false;
    for step in 0..200 {
        let (fault, mut wanted) = (FAULTS[random.below(FAULTS.len())], services);
        wanted[random.below(6)] ^= true;
        let (idle, quotes) = (60 + random.below(100), random.below(2) == 0);
        let mut text = base.replace("[limits]\n", &format!("[limits]\nidle = \"{idle}s\"\n"));
        if quotes {
            text = text.replace("allow = [\"lookup\"]", "allow = [\"lookup\", \"quote\"]");
        }
        let chosen = names.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        text.extend(chosen.map(|(name, _)| service(name, "main", "")));
        if fault == "no certificate" {
            text.push_str("[accounts.other]\nbase_url = \"https://127.0.0.1:1\"\nca = \"bad.pem\"\n");
            text.push_str("keys = { source = \"file\", path = \"keys.toml\" }\n");
        }
        if fault == "half" {
            text.truncate(random.below(text.len()));
        }
        let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
        let writer = match fault {
            "missing" => None,
            "a folder" => {
                fs::create_dir(&file).expect("made");
                None
            }
            "slow" => {
                assert!(std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo").success());
                // Opened first: a pipe without a writer is not waited for.
                let pipe = fs::File::options().read(true).write(true).open(&file).expect("opened");
                let (file, text) = (file.clone(), text.clone());
                Some(std::thread::spawn(move || {
                    use std::io::Write as _;
                    let mut writer = fs::File::options().write(true).open(&file).expect("opened");
                    for part in text.as_bytes().chunks(text.len() / 3 + 1) {
                        std::thread::sleep(Duration::from_millis(3));
                        writer.write_all(part).expect("written");
                    }
                    // The reader may begin late, and reads until the last writer is gone.
                    until("it is read", || rustix::io::ioctl_fionread(&pipe).expect("a pipe") == 0);
                }))
            }
            _ => {
                let bytes = match fault {
                    "empty" => Vec::new(),
                    "not text" => [text.as_bytes(), b"# \xff\n"].concat(),
                    _ => text.clone().into_bytes(),
                };
                fs::write(&file, bytes).expect("written");
                None
            }
        };
        let reloaded = gateway.app().gateway.reload();
        if let Some(writer) = writer {
            writer.join().expect("written");
        }
        let what = format!("step {step}: {fault}");
        match fault {
            "good" | "slow" => assert!(reloaded.is_ok(), "{what}: {reloaded:?}"),
            "half" => {}
            _ => assert!(reloaded.is_err(), "{what}"),
        }
        *outcomes.entry((fault, reloaded.is_ok())).or_insert(0) += 1;
        if reloaded.is_ok() {
            in_force = text;
            services = names.map(|name| in_force.contains(&format!("[services.{name}]")));
        }
        began |= reloaded.is_ok();
        let (config, status) = (gateway.admin("/config").json(), gateway.admin("/status").json());
        let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&in_force));
        assert_eq!(
            (&config["hash"], &status["config"]["hash"]),
            (&hash.as_str().into(), &hash.as_str().into()),
            "{what}"
        );
        assert_eq!(status["config"]["last_reload_successful"], reloaded.is_ok(), "{what}");
        let degraded = gateway.admin("/readyz").json()["degraded"].to_string();
        assert_eq!(degraded.contains("the last reload failed"), reloaded.is_err(), "{what}: {degraded}");
        let idle = in_force.lines().find_map(|line| line.strip_prefix("idle = ")).unwrap_or("\"75s\"");
        assert_eq!(config["limits"]["idle"].to_string(), idle, "{what}");
        for (name, there) in names.iter().zip(services) {
            assert_eq!(config["services"].get(*name).is_some(), there, "{what}: {name}");
            assert_eq!(status["services"].get(*name).is_some(), there, "{what}: {name}");
        }
        // Only one of them: many failed proofs from one address are slowed.
        let asked = random.below(6);
        let expected = if services[asked] { 200 } else { 401 };
        assert_eq!(gateway.send(get("/region/province").by(names[asked])).status, expected, "{what}: {asked}");
        if in_force.contains("[services.clerk]") {
            let expected = if in_force.contains("allow = [\"lookup\", \"quote\"]") { "ok" } else { "forbidden" };
            assert_eq!(quote(&gateway, "clerk"), expected, "{what}");
        }
    }
    assert!(began && outcomes.len() >= FAULTS.len(), "{outcomes:?}");
}

/// Reloads under load at an even pace; no request fails, and counters, connections and cache are kept.
fn reload_under_load(times: usize, within: Duration) -> (u64, Duration) {
    const CLIENTS: usize = 16;
    let services = &[(
        "shelf",
        "quota = { per_second = 100000, burst = 100000, per_day = 9000000 }\n\
                                allow = [\"lookup\", \"quote\"]",
    )];
    let log = "exchanges = \"none\"";
    let mut gateway = Setup { services, log, budget: BUDGET, ..Setup::default() }.start();
    let province = || get("/region/province").by("shelf");
    assert_eq!(gateway.send(province()).outcome(), "ok");
    let data = gateway.data;
    let (ended, quotes, hits) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let took = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = crate::client::Connection::open(data);
                while !ended.load(Ordering::Relaxed) {
                    let response = connection.send(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shelf"));
                    assert_eq!((response.status, response.outcome()), (200, "ok"), "{}", response.text());
                    quotes.fetch_add(1, Ordering::Relaxed);
                    // Always a cache hit.
                    assert_eq!(connection.send(&province()).outcome(), "hit");
                    hits.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let began = Instant::now();
        for n in 0..times {
            // Change a quota, a budget, the breaker's settings and a service's classes.
            let (from, to) = if n % 2 == 0 { (0, 1) } else { (1, 0) };
            let all = [
                ["per_day = 9000000", "per_day = 9000001"],
                ["in_flight = 512", "in_flight = 513"],
                ["minimum = 100000", "minimum = 100001"],
                ["\"quote\", \"order\"", "\"order\", \"quote\""],
            ];
            let [first, rest @ ..] = all;
            for change in rest {
                gateway.rewrite(change[from], change[to]);
            }
            gateway.reload(first[from], first[to]);
            let due = within.mul_f64((n + 1) as f64 / times as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        let took = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        took
    });
    let (quotes, hits) = (quotes.into_inner(), hits.into_inner());
    let running = &gateway.app().gateway;
    let snapshot = running.current.load();
    let service = snapshot.catalog.services.iter().position(|service| service.config.name == "shelf").expect("there");
    assert_eq!(snapshot.quotas[service].used_today(), quotes + 1, "used of the service's daily quota");
    // The canary lookup, the one lookup, and the quotes.
    let usage = snapshot.accounts[0].budget.usage();
    assert_eq!((usage.used_today, usage.in_flight.left, usage.waiting), (quotes + 2, usage.in_flight.limit, 0));
    assert_eq!(gateway.sandbox.counters().requests, quotes + 2);
    assert_eq!(gateway.metric("requests_total", &[("service", "shelf"), ("outcome", "hit")]), hits as f64);
    assert_eq!(gateway.metric("requests_total", &[]), (quotes + hits + 1) as f64, "counted");
    (quotes + hits, took)
}

#[test]
fn sixty_reloads_under_load_fail_no_request_and_lose_no_state() {
    reload_under_load(60, Duration::from_secs(3));
}

#[test]
#[ignore = "takes a minute"]
fn a_thousand_reloads_in_a_minute_fail_no_request_and_lose_no_state() {
    let (requests, took) = reload_under_load(1_000, Duration::from_secs(55));
    println!("1,000 reloads in {:.1} s, {requests} requests, 0 failures", took.as_secs_f64());
    assert!(took <= Duration::from_secs(60), "{took:?}");
}

/// A changed `limits.connections` was shown and had no effect.
#[test]
fn another_limit_of_connections_takes_effect_at_once() {
    let mut gateway = Setup { limits: "connections = 4", ..Setup::default() }.start();
    let served = |gateway: &TestGateway| {
        let mut connections: Vec<_> = (0..6).map(|_| gateway.connect()).collect();
        let request = get("/region/province").by("shop");
        connections.iter_mut().map(|connection| connection.send(&request)).filter(|one| one.status == 200).count()
    };
    let counted = |gateway: &TestGateway, count: f64| {
        until("connections are closed", || gateway.metric("client_connections", &[]) == count);
    };
    for (before, now) in [("4", "4"), ("4", "2"), ("2", "5")] {
        counted(&gateway, 0.0);
        gateway.reload(&format!("connections = {before}\n"), &format!("connections = {now}\n"));
        assert_eq!(served(&gateway).to_string(), now);
        let status = gateway.admin("/status").json();
        assert_eq!(status["connections_limit"].to_string(), now);
        assert_eq!(gateway.admin("/config").json()["limits"]["connections"].to_string(), now);
        assert_eq!(gateway.admin("/readyz").json()["degraded"], serde_json::json!([]));
    }
}

/// Shares, rates and days change forty times under a load beyond the rate: no window gets more than the largest burst and
/// rate, the day ends at its limit exactly, every request that waits is decided in time, and nothing is held at the end.
#[test]
fn changed_limits_under_load_admit_no_more_and_lose_no_wait() {
    const CHANGES: [[&str; 2]; 4] = [
        ["per_second = 60, burst = 20", "per_second = 40, burst = 10"],
        ["per_day = 300", "per_day = 290"],
        ["share = 0.5", "share = 0.25"],
        ["quota = { per_second = 50 }", "quota = { per_second = 45 }"],
    ];
    const MAX_WAIT: Duration = Duration::from_secs(1);
    let services = &[
        ("shared", "share = 0.5\nallow = [\"quote\"]"),
        ("other", "share = 0.1\nquota = { per_second = 50 }\nallow = [\"quote\"]"),
    ];
    let budget = "per_second = 60, burst = 20, per_day = 300, in_flight = 8, max_wait = \"1s\"";
    let mut gateway = Setup { services, budget, ..Setup::default() }.start();
    let (data, began, number) = (gateway.data, Instant::now(), AtomicU64::new(0));
    let waited = AtomicU64::new(0);
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (number, waited) = (&number, &waited);
            scope.spawn(move || {
                let mut connection = crate::client::Connection::open(data);
                loop {
                    let target = format!("/tariff/express?{}", number.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    let service = if client % 2 == 0 { "shared" } else { "other" };
                    let response = connection.send(&post(&target, bodies::TARIFF).by(service));
                    let took = sent.elapsed();
                    assert!(took < MAX_WAIT + Duration::from_secs(4), "{took:?}: {response:?}");
                    waited.fetch_add(u64::from(took > Duration::from_millis(50)), Ordering::Relaxed);
                    match response.code().as_str() {
                        "budget.day" => return,
                        code => assert!(
                            response.status == 200
                                || ["budget.second", "budget.in_flight", "quota.second"].contains(&code),
                            "{response:?}"
                        ),
                    }
                }
            });
        }
        for n in 0..40 {
            let (from, to) = (n % 2, 1 - n % 2);
            let [first, rest @ ..] = CHANGES;
            for change in rest {
                gateway.rewrite(change[from], change[to]);
            }
            let before = began.elapsed().as_secs_f64();
            gateway.reload(first[from], first[to]);
            let count = gateway.sandbox.counters().requests;
            received.push((before, count, began.elapsed().as_secs_f64()));
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    for (i, (from, first, _)) in received.iter().enumerate() {
        for (_, last, until) in &received[i..] {
            let most = 20.0 + 60.0 * (until - from) + 8.0;
            assert!((last - first) as f64 <= most, "{} of at most {most}", last - first);
        }
    }
    assert!(waited.into_inner() > 0, "requests waited");
    assert_eq!(gateway.sandbox.counters().requests, 300, "the whole day and not more");
    let status = gateway.admin("/status").json();
    let budget = &status["accounts"]["main"]["budget"];
    assert_eq!(
        (&budget["used_today"], &budget["in_flight"]["left"], &budget["waiting"]),
        (&300.into(), &8.into(), &0.into())
    );
    let used = |name: &str| status["services"][name]["used_today"].as_u64().expect("a number");
    // The canary was one.
    assert_eq!(used("shared") + used("other"), 299);
}
