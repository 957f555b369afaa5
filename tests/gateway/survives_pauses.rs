//! What arrived while the process was stopped is read before the clock is: a pause of the machine, the container or the
//! thread makes no failure of a response that was in time.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, CannedEnvelope, Fault, Sandbox};

use crate::{
    bodies,
    client::{Connection, Request, find, get, post, request},
    hostile::frames::{PREFACE, SETTINGS, frame, request_frames},
    isolates_slow_callers::{Seen, Windowed},
    process::Program,
    system_faults::{SystemFaults, begin, end},
    test_gateway::{ACCESS, SECRET, digest_of, sandbox, sum, until},
};

/// Every time limit of the gateway in these tests.
const LIMIT: Duration = Duration::from_secs(1);

fn configuration(fastrac: SocketAddr) -> String {
    let short = ["v2.order_express", "v2.track", "v2.couriers"]
        .map(|operation| format!("[operations.\"{operation}\"]\ntimeout = \"1s\"\n"))
        .concat();
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n\
         [limits]\nheader_read = \"1s\"\nidle = \"1s\"\nrequest = \"1s\"\n\
         [accounts.main]\nbase_url = \"http://{fastrac}\"\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"read\", \"quote\", \"order\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n{short}\
         [operations.\"v2.city\"]\ncache = {{ fresh = \"100ms\", stale_if_error = \"1h\" }}\n",
        digest_of("shop")
    )
}

/// A gateway process and its Fastrac.
struct Pausable {
    program: Program,
    sandbox: Sandbox,
}

impl Pausable {
    fn start() -> Pausable {
        let start = |configuration: &str| Program::start(configuration, ACCESS, SECRET);
        Pausable::start_with(|fastrac| start(&configuration(fastrac)))
    }

    fn start_with(start: impl FnOnce(SocketAddr) -> Program) -> Pausable {
        let sandbox = Sandbox::start(sandbox()).expect("a sandbox");
        let program = start(sandbox.addr());
        let ready = || Connection::open(program.admin).send(&get("/readyz").header("host", "localhost")).status == 200;
        until("a key pair", ready);
        Pausable { program, sandbox }
    }

    fn signal(&self, signal: &str) {
        let status = fs::read_to_string(self.program.proc("status")).expect("running");
        let id = status.lines().find_map(|line| line.strip_prefix("Pid:")).expect("an id").trim().to_owned();
        assert!(Command::new("kill").args([signal, &id]).status().expect("run").success());
    }

    /// Stops the process; `meanwhile` happens before all its time limits have passed; then it goes on.
    fn pause(&self, meanwhile: impl FnOnce()) {
        self.signal("-STOP");
        until("it is stopped", || {
            fs::read_to_string(self.program.proc("status")).is_ok_and(|status| status.contains("State:\tT"))
        });
        let stopped = Instant::now();
        meanwhile();
        // Not to wait for something, but to let the time limits pass.
        thread::sleep((LIMIT + Duration::from_millis(300)).saturating_sub(stopped.elapsed()));
        self.signal("-CONT");
    }
}

/// A read, an order and a lookup.
fn requests(round: usize) -> [Request; 3] {
    let n = format!("{round}");
    [
        request("GET", "/order/track").json(&format!(r#"{{"courier_code":"idx","awb":"{n}"}}"#)),
        post("/order/express", &bodies::order(round)),
        get(&format!("/courier/all?n={n}")),
    ]
    .map(|request| request.by("shop"))
}

#[test]
fn responses_that_arrived_during_a_pause_are_passed_on() {
    let gateway = Pausable::start();
    for operation in ["v2.order_express", "v2.track", "v2.couriers"] {
        gateway.sandbox.fault(Fault::on(operation, Act::Pass).delay(Duration::from_millis(400)));
    }
    for round in 0..4 {
        let before = gateway.sandbox.journal().len();
        let mut callers: Vec<Connection> = (0..5).map(|_| Connection::open(gateway.program.data)).collect();
        for (n, caller) in callers.iter_mut().enumerate() {
            caller.write(&requests(5 * round + n)[n % 3].bytes());
        }
        until("all are in flight", || gateway.sandbox.journal().len() == before + callers.len());
        gateway.pause(|| {
            until("Fastrac has responded", || gateway.sandbox.journal().iter().all(|entry| entry.status.is_some()));
        });
        for (n, caller) in callers.iter_mut().enumerate() {
            let response = caller.read_response("GET").expect("a response");
            let expected = if n % 3 == 0 { 404 } else { 200 };
            assert_eq!(response.status, expected, "round {round}, caller {n}: {}", response.text());
        }
    }
}

/// It was given up in time, which is read late: the next equal order gets the response.
#[test]
fn a_stream_that_was_reset_during_a_pause_has_not_reached_its_caller() {
    const RST_STREAM: u8 = 3;
    let gateway = Pausable::start();
    for round in 0..4 {
        let order = post("/order/express", &bodies::order(round)).by("shop");
        let mut stream = TcpStream::connect(gateway.program.data).expect("connected");
        let frames = [PREFACE, &frame(SETTINGS, 0, 0, b""), &request_frames(1, &order)].concat();
        stream.write_all(&frames).expect("written");
        // Its last frame is the response's body.
        until("the response has come", || {
            let mut received = [0; 4096];
            let length = stream.peek(&mut received).expect("frames");
            find(&received[..length], b"success").is_some()
        });
        gateway.pause(|| stream.write_all(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).expect("written"));
        let again = Connection::open(gateway.program.data).send(&order);
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{again:?}");
    }
    assert_eq!(gateway.sandbox.counters().orders.express, 4);
}

#[test]
fn what_callers_sent_during_a_pause_is_read() {
    let gateway = Pausable::start();
    let [_, _, lookup] = requests(0);
    let bytes = lookup.bytes();
    let (first, rest) = bytes.split_at(20);
    for round in 0..4 {
        // Unused, kept alive, and in the middle of a head.
        let mut callers: Vec<Connection> = (0..3).map(|_| Connection::open(gateway.program.data)).collect();
        assert_eq!(callers[1].send(&lookup).status, 200);
        callers[2].write(first);
        gateway.pause(|| {
            callers[0].write(&bytes);
            callers[1].write(&bytes);
            callers[2].write(rest);
        });
        for (n, caller) in callers.iter_mut().enumerate() {
            let status = caller.read_response("GET").map(|response| response.status);
            assert_eq!(status, Some(200), "round {round}, caller {n}");
        }
    }
}

/// Issue: the connection was closed as idle, because hyper reads all that has come before it writes.
#[test]
fn http2_windows_that_opened_during_a_pause_are_used() {
    let gateway = Pausable::start();
    let [_, _, lookup] = requests(0);
    for _ in 0..3 {
        let (mut caller, mut seen) = (Windowed::send(gateway.program.data, 0, &lookup), Seen::default());
        until("it has a status", || {
            caller.read(&mut seen);
            seen.status == 200
        });
        gateway.pause(|| caller.open(1 << 20));
        until("the response is whole", || {
            caller.read(&mut seen);
            seen.ended
        });
    }
}

/// More of them than one read of the socket brings.
#[test]
fn uploads_that_arrived_during_a_pause_are_complete() {
    let gateway = Pausable::start();
    let padded = |body: &str| format!("{body}{}", " ".repeat(40_000));
    for round in 0..3 {
        let uploads = [
            post("/order/express", &padded(&bodies::order(round))).by("shop").bytes(),
            post("/tariff/express", &padded(bodies::TARIFF)).by("shop").bytes(),
        ];
        let mut callers: Vec<Connection> = uploads.iter().map(|_| Connection::open(gateway.program.data)).collect();
        for (caller, upload) in callers.iter_mut().zip(&uploads) {
            caller.write(&upload[..5000]);
        }
        // So that their heads are read before the pause.
        thread::sleep(Duration::from_millis(200));
        gateway.pause(|| callers.iter_mut().zip(&uploads).for_each(|(caller, upload)| caller.write(&upload[5000..])));
        for (n, caller) in callers.iter_mut().enumerate() {
            let response = caller.read_response("POST").expect("a response");
            assert_eq!(response.status, 200, "round {round}, caller {n}: {}", response.text());
        }
    }
}

/// Sends as many requests, all from callers that wait no longer than [`LIMIT`].
fn send_all(gateway: &Pausable, requests: impl Iterator<Item = Request>) -> Vec<Connection> {
    let send = |request: Request| {
        let mut caller = Connection::open(gateway.program.data);
        caller.write(&request.by("shop").header("x-gateway-timeout", "1000").bytes());
        caller
    };
    requests.map(send).collect()
}

/// Issue: the threads of those who wait for the response of another thread's request were faster than that thread.
#[test]
fn a_shared_response_that_arrived_during_a_pause_is_passed_on_to_all() {
    let gateway = Pausable::start();
    let (stale, late) = (get("/region/city?province_id=31").by("shop"), Duration::from_millis(400));
    assert_eq!(Connection::open(gateway.program.data).send(&stale).outcome(), "ok");
    for operation in ["v2.couriers", "v2.city"] {
        gateway.sandbox.fault(Fault::on(operation, Act::Pass).delay(late));
    }
    for round in 0..4 {
        let before = gateway.sandbox.journal().len();
        let new = format!("/courier/all?shared={round}");
        // Connections are handed to the two threads in turn, so that both have requests for each.
        let targets = [new.as_str(), "/region/city?province_id=31"];
        // What is stored may not be given at once any more.
        thread::sleep(Duration::from_millis(300));
        let mut callers = send_all(&gateway, (0..24).map(|n| get(targets[n / 2 % 2])));
        until(&format!("both are in flight in round {round}"), || gateway.sandbox.journal().len() == before + 2);
        // So that the others have joined them.
        thread::sleep(Duration::from_millis(100));
        gateway.pause(|| {
            until("Fastrac has responded", || gateway.sandbox.journal().iter().all(|entry| entry.status.is_some()));
        });
        for (n, caller) in callers.iter_mut().enumerate() {
            let response = caller.read_response("GET").expect("a response");
            assert_eq!((response.status, response.outcome()), (200, "ok"), "round {round}, caller {n}");
        }
        assert_eq!(gateway.sandbox.journal().len(), before + 2, "each was fetched once");
    }
}

/// An order that Fastrac answers with 401 waits for the canary, which another thread sends.
#[test]
fn a_verdict_that_arrived_during_a_pause_is_taken() {
    let gateway = Pausable::start();
    let refused = CannedEnvelope { status: 401, message: "Unauthorized".to_owned(), execute: false };
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Envelope(refused)));
    gateway.sandbox.fault(Fault::on("v2.province", Act::Pass).delay(Duration::from_millis(400)));
    for round in 0..5 {
        // One at a time: a verdict is not that of an order that was sent after its canary.
        let before = gateway.sandbox.journal().len();
        let mut callers = send_all(&gateway, std::iter::once(post("/order/express", &bodies::order(round))));
        until("the canary is in flight", || gateway.sandbox.journal().len() == before + 2);
        gateway.pause(|| {
            until("Fastrac has responded", || gateway.sandbox.journal().iter().all(|entry| entry.status.is_some()));
        });
        let response = callers[0].read_response("POST").expect("a response");
        assert_eq!(response.status, 401, "round {round}: {}", response.text());
    }
}

/// A place that was free before its wait was over is a waiter's, although nobody could see it in time.
#[test]
fn a_place_that_became_free_during_a_pause_goes_to_a_waiter() {
    let one_place = |fastrac| {
        let changed = configuration(fastrac).replace("timeout = \"1s\"", "timeout = \"30s\"");
        changed.replace("in_flight = 512", "in_flight = 1, max_wait = \"1s\"")
    };
    let gateway = Pausable::start_with(|fastrac| Program::start(&one_place(fastrac), ACCESS, SECRET));
    gateway.sandbox.fault(Fault::on("v2.track", Act::Pass).delay(Duration::from_millis(400)));
    for round in 0..4 {
        let before = gateway.sandbox.journal().len();
        let mut callers: Vec<Connection> = (0..3).map(|_| Connection::open(gateway.program.data)).collect();
        for (n, caller) in callers.iter_mut().enumerate() {
            let track = format!(r#"{{"courier_code":"idx","awb":"{round}-{n}"}}"#);
            caller.write(&request("GET", "/order/track").json(&track).by("shop").bytes());
        }
        until("one is in flight, and the others wait", || {
            let metrics = gateway.program.admin_page("/metrics").text();
            let waiting = sum(&metrics, "in_flight_requests", &[("service", "shop")]);
            gateway.sandbox.journal().len() == before + 1 && waiting >= 3.0
        });
        gateway.pause(|| {
            until("Fastrac has responded", || gateway.sandbox.journal().iter().all(|entry| entry.status.is_some()));
        });
        let statuses: Vec<_> =
            callers.iter_mut().map(|caller| caller.read_response("GET").expect("a response").status).collect();
        // The second one waits for no place, but for its turn behind one that was just sent.
        assert_eq!(statuses.iter().filter(|status| **status == 404).count(), 2, "round {round}: {statuses:?}");
    }
}

/// Issue: the disk was given no time after a pause that was longer than its own.
#[test]
fn a_disk_has_the_time_in_which_the_process_runs() {
    let faults = SystemFaults::new();
    let gateway = Pausable::start_with(|fastrac| {
        faults.start(&configuration(fastrac).replace("timeout = \"1s\"", "timeout = \"30s\""))
    });
    for round in 0..2 {
        begin(&faults.disk());
        let mut orders: Vec<Connection> = (0..4).map(|_| Connection::open(gateway.program.data)).collect();
        for (n, order) in orders.iter_mut().enumerate() {
            order.write(&post("/order/express", &bodies::order(4 * round + n)).by("shop").bytes());
        }
        until("they wait for the journal", || {
            sum(&gateway.program.admin_page("/metrics").text(), "in_flight_requests", &[("service", "shop")]) >= 4.0
        });
        // Longer than an order waits for a disk.
        gateway.pause(|| thread::sleep(Duration::from_millis(2500)));
        // The disk does not respond at once.
        thread::sleep(Duration::from_millis(300));
        let ready = gateway.program.admin_page("/readyz").text();
        end(&faults.disk());
        assert!(!ready.contains("does not respond"), "{ready}");
        for (n, order) in orders.iter_mut().enumerate() {
            let response = order.read_response("POST").expect("a response");
            assert_eq!(response.status, 200, "round {round}, order {n}: {}", response.text());
        }
    }
}
