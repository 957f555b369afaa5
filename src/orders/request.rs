//! What the room needs to know of a request, and its identity: what makes another one a repeat of it. Pure.

use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    fingerprint::{OrderDigest, Parties},
    index::OrderIdentity,
    journal::OrderDescription,
    key::{self, IdempotencyKeyError},
};
use crate::{body::CallerLink, config::Class, memory::MemoryAllowance};

/// The header that lets an order pass although an equal one may have been sent.
pub(super) const RESEND: &str = "x-gateway-resend";

/// The only value of [`RESEND`].
const CONFIRMED: &str = "confirmed";

/// Maximum length of the path that operators are shown, characters.
const MAX_PATH: usize = 200;

/// Maximum length of the masked body that operators are shown, bytes.
const MAX_REQUEST: usize = 4 * 1024;

/// Maximum length of a body that is searched for the parties, bytes.
const MAX_PARSED: usize = 64 * 1024;

/// The order as step 4 sees it.
#[derive(Clone, Copy, Debug)]
pub struct OrderRequest<'a> {
    /// Name of the service. Keys and equal orders are separate for each service.
    pub service: &'a str,
    /// Name of the account; unknown orders are counted by account.
    pub account: &'a str,
    /// Name of the operation.
    pub operation: &'a str,
    /// The request's method.
    pub method: &'a Method,
    /// Path and query as received.
    pub target: &'a str,
    /// The caller's headers.
    pub headers: &'a HeaderMap,
    /// The raw body.
    pub body: &'a [u8],
    /// What operators may see of it.
    pub shown: OrderToShow<'a>,
    /// The id that later refusals name.
    pub request_id: &'a str,
    /// The connection of its caller, for equal orders that come while it is under way.
    pub connection: Option<&'a CallerLink>,
    /// For the first response, if it is read again.
    pub memory: &'a MemoryAllowance,
}

/// What operators may see of an order: masked.
#[derive(Clone, Copy, Debug)]
pub struct OrderToShow<'a> {
    pub method: &'a str,
    /// Without query.
    pub path: &'a str,
    /// `None`: it cannot be masked.
    pub body: Option<&'a str>,
}

/// Whether a request is protected against being sent twice: orders, and unlisted requests with an
/// unsafe method.
pub fn applies_to(class: Class, method: &Method) -> bool {
    class == Class::Order || (class == Class::Unlisted && !method.is_safe())
}

/// Whether a request has an `Idempotency-Key`.
pub fn has_key(headers: &HeaderMap) -> bool {
    matches!(key::parse(headers), Ok(Some(_)))
}

/// # Errors
/// [`IdempotencyKeyError`].
pub(super) fn identity(request: &OrderRequest<'_>) -> Result<OrderIdentity, IdempotencyKeyError> {
    let key = key::parse(request.headers)?;
    let mut resend = request.headers.get_all(RESEND).iter();
    let OrderToShow { method, path, body } = request.shown;
    Ok(OrderIdentity {
        request_id: request.request_id.to_owned(),
        account: request.account.to_owned(),
        description: OrderDescription {
            service: request.service.to_owned(),
            method: method.to_owned(),
            path: path.chars().take(MAX_PATH).collect(),
            at: Timestamp::now().as_millisecond(),
            operation: request.operation.to_owned(),
            request: body.filter(|body| body.len() <= MAX_REQUEST).map(str::to_owned),
            parties: parties(request.body),
        },
        key: key.map(|key| OrderDigest::key(request.service, &key)),
        fingerprint: OrderDigest::fingerprint(request.method.as_str(), request.target, request.body),
        content: OrderDigest::content(request.service, request.method, request.target, request.body),
        confirmed: resend.next().is_some_and(|value| value == CONFIRMED) && resend.next().is_none(),
        waited_as: None,
        sent_meanwhile: None,
        absent_at: None,
        connection: request.connection.cloned(),
    })
}

/// Digest of the parties that an order names; not of bodies that are longer than any real order.
fn parties(body: &[u8]) -> Option<String> {
    let body = Some(body).filter(|body| body.len() <= MAX_PARSED)?;
    let order: Value = serde_json::from_slice(body).ok()?;
    Parties::of_order(&order).map(|parties| parties.digest())
}
