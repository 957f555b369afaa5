//! Why an order is not sent, with the code, status, outcome and `sent` of the refusal.
//!
//! The messages name the first request and say what to do next. Pure.

use std::time::Duration;

use http::StatusCode;

use super::{
    journal::{AnswerResult, FirstSent},
    key::IdempotencyKeyError,
};
use crate::{
    memory::MemoryExhausted,
    outcome::{Code, Outcome, Sent},
};

/// Why an order is not sent. `first` is the id of the request that it conflicts with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefusal {
    /// The key cannot be parsed.
    #[error("{0}")]
    Key(#[from] IdempotencyKeyError),
    /// The key's order, or an equal one, has not ended yet, or its answer is just being given to its caller.
    #[error(
        "request {first} with the same order is under way; repeat this request in 1 s to get its response, or send it \
         with `x-gateway-resend: confirmed` (under another Idempotency-Key, if it has one) if a second order is wanted"
    )]
    InFlight {
        /// See above.
        first: String,
    },
    /// The key was used for a different request.
    #[error(
        "this Idempotency-Key was used by request {first}, which differs in method, path, query or body: send another order \
         under another key"
    )]
    OtherRequest {
        /// See above.
        first: String,
    },
    /// No key, and the outcome of an equal order is unknown.
    #[error(
        "an equal order, request {first}, may have been executed; check its outcome with Fastrac, then send this \
         one with `x-gateway-resend: confirmed` if it is still wanted"
    )]
    Held {
        /// See above.
        first: String,
    },
    /// The gateway ended while the key's order was in flight, so there is no answer to repeat.
    #[error(
        "request {first} with this Idempotency-Key may have been executed, but its answer is lost; check its outcome \
         with Fastrac, then send the order under another key with `x-gateway-resend: confirmed` if it is still wanted"
    )]
    Interrupted {
        /// See above.
        first: String,
    },
    /// The key's order has ended, but its answer cannot be read for the moment.
    #[error(
        "request {first} with this Idempotency-Key has ended, but the state store cannot be read; try again in 1 s"
    )]
    Unreadable {
        /// See above.
        first: String,
    },
    /// The key's order, or an equal one whose answer has reached nobody, has ended, but the answer is no longer stored.
    #[error(
        "request {first} with the same order has ended as `{}`; its answer is no longer stored: look the order up with \
         Fastrac, and send one under another key only if a second one is wanted",
        outcome.as_str()
    )]
    AnswerGone {
        /// See above.
        first: String,
        /// Outcome of the first request.
        outcome: Outcome,
        /// Whether the first request was sent.
        sent: Sent,
    },
    /// The order of another request was waited for, and the caller's time ended before it did.
    #[error(
        "request {first} with the same order is still under way, and this request's time is up; repeat it to get the \
         response"
    )]
    StillUnderWay {
        /// See above.
        first: String,
    },
    /// It is not known whether the key was used: the archive of ended orders cannot be read, or not be written.
    #[error(
        "whether this Idempotency-Key was used before cannot be looked up: the archive of ended orders does not work; \
         try again in 1 s"
    )]
    NoArchive,
    /// No room for one more order.
    #[error("too many orders are unknown, undelivered or on their way to the archive; try again in 1 s")]
    TooMany,
    /// No room for one more order of its service.
    #[error(
        "{own} orders of this service are unknown, undelivered or on their way to the archive, which is as many as it may \
         have; have operators settle the unknown ones (`fastrac-gateway orders list`)"
    )]
    TooManyOfService {
        /// See above.
        own: usize,
    },
    /// No room to read the answer of the key's order again.
    #[error("{0}; the answer of the first request with this Idempotency-Key is kept; try again in 1 s")]
    NoMemory(#[from] MemoryExhausted),
}

impl OrderRefusal {
    pub(super) fn answer_gone(first: String, AnswerResult { outcome, sent }: AnswerResult) -> Self {
        OrderRefusal::AnswerGone { first, outcome, sent }
    }

    /// The refusal's code.
    pub fn code(&self) -> Code {
        match self {
            OrderRefusal::Held { .. } | OrderRefusal::Interrupted { .. } => Code::OrderUnknown,
            OrderRefusal::InFlight { .. } => Code::OrderInFlight,
            OrderRefusal::StillUnderWay { .. } => Code::UpstreamTimeout,
            _ if self.is_overload() => Code::GatewayOverloaded,
            _ => Code::RequestIdempotency,
        }
    }

    /// The refusal's status; one code has several.
    pub fn status(&self) -> StatusCode {
        match self {
            OrderRefusal::Key(_) => StatusCode::BAD_REQUEST,
            OrderRefusal::OtherRequest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ if self.is_overload() => StatusCode::SERVICE_UNAVAILABLE,
            OrderRefusal::StillUnderWay { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::CONFLICT,
        }
    }

    /// The refusal's outcome; a repeat has the outcome of the first request.
    pub fn outcome(&self) -> Outcome {
        match self {
            OrderRefusal::AnswerGone { outcome, .. } => *outcome,
            other => other.code().outcome(),
        }
    }

    /// When it is worth repeating the request.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            OrderRefusal::TooManyOfService { .. } => Some(Duration::from_mins(1)),
            OrderRefusal::InFlight { .. } => Some(Duration::from_secs(1)),
            _ => self.is_overload().then_some(Duration::from_secs(1)),
        }
    }

    /// Whether the gateway lacks something for the moment.
    fn is_overload(&self) -> bool {
        use OrderRefusal::{NoArchive, NoMemory, TooMany, TooManyOfService, Unreadable};
        matches!(self, NoMemory(_) | Unreadable { .. } | NoArchive | TooMany | TooManyOfService { .. })
    }

    /// Whether the first request was sent, if the refusal replaces its answer.
    pub fn first_sent(&self) -> Option<FirstSent> {
        match self {
            OrderRefusal::AnswerGone { sent, .. } => Some(FirstSent::new(*sent)),
            OrderRefusal::Interrupted { .. } | OrderRefusal::StillUnderWay { .. } => {
                Some(FirstSent::new(Sent::Unknown))
            }
            _ => None,
        }
    }
}
