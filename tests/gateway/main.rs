//! Whole-program tests: one binary, so that it is linked once.
//!
//! | file | holds that |
//! | --- | --- |
//! | `config` | a bad configuration gives all its faults with places; the examples and the commands around it work |

mod config;
