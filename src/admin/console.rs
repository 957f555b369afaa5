//! The console page: empty until a person enters the token, which the page keeps in memory only.

use std::sync::LazyLock;

use axum::{
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_FRAME_OPTIONS},
    response::IntoResponse,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("console/page.css");
const SCRIPT: &str = include_str!("console/page.js");

static PAGE: LazyLock<String> =
    LazyLock::new(|| include_str!("console/page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT));

/// The Content-Security-Policy: only its own style and script, by digest, and requests only to this port.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(STYLE),
        digest(SCRIPT)
    )
});

pub(super) async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
    ];
    (headers, PAGE.as_str())
}
