//! `cache`: removes stored responses of a running gateway, or has them fetched ahead of use.

use std::io;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    remote::AdminClient,
    table::{members, table, text},
};

/// Remove stored responses of a running gateway, or fetch those of the region tree ahead of use
#[derive(Debug, Args)]
#[command(after_help = "Commands send the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Examples:
  fastrac-gateway cache purge --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway cache purge --operation v2.city --admin http://127.0.0.1:9464
  fastrac-gateway cache purge --path-prefix /region/ --account main --admin http://127.0.0.1:9464
  fastrac-gateway cache warm --admin http://127.0.0.1:9464")]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Remove the stored responses for which all that is given holds; without anything, every one
    #[command(after_help = "Example: fastrac-gateway cache purge --operation v2.city --admin http://127.0.0.1:9464")]
    Purge(PurgeArgs),
    /// Fetch the region tree, from province to postal code, within spare budget; if it is under way, show how far it is
    #[command(after_help = "Example: fastrac-gateway cache warm --account main --admin http://127.0.0.1:9464")]
    Warm {
        #[command(flatten)]
        remote: AdminClient,
        /// Only of this account
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
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

impl PurgeArgs {
    /// What is to be purged, as the command of the admin port says it.
    fn body(&self) -> Value {
        let PurgeArgs { operation, path_prefix, account, .. } = self;
        json!({ "operation": operation, "path_prefix": path_prefix, "account": account })
    }
}

pub(super) fn run(arguments: &CacheArgs) -> io::Result<u8> {
    match &arguments.command {
        CacheCommand::Purge(purge) => purge.remote.run(Method::POST, "/cache/purge", Some(&purge.body()), purged),
        CacheCommand::Warm { remote, account } => {
            remote.run(Method::POST, "/cache/warm", Some(&json!({ "account": account })), walked)
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

fn walked(body: &Value) -> Vec<String> {
    let row = |(account, walk): (&str, &Value)| {
        let count = |name: &str| walk[name].as_u64().unwrap_or_default().to_string();
        let left = walk["left_seconds"].as_u64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
        let (state, level) = (text(&walk["state"]).to_owned(), text(&walk["level"]).to_owned());
        let [known, fetched, fresh] = ["known", "fetched", "fresh"].map(count);
        let [failed, not_understood] = ["failed", "not_understood"].map(count);
        [account.to_owned(), state, level, known, fetched, fresh, failed, not_understood, left]
    };
    let rows: Vec<_> = members(body, "walks").map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let columns = ["ACCOUNT", "STATE", "LEVEL", "KNOWN", "FETCHED", "FRESH", "FAILED", "NOT UNDERSTOOD", "LEFT"];
    let mut lines = table(columns, &rows);
    let reasons = members(body, "walks").filter_map(|(account, walk)| Some((account, reason(text(&walk["state"]))?)));
    lines.extend(reasons.map(|(account, reason)| format!("{account}: {reason}")));
    lines
}

/// Why a walk did not store the whole tree.
fn reason(state: &str) -> Option<&'static str> {
    Some(match state {
        "incomplete" => "some responses could not be fetched or stored; what is below them is left out; begin again",
        "not_understood" => {
            "some responses were not the lists of regions that they should be; what is below is left out"
        }
        "one_place" => "it did not begin, because budget.in_flight is 1: it would keep callers from the only place",
        "cache_full" => "it stopped, because cache.memory is nearly full and more would have evicted other responses",
        "too_many_ids" => "it stopped, because the responses name more ids than a region tree has",
        "address_changed" => "it stopped, because the account's address has changed; begin again",
        "stopped" => "it stopped, because the gateway was being stopped or the account was removed",
        "not_cached" => "it stopped, because an operation of the region tree is not a cached GET lookup",
        _ => return None,
    })
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

    #[test]
    fn everything_is_purged_only_if_nothing_is_given() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Purge {
            #[command(flatten)]
            arguments: PurgeArgs,
        }
        let body = |given: &[&str]| {
            let usual = ["purge", "--admin", "http://127.0.0.1:1"];
            Purge::try_parse_from(usual.iter().chain(given)).unwrap().arguments.body()
        };
        assert_eq!(body(&[]), json!({ "operation": null, "path_prefix": null, "account": null }));
        let operation = json!({ "operation": "v2.city", "path_prefix": null, "account": null });
        assert_eq!(body(&["--operation", "v2.city"]), operation);
        // A variable of a script that is not set.
        let unset = json!({ "operation": null, "path_prefix": "", "account": null });
        assert_eq!(body(&["--path-prefix", ""]), unset);
    }

    #[test]
    fn a_walk_shows_how_far_it_is() {
        let walk = json!({ "state": "running", "level": "v2.city", "known": 40, "fetched": 2, "fresh": 1, "failed": 0,
                           "not_understood": 3, "took_seconds": 1, "left_seconds": 18 });
        let lines = [
            "ACCOUNT  STATE    LEVEL    KNOWN  FETCHED  FRESH  FAILED  NOT UNDERSTOOD  LEFT",
            "main     running  v2.city  40     2        1      0       3               18 s",
        ];
        assert_eq!(walked(&json!({ "begun": [], "walks": { "main": walk } })), lines);
        assert!(walked(&json!({ "error": {} })).is_empty());
        let full = json!({ "state": "cache_full", "level": "v2.city" });
        let lines = walked(&json!({ "begun": [], "walks": { "main": full, "other": { "state": "complete" } } }));
        assert!(lines.len() == 4 && lines[3].starts_with("main: it stopped, because cache.memory"), "{lines:?}");
    }
}
