//! Routes of the webhooks: what was sent and how it went, and what goes wrong on request.

use http::Method;
use serde_json::json;

use super::{Asked, Given, Outcome, Route, missing, number, read, wrong};
use crate::{input, webhook::Rule, world::World};

/// Deliveries of a page, if not said, and at most.
const PAGE: (u64, u64) = (100, 10_000);

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "webhooks",
        does: "the address, counts, and deliveries with their attempts and answers, oldest first",
        example: "?after=0&limit=100&awb=AWB",
        act: list,
    },
    Route {
        method: Method::POST,
        path: "webhooks/resend/{id}",
        does: "sends a delivery once more",
        example: "",
        act: resend,
    },
    Route { method: Method::GET, path: "webhooks/rules", does: "the rules in force", example: "", act: rules },
    Route {
        method: Method::POST,
        path: "webhooks/rules",
        does: "events to come are lost, duplicated, reordered (sent after the order's next one) or delayed; gives a number",
        example: r#"{"act": "lose", "status": "DELIVERED", "times": 1} or {"act": "duplicate", "chance": 0.1} or {"act": {"delay": {"by_ms": 60000}}, "awb": "AWB"}"#,
        act: add,
    },
    Route { method: Method::DELETE, path: "webhooks/rules", does: "ends all rules", example: "", act: clear },
    Route { method: Method::DELETE, path: "webhooks/rules/{id}", does: "ends a rule", example: "", act: end },
];

fn list(world: &mut World, asked: &Asked<'_>) -> Outcome {
    world.catch_up();
    let (after, limit) = (number(asked, "after", 0)?, number(asked, "limit", PAGE.0)?.min(PAGE.1));
    let awb = input::query(asked.query, "awb");
    // At most `PAGE`, so it fits.
    Ok(Given::Json(world.outbox.page(after, limit as usize, awb.as_deref())))
}

fn resend(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let now = world.clock.now();
    if asked.segment.parse().is_ok_and(|id| world.outbox.resend(id, now)) {
        world.ring();
        Ok(Given::AfterDeliveries(|world| json!({"webhooks": world.outbox.counts().json()})))
    } else {
        Err(missing("no delivery of this number is known, or it is being sent; GET /_sandbox/webhooks lists them"))
    }
}

fn rules(world: &mut World, _: &Asked<'_>) -> Outcome {
    Ok(Given::Json(world.outbox.rules_json()))
}

fn add(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let rule: Rule = read(asked.body)?;
    rule.check().map_err(wrong)?;
    Ok(Given::Json(json!({"id": world.outbox.add_rule(rule)})))
}

fn clear(world: &mut World, _: &Asked<'_>) -> Outcome {
    world.outbox.end_rule(None);
    Ok(Given::Json(json!({})))
}

fn end(world: &mut World, asked: &Asked<'_>) -> Outcome {
    if asked.segment.parse().is_ok_and(|number| world.outbox.end_rule(Some(number))) {
        Ok(Given::Json(json!({})))
    } else {
        Err(missing("no such rule is in force; GET /_sandbox/webhooks/rules lists them"))
    }
}
