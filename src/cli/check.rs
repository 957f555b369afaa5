//! `check FILE`: prints every error of a configuration, then the warnings.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use super::{WRONG, output};
use crate::inspect;

/// Check a configuration file, and the key and certificate files that it names
///
/// Prints all errors, each with its key and line, then warnings. Exits 0, or 2 if there is an error. An error is what
/// `run` cannot use: it does not start, or it starts without a key pair.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  fastrac-gateway check gateway.toml
  fastrac-gateway check gateway.toml --no-files    where the key files do not exist, such as in CI")]
pub(super) struct CheckArgs {
    /// The configuration file
    file: PathBuf,
    /// Do not read the key, certificate and CA files that it names
    #[arg(long)]
    no_files: bool,
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
    // The exit code depends on the file alone.
    Ok(if errors > 0 { WRONG } else { 0 })
}

fn count(number: usize, what: &str) -> String {
    let number_text = if number == 0 { "no".to_owned() } else { number.to_string() };
    format!("{number_text} {what}{}", if number == 1 { "" } else { "s" })
}
