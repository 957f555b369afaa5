//! Promises of the vault, against a stub of one in the same process, on tokio's paused clock.
