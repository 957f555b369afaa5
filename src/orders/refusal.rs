//! Why an order may not be sent, and what a refusal must say of it.

use http::StatusCode;

use super::{FirstSent, IdempotencyKeyError};
use crate::outcome::{Code, Outcome, Sent};

/// Why an order may not be sent. `first` is the id of the request that stands against it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefusal {
    /// The key cannot be read.
    #[error("{0}")]
    Key(#[from] IdempotencyKeyError),
    /// The key's request has not ended yet.
    #[error("request {first} with this Idempotency-Key is still in flight")]
    InFlight {
        /// See above.
        first: String,
    },
    /// The key stood on another request.
    #[error("this Idempotency-Key was used by request {first}, which differs in method, path, query or body")]
    OtherRequest {
        /// See above.
        first: String,
    },
    /// No key, and the outcome of an equal order is unknown.
    #[error(
        "an equal order, request {first}, may have been executed; find out, then send this one with \
         `x-gateway-resend: confirmed` if it is wanted"
    )]
    Held {
        /// See above.
        first: String,
    },
    /// The key's order was cut off together with the gateway, so there is no answer to repeat.
    #[error(
        "request {first} with this Idempotency-Key may have been executed, its answer is lost; find out, then \
         send the order under another key with `x-gateway-resend: confirmed` if it is wanted"
    )]
    Interrupted {
        /// See above.
        first: String,
    },
    /// The key's order has ended, but its answer is kept no longer.
    #[error("request {first} with this Idempotency-Key has ended as `{}`; its answer is kept no longer", outcome.as_str())]
    AnswerGone {
        /// See above.
        first: String,
        /// Outcome of the first.
        outcome: Outcome,
        /// Whether the first was sent.
        sent: Sent,
    },
}

impl OrderRefusal {
    /// The code of the refusal.
    pub fn code(&self) -> Code {
        match self {
            OrderRefusal::Held { .. } | OrderRefusal::Interrupted { .. } => Code::OrderUnknown,
            _ => Code::RequestIdempotency,
        }
    }

    /// Its status, which the code alone does not tell.
    pub fn status(&self) -> StatusCode {
        match self {
            OrderRefusal::Key(_) => StatusCode::BAD_REQUEST,
            OrderRefusal::OtherRequest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::CONFLICT,
        }
    }

    /// Its outcome: a repeat has that of the first.
    pub fn outcome(&self) -> Outcome {
        match self {
            OrderRefusal::AnswerGone { outcome, .. } => *outcome,
            other => other.code().outcome(),
        }
    }

    /// Whether the first request was sent, where the refusal stands for its answer.
    pub fn first_sent(&self) -> Option<FirstSent> {
        match self {
            OrderRefusal::AnswerGone { sent, .. } => Some(FirstSent(*sent)),
            OrderRefusal::Interrupted { .. } => Some(FirstSent(Sent::Unknown)),
            _ => None,
        }
    }
}
