//! Routes of the limits.

use http::Method;
use serde::Deserialize;

use super::{Asked, Given, Outcome, Route, read, wrong};
use crate::{
    limits::{self, Limit, Limits},
    world::World,
};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "limits",
        does: "how much may be asked in a second and in a day, and how much was",
        example: "",
        act: list,
    },
    Route {
        method: Method::PUT,
        path: "limits",
        does: "sets all limits, of which nothing is used",
        example: r#"{"limits": [{"per_second": 20, "per_day": 10000, "by": "account", "retry_after": true}]}"#,
        act: set,
    },
    Route { method: Method::DELETE, path: "limits", does: "ends all limits", example: "", act: clear },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLimits {
    limits: Vec<Limit>,
}

fn list(world: &mut World, _: &Asked<'_>) -> Outcome {
    Ok(Given::Json(world.limits.json(world.clock.now())))
}

fn set(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let limits = read::<NewLimits>(asked.body)?.limits;
    limits::check(&limits).map_err(wrong)?;
    world.limits = Limits::new(limits);
    list(world, asked)
}

fn clear(world: &mut World, asked: &Asked<'_>) -> Outcome {
    world.limits = Limits::default();
    list(world, asked)
}
