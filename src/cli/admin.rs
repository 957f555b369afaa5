//! `admin issue`: a token for the admin port.

use std::io::{self, Write as _};

use clap::Subcommand;

use super::{credential::IssuedSecret, output};

/// Manage the admin token
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fastrac-gateway admin issue")]
pub(super) struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Create an admin token: prints it once, and the lines for the configuration
    #[command(after_help = "Example: fastrac-gateway admin issue
Clients send the token as `Authorization: Bearer TOKEN`.")]
    Issue,
}

pub(super) fn run(arguments: &AdminArgs) -> io::Result<u8> {
    let AdminCommand::Issue = arguments.command;
    let secret = IssuedSecret::new()?;
    output::print(|out| {
        writeln!(
            out,
            "# For the operators. The token is shown only once; the configuration contains its digest.
#   token: {}

# For the gateway's configuration.
[admin]
token_sha256 = \"{}\"",
            *secret.text, secret.sha256
        )
    })
    .map(|()| 0)
}
