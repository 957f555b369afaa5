//! `service issue NAME`: a credential for an internal service.

use std::io::{self, Write as _};

use clap::Subcommand;

use super::{
    credential::{IssuedSecret, suffix},
    output,
};
use crate::config::file::{Name, TextValue as _};

/// Manage the credentials of internal services
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fastrac-gateway service issue checkout")]
pub(super) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Create a credential for a service: prints the pair once, and the lines for the configuration
    #[command(after_help = "Example: fastrac-gateway service issue checkout
A service may have two credentials, so that one can replace the other without downtime.")]
    Issue {
        /// The service's name, as in [services.NAME]
        #[arg(value_parser = name)]
        name: String,
    },
}

fn name(text: &str) -> Result<String, String> {
    Name::parse(text).map(|name| name.0)
}

pub(super) fn run(arguments: &ServiceArgs) -> io::Result<u8> {
    let ServiceCommand::Issue { name } = &arguments.command;
    let (secret, access_key) = (IssuedSecret::new()?, access_key(name, &suffix()?));
    let table = if name.contains('.') { format!("services.{name:?}") } else { format!("services.{name}") };
    output::print(|out| {
        writeln!(
            out,
            "# For the service. The secret is shown only once; the configuration contains its digest.
#   access-key: {access_key}
#   secret-key: {}

# For the gateway's configuration. Add a second credential of a service to the same list.
[{table}]
credentials = [
  {{ access_key = \"{access_key}\", secret_sha256 = \"{}\" }},
]",
            *secret.text, secret.sha256
        )
    })
    .map(|()| 0)
}

/// `svc-NAME-SUFFIX`, within the 64 characters and the alphabet of access keys.
fn access_key(name: &str, suffix: &str) -> String {
    let name: String = name.replace('.', "-").chars().take(50).collect();
    format!("svc-{name}-{suffix}")
}
