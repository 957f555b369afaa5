//! The vendor leg.
pub mod breaker;
