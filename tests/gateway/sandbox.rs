//! The sandbox as the upstream of tests: its control API has its own address, and it reports what happened to
//! an order whose response was lost. It serves every path of the gateway's operations table.

use std::{net::SocketAddr, time::Duration};

use fastrac_sandbox::{Act, Fault, Options, operation_at};
use http::Method;
use serde_json::Value;

use crate::{
    bodies,
    client::{Connection, get, post, request},
    test_gateway::{Setup, sandbox},
};

fn with_control() -> Setup {
    let control = Some("127.0.0.1:0".parse::<SocketAddr>().expect("an address"));
    Setup { sandbox: Options { control, ..sandbox() }, ..Setup::default() }
}

#[test]
fn the_control_api_is_reachable_on_its_own_address_only() {
    let gateway = with_control().start();
    gateway.send(post("/order/express", &bodies::order(1)).by("shop"));
    let control_requests = [
        ("GET", "/_sandbox/"),
        ("GET", "/_sandbox/counters"),
        ("GET", "/_sandbox/journal"),
        ("GET", "/_sandbox/orders"),
        ("GET", "/_sandbox/webhooks"),
        ("POST", "/_sandbox/reset"),
        ("POST", "/_sandbox/clock"),
        ("DELETE", "/_sandbox/faults"),
    ];
    for (method, path) in control_requests {
        let response = gateway.send(request(method, path).by("shop"));
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!((response.status, &body["message"]), (404, &Value::from("Not Found")), "{method} {path}");
    }
    // The sandbox's state is unchanged: the order is still counted, and each request counts as unlisted.
    let counters = gateway.sandbox.counters();
    assert_eq!((counters.orders.express, counters.unlisted), (1, control_requests.len() as u64));
    let control = gateway.sandbox.control_addr().expect("an address");
    let response = Connection::open(control).send(&get("/_sandbox/counters").header("host", "localhost"));
    assert_eq!(response.status, 200);
    let response = Connection::open(control).send(&get("/region/province").header("host", "localhost"));
    assert_eq!(response.status, 404);
}

#[test]
fn an_order_whose_response_was_lost_is_processed_and_held_at_the_gateway() {
    let gateway = with_control().start();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    let order = bodies::order(1);
    let lost = gateway.send(post("/order/express", &order).by("shop"));
    assert_eq!((lost.status, lost.header("x-gateway-sent")), (502, Some("unknown")));
    assert_eq!(gateway.send(post("/order/express", &order).by("shop")).status, 409);
    gateway.sandbox.advance(Duration::from_secs(60 * 86_400));
    let control = gateway.sandbox.control_addr().expect("an address");
    let response = Connection::open(control).send(&get("/_sandbox/orders").header("host", "localhost"));
    let orders: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((&orders["placed"], &orders["orders"][0]["status"]), (&Value::from(1), &Value::from("DELIVERED")));
}

#[test]
fn every_path_of_the_operations_table_is_served() {
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
