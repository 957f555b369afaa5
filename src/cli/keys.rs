//! `keys`: the key pairs of a running gateway. Versions and ages, never values.

use std::io;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    FAILED, output,
    remote::{self, AdminClient},
    table::{age, members, table, text},
};

/// Show, verify, rotate and revoke the key pairs of a running gateway
#[derive(Debug, Args)]
#[command(after_help = "Commands send the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Examples:
  fastrac-gateway keys status --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway keys rotate --admin http://127.0.0.1:9464
  fastrac-gateway keys revoke 1f0c9a2b --admin http://127.0.0.1:9464")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Show versions, roles and ages of the pairs in use, and the state of their sources
    #[command(after_help = "Example: fastrac-gateway keys status --admin http://127.0.0.1:9464")]
    Status {
        #[command(flatten)]
        remote: AdminClient,
    },
    /// Verify the new pair with a lookup, or the pair in use if there is no new one
    #[command(after_help = "Example: fastrac-gateway keys verify --admin http://127.0.0.1:9464 --account main")]
    Verify {
        #[command(flatten)]
        remote: AdminClient,
        /// Only this account
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
    /// Read the key sources now, and use a new pair once Fastrac accepts it
    #[command(after_help = "Example: fastrac-gateway keys rotate --admin http://127.0.0.1:9464 --account main")]
    Rotate {
        #[command(flatten)]
        remote: AdminClient,
        /// Only this account
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        /// Use the pair in the source unverified, also if Fastrac refuses the canary: for a pair that is good although
        /// the `verify` operation fails. It is given up if Fastrac refuses requests that the previous pair can make
        #[arg(long)]
        force: bool,
    },
    /// Never use a version again, not even after a restart
    #[command(after_help = "Example: fastrac-gateway keys revoke 1f0c9a2b --admin http://127.0.0.1:9464")]
    Revoke {
        /// Eight hexadecimal digits, as `keys status` shows them
        version: String,
        #[command(flatten)]
        remote: AdminClient,
        /// An account; only needed for a version that no account has. The version is revoked in all
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
}

pub(super) fn run(arguments: &KeysArgs) -> io::Result<u8> {
    match &arguments.command {
        KeysCommand::Status { remote } => remote.run(Method::GET, "/status", None, status),
        KeysCommand::Verify { remote, account } => for_accounts(remote, "/keys/verify", &json!({ "account": account })),
        KeysCommand::Rotate { remote, account, force } => {
            for_accounts(remote, "/keys/rotate", &json!({ "account": account, "force": force }))
        }
        KeysCommand::Revoke { version, remote, account } => {
            let body = json!({ "account": account, "version": version });
            remote.run(Method::POST, "/keys/revoke", Some(&body), revoked)
        }
    }
}

/// Sends a command that has a result for each account.
fn for_accounts(remote: &AdminClient, path: &str, body: &Value) -> io::Result<u8> {
    let response = match remote.send(Method::POST, path, Some(body)) {
        Ok(response) => response,
        Err(error) => return Ok(error.report()),
    };
    let code = remote::report(&response, results)?;
    // A gateway answers 409 then; what answers 200 is something else.
    if response.status.is_success() && !went_well(&response.body) {
        output::error(remote::NOT_A_GATEWAY);
        return Ok(FAILED);
    }
    Ok(code)
}

/// Whether every result in a response is one of a success.
fn went_well(body: &Value) -> bool {
    members(body, "accounts").all(|(_, account)| {
        let result = account.get("result").map(text);
        result.is_none_or(|result| ["unchanged", "promoted", "verified"].contains(&result))
    })
}

fn status(body: &Value) -> Vec<String> {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (name, account) in members(body, "accounts") {
        let keys = &account["keys"];
        for pair in items(&keys["pairs"]) {
            let age = age(pair["age_seconds"].as_u64().unwrap_or_default());
            let version = version(pair);
            rows.push([name, &version, text(&pair["role"]), text(&pair["standing"]), &age].map(str::to_owned));
        }
        for version in items(&keys["revoked"]) {
            rows.push([name, text(version), "revoked", "-", "-"].map(str::to_owned));
        }
        if let Some(reason) = keys["reason"].as_str() {
            notes.push(format!("{name}: no request can be signed: {reason}"));
        }
        notes.push(source(name, &keys["source"]));
    }
    if rows.is_empty() && notes.is_empty() {
        return Vec::new();
    }
    let mut lines = table(["ACCOUNT", "VERSION", "ROLE", "STANDING", "AGE"], &rows);
    lines.append(&mut notes);
    lines
}

/// A pair's version, and the source's own version number if it has one.
fn version(pair: &Value) -> String {
    let digest = text(&pair["version"]);
    pair["source_version"].as_u64().map_or_else(|| digest.to_owned(), |number| format!("{digest} (v{number})"))
}

fn source(account: &str, source: &Value) -> String {
    let kind = text(&source["kind"]);
    match (source["up"].as_bool(), source["fault"].as_str(), source["last_success"].as_str()) {
        (Some(true), _, Some(at)) => format!("{account}: source {kind}: read at {at}"),
        (_, Some(fault), Some(at)) => format!("{account}: source {kind}: {fault}; last read at {at}"),
        (_, Some(fault), None) => format!("{account}: source {kind}: {fault}; never read"),
        _ => format!("{account}: source {kind}: not read yet"),
    }
}

fn results(body: &Value) -> Vec<String> {
    let line = |(name, account): (&str, &Value)| {
        let mut line = format!("{name}: {}", text(&account["result"]).replace('_', " "));
        for more in [&account["version"], &account["detail"]] {
            if let Some(more) = more.as_str() {
                line.push_str(&format!(" {more}"));
            }
        }
        line
    };
    members(body, "accounts").map(line).collect()
}

fn revoked(body: &Value) -> Vec<String> {
    if body["revoked"].as_bool() != Some(true) {
        return Vec::new();
    }
    let mut lines = vec![format!("{}: {} is revoked", text(&body["account"]), text(&body["version"]))];
    if body["known"].as_bool() == Some(false) {
        lines.push(format!("{}: no pair of this version is known there", text(&body["account"])));
    }
    if body["usable"].as_bool() == Some(false) {
        lines.push(format!("{}: no request can be signed until its source has another pair", text(&body["account"])));
    }
    lines
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_a_table_with_what_is_wrong_below_it() {
        let body = json!({ "accounts": { "main": { "keys": {
            "usable": false,
            "reason": "the key pair is older than it may be",
            "pairs": [
                { "version": "1f0c9a2b", "role": "current", "standing": "verified", "age_seconds": 90_061 },
                { "version": "00aa11bb", "role": "previous", "standing": "unverified", "age_seconds": 61 },
            ],
            "revoked": ["deadbeef"],
            "source": { "kind": "file", "up": false, "last_success": "2026-11-24T09:12:44Z", "fault": "keys.toml: gone" },
        } } } });
        let lines = [
            "ACCOUNT  VERSION   ROLE      STANDING    AGE",
            "main     1f0c9a2b  current   verified    1d1h",
            "main     00aa11bb  previous  unverified  1m1s",
            "main     deadbeef  revoked   -           -",
            "main: no request can be signed: the key pair is older than it may be",
            "main: source file: keys.toml: gone; last read at 2026-11-24T09:12:44Z",
        ];
        assert_eq!(status(&body), lines);
    }

    #[test]
    fn a_source_s_own_number_stands_beside_the_digest() {
        let pair = json!({ "version": "1f0c9a2b", "source_version": 7, "role": "current", "standing": "verified" });
        let body = json!({ "accounts": { "main": { "keys": { "pairs": [pair], "source": { "kind": "vault" } } } } });
        assert_eq!(status(&body)[1], "main     1f0c9a2b (v7)  current  verified  0s");
    }

    #[test]
    fn results_are_a_line_an_account() {
        let body = json!({ "accounts": {
            "main": { "result": "promoted", "version": "1f0c9a2b" },
            "other": { "result": "fault", "detail": "keys.toml: gone" },
            "third": { "result": "no_pair" },
        } });
        assert_eq!(results(&body), ["main: promoted 1f0c9a2b", "other: fault keys.toml: gone", "third: no pair"]);
        assert!(results(&json!({ "error": {} })).is_empty());
    }

    #[test]
    fn an_answer_without_what_was_asked_for_prints_nothing() {
        for body in [json!({}), json!([]), json!({ "error": { "message": "x" } })] {
            assert!(status(&body).is_empty() && results(&body).is_empty() && revoked(&body).is_empty(), "{body}");
        }
    }
}
