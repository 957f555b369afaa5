//! A panic inside the gateway fails only the request that caused it: 500 `gateway.internal`, a
//! line in the exchange log, entries in the program's log. No key appears in any of them.
//!
//! No request can cause a panic, so the test uses a configuration that no file can express (a breaker that stays open
//! beyond the range of the clock) and request bodies that panic. It runs in a process of its own, whose stdout and
//! stderr are then searched.

use std::{
    convert::Infallible,
    panic::panic_any,
    pin::Pin,
    process::Command,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fastrac_gateway::{
    config::Config,
    path::{self, Arrival, ConnectionClose},
    record,
    snapshot::Worker,
};
use http::Request;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::{
    bodies,
    client::{Response, get, post},
    test_gateway::{ACCESS, SECRET, Setup, TestGateway, canary_in, secret_of},
};

/// Operations that Fastrac answers with 500, upon which the breaker panics: in the caller's own task (a quote), in a
/// fill for all equal requests (a lookup), and in the task of an order.
const DOOMED: [&str; 3] = ["v2.tariff_express", "v2.couriers", "v2.order_express"];

/// A panic message that is a literal in the source contains no secret.
const HARMLESS: &str = "words that stand in the source";

/// Kinds of panic messages; all but [`HARMLESS`] contain a key.
const SAYINGS: [(&str, fn()); 8] = [
    ("harmless", || panic!("words that stand in the source")),
    ("secret", || panic!("the secret is {SECRET}")),
    ("caller", || panic!("{} is not {}", secret_of("shop"), secret_of("clerk"))),
    ("thrown", || panic_any(SECRET.to_owned())),
    ("unwrapped", || unfit(&secret_of("shop")).unwrap()),
    ("expected", || unfit(&format!("{ACCESS}:{SECRET}")).expect("a pair")),
    ("cut", || println!("{}", &format!("é{SECRET}")[1..])),
    ("request", || panic!("{:?}", Request::get("/").header("secret-key", SECRET).body(()))),
];

/// An error whose message contains its input.
fn unfit(text: &str) -> Result<(), String> {
    Err(text.to_owned())
}

/// A request body that panics when it is polled.
struct Panics(fn());

impl Body for Panics {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        (self.0)();
        Poll::Ready(None)
    }
}

fn doom(config: &mut Config) {
    let breaker = &mut config.accounts[0].breaker;
    (breaker.minimum, breaker.failures, breaker.open) = (1, 0.0, Duration::MAX);
}

fn failed(response: &Response) {
    assert_eq!((response.status, response.code().as_str(), response.outcome()), (500, "gateway.internal", "internal"));
    assert_eq!(response.sent(), "unknown", "it was sent");
    print!("{:?}\n{}\n", response.headers, response.text());
}

fn panics_after_sending(gateway: &TestGateway) {
    for operation in DOOMED {
        let fault =
            serde_json::json!({"operation": operation, "act": {"envelope": {"status": 500, "message": "Oops"}}});
        gateway.sandbox.fault(serde_json::from_value(fault).expect("a fault"));
    }
    let order = post("/order/express", bodies::ORDER);
    for (name, request) in
        [("quote", post("/tariff/express", bodies::TARIFF)), ("fill", get("/courier/all")), ("order", order.clone())]
    {
        failed(&gateway.send(request.by("shop").header("x-request-id", &format!("panic-{name}"))));
    }
    let held = gateway.send(order.by("shop"));
    assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"), "the order may have been sent");
}

fn meets_bodies(gateway: &TestGateway) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (name, saying) in SAYINGS {
        let request = Request::post("/tariff/express?t=fgw_canary_q")
            .header("host", "gw")
            .header("access-key", "svc-shop-1")
            .header("secret-key", secret_of("shop"))
            .header("x-request-id", format!("panic-{name}"))
            .body(Panics(saying))
            .expect("a request");
        let arrival =
            Arrival { began: Instant::now(), close: ConnectionClose::Never, client: Default::default(), guard: () };
        let snapshot = gateway.app().gateway.current.load_full();
        runtime.block_on(async {
            let response =
                path::serve(snapshot, Arc::new(Worker::default()), request, arrival).await.expect("answered");
            assert_eq!(response.status(), 500, "{name}");
            println!("{:?}", response.headers());
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            println!("{}", String::from_utf8_lossy(&body));
        });
    }
}

#[test]
#[ignore = "runs in the process that the test below starts"]
fn panics_in_a_process_of_its_own() {
    record::init_program_log();
    let mut gateway = Setup::default().start();
    gateway.restart_with(doom);
    panics_after_sending(&gateway);
    meets_bodies(&gateway);
    let good = gateway.send(get("/region/province").by("shop"));
    assert_eq!((good.status, good.outcome()), (200, "ok"), "all other requests are served");
    let names = ["quote", "fill", "order"].into_iter().chain(SAYINGS.map(|(name, _)| name));
    let lines: Vec<_> = names.map(|name| gateway.line(&format!("panic-{name}"))).collect();
    for line in lines {
        assert_eq!((&line["outcome"], &line["code"]), (&"internal".into(), &"gateway.internal".into()), "{line}");
        let sent = if DOOMED.contains(&line["operation"].as_str().unwrap_or_default()) && line["attempts"] == 1 {
            "unknown"
        } else {
            "no"
        };
        assert_eq!((&line["status"], &line["sent"]), (&500.into(), &sent.into()), "{line}");
        println!("{line}");
    }
    assert_eq!(gateway.metric("requests_total", &[("outcome", "internal")]), 11.0);
    assert_eq!(gateway.metric("in_flight_requests", &[]), 0.0);
    for page in ["/metrics", "/status", "/config"] {
        println!("{}", gateway.admin(page).text());
    }
    // Stop the app here: dropping the `TestGateway` would check that nothing panicked.
    gateway.take_app().stop();
    println!("{}", std::fs::read_to_string(gateway.log_file()).expect("a log"));
}

#[test]
fn a_panic_gives_a_500_and_a_log_line_and_shows_no_key() {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "survives_panics::panics_in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env_remove("RUST_LOG")
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("started");
    let (stdout, stderr) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    assert_eq!(canary_in(&child.stdout), None, "in stdout");
    assert_eq!(canary_in(&child.stderr), None, "in stderr");
    let entries: Vec<serde_json::Value> =
        stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no entry: {line}"))).collect();
    let of = |message: &str| {
        entries
            .iter()
            .filter(|entry| entry["message"].as_str().is_some_and(|text| text.starts_with(message)))
            .collect::<Vec<_>>()
    };
    let panicked = of("panicked");
    assert_eq!(panicked.len(), 11, "{stderr}");
    for entry in &panicked {
        assert_eq!((&entry["level"], entry["place"].is_string()), (&"ERROR".into(), true), "{entry}");
    }
    let messages: Vec<&str> = panicked.iter().filter_map(|entry| entry["panic_message"].as_str()).collect();
    assert_eq!(messages.iter().filter(|message| **message == HARMLESS).count(), 1);
    assert_eq!(messages.iter().filter(|message| message.contains("not shown")).count(), 10);
    let named = of("a request failed");
    let mut named: Vec<&str> = named.iter().filter_map(|entry| entry["request_id"].as_str()).collect();
    named.sort_unstable();
    let mut all: Vec<String> = SAYINGS.map(|(name, _)| format!("panic-{name}")).to_vec();
    all.extend(["quote", "fill", "order"].map(|name| format!("panic-{name}")));
    all.sort_unstable();
    assert_eq!(named, all);
}
