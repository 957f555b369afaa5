//! Routes of the journal and the counters.

use http::Method;
use serde_json::{Value, json};

use super::{Asked, Given, Outcome, Route, number};
use crate::{input, world::World};

/// Entries of a journal page, if not said.
const PAGE: u64 = 1_000;

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "journal",
        does: "the requests kept, oldest first",
        example: "?after=0&limit=1000&operation=v2.order_express&executed=true",
        act: journal,
    },
    Route {
        method: Method::GET,
        path: "counters",
        does: "exact counts since the start: requests by operation, key and status, orders, faults, limits; the balance",
        example: "",
        act: counters,
    },
    Route {
        method: Method::GET,
        path: "metrics",
        does: "the same in Prometheus' text format",
        example: "",
        act: metrics,
    },
];

fn counters(world: &mut World, _: &Asked<'_>) -> Outcome {
    let mut counters = world.journal.counters_json();
    counters["balance"] = json!(world.balance());
    counters["flow"] = world.flow_json();
    Ok(Given::Json(counters))
}

fn metrics(world: &mut World, _: &Asked<'_>) -> Outcome {
    let text = world.metrics();
    Ok(Given::Text("text/plain; version=0.0.4; charset=utf-8", text))
}

/// `?after=SEQ` (entries above it), `&limit=N`, `&operation=NAME`, `&executed=true`.
fn journal(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let (after, limit) = (number(asked, "after", 0)?, number(asked, "limit", PAGE)?);
    let operation = input::query(asked.query, "operation");
    let executed = input::query(asked.query, "executed").is_some_and(|text| text == "true");
    let entries: Vec<Value> = world
        .journal
        .entries()
        .filter(|entry| entry.seq > after && (!executed || entry.executed))
        .filter(|entry| operation.is_none() || operation.as_deref() == entry.operation().map(|known| known.name()))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map(|entry| entry.json())
        .collect();
    Ok(Given::Json(json!({"entries": entries})))
}
