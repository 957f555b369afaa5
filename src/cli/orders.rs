//! `orders`: the orders of a running gateway whose outcome is unknown.

use std::io;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    remote::AdminClient,
    table::{age, table, text},
};

/// List, show and settle the orders whose outcome is unknown
#[derive(Debug, Args)]
#[command(after_help = "Commands send the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Examples:
  fastrac-gateway orders list --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway orders show 01a22563-9d0c-7c51 --admin http://127.0.0.1:9464
  fastrac-gateway orders settle 01a22563-9d0c-7c51 --as executed --note 'AWB JX123' --admin http://127.0.0.1:9464")]
pub(super) struct OrdersArgs {
    #[command(subcommand)]
    command: OrdersCommand,
}

#[derive(Debug, Subcommand)]
enum OrdersCommand {
    /// List the orders that may or may not have been executed
    #[command(after_help = "Example: fastrac-gateway orders list --admin http://127.0.0.1:9464")]
    List {
        #[command(flatten)]
        remote: AdminClient,
    },
    /// Show what is known of one, and what balance history and tracking say of it (read within spare budget)
    #[command(after_help = "Example: fastrac-gateway orders show 01a22563-9d0c-7c51 --admin http://127.0.0.1:9464")]
    Show {
        /// Its request id, or its number
        id: String,
        #[command(flatten)]
        remote: AdminClient,
    },
    /// Record what became of one: equal orders are held no longer, and the alert ends
    #[command(after_help = "Example: fastrac-gateway orders settle 01a22563-9d0c-7c51 --as not-executed \
                            --admin http://127.0.0.1:9464")]
    Settle {
        /// Its request id, or its number
        id: String,
        /// What Fastrac's tracking or balance history says
        #[arg(long, value_name = "FINDING")]
        r#as: SettleAs,
        /// How it was found out
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        remote: AdminClient,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SettleAs {
    /// The parcel was bought
    Executed,
    /// Nothing was bought; its Idempotency-Key is free again
    NotExecuted,
}

pub(super) fn run(arguments: &OrdersArgs) -> io::Result<u8> {
    match &arguments.command {
        OrdersCommand::List { remote } => remote.run(Method::GET, "/orders", None, listed),
        OrdersCommand::Show { id, remote } => {
            let page = format!("/orders/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
            remote.run(Method::GET, &page, None, described)
        }
        OrdersCommand::Settle { id, r#as, note, remote } => {
            let finding = match r#as {
                SettleAs::Executed => "executed",
                SettleAs::NotExecuted => "not-executed",
            };
            let body = json!({ "id": id, "as": finding, "note": note });
            remote.run(Method::POST, "/orders/settle", Some(&body), settled)
        }
    }
}

fn orders(body: &Value) -> impl Iterator<Item = &Value> {
    body["orders"].as_array().into_iter().flatten()
}

fn number(order: &Value) -> String {
    order["number"].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn listed(body: &Value) -> Vec<String> {
    let row = |order: &Value| {
        let age = age(order["unknown_for_seconds"].as_u64().unwrap_or_default());
        let held = order["held"].as_u64().unwrap_or_default().to_string();
        let [id, account, service, path, told, proposed] =
            ["id", "account", "service", "path", "told", "proposed"].map(|name| text(&order[name]));
        [id, &number(order), account, service, path, told, &age, &held, proposed].map(str::to_owned)
    };
    let rows: Vec<_> = orders(body).map(row).collect();
    match (rows.is_empty(), body["orders"].is_array()) {
        (true, true) => vec!["no order has an unknown outcome".to_owned()],
        (true, false) => Vec::new(),
        (false, _) => {
            table(["ID", "NUMBER", "ACCOUNT", "SERVICE", "PATH", "TOLD", "UNKNOWN FOR", "HELD", "PROPOSED"], &rows)
        }
    }
}

fn described(order: &Value) -> Vec<String> {
    if !order["number"].is_u64() {
        return Vec::new();
    }
    let flag = if order["idempotency_key"].as_bool() == Some(true) { "yes" } else { "no" };
    let age = age(order["unknown_for_seconds"].as_u64().unwrap_or_default());
    let held = order["held"].as_u64().unwrap_or_default();
    let told = order["told"].as_str().unwrap_or("nothing: the gateway ended meanwhile");
    let body = if order["request"].is_null() { "not shown".to_owned() } else { order["request"].to_string() };
    let mut lines = vec![
        format!("order            {} (number {})", text(&order["id"]), number(order)),
        format!("request          {} {}", text(&order["method"]), text(&order["path"])),
        format!("body (masked)    {body}"),
        format!("service          {} (account {})", text(&order["service"]), text(&order["account"])),
        format!("came at          {}", text(&order["at"])),
        format!("unknown for      {age}"),
        format!("Idempotency-Key  {flag}"),
        format!("caller was told  {told}"),
        format!("equal orders     {held} held since the gateway started"),
    ];
    let proposal = &order["proposal"];
    lines.push(format!("proposal         {}: {}", text(&proposal["finding"]), text(&proposal["reason"])));
    let debit = &proposal["debit"];
    if let Some(amount) = debit["amount"].as_u64() {
        let [awb, code, at] = ["awb", "code", "at"].map(|name| text(&debit[name]));
        lines.push(format!("  debit          AWB {awb}, order code {code}, {amount} IDR at {at}"));
    }
    lines.push(format!("  made at        {}", text(&proposal["made_at"])));
    let id = text(&order["id"]);
    lines.extend(match proposal["finding"].as_str() {
        Some(finding @ ("executed" | "not-executed")) => ["If you agree, settle it:".to_owned(), settling(id, finding)],
        _ => {
            let compare = "Compare it with Fastrac's balance history of that minute and with tracking, then settle it:";
            [compare.to_owned(), settling(id, "executed|not-executed")]
        }
    });
    lines
}

fn settling(id: &str, finding: &str) -> String {
    format!("  fastrac-gateway orders settle {id} --as {finding} --admin URL")
}

fn settled(body: &Value) -> Vec<String> {
    match body["settled"].as_str() {
        Some(finding) => vec![format!("{}: settled as {finding}", text(&body["id"]))],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Value {
        json!({ "orders": [{
            "id": "req-1", "number": 4, "service": "shop", "account": "main", "method": "POST",
            "path": "/order/express", "at": "2026-11-24T09:12:44.120Z", "unknown_for_seconds": 61,
            "idempotency_key": false, "told": "timeout", "held": 2, "proposed": "executed",
        }] })
    }

    #[test]
    fn unknown_orders_are_a_table() {
        let lines = [
            "ID     NUMBER  ACCOUNT  SERVICE  PATH            TOLD     UNKNOWN FOR  HELD  PROPOSED",
            "req-1  4       main     shop     /order/express  timeout  1m1s         2     executed",
        ];
        assert_eq!(listed(&page()), lines);
        assert_eq!(listed(&json!({ "orders": [] })), ["no order has an unknown outcome"]);
        assert!(listed(&json!({})).is_empty());
    }

    #[test]
    fn one_is_shown_with_what_is_proposed_and_what_to_do_next() {
        let mut order = page()["orders"][0].clone();
        order["request"] = json!({ "receiver": "***" });
        order["proposal"] = json!({
            "finding": "executed", "reason": "a debit", "made_at": "2026-11-24T09:14:44Z",
            "debit": { "awb": "FSTRA1", "code": "PSN-1", "amount": 18000, "at": "2026-11-24T09:12:45Z" },
        });
        let lines = described(&order).join("\n");
        for part in [
            "POST /order/express",
            "{\"receiver\":\"***\"}",
            "proposal         executed: a debit",
            "AWB FSTRA1, order code PSN-1, 18000 IDR at 2026-11-24T09:12:45Z",
            "orders settle req-1 --as executed --admin URL",
        ] {
            assert!(lines.contains(part), "{part} is not in {lines}");
        }
        order["proposal"] = json!({ "finding": "cannot-tell", "reason": "no budget to spare" });
        let lines = described(&order);
        assert!(lines.last().is_some_and(|line| line.contains("--as executed|not-executed")), "{lines:?}");
        assert!(described(&json!({})).is_empty());
    }
}
