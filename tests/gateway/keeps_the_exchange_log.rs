//! The exchange log keeps what it is for: nobody without credentials can push a line of a service out of it, no line
//! of an order is lost on a healthy disk, and a disk that hangs stops nothing else.

use std::{
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    sync::Barrier,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Request, get, post, request},
    test_gateway::{SECRET, Setup, TestGateway, canary_in, secret_of, until},
};

/// The lines of all files whose names begin like this.
fn lines_of(gateway: &TestGateway, name: &str) -> Vec<Value> {
    let text = files_of(gateway, name).iter().map(|path| fs::read_to_string(path).expect("a file")).collect::<String>();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn files_of(gateway: &TestGateway, name: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(gateway.folder.path().join("state")).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    files.filter(|path| path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name))).collect()
}

fn size(files: &[PathBuf]) -> u64 {
    files.iter().map(|path| fs::metadata(path).expect("a file").len()).sum()
}

#[test]
fn requests_without_credentials_push_no_order_out() {
    let gateway = Setup { log: "keep = { size = \"1MiB\" }", ..Setup::default() }.start();
    for number in 0..20 {
        assert_eq!(gateway.send(post("/order/express", &bodies::order(number)).by("shop")).status, 200);
    }
    std::thread::scope(|scope| {
        for client in 0..4 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut connection = gateway.connect();
                let (path, query) = ("/p".repeat(15_000), "a=".to_owned() + &"x".repeat(30_000));
                for number in 0..300 {
                    let target = format!("{path}{client}{number}?{query}");
                    assert_eq!(connection.send(&get(&target)).status, 401);
                }
            });
        }
    });
    until("all are counted", || gateway.metric("log_records_total", &[]) >= 1220.0);
    let orders = lines_of(&gateway, "exchanges");
    assert_eq!(orders.iter().filter(|line| line["class"] == "order").count(), 20);
    let (own, others) = (files_of(&gateway, "exchanges"), files_of(&gateway, "unidentified"));
    assert!(others.len() > 1 && size(&others) <= 105 * 1024, "{} files, {} bytes", others.len(), size(&others));
    for file in own.iter().chain(&others) {
        assert_eq!(fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    let line = lines_of(&gateway, "unidentified").pop().expect("a line");
    assert_eq!((&line["service"], &line["outcome"]), (&"-".into(), &"unauthenticated".into()));
    assert!(line["path"].as_str().is_some_and(|path| path.len() == 2048 && path.starts_with("/p/p")), "{line}");
    assert!(line["path_bytes"].as_u64().is_some_and(|bytes| bytes > 30_000), "{line}");
    assert_eq!((line["query"].as_str().map(str::len), &line["query_bytes"]), (Some(2048), &30_002.into()));
}

/// The service finds there why it was refused.
#[test]
fn what_is_refused_for_its_form_is_in_the_log_of_its_service() {
    let services = &[("limited", "quota = { per_day = 100 }")];
    let gateway = Setup { services, ..Setup::default() }.start();
    let refused = |requests: [Request; 3]| requests.map(|request| gateway.send(request));
    let malformed = || {
        let timeout = get("/region/province").header("x-gateway-timeout", "soon");
        [timeout, get("/order/../region/province"), request("CONNECT", "/region/province")]
    };
    for response in refused(malformed().map(|request| request.by("limited"))) {
        assert!(response.header("ratelimit").is_some(), "{response:?}");
    }
    refused(malformed());
    until("all are logged", || gateway.log().len() == 6);
    let (own, others) = (lines_of(&gateway, "exchanges"), lines_of(&gateway, "unidentified"));
    let all = |lines: &[Value], service| lines.iter().filter(|line| line["service"] == service).count();
    assert_eq!((all(&own, "limited"), own.len()), (3, 3), "{own:?}");
    assert_eq!((all(&others, "-"), others.len()), (3, 3), "{others:?}");
    assert_eq!(own[0]["code"], "request.malformed");
}

#[test]
fn a_line_is_bounded_and_shows_no_secret_whatever_the_request_says() {
    let gateway = TestGateway::new();
    let secret = secret_of("shop");
    let near_the_cut = format!("{}/{secret}", "/p".repeat(1020));
    let targets = [
        format!("/region/province?{}&secret_key={secret}", "a=1&".repeat(511)),
        format!("/region/province?q={}{secret}", "x".repeat(2040)),
        format!("/region/province?q=%22{}", "%22".repeat(2000)),
        near_the_cut,
        "/region/province?a=1".to_owned(),
    ];
    for target in &targets {
        gateway.send(get(target).by("shop"));
        gateway.send(get(target).pair("svc-shop-1", "wrong"));
    }
    // In the place of the method.
    gateway.send(request(&secret, "/region/province").by("shop"));
    gateway.send(request("PROPFIND", "/region/province").by("shop"));
    until("all are logged", || gateway.log().len() >= 12);
    for line in gateway.log() {
        let text = line.to_string();
        assert!(text.len() < 6000, "{text}");
        assert_eq!(canary_in(text.as_bytes()), None, "{text}");
    }
    let methods: Vec<_> = gateway.log().into_iter().map(|line| line["method"].clone()).collect();
    assert!(methods.contains(&"PROPFIND".into()) && methods.contains(&"other".into()), "{methods:?}");
    assert!(gateway.log().iter().filter(|line| line["query"] == "a=1").all(|line| line.get("query_bytes").is_none()));
}

/// What was received of a response that is not written: cut off, withheld, too long, streamed.
#[test]
fn a_response_whose_body_is_not_held_is_logged_by_its_size() {
    let limits = "answer_buffer = \"4KiB\"\nanswer_body = \"64KiB\"";
    let gateway = Setup { limits, account: "retries = 0.0", ..Setup::default() }.start();
    let of = |filler: usize, text: &str| format!(r#"{{"success":true,"data":"{text}{}"}}"#, "x".repeat(filler));
    let (streamed, too_long, leaked) = (of(20_000, ""), of(70_000, ""), of(0, SECRET));
    let late = || Fault { delay_ms: 60_000, ..Fault::on("v2.multi_items", Act::Pass) };
    let read = || get("/webhook/get").by("shop");
    let order = |number: usize| post("/order/express", &bodies::order(number)).by("shop");
    let patient = |request: Request| request.header("x-gateway-timeout", "300");
    for (name, fault, request, outcome, bytes) in [
        ("cut", Fault::on("v2.webhook_get", Act::Cut { after: 10, reset: false }), read(), "cut", Some(10)),
        ("cut-order", Fault::on("v2.order_express", Act::Cut { after: 7, reset: false }), order(1), "cut", Some(7)),
        ("cut-at-once", Fault::on("v2.webhook_get", Act::Cut { after: 0, reset: false }), read(), "cut", Some(0)),
        ("leak", Fault::on("v2.webhook_get", Act::answer(200, &leaked)), read(), "leak", Some(leaked.len())),
        ("long", Fault::on("v2.order_express", Act::answer(200, &too_long)), order(2), "cut", Some(0)),
        ("stream", Fault::on("v2.webhook_get", Act::answer(200, &streamed)), read(), "ok", Some(streamed.len())),
        ("none", Fault::on("v2.webhook_get", Act::Close), read(), "cut", None),
        ("late", late(), patient(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop")), "timeout", None),
    ] {
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(fault);
        let id = format!("response-{name}");
        assert_eq!(gateway.send(request.header("x-request-id", &id)).outcome(), outcome, "{name}");
        let line = gateway.line(&id);
        let expected = bytes.map_or(Value::Null, |bytes| json!({ "bytes": bytes }));
        assert_eq!(line["answer_body"], expected, "{name}: {line}");
    }
}

#[test]
fn a_hundred_large_orders_at_once_lose_no_line() {
    let gateway = TestGateway::new();
    let all = Barrier::new(100);
    std::thread::scope(|scope| {
        for number in 0..100 {
            let (gateway, all) = (&gateway, &all);
            scope.spawn(move || {
                let padding = format!("\"padding\":\"{}\",\"courier_code\"", "x".repeat(486_000));
                let body = bodies::order(number).replacen("\"courier_code\"", &padding, 1);
                let mut connection = gateway.connect();
                let request = post("/order/express", &body).by("shop");
                all.wait();
                assert_eq!(connection.send(&request).status, 200);
            });
        }
    });
    until("all are written", || gateway.metric("log_records_total", &[]) >= 100.0);
    let lines = gateway.lines(100);
    assert_eq!(gateway.metric("log_records_total", &[("result", "dropped")]), 0.0);
    assert_eq!(gateway.metric("log_bodies_dropped_total", &[]), 0.0);
    let whole = |line: &Value| line["request_body"]["padding"].as_str().map(str::len) == Some(486_000);
    assert!(lines.iter().all(|line| line["class"] == "order" && whole(line)));
}

/// A named pipe in the place of the log: nobody reads it, so that writing to it hangs.
fn hanging_log(gateway: &mut TestGateway) -> PathBuf {
    let pipe = gateway.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let target = pipe.clone();
    gateway.restart_with(move |config| config.log.exchanges = fastrac_gateway::config::LogTarget::File(target));
    pipe
}

#[test]
fn a_disk_that_hangs_makes_requests_wait_and_stops_nothing_else() {
    let more = "[operations.\"v2.province\"]\ntimeout = \"1s\"\n";
    let setup = Setup { log: "on_full = \"block\"", drain: ("0s", "3s"), more, ..Setup::default() };
    let mut gateway = setup.start();
    let pipe = hanging_log(&mut gateway);
    // Room is 64 MiB; a line that entered is charged with its length.
    let padding = format!("\"padding\":\"{}\",\"courier\"", "x".repeat(900_000));
    let body = bodies::MULTI_ITEMS.replacen("\"courier\"", &padding, 1);
    let large = post("/item/multi-items", &body).by("shop").header("x-gateway-timeout", "300");
    let mut connection = gateway.connect();
    let mut sent = 0;
    let refused = loop {
        let response = connection.send(&large);
        if response.status == 503 {
            break response;
        }
        sent += 1;
        assert!(response.status == 200 && sent < 100, "{sent}: {response:?}");
        if response.header("connection") == Some("close") {
            connection = gateway.connect();
        }
    };
    assert!(sent > 60, "{sent}");
    assert_eq!((refused.code().as_str(), refused.sent()), ("gateway.overloaded", "no"));
    let began = Instant::now();
    let again = gateway.send(get("/region/province").by("shop").header("x-gateway-timeout", "300"));
    assert_eq!((again.status, again.code().as_str()), (503, "gateway.overloaded"));
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&began.elapsed()));
    // Without `x-gateway-timeout`, the operation's timeout ends the wait.
    let began = Instant::now();
    let again = gateway.send(get("/region/province").by("shop"));
    assert_eq!((again.status, again.code().as_str()), (503, "gateway.overloaded"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // What a caller has waited until it left is not the gateway's own time.
    let mut leaver = gateway.connect();
    leaver.write(&request("GET", "/order/track").json("{}").by("shop").bytes());
    until("it waits", || gateway.metric("in_flight_requests", &[("service", "shop")]) == 1.0);
    std::thread::sleep(Duration::from_millis(500));
    drop(leaver);
    let gone = [("outcome", "client_gone")];
    until("it is counted", || gateway.metric("requests_total", &gone) == 1.0);
    let [own, whole] =
        ["overhead_duration_seconds_sum", "request_duration_seconds_sum"].map(|name| gateway.metric(name, &gone));
    assert!(own < whole / 2.0, "{own} s of {whole} s");
    // Nobody waits who has no line to wait for, and nothing else does.
    assert_eq!(gateway.send(get("/region/province")).status, 401);
    assert_eq!(gateway.admin("/livez").status, 200);
    until("it is reported", || gateway.admin("/readyz").text().contains("exchange log of all requests: its output"));
    gateway.reload("minimum = 100000", "minimum = 100001");
    let app = gateway.take_app();
    let began = Instant::now();
    app.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Lets the log's thread end.
    std::thread::spawn(move || OpenOptions::new().read(true).open(pipe)?.read_to_end(&mut Vec::new()));
}
