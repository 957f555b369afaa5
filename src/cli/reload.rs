//! `reload`: has a running gateway read its configuration again.

use std::io;

use clap::Args;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    FAILED, WRONG, output,
    remote::{self, AdminClient},
};
use crate::config::check::Diagnostic;

/// Have a running gateway read its configuration again, as SIGHUP does, and print the result
///
/// Prints every error if it cannot be used; then nothing has changed, and the exit code is 2. If it would remove an
/// account in use or too many services (`reload.removals`), nothing has changed either, and the exit code is 1.
#[derive(Debug, Args)]
#[command(after_help = "The command sends the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Examples:
  fastrac-gateway reload --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway reload --admin http://127.0.0.1:9464 --confirm-removals")]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    remote: AdminClient,
    /// Whatever the new configuration removes
    #[arg(long)]
    confirm_removals: bool,
}

pub(super) fn run(arguments: &ReloadArgs) -> io::Result<u8> {
    let body = json!({ "confirm_removals": arguments.confirm_removals });
    let response = match arguments.remote.send(Method::POST, "/reload", Some(&body)) {
        Ok(response) => response,
        Err(error) => return Ok(error.report()),
    };
    let lines = lines(&response.body);
    let printed = remote::print(&lines);
    if response.status.is_success() {
        if response.body["reloaded"].as_bool() != Some(true) {
            output::error(remote::NOT_A_GATEWAY);
            return Ok(FAILED);
        }
        return printed.map(|()| 0);
    }
    output::error(response.error_message());
    Ok(if response.status == StatusCode::UNPROCESSABLE_ENTITY { WRONG } else { FAILED })
}

fn lines(body: &Value) -> Vec<String> {
    let items = |name: &str| body[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<String> = items("faults").iter().map(fault).collect();
    if body["reloaded"].as_bool() == Some(true) {
        lines.push(format!("reloaded; configuration {}", text(&body["config"]["hash"])));
    }
    lines.extend(items("waits_for_restart").iter().map(|key| format!("{} waits for a restart", text(key))));
    for (name, kind) in [("accounts", "account"), ("services", "service")] {
        let removed = body["removes"][name].as_array();
        lines.extend(removed.into_iter().flatten().map(|one| format!("would remove {kind} {}", text(one))));
    }
    lines
}

/// As `check` prints it.
fn fault(fault: &Value) -> String {
    let message = fault["message"].as_str().unwrap_or_default().to_owned();
    let Some(key) = fault["place"].as_str() else { return message };
    let line = fault["line"].as_u64().and_then(|line| line.try_into().ok());
    Diagnostic { key: key.to_owned(), message, line, file: fault["file"].as_str().map(str::to_owned) }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_faults_are_lines() {
        let done = json!({ "reloaded": true, "config": { "hash": "ab" }, "waits_for_restart": ["state.dir"] });
        assert_eq!(lines(&done), ["reloaded; configuration ab", "state.dir waits for a restart"]);
        let faults = json!({ "faults": [
            { "place": "limits.idle", "line": 3, "message": "must be a duration" },
            { "place": null, "line": null, "message": "cannot be read" },
        ] });
        assert_eq!(lines(&faults), ["limits.idle: must be a duration (line 3)", "cannot be read"]);
        let removes = json!({ "removes": { "accounts": ["main"], "services": ["a", "b"] } });
        assert_eq!(lines(&removes)[..2], ["would remove account main", "would remove service a"]);
    }
}
