//! Commands, metrics, outcomes, panels and configuration keys that `deploy/` and its runbooks name exist.
//!
//! Reads the files as text. The program's metrics are those of `tests/real/metrics.txt`; `tests/real/metrics.sh` compares
//! that file with the program.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fastrac_gateway::outcome::{Code, Outcome};
use serde_json::Value;
use strum::VariantArray as _;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands of the contract, whether built yet or not: a code span that begins with one is a command.
const COMMANDS: [&str; 17] = [
    "admin", "cache", "check", "demo", "explain", "health", "keys", "log", "orders", "quota", "reload", "run",
    "sandbox", "schema", "service", "state", "usage",
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect("a file of the repository")
}

/// Every file below `deploy/`, with its text.
fn files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// Only the lines inside code fences, or only those outside.
fn lines(text: &str, inside: bool) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && fenced == inside
    })
}

/// A text without line breaks and comment signs, so that what is wrapped is in one piece.
fn joined<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| line.trim_start_matches([' ', '#'])).collect::<Vec<_>>().join(" ")
}

fn gateway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fastrac-gateway")).args(arguments).env_clear().output().expect("it starts")
}

mod commands {
    use super::*;

    /// The words of a command line that follow `fastrac-gateway`, up to the first option, file or placeholder.
    fn words(after: &str) -> Vec<&str> {
        after.split_whitespace().take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())).collect()
    }

    /// In code spans, and at the start of a line or behind a path in code blocks and other files.
    fn named(path: &Path, text: &str) -> Vec<String> {
        let markdown = path.extension().is_some_and(|extension| extension == "md");
        let mut found = Vec::new();
        let prose = joined(lines(text, false));
        for span in prose.split('`').skip(1).step_by(2) {
            let command = span.strip_prefix("fastrac-gateway ").or_else(|| {
                let (first, _) = span.split_once(' ')?;
                COMMANDS.contains(&first).then_some(span)
            });
            found.extend(command.map(|command| words(command).join(" ")));
        }
        for line in lines(text, markdown) {
            let line = line.trim_start_matches([' ', '#']);
            let after = line.strip_prefix("fastrac-gateway ").or_else(|| Some(line.split_once("/fastrac-gateway ")?.1));
            found.extend(after.map(|after| words(after).join(" ")));
        }
        found.retain(|command| !command.is_empty());
        found
    }

    #[test]
    fn that_are_named_exist() {
        let mut seen = BTreeSet::new();
        for (path, text) in files() {
            for command in named(&path, &text) {
                let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
                let output = gateway(&arguments);
                assert!(output.status.success(), "{}: there is no command `{command}`", path.display());
                seen.insert(command);
            }
        }
        for known in ["check", "run", "keys status", "keys rotate", "keys revoke", "service issue checkout"] {
            assert!(seen.contains(known), "{known:?} is no longer found: {seen:?}");
        }
    }

    #[test]
    fn are_found_wherever_they_are_named() {
        let markdown =
            "Run `fastrac-gateway\nusage --by service`, or `orders list`.\n```sh\nfastrac-gateway explain ID\n```\n";
        assert_eq!(named(Path::new("a.md"), markdown), ["usage", "orders list", "explain"]);
        let unit = "# the fastrac-gateway service\nExecStart=/usr/local/bin/fastrac-gateway health --admin x\n";
        assert_eq!(named(Path::new("a.service"), unit), ["health"]);
    }
}

mod metrics {
    use super::*;

    /// Names of the list, and of what the rules record.
    fn known() -> BTreeSet<String> {
        let list = read("tests/real/metrics.txt");
        let rows = list.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace());
        let mut known: BTreeSet<String> = BTreeSet::new();
        for mut row in rows {
            let (Some(name), kind) = (row.next(), row.next()) else { continue };
            known.insert(name.to_owned());
            if kind == Some("histogram") {
                known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
            }
        }
        let rules = read("deploy/prometheus/rules.yml");
        known.extend(rules.lines().filter_map(|line| Some(line.trim().strip_prefix("- record: ")?.to_owned())));
        known
    }

    #[test]
    fn that_are_named_exist() {
        let known = known();
        let mut seen = 0;
        for (path, text) in files() {
            let words = text.split(|char: char| !char.is_ascii_alphanumeric() && !matches!(char, '_' | ':'));
            for word in words.map(|word| word.trim_matches(':')) {
                let prefixed =
                    ["fastrac_gateway_", "fastrac_gateway:", "process_"].iter().any(|own| word.starts_with(own));
                if prefixed || word.ends_with("_total") || word.ends_with("_seconds") {
                    assert!(known.contains(word), "{}: there is no metric `{word}`", path.display());
                    seen += 1;
                }
            }
        }
        assert!(seen > 80, "only {seen} names were found");
    }
}

mod the_dashboard {
    use super::*;

    fn panels() -> Vec<Value> {
        let board: Value = serde_json::from_str(&read("deploy/grafana/fastrac-gateway.json")).expect("JSON");
        board["panels"].as_array().expect("panels").clone()
    }

    /// The quoted names after `row ` or `panel ` in a text.
    fn named<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
        text.split(&format!("{kind} \"")).skip(1).filter_map(|after| after.split('"').next()).collect()
    }

    #[test]
    fn has_the_rows_and_panels_that_runbooks_name() {
        let panels = panels();
        let titles = |row: bool| -> BTreeSet<&str> {
            panels
                .iter()
                .filter(|panel| (panel["type"] == "row") == row)
                .filter_map(|panel| panel["title"].as_str())
                .collect()
        };
        let mut seen = 0;
        for (path, text) in files().into_iter().filter(|(path, _)| path.extension().is_some_and(|name| name != "json"))
        {
            let text = joined(text.lines());
            for (kind, titles) in [("row", titles(true)), ("panel", titles(false))] {
                for title in named(&text, kind) {
                    assert!(titles.contains(title), "{}: the dashboard has no {kind} {title:?}", path.display());
                    seen += 1;
                }
            }
        }
        assert!(seen >= 5, "only {seen} titles were found");
    }

    #[test]
    fn shows_every_gauge_that_says_what_does_not_work() {
        let queries: Vec<_> = panels().iter().map(|panel| panel["targets"].to_string()).collect();
        for family in ["degraded", "breaker_state", "key_source_up", "orders_unknown", "config_last_reload_successful"]
        {
            let name = format!("fastrac_gateway_{family}");
            assert!(queries.iter().any(|query| query.contains(&name)), "no panel shows {name}");
        }
    }

    #[test]
    fn counts_every_response_that_the_gateway_generates_as_a_refusal() {
        let panels = panels();
        let panel = panels.iter().find(|panel| panel["title"] == "Refusals").expect("the panel");
        let expression = panel["targets"][0]["expr"].as_str().expect("an expression");
        let expected: BTreeSet<&str> = Code::VARIANTS
            .iter()
            .map(|code| code.outcome())
            // Fastrac's own response, passed on
            .filter(|outcome| *outcome != Outcome::Throttled)
            .map(Outcome::as_str)
            .collect();
        let [listed] = &super::outcomes::listed(expression)[..] else { panic!("{expression}") };
        assert_eq!(*listed, expected);
    }
}

mod outcomes {
    use super::*;

    /// The outcomes of each `outcome="…"`, `=~` and `!~` in a text.
    pub(super) fn listed(text: &str) -> Vec<BTreeSet<&str>> {
        let mut found = Vec::new();
        for after in text.split("outcome").skip(1) {
            let operator = ["=~\"", "!~\"", "!=\"", "=\""].iter().find_map(|operator| after.strip_prefix(operator));
            found.extend(operator.and_then(|after| after.split('"').next()).map(|list| list.split('|').collect()));
        }
        found
    }

    /// Whether a request with this outcome failed for a reason other than the caller's.
    fn failed(outcome: Outcome) -> bool {
        match outcome {
            Outcome::Ok | Outcome::Hit | Outcome::Stale => false,
            Outcome::NotFound | Outcome::Rejected | Outcome::Unauthenticated | Outcome::Forbidden => false,
            Outcome::OverQuota | Outcome::NotCached | Outcome::BadRequest | Outcome::ClientGone => false,
            // protects an earlier order, whose failure counts
            Outcome::Held => false,
            Outcome::UpstreamError | Outcome::Throttled | Outcome::Leak | Outcome::KeyRejected => true,
            Outcome::BreakerOpen | Outcome::NoKey | Outcome::Unreachable | Outcome::Timeout | Outcome::Cut => true,
            Outcome::Overloaded | Outcome::Draining | Outcome::Internal => true,
            // the caller has kept to its own quota
            Outcome::OverBudget => true,
        }
    }

    #[test]
    fn that_are_named_exist() {
        let all: BTreeSet<&str> = Outcome::VARIANTS.iter().map(|outcome| outcome.as_str()).collect();
        for file in
            ["deploy/prometheus/rules.yml", "deploy/prometheus/rules_test.yml", "deploy/grafana/fastrac-gateway.json"]
        {
            let text = read(file).replace("\\\"", "\"");
            let lists = listed(&text);
            assert!(!lists.is_empty(), "{file} names no outcome");
            for outcome in lists.into_iter().flatten() {
                assert!(all.contains(outcome), "{file}: there is no outcome {outcome:?}");
            }
        }
    }

    #[test]
    fn of_failed_requests_are_all_but_successes_and_the_callers_own_faults() {
        let rules = read("deploy/prometheus/rules.yml");
        let record = rules.split("- record: fastrac_gateway:requests_failed:ratio_rate5m").nth(1).expect("the rule");
        let excluded = record.split("outcome!~").nth(1).and_then(|after| after.split('"').nth(1)).expect("a list");
        let excluded: BTreeSet<&str> = excluded.split('|').collect();
        for outcome in Outcome::VARIANTS {
            assert_eq!(excluded.contains(outcome.as_str()), !failed(*outcome), "{}", outcome.as_str());
        }
    }
}

mod configurations {
    use super::*;

    /// Lays a table over another, member by member.
    fn overlay(below: &mut toml::Table, above: toml::Table) {
        for (key, value) in above {
            match (below.get_mut(&key), value) {
                (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
                (_, value) => drop(below.insert(key, value)),
            }
        }
    }

    /// The configuration files, and the examples in texts laid over config/minimal.toml.
    fn examples() -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for (path, text) in files() {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("toml") => found.push((path, text)),
                Some("md") => {
                    for block in text.split("```toml\n").skip(1).filter_map(|after| after.split("```").next()) {
                        // a line of its own is one of the account
                        let table = if block.starts_with('[') { "" } else { "[accounts.main]\n" };
                        let mut whole: toml::Table = read("config/minimal.toml").parse().expect("TOML");
                        overlay(&mut whole, format!("{table}{block}").parse().expect("TOML"));
                        found.push((path.clone(), toml::to_string(&whole).expect("TOML")));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// A key that has no effect yet gives a warning, so the examples must not have one.
    #[test]
    fn have_no_errors_and_no_warnings_but_the_one_of_a_container() {
        let examples = examples();
        assert!(examples.len() >= 6, "only {} were found", examples.len());
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("gateway.toml");
        for (path, text) in examples {
            fs::write(&file, &text).expect("written");
            let output = gateway(&["check", "--no-files", file.to_str().expect("a plain path")]);
            let said = String::from_utf8_lossy(&output.stdout);
            let unexpected: Vec<&str> = said
                .lines()
                .filter(|line| {
                    !(path.ends_with("container/gateway.toml") && line.starts_with("warning: listen.data[0]: "))
                })
                .collect();
            assert!(output.status.success() && unexpected.is_empty(), "{}: {said}\n{text}", path.display());
        }
    }
}
