//! Why a request is sent again: the closed list. Pure.

use strum::{EnumCount, IntoStaticStr, VariantArray};

/// The label `reason` of `retries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum RetryReason {
    /// No connection; nothing was sent.
    Connect,
    /// The connection was lost before the response was complete.
    Reset,
    /// Fastrac responded with 502.
    #[strum(serialize = "502")]
    BadGateway,
    #[strum(serialize = "503")]
    Unavailable,
    #[strum(serialize = "504")]
    GatewayTimeout,
    /// The key pair was refused or revoked, and there is another. Not limited by `retries`.
    Key,
}

impl RetryReason {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// That of a status, if a proxy in front of Fastrac may have given it: the next attempt may meet another server.
    pub(super) fn of_status(status: u16) -> Option<Self> {
        match status {
            502 => Some(RetryReason::BadGateway),
            503 => Some(RetryReason::Unavailable),
            504 => Some(RetryReason::GatewayTimeout),
            _ => None,
        }
    }
}
