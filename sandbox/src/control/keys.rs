//! Routes of the key pairs.

use http::Method;
use serde::Deserialize;

use super::{Asked, Given, Outcome, Route, missing, read};
use crate::{auth::Written, when::When, world::World};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "keys",
        does: "labels and access keys, whether they are live, and until when",
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
        does: "revokes a pair, at once or at a time of the clock",
        example: r#"{"access_key": "a2", "at": "+10s"}"#,
        act: revoke,
    },
    Route {
        method: Method::DELETE,
        path: "keys/{access_key}",
        does: "revokes a pair at once",
        example: "",
        act: revoke_named,
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    access_key: String,
    /// Absent: now.
    at: Option<When>,
}

fn list(world: &mut World, _: &Asked<'_>) -> Outcome {
    Ok(Given::Json(world.keys.json(world.clock.now())))
}

fn add(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let key: Written = read(asked.body)?;
    world.keys.add(&key.label, &key.access_key, &key.secret_key);
    if let Some(at) = key.revoke_at {
        world.revoke_at(&key.access_key, at);
    }
    list(world, asked)
}

fn revoke(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let revoke: Revoke = read(asked.body)?;
    let found = match revoke.at {
        Some(at) => world.revoke_at(&revoke.access_key, at),
        None => world.keys.revoke(&revoke.access_key),
    };
    revoked(world, asked, found)
}

fn revoke_named(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let found = world.keys.revoke(&asked.segment);
    revoked(world, asked, found)
}

fn revoked(world: &mut World, asked: &Asked<'_>, found: bool) -> Outcome {
    if found { list(world, asked) } else { Err(missing("no pair has this access key; GET /_sandbox/keys lists them")) }
}
