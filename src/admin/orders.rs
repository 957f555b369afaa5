//! `/orders`: the orders whose outcome is unknown, and settling one.
//!
//! An order is named by its request id, or by its number where several have the same id.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody},
    guard::TokenName,
};
use crate::{orders::UnknownOrder, outcome::Outcome};

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
    method: String,
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
}

impl From<UnknownOrder> for UnknownOrderStatus {
    fn from(order: UnknownOrder) -> Self {
        let described = order.description;
        let at = Some(described.at).filter(|at| *at > 0).and_then(|at| Timestamp::from_millisecond(at).ok());
        UnknownOrderStatus {
            id: order.request_id,
            number: order.number,
            service: described.service,
            account: order.account,
            method: described.method,
            path: described.path,
            at: at.map(|at| format!("{at:.3}")),
            unknown_for_seconds: order.age.as_secs(),
            idempotency_key: order.has_key,
            told: order.told.map(Outcome::as_str),
            held: order.held,
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
    let orders = state.admin.gateway.live.orders.unknown();
    Json(OrdersPage { orders: orders.into_iter().map(UnknownOrderStatus::from).collect() })
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
    let orders = &state.admin.gateway.live.orders;
    let named = |order: &UnknownOrder| order.request_id == request.id || order.number.to_string() == request.id;
    let mut found: Vec<_> = orders.unknown().into_iter().filter(named).collect();
    let order = match (found.pop(), found.len()) {
        (Some(order), 0) => order,
        (None, _) => {
            let message = "no order of this id has an unknown outcome; `orders list` shows those that have";
            return Err(AdminError::new(StatusCode::NOT_FOUND, "orders.id", message));
        }
        (Some(_), _) => {
            let message = "several unknown orders have this id: name one by its `number`";
            return Err(AdminError::new(StatusCode::CONFLICT, "orders.id", message));
        }
    };
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
