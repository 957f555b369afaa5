//! The command line (a stand-in until the real one is merged: only `sandbox`).

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod sandbox;

#[derive(Parser)]
#[command(name = "fastrac-gateway", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the Fastrac simulator alone.
    Sandbox(sandbox::SandboxArgs),
}

/// Reads the arguments and runs the command.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Sandbox(args) => sandbox::run(args),
    }
}
