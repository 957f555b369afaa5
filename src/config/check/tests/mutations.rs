//! Whatever is in the file, the checks end, and repeat nothing of it.

use proptest::prelude::*;

use super::checked;

const SEED: &str = include_str!("contract.toml");
const CANARY: &str = "fgw_canary-value";

/// Values that replace others by mistake.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(format!("\"{CANARY}\"")),
        Just(format!("\"https://u:{CANARY}@h.example\"")),
        Just(format!("[\"{CANARY}\", {{ a = \"{CANARY}\" }}]")),
        Just(format!("{{ access_key = \"{CANARY}\" }}")),
        Just(CANARY.to_owned()),
        Just("-1".to_owned()),
        Just("0".to_owned()),
        Just("nan".to_owned()),
        Just("1e999".to_owned()),
        Just("[[], {}]".to_owned()),
        Just("true".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("\"\"".to_owned()),
        Just(String::new()),
        any::<i64>().prop_map(|number| number.to_string()),
        "\"\\PC{0,20}\"",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_values_never_panic_and_are_never_repeated(changes in prop::collection::vec((0_usize..200, value()), 1..8)) {
        let mut lines: Vec<String> = SEED.lines().map(str::to_owned).collect();
        for (at, value) in changes {
            let at = at % lines.len();
            if let Some((key, _)) = lines[at].split_once(" = ") {
                lines[at] = format!("{key} = {value}");
            }
        }
        let text = lines.join("\n");
        let found = checked(&text);
        prop_assert_eq!(found.config.is_some(), found.errors.is_empty());
        for diagnostic in found.errors.iter().chain(&found.warnings) {
            prop_assert!(!diagnostic.to_string().contains(CANARY), "{}", diagnostic);
            prop_assert!(diagnostic.line.is_none_or(|line| (1..=lines.len() + 1).contains(&line)), "{}", diagnostic);
        }
    }

    #[test]
    fn of_lines_never_panic(order in prop::collection::vec(0_usize..200, 0..60)) {
        let lines: Vec<&str> = SEED.lines().collect();
        let text: Vec<&str> = order.iter().map(|at| lines[at % lines.len()]).collect();
        let found = checked(&text.join("\n"));
        prop_assert_eq!(found.config.is_some(), found.errors.is_empty());
    }

    #[test]
    fn of_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..20)) {
        let mut text: Vec<char> = SEED.chars().collect();
        for (at, change) in changes {
            let at = at.index(text.len());
            text[at] = change;
        }
        let found = checked(&text.into_iter().collect::<String>());
        prop_assert_eq!(found.config.is_some(), found.errors.is_empty());
    }

    #[test]
    fn of_everything_never_panic(text in "\\PC{0,300}") {
        checked(&text);
    }
}
