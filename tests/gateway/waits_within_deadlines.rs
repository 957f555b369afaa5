//! Every wait on the way has a deadline, and it is the waiter's own: a fill belongs to none of those that wait for it,
//! an order runs to its end after its caller's wait, and neither a canary, nor a disk, nor the account's budget holds a
//! request longer than its caller waits, or the account's places in flight meanwhile.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fastrac_gateway::{admission::BudgetUsage, store::WriteBatch};
use fastrac_sandbox::{Act, Fault};
use serde_json::json;

use crate::{
    bodies,
    client::{Connection, Request, Response, get, post},
    test_gateway::{Setup, TestGateway, sum, until},
};

const CITY: &str = "/region/city?province_id=31";

/// Sends requests at the same time.
fn send_all(gateway: &TestGateway, requests: Vec<Request>) -> Vec<Response> {
    thread::scope(|scope| {
        let sent: Vec<_> = requests.into_iter().map(|request| scope.spawn(|| gateway.send(request))).collect();
        sent.into_iter().map(|response| response.join().expect("a response")).collect()
    })
}

fn slow(gateway: &TestGateway, operation: &str, millis: u64) {
    gateway.sandbox.fault(Fault::on(operation, Act::Pass).wait(Duration::from_millis(millis)));
}

fn fill_begins(gateway: &TestGateway) {
    until("a fill to begin", || gateway.app().gateway.current.load().flights.len() == 1);
}

fn budget(gateway: &TestGateway) -> BudgetUsage {
    gateway.app().gateway.current.load().accounts[0].budget.usage()
}

fn budget_of(gateway: &TestGateway) -> u32 {
    let in_flight = budget(gateway).in_flight;
    u32::try_from(in_flight.limit - in_flight.left).expect("few")
}

fn unknown_orders(gateway: &TestGateway) -> u64 {
    gateway.app().gateway.current.load().orders.unknown_count("main")
}

fn place_taken(gateway: &TestGateway) {
    until("a place in flight to be taken", || budget(gateway).in_flight.left == 0);
}

fn order(number: usize) -> Request {
    post("/order/express", &bodies::order(number)).by("shop")
}

fn impatient(request: Request, millis: u64) -> Request {
    request.header("x-gateway-timeout", &millis.to_string())
}

/// Keeps the disk busy: the store's thread waits until the sender is dropped.
fn stall_disk(gateway: &TestGateway) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (begin, began) = mpsc::channel();
    gateway.app().store.submit(WriteBatch::default(), move |_| {
        let _ = begin.send(());
        let _ = released.recv();
    });
    began.recv().expect("the store's thread waits");
    release
}

#[test]
fn a_fill_outlives_its_impatient_leader_and_serves_the_patient() {
    let gateway = TestGateway::new();
    slow(&gateway, "v2.city", 500);
    let (responses, began) = thread::scope(|scope| {
        let leader = scope.spawn(|| gateway.send(impatient(get(CITY).by("clerk"), 100)));
        fill_begins(&gateway);
        let began = Instant::now();
        let followers = send_all(&gateway, (0..30).map(|_| get(CITY).by("shop")).collect());
        let leader = leader.join().expect("a response");
        assert_eq!((leader.status, leader.code().as_str(), leader.sent()), (504, "upstream.timeout", "unknown"));
        (followers, began)
    });
    assert!(began.elapsed() < Duration::from_secs(8));
    for response in responses {
        assert_eq!((response.status, response.outcome()), (200, "ok"), "{response:?}");
    }
    assert_eq!(gateway.received().len(), 1, "one fetch for all");
    assert_eq!(gateway.send(get(CITY).by("clerk")).outcome(), "hit", "and it is stored");
}

#[test]
fn a_lookup_that_only_the_impatient_ask_for_is_filled() {
    let gateway = TestGateway::new();
    slow(&gateway, "v2.city", 400);
    let refused = gateway.send(impatient(get(CITY).by("shop"), 100));
    assert_eq!((refused.status, refused.sent()), (504, "unknown"));
    until("a hit", || gateway.send(impatient(get(CITY).by("shop"), 100)).outcome() == "hit");
    assert_eq!(gateway.received().len(), 1, "one fetch for all");
}

#[test]
fn a_fill_is_as_urgent_as_the_most_urgent_that_waits_for_it() {
    let gateway = Setup {
        budget: "per_second = 100000, burst = 100000, in_flight = 1, max_wait = \"10s\"",
        services: &[("batch", "priority = \"low\""), ("till", "priority = \"high\"")],
        ..Setup::default()
    }
    .start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(3)).times(1));
    slow(&gateway, "v2.multi_items", 200);
    let quote = |service| post("/item/multi-items", bodies::MULTI_ITEMS).by(service);
    let waiting = |count| until("requests to wait", || budget(&gateway).waiting >= count);
    thread::scope(|scope| {
        scope.spawn(|| gateway.send(quote("shop")));
        place_taken(&gateway);
        scope.spawn(|| gateway.send(get(CITY).by("batch")));
        waiting(1);
        // These are ahead of a request of low priority.
        let queued: Vec<_> = (0..6).map(|_| scope.spawn(|| gateway.send(quote("shop")))).collect();
        waiting(7);
        let till = gateway.send(get(CITY).by("till"));
        assert_eq!((till.status, till.outcome()), (200, "ok"));
        assert!(queued.iter().filter(|quote| quote.is_finished()).count() <= 2, "it was served before them");
    });
}

/// All but orders wait for so many places in flight, which slow quotes take first. One is kept for orders.
fn with_places(places: u64) -> TestGateway {
    let budget = format!("per_second = 100000, burst = 100000, in_flight = {}, max_wait = \"30s\"", places + 1);
    let gateway = Setup {
        budget: budget.leak(),
        services: &[("batch", "priority = \"low\""), ("till", "priority = \"high\"")],
        ..Setup::default()
    }
    .start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(3)).times(places));
    slow(&gateway, "v2.multi_items", 200);
    gateway
}

/// Quotes of normal priority come after some that wait, and are sent before the lookup that these wait for.
fn quotes_overtake(gateway: &TestGateway, waiting: usize, all: usize) {
    let quote = || post("/item/multi-items", bodies::MULTI_ITEMS).by("shop");
    thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| gateway.send(quote()))));
        until("they wait", || budget(gateway).waiting == waiting + 4);
        until("all are sent", || gateway.received().len() == all);
    });
    let last = gateway.received().pop().expect("a request");
    assert!(last.target().starts_with("/region/city"), "{last:?}");
}

#[test]
fn a_fill_is_no_more_urgent_than_those_that_wait_for_it_still() {
    let gateway = with_places(1);
    thread::scope(|scope| {
        scope.spawn(|| gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop")));
        until("the place is taken", || budget(&gateway).in_flight.left == 1);
        let left = scope.spawn(|| gateway.send(impatient(get(CITY).by("till"), 300)));
        until("it leads", || budget(&gateway).waiting == 1);
        let batch = scope.spawn(|| gateway.send(get(CITY).by("batch")));
        assert_eq!(left.join().expect("a response").status, 504);
        quotes_overtake(&gateway, 1, 6);
        let batch = batch.join().expect("a response");
        assert_eq!((batch.status, batch.outcome()), (200, "ok"));
    });
}

#[test]
fn a_fill_that_nobody_waits_for_any_more_takes_what_is_spare() {
    let gateway = with_places(2);
    thread::scope(|scope| {
        (0..2).for_each(|_| {
            scope.spawn(|| gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop")));
        });
        until("the places are taken", || budget(&gateway).in_flight.left == 1);
        let left = gateway.send(impatient(get(CITY).by("till"), 300));
        assert_eq!((left.status, left.sent()), (504, "no"));
        quotes_overtake(&gateway, 0, 7);
    });
    until("it is stored", || gateway.app().gateway.current.load().flights.is_empty());
    assert_eq!(gateway.send(get(CITY).by("till")).outcome(), "hit");
}

#[test]
fn a_request_that_joins_a_waiting_fill_late_waits_as_long_as_alone() {
    let budget = "per_second = 1000, burst = 1000, in_flight = 1, max_wait = \"1s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(1500)).times(1));
    thread::scope(|scope| {
        scope.spawn(|| gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop")));
        place_taken(&gateway);
        let first = scope.spawn(|| gateway.send(get(CITY).by("shop")));
        until("it waits", || self::budget(&gateway).waiting == 1);
        thread::sleep(Duration::from_millis(700));
        let late = gateway.send(get(CITY).by("shop"));
        let first = first.join().expect("a response");
        assert_eq!((first.status, first.code().as_str()), (503, "budget.in_flight"), "{first:?}");
        assert_eq!((late.status, late.outcome()), (200, "ok"), "{late:?}");
    });
}

#[test]
fn a_fill_may_use_the_share_of_each_service_that_waits_for_it() {
    let budget = "per_second = 1, burst = 4, max_wait = \"20s\"";
    let services = &[("batch", ""), ("owner", "share = 0.5")];
    let gateway = Setup { budget, services, ..Setup::default() }.start();
    let quote = |service| post("/item/multi-items", bodies::MULTI_ITEMS).by(service);
    let waiting = |count| until("requests to wait", || self::budget(&gateway).waiting >= count);
    // A service that asks for nothing lends its share.
    assert_eq!(gateway.send(quote("owner")).status, 200);
    thread::scope(|scope| {
        let queued: Vec<_> = (0..8).map(|_| scope.spawn(|| gateway.send(quote("batch")))).collect();
        waiting(4);
        scope.spawn(|| gateway.send(get(CITY).by("batch")));
        until("it leads", || gateway.app().gateway.current.load().flights.len() == 1);
        let owner = gateway.send(get(CITY).by("owner"));
        assert_eq!((owner.status, owner.outcome()), (200, "ok"), "{owner:?}");
        let served = queued.iter().filter(|quote| quote.is_finished()).count();
        assert!(served <= 4, "they came before, and have no share: {served}");
    });
}

#[test]
fn a_canary_that_hangs_holds_no_request_longer_than_it_waits() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.track", Act::answer(401, r#"{"success": false, "message": "Unauthorized"}"#)));
    slow(&gateway, "v2.province", 8000);
    let track = || get("/order/track").json(&json!({"courier_code": "idx", "awb": "1"}).to_string()).by("shop");
    let began = Instant::now();
    let refused = gateway.send(impatient(track(), 500));
    assert_eq!((refused.status, refused.code().as_str(), refused.sent()), (504, "upstream.timeout", "yes"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn requests_that_wait_for_a_canary_leave_it_a_place_in_flight() {
    let budget = "per_second = 100000, burst = 100000, in_flight = 8, max_wait = \"5s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.track", Act::answer(401, r#"{"success": false, "message": "Unauthorized"}"#)));
    let track = |number| {
        get("/order/track").json(&json!({"courier_code": "idx", "awb": format!("{number}")}).to_string()).by("shop")
    };
    for response in send_all(&gateway, (0..24).map(track).collect()) {
        assert_eq!((response.status, response.outcome()), (401, "rejected"), "{response:?}");
    }
}

#[test]
fn a_long_response_that_waits_for_something_else_leaves_it_a_place_in_flight() {
    let budget = "per_second = 100000, burst = 100000, in_flight = 4, max_wait = \"3s\"";
    let gateway = Setup { budget, limits: "answer_buffer = \"1KiB\"", ..Setup::default() }.start();
    let message = |word: &str| format!(r#"{{"success": false, "message": "{word}", "data": "{}"}}"#, "x".repeat(5000));
    let track = |number| {
        get("/order/track").json(&json!({"courier_code": "idx", "awb": format!("{number}")}).to_string()).by("shop")
    };
    // For a canary.
    gateway.sandbox.fault(Fault::on("v2.track", Act::answer(401, &message("Unauthorized"))));
    for response in send_all(&gateway, (0..12).map(track).collect()) {
        assert_eq!((response.status, response.outcome()), (401, "rejected"), "{response:?}");
    }
    // For a second attempt.
    gateway.sandbox.clear_faults();
    gateway.sandbox.fault(Fault::on("v2.track", Act::answer(503, &message("Busy"))).wait(Duration::from_millis(50)));
    for response in send_all(&gateway, (0..4).map(track).collect()) {
        assert_eq!(response.status, 503, "{response:?}");
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        assert_eq!(line["attempts"], 2, "{line}");
    }
    until("all places are free", || budget_of(&gateway) == 0);
}

#[test]
fn a_follower_waits_no_longer_than_its_own_time() {
    let gateway = TestGateway::new();
    slow(&gateway, "v2.city", 1500);
    thread::scope(|scope| {
        let leader = scope.spawn(|| gateway.send(get(CITY).by("shop")));
        fill_begins(&gateway);
        let refused = gateway.send(impatient(get(CITY).by("clerk"), 200));
        assert_eq!((refused.status, refused.code().as_str(), refused.sent()), (504, "upstream.timeout", "no"));
        assert_eq!(leader.join().expect("a response").status, 200);
    });
    assert_eq!(gateway.send(get(CITY).by("clerk")).outcome(), "hit");
}

#[test]
fn a_stalled_disk_holds_orders_only_as_long_as_they_wait_and_holds_no_place_in_flight() {
    let budget = "per_second = 100000, burst = 100000, in_flight = 2, max_wait = \"0ms\"";
    let gateway = Setup { budget, services: &[("reader", "")], ..Setup::default() }.start();
    let known = gateway.send(order(0).header("idempotency-key", "known"));
    assert_eq!(known.status, 200);
    let stalled = stall_disk(&gateway);
    let began = Instant::now();
    let mut requests: Vec<_> = (1..9).map(|number| impatient(order(number), 700)).collect();
    requests.push(impatient(order(0).header("idempotency-key", "known"), 700));
    thread::scope(|scope| {
        let orders = scope.spawn(|| send_all(&gateway, requests));
        until("the orders to wait", || gateway.metric("in_flight_requests", &[]) >= 8.0);
        let read = gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("reader"));
        assert_eq!((read.status, read.outcome()), (200, "ok"), "{read:?}");
        let mut responses = orders.join().expect("responses");
        let repeat = responses.pop().expect("nine");
        assert!(repeat.status == 200 || repeat.code() == "gateway.overloaded", "{repeat:?}");
        for refused in responses {
            assert_eq!((refused.status, refused.code().as_str()), (503, "gateway.overloaded"), "{refused:?}");
            assert_eq!((refused.sent(), refused.header("retry-after")), ("no", Some("1")));
        }
    });
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(gateway.sandbox.counters().orders.express, 1, "nothing was sent");
    drop(stalled);
    // Their callers were told that nothing was sent, so they may be sent now.
    for number in 1..9 {
        assert_eq!(gateway.send(order(number)).status, 200);
    }
    assert_eq!(gateway.sandbox.counters().orders.duplicates, 0);
    assert_eq!(unknown_orders(&gateway), 0);
}

#[test]
fn a_disk_that_stalls_refuses_orders_long_before_their_timeout_and_is_reported() {
    let gateway = TestGateway::new();
    let stalled = stall_disk(&gateway);
    let began = Instant::now();
    let refused = gateway.send(order(1));
    assert_eq!((refused.code().as_str(), refused.sent()), ("gateway.overloaded", "no"), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "an order may take 60 s: {:?}", began.elapsed());
    let reported = || gateway.admin("/readyz").text().contains("the disk of state.redb does not respond");
    until("it is reported", reported);
    // It is known now, so nothing of the next ones is queued for the disk.
    for number in 2..5 {
        let refused = gateway.send(order(number).header("idempotency-key", &format!("k{number}")));
        assert_eq!((refused.code().as_str(), refused.sent()), ("gateway.overloaded", "no"), "{refused:?}");
        assert!(refused.text().contains("does not respond"), "{refused:?}");
    }
    drop(stalled);
    until("it is over", || !reported());
    for number in 1..5 {
        assert_eq!(gateway.send(order(number)).status, 200);
    }
    assert_eq!((gateway.sandbox.counters().orders.duplicates, unknown_orders(&gateway)), (0, 0));
}

#[test]
fn orders_that_wait_for_a_stalled_disk_hold_no_probe_of_a_half_open_breaker() {
    let breaker = "minimum = 1, failures = 0.1, open = \"100ms\", probes = 1";
    let gateway = Setup { breaker, ..Setup::default() }.start();
    let half_open = || sum(&gateway.admin("/metrics").text(), "breaker_state", &[("state", "half_open")]) == 1.0;
    gateway.sandbox.fault(Fault::everywhere(Act::Html(500)).times(1));
    assert_eq!(gateway.send(get("/odd").by("shop")).status, 500);
    until("the breaker is half-open", half_open);
    let stalled = stall_disk(&gateway);
    let orders = (1..5).map(|number| impatient(post("/new/thing", &bodies::order(number)).by("shop"), 1500)).collect();
    thread::scope(|scope| {
        let orders = scope.spawn(|| send_all(&gateway, orders));
        until("they wait for the disk", || gateway.metric("in_flight_requests", &[]) >= 4.0);
        let read = gateway.send(get("/odd").by("shop"));
        assert_eq!((read.outcome(), read.sent()), ("rejected", "yes"), "it is the probe: {read:?}");
        for refused in orders.join().expect("responses") {
            // One that came to the breaker while the read was the probe is refused by it.
            let code = refused.code();
            assert!(["gateway.overloaded", "upstream.breaker"].contains(&code.as_str()), "{refused:?}");
            assert_eq!(refused.sent(), "no", "{refused:?}");
        }
    });
    drop(stalled);
    assert_eq!(gateway.send(order(1)).status, 200);
    assert_eq!(unknown_orders(&gateway), 0);
}

#[test]
fn an_order_whose_time_is_up_before_it_could_be_sent_is_not_sent() {
    // It waits for a place in flight that a slow quote occupies.
    let budget = "per_second = 100000, burst = 100000, in_flight = 1, max_wait = \"10s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    slow(&gateway, "v2.multi_items", 1500);
    thread::scope(|scope| {
        scope.spawn(|| gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop")));
        place_taken(&gateway);
        let refused = gateway.send(impatient(order(1), 300));
        assert!([503, 504].contains(&refused.status) && refused.sent() == "no", "{refused:?}");
    });
    assert_eq!(unknown_orders(&gateway), 0);
    let sent = gateway.send(order(1));
    assert_eq!((sent.status, sent.sent()), (200, "yes"));
    assert_eq!(gateway.sandbox.counters().orders.express, 1);
}

#[test]
fn an_order_outlasts_its_callers_wait_and_is_known_then() {
    let gateway = TestGateway::new();
    slow(&gateway, "v2.order_express", 800);
    let request = order(1).header("idempotency-key", "one");
    let late = gateway.send(impatient(request.clone(), 200));
    assert_eq!((late.status, late.code().as_str(), late.sent()), (504, "upstream.timeout", "unknown"));
    until("the order to end", || gateway.send(request.clone()).status == 200);
    assert_eq!(gateway.sandbox.counters().orders.express, 1);
    assert_eq!(unknown_orders(&gateway), 0);
    let line = gateway.line(late.header("x-request-id").expect("an id"));
    assert_eq!((&line["outcome"], &line["sent"], &line["attempts"]), (&"timeout".into(), &"unknown".into(), &1.into()));
}

#[test]
fn an_operation_takes_the_time_of_its_row_whatever_the_time_of_an_upload() {
    let gateway = Setup { limits: "request = \"400ms\"", ..Setup::default() }.start();
    slow(&gateway, "v2.order_express", 900);
    slow(&gateway, "v2.multi_items", 900);
    let sent = gateway.send(order(1));
    assert_eq!((sent.status, sent.sent()), (200, "yes"), "{sent:?}");
    assert_eq!(gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop")).status, 200);
}

#[test]
fn if_a_second_attempt_is_refused_the_result_is_that_of_the_first() {
    let gateway =
        Setup { budget: "per_second = 1, burst = 1, max_wait = \"0ms\"", wait: false, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::answer(503, r#"{"success": false, "message": "Busy"}"#)));
    let quote = post("/item/multi-items", bodies::MULTI_ITEMS).by("shop");
    // The canary has spent what there was.
    until("a token", || gateway.send(quote.clone()).code() != "budget.second");
    until("another token", || {
        let response = gateway.send(quote.clone());
        if response.code() == "budget.second" {
            return false;
        }
        assert_eq!(
            (response.status, response.outcome(), response.sent()),
            (503, "upstream_error", "yes"),
            "{response:?}"
        );
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        assert_eq!((&line["attempts"], &line["sent"]), (&1.into(), &"yes".into()));
        true
    });
}

#[test]
fn what_was_requested_before_a_purge_is_not_stored_after_it() {
    let gateway = TestGateway::new();
    slow(&gateway, "v2.city", 500);
    thread::scope(|scope| {
        let before = scope.spawn(|| gateway.send(get(CITY).by("shop")));
        fill_begins(&gateway);
        gateway.app().gateway.current.load().cache.purge();
        let after = gateway.send(get(CITY).by("clerk"));
        assert_eq!(after.header("cache-status"), Some("fastrac-gateway; fwd=uri-miss; stored"), "a fetch of its own");
        let before = before.join().expect("a response");
        assert_eq!((before.status, before.header("cache-status")), (200, Some("fastrac-gateway; fwd=uri-miss")));
    });
    assert_eq!(gateway.received().len(), 2);
}

#[test]
fn after_a_change_of_address_nothing_is_answered_from_the_old_one() {
    let mut gateway = TestGateway::new();
    assert_eq!(gateway.send(get(CITY).by("shop")).outcome(), "ok");
    assert_eq!(gateway.send(get(CITY).by("shop")).outcome(), "hit");
    let (old, new) = (gateway.sandbox.addr().to_string(), format!("localhost:{}", gateway.sandbox.addr().port()));
    gateway.reload(&old, &new);
    assert_eq!(gateway.send(get(CITY).by("shop")).outcome(), "ok", "another address is another Fastrac");
    gateway.reload(&new, &old);
    assert_eq!(
        gateway.send(get(CITY).by("shop")).outcome(),
        "ok",
        "nothing is kept of an address that is no longer used"
    );
}

#[test]
fn what_was_requested_before_a_change_of_address_is_not_stored_after_it() {
    let mut gateway = TestGateway::new();
    slow(&gateway, "v2.city", 500);
    let (old, new) = (gateway.sandbox.addr().to_string(), format!("localhost:{}", gateway.sandbox.addr().port()));
    let data = gateway.data;
    thread::scope(|scope| {
        let before = scope.spawn(move || Connection::open(data).send(&get(CITY).by("shop")));
        fill_begins(&gateway);
        gateway.reload(&old, &new);
        gateway.reload(&new, &old);
        let before = before.join().expect("a response");
        assert_eq!((before.status, before.header("cache-status")), (200, Some("fastrac-gateway; fwd=uri-miss")));
    });
    assert_eq!(gateway.send(get(CITY).by("shop")).outcome(), "ok", "not a hit");
    assert_eq!(gateway.send(get(CITY).by("shop")).outcome(), "hit");
}
