//! `fastrac-sandbox`: the Fastrac simulator as a program of its own.

use std::process::ExitCode;

use clap::Parser;
use fastrac_sandbox::cli;

#[derive(Parser)]
#[command(
    name = "fastrac-sandbox",
    version,
    about = "A simulator of the Fastrac B2B API",
    after_help = cli::examples("fastrac-sandbox")
)]
struct CommandLine {
    #[command(flatten)]
    arguments: cli::Arguments,
}

fn main() -> ExitCode {
    ExitCode::from(cli::run(&CommandLine::parse().arguments))
}
