//! Routes of time and of beginning again.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, Given, Outcome, Refusal, Route, missing, read, wrong};
use crate::{
    clock::{self, Pace},
    orders::way::Step,
    settings,
    world::World,
};

/// The most events that one request steps through.
const EVENTS: u64 = 1_000_000;

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "clock",
        does: "the time, its pace, and when something happens next",
        example: "",
        act: show,
    },
    Route {
        method: Method::POST,
        path: "clock",
        does: "moves time on (by a time, to the next events, or until an order has ended) or sets its pace; \
               answers when all webhooks due by then were tried",
        example: r#"{"advance": "2h"} or {"advance_ms": 300000} or {"events": 1} or {"until_ended": "AWB"} or {"pace": "stepped"} or {"factor": 600}"#,
        act: steer,
    },
    Route {
        method: Method::POST,
        path: "reset",
        does: "everything as at the start, but for the clock, with no faults",
        example: "",
        act: reset,
    },
];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Steer {
    advance_ms: Option<u64>,
    advance: Option<String>,
    events: Option<u64>,
    until_ended: Option<String>,
    pace: Option<Named>,
    factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    Real,
    Stepped,
}

fn show(world: &mut World, _: &Asked<'_>) -> Outcome {
    world.catch_up();
    Ok(Given::Json(time(world)))
}

fn time(world: &mut World) -> Value {
    let (pace, factor) = match world.clock.pace() {
        Pace::Real => ("real", None),
        Pace::Faster(factor) => ("accelerated", Some(factor)),
        Pace::Stepped => ("stepped", None),
    };
    let next = world.next_due().map(clock::envelope);
    json!({"now": clock::envelope(world.clock.now()), "local": clock::business(world.clock.now()),
           "pace": pace, "factor": factor, "next": next, "webhooks": world.outbox.counts().json()})
}

fn steer(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let steer: Steer = read(asked.body)?;
    if let Some(factor) = steer.factor {
        world.clock.set_pace(Pace::Faster(settings::faster(factor).map_err(wrong)?));
    }
    match steer.pace {
        Some(Named::Real) => world.clock.set_pace(Pace::Real),
        Some(Named::Stepped) => world.clock.set_pace(Pace::Stepped),
        None => {}
    }
    if let Some(text) = &steer.advance {
        let by = humantime::parse_duration(text)
            .map_err(|_| wrong("advance: a time like \"90s\", \"2h 30m\", \"3days\""))?;
        world.clock.advance(by);
    }
    world.clock.advance(Duration::from_millis(steer.advance_ms.unwrap_or(0)));
    world.catch_up();
    for _ in 0..steer.events.unwrap_or(0).min(EVENTS) {
        if !next(world) {
            break;
        }
    }
    if let Some(awb) = &steer.until_ended {
        until_ended(world, awb)?;
    }
    world.ring();
    Ok(Given::AfterDeliveries(time))
}

/// Goes to the next step of any order; false if there is none.
fn next(world: &mut World) -> bool {
    let Some(due) = world.orders.next_due() else { return false };
    world.clock.reach(due);
    world.catch_up();
    true
}

fn until_ended(world: &mut World, awb: &str) -> Result<(), Refusal> {
    for _ in 0..EVENTS {
        let last = world
            .orders
            .last(awb)
            .ok_or_else(|| missing("no order has this air waybill; GET /_sandbox/orders lists them"))?;
        if last.0.ends() {
            return Ok(());
        }
        let Some(due) = last.1 else {
            return Err(wrong(match last.0 {
                Step::Problem => {
                    "the order stays in PROBLEM_SHIPMENT; POST /_sandbox/orders/AWB {\"branch\": \"return\"} sends it on"
                }
                _ => "the order makes no step by itself; POST /_sandbox/orders/AWB with a branch sends it on",
            }));
        };
        world.clock.reach(due);
        world.catch_up();
    }
    Ok(())
}

fn reset(world: &mut World, _: &Asked<'_>) -> Outcome {
    world.reset();
    Ok(Given::Json(json!({})))
}
