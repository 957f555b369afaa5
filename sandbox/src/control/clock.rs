//! Routes of the clock, and reset.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ControlError, ControlRequest, ControlResponse, ControlResult, ControlRoute, missing, read, wrong};
use crate::{
    clock::{self, Pace},
    orders::steps::Step,
    settings,
    simulation::Simulation,
};

/// Maximum number of steps made by one request.
const MAX_STEPS: u64 = 1_000_000;

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "clock",
        does: "the time, its pace, and when the next step or webhook is due",
        example: "",
        act: show,
    },
    ControlRoute {
        method: Method::POST,
        path: "clock",
        does: "advances the clock (by a duration, to the next steps, or until an order has ended) or sets its pace; \
               responds when all webhooks due by then were tried",
        example: r#"{"advance": "2h"} or {"advance_ms": 300000} or {"events": 1} or {"until_ended": "AWB"} or {"pace": "stepped"} or {"factor": 600}"#,
        act: steer,
    },
    ControlRoute {
        method: Method::POST,
        path: "reset",
        does: "restores the initial state, without faults; the clock keeps its time",
        example: "",
        act: reset,
    },
];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClockCommand {
    advance_ms: Option<u64>,
    advance: Option<String>,
    events: Option<u64>,
    until_ended: Option<String>,
    pace: Option<PaceName>,
    factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PaceName {
    Real,
    Stepped,
}

fn show(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    simulation.catch_up();
    Ok(ControlResponse::Json(time(simulation)))
}

fn time(simulation: &mut Simulation) -> Value {
    let (pace, factor) = match simulation.clock.pace() {
        Pace::Real => ("real", None),
        Pace::Accelerated(factor) => ("accelerated", Some(factor)),
        Pace::Stepped => ("stepped", None),
    };
    let next = simulation.next_due().map(clock::utc);
    json!({"now": clock::utc(simulation.clock.now()), "local": clock::local(simulation.clock.now()),
           "pace": pace, "factor": factor, "next": next, "webhooks": simulation.outbox.counts().json()})
}

fn steer(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let steer: ClockCommand = read(request.body)?;
    if let Some(factor) = steer.factor {
        simulation.clock.set_pace(Pace::Accelerated(settings::factor(factor).map_err(wrong)?));
    }
    match steer.pace {
        Some(PaceName::Real) => simulation.clock.set_pace(Pace::Real),
        Some(PaceName::Stepped) => simulation.clock.set_pace(Pace::Stepped),
        None => {}
    }
    if let Some(text) = &steer.advance {
        let by = humantime::parse_duration(text)
            .map_err(|_| wrong("advance: a duration such as \"90s\", \"2h 30m\" or \"3days\""))?;
        simulation.clock.advance(by);
    }
    simulation.clock.advance(Duration::from_millis(steer.advance_ms.unwrap_or(0)));
    simulation.catch_up();
    for _ in 0..steer.events.unwrap_or(0).min(MAX_STEPS) {
        if !next(simulation) {
            break;
        }
    }
    if let Some(awb) = &steer.until_ended {
        until_ended(simulation, awb)?;
    }
    simulation.wake();
    Ok(ControlResponse::AfterDeliveries(time))
}

/// Advances to the next step of any order; false if there is none.
fn next(simulation: &mut Simulation) -> bool {
    let Some(due) = simulation.orders.next_due() else { return false };
    simulation.clock.advance_to(due);
    simulation.catch_up();
    true
}

fn until_ended(simulation: &mut Simulation, awb: &str) -> Result<(), ControlError> {
    for _ in 0..MAX_STEPS {
        let last = simulation
            .orders
            .last(awb)
            .ok_or_else(|| missing("no order has this air waybill; GET /_sandbox/orders lists them"))?;
        if last.0.is_final() {
            return Ok(());
        }
        let Some(due) = last.1 else {
            return Err(wrong(match last.0 {
                Step::Problem => {
                    "the order stays in PROBLEM_SHIPMENT; POST /_sandbox/orders/AWB {\"branch\": \"return\"} continues it"
                }
                _ => "the order makes no further step; POST /_sandbox/orders/AWB with another branch continues it",
            }));
        };
        simulation.clock.advance_to(due);
        simulation.catch_up();
    }
    Ok(())
}

fn reset(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    simulation.reset();
    Ok(ControlResponse::Json(json!({})))
}
