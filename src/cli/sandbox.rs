//! `sandbox`: the Fastrac simulator alone.

use std::io;

pub(super) use fastrac_sandbox::cli::{Arguments, examples};

pub(super) fn run(arguments: &Arguments) -> io::Result<u8> {
    Ok(fastrac_sandbox::cli::run(arguments))
}
