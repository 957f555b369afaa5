//! `/orders`: the orders whose outcome is unknown, what is proposed of one, and settling one.
//!
//! An order is named by its request id, or by its number where several have the same id.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody},
    guard::TokenName,
};
use crate::{
    config::Class,
    orders::{Orders, UnknownOrder},
    outcome::Outcome,
    reconcile::{FoundDebit, Proposal, ProposedFinding, Reconciler},
    record::{RequestToShow, ShownRequest},
    snapshot::Snapshot,
};

/// Longest note, in characters.
const NOTE_MAX: usize = 500;

#[derive(Serialize)]
pub(super) struct OrdersPage {
    /// Those whose outcome is unknown, oldest first.
    orders: Vec<UnknownOrderStatus>,
}

#[derive(Serialize)]
struct UnknownOrderStatus {
    id: String,
    number: u64,
    service: String,
    account: String,
    method: &'static str,
    path: String,
    /// When it came, RFC 3339; `null` for those of earlier versions.
    at: Option<String>,
    /// In time in which the gateway ran.
    unknown_for_seconds: u64,
    idempotency_key: bool,
    /// Outcome that its caller was told; `null`: the gateway ended meanwhile.
    told: Option<&'static str>,
    /// Equal orders that it has held since the process started.
    held: u64,
    /// What was proposed of it last; `null`: nothing so far.
    proposed: Option<&'static str>,
}

/// One order, with all that is known of it.
#[derive(Serialize)]
pub(super) struct UnknownOrderPage {
    #[serde(flatten)]
    order: UnknownOrderStatus,
    operation: String,
    /// Its body, masked; `null` if it cannot be shown.
    request: Value,
    proposal: ProposalStatus,
}

#[derive(Serialize)]
struct ProposalStatus {
    /// `executed`, `not-executed` or `cannot-tell`.
    finding: &'static str,
    /// The evidence, or why there is none.
    reason: String,
    /// The debit of the order; `null`: none was found.
    debit: Option<FoundDebitStatus>,
    /// RFC 3339.
    made_at: String,
}

#[derive(Serialize)]
struct FoundDebitStatus {
    awb: String,
    /// Fastrac's order code.
    code: String,
    /// IDR.
    amount: u64,
    /// RFC 3339.
    at: String,
}

impl From<Proposal> for ProposalStatus {
    fn from(proposal: Proposal) -> Self {
        let Proposal { finding, reason, debit, made_at, .. } = proposal;
        let debit = debit.map(|FoundDebit { code, awb, amount, at }| FoundDebitStatus {
            awb,
            code,
            amount,
            at: format!("{at:.0}"),
        });
        ProposalStatus { finding: finding.as_str(), reason, debit, made_at: format!("{made_at:.0}") }
    }
}

/// Masks what is kept of an order: earlier versions did not, and there may be new secrets and rules since.
fn masked(order: &UnknownOrder, body: &str, snapshot: &Snapshot) -> ShownRequest {
    let described = &order.description;
    let operation = snapshot.catalog.operations.iter().find(|operation| operation.name == described.operation);
    snapshot.recorder.shown(RequestToShow {
        // One that a reload has removed since was a row of the table.
        class: operation.map_or(Class::Order, |operation| operation.class),
        account: snapshot.accounts.iter().position(|account| account.name == order.account),
        headers: &HeaderMap::new(),
        method: &described.method,
        path: &described.path,
        body: body.as_bytes(),
    })
}

impl UnknownOrderStatus {
    fn new(order: UnknownOrder, shown: ShownRequest, reconciler: &Reconciler) -> Self {
        let proposed = reconciler.last(order.number).map(|last| last.finding.as_str());
        let described = order.description;
        let at = Some(described.at).filter(|at| *at > 0).and_then(|at| Timestamp::from_millisecond(at).ok());
        UnknownOrderStatus {
            id: order.request_id,
            number: order.number,
            service: described.service,
            account: order.account,
            method: shown.method,
            path: shown.path,
            at: at.map(|at| format!("{at:.3}")),
            unknown_for_seconds: order.age.as_secs(),
            idempotency_key: order.has_key,
            told: order.told.map(Outcome::as_str),
            held: order.held,
            proposed,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SettleRequest {
    /// Request id, or number.
    id: String,
    r#as: Option<Finding>,
    note: String,
}

/// What an operator has found out.
#[derive(Clone, Copy, Deserialize)]
enum Finding {
    #[serde(rename = "executed")]
    Executed,
    #[serde(rename = "not-executed")]
    NotExecuted,
}

impl Finding {
    fn as_str(self) -> &'static str {
        match self {
            Finding::Executed => "executed",
            Finding::NotExecuted => "not-executed",
        }
    }
}

pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Json<OrdersPage> {
    let (orders, reconciler) = (state.admin.gateway.live.orders.unknown(), &state.admin.reconciler);
    let snapshot = state.admin.gateway.current.load_full();
    let status = |order| {
        let shown = masked(&order, "", &snapshot);
        UnknownOrderStatus::new(order, shown, reconciler)
    };
    Json(OrdersPage { orders: orders.into_iter().map(status).collect() })
}

/// One unknown order. Reads at Fastrac what is not known yet.
pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<UnknownOrderPage>, AdminError> {
    let reconciler = &state.admin.reconciler;
    let order = unknown_order(&state.admin.gateway.live.orders, &id)?;
    let proposal = reconciler.propose(&order).await.into();
    let kept = order.description.request.as_deref().unwrap_or_default();
    let shown = masked(&order, kept, &state.admin.gateway.current.load_full());
    let request = shown.body.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let operation = order.description.operation.clone();
    Ok(Json(UnknownOrderPage {
        order: UnknownOrderStatus::new(order, shown, reconciler),
        operation,
        request,
        proposal,
    }))
}

/// The unknown order of this request id or number.
fn unknown_order(orders: &Orders, id: &str) -> Result<UnknownOrder, AdminError> {
    let named = |order: &UnknownOrder| order.request_id == id || order.number.to_string() == id;
    let mut found: Vec<_> = orders.unknown().into_iter().filter(named).collect();
    match (found.pop(), found.len()) {
        (Some(order), 0) => Ok(order),
        (None, _) if orders.under_way().iter().any(|order| order.request_id == id) => {
            let message =
                "this order is still under way: Fastrac has not responded and its time is not up; wait for its end";
            Err(AdminError::new(StatusCode::CONFLICT, "orders.in_flight", message))
        }
        (None, _) => {
            let message = "no order of this id has an unknown outcome (it may have been settled); `orders list` shows those that have";
            Err(AdminError::new(StatusCode::NOT_FOUND, "orders.id", message))
        }
        (Some(_), _) => {
            let message = "several unknown orders have this id: name one by its `number`";
            Err(AdminError::new(StatusCode::CONFLICT, "orders.id", message))
        }
    }
}

/// Settles an order. Answers when that is on disk.
pub(super) async fn settle(
    State(state): State<Arc<AdminState>>,
    Extension(TokenName(by)): Extension<TokenName>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(request): JsonBody<SettleRequest>,
) -> Result<Json<Value>, AdminError> {
    let note = request.note.trim();
    if note.chars().count() > NOTE_MAX || note.chars().any(char::is_control) {
        let message = "`note` must have at most 500 characters, without line breaks";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "orders.note", message));
    }
    let Some(finding) = request.r#as else {
        let message = "give `as`: \"executed\" or \"not-executed\"";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "orders.as", message));
    };
    if state.admin.gateway.current.load().recorder.holds_credential(note) {
        let message = "`note` contains a credential: leave it out, because notes are kept in the audit log";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "orders.note", message));
    }
    let orders = &state.admin.gateway.live.orders;
    let order = unknown_order(orders, &request.id)?;
    let proposal = state.admin.reconciler.last(order.number);
    if let Some(proposal) = &proposal {
        subject.name("proposed", proposal.finding.as_str());
    }
    if let (Finding::Executed, Some(Proposal { finding: ProposedFinding::Executed, debit: Some(debit), .. })) =
        (finding, proposal)
    {
        // So that its debit is not taken for that of another unknown order.
        orders.was_placed(&order, vec![debit.awb, debit.code], debit.at);
    }
    let settled = orders.settle(&order, matches!(finding, Finding::Executed));
    let (id, account) = (&order.request_id, &order.account);
    subject.name("order", id.as_str());
    subject.name("account", account.as_str());
    subject.name("settled", finding.as_str());
    subject.name("note", note);
    tracing::warn!(id, account, number = order.number, finding = finding.as_str(), by, note, "an order was settled");
    if let Err(why) = settled.await {
        let message = format!("it is settled, but that could not be stored ({why}); storing it is tried again");
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "orders.unstored", message));
    }
    Ok(Json(json!({ "id": id, "number": order.number, "account": account, "settled": finding.as_str() })))
}
