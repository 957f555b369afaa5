//! Whether two responses say the same, for the counts of how often stored ones change. Pure.
//!
//! What always holds: of two envelopes only the value of `data` counts. Fastrac puts the time of the response beside it,
//! and may write the same value in another way. The work is bounded. Never fails: what cannot be read is compared byte by
//! byte.

use super::canonical;
use crate::outcome;

/// Whether two bodies have the same data.
pub(crate) fn same_data(a: &[u8], b: &[u8]) -> bool {
    let is_same = || canonical::same_value(outcome::data(a)?, outcome::data(b)?).then_some(());
    a == b || is_same().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        same_data(a.as_bytes(), b.as_bytes())
    }

    #[test]
    fn the_data_of_an_envelope_is_compared_by_its_value() {
        let old = r#"{"success":true,"message":"","data":[{"a":1,"b":"A"}],"timestamp":"2026-01-01T00:00:00.000Z"}"#;
        for new in [
            r#"{"success":true,"message":"","data":[{"a":1,"b":"A"}],"timestamp":"2026-01-02T00:00:00.123Z"}"#,
            r#"{"success":true,"data":[{"a":1,"b":"A"}]}"#,
            r#"{"timestamp":1,"timestamp":2,"d\u0061ta":[{"b":"\u0041","a":1}],"message":"ok","success":true}"#,
            "{ \"success\": true,\n \"data\": [ { \"a\": 1, \"b\": \"A\" } ] }\n",
        ] {
            assert!(same(old, new) && same(new, old), "{new}");
        }
        for data in [r#"[]"#, "null", r#"[{"a":1,"b":"B"}]"#, r#"[{"a":1.0,"b":"A"}]"#, r#"[{"a":1,"b":"A"},{}]"#] {
            assert!(!same(old, &format!(r#"{{"success":true,"message":"","data":{data}}}"#)), "{data}");
        }
        let times = |time: u32| format!(r#"{{"success":true,"data":{{"timestamp":{time}}}}}"#);
        assert!(!same(&times(1), &times(2)), "it is data");
        assert!(!same(r#"{"data":[1,2]}"#, r#"{"data":[2,1]}"#));
    }

    #[test]
    fn what_cannot_be_read_is_compared_byte_by_byte() {
        let long = |space: &str| format!(r#"{{"data":["{}",{space}1]}}"#, "x".repeat(256 << 10));
        let deep = |space: &str| format!(r#"{{"data":{}{space}{}}}"#, "[".repeat(100), "]".repeat(100));
        let texts = |space: &str| {
            let fixed = [r#"{"success":true}"#, r#"{"data":1,"data":1}"#, r#"[{"data":1}]"#, "<html>", ""];
            fixed.map(|text| format!("{text}{space}")).into_iter().chain([long(space), deep(space)])
        };
        for (a, b) in texts("").zip(texts(" ")) {
            assert!(same(&a, &a) && !same(&a, &b), "{} bytes", a.len());
        }
    }
}
