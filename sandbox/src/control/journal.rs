//! Routes of the journal and the counters.

use http::Method;
use serde_json::{Value, json};

use super::{ControlRequest, ControlResponse, ControlResult, ControlRoute, number};
use crate::{input, simulation::Simulation};

/// Default number of entries of a page.
const PAGE: u64 = 1_000;

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "journal",
        does: "the stored requests, oldest first",
        example: "?after=0&limit=1000&operation=v2.order_express&executed=true",
        act: journal,
    },
    ControlRoute {
        method: Method::GET,
        path: "counters",
        does: "exact counters since the start: requests by operation, key and status, orders, faults, limits; the balance",
        example: "",
        act: counters,
    },
    ControlRoute {
        method: Method::GET,
        path: "metrics",
        does: "the counters in Prometheus' text format",
        example: "",
        act: metrics,
    },
];

fn counters(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    let mut counters = simulation.journal.counters_json();
    counters["balance"] = json!(simulation.balance());
    counters["flow"] = simulation.flow_json();
    Ok(ControlResponse::Json(counters))
}

fn metrics(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    let text = simulation.metrics();
    Ok(ControlResponse::Text("text/plain; version=0.0.4; charset=utf-8", text))
}

/// `?after=SEQ` (entries above it), `&limit=N`, `&operation=NAME`, `&executed=true`.
fn journal(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let (after, limit) = (number(request, "after", 0)?, number(request, "limit", PAGE)?);
    let operation = input::query(request.query, "operation");
    let executed = input::query(request.query, "executed").is_some_and(|text| text == "true");
    let entries: Vec<Value> = simulation
        .journal
        .entries()
        .filter(|entry| entry.seq > after && (!executed || entry.executed))
        .filter(|entry| operation.is_none() || operation.as_deref() == entry.operation().map(|known| known.name()))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map(|entry| entry.json())
        .collect();
    Ok(ControlResponse::Json(json!({"entries": entries})))
}
