//! Routes of the orders and of the wallet.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{ControlRequest, ControlResponse, ControlResult, ControlRoute, missing, number, read, wrong};
use crate::{
    input,
    orders::{
        branches::PlannedBranch,
        progress::OrderCommandError,
        steps::{BRANCHES, Branch},
    },
    simulation::Simulation,
    wallet::MovementKind,
};

/// Default and maximum number of orders of a page.
const PAGE: (u64, u64) = (100, 10_000);

pub(super) const ROUTES: &[ControlRoute] = &[
    ControlRoute {
        method: Method::GET,
        path: "orders",
        does: "the stored orders, oldest first: status, branch, and the steps ahead",
        example: "?after=0&limit=100&status=IN_TRANSIT",
        act: list,
    },
    ControlRoute { method: Method::GET, path: "orders/{awb}", does: "one order", example: "", act: one },
    ControlRoute {
        method: Method::POST,
        path: "orders/{awb}",
        does: "changes an order's branch, or moves it to a status immediately",
        example: r#"{"branch": "return"} or {"status": "DELIVERED"}"#,
        act: steer,
    },
    ControlRoute {
        method: Method::GET,
        path: "branches",
        does: "the branches, and those planned for the next orders",
        example: "",
        act: planned,
    },
    ControlRoute {
        method: Method::POST,
        path: "branches",
        does: "plans a branch for the next orders",
        example: r#"{"branch": "cancel", "times": 1}"#,
        act: plan,
    },
    ControlRoute {
        method: Method::POST,
        path: "wallet",
        does: "credits (topup, bonus_referal, dana_cod) or debits (tarik_tunai) the balance",
        example: r#"{"kind": "topup", "amount": 100000}"#,
        act: money,
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderCommand {
    branch: Option<Branch>,
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WalletCommand {
    kind: MovementKind,
    amount: u64,
}

fn list(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    simulation.catch_up();
    let (after, limit) = (number(request, "after", 0)?, number(request, "limit", PAGE.0)?.min(PAGE.1));
    let status = input::query(request.query, "status");
    // At most the maximum of `PAGE`, so it fits.
    Ok(ControlResponse::Json(simulation.orders.page(after, limit as usize, status.as_deref())))
}

fn one(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    simulation.catch_up();
    simulation
        .orders
        .json_of(&request.segment)
        .map(ControlResponse::Json)
        .ok_or_else(|| missing(OrderCommandError::UnknownOrder.to_string()))
}

fn steer(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let steer: OrderCommand = read(request.body)?;
    if steer.branch.is_none() && steer.status.is_none() {
        return Err(wrong("branch or status is required"));
    }
    let done = simulation.with_orders(|orders, context| {
        if let Some(branch) = steer.branch {
            orders.set_branch(&request.segment, branch, context.now)?;
        }
        match &steer.status {
            Some(status) => orders.advance_to_status(&request.segment, status, context),
            None => Ok(()),
        }
    });
    match done {
        Ok(()) => one(simulation, request),
        Err(OrderCommandError::UnknownOrder) => Err(missing(OrderCommandError::UnknownOrder.to_string())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn planned(simulation: &mut Simulation, _: &ControlRequest<'_>) -> ControlResult {
    let names =
        |instant| BRANCHES.iter().filter(|(b, _)| b.allowed_for(instant)).map(|(_, name)| *name).collect::<Vec<_>>();
    let waiting: Vec<&PlannedBranch> = simulation.orders.planned.waiting().collect();
    Ok(ControlResponse::Json(json!({"express": names(false), "instant": names(true), "wished": waiting})))
}

fn plan(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let plan: PlannedBranch = read(request.body)?;
    if !simulation.orders.planned.add(plan) {
        return Err(wrong("too many branches are planned; POST /_sandbox/reset removes them"));
    }
    planned(simulation, request)
}

fn money(simulation: &mut Simulation, request: &ControlRequest<'_>) -> ControlResult {
    let WalletCommand { kind, amount } = read(request.body)?;
    let now = simulation.clock.now();
    match kind {
        MovementKind::Order => return Err(wrong("kind: topup, bonus_referal, dana_cod or tarik_tunai")),
        MovementKind::TarikTunai if !simulation.wallet.debit(amount, now, kind, None) => {
            return Err(wrong(format!("the balance is only {} IDR", simulation.wallet.balance())));
        }
        MovementKind::TarikTunai => {}
        kind => simulation.wallet.credit(amount, now, kind, None),
    }
    Ok(ControlResponse::Json(json!({"balance": simulation.wallet.balance()})))
}
