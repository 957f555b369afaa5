//! Errors of the exchange log.

use std::path::PathBuf;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder or the file cannot be created, read or written.
    #[error("exchange log {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Another process writes to it.
    #[error("exchange log {path}: another process writes to it")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Its thread cannot be started.
    #[error("exchange log: cannot start its thread: {0}")]
    Thread(std::io::Error),
}

/// No room in the queue by the deadline.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the exchange log cannot keep up")]
pub struct QueueFull;
