//! The clock, the progress of orders, and webhooks, through the sockets.

use std::{
    net::TcpListener,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use tokio::net::TcpSocket;

use super::*;
use crate::{clock::Pace, webhook};

/// A receiver of webhooks: answers each with what `answer` says, by its count from 0.
struct Receiver {
    url: String,
    seen: mpsc::Receiver<Webhook>,
}

#[derive(Clone, Debug, PartialEq)]
struct Webhook {
    head: String,
    body: Value,
}

impl Receiver {
    /// `None`: it reads and never answers.
    fn new(answer: impl Fn(usize) -> Option<u16> + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook?a=1", listener.local_addr().unwrap());
        let (tell, seen) = mpsc::channel();
        // Ends with the test's process.
        thread::spawn(move || {
            let mut silent = Vec::new();
            for count in 0.. {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let webhook = receive(&mut stream);
                if tell.send(webhook).is_err() {
                    return;
                }
                match answer(count) {
                    Some(status) => {
                        let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nseen");
                    }
                    None => silent.push(stream),
                }
            }
        });
        Receiver { url, seen }
    }

    fn next(&self) -> Webhook {
        self.seen.recv_timeout(Duration::from_secs(20)).expect("a webhook")
    }

    fn statuses(&self) -> Vec<String> {
        self.seen.try_iter().map(|webhook| webhook.body["status"].as_str().unwrap().to_owned()).collect()
    }
}

fn receive(stream: &mut TcpStream) -> Webhook {
    let mut bytes = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let read = stream.read(&mut piece).unwrap();
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        if bytes.len() == end + 4 + length {
            return Webhook { head, body: serde_json::from_slice(&bytes[end + 4..]).unwrap() };
        }
    }
}

/// A sandbox with a stepped clock and a control address.
fn stepped(change: impl FnOnce(&mut webhook::WebhookSettings)) -> (Sandbox, SocketAddr) {
    let mut settings = webhook::WebhookSettings::default();
    change(&mut settings);
    let rules = Switches { webhook: Arc::new(settings), ..Switches::default() };
    let control = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let clock = Clock::stepped_at(clock::STEPPED_START);
    let sandbox = Sandbox::start(Options { switches: rules, control, clock, ..Options::default() }).unwrap();
    let at = sandbox.control_addr().unwrap();
    (sandbox, at)
}

fn tell(at: SocketAddr, path: &str, body: &str) -> Value {
    let seen = ask(at, "POST", &format!("/_sandbox/{path}"), body);
    assert_eq!(seen.status, 200, "{path} {body}: {seen:?}");
    seen.json()
}

fn place(sandbox: &Sandbox) -> String {
    ask(sandbox.addr(), "POST", "/order/express", &order()).json()["data"]["awb"].as_str().unwrap().to_owned()
}

#[test]
fn webhooks_arrive_where_a_merchant_set_them_before_a_step_is_answered() {
    let receiver = Receiver::new(|_| Some(200));
    let (sandbox, at) = stepped(|_| {});
    assert_eq!(ask(sandbox.addr(), "POST", "/webhook", &json!({"url": receiver.url}).to_string()).status, 200);
    let awb = place(&sandbox);
    tell(at, "clock", r#"{"advance_ms": 0}"#);
    let first = receiver.next();
    assert!(first.head.starts_with("POST /hook?a=1 HTTP/1.1\r\n"), "{first:?}");
    assert!(first.head.contains("content-type: application/json") && !first.head.contains("signature"), "{first:?}");
    assert_eq!((&first.body["awb"], &first.body["status"]), (&json!(awb), &json!("PENDING_DROPOFF")));
    let told = tell(at, "clock", &json!({"until_ended": awb}).to_string());
    assert_eq!(told["webhooks"]["delivered"], 6);
    assert_eq!(receiver.statuses(), ["DROPPED", "IN_TRANSIT", "IN_TRANSIT", "IN_TRANSIT", "DELIVERED"]);
    let list = ask(at, "GET", "/_sandbox/webhooks?after=5", "").json();
    let last = &list["deliveries"][0];
    assert_eq!((&last["attempts"][0]["status"], &last["attempts"][0]["answer"]), (&json!(200), &json!("seen")));
    assert_eq!((&last["state"], &list["waiting"]), (&json!("delivered"), &json!(0)));
}

#[test]
fn a_refused_webhook_comes_again_in_the_sandboxs_time_and_is_signed_if_told() {
    let receiver = Receiver::new(|count| Some(if count < 2 { 500 } else { 200 }));
    let url = receiver.url.clone();
    let (sandbox, at) = stepped(move |settings| {
        settings.url = Some(url);
        settings.secret = Some(Zeroizing::new("made-up".to_owned()));
    });
    place(&sandbox);
    for (advance, delivered) in [(0, 0), (10_000, 0), (59_999, 0), (1, 1)] {
        let told = tell(at, "clock", &json!({"advance_ms": advance}).to_string());
        assert_eq!(told["webhooks"]["delivered"], delivered, "{told}");
    }
    for _ in 0..3 {
        let webhook = receiver.next();
        let body = serde_json::from_str::<Value>(&list_body(at)).unwrap();
        assert_eq!(webhook.body, body);
        let signature = webhook::send::signature(b"made-up", list_body(at).as_bytes());
        assert!(webhook.head.contains(&format!("x-fastrac-signature: {signature}")), "{webhook:?}");
    }
    let attempts = ask(at, "GET", "/_sandbox/webhooks", "").json()["deliveries"][0]["attempts"].clone();
    let times: Vec<&str> = attempts.as_array().unwrap().iter().map(|a| a["at"].as_str().unwrap()).collect();
    assert_eq!(times, ["2026-01-01T01:00:00.000Z", "2026-01-01T01:00:10.000Z", "2026-01-01T01:01:10.000Z"]);
}

/// The body of the first delivery, as the list has it.
fn list_body(at: SocketAddr) -> String {
    ask(at, "GET", "/_sandbox/webhooks", "").json()["deliveries"][0]["body"].as_str().unwrap().to_owned()
}

#[test]
fn nobody_there_and_nobody_allowed_are_told_apart() {
    // Bound and not listening: nobody else can take the port meanwhile.
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = held.local_addr().unwrap();
    for (url, error, state) in [
        (format!("http://{dead}/"), "connection refused", "waiting"),
        (
            "http://merchant.example/hook".to_owned(),
            "not a loopback address; webhook.hosts = \"any\" allows it",
            "failed",
        ),
        ("http://192.0.2.1/hook".to_owned(), "not a loopback address; webhook.hosts = \"any\" allows it", "failed"),
        ("https://127.0.0.1/hook".to_owned(), "the sandbox sends to http addresses only", "failed"),
    ] {
        let (sandbox, at) = stepped(|settings| settings.url = Some(url.clone()));
        place(&sandbox);
        tell(at, "clock", "{}");
        let list = ask(at, "GET", "/_sandbox/webhooks", "").json();
        let first = &list["deliveries"][0];
        assert_eq!((&first["attempts"][0]["error"], &first["state"]), (&json!(error), &json!(state)), "{url}");
    }
}

#[test]
fn a_receiver_that_never_answers_holds_up_neither_requests_nor_the_end() {
    let receiver = Receiver::new(|_| None);
    let (sandbox, at) = stepped(|settings| {
        settings.url = Some(receiver.url.clone());
        settings.timeout_ms = 600_000;
    });
    place(&sandbox);
    receiver.next();
    assert_eq!(ask(sandbox.addr(), "GET", "/region/province", "").status, 200);
    assert_eq!(ask(at, "GET", "/_sandbox/webhooks", "").json()["deliveries"][0]["state"], "sending");
    let begin = Instant::now();
    drop(sandbox);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn an_accelerated_clock_delivers_by_itself() {
    let receiver = Receiver::new(|_| Some(204));
    let settings = webhook::WebhookSettings { url: Some(receiver.url.clone()), ..webhook::WebhookSettings::default() };
    let rules = Switches { webhook: Arc::new(settings), ..Switches::default() };
    let clock = Clock::starting(Pace::Accelerated(1e6), clock::STEPPED_START);
    let sandbox = Sandbox::start(Options { switches: rules, clock, ..Options::default() }).unwrap();
    place(&sandbox);
    let seen: Vec<Value> = (0..6).map(|_| receiver.next().body["status"].clone()).collect();
    assert_eq!(seen.last().unwrap(), "DELIVERED");
}

#[test]
fn orders_can_be_listed_and_steered_and_refusals_say_what_is_possible() {
    let (sandbox, at) = stepped(|_| {});
    tell(at, "branches", r#"{"branch": "cancel"}"#);
    let (first, second) = (place(&sandbox), place(&sandbox));
    let list = ask(at, "GET", "/_sandbox/orders", "").json();
    let branches: Vec<&Value> = list["orders"].as_array().unwrap().iter().map(|order| &order["branch"]).collect();
    assert_eq!(branches, ["cancel", "deliver"]);
    assert_eq!(tell(at, &format!("orders/{second}"), r#"{"status": "DELIVERED"}"#)["status"], "DELIVERED");
    assert_eq!(tell(at, "clock", r#"{"events": 1}"#)["next"], Value::Null);
    assert_eq!(ask(at, "GET", &format!("/_sandbox/orders/{first}"), "").json()["status"], "CANCELED");
    let balance = sandbox.balance();
    assert_eq!(tell(at, "wallet", r#"{"kind": "topup", "amount": 5}"#)["balance"], balance + 5);
    let refused = |method: &str, path: &str, body: &str| {
        let seen = ask(at, method, path, body);
        (seen.status, seen.json()["error"].as_str().unwrap().to_owned())
    };
    for (method, path, body, status, text) in [
        ("GET", "/_sandbox/nothing", "", 404, "GET /_sandbox/ lists"),
        ("GET", "/region/province", "", 404, "GET /_sandbox/ lists"),
        ("DELETE", "/_sandbox/clock", "", 405, "allowed here: GET, POST"),
        ("POST", "/_sandbox/clock", r#"{"advanse": "1h"}"#, 400, "did you mean `advance`?"),
        ("POST", "/_sandbox/clock", r#"{"advance": "soon"}"#, 400, "a duration such as"),
        ("POST", "/_sandbox/clock", r#"{"factor": 0}"#, 400, "factor: above 0"),
        ("POST", "/_sandbox/clock", "{", 400, "not JSON"),
        ("POST", "/_sandbox/branches", r#"{"branch": "retrun"}"#, 400, "did you mean `return`?"),
        ("POST", "/_sandbox/orders/FSTRA1", r#"{"status": "X"}"#, 404, "GET /_sandbox/orders lists"),
        ("POST", "/_sandbox/webhooks/rules", r#"{"act": "lose", "chance": 2}"#, 400, "chance: 0 to 1"),
        ("DELETE", "/_sandbox/webhooks/rules/9", "", 404, "GET /_sandbox/webhooks/rules lists"),
        ("POST", "/_sandbox/wallet", r#"{"kind": "order", "amount": 5}"#, 400, "tarik_tunai"),
        ("GET", "/_sandbox/orders?after=x", "", 400, "after must be a number"),
    ] {
        let (code, said) = refused(method, path, body);
        assert!(code == status && said.contains(text), "{method} {path} {body}: {code} {said}");
    }
    let path = format!("/_sandbox/orders/{second}");
    assert!(refused("POST", &path, r#"{"branch": "return"}"#).1.contains("it has ended"));
}

#[test]
fn the_readme_has_the_table_of_the_control_address() {
    let (_sandbox, at) = stepped(|_| {});
    let index = ask(at, "GET", "/_sandbox/", "").json();
    let mut table = "| | | example |\n| --- | --- | --- |\n".to_owned();
    for route in index["routes"].as_array().unwrap() {
        let text = |name: &str| route[name].as_str().unwrap().to_owned();
        let example = text("example");
        let example =
            if example.is_empty() { String::new() } else { format!("`{}`", example.replace(" or ", "` or `")) };
        table += &format!("| `{} {}` | {} | {example} |\n", text("method"), text("path"), text("does"));
    }
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&table), "sandbox/README.md wants this table:\n{table}");
}

#[test]
fn two_sandboxes_of_one_seed_say_and_send_the_same_bytes() {
    let live = || {
        let receiver = Receiver::new(|count| Some(if count % 5 == 3 { 503 } else { 200 }));
        let (sandbox, at) = stepped(|_| {});
        // The port differs, so the address is set by a request that the journal is not compared for.
        ask(sandbox.addr(), "POST", "/webhook", &json!({"url": receiver.url}).to_string());
        let mut all = Vec::new();
        let mut said = |seen: Seen| {
            let head: Vec<&str> = seen.head.lines().filter(|line| !line.starts_with("date:")).collect();
            all.push(format!("{}\n{}", head.join("\n"), String::from_utf8(seen.body).unwrap()));
        };
        tell(at, "webhooks/rules", r#"{"act": "duplicate", "chance": 0.3}"#);
        tell(at, "webhooks/rules", r#"{"act": "reorder", "chance": 0.3}"#);
        for _ in 0..30 {
            said(ask(sandbox.addr(), "POST", "/order/express", &order()));
            said(ask(at, "POST", "/_sandbox/clock", r#"{"advance": "7h"}"#));
        }
        said(ask(at, "POST", "/_sandbox/clock", r#"{"advance": "30days"}"#));
        said(ask(at, "GET", "/_sandbox/orders", ""));
        said(ask(sandbox.addr(), "POST", "/user/balance/history", r#"{"limit": 1000}"#));
        said(ask(at, "GET", "/_sandbox/journal?after=1", ""));
        let webhooks = ask(at, "GET", "/_sandbox/webhooks?limit=1000", "");
        let list = String::from_utf8(webhooks.body).unwrap().replace(&receiver.url, "URL");
        let seen: Vec<Value> = receiver.seen.try_iter().map(|webhook| webhook.body).collect();
        assert!(seen.len() > 150, "{}", seen.len());
        (all, list, seen)
    };
    let (one, other) = (live(), live());
    assert_eq!(one.0, other.0);
    assert_eq!(one.1, other.1);
    assert_eq!(one.2, other.2);
}
