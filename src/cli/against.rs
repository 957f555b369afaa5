//! What a reload of a running gateway would change: its `/config` and that of a file, compared.
//!
//! Pure. Credentials and tokens are compared by their fingerprints, because `/config` shows nothing else of them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    config::check::KeyPath,
    gateway::{Inventory, Removals},
};

/// Keys whose default depends on the machine, which may be another one than the gateway's.
pub(super) const OF_THE_MACHINE: [[&str; 2]; 6] = [
    ["listen", "workers"],
    ["limits", "memory"],
    ["state", "dir"],
    ["log", "exchanges"],
    ["vault", "address"],
    ["vault", "namespace"],
];

/// What is not compared like everything else.
pub(super) struct SpecialKeys {
    pub(super) ignored: Vec<KeyPath>,
    /// Their changes wait for a restart.
    pub(super) of_a_restart: Vec<&'static str>,
}

/// One line for each difference; then whether a reload would be refused for what it removes.
pub(super) fn differences(in_force: &Value, new: &Value, special: &SpecialKeys) -> Vec<String> {
    let mut lines = Vec::new();
    compare(in_force, new, &Compared { place: KeyPath::default(), special }, &mut lines);
    if lines.is_empty() && in_force["hash"] != new["hash"] {
        lines.push("change: only what /config does not show: the vault's role id, comments, layout".to_owned());
    }
    if lines.is_empty() {
        lines.push("no change".to_owned());
    }
    let fraction = in_force["reload"]["removals"].as_f64().unwrap_or(1.0);
    if let Some(removals) = Removals::to_confirm(&inventory(in_force), &inventory(new), fraction) {
        lines.push(format!("a reload would be refused: {removals}"));
    }
    lines
}

fn inventory(config: &Value) -> Inventory {
    let none = Map::new();
    let members = |name: &str| config[name].as_object().unwrap_or(&none);
    let account = |service: &Value| service["account"].as_str().unwrap_or_default().to_owned();
    Inventory {
        accounts: members("accounts").keys().cloned().collect(),
        services: members("services").iter().map(|(name, service)| (name.clone(), account(service))).collect(),
    }
}

/// What is compared.
struct Compared<'a> {
    place: KeyPath,
    special: &'a SpecialKeys,
}

impl Compared<'_> {
    fn is_ignored(&self) -> bool {
        self.place == KeyPath::at(["hash"]) || self.special.ignored.contains(&self.place)
    }

    fn line(&self, what: &str, values: &str) -> String {
        let place = self.place.to_string();
        let waits = self.special.of_a_restart.contains(&&*place);
        format!("{what}: {place}{values}{}", if waits { " (after a restart)" } else { "" })
    }
}

fn compare(in_force: &Value, new: &Value, compared: &Compared<'_>, lines: &mut Vec<String>) {
    match (in_force, new) {
        (Value::Object(before), Value::Object(after)) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let (before, after) =
                    (before.get(name).unwrap_or(&Value::Null), after.get(name).unwrap_or(&Value::Null));
                let compared = Compared { place: compared.place.key(name), special: compared.special };
                match (before, after) {
                    _ if compared.is_ignored() => {}
                    (Value::Null, Value::Null) => {}
                    (Value::Null, _) => lines.push(compared.line("add", &shown(after))),
                    (_, Value::Null) => lines.push(compared.line("remove", "")),
                    _ => compare(before, after, &compared, lines),
                }
            }
        }
        _ if in_force != new => lines.push(compared.line("change", &format!(": {in_force} to {new}"))),
        _ => {}
    }
}

/// The value, unless it is a table.
fn shown(value: &Value) -> String {
    if value.is_object() { String::new() } else { format!(": {value}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_is_a_line() {
        let service = |account: &str, day: Value| json!({ "account": account, "quota": { "per_day": day } });
        let now = json!({
            "hash": "1", "listen": { "workers": 2 }, "reload": { "removals": 0.2 }, "limits": { "idle": "75s" }, "cache": { "memory": "64MiB" }, "accounts": { "main": {} },
            "services": { "a": service("main", json!(5)), "b.c": service("main", json!(null)), "d": service("main", json!(1)) },
        });
        let mut new = now.clone();
        let special =
            SpecialKeys { ignored: vec![KeyPath::at(["listen", "workers"])], of_a_restart: vec!["cache.memory"] };
        assert_eq!(differences(&now, &new, &special), ["no change"]);
        new["hash"] = json!("2");
        new["listen"]["workers"] = json!(1);
        assert!(differences(&now, &new, &special)[0].starts_with("change: only what /config does not show"));
        new["services"] = json!({ "a": service("main", json!(6)), "e": service("main", json!(1)) });
        new["limits"]["idle"] = json!("80s");
        new["cache"]["memory"] = json!("32MiB");
        assert_eq!(
            differences(&now, &new, &special),
            [
                "change: cache.memory: \"64MiB\" to \"32MiB\" (after a restart)",
                "change: limits.idle: \"75s\" to \"80s\"",
                "change: services.a.quota.per_day: 5 to 6",
                "remove: services.\"b.c\"",
                "remove: services.d",
                "add: services.e",
                "a reload would be refused: it would remove 2 of 3 services (b.c, d); confirm that with \
                 `fastrac-gateway reload --confirm-removals`",
            ]
        );
        new["services"]["a"]["quota"]["per_day"] = json!(null);
        assert!(differences(&now, &new, &special).contains(&"remove: services.a.quota.per_day".to_owned()));
    }
}
