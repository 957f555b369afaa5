//! Why a source has no pair to give. No message contains a value of the source.

use std::fmt;

use super::{pair::PairError, vault::fault::VaultError};
use crate::files::FileError;

/// A source has no pair to give.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The source was read, but it is not a key pair.
    #[error("{place}: {what}")]
    Malformed {
        /// File, file and line, or variables.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// Environment variables are not set.
    #[error("{variables}: not set in the environment; `run` needs it")]
    Unset {
        /// Their names.
        variables: String,
    },
    /// The task that read the source panicked.
    #[error("reading the key source was interrupted")]
    Interrupted,
    /// No pair could be read from the vault.
    #[error("vault {address}: {error}")]
    Vault {
        /// URL of the vault.
        address: String,
        /// Why.
        error: VaultError,
    },
    /// The source needs a vault, and the configuration has none.
    #[error("key source `vault` without a vault")]
    NoVault,
}

impl SourceError {
    pub(super) fn malformed(place: impl fmt::Display, what: impl Into<String>) -> Self {
        Self::Malformed { place: place.to_string(), what: what.into() }
    }

    pub(super) fn no_pair(place: impl fmt::Display, error: PairError) -> Self {
        Self::malformed(place, error.to_string())
    }

    /// Whether the source is being changed, so that reading it again in a moment may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::File(FileError::Changing { .. }))
    }

    /// Whether the source can be read, but what it contains is not a whole pair.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::Vault { error: VaultError::Malformed(_), .. })
    }

    /// Whether the source says that its pair was deleted.
    pub fn is_deletion(&self) -> bool {
        matches!(self, Self::Vault { error: VaultError::Deleted { .. }, .. })
    }
}
