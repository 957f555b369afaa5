//! `health`: whether a running gateway is ready, for images without a shell.

use std::io;

use clap::Args;
use http::{Method, Uri};
use serde_json::Value;

use super::{
    FAILED,
    remote::{self, AdminClient},
};

/// Exit with 0 if a running gateway is ready, else with 1
///
/// Prints why it is not ready, and what does not work although it is. Needs no token.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fastrac-gateway health
  fastrac-gateway health --admin https://gateway.internal:9464 --ca ca.pem")]
pub(super) struct HealthArgs {
    /// Address of the gateway's admin port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464")]
    admin: Uri,
    /// PEM roots for https, instead of the platform's
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

pub(super) fn run(arguments: &HealthArgs) -> io::Result<u8> {
    let remote = AdminClient::without_token(arguments.admin.clone(), arguments.ca.clone());
    let response = match remote.send(Method::GET, "/readyz", None) {
        Ok(response) => response,
        Err(error) => return Ok(error.report()),
    };
    let ready = response.status.is_success() && response.body["ready"].as_bool() == Some(true);
    let lines = lines(ready, &response.body);
    // The exit code is the result.
    let _ = remote::print(&lines);
    Ok(if ready { 0 } else { FAILED })
}

fn lines(ready: bool, body: &Value) -> Vec<String> {
    let texts = |name: &str, what: &str| -> Vec<String> {
        let list = body[name].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(|text| format!("{what}: {text}")).collect()
    };
    let verdict = if ready { "ready" } else { "not ready" };
    let mut lines = vec![verdict.to_owned()];
    lines.extend(texts("reasons", "not ready"));
    lines.extend(texts("degraded", "degraded"));
    lines
}
