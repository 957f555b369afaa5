//! The effects of faults, and how they are written.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The effect of a fault on a request.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// None, except for delays and the wrong clock.
    #[default]
    Pass,
    /// Not executed; the connection is reset (RST).
    Reset,
    /// Not executed; the connection is reset (RST) while the body is being received. A request whose body ends
    /// earlier, or that has none, is treated as with [`Act::Reset`].
    ResetUpload {
        /// Bytes of the body after which it is reset, at most 16 MiB; 0: right after the head; absent: half of the
        /// declared length, or the first bytes if none is declared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<usize>,
    },
    /// Not executed; the connection is closed without a response (FIN).
    Close,
    /// Executed; the connection is closed without a response (FIN). The case that matters most.
    Lose,
    /// Executed; the connection is reset without a response (RST).
    LoseReset,
    /// Another response instead of the real one.
    Answer(CannedResponse),
    /// An envelope with `success:false` instead of the real response, with any status.
    Envelope(CannedEnvelope),
    /// An HTML page with this status, 200 to 599, as a proxy in front of Fastrac would send it; not executed.
    Html(u16),
    /// 429 with an envelope; not executed.
    Throttle {
        /// Value of `Retry-After` in seconds; absent: no such header.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The key pair of the request is revoked after it was accepted: from then on all requests with it get 401.
    Revoke {
        /// True: the request is executed and gets its real response. False: it gets 401 too.
        #[serde(default)]
        execute: bool,
    },
    /// Executed; the real head with its `content-length` and the first bytes of the real body, then the connection
    /// ends.
    Cut {
        /// Bytes of the body that are sent; 0 ends before the body, a number above its length after it.
        after: usize,
        /// True: reset; false: closed.
        #[serde(default)]
        reset: bool,
    },
    /// Executed; the first bytes of the real body, with a `content-length` that matches them.
    Truncate {
        /// Bytes of the body that are sent.
        after: usize,
    },
    /// Executed; the real body with a `content-length` that is wrong by `by`, then the connection ends.
    WrongLength {
        /// Added to the true length; if negative, there are surplus bytes on the wire.
        by: i64,
    },
    /// Executed; the complete real body in small pieces.
    Drip {
        /// Size of a piece in bytes, at least 1.
        bytes: usize,
        /// Milliseconds between pieces.
        every_ms: u64,
    },
    /// Executed; the real envelope with an additional member `padding` that makes the body longer.
    Long {
        /// Bytes added.
        bytes: usize,
    },
    /// The TLS handshake of a new connection fails. It applies to connections, not to requests; a connection without
    /// TLS is closed at once.
    Tls(TlsFailure),
}

/// How TLS fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFailure {
    /// The ClientHello is answered with the alert `handshake_failure`.
    Refuse,
    /// A self-signed certificate for another name is presented.
    WrongCertificate,
}

/// A fixed response.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CannedResponse {
    /// 200 to 599.
    pub status: u16,
    /// Additional headers; `content-type` replaces that of JSON.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Text, or base64 if `base64` is set.
    #[serde(default)]
    pub body: String,
    /// Whether `body` is base64 of binary content.
    #[serde(default)]
    pub base64: bool,
    /// Whether the request is executed nevertheless.
    #[serde(default)]
    pub execute: bool,
}

/// An envelope with `success:false`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CannedEnvelope {
    /// 200 to 599.
    pub status: u16,
    /// `message` of the envelope.
    #[serde(default)]
    pub message: String,
    /// Whether the request is executed nevertheless.
    #[serde(default)]
    pub execute: bool,
}

impl Act {
    /// A response with this status and JSON body, without execution.
    pub fn answer(status: u16, body: &str) -> Self {
        Act::Answer(CannedResponse { status, body: body.to_owned(), ..CannedResponse::default() })
    }

    /// 429, with `Retry-After` (seconds) if given.
    pub fn throttle(retry_after: Option<u64>) -> Self {
        let headers = retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())).into_iter().collect();
        let body = r#"{"success":false,"message":"Too Many Requests"}"#.to_owned();
        Act::Answer(CannedResponse { status: 429, headers, body, ..CannedResponse::default() })
    }

    /// `success:false` with this message and HTTP status 200.
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

    /// Name in configuration, counters and metrics.
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

    /// Checks that it can be applied.
    ///
    /// # Errors
    /// If it cannot; the message begins with the member concerned.
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
                    if good { Ok(()) } else { Err(format!("act.answer.headers: {name} is not a valid header")) }
                })
            }
            Act::Envelope(said) => status("envelope.status", said.status),
            Act::Html(number) => status("html", *number),
            Act::ResetUpload { after: Some(after) } if *after > MAX_UPLOAD => {
                Err(format!("act.reset_upload.after: at most {MAX_UPLOAD}"))
            }
            Act::Drip { bytes: 0, .. } => Err("act.drip.bytes: at least 1".to_owned()),
            Act::Long { bytes } if *bytes > MAX_PADDING => Err(format!("act.long.bytes: at most {MAX_PADDING}")),
            _ => Ok(()),
        }
    }
}

impl CannedResponse {
    /// The body as bytes; `None` if it should be base64 and is not.
    pub fn bytes(&self) -> Option<Bytes> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        if self.base64 {
            return STANDARD.decode(&self.body).ok().map(Bytes::from);
        }
        Some(Bytes::from(self.body.clone()))
    }
}

pub(crate) fn page(status: u16) -> CannedResponse {
    let body = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
    let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
    CannedResponse { status, headers, body, ..CannedResponse::default() }
}

/// Longest request body that is read, in bytes.
pub(crate) const MAX_UPLOAD: usize = 16 << 20;

/// Longest padding, in bytes. The body is held in memory once.
pub(super) const MAX_PADDING: usize = 1 << 28;

/// The body with `bytes` more bytes, still an envelope.
pub(crate) fn pad(body: &Bytes, bytes: usize) -> Bytes {
    const FRAME: usize = r#"{"padding":"","#.len() - 1; // the body's own brace is replaced
    let mut out = Vec::with_capacity(body.len() + bytes + FRAME);
    out.extend_from_slice(br#"{"padding":""#);
    out.resize(out.len() + bytes.saturating_sub(FRAME), b'x');
    out.extend_from_slice(br#"","#);
    out.extend_from_slice(body.get(1..).unwrap_or_default());
    out.into()
}
