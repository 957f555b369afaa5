//! Routes of the faults.

use http::Method;
use serde_json::json;

use super::{Asked, Given, Outcome, Route, missing, read, wrong};
use crate::{
    faults::{self, Fault},
    world::World,
};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "faults",
        does: "the faults in force, how often each met, and those that are used up",
        example: "",
        act: list,
    },
    Route {
        method: Method::POST,
        path: "faults",
        does: "arms a fault; gives its number",
        example: r#"{"operation": "v2.order_express", "times": 1, "act": "lose"}"#,
        act: add,
    },
    Route { method: Method::DELETE, path: "faults", does: "ends all faults", example: "", act: clear },
    Route { method: Method::DELETE, path: "faults/{id}", does: "ends a fault", example: "", act: remove },
];

fn list(world: &mut World, _: &Asked<'_>) -> Outcome {
    Ok(Given::Json(world.faults.json()))
}

fn add(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let fault: Fault = read(asked.body)?;
    faults::check(&fault).map_err(wrong)?;
    Ok(Given::Json(json!({"id": world.arm(fault)})))
}

fn clear(world: &mut World, _: &Asked<'_>) -> Outcome {
    world.faults.clear();
    Ok(Given::Json(json!({})))
}

fn remove(world: &mut World, asked: &Asked<'_>) -> Outcome {
    if asked.segment.parse().is_ok_and(|number| world.faults.remove(number)) {
        Ok(Given::Json(json!({})))
    } else {
        Err(missing("no such fault is in force; GET /_sandbox/faults lists them"))
    }
}
