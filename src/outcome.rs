//! What became of a request: one closed list, and the classifier of Fastrac's answers.
//!
//! [`Outcome`] decides the metric label, the log level and whose doing it was; [`Code`] names each
//! refusal and decides its status and its `Proxy-Status` error. Adding a variant breaks the build
//! until every column is filled. Pure: knows no socket, no clock, no other room.

mod envelope;
mod scan;

use http::StatusCode;

pub use envelope::{Reading, read, read_beginning, read_closely};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "contract section 6 is the documentation")]
pub enum Outcome {
    Ok,
    Hit,
    Stale,
    NotFound,
    Rejected,
    UpstreamError,
    Throttled,
    Leak,
    KeyRejected,
    Unauthenticated,
    Forbidden,
    OverQuota,
    OverBudget,
    BreakerOpen,
    NoKey,
    Unreachable,
    Timeout,
    Cut,
    NotCached,
    Held,
    BadRequest,
    Overloaded,
    Draining,
    ClientGone,
    Internal,
}

impl Outcome {
    /// Every outcome, in the order of the discriminants.
    pub const ALL: [Outcome; 25] = [
        Outcome::Ok,
        Outcome::Hit,
        Outcome::Stale,
        Outcome::NotFound,
        Outcome::Rejected,
        Outcome::UpstreamError,
        Outcome::Throttled,
        Outcome::Leak,
        Outcome::KeyRejected,
        Outcome::Unauthenticated,
        Outcome::Forbidden,
        Outcome::OverQuota,
        Outcome::OverBudget,
        Outcome::BreakerOpen,
        Outcome::NoKey,
        Outcome::Unreachable,
        Outcome::Timeout,
        Outcome::Cut,
        Outcome::NotCached,
        Outcome::Held,
        Outcome::BadRequest,
        Outcome::Overloaded,
        Outcome::Draining,
        Outcome::ClientGone,
        Outcome::Internal,
    ];

    /// The word in metrics, log and `X-Gateway-Outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Hit => "hit",
            Outcome::Stale => "stale",
            Outcome::NotFound => "not_found",
            Outcome::Rejected => "rejected",
            Outcome::UpstreamError => "upstream_error",
            Outcome::Throttled => "throttled",
            Outcome::Leak => "leak",
            Outcome::KeyRejected => "key_rejected",
            Outcome::Unauthenticated => "unauthenticated",
            Outcome::Forbidden => "forbidden",
            Outcome::OverQuota => "over_quota",
            Outcome::OverBudget => "over_budget",
            Outcome::BreakerOpen => "breaker_open",
            Outcome::NoKey => "no_key",
            Outcome::Unreachable => "unreachable",
            Outcome::Timeout => "timeout",
            Outcome::Cut => "cut",
            Outcome::NotCached => "not_cached",
            Outcome::Held => "held",
            Outcome::BadRequest => "bad_request",
            Outcome::Overloaded => "overloaded",
            Outcome::Draining => "draining",
            Outcome::ClientGone => "client_gone",
            Outcome::Internal => "internal",
        }
    }
}

/// Whether Fastrac may have received the request. Ordered: over the attempts of a request it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// Fastrac never received it.
    #[default]
    No,
    /// It may have been executed.
    Unknown,
    /// Fastrac answered it.
    Yes,
}

impl Sent {
    /// The word in answers and log.
    pub fn as_str(self) -> &'static str {
        match self {
            Sent::No => "no",
            Sent::Yes => "yes",
            Sent::Unknown => "unknown",
        }
    }
}

/// Why the gateway answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "contract section 6 is the documentation")]
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

/// One row of the table of refusals.
struct Row {
    name: &'static str,
    outcome: Outcome,
    status: StatusCode,
    /// RFC 9209 error type.
    proxy_error: &'static str,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 26] = [
        Code::CallerUnknown,
        Code::CallerClass,
        Code::QuotaSecond,
        Code::QuotaDay,
        Code::BudgetSecond,
        Code::BudgetDay,
        Code::BudgetInFlight,
        Code::UpstreamBreaker,
        Code::UpstreamConnect,
        Code::UpstreamTimeout,
        Code::UpstreamCut,
        Code::UpstreamLeak,
        Code::UpstreamLimit,
        Code::KeysRejected,
        Code::KeysUnavailable,
        Code::CacheOnly,
        Code::OrderUnknown,
        Code::RequestMalformed,
        Code::RequestTimeout,
        Code::RequestTooLarge,
        Code::RequestHeaders,
        Code::RequestUpgrade,
        Code::RequestIdempotency,
        Code::GatewayOverloaded,
        Code::GatewayDraining,
        Code::GatewayInternal,
    ];

    #[rustfmt::skip]
    fn row(self) -> Row {
        let row = |name, outcome, status, proxy_error| Row { name, outcome, status, proxy_error };
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

    /// The word in answers and log, such as `quota.day`.
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The outcome that it stands for.
    pub fn outcome(self) -> Outcome {
        self.row().outcome
    }

    /// The status of the refusal, where the place of refusal doesn't choose another.
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// The error type of RFC 9209, section 2.3.
    pub fn proxy_error(self) -> &'static str {
        self.row().proxy_error
    }
}
