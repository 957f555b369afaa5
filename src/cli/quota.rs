//! `quota`: what is left of the quotas of a running gateway, and changes of them for a time.

use std::io;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    WRONG, output,
    remote::AdminClient,
    table::{members, table, text},
};

/// Show what is left of quotas and budgets and who uses it, or change a quota for a time
#[derive(Debug, Args)]
#[command(after_help = "Commands send the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Examples:
  fastrac-gateway quota show checkout --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway quota set checkout --per-day 60000 --for 8h --reason 'sale' --admin http://127.0.0.1:9464
  fastrac-gateway quota set scraper --block --for 2h --reason 'loops' --admin http://127.0.0.1:9464")]
pub(super) struct QuotaArgs {
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Debug, Subcommand)]
enum QuotaCommand {
    /// Show what is left, what is changed, and who uses the accounts' budgets
    #[command(after_help = "Example: fastrac-gateway quota show checkout --admin http://127.0.0.1:9464")]
    Show {
        /// Only this service and its account
        #[arg(value_name = "SERVICE")]
        service: Option<String>,
        #[command(flatten)]
        remote: AdminClient,
    },
    /// Raise, lower or block a service's quota for a time; it ends by itself
    #[command(after_help = "Example: fastrac-gateway quota set checkout --per-day 60000 --for 8h --reason 'sale' \
                            --admin http://127.0.0.1:9464")]
    Set(SetArgs),
    /// Count at least so much as used today, after state.redb and day-marks were both lost; a count is never lowered
    #[command(after_help = "Example: fastrac-gateway quota count --account main --at-least 812 --reason 'lost disk' \
                            --admin http://127.0.0.1:9464")]
    Count(CountArgs),
}

#[derive(Debug, Args)]
struct CountArgs {
    #[arg(value_name = "SERVICE", required_unless_present = "account", conflicts_with = "account")]
    service: Option<String>,
    /// The budget of an account instead of a service's quota
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    remote: AdminClient,
    /// Units used today, in the account's day zone
    #[arg(long, value_name = "N")]
    at_least: u64,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
struct SetArgs {
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    remote: AdminClient,
    /// Requests per calendar day
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    per_day: Option<u64>,
    /// Requests per second, also the burst
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_second: Option<u32>,
    /// Refuse every request of the service
    #[arg(long, conflicts_with_all = ["per_day", "per_second"])]
    block: bool,
    /// End the change now
    #[arg(long, conflicts_with_all = ["per_day", "per_second", "block", "for"])]
    clear: bool,
    /// How long, such as 90m, 2h or 7d; at most 30d
    #[arg(long, value_name = "TIME", required_unless_present = "clear")]
    r#for: Option<String>,
    /// Why; callers that are refused see it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) fn run(arguments: &QuotaArgs) -> io::Result<u8> {
    match &arguments.command {
        QuotaCommand::Show { service, remote } => {
            let page = service.as_ref().map_or_else(|| "/quota".to_owned(), |name| format!("/quota?service={name}"));
            remote.run(Method::GET, &page, None, shown)
        }
        QuotaCommand::Count(CountArgs { service, account, remote, at_least, reason }) => {
            let body = json!({ "service": service, "account": account, "at_least": at_least, "reason": reason });
            remote.run(Method::POST, "/quota/count", Some(&body), counted)
        }
        QuotaCommand::Set(set) => {
            let SetArgs { service, per_day, per_second, block, clear, r#for, reason, remote } = set;
            if !clear && !block && per_day.is_none() && per_second.is_none() {
                output::error("give --per-day, --per-second, --block or --clear");
                return Ok(WRONG);
            }
            let body = json!({
                "service": service, "per_day": per_day, "per_second": per_second, "block": block, "clear": clear,
                "for": r#for, "reason": reason,
            });
            remote.run(Method::POST, "/quota", Some(&body), changed)
        }
    }
}

fn shown(body: &Value) -> Vec<String> {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (name, service) in members(body, "services") {
        for window in ["second", "day"] {
            rows.push(row(name, window, &service["quota"][window]));
        }
        notes.extend(override_line(name, &service["override"]));
        notes.extend(outlook_line(name, &service["quota"]["outlook"]));
        if service["quota"]["enforced"].as_bool() == Some(false) {
            notes.push(format!("{name}: nothing is refused (enforce = false)"));
        }
    }
    for (name, budget) in members(body, "accounts") {
        for window in ["second", "day", "in_flight"] {
            rows.push(row(&format!("account {name}"), window, &budget[window]));
        }
        notes.extend(outlook_line(&format!("account {name}"), &budget["outlook"]));
        let mut spenders: Vec<_> = members(budget, "spent_today").collect();
        spenders.sort_by_key(|(_, units)| std::cmp::Reverse(units.as_u64()));
        let spenders: Vec<_> = spenders.into_iter().map(|(service, units)| format!("{service} {units}")).collect();
        if !spenders.is_empty() {
            notes.push(format!("account {name}: spent today by {}", spenders.join(", ")));
        }
    }
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    if rows.is_empty() && notes.is_empty() {
        return Vec::new();
    }
    let mut lines = table(["OF", "WINDOW", "LIMIT", "LEFT"], &rows);
    lines.append(&mut notes);
    lines
}

/// The row of a window that has a limit.
fn row(of: &str, window: &str, shown: &Value) -> Option<[String; 4]> {
    let (limit, left) = (shown["limit"].as_u64()?, shown["left"].as_u64()?);
    Some([of.to_owned(), window.to_owned(), limit.to_string(), left.to_string()])
}

/// How far the day is used, if that is worth a line.
fn outlook_line(of: &str, outlook: &Value) -> Option<String> {
    let warning = outlook["warning_percent"].as_u64().filter(|percent| *percent > 0);
    match (warning, outlook["runs_out_at"].as_str()) {
        (Some(percent), Some(at)) => Some(format!("{of}: {percent} % of the day are used; used up at {at}")),
        (Some(percent), None) => Some(format!("{of}: {percent} % of the day are used")),
        (None, Some(at)) => Some(format!("{of}: at the pace of the last hour, the day is used up at {at}")),
        (None, None) => None,
    }
}

/// An override in words.
fn override_line(service: &str, shown: &Value) -> Option<String> {
    let until = shown["until"].as_str()?;
    let limit = |name: &str, what: &str| shown[name].as_u64().map(|limit| format!("{limit} per {what}"));
    let limits: Vec<_> = [limit("per_second", "second"), limit("per_day", "day")].into_iter().flatten().collect();
    let what = if shown["block"].as_bool() == Some(true) { "blocked".to_owned() } else { limits.join(", ") };
    let (by, reason) = (text(&shown["by"]), text(&shown["reason"]));
    Some(format!("{service}: {what} until {until}, set by {by}: {reason}"))
}

fn changed(body: &Value) -> Vec<String> {
    let Some(service) = body["service"].as_str() else { return Vec::new() };
    let line = override_line(service, &body["override"]);
    let replaced = override_line("replaced", &body["replaced"]);
    [Some(line.unwrap_or_else(|| format!("{service}: as configured"))), replaced].into_iter().flatten().collect()
}

fn counted(body: &Value) -> Vec<String> {
    let account = body["account"].as_str().map(|account| format!("account {account}"));
    let name = account.or_else(|| body["service"].as_str().map(str::to_owned));
    let numbers = body["used_today"].as_u64().zip(body["used_before"].as_u64());
    let line = |(name, (now, before)): (String, (u64, u64))| format!("{name}: {now} used today ({before} before)");
    name.zip(numbers).map(line).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_table_with_changes_and_spenders_below_it() {
        let window = |limit: u64, left: u64| json!({ "limit": limit, "left": left, "resets_in_seconds": 1 });
        let set = json!({ "per_day": 100, "per_second": null, "block": false, "until": "2026-11-25T00:00:00Z",
                          "by": "ops", "reason": "sale" });
        let body = json!({
            "services": { "checkout": {
                "quota": { "second": window(50, 49), "day": window(100, 7), "enforced": false,
                           "outlook": { "warning_percent": 80, "runs_out_at": "2026-11-24T20:00:00Z" } }, "override": set,
            } },
            "accounts": { "main": {
                "second": null, "day": window(1000, 900), "in_flight": window(64, 64),
                "spent_today": { "checkout": 93, "-": 7 },
            } },
        });
        let lines = [
            "OF            WINDOW     LIMIT  LEFT",
            "checkout      second     50     49",
            "checkout      day        100    7",
            "account main  day        1000   900",
            "account main  in_flight  64     64",
            "checkout: 100 per day until 2026-11-25T00:00:00Z, set by ops: sale",
            "checkout: 80 % of the day are used; used up at 2026-11-24T20:00:00Z",
            "checkout: nothing is refused (enforce = false)",
            "account main: spent today by checkout 93, - 7",
        ];
        assert_eq!(shown(&body), lines);
        assert_eq!(changed(&json!({ "service": "checkout", "override": null })), ["checkout: as configured"]);
        let replaced = changed(
            &json!({ "service": "checkout", "override": null, "replaced": body["services"]["checkout"]["override"] }),
        );
        assert_eq!(replaced[1], "replaced: 100 per day until 2026-11-25T00:00:00Z, set by ops: sale");
        let counted = |body| counted(&body);
        let lines = counted(json!({ "service": null, "account": "main", "used_before": 3, "used_today": 80 }));
        assert_eq!((lines, counted(json!({}))), (vec!["account main: 80 used today (3 before)".to_owned()], vec![]));
        assert!(shown(&json!({ "error": {} })).is_empty() && changed(&json!({})).is_empty());
    }
}
