//! The sandbox as a test's Fastrac: what steers it is a door of its own, and it tells the truth about
//! an order whose answer was lost. It serves every path of the gateway's table.

use std::{net::SocketAddr, time::Duration};

use fastrac_sandbox::{Act, Fault, Options, operation_at};
use http::Method;
use serde_json::Value;

use crate::{
    bodies,
    client::{Wire, get, post, request},
    test_gateway::{Setup, sandbox},
};

fn with_control() -> Setup {
    let control = Some("127.0.0.1:0".parse::<SocketAddr>().expect("an address"));
    Setup { sandbox: Options { control, ..sandbox() }, ..Setup::default() }
}

#[test]
fn the_control_address_is_reached_neither_by_the_apis_address_nor_through_the_gateway() {
    let stage = with_control().start();
    stage.ask(post("/order/express", &bodies::order(1)).by("shop"));
    let asked = [
        ("GET", "/_sandbox/"),
        ("GET", "/_sandbox/counters"),
        ("GET", "/_sandbox/journal"),
        ("GET", "/_sandbox/orders"),
        ("GET", "/_sandbox/webhooks"),
        ("POST", "/_sandbox/reset"),
        ("POST", "/_sandbox/clock"),
        ("DELETE", "/_sandbox/faults"),
    ];
    for (method, path) in asked {
        let told = stage.ask(request(method, path).by("shop"));
        let body: Value = serde_json::from_slice(&told.body).expect("JSON");
        assert_eq!((told.status, &body["message"]), (404, &Value::from("Not Found")), "{method} {path}");
    }
    // Nothing was steered: the order is still counted, and each request only as one to nowhere.
    let counters = stage.sandbox.counters();
    assert_eq!((counters.orders.express, counters.unlisted), (1, asked.len() as u64));
    let control = stage.sandbox.control_addr().expect("an address");
    let told = Wire::open(control).ask(&get("/_sandbox/counters").header("host", "localhost"));
    assert_eq!(told.status, 200);
    let told = Wire::open(control).ask(&get("/region/province").header("host", "localhost"));
    assert_eq!(told.status, 404);
}

#[test]
fn an_order_whose_answer_was_lost_goes_its_way_and_is_held_at_the_gateway() {
    let stage = with_control().start();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    let order = bodies::order(1);
    let lost = stage.ask(post("/order/express", &order).by("shop"));
    assert_eq!((lost.status, lost.header("x-gateway-sent")), (502, Some("unknown")));
    assert_eq!(stage.ask(post("/order/express", &order).by("shop")).status, 409);
    stage.sandbox.advance(Duration::from_secs(60 * 86_400));
    let control = stage.sandbox.control_addr().expect("an address");
    let told = Wire::open(control).ask(&get("/_sandbox/orders").header("host", "localhost"));
    let orders: Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!((&orders["placed"], &orders["orders"][0]["status"]), (&Value::from(1), &Value::from("DELIVERED")));
}

#[test]
fn every_path_of_the_gateways_table_is_served_under_its_name() {
    let table: toml::Table = include_str!("../../config/operations.toml").parse().expect("TOML");
    let mut tried = 0;
    for (name, row) in table["operations"].as_table().expect("a table") {
        let method: Method = row["method"].as_str().expect("text").parse().expect("a method");
        let aliases = row.get("aliases").and_then(|aliases| aliases.as_array()).into_iter().flatten();
        for path in std::iter::once(&row["path"]).chain(aliases) {
            let path = path.as_str().expect("text");
            assert_eq!(operation_at(&method, path), Some(name.as_str()), "{method} {path}");
            tried += 1;
        }
    }
    assert!(tried >= 36, "{tried}");
}
