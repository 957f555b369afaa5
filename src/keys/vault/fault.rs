//! Reasons why no pair could be read from the vault. No message contains a credential or a value of a secret.

use std::time::Duration;

/// No pair could be read from the vault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The gateway's own configuration is invalid: a certificate, a file with a credential, a name.
    #[error("{0}")]
    Unfit(String),
    /// No connection, or it broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No complete answer in time.
    #[error("gave no answer within {0:?}")]
    DeadlineExceeded(Duration),
    /// Secrets cannot be read until an operator unseals it.
    #[error("is sealed")]
    Sealed,
    /// It was never initialised.
    #[error("is not initialised")]
    Uninitialized,
    /// It is a standby, and its leader cannot be reached or is not trusted.
    #[error("is a standby, and its leader can't be asked: {0}")]
    Standby(&'static str),
    /// The login was refused.
    #[error("refuses the login ({status}): {said}")]
    Login {
        /// HTTP status.
        status: u16,
        /// The known phrases in its error messages.
        said: String,
    },
    /// 403, even after a new login.
    #[error("denies reading {0}: the token may have ended, or its policy lacks `read` there")]
    Denied(String),
    /// There is no such secret.
    #[error("has no secret at {0}")]
    Missing(String),
    /// The newest version was deleted or destroyed.
    #[error("version {version} of {place} is {how}")]
    Deleted {
        /// Mount and path.
        place: String,
        /// The vault's version number.
        version: u64,
        /// `deleted` or `destroyed`.
        how: &'static str,
    },
    /// An unexpected status.
    #[error("answers {status}: {said}")]
    Answered {
        /// HTTP status.
        status: u16,
        /// The known phrases in its error messages.
        said: String,
    },
    /// Its answer has not the expected form.
    #[error("{0}")]
    Malformed(String),
}
