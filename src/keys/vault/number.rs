//! Numbers of a vault, whatever it sends: none of them may stop a reading or overflow a calculation.

use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

/// A number from 0 to `u64::MAX`: fractions are cut off, everything outside is the nearest bound, and what is no number
/// is 0.
pub(super) fn number<'de, D: Deserializer<'de>>(member: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(member)?;
    // The conversion of a float saturates.
    Ok(value.as_u64().or_else(|| value.as_f64().map(|float| float as u64)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_whatever_a_vault_sends() {
        let cases = [
            ("0", 0),
            ("3600", 3600),
            ("3600.9", 3600),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551616", u64::MAX),
            ("1e300", u64::MAX),
            ("-1", 0),
            ("-1e300", 0),
            ("null", 0),
            ("\"1h\"", 0),
            ("[1]", 0),
        ];
        for (text, expected) in cases {
            let read = number(&mut serde_json::Deserializer::from_str(text));
            assert_eq!(read.ok(), Some(expected), "{text}");
        }
    }
}
