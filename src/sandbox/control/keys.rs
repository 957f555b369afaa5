//! Routes of the key pairs.

use http::Method;
use serde::Deserialize;

use super::{Asked, Given, Outcome, Route, missing, read};
use crate::sandbox::world::World;

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "keys",
        does: "labels and access keys, and whether they are live",
        example: "",
        act: list,
    },
    Route {
        method: Method::POST,
        path: "keys",
        does: "adds a pair, or makes one live again",
        example: r#"{"label": "second", "access_key": "a2", "secret_key": "s2"}"#,
        act: add,
    },
    Route {
        method: Method::POST,
        path: "keys/revoke",
        does: "revokes a pair at once",
        example: r#"{"access_key": "a2"}"#,
        act: revoke,
    },
    Route { method: Method::DELETE, path: "keys/{access_key}", does: "the same", example: "", act: revoke_named },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    label: String,
    access_key: String,
    secret_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    access_key: String,
}

fn list(world: &mut World, _: &Asked<'_>) -> Outcome {
    Ok(Given::Json(world.keys.json()))
}

fn add(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let key: NewKey = read(asked.body)?;
    world.keys.add(&key.label, &key.access_key, &key.secret_key);
    Ok(Given::Json(world.keys.json()))
}

fn revoke(world: &mut World, asked: &Asked<'_>) -> Outcome {
    revoked(world, &read::<Revoke>(asked.body)?.access_key)
}

fn revoke_named(world: &mut World, asked: &Asked<'_>) -> Outcome {
    revoked(world, &asked.segment)
}

fn revoked(world: &mut World, access: &str) -> Outcome {
    if world.keys.revoke(access) {
        Ok(Given::Json(world.keys.json()))
    } else {
        Err(missing("no pair has this access key; GET /_sandbox/keys lists them"))
    }
}
