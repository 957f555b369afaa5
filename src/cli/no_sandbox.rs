//! `sandbox` and `demo` in a build without the feature `sandbox`: hidden from `--help`; they print how to get them.

use std::io;

use super::{WRONG, output};

const HINT: &str = "this build does not contain the Fastrac simulator. From the source of the gateway,
  cargo build --release                      builds a gateway that has `sandbox` and `demo`
  cargo build --release -p fastrac-sandbox   builds the simulator as a program of its own, fastrac-sandbox";

// Everything after the command, also --help, is accepted and ignored.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, override_help = HINT)]
pub(super) struct IgnoredArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _ignored: Vec<String>,
}

// The names that the two commands have in a build with the simulator.
pub(super) use IgnoredArgs as Arguments;
pub(super) use IgnoredArgs as DemoArgs;

pub(super) fn examples(_: &str) -> &'static str {
    ""
}

pub(super) fn run(_: &IgnoredArgs) -> io::Result<u8> {
    output::error(HINT);
    Ok(WRONG)
}
