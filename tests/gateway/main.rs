//! Whole-program tests: one binary, so that it is linked once.
//!
//! | file | holds that |
//! | --- | --- |
//! | `config` | a bad configuration gives all its faults with places; the examples and the commands around it work |

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod config;
