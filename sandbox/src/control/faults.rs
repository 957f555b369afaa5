//! Routes of the faults.

use http::Method;
use serde_json::json;

use super::{ControlRequest, ControlResponse, ControlResult, ControlRoute, missing, read, wrong};
use crate::{
    faults::{self, Fault},
    simulation::Simulation,
};

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "faults",
        does: "the armed faults, how often each was applied, and the used-up ones",
        example: "",
        act: list,
    },
    ControlRoute {
        method: Method::POST,
        path: "faults",
        does: "arms a fault; returns its number",
        example: r#"{"operation": "v2.order_express", "times": 1, "act": "lose"}"#,
        act: add,
    },
    ControlRoute { method: Method::DELETE, path: "faults", does: "removes all faults", example: "", act: clear },
    ControlRoute { method: Method::DELETE, path: "faults/{id}", does: "removes a fault", example: "", act: remove },
];

fn list(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    Ok(ControlResponse::Json(simulation.faults.json()))
}

fn add(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let fault: Fault = read(request.body)?;
    faults::check(&fault).map_err(wrong)?;
    Ok(ControlResponse::Json(json!({"id": simulation.arm(fault)})))
}

fn clear(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    simulation.faults.clear();
    Ok(ControlResponse::Json(json!({})))
}

fn remove(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    if request.segment.parse().is_ok_and(|number| simulation.faults.remove(number)) {
        Ok(ControlResponse::Json(json!({})))
    } else {
        Err(missing("no fault with this number is armed; GET /_sandbox/faults lists them"))
    }
}
