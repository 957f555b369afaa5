//! The process starts and ends as its signals say, whatever hangs: the disk, the name resolution, start-up.
//!
//! `system_faults` makes the disk or the name resolution of the process hang.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use fastrac_gateway::gateway::POLL_INTERVAL;
use fastrac_sandbox::{Act, Fault, Sandbox};
use rustix::process::Signal;

use crate::{
    bodies,
    client::{Connection, Request, get, post, request},
    process::Program,
    system_faults::{SystemFaults, begin, end},
    test_gateway::{ACCESS, SECRET, digest_of, sandbox, secret_of, sum, until},
};

/// `limits.drain` of the processes.
const DRAIN: Duration = Duration::from_secs(1);
/// Within this, a process ends by itself: the drain, 2 s to close what hangs, and what a loaded machine adds.
const ENDS: Duration = Duration::from_secs(6);

fn configuration(fastrac: &str) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\
         [limits]\ndrain_grace = \"0s\"\ndrain = \"{}ms\"\n\
         [accounts.main]\nbase_url = \"{fastrac}\"\nallow_cleartext = true\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\nbreaker = {{ minimum = 100000 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"read\", \"order\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        DRAIN.as_millis(),
        digest_of("shop")
    )
}

fn url(fastrac: SocketAddr) -> String {
    format!("http://{fastrac}")
}

/// Sends SIGTERM; the process must end in time, with exit code 0.
fn terminate(program: &mut Program) {
    let began = Instant::now();
    program.signal(Signal::TERM);
    assert_eq!(program.ends(ENDS).code(), Some(0), "after {:?}: {}", began.elapsed(), program.stderr());
}

#[test]
fn a_disk_that_hangs_delays_no_stop() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = Program::start_as(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), |c| hang.preload(c));
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    // So that there is a snapshot of the cache to be written.
    let lookup = get("/region/city?province_id=31").by("shop");
    assert_eq!(Connection::open(program.data).send(&lookup).outcome(), "ok");
    begin(&hang.disk());
    let mut orders: Vec<_> = (0..4).map(|_| Connection::open(program.data)).collect();
    for (number, order) in orders.iter_mut().enumerate() {
        order.write(&post("/order/express", &bodies::order(number)).by("shop").bytes());
    }
    until("they wait for the journal", || {
        sum(&program.admin_page("/metrics").text(), "in_flight_requests", &[("service", "shop")]) >= 4.0
    });
    terminate(&mut program);
    for what in ["the state store", "the snapshot of the cache"] {
        let said = format!("does not wait any longer for {what}");
        assert!(program.stderr().contains(&said), "{said}: {}", program.stderr());
    }
}

/// With a token of an operator.
fn with_token(configuration: &str) -> String {
    format!("{configuration}[admin]\ntoken_sha256 = \"{}\"\n", digest_of("ops"))
}

fn operator(method: &'static str, path: &str) -> Request {
    let token = format!("Bearer {}", secret_of("ops"));
    request(method, path).header("host", "localhost").header("authorization", &token)
}

/// Commands whose effect is in force at once, and which then wait for the disk, with the actions of their lines.
const COMMANDS: [(&str, &str, &str); 2] = [
    ("/quota", "{\"service\": \"shop\", \"per_day\": 9, \"for\": \"1h\", \"reason\": \"x\"}", "quota"),
    ("/keys/revoke", "{\"account\": \"main\", \"version\": \"aabbccdd\"}", "keys_revoke"),
];

/// Sends them while the disk hangs.
fn begin_commands(program: &Program) -> [Connection; 2] {
    let asked = COMMANDS.map(|(path, body, _)| {
        let mut connection = Connection::open(program.admin);
        connection.write(&operator("POST", path).json(body).bytes());
        connection
    });
    until("they are in force", || {
        let status = Connection::open(program.admin).send(&operator("GET", "/status")).json();
        status["services"]["shop"]["override"]["reason"] == "x"
            && status["accounts"]["main"]["keys"]["revoked"].to_string().contains("aabbccdd")
    });
    asked
}

/// Action, result and status of each line of the audit log, in the order of their actions.
fn audited(program: &Program) -> Vec<(String, String, u64)> {
    let text = fs::read_to_string(program.file("state/audit.jsonl")).expect("a file");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let word = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
    let mut lines: Vec<_> = lines
        .map(|line| (word(&line["action"]), word(&line["result"]), line["status"].as_u64().expect("a number")))
        .collect();
    lines.sort();
    lines
}

/// Issue: a stop without callers in progress dropped commands that it carried out: no response, no line.
#[test]
fn a_stop_answers_and_records_the_commands_that_it_carries_out() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let configuration = configuration(&url(fastrac.addr())).replace("drain = \"1000ms\"", "drain = \"60s\"");
    let mut program = hang.start(&with_token(&configuration));
    begin(&hang.disk());
    let asked = begin_commands(&program);
    program.signal(Signal::TERM);
    until("the listeners are closed", || Connection::try_open(program.data).is_none());
    end(&hang.disk());
    for mut connection in asked {
        let response = connection.read_response("POST").expect("a response");
        assert_eq!(response.status, 200, "{}", response.text());
    }
    // Not that of the drain.
    assert_eq!(program.ends(Duration::from_secs(30)).code(), Some(0), "{}", program.stderr());
    let done = COMMANDS.map(|(_, _, action)| (action.to_owned(), "done".to_owned(), 200));
    assert_eq!(BTreeSet::from_iter(audited(&program)), BTreeSet::from(done));
}

#[test]
fn commands_that_hang_delay_no_stop_and_are_answered_and_recorded() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = hang.start(&with_token(&configuration(&url(fastrac.addr()))));
    begin(&hang.disk());
    let asked = begin_commands(&program);
    // Its body does not come.
    let mut half = Connection::open(program.admin);
    half.write(operator("POST", "/cache/purge").bytes().strip_suffix(b"\r\n\r\n").expect("a head"));
    half.write(b"\r\ncontent-length: 9\r\n\r\n");
    // They have not begun a request.
    let _idle = [Connection::open(program.admin), Connection::open(program.admin)];
    terminate(&mut program);
    for mut connection in asked {
        let response = connection.read_response("POST").expect("a response");
        assert_eq!((response.status, response.code().as_str()), (503, "admin.draining"));
    }
    assert_eq!(half.read_response("POST").expect("a response").status, 503);
    let mut lines = vec![("cache_purge".to_owned(), "refused".to_owned(), 503)];
    lines.extend(COMMANDS.map(|(_, _, action)| (action.to_owned(), "unknown".to_owned(), 503)));
    assert_eq!(BTreeSet::from_iter(audited(&program)), BTreeSet::from_iter(lines));
}

/// Issue: a key file whose reading blocks stopped rotation for good.
#[test]
fn a_key_file_that_hangs_is_a_lost_source_until_it_responds() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = hang.start(&with_token(&configuration(&url(fastrac.addr()))));
    let lost = || program.admin_page("/readyz").text().contains("the key source cannot be read");
    let rotate = || Connection::open(program.admin).send(&operator("POST", "/keys/rotate"));
    // Opening it, or only resolving its links.
    for (fault, content) in [(hang.key_file(), ""), (hang.metadata(), "/keys.toml")] {
        fs::write(&fault, content).expect("written");
        until("the source is lost", lost);
        let rotated = rotate();
        assert!(rotated.status == 409, "{} {}", rotated.status, rotated.text());
        assert_eq!(Connection::open(program.data).send(&get("/region/province").by("shop")).status, 200);
        end(&fault);
        until("the source is back", || !lost());
        assert_eq!(rotate().status, 200);
    }
    begin(&hang.key_file());
    terminate(&mut program);
}

/// Issue: a reload waited without end for metadata of files, and another one for that, or for a poll that did.
#[test]
fn a_configuration_whose_metadata_hangs_is_an_error_of_a_reload() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let configuration = with_token(&configuration(&url(fastrac.addr())));
    let configuration = format!("include = [\"services.d/*.toml\"]\n{configuration}");
    let mut program = hang.start(&configuration);
    fs::create_dir(program.file("services.d")).expect("created");
    let reload = || Connection::open(program.admin).send(&operator("POST", "/reload"));
    assert_eq!(reload().status, 200);
    for (number, what) in ["/gateway.toml", "/services.d"].into_iter().enumerate() {
        fs::write(hang.metadata(), what).expect("written");
        let response = reload();
        assert_eq!((response.status, response.code().as_str()), (422, "config.unreadable"), "{}", response.text());
        end(&hang.metadata());
        until("it responds again", || reload().status == 200);
        // The poll that hung goes on.
        let changed = configuration.replace("allow = [", &format!("# {number}\nallow = ["));
        fs::write(program.file("gateway.toml"), changed).expect("written");
        let seen = "or a file that it names, has changed";
        until("a change is seen", || program.stderr().matches(seen).count() > number);
    }
    terminate(&mut program);
}

/// It was read again, and said so, twice a second.
#[test]
fn a_changed_configuration_that_cannot_be_read_is_read_when_its_disk_responds_again() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let configuration = configuration(&url(fastrac.addr()));
    let mut program = hang.start(&configuration);
    let said = |what: &str| program.stderr().matches(what).count();
    let counts = || (said("or a file that it names, has changed"), said("nothing was changed"));
    fs::write(hang.metadata(), "/exchanges.jsonl").expect("written");
    fs::write(program.file("gateway.toml"), format!("{configuration}# changed\n")).expect("written");
    until("it is an error", || counts() == (1, 1));
    let since = Instant::now();
    until("more than one poll has passed", || since.elapsed() > 4 * POLL_INTERVAL);
    assert_eq!(counts(), (1, 1));
    end(&hang.metadata());
    until("it is in force", || said("was read again and is in force") == 1);
    assert_eq!(counts(), (2, 1));
    terminate(&mut program);
}

/// Whichever file it is: after an error in a file, only its next change is read.
#[test]
fn so_is_one_of_which_another_file_cannot_be_opened() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let configuration = format!("include = [\"services.d/*.toml\"]\n{}", configuration(&url(fastrac.addr())));
    let mut program = hang.start(&configuration);
    fs::create_dir(program.file("services.d")).expect("created");
    fs::write(program.file("services.d/keys.toml"), "").expect("written");
    begin(&hang.key_file());
    fs::write(program.file("gateway.toml"), format!("{configuration}# changed\n")).expect("written");
    let said = |what: &str| program.stderr().matches(what).count();
    until("it is an error", || said("nothing was changed") > 0);
    end(&hang.key_file());
    until("it is in force", || said("was read again and is in force") > 0);
    terminate(&mut program);
}

#[test]
fn name_lookups_that_hang_delay_no_stop() {
    let hang = SystemFaults::new();
    let configuration = configuration("http://fastrac.test:8090");
    let mut program = Program::start_as(&configuration, (ACCESS, SECRET), |command| hang.preload(command));
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    begin(&hang.names());
    let mut reads = Vec::new();
    until("reads wait for the name", || {
        let mut read = Connection::open(program.data);
        read.write(&get(&format!("/region/city?province_id={}", reads.len())).by("shop").bytes());
        reads.push(read);
        sum(&program.admin_page("/metrics").text(), "in_flight_requests", &[("service", "shop")]) >= 3.0
    });
    terminate(&mut program);
}

/// Everything outside the process at once: state folder with its logs, key file, name service, vault, and the configuration
/// while it is read again.
#[test]
fn a_stop_ends_in_time_whatever_hangs_at_once() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    // It accepts connections and says nothing.
    let vault = TcpListener::bind("127.0.0.1:0").expect("a port");
    let more = format!(
        "[accounts.other]\nbase_url = \"http://fastrac.test:8090\"\nallow_cleartext = true\n\
         keys = {{ source = \"vault\", path = \"p\" }}\n\
         [services.other]\naccount = \"other\"\ncredentials = [{{ access_key = \"other\", secret_sha256 = \"{}\" }}]\n\
         [vault]\naddress = \"{}\"\nauth = {{ method = \"token\", token_file = \"token\" }}\n",
        digest_of("other"),
        url(vault.local_addr().expect("an address")),
    );
    let configuration = configuration(&url(fastrac.addr())) + &more;
    for read_again in [false, true] {
        let mut program = Program::begin(&configuration, (ACCESS, SECRET), |command| {
            hang.preload(command);
            if read_again {
                command.env("HANG_NAME", "gateway.toml");
            }
        });
        fs::write(program.file("token"), "hvs.canary").expect("written");
        program.wait_for_start();
        until("it has a key pair", || program.admin_page("/readyz?account=main").status == 200);
        let lookup = get("/region/city?province_id=31").by("shop");
        assert_eq!(Connection::open(program.data).send(&lookup).outcome(), "ok");
        for fault in [hang.disk(), hang.files(), hang.key_file(), hang.names()] {
            begin(&fault);
        }
        if read_again {
            program.signal(Signal::HUP);
        }
        let mut waiting: Vec<_> = (0..8).map(|_| Connection::open(program.data)).collect();
        for (number, connection) in waiting.iter_mut().enumerate() {
            let request = match number % 4 {
                0 => post("/order/express", &bodies::order(number)).by("shop"),
                1 => get(&format!("/region/city?province_id={number}")).by("shop"),
                2 => get("/region/province").by("other"),
                _ => post("/order/express", &bodies::order(number)).by("shop").header("idempotency-key", "one"),
            };
            connection.write(&request.bytes());
        }
        until("orders wait", || {
            sum(&program.admin_page("/metrics").text(), "in_flight_requests", &[("service", "shop")]) >= 2.0
        });
        terminate(&mut program);
        for fault in [hang.disk(), hang.files(), hang.key_file(), hang.names()] {
            end(&fault);
        }
    }
}

#[test]
fn a_signal_while_start_up_hangs_ends_it_cleanly() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    for signal in [Signal::TERM, Signal::INT] {
        begin(&hang.disk());
        let mut program = Program::begin(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), |c| hang.preload(c));
        until("it has signal handlers", || program.catches_signals());
        program.signal(signal);
        assert_eq!(program.ends(ENDS).code(), Some(0), "{}", program.stderr());
    }
}

#[test]
fn sighup_while_start_up_hangs_is_a_reload_once_it_is_up() {
    let (fastrac, hang) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    begin(&hang.disk());
    let mut program = Program::begin(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), |c| hang.preload(c));
    until("it has signal handlers", || program.catches_signals());
    program.signal(Signal::HUP);
    end(&hang.disk());
    program.wait_for_start();
    until("it reloads", || program.stderr().contains("the configuration was read again"));
    terminate(&mut program);
}

#[test]
fn signals_at_any_instant_of_start_up_are_handled() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    for round in 0..24 {
        let mut program = Program::begin(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), |_| {});
        until("it has signal handlers", || program.catches_signals());
        // The instant is what this test is about.
        thread::sleep(Duration::from_millis(round * 8));
        match round % 3 {
            0 => program.signal(Signal::TERM),
            1 => program.signal(Signal::INT),
            _ => {
                program.signal(Signal::HUP);
                program.wait_for_start();
                program.signal(Signal::TERM);
            }
        }
        assert_eq!(program.ends(ENDS).code(), Some(0), "round {round}: {}", program.stderr());
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    fastrac.fault(Fault::on("v2.order_express", Act::Pass).wait(Duration::from_secs(15)));
    let configuration = configuration(&url(fastrac.addr())).replace("drain = \"1000ms\"", "drain = \"60s\"");
    let mut program = Program::start(&configuration, ACCESS, SECRET);
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    let mut order = Connection::open(program.data);
    order.write(&post("/order/express", bodies::ORDER).by("shop").bytes());
    until("it is in progress", || fastrac.journal().iter().any(|entry| entry.uri.path() == "/order/express"));
    program.signal(Signal::TERM);
    until("it drains", || program.stderr().contains("draining"));
    program.signal(Signal::TERM);
    assert_eq!(program.ends(ENDS).code(), Some(1), "{}", program.stderr());
}

/// Issue: a service manager that did not read blocked the thread that waits for signals; not even a second one ended it.
#[test]
fn a_service_manager_that_reads_nothing_delays_no_stop() {
    let (fastrac, folder) = (Sandbox::start(sandbox()).expect("a sandbox"), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("notify");
    let (manager, other) = (UnixDatagram::bind(&path).expect("bound"), UnixDatagram::unbound().expect("a socket"));
    other.set_nonblocking(true).expect("set");
    for full_at_start in [true, false] {
        let fill = || while other.send_to(b"x", &path).is_ok() {};
        if full_at_start {
            fill();
        }
        let configuration = configuration(&url(fastrac.addr()));
        let mut program = Program::start_as(&configuration, (ACCESS, SECRET), |command| {
            command.env("NOTIFY_SOCKET", &path);
        });
        until("it has a key pair", || program.admin_page("/readyz").status == 200);
        fill();
        terminate(&mut program);
        manager.set_nonblocking(true).expect("set");
        while manager.recv(&mut [0; 64]).is_ok() {}
    }
}

/// Connections that are in the backlog when the signal comes, with their requests.
#[test]
fn a_stop_serves_what_waits_in_the_backlog() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    // On a busy machine, 600 requests may take longer than `DRAIN`.
    let configuration = configuration(&url(fastrac.addr())).replace("drain = \"1000ms\"", "drain = \"30s\"");
    let mut program = Program::start(&configuration, ACCESS, SECRET);
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    program.signal(Signal::STOP);
    let mut waiting: Vec<_> = (0..600).map(|_| Connection::open(program.data)).collect();
    for connection in &mut waiting {
        connection.write(&get("/courier/all").by("shop").bytes());
    }
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    for connection in &mut waiting {
        let response = connection.read_response("GET").expect("a response");
        assert_eq!(response.header("connection"), Some("close"), "{response:?}");
    }
    assert_eq!(program.ends(Duration::from_secs(30)).code(), Some(0), "{}", program.stderr());
}

/// Runs the program under a limit of open files.
fn limited(soft: u64, hard: u64) -> impl FnOnce(&mut Command) {
    move |command| {
        let (program, arguments) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned));
        let arguments: Vec<_> = arguments.collect();
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program).args(arguments).env("NO_COLOR", "1");
        shell.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        *command = shell;
    }
}

#[test]
fn the_soft_limit_of_open_files_stops_nobody() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let program = Program::start_as(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), limited(128, 4096));
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    let _idle: Vec<_> = (0..400).map(|_| Connection::open(program.data)).collect();
    assert_eq!(program.admin_page("/livez").status, 200);
    assert_eq!(Connection::open(program.data).send(&get("/courier/all").by("shop")).status, 200);
}

#[test]
fn idle_connections_take_no_descriptors_from_the_admin_port_and_fastrac() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start_as(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), limited(512, 512));
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    let mut caller = Connection::open(program.data);
    assert_eq!(caller.send(&get("/courier/all").by("shop")).status, 200);
    let _idle: Vec<_> = (0..600).map(|_| Connection::open(program.data)).collect();
    for number in 0..10 {
        assert_eq!(program.admin_page("/readyz").status, 200);
        // Each needs a connection to Fastrac or may need a new one, and the journal.
        let order = post("/order/express", &bodies::order(number)).by("shop");
        assert_eq!(caller.send(&order).status, 200);
    }
    let mut refused = Connection::open(program.data);
    let response = refused.read_response("GET").expect("a response");
    assert_eq!((response.status, response.code().as_str()), (503, "gateway.overloaded"));
    assert!(program.stderr().contains("limits.connections is lowered"), "{}", program.stderr());
    assert!(!program.stderr().contains("could not be accepted"), "{}", program.stderr());
    terminate(&mut program);
}

/// A machine that was suspended meanwhile.
#[test]
fn a_pause_in_the_middle_of_a_stop_cuts_off_nothing_that_has_arrived() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start_as(&configuration(&url(fastrac.addr())), (ACCESS, SECRET), |_| {});
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    let closing = Duration::from_secs(2);
    let slow = fastrac.fault(Fault::on("v2.city", Act::Pass).wait(DRAIN / 2));
    let mut connection = Connection::open(program.data);
    connection.write(&get("/region/city?province_id=31").by("shop").bytes());
    until("it is sent", || fastrac.times_applied(slow) == Some(1));
    program.signal(Signal::TERM);
    until("it drains", || program.stderr().contains("draining"));
    program.signal(Signal::STOP);
    thread::sleep(DRAIN + closing + closing);
    program.signal(Signal::CONT);
    let response = connection.read_response("GET").map(|response| response.status);
    assert_eq!(response, Some(200), "{}", program.stderr());
    assert_eq!(program.ends(ENDS).code(), Some(0), "{}", program.stderr());
    let said = program.stderr();
    assert!(said.contains("stopped") && !said.contains("wait any longer"), "{said}");
}
