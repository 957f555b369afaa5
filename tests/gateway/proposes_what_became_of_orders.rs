//! Of an order whose outcome is unknown, balance history and tracking show what became of it: proposed, never decided; and
//! what follows when an operator settles it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Clock, Fault, Options};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{Connection, Request, Response, get, post},
    test_gateway::{Setup, TestGateway, digest_of, sandbox, secret_of, sum, until},
};

/// `orders.reconcile` and the timeout of orders: the gateway reads soon after Fastrac can no longer be executing them.
fn configuration(reconcile: &str) -> &'static str {
    let ops = digest_of("ops");
    let text = format!(
        "[admin]\ntokens = [{{ name = \"ops\", sha256 = \"{ops}\", role = \"operate\" }}]\n\
         [orders]\nreconcile = \"{reconcile}\"\n\
         [operations.\"v2.order_express\"]\ntimeout = \"1s\"\n[operations.\"v2.order_cancel\"]\ntimeout = \"1s\"\n"
    );
    text.leak()
}

/// With a sandbox whose clock is the machine's.
fn start(reconcile: &str) -> TestGateway {
    let sandbox = Options { clock: Clock::default(), ..sandbox() };
    Setup { more: configuration(reconcile), sandbox, ..Setup::default() }.start()
}

fn admin(gateway: &TestGateway, request: Request) -> Response {
    let token = format!("Bearer {}", secret_of("ops"));
    let request = request.header("host", "localhost").header("authorization", &token);
    Connection::open(gateway.app().admin).send(&request)
}

fn listed(gateway: &TestGateway) -> Vec<Value> {
    admin(gateway, get("/orders")).json()["orders"].as_array().expect("a list").clone()
}

/// What the alert reads.
fn unknown(gateway: &TestGateway) -> f64 {
    sum(&gateway.admin("/metrics").text(), "orders_unknown", &[("account", "main")])
}

/// What is proposed of an order: finding and reason.
fn proposed(gateway: &TestGateway, id: &str) -> (String, String) {
    let shown = admin(gateway, get(&format!("/orders/{id}"))).json();
    let text = |name: &str| shown["proposal"][name].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned();
    (text("finding"), text("reason"))
}

fn settle(gateway: &TestGateway, id: &str, finding: &str) -> Response {
    admin(gateway, post("/orders/settle", &json!({ "id": id, "as": finding, "note": "test" }).to_string()))
}

fn express(body: &str, id: &str) -> Request {
    post("/order/express", body).by("shop").header("x-request-id", id)
}

/// Sends an order whose response is lost, before or after its execution.
fn leave_unknown(gateway: &TestGateway, order: Request, act: Act) {
    gateway.sandbox.fault(Fault::on("v2.order_express", act).times(1));
    assert_eq!(gateway.send(order).sent(), "unknown");
}

/// Bodies of the orders that Fastrac has executed.
fn executed(gateway: &TestGateway) -> HashSet<Vec<u8>> {
    let journal = gateway.sandbox.journal().into_iter();
    journal.filter(|entry| entry.executed).map(|entry| entry.body.to_vec()).collect()
}

fn reads(gateway: &TestGateway, target: &str) -> usize {
    gateway.received().iter().filter(|entry| entry.target() == target).count()
}

/// How many orders: 40, or `FASTRAC_UNKNOWN_ORDERS`.
fn number() -> usize {
    std::env::var("FASTRAC_UNKNOWN_ORDERS").map_or(40, |number| number.parse().expect("a number"))
}

/// An order and whether it has a key. All have the same price. The last two have one shipper and one receiver.
fn order(index: usize) -> Request {
    let body = match number() - index {
        1 => bodies::order(index - 1).replace("Kaos katun", "Kaos lain"),
        _ => bodies::order(index),
    };
    let order = express(&body, &format!("unknown-{index}"));
    if index.is_multiple_of(3) { order.header("idempotency-key", &format!("key-{index}")) } else { order }
}

/// 200 unknown orders, half of them executed (issue: at least 95 % proposed correctly, none wrongly), and settling them.
#[test]
fn half_of_many_unknown_orders_were_executed() {
    let mut gateway = start("12s");
    for index in 0..number() {
        let act = [Act::Lose, Act::Close, Act::LoseReset, Act::Reset][index % 4].clone();
        leave_unknown(&gateway, order(index), act);
        // Of the same minute and price, and answered.
        assert_eq!(gateway.send(express(&bodies::order(10_000 + index), &format!("known-{index}"))).status, 200);
    }
    assert_eq!(unknown(&gateway), number() as f64);
    assert!(listed(&gateway).iter().all(|order| order["told"] == "cut"), "what their callers were told");
    // At once, one that was executed can be seen; one that was not may still be.
    assert_eq!(proposed(&gateway, "unknown-0").0, "executed");
    let (finding, reason) = proposed(&gateway, "unknown-1");
    assert_eq!(finding, "cannot-tell");
    assert!(reason.contains("may execute it until"), "{reason}");

    // The background makes the proposals; nobody asks. The last two cannot be told apart.
    let told = |orders: &[Value]| orders.iter().filter(|order| order["proposed"] != "cannot-tell").count();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let orders = listed(&gateway);
        if orders.iter().all(|order| order["proposed"].is_string()) && told(&orders) == number() - 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{orders:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(reads(&gateway, "/user/balance/history") < 20, "one reading serves all orders of a day");

    let truth = executed(&gateway);
    let mut right = 0;
    for index in 0..number() {
        let id = format!("unknown-{index}");
        let expected = if truth.contains(&order(index).body) { "executed" } else { "not-executed" };
        let shown = admin(&gateway, get(&format!("/orders/{id}"))).json();
        let finding = shown["proposal"]["finding"].as_str().expect("a finding");
        assert!(["cannot-tell", expected].contains(&finding), "{id}: {expected}, but {shown}");
        if finding == "executed" {
            let awb = shown["proposal"]["debit"]["awb"].as_str().expect("an air waybill");
            assert!(awb.starts_with("FSTRA") && shown["proposal"]["reason"].as_str().unwrap().contains(awb), "{shown}");
            assert_eq!(shown["request"]["courier_code"], "idx", "{shown}");
            assert!(!shown.to_string().contains("Budi"), "personal data: {shown}");
        }
        right += usize::from(finding == expected);
        let settled = settle(&gateway, &id, expected);
        assert_eq!((settled.status, settled.json()["settled"].as_str()), (200, Some(expected)));
    }
    assert!(right * 100 >= number() * 95, "{right} of {}", number());

    // What follows: the alert ends, and equal orders are free.
    assert_eq!(unknown(&gateway), 0.0);
    assert!(listed(&gateway).is_empty());
    assert_eq!(settle(&gateway, "unknown-0", "executed").status, 404, "settled already");
    gateway.restart();
    assert!(listed(&gateway).is_empty());
    let count = |gateway: &TestGateway| gateway.sandbox.counters().orders.express;
    let before = count(&gateway);
    let repeat = |index: usize| order(index).header("x-request-id", &format!("again-{index}"));
    // Executed, with a key: the key keeps what its caller was told. Not executed: the key is free. Without one: new orders.
    let kept = gateway.send(repeat(0));
    assert_eq!(
        (kept.header("x-gateway-first-request"), kept.sent(), count(&gateway)),
        (Some("unknown-0"), "unknown", before)
    );
    for (index, added) in [(3, 1), (1, 2), (2, 3)] {
        assert_eq!((gateway.send(repeat(index)).status, count(&gateway)), (200, before + added), "order {index}");
    }
    let audit = std::fs::read_to_string(gateway.folder.path().join("state/audit.jsonl")).expect("a file");
    let line = audit.lines().find(|line| line.contains("\"order\":\"unknown-0\"")).expect("a line");
    assert!(line.contains("\"token\":\"ops\"") && line.contains("\"proposed\":\"executed\""), "{line}");
}

#[test]
fn what_cannot_be_read_is_the_reason_and_nothing_is_read_of_a_failing_fastrac() {
    let gateway = start("0s");
    leave_unknown(&gateway, order(0), Act::Lose);
    let history = |act: Act| Fault::on("v2.balance_history", act);
    let skewed = Fault { skew_ms: 90_000, ..history(Act::Pass) };
    let faults = [
        (history(Act::Html(502)), "v2.balance_history was answered with status 502"),
        (history(Act::answer(200, r#"{"success":true,"data":{"rows":"none"}}"#)), "not JSON with rows"),
        (skewed, "clock and the gateway's differ by"),
        (Fault::on("v2.track", Act::Html(500)), "v2.track was answered with status 500"),
        (history(Act::Throttle { retry_after: Some(1) }), "v2.balance_history was answered with status 429"),
    ];
    for (fault, why) in faults {
        let number = gateway.sandbox.fault(fault);
        let (finding, reason) = proposed(&gateway, "unknown-0");
        assert!(finding == "cannot-tell" && reason.contains(why), "{why}: {finding}: {reason}");
        gateway.sandbox.end_fault(number);
    }
    let before = gateway.received().len();
    let (finding, reason) = proposed(&gateway, "unknown-0");
    assert!(finding == "cannot-tell" && reason.contains("throttled the account"), "{finding}: {reason}");
    assert_eq!(gateway.received().len(), before, "the account is paused");
    gateway.wait_for_pauses();
    assert_eq!(proposed(&gateway, "unknown-0").0, "executed");
    let before = gateway.received().len();
    assert_eq!(proposed(&gateway, "unknown-0").0, "executed");
    assert_eq!(gateway.received().len(), before, "it is known");
}

#[test]
fn nothing_is_read_while_a_breaker_is_open() {
    let breaker = "minimum = 2, failures = 0.5, open = \"60s\"";
    let sandbox = Options { clock: Clock::default(), ..sandbox() };
    let gateway = Setup { more: configuration("100ms"), breaker, sandbox, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::Html(500)));
    for _ in 0..2 {
        gateway.send(crate::client::request("GET", "/order/track").json("{}").by("shop"));
    }
    leave_unknown(&gateway, order(0), Act::Lose);
    let (finding, reason) = proposed(&gateway, "unknown-0");
    assert!(finding == "cannot-tell" && reason.contains("circuit breaker"), "{finding}: {reason}");
    until("the background tries too", || listed(&gateway)[0]["proposed"] == "cannot-tell");
    assert_eq!(reads(&gateway, "/user/balance/history"), 0);
}

/// The debit of an order that was settled, or whose response is known, is not taken for that of another one for the same
/// receiver; also after a restart.
#[test]
fn a_debit_is_not_taken_for_that_of_another_order() {
    let mut gateway = start("0s");
    let other = |number: usize| bodies::order(number).replace("Kaos katun", "Kaos lain");
    // Settled by hand, without a proposal.
    leave_unknown(&gateway, express(&bodies::order(1), "the-settled"), Act::Lose);
    leave_unknown(&gateway, express(&other(1), "like-settled"), Act::Close);
    assert_eq!(settle(&gateway, "the-settled", "executed").status, 200);
    // Answered.
    assert_eq!(gateway.send(express(&bodies::order(2), "the-answered")).status, 200);
    leave_unknown(&gateway, express(&other(2), "like-answered"), Act::Close);
    leave_unknown(&gateway, express(&bodies::order(3), "the-executed"), Act::Lose);
    for restarted in [false, true] {
        for (id, expected) in
            [("like-settled", "cannot-tell"), ("like-answered", "cannot-tell"), ("the-executed", "executed")]
        {
            let (finding, reason) = proposed(&gateway, id);
            assert_eq!(finding, expected, "{id}, restarted {restarted}: {reason}");
        }
        gateway.restart();
    }
}

#[test]
fn an_order_that_is_under_way_cannot_be_settled() {
    let gateway = start("0s");
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(700)));
    let mut connection = gateway.connect();
    connection.write(&express(&bodies::order(1), "slow-one").bytes());
    until("Fastrac has received it", || !gateway.received().is_empty());
    for response in [settle(&gateway, "slow-one", "executed"), admin(&gateway, get("/orders/slow-one"))] {
        assert_eq!((response.status, response.json()["error"]["code"].as_str()), (409, Some("orders.in_flight")));
    }
    assert_eq!(connection.read_response("POST").expect("a response").status, 200);
    assert_eq!(settle(&gateway, "slow-one", "executed").status, 404);
}

#[test]
fn tracking_shows_a_cancellation() {
    let gateway = start("0s");
    let mut awbs = Vec::new();
    for number in 1..3 {
        let placed = gateway.send(express(&bodies::order(number), &format!("placed-{number}")));
        awbs.push(placed.json()["data"]["awb"].as_str().expect("an air waybill").to_owned());
    }
    for (awb, act, id) in [(&awbs[0], Act::Lose, "cancel-1"), (&awbs[1], Act::Close, "cancel-2")] {
        let body = json!({ "courier_code": "idx", "awb": awb, "cancel_reason": "batal saja" }).to_string();
        gateway.sandbox.fault(Fault::on("v2.order_cancel", act).times(1));
        let cancel = post("/order/cancel", &body).by("shop").header("x-request-id", id);
        assert_eq!(gateway.send(cancel).sent(), "unknown");
    }
    let (finding, reason) = proposed(&gateway, "cancel-1");
    assert!(finding == "executed" && reason.contains(&awbs[0]), "{finding}: {reason}");
    let (finding, reason) = proposed(&gateway, "cancel-2");
    assert!(finding == "cannot-tell" && reason.contains("may still be cancelled"), "{finding}: {reason}");
    assert_eq!(reads(&gateway, "/user/balance/history"), 0);
}

#[test]
fn a_stop_does_not_wait_for_a_reading() {
    let mut gateway = start("100ms");
    leave_unknown(&gateway, order(1), Act::Close);
    gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Pass).delay(Duration::from_secs(30)));
    until("the background reads", || reads(&gateway, "/user/balance/history") > 0);
    let began = Instant::now();
    gateway.take_app().stop();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
