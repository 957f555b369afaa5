//! The refusals that the errors of rooms become, and nothing else: one conversion for each error.
//!
//! Must not know requests. Cannot fail.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::{Advice, Refusal};
use crate::{
    admission::Unrecorded,
    body::BodyError,
    caller::Unknown,
    catalog::{Forbidden, route::Malformed, target::Misaddressed},
    deadline::InvalidTimeout,
    keys::NoKey,
    memory::MemoryExhausted,
    orders::{JournalError, OrderRefusal},
    outcome::Code,
    retry_after::whole_seconds,
    upstream::{Failure, breaker::BreakerOpen},
};

impl From<Unknown> for Refusal {
    fn from(unknown: Unknown) -> Self {
        let message = match unknown {
            Unknown::None => {
                "No credentials for this gateway: send the service's own access-key and secret-key, as headers, Basic or \
                 Bearer; never Fastrac's"
            }
            Unknown::Unreadable => {
                "The credentials are incomplete, repeated or unreadable: send access-key and secret-key once, as headers, \
                 Basic or Bearer"
            }
            Unknown::Wrong => {
                "No valid credentials for this gateway: send the service's own access-key and secret-key, as headers, \
                 Basic or Bearer; never Fastrac's"
            }
            Unknown::Disagree => "The credentials belong to different services: send those of one service",
            Unknown::Slowed { wait } => {
                let seconds = whole_seconds(wait).as_secs();
                let message = format!("Too many wrong credentials came from this address; try again in {seconds} s");
                return Refusal::new(Code::CallerUnknown, message)
                    .status(StatusCode::TOO_MANY_REQUESTS)
                    .retry_after(wait);
            }
        };
        Refusal::new(Code::CallerUnknown, message)
    }
}

impl From<Forbidden> for Refusal {
    fn from(forbidden: Forbidden) -> Self {
        Refusal::new(Code::CallerClass, forbidden.to_string())
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::new(Code::RequestMalformed, malformed.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge(_) => Code::RequestTooLarge,
            BodyError::TooSlow => Code::RequestTimeout,
            BodyError::NoMemory(exhausted) => return exhausted.into(),
            BodyError::MakesRoom => {
                return Refusal::new(Code::GatewayOverloaded, error.to_string()).retry_after(Duration::from_secs(1));
            }
            BodyError::Broken => Code::RequestMalformed,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<MemoryExhausted> for Refusal {
    fn from(exhausted: MemoryExhausted) -> Self {
        Refusal::new(Code::GatewayOverloaded, format!("{exhausted}; try again in 1 s")).without_memory(exhausted)
    }
}

impl From<InvalidTimeout> for Refusal {
    fn from(invalid: InvalidTimeout) -> Self {
        Refusal::new(Code::RequestMalformed, invalid.to_string())
    }
}

impl From<Unrecorded> for Refusal {
    fn from(unrecorded: Unrecorded) -> Self {
        let message = format!("Nothing was sent: {unrecorded}; try again in 1 s");
        Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1))
    }
}

impl From<Misaddressed> for Refusal {
    fn from(misaddressed: Misaddressed) -> Self {
        let code = match misaddressed {
            Misaddressed::Upgrade => Code::RequestUpgrade,
            _ => Code::RequestMalformed,
        };
        Refusal::new(code, misaddressed.to_string())
    }
}

impl From<OrderRefusal> for Refusal {
    fn from(refused: OrderRefusal) -> Self {
        let refusal = Refusal::new(refused.code(), refused.to_string()).status(refused.status());
        // A repeat has the outcome of the first request, even if its response is no longer kept.
        Refusal {
            outcome: refused.outcome(),
            first_sent: refused.first_sent(),
            retry_after: refused.retry_after(),
            ..refusal
        }
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        let message = format!("The order was not sent: {error}; try again in 1 s");
        Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1))
    }
}

impl From<NoKey> for Refusal {
    fn from(no_key: NoKey) -> Self {
        let wait = match no_key {
            NoKey::Refused { next_canary: Some(next) } => next.saturating_duration_since(Instant::now()),
            _ => Duration::from_secs(1),
        };
        let seconds = whole_seconds(wait).as_secs();
        let lasting = match no_key {
            NoKey::None => ", and tell the gateway's operators if this lasts: a key source must have a pair",
            NoKey::Refused { .. } => "; the gateway's operators must replace the pair",
            NoKey::TooOld => "; the gateway's operators must make the key source readable again",
            NoKey::Moved => "",
        };
        let message = format!("Nothing was sent: {no_key}; try again in {seconds} s{lasting}");
        Refusal::new(Code::KeysUnavailable, message).retry_after(wait)
    }
}

impl From<BreakerOpen> for Refusal {
    fn from(open: BreakerOpen) -> Self {
        Refusal::new(Code::UpstreamBreaker, open.to_string()).retry_after(open.retry_after())
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let refusal = Refusal::new(failure.code(), failure.to_string());
        match failure {
            Failure::NoMemory(exhausted) => {
                Refusal { advice: Advice::ByRepeatRule, ..refusal.without_memory(exhausted) }
            }
            Failure::LocalFault(_) | Failure::Revoked | Failure::Unrecorded(_) => {
                refusal.retry_after(Duration::from_secs(1))
            }
            Failure::Connect(_)
            | Failure::ClosedIdle
            | Failure::NotStarted
            | Failure::Timeout
            | Failure::Cut
            | Failure::TooLong(_) => Refusal { advice: Advice::ByRepeatRule, ..refusal },
        }
    }
}
