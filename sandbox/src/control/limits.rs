//! Routes of the limits.

use http::Method;
use serde::Deserialize;

use super::{ControlRequest, ControlResponse, ControlResult, ControlRoute, read, wrong};
use crate::{
    limits::{self, Limit, Limits},
    simulation::Simulation,
};

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "limits",
        does: "the rate limits, and the requests counted in the current second and day",
        example: "",
        act: list,
    },
    ControlRoute {
        method: Method::PUT,
        path: "limits",
        does: "replaces all limits; counts start at 0",
        example: r#"{"limits": [{"per_second": 20, "per_day": 10000, "by": "account", "retry_after": true}]}"#,
        act: set,
    },
    ControlRoute { method: Method::DELETE, path: "limits", does: "removes all limits", example: "", act: clear },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsCommand {
    limits: Vec<Limit>,
}

fn list(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    Ok(ControlResponse::Json(simulation.limits.json(simulation.clock.now())))
}

fn set(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let limits = read::<LimitsCommand>(request.body)?.limits;
    limits::check(&limits).map_err(wrong)?;
    simulation.limits = Limits::new(limits);
    list(simulation, request)
}

fn clear(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    simulation.limits = Limits::default();
    list(simulation, request)
}
