//! The exchange log's masking: what is written is one line of JSON, it keeps the shape of the body, and
//! nothing under a name of the list is in it.

use fastrac_gateway::{
    config::LogBodies,
    record::{MASKED, Masker},
};
use serde_json::Value;

/// Members that are always masked, whatever their value.
const SECRET: [&str; 5] = ["secret_key", "password", "token", "authorization", "further"];

/// The data is a body, and also a query and a path.
pub fn run(data: &[u8]) {
    let masker = Masker::new(LogBodies::Masked, &["further".to_owned()]);
    let mut out = Vec::new();
    if masker.body(&mut out, data) {
        let written = std::str::from_utf8(&out).expect("UTF-8");
        assert!(!written.contains(['\n', '\r']), "one line");
        // serde gives up at a depth of 128, the mask at 100.
        let (before, after): (Value, Value) =
            (serde_json::from_slice(data).expect("JSON"), serde_json::from_str(written).expect("JSON"));
        compare(&before, &after);
        // What is masked already stays so.
        let mut again = Vec::new();
        assert!(masker.body(&mut again, &out));
        let again: Value = serde_json::from_slice(&again).expect("JSON");
        compare(&after, &again);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        for write in [Masker::query, Masker::path] {
            let mut out = Vec::new();
            write(&masker, &mut out, text);
            assert!(std::str::from_utf8(&out).is_ok());
        }
        // Whether a semicolon separates parameters or not, nothing after it is shown.
        let mut out = Vec::new();
        masker.query(&mut out, &format!("password={}", text.replace(['&', '='], "")));
        let out = String::from_utf8(out).expect("UTF-8");
        let (_, value) = out.split_once('=').expect("a value");
        assert!(value.split(';').all(|piece| piece.is_empty() || piece == MASKED), "{out}");
    }
}

/// The same members and the same number of items; each value is the same, or masked.
fn compare(before: &Value, after: &Value) {
    if *after == Value::String(MASKED.to_owned()) {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
            for ((name, before), after) in before.iter().zip(after.values()) {
                if SECRET.contains(&name.as_str()) && !before.is_null() {
                    assert_eq!(*after, MASKED, "{name}");
                }
                compare(before, after);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| compare(before, after));
        }
        (before, after) => assert_eq!(before, after),
    }
}
