//! Errors of the store. Their texts name the folder or file, so that an operator can act on them.

use std::{fmt, path::PathBuf, sync::Arc};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A process (possibly this one) has it open for writing.
    #[error("another process uses {}; each gateway needs its own state.dir", dir.display())]
    InUse {
        /// `state.dir`.
        dir: PathBuf,
    },
    /// The folder or the file cannot be created, opened or read.
    #[error("state.dir {}: {source}", dir.display())]
    Folder {
        /// `state.dir`.
        dir: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file exists but is not a store that this version can read.
    #[error("{} cannot be read as a state store: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a read or write was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store was closed, or its thread has ended.
    #[error("the state store is closed")]
    Closed,
    /// The disk has not responded for some time, so nothing was submitted.
    #[error("the state store's disk does not respond")]
    Slow,
    /// The disk or the file failed. A failed write may or may not be on disk.
    #[error("the state store failed: {0}")]
    Failed(Arc<str>),
}

impl StoreError {
    pub(super) fn failed(error: &dyn fmt::Display) -> StoreError {
        StoreError::Failed(error.to_string().into())
    }
}
