//! What can happen to a request, and how it is written.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What happens to a request that a fault meets.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Nothing but the waiting and the wrong clock.
    #[default]
    Pass,
    /// Not executed; the connection is reset (RST).
    Reset,
    /// Not executed; the connection is reset (RST) while the request's body is on its way. One that ends
    /// sooner, or has no body, is met as by [`Act::Reset`].
    ResetUpload {
        /// Bytes of the body after which it is reset, at most [`LONGEST_UPLOAD`]: 0 is with the head; absent: half
        /// of the length that it declares, or its first bytes where it declares none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<usize>,
    },
    /// Not executed; the connection is closed without an answer (FIN).
    Close,
    /// Executed; the connection is closed without an answer (FIN): the case that matters most.
    Lose,
    /// Executed; the connection is reset without an answer (RST).
    LoseReset,
    /// Another answer in place of the right one.
    Answer(CannedResponse),
    /// An envelope with `success:false` in place of the right answer, under any status.
    Envelope(CannedEnvelope),
    /// An HTML page with this status, 200 to 599, as a proxy in front of Fastrac gives it; not executed.
    Html(u16),
    /// 429 with an envelope; not executed.
    Throttle {
        /// Seconds of `Retry-After`; absent: without that header.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The key pair of the request is revoked after it was accepted: from now on all that carry it are 401.
    Revoke {
        /// Executed and rightly answered all the same; else this one is answered with 401 too.
        #[serde(default)]
        execute: bool,
    },
    /// Executed; the right head and the first bytes of the right body under its full `content-length`, then the end.
    Cut {
        /// Bytes of the body that are sent: 0 ends before the body, a number above its length after it.
        after: usize,
        /// Whether the end is a reset.
        #[serde(default)]
        reset: bool,
    },
    /// Executed; the first bytes of the right body, under a `content-length` that fits them.
    Truncate {
        /// Bytes of the body that are sent.
        after: usize,
    },
    /// Executed; the right body under a `content-length` that is wrong by `by`, then the end.
    WrongLength {
        /// Added to the true length; a negative one leaves surplus bytes on the wire.
        by: i64,
    },
    /// Executed; the right body, whole, in small pieces.
    Drip {
        /// Bytes of a piece, at least 1.
        bytes: usize,
        /// Milliseconds between pieces.
        every_ms: u64,
    },
    /// Executed; the right envelope with a member `padding` that makes the body this many bytes longer.
    Long {
        /// Bytes added.
        bytes: usize,
    },
    /// A new connection's TLS fails; it meets connections, not requests. A plain address closes at once.
    Tls(TlsFailure),
}

/// How TLS fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFailure {
    /// The greeting is answered with the alert `handshake_failure`.
    Refuse,
    /// Another certificate is shown: self-signed, for another name.
    WrongCertificate,
}

/// An answer that is given in place of the right one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CannedResponse {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Further headers, or another `content-type` than JSON's.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(default)]
    pub body: String,
    /// Whether `body` is the base64 of bytes that are no text.
    #[serde(default)]
    pub base64: bool,
    /// Whether the request is executed all the same.
    #[serde(default)]
    pub execute: bool,
}

/// An envelope that refuses.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CannedEnvelope {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its `message`.
    #[serde(default)]
    pub message: String,
    /// Whether the request is executed all the same.
    #[serde(default)]
    pub execute: bool,
}

impl Act {
    /// An answer with this status and JSON body, without execution.
    pub fn answer(status: u16, body: &str) -> Self {
        Act::Answer(CannedResponse { status, body: body.to_owned(), ..CannedResponse::default() })
    }

    /// 429, with `Retry-After` if given (seconds).
    pub fn throttle(retry_after: Option<u64>) -> Self {
        let headers = retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())).into_iter().collect();
        let body = r#"{"success":false,"message":"Too Many Requests"}"#.to_owned();
        Act::Answer(CannedResponse { status: 429, headers, body, ..CannedResponse::default() })
    }

    /// `success:false` with this message under HTTP 200.
    pub fn refuse(message: &str) -> Self {
        let body = serde_json::json!({"success": false, "message": message}).to_string();
        Act::answer(200, &body)
    }

    /// Whether the request is executed.
    pub fn executes(&self) -> bool {
        match self {
            Act::Reset | Act::ResetUpload { .. } | Act::Close => false,
            Act::Html(_) | Act::Throttle { .. } | Act::Tls(_) => false,
            Act::Answer(canned) => canned.execute,
            Act::Envelope(said) => said.execute,
            Act::Revoke { execute } => *execute,
            Act::Pass | Act::Lose | Act::LoseReset | Act::Cut { .. } => true,
            Act::Truncate { .. } | Act::WrongLength { .. } | Act::Drip { .. } | Act::Long { .. } => true,
        }
    }

    /// Its word in settings, counters and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Act::Pass => "pass",
            Act::Reset => "reset",
            Act::ResetUpload { .. } => "reset_upload",
            Act::Close => "close",
            Act::Lose => "lose",
            Act::LoseReset => "lose_reset",
            Act::Answer(_) => "answer",
            Act::Envelope(_) => "envelope",
            Act::Html(_) => "html",
            Act::Throttle { .. } => "throttle",
            Act::Revoke { .. } => "revoke",
            Act::Cut { .. } => "cut",
            Act::Truncate { .. } => "truncate",
            Act::WrongLength { .. } => "wrong_length",
            Act::Drip { .. } => "drip",
            Act::Long { .. } => "long",
            Act::Tls(_) => "tls",
        }
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// If it can't be done; the text begins with the member concerned.
    pub fn check(&self) -> Result<(), String> {
        let status = |name: &str, status: u16| match status {
            200..=599 => Ok(()),
            _ => Err(format!("act.{name}: 200 to 599")),
        };
        match self {
            Act::Answer(canned) => {
                status("answer.status", canned.status)?;
                canned.bytes().ok_or_else(|| "act.answer.body: not base64".to_owned())?;
                canned.headers.iter().try_for_each(|(name, value)| {
                    let good = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
                    if good { Ok(()) } else { Err(format!("act.answer.headers: {name} can't be sent")) }
                })
            }
            Act::Envelope(said) => status("envelope.status", said.status),
            Act::Html(number) => status("html", *number),
            Act::ResetUpload { after: Some(after) } if *after > LONGEST_UPLOAD => {
                Err(format!("act.reset_upload.after: at most {LONGEST_UPLOAD}"))
            }
            Act::Drip { bytes: 0, .. } => Err("act.drip.bytes: at least 1".to_owned()),
            Act::Long { bytes } if *bytes > MOST => Err(format!("act.long.bytes: at most {MOST}")),
            _ => Ok(()),
        }
    }
}

impl CannedResponse {
    /// Its body as bytes; nothing if it should be base64 and isn't.
    pub fn bytes(&self) -> Option<Bytes> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        if self.base64 {
            return STANDARD.decode(&self.body).ok().map(Bytes::from);
        }
        Some(Bytes::from(self.body.clone()))
    }
}

/// The HTML page of a status.
pub(crate) fn page(status: u16) -> CannedResponse {
    let body = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
    let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
    CannedResponse { status, headers, body, ..CannedResponse::default() }
}

/// The longest body of a request that is read, in bytes.
pub(crate) const LONGEST_UPLOAD: usize = 16 << 20;

/// The longest padding, in bytes: a body is in memory once.
pub(super) const MOST: usize = 1 << 28;

/// The right body with `bytes` bytes more in it, still the same envelope.
pub(crate) fn pad(body: &Bytes, bytes: usize) -> Bytes {
    const FRAME: usize = r#"{"padding":"","#.len() - 1; // the body's own brace is replaced
    let mut out = Vec::with_capacity(body.len() + bytes + FRAME);
    out.extend_from_slice(br#"{"padding":""#);
    out.resize(out.len() + bytes.saturating_sub(FRAME), b'x');
    out.extend_from_slice(br#"","#);
    out.extend_from_slice(body.get(1..).unwrap_or_default());
    out.into()
}
