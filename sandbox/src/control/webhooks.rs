//! Routes of the webhooks: deliveries and rules.

use http::Method;
use serde_json::json;

use super::{ControlRequest, ControlResponse, ControlResult, ControlRoute, missing, number, read, wrong};
use crate::{input, simulation::Simulation, webhook::Rule};

/// Default and maximum number of deliveries of a page.
const PAGE: (u64, u64) = (100, 10_000);

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "webhooks",
        does: "the address, counters, and deliveries with their attempts and responses, oldest first",
        example: "?after=0&limit=100&awb=AWB",
        act: list,
    },
    ControlRoute {
        method: Method::POST,
        path: "webhooks/resend/{id}",
        does: "sends a delivery again",
        example: "",
        act: resend,
    },
    ControlRoute { method: Method::GET, path: "webhooks/rules", does: "the rules", example: "", act: rules },
    ControlRoute {
        method: Method::POST,
        path: "webhooks/rules",
        does: "adds a rule: future events are lost, duplicated, reordered (sent after the order's next one) or delayed; returns its number",
        example: r#"{"act": "lose", "status": "DELIVERED", "times": 1} or {"act": "duplicate", "chance": 0.1} or {"act": {"delay": {"by_ms": 60000}}, "awb": "AWB"}"#,
        act: add,
    },
    ControlRoute { method: Method::DELETE, path: "webhooks/rules", does: "removes all rules", example: "", act: clear },
    ControlRoute { method: Method::DELETE, path: "webhooks/rules/{id}", does: "removes a rule", example: "", act: end },
];

fn list(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    simulation.catch_up();
    let (after, limit) = (number(request, "after", 0)?, number(request, "limit", PAGE.0)?.min(PAGE.1));
    let awb = input::query(request.query, "awb");
    // At most the maximum of `PAGE`, so it fits.
    Ok(ControlResponse::Json(simulation.outbox.page(after, limit as usize, awb.as_deref())))
}

fn resend(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let now = simulation.clock.now();
    if request.segment.parse().is_ok_and(|id| simulation.outbox.resend(id, now)) {
        simulation.wake();
        Ok(ControlResponse::AfterDeliveries(|simulation| json!({"webhooks": simulation.outbox.counts().json()})))
    } else {
        Err(missing("no delivery has this number, or it is being sent; GET /_sandbox/webhooks lists them"))
    }
}

fn rules(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    Ok(ControlResponse::Json(simulation.outbox.rules_json()))
}

fn add(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let rule: Rule = read(request.body)?;
    rule.check().map_err(wrong)?;
    Ok(ControlResponse::Json(json!({"id": simulation.outbox.add_rule(rule)})))
}

fn clear(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    simulation.outbox.end_rule(None);
    Ok(ControlResponse::Json(json!({})))
}

fn end(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    if request.segment.parse().is_ok_and(|number| simulation.outbox.end_rule(Some(number))) {
        Ok(ControlResponse::Json(json!({})))
    } else {
        Err(missing("no rule has this number; GET /_sandbox/webhooks/rules lists them"))
    }
}
