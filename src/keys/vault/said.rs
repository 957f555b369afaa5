//! What may be shown of a vault's error messages: phrases of Vault and OpenBao that help an operator, and nothing else.
//!
//! A message may quote anything that the vault was sent or knows (tokens, secret ids, the live pair, in any coding), so
//! none of its own text is ever shown. Pure; never fails.

use serde::Deserialize;

/// Phrases that are shown if a message contains them, in lower case.
const PHRASES: &[&str] = &[
    "permission denied",
    "missing client token",
    "bad token",
    "invalid token",
    "token not found",
    "invalid role or secret id",
    "invalid secret id",
    "invalid role id",
    "invalid role name",
    "role could not be found",
    "missing role",
    "missing secret_id",
    "cidr restrictions",
    "service account name not authorized",
    "namespace not authorized",
    "namespace not found",
    "token is expired",
    "error validating token",
    "error validating claims",
    "failed to validate certificate",
    "invalid certificate",
    "no chain matching",
    "route entry not found",
    "no handler for route",
    "unsupported path",
    "unsupported operation",
    "preflight capability check returned 403",
    "vault is sealed",
    "no active node",
    "active cluster node not found",
    "rate limit quota exceeded",
    "lease count quota exceeded",
    "context deadline exceeded",
    "context canceled",
    "connection refused",
    "no such host",
    "signed by unknown authority",
    "no space left on device",
    "internal error",
    "internal server error",
];

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<String>,
}

/// The known phrases in the messages of a response's body.
pub(super) fn said(body: &[u8]) -> String {
    let errors = serde_json::from_slice(body).map_or_else(|_| Vec::new(), |body: ErrorBody| body.errors);
    if errors.iter().all(|error| error.trim().is_empty()) {
        return "without a message".to_owned();
    }
    let errors: Vec<String> = errors.iter().map(|error| error.to_lowercase()).collect();
    let known = PHRASES.iter().filter(|phrase| errors.iter().any(|error| error.contains(**phrase)));
    let known: Vec<&str> = known.copied().collect();
    if known.is_empty() { "with a message that is not shown".to_owned() } else { known.join(", ") }
}
