//! Routes of the orders and of the account's money.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Asked, Given, Outcome, Route, missing, number, read, wrong};
use crate::{
    input,
    orders::{
        flow::MoveError,
        plan::Wish,
        way::{BRANCHES, Branch},
    },
    wallet::Kind,
    world::World,
};

/// Orders of a page, if not said, and at most.
const PAGE: (u64, u64) = (100, 10_000);

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "orders",
        does: "orders kept, oldest first: where each stands, its branch, what lies ahead",
        example: "?after=0&limit=100&status=IN_TRANSIT",
        act: list,
    },
    Route { method: Method::GET, path: "orders/{awb}", does: "one order", example: "", act: one },
    Route {
        method: Method::POST,
        path: "orders/{awb}",
        does: "sends an order another way, or on to a status at once",
        example: r#"{"branch": "return"} or {"status": "DELIVERED"}"#,
        act: steer,
    },
    Route {
        method: Method::GET,
        path: "branches",
        does: "the branches, and those wished for orders to come",
        example: "",
        act: wishes,
    },
    Route {
        method: Method::POST,
        path: "branches",
        does: "the next orders take a branch",
        example: r#"{"branch": "cancel", "times": 1}"#,
        act: wish,
    },
    Route {
        method: Method::POST,
        path: "wallet",
        does: "money in (topup, bonus_referal, dana_cod) or out (tarik_tunai)",
        example: r#"{"kind": "topup", "amount": 100000}"#,
        act: money,
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steer {
    branch: Option<Branch>,
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Money {
    kind: Kind,
    amount: u64,
}

fn list(world: &mut World, asked: &Asked<'_>) -> Outcome {
    world.catch_up();
    let (after, limit) = (number(asked, "after", 0)?, number(asked, "limit", PAGE.0)?.min(PAGE.1));
    let status = input::query(asked.query, "status");
    // At most `PAGE`, so it fits.
    Ok(Given::Json(world.orders.page(after, limit as usize, status.as_deref())))
}

fn one(world: &mut World, asked: &Asked<'_>) -> Outcome {
    world.catch_up();
    world.orders.shown(&asked.segment).map(Given::Json).ok_or_else(|| missing(MoveError::Unknown.to_string()))
}

fn steer(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let steer: Steer = read(asked.body)?;
    if steer.branch.is_none() && steer.status.is_none() {
        return Err(wrong("branch or status is needed"));
    }
    let done = world.at_desk(|orders, desk| {
        if let Some(branch) = steer.branch {
            orders.send(&asked.segment, branch, desk.now)?;
        }
        match &steer.status {
            Some(status) => orders.hurry(&asked.segment, status, desk),
            None => Ok(()),
        }
    });
    match done {
        Ok(()) => one(world, asked),
        Err(MoveError::Unknown) => Err(missing(MoveError::Unknown.to_string())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn wishes(world: &mut World, _: &Asked<'_>) -> Outcome {
    let names = |instant| BRANCHES.iter().filter(|(b, _)| b.fits(instant)).map(|(_, name)| *name).collect::<Vec<_>>();
    let waiting: Vec<&Wish> = world.orders.wishes.waiting().collect();
    Ok(Given::Json(json!({"express": names(false), "instant": names(true), "wished": waiting})))
}

fn wish(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let wish: Wish = read(asked.body)?;
    if !world.orders.wishes.add(wish) {
        return Err(wrong("too many wishes wait; POST /_sandbox/reset forgets them"));
    }
    wishes(world, asked)
}

fn money(world: &mut World, asked: &Asked<'_>) -> Outcome {
    let Money { kind, amount } = read(asked.body)?;
    let now = world.clock.now();
    match kind {
        Kind::Order => return Err(wrong("kind: topup, bonus_referal, dana_cod or tarik_tunai")),
        Kind::TarikTunai if !world.wallet.debit(amount, now, kind, None) => {
            return Err(wrong(format!("the balance is {} IDR only", world.wallet.balance())));
        }
        Kind::TarikTunai => {}
        kind => world.wallet.credit(amount, now, kind, None),
    }
    Ok(Given::Json(json!({"balance": world.wallet.balance()})))
}
