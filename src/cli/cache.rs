//! `cache`: the stored responses of a running gateway.

use std::io;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    remote::AdminClient,
    table::{members, table},
};

/// Remove stored responses of a running gateway
#[derive(Debug, Args)]
#[command(after_help = "Commands send the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Examples:
  fastrac-gateway cache purge --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway cache purge --operation v2.city --admin http://127.0.0.1:9464
  fastrac-gateway cache purge --path-prefix /region/ --account main --admin http://127.0.0.1:9464")]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Remove the stored responses for which all that is given holds; without anything, every one
    #[command(after_help = "Example: fastrac-gateway cache purge --operation v2.city --admin http://127.0.0.1:9464")]
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
struct PurgeArgs {
    #[command(flatten)]
    remote: AdminClient,
    /// Only of this operation, such as v2.city
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Only of paths that begin with this text
    #[arg(long, value_name = "PATH")]
    path_prefix: Option<String>,
    /// Only of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

pub(super) fn run(arguments: &CacheArgs) -> io::Result<u8> {
    match &arguments.command {
        CacheCommand::Purge(PurgeArgs { remote, operation, path_prefix, account }) => {
            let body = json!({ "operation": operation, "path_prefix": path_prefix, "account": account });
            remote.run(Method::POST, "/cache/purge", Some(&body), purged)
        }
    }
}

fn purged(body: &Value) -> Vec<String> {
    let Some(entries) = body["purged"].as_u64() else { return Vec::new() };
    let rows: Vec<_> =
        members(body, "operations").map(|(name, entries)| [name.to_owned(), entries.to_string()]).collect();
    let mut lines = if rows.is_empty() { Vec::new() } else { table(["OPERATION", "PURGED"], &rows) };
    lines.push(format!("{entries} stored responses were removed"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_shown_by_operation() {
        let body = json!({ "purged": 3, "operations": { "v2.city": 1, "v2.district": 2 } });
        let lines = ["OPERATION    PURGED", "v2.city      1", "v2.district  2", "3 stored responses were removed"];
        assert_eq!(purged(&body), lines);
        assert_eq!(purged(&json!({ "purged": 0, "operations": {} })), ["0 stored responses were removed"]);
        assert!(purged(&json!({ "error": {} })).is_empty());
    }
}
