//! `schema`: the JSON Schema of the configuration file.

use std::io::{self, Write as _};

use super::output;
use crate::config::file;

/// Print the JSON Schema of the configuration file, with every default
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fastrac-gateway schema > gateway.schema.json
With `#:schema ./gateway.schema.json` in the first line of the TOML file, editors complete and check its keys.")]
pub(super) struct SchemaArgs {}

pub(super) fn run(SchemaArgs {}: &SchemaArgs) -> io::Result<u8> {
    let schema = serde_json::to_string_pretty(&file::schema())?;
    output::print(|out| writeln!(out, "{schema}")).map(|()| 0)
}
