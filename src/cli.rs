//! The command line: one file for each command.
//!
//! Results go to stdout, messages to stderr. Exit codes: 0 success, 1 failure, 2 wrong usage or wrong configuration. A
//! command returns its exit code and never ends the process itself, so that its values are dropped.

mod admin;
mod against;
mod cache;
mod check;
mod credential;
#[cfg(feature = "sandbox")]
mod demo;
mod health;
mod keys;
#[cfg(not(feature = "sandbox"))]
mod no_sandbox;
mod notify;
mod orders;
mod output;
mod quota;
mod reload;
mod remote;
mod run;
#[cfg(feature = "sandbox")]
mod sandbox;
mod schema;
mod service;
mod state;
mod table;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

#[cfg(not(feature = "sandbox"))]
use self::{no_sandbox as demo, no_sandbox as sandbox};
use crate::{
    record::{FlushAtExit, report_panics},
    store,
};

/// Exit code: failure.
pub(crate) const FAILED: u8 = 1;
/// Exit code: wrong usage or wrong configuration.
pub(crate) const WRONG: u8 = 2;

/// Version and commit, as `--version` prints them.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("FASTRAC_GATEWAY_COMMIT"), ")");

#[derive(Debug, Parser)]
#[command(
    name = "fastrac-gateway",
    version = VERSION,
    about = "A gateway between internal services and the Fastrac B2B API",
    after_help = after_help(),
    subcommand_required = true,
    arg_required_else_help = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// One variant and one file for each command.
#[derive(Debug, Subcommand)]
enum Command {
    #[cfg_attr(not(feature = "sandbox"), command(hide = true))]
    Demo(demo::DemoArgs),
    Run(run::RunArgs),
    /// Run the Fastrac simulator alone
    #[command(after_help = sandbox::examples("fastrac-gateway sandbox"))]
    #[cfg_attr(not(feature = "sandbox"), command(hide = true))]
    Sandbox(sandbox::Arguments),
    Check(check::CheckArgs),
    Service(service::ServiceArgs),
    Admin(admin::AdminArgs),
    /// Show, verify, rotate and revoke key pairs
    Keys(keys::KeysArgs),
    Quota(quota::QuotaArgs),
    Cache(cache::CacheArgs),
    /// List, show and settle the orders whose outcome is unknown
    Orders(orders::OrdersArgs),
    Reload(reload::ReloadArgs),
    Health(health::HealthArgs),
    State(state::StateArgs),
    Schema(schema::SchemaArgs),
}

fn after_help() -> String {
    let demo = if cfg!(feature = "sandbox") { "\n  fastrac-gateway demo" } else { "" };
    format!(
        "Examples:{demo}
  fastrac-gateway run --config gateway.toml
  fastrac-gateway check gateway.toml
  fastrac-gateway service issue checkout
  fastrac-gateway reload --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway schema > gateway.schema.json

Exit codes: 0 success, 1 failure, 2 wrong usage or wrong configuration."
    )
}

/// Parses the arguments. Help and errors have colours only where both outputs are terminals, whatever the environment
/// says.
fn command_line() -> CommandLine {
    let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
    let colour = if terminal { ColorChoice::Auto } else { ColorChoice::Never };
    let matches = CommandLine::command().color(colour).get_matches();
    CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Runs the command that the command line names, and returns the exit code.
pub fn main() -> ExitCode {
    // A panic message must not show a secret.
    report_panics(store::is_expected_panic);
    let _flush = FlushAtExit;
    let done = match command_line().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Sandbox(arguments) => sandbox::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Service(arguments) => service::run(&arguments),
        Command::Admin(arguments) => admin::run(&arguments),
        Command::Keys(arguments) => keys::run(&arguments),
        Command::Quota(arguments) => quota::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Orders(arguments) => orders::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::State(arguments) => state::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::error(error);
            ExitCode::from(FAILED)
        }
    }
}
