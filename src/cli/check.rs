//! `check FILE`: prints every error of a configuration, then the warnings, then what a reload would change.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use http::{Method, Uri};

use super::{
    FAILED, WRONG,
    against::{OF_THE_MACHINE, SpecialKeys, differences},
    output,
    remote::{self, AdminClient, AdminCredentials},
};
use crate::{
    admin::config::effective,
    config::check::{Checked, KeyPath},
    gateway::keys_of_a_restart,
    inspect,
};

/// Check a configuration file, and the key and certificate files that it names
///
/// Prints all errors, each with its key and line, then warnings. Exits 0, or 2 if there is an error. An error is what
/// `run` cannot use: it does not start, or it starts without a key pair.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  fastrac-gateway check gateway.toml
  fastrac-gateway check gateway.toml --no-files    where the key files do not exist, such as in CI
  fastrac-gateway check gateway.toml --against http://127.0.0.1:9464 --token-file admin.token")]
pub(super) struct CheckArgs {
    /// The configuration file
    file: PathBuf,
    /// Do not look at the files and folders that it names (keys, certificates, CAs, state, log)
    #[arg(long)]
    no_files: bool,
    /// Address of a running gateway's admin port: prints what a reload of it would add, change and remove
    #[arg(long, value_name = "URL")]
    against: Option<Uri>,
    #[command(flatten)]
    credentials: AdminCredentials,
}

pub(super) fn run(arguments: &CheckArgs) -> io::Result<u8> {
    let path = arguments.file.display();
    let checked = match inspect::check(&arguments.file, arguments.no_files) {
        Ok(checked) => checked,
        Err(error) => {
            output::error(format_args!("{path} cannot be read: {error}"));
            return Ok(WRONG);
        }
    };
    let printed = output::print(|out| {
        checked.errors.iter().try_for_each(|error| writeln!(out, "{error}"))?;
        checked.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
    });
    let (errors, warnings) = (checked.errors.len(), checked.warnings.len());
    output::message(format_args!("{path}: {}, {}", count(errors, "error"), count(warnings, "warning")));
    if let Err(error) = printed {
        output::error(format_args!("the result cannot be printed: {error}"));
    }
    match (&arguments.against, &checked.config) {
        // The exit code depends on the file alone.
        _ if errors > 0 => Ok(WRONG),
        (Some(url), Some(_)) => against(AdminClient::new(url.clone(), &arguments.credentials), &checked),
        _ => Ok(0),
    }
}

fn against(gateway: AdminClient, checked: &Checked) -> io::Result<u8> {
    let Some(config) = &checked.config else { return Ok(WRONG) };
    let response = match gateway.send(Method::GET, "/config", None) {
        Ok(response) if response.status.is_success() => response,
        Ok(response) => {
            output::error(response.error_message());
            return Ok(FAILED);
        }
        Err(error) => return Ok(error.report()),
    };
    if !["accounts", "services", "operations"].iter().all(|table| response.body[table].is_object()) {
        output::error(remote::NOT_A_GATEWAY);
        return Ok(FAILED);
    }
    let silent = OF_THE_MACHINE.map(KeyPath::at).into_iter().filter(|key| !checked.lines.contains(key));
    let special = SpecialKeys { ignored: silent.collect(), of_a_restart: keys_of_a_restart(config) };
    let lines = differences(&response.body, &effective(config), &special);
    remote::print(&lines).map(|()| 0)
}

fn count(number: usize, what: &str) -> String {
    let number_text = if number == 0 { "no".to_owned() } else { number.to_string() };
    format!("{number_text} {what}{}", if number == 1 { "" } else { "s" })
}
