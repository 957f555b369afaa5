//! Why the gateway answered by itself: one closed table of codes (contract section 6).
//!
//! The table is a `match` without a catch-all arm, so a new code does not compile until each column is filled in. Pure.

use http::StatusCode;
use strum::VariantArray;

use super::Outcome;

/// Why the gateway answered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, VariantArray)]
pub enum Code {
    CallerUnknown,
    CallerClass,
    QuotaSecond,
    QuotaDay,
    BudgetSecond,
    BudgetDay,
    BudgetInFlight,
    UpstreamBreaker,
    UpstreamConnect,
    UpstreamTimeout,
    UpstreamCut,
    UpstreamLeak,
    UpstreamLimit,
    KeysRejected,
    KeysUnavailable,
    CacheOnly,
    OrderUnknown,
    OrderInFlight,
    RequestMalformed,
    RequestTimeout,
    RequestTooLarge,
    RequestHeaders,
    RequestUpgrade,
    RequestIdempotency,
    GatewayOverloaded,
    GatewayDraining,
    GatewayInternal,
}

/// The columns of the table.
struct CodeRow {
    /// In responses and log, such as `quota.day`.
    name: &'static str,
    outcome: Outcome,
    /// Status of the refusal, unless the room that refuses chooses another.
    status: StatusCode,
    /// Error type of RFC 9209, section 2.3.
    proxy_error: &'static str,
}

impl Code {
    #[rustfmt::skip]
    const fn row(self) -> CodeRow {
        const fn row(name: &'static str, outcome: Outcome, status: StatusCode, proxy_error: &'static str) -> CodeRow {
            CodeRow { name, outcome, status, proxy_error }
        }
        use {Outcome as O, StatusCode as S};
        match self {
            Code::CallerUnknown      => row("caller.unknown",      O::Unauthenticated, S::UNAUTHORIZED,          "http_request_denied"),
            Code::CallerClass        => row("caller.class",        O::Forbidden,       S::FORBIDDEN,             "http_request_denied"),
            Code::QuotaSecond        => row("quota.second",        O::OverQuota,       S::TOO_MANY_REQUESTS,     "http_request_denied"),
            Code::QuotaDay           => row("quota.day",           O::OverQuota,       S::TOO_MANY_REQUESTS,     "http_request_denied"),
            Code::BudgetSecond       => row("budget.second",       O::OverBudget,      S::SERVICE_UNAVAILABLE,   "connection_limit_reached"),
            Code::BudgetDay          => row("budget.day",          O::OverBudget,      S::SERVICE_UNAVAILABLE,   "connection_limit_reached"),
            Code::BudgetInFlight     => row("budget.in_flight",    O::OverBudget,      S::SERVICE_UNAVAILABLE,   "connection_limit_reached"),
            Code::UpstreamBreaker    => row("upstream.breaker",    O::BreakerOpen,     S::SERVICE_UNAVAILABLE,   "destination_unavailable"),
            Code::UpstreamConnect    => row("upstream.connect",    O::Unreachable,     S::BAD_GATEWAY,           "destination_unavailable"),
            Code::UpstreamTimeout    => row("upstream.timeout",    O::Timeout,         S::GATEWAY_TIMEOUT,       "http_response_timeout"),
            Code::UpstreamCut        => row("upstream.cut",        O::Cut,             S::BAD_GATEWAY,           "http_response_incomplete"),
            Code::UpstreamLeak       => row("upstream.leak",       O::Leak,            S::BAD_GATEWAY,           "http_protocol_error"),
            Code::UpstreamLimit      => row("upstream.limit",      O::Throttled,       S::TOO_MANY_REQUESTS,     "http_request_error"),
            Code::KeysRejected       => row("keys.rejected",       O::KeyRejected,     S::BAD_GATEWAY,           "http_request_denied"),
            Code::KeysUnavailable    => row("keys.unavailable",    O::NoKey,           S::SERVICE_UNAVAILABLE,   "proxy_configuration_error"),
            Code::CacheOnly          => row("cache.only",          O::NotCached,       S::GATEWAY_TIMEOUT,       "http_request_denied"),
            Code::OrderUnknown       => row("order.unknown",       O::Held,            S::CONFLICT,              "http_request_denied"),
            Code::OrderInFlight      => row("order.in_flight",     O::Held,            S::CONFLICT,              "http_request_denied"),
            Code::RequestMalformed   => row("request.malformed",   O::BadRequest,      S::BAD_REQUEST,           "http_request_error"),
            Code::RequestTimeout     => row("request.timeout",     O::BadRequest,      S::REQUEST_TIMEOUT,       "http_request_error"),
            Code::RequestTooLarge    => row("request.too_large",   O::BadRequest,      S::PAYLOAD_TOO_LARGE,     "http_request_error"),
            Code::RequestHeaders     => row("request.headers",     O::BadRequest,      S::REQUEST_HEADER_FIELDS_TOO_LARGE, "http_request_error"),
            Code::RequestUpgrade     => row("request.upgrade",     O::BadRequest,      S::NOT_IMPLEMENTED,       "http_request_error"),
            Code::RequestIdempotency => row("request.idempotency", O::BadRequest,      S::BAD_REQUEST,           "http_request_error"),
            Code::GatewayOverloaded  => row("gateway.overloaded",  O::Overloaded,      S::SERVICE_UNAVAILABLE,   "connection_limit_reached"),
            Code::GatewayDraining    => row("gateway.draining",    O::Draining,        S::SERVICE_UNAVAILABLE,   "proxy_internal_error"),
            Code::GatewayInternal    => row("gateway.internal",    O::Internal,        S::INTERNAL_SERVER_ERROR, "proxy_internal_error"),
        }
    }

    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    pub fn outcome(self) -> Outcome {
        self.row().outcome
    }

    /// The code of an outcome that has only one.
    pub fn of(outcome: Outcome) -> Option<Code> {
        let mut codes = Code::VARIANTS.iter().copied().filter(|code| code.outcome() == outcome);
        codes.next().filter(|_| codes.next().is_none())
    }

    pub fn status(self) -> StatusCode {
        self.row().status
    }

    pub fn proxy_error(self) -> &'static str {
        self.row().proxy_error
    }
}
