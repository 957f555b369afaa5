//! What is kept and shown of a request outside the exchange log: of orders, for operators.
//!
//! Always holds: what the exchange log would mask is masked here too, when it is kept and again when it is shown, because
//! secrets and rules may be newer than what is kept. Pure; never fails.

use http::HeaderMap;

use super::{
    line::{LOOK_AHEAD, TARGET_MAX, known_method, shows_bodies},
    mask::{CallersText, MASKED, Masker, Presented, is_credential},
};
use crate::config::Class;

/// Longest body that is masked, bytes.
const MAX_BODY: usize = 8 * 1024;

/// A request as it came, or as it was kept.
#[derive(Clone, Copy)]
pub struct RequestToShow<'a> {
    /// Of its operation.
    pub class: Class,
    /// Index of its account; `None`: live secrets of any account are masked.
    pub account: Option<usize>,
    /// The caller's headers: what they present as a secret is masked.
    pub headers: &'a HeaderMap,
    pub method: &'a str,
    /// Without query.
    pub path: &'a str,
    pub body: &'a [u8],
}

/// A request as operators may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRequest {
    /// A registered one, or `other`.
    pub method: &'static str,
    pub path: String,
    /// `None` where the log would not show it, and of more than [`MAX_BODY`] bytes.
    pub body: Option<String>,
}

impl ShownRequest {
    pub(super) fn new(request: RequestToShow<'_>, masker: &Masker) -> ShownRequest {
        let presented = &Presented::read(request.headers);
        ShownRequest {
            method: known_method(request.method),
            path: path(request, masker, presented),
            body: body(request, masker, presented),
        }
    }
}

/// Whether a text that an operator has written contains a secret of an account, a caller or an operator.
pub(super) fn holds_credential(text: &str, masker: &Masker) -> bool {
    is_credential(text)
        || masker.holds_live_secret(None, text.as_bytes())
        || masker.holds_callers_secret(&Presented::default(), text.as_bytes())
}

fn path(request: RequestToShow<'_>, masker: &Masker, presented: &Presented) -> String {
    let path = &request.path[..request.path.floor_char_boundary(TARGET_MAX + LOOK_AHEAD)];
    let mut out = vec![b'"'];
    masker.path(&mut out, path);
    let written = CallersText { target: [&out[1..], b""], request_body: b"", answer_body: b"" };
    let account = request.account;
    let withheld = masker.holds_live_secret(account, &out)
        || masker.uri_holds_live_secret(account, path)
        || masker.holds_encoded_secret(account, presented, &written);
    out.push(b'"');
    // It is escaped as in a JSON string.
    let shown = serde_json::from_slice(&out).ok().filter(|_| !withheld);
    shown.unwrap_or_else(|| MASKED.to_owned())
}

fn body(request: RequestToShow<'_>, masker: &Masker, presented: &Presented) -> Option<String> {
    let (mut out, account) = (Vec::new(), request.account);
    let may_show = masker.logs_bodies() && shows_bodies(Some(request.class));
    let shown = may_show && request.body.len() <= MAX_BODY && masker.body(&mut out, request.body);
    let written = CallersText { target: [b"", b""], request_body: &out, answer_body: b"" };
    let shown =
        shown && !masker.holds_live_secret(account, &out) && !masker.holds_encoded_secret(account, presented, &written);
    shown.then(|| String::from_utf8(out).ok()).flatten()
}
