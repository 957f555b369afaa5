//! Routes of the key pairs.

use http::Method;
use serde::Deserialize;

use super::{ControlRequest, ControlResponse, ControlResult, ControlRoute, missing, read};
use crate::{auth::KeyPairEntry, simulation::Simulation, when::When};

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "keys",
        does: "labels, access keys, whether they are live, and when they are revoked",
        example: "",
        act: list,
    },
    ControlRoute {
        method: Method::POST,
        path: "keys",
        does: "adds a pair, or makes a revoked one live again",
        example: r#"{"label": "second", "access_key": "a2", "secret_key": "s2"}"#,
        act: add,
    },
    ControlRoute {
        method: Method::POST,
        path: "keys/revoke",
        does: "revokes a pair, immediately or at a time of the clock",
        example: r#"{"access_key": "a2", "at": "+10s"}"#,
        act: revoke,
    },
    ControlRoute {
        method: Method::DELETE,
        path: "keys/{access_key}",
        does: "revokes a pair immediately",
        example: "",
        act: revoke_named,
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeCommand {
    access_key: String,
    /// Absent: immediately.
    at: Option<When>,
}

fn list(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    Ok(ControlResponse::Json(simulation.keys.json(simulation.clock.now())))
}

fn add(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let key: KeyPairEntry = read(request.body)?;
    simulation.keys.add(&key.label, &key.access_key, &key.secret_key);
    if let Some(at) = key.revoke_at {
        simulation.revoke_at(&key.access_key, at);
    }
    list(simulation, request)
}

fn revoke(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let revoke: RevokeCommand = read(request.body)?;
    let found = match revoke.at {
        Some(at) => simulation.revoke_at(&revoke.access_key, at),
        None => simulation.keys.revoke(&revoke.access_key),
    };
    revoked(simulation, request, found)
}

fn revoke_named(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let found = simulation.keys.revoke(&request.segment);
    revoked(simulation, request, found)
}

fn revoked(simulation: &mut Simulation, request: &ControlRequest<'_>, found: bool) -> ControlResult {
    if found {
        list(simulation, request)
    } else {
        Err(missing("no pair has this access key; GET /_sandbox/keys lists them"))
    }
}
