//! What operators see of quotas and budgets, and change of them while the gateway runs.

use fastrac_sandbox::{Act, Fault};
use serde_json::{Value, json};

use crate::{
    bodies,
    client::{get, post, request},
    test_gateway::{Setup, TestGateway, closed_port, sum},
};

/// `/status` as an operator sees it.
fn status(gateway: &TestGateway) -> Value {
    gateway.admin("/status").json()
}

/// Contract section 7: whatever makes the gateway send a request to Fastrac, the metric and `/status` say for whom; what
/// was never sent is nobody's. `/status` keeps the day's counts over a restart, a removed service included.
#[test]
fn every_request_that_fastrac_receives_is_spent_by_somebody() {
    let more = "[operations.\"v2.track\"]\ncost = 3\n";
    let mut gateway = Setup { more, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Close).times(1));
    let shop = [
        get("/region/province"),
        post("/tariff/express", bodies::TARIFF),
        post("/order/express", bodies::ORDER),
        get("/order/track?awb=1"),
        request("DELETE", "/unknown"),
    ];
    for request in shop {
        gateway.send(request.by("shop"));
    }
    for _ in 0..2 {
        gateway.send(get("/region/city?province_id=31").by("clerk"));
    }
    gateway.send(get("/tariff/express").by("clerk"));

    let received = gateway.sandbox.counters().requests as f64;
    assert_eq!(received, 8.0, "a canary, six of shop with a second attempt, one of clerk");
    let of = |labels: &[(&str, &str)]| gateway.metric("service_upstream_requests_total", labels);
    assert_eq!(of(&[("account", "main")]), received);
    assert_eq!(of(&[("service", "shop")]), 6.0);
    assert_eq!((of(&[("service", "clerk")]), of(&[("service", "-")])), (1.0, 1.0));
    let spent = |status: &Value| {
        let service = |name: &str| status["services"][name]["spent_today"].clone();
        (service("shop"), service("clerk"), status["accounts"]["main"]["budget"]["spent_today"].clone())
    };
    let shop = json!({
        "v2.province": 1, "v2.tariff_express": 2, "v2.order_express": 1, "v2.track": 3, "unlisted": 1
    });
    let expected = (shop, json!({"v2.city": 1}), json!({"-": 1, "shop": 8, "clerk": 1}));
    assert_eq!(spent(&status(&gateway)), expected);
    assert_eq!(status(&gateway)["accounts"]["main"]["budget"]["used_today"], 10);
    gateway.restart();
    let (shop, clerk, mut account) = spent(&status(&gateway));
    // The canary after the restart.
    account["-"] = json!(1);
    assert_eq!((shop, clerk, account), expected);
}

#[test]
fn what_was_never_sent_is_spent_by_nobody() {
    let (_closed, address) = closed_port();
    let gateway = Setup { base_url: Some(format!("http://{address}")), wait: false, ..Setup::default() }.start();
    crate::test_gateway::until("a pair is in use", || gateway.app().gateway.was_ready());
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("shop")).code(), "upstream.connect");
    assert_eq!(sum(&gateway.admin("/metrics").text(), "service_upstream_requests_total", &[]), 0.0);
    assert_eq!(status(&gateway)["services"]["shop"]["spent_today"], json!({}));
}
