//! When a reload gives an account another address, nothing that requests to the earlier one bring decides anything
//! there: no failure, no pause, no refused key pair. Nor is a pair that was read since sent to the earlier one.

use std::time::Duration;

use fastrac_sandbox::{Act, CannedEnvelope, Entry, Fault, Options, Sandbox};

use crate::{
    bodies,
    client::{Connection, post},
    test_gateway::{Setup, TWIN, TestGateway, pair, sandbox, twin, until, write},
};

/// How long the earlier address takes for a response: the reload comes meanwhile.
const SLOW: Duration = Duration::from_secs(2);

/// The outcome of a request that is always sent to Fastrac.
fn quote(gateway: &TestGateway) -> String {
    gateway.send(post("/tariff/express", bodies::TARIFF).by("shop")).outcome().to_owned()
}

fn failing() -> Fault {
    Fault::on("v2.tariff_express", Act::Html(503))
}

fn refusing(operation: &str) -> Fault {
    Fault::on(operation, Act::answer(401, r#"{"success":false,"message":"Unauthorized"}"#))
}

/// A request that Fastrac has received.
fn under_way(gateway: &TestGateway, path: &str, body: &str) -> Connection {
    let before = gateway.received().len();
    let mut connection = gateway.connect();
    connection.write(&post(path, body).by("shop").bytes());
    until("it is sent", || gateway.received().len() > before);
    connection
}

fn quote_under_way(gateway: &TestGateway) -> Connection {
    under_way(gateway, "/tariff/express", bodies::TARIFF)
}

/// Another Fastrac, which the account is called at from now on.
fn moves(gateway: &mut TestGateway, options: Options) -> Sandbox {
    let elsewhere = Sandbox::start(options).expect("a sandbox");
    gateway.reload(&gateway.sandbox.addr().to_string(), &elsewhere.addr().to_string());
    elsewhere
}

/// Fastrac accepts both pairs.
fn with_both_pairs() -> Options {
    Options { keys: sandbox().keys.into_iter().chain(twin().keys).collect(), ..sandbox() }
}

#[test]
fn failures_of_the_earlier_address_do_not_count() {
    let breaker = "minimum = 5, failures = 0.5, open = \"30m\"";
    let mut gateway = Setup { breaker, ..Setup::default() }.start();
    gateway.sandbox.fault(failing());
    until("it opens", || quote(&gateway) == "breaker_open");
    let _elsewhere = moves(&mut gateway, sandbox());
    assert_eq!(quote(&gateway), "ok");
}

/// Their second attempts fail after the reload, too.
#[test]
fn failures_of_the_earlier_address_that_come_late_do_not_count() {
    let breaker = "minimum = 5, failures = 0.5, open = \"30m\"";
    let mut gateway = Setup { breaker, ..Setup::default() }.start();
    gateway.sandbox.fault(failing().wait(SLOW));
    let late: Vec<_> = (0..6).map(|_| quote_under_way(&gateway)).collect();
    let elsewhere = moves(&mut gateway, sandbox());
    for mut connection in late {
        assert_eq!(connection.read_response("POST").expect("a response").status, 503);
    }
    assert_eq!((quote(&gateway), elsewhere.counters().requests > 0), ("ok".to_owned(), true));
}

#[test]
fn an_order_that_the_earlier_address_refuses_late_is_not_judged_by_the_present_one() {
    let mut gateway = TestGateway::new();
    gateway.sandbox.fault(refusing("v2.order_express").wait(SLOW));
    let mut connection = under_way(&gateway, "/order/express", bodies::ORDER);
    let elsewhere = moves(&mut gateway, sandbox());
    let response = connection.read_response("POST").expect("a response");
    assert_eq!((response.outcome(), response.code().as_str()), ("key_rejected", "keys.rejected"), "{response:?}");
    assert_eq!(quote(&gateway), "ok");
    assert!(!elsewhere.journal().iter().any(|entry| entry.uri.path().contains("order")));
}

/// It waits for a canary, which is sent to the present address.
#[test]
fn an_order_that_the_earlier_address_has_refused_is_not_judged_by_the_present_one() {
    let mut gateway = TestGateway::new();
    gateway.sandbox.fault(refusing("v2.order_express"));
    gateway.sandbox.fault(Fault::on("v2.province", Act::Pass).wait(Duration::from_secs(10)));
    let mut connection = under_way(&gateway, "/order/express", bodies::ORDER);
    until("a canary is under way", || gateway.received().len() == 2);
    let _elsewhere = moves(&mut gateway, sandbox());
    let response = connection.read_response("POST").expect("a response");
    assert_eq!((response.outcome(), response.code().as_str()), ("key_rejected", "keys.rejected"), "{response:?}");
}

/// It is Fastrac's, whatever of the account's addresses is changed, and those who wait in it would still go to the earlier one.
#[test]
fn a_pause_that_is_in_force_goes_on() {
    let mut gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::throttle(Some(3000))).times(1));
    assert_eq!((quote(&gateway), quote(&gateway)), ("throttled".to_owned(), "over_budget".to_owned()));
    let _elsewhere = moves(&mut gateway, sandbox());
    assert_eq!(quote(&gateway), "over_budget");
}

/// The reload still waits for something else: the first pair of an account that it has added.
#[test]
fn an_order_that_the_present_address_refuses_while_the_reload_goes_on_is_judged_there() {
    let files = vec![("token", "t".to_owned())];
    let mut gateway = Setup { files, ..Setup::default() }.start();
    let elsewhere = Sandbox::start(sandbox()).expect("a sandbox");
    elsewhere.fault(refusing("v2.order_express"));
    elsewhere.fault(Fault::on("v2.province", Act::Pass).wait(Duration::from_secs(7)).times(1));
    let vault = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener that does not respond");
    gateway.rewrite(&gateway.sandbox.addr().to_string(), &elsewhere.addr().to_string());
    let added = format!(
        "[vault]\naddress = \"http://{}\"\nauth = {{ method = \"token\", token_file = \"token\" }}\n\
         [accounts.other]\nbase_url = \"http://{}\"\nkeys = {{ source = \"vault\", path = \"other\" }}\n",
        vault.local_addr().expect("an address"),
        elsewhere.addr(),
    );
    let text = format!("{}{added}", gateway.text());
    write(&gateway.folder.path().join("gateway.toml"), &text);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| gateway.app().gateway.reload());
        until("it is in force", || gateway.app().gateway.current.load().accounts.len() == 2);
        let response = gateway.send(post("/order/express", bodies::ORDER).by("shop"));
        assert_eq!((response.status, response.outcome()), (401, "rejected"), "it is its own: {response:?}");
        reload.join().expect("no panic").expect("reloaded");
    });
}

#[test]
fn a_pause_of_the_earlier_address_that_comes_late_does_not_count() {
    let message = CannedEnvelope { status: 200, message: "Too Many Requests".to_owned(), execute: false };
    for act in [Act::throttle(Some(3000)), Act::Envelope(message)] {
        let mut gateway = TestGateway::new();
        gateway.sandbox.fault(Fault::on("v2.tariff_express", act).wait(SLOW));
        let mut connection = quote_under_way(&gateway);
        let _elsewhere = moves(&mut gateway, sandbox());
        let response = connection.read_response("POST").expect("a response");
        assert_eq!((response.outcome(), response.header("retry-after").is_some()), ("throttled", true), "{response:?}");
        let usage = gateway.app().gateway.current.load().accounts[0].budget.usage();
        assert!(usage.paused_for.is_zero() && usage.learned == Some(100_000.0), "{usage:?}");
        assert_eq!(quote(&gateway), "ok");
    }
}

/// A pair that was read after the address has changed was configured for the new one only, whatever was reloaded
/// between the beginning of a request and that change.
#[test]
fn a_new_pair_is_not_sent_to_the_earlier_address() {
    for unrelated in [None, Some(("minimum = 100000", "minimum = 99999"))] {
        let mut gateway = TestGateway::new();
        let (access, secret) = TWIN;
        gateway.sandbox.fault(failing().wait(Duration::from_secs(3)));
        let mut connection = quote_under_way(&gateway);
        if let Some((from, to)) = unrelated {
            gateway.reload(from, to);
        }
        let elsewhere = moves(&mut gateway, with_both_pairs());
        write(&gateway.folder.path().join("keys.toml"), &pair(access, secret));
        let is_new = |entry: &Entry| entry.key.as_deref() == Some("direct");
        until("the new pair signs", || quote(&gateway) == "ok" && elsewhere.journal().iter().any(is_new));
        let response = connection.read_response("POST").expect("a response");
        assert_eq!((response.status, response.sent()), (503, "yes"), "the response to the first attempt");
        assert_eq!(gateway.received().len(), 1, "there was no second one, {unrelated:?}");
    }
}
