//! Routes of time and of beginning again.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Asked, Given, Outcome, Route, read};
use crate::sandbox::{clock, world::World};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "clock",
        does: "moves the clock ahead",
        example: r#"{"advance_ms": 300000}"#,
        act: advance,
    },
    Route {
        method: Method::POST,
        path: "reset",
        does: "everything as at the start, but for the clock, with no faults",
        example: "",
        act: reset,
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: u64,
}

fn advance(world: &mut World, asked: &Asked<'_>) -> Outcome {
    world.clock.advance(Duration::from_millis(read::<Advance>(asked.body)?.advance_ms));
    Ok(Given::Json(json!({"now": clock::envelope(world.clock.now())})))
}

fn reset(world: &mut World, _: &Asked<'_>) -> Outcome {
    world.reset();
    Ok(Given::Json(json!({})))
}
