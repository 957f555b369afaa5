//! The schema, the known keys and the defaults are one thing.

use serde_json::{Map, Value};

use super::{super::super::file, checked, faults};

/// Follows references.
fn resolve<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.strip_prefix('#').expect("a local reference")).expect("its target"),
        None => schema,
    }
}

/// Whether a value fits a schema, for the keywords that ours uses; any other keyword fails, so that none is ignored.
pub(super) fn fits(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{value} does not fit {what} of {schema}"));
    for (keyword, wanted) in schema.as_object().ok_or("a schema is an object")? {
        let good = match (keyword.as_str(), value) {
            ("$ref", _) => fits(value, resolve(schema, root), root).is_ok(),
            ("type", _) => match wanted.as_str().ok_or("one type")? {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_u64() || value.is_i64(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                _ => return fail("a type"),
            },
            ("properties" | "additionalProperties", Value::Object(entries)) => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, value) in entries {
                    match (known.and_then(|known| known.get(key)), schema.get("additionalProperties")) {
                        (Some(property), _) => fits(value, property, root)?,
                        (None, Some(Value::Bool(false))) => return fail(key),
                        (None, Some(other)) => fits(value, other, root)?,
                        (None, None) => {}
                    }
                }
                true
            }
            ("required", Value::Object(entries)) => wanted
                .as_array()
                .ok_or("a list")?
                .iter()
                .all(|key| entries.contains_key(key.as_str().unwrap_or_default())),
            ("items", Value::Array(elements)) => elements.iter().all(|element| fits(element, wanted, root).is_ok()),
            ("enum", _) => wanted.as_array().ok_or("a list")?.contains(value),
            ("const", _) => wanted == value,
            ("oneOf", _) => {
                wanted.as_array().ok_or("a list")?.iter().filter(|one| fits(value, one, root).is_ok()).count() == 1
            }
            ("minimum", _) => value.as_f64() >= wanted.as_f64(),
            ("exclusiveMinimum", _) => value.as_f64() > wanted.as_f64(),
            ("maximum", _) => value.as_f64() <= wanted.as_f64(),
            ("$schema" | "$defs" | "title" | "description" | "default" | "properties" | "additionalProperties", _) => {
                true
            }
            ("required" | "items", _) => true,
            _ => return fail(&format!("the unknown keyword {keyword}")),
        };
        if !good {
            return fail(keyword);
        }
    }
    Ok(())
}

/// Every key of the schema with its own schema; tables with free names have the name `x`.
fn keys(schema: &Value, root: &Value, path: &[String], visit: &mut impl FnMut(&[String], &Value)) {
    let schema = resolve(schema, root);
    let below = |key: &str| path.iter().cloned().chain([key.to_owned()]).collect::<Vec<_>>();
    for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        visit(&below(key), property);
        keys(property, root, &below(key), visit);
    }
    if let Some(free @ Value::Object(_)) = schema.get("additionalProperties") {
        keys(free, root, &below("x"), visit);
    }
}

#[test]
fn every_key_of_the_schema_is_known() {
    let schema = file::schema().to_value();
    let mut count = 0;
    keys(&schema, &schema, &[], &mut |path, _| {
        // no key takes a date, so a known one says what it takes
        let found = faults(&format!("{} = 1979-05-27", path.join(".")));
        let place = format!("{}: ", path.join("."));
        let own: Vec<_> = found.iter().filter(|fault| fault.starts_with(&place)).collect();
        assert_eq!(own.len(), 1, "{found:?}");
        assert!(own[0].contains("must be ") && !own[0].contains("unknown"), "{own:?}");
        count += 1;
    });
    assert!(count > 100, "{count} keys");
}

#[test]
fn every_mandatory_key_of_the_schema_is_missed() {
    let schema = file::schema().to_value();
    keys(&schema, &schema, &[], &mut |path, property| {
        let required = resolve(property, &schema).get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            let found = faults(&format!("[{}]", path.join(".")));
            let place = format!("{}.{key}: is missing", path.join("."));
            assert!(found.iter().any(|fault| fault.starts_with(&place)), "{place}: {found:?}");
        }
    });
    for (table, key) in [("accounts.x", "base_url"), ("accounts.x", "keys"), ("services.x", "account")] {
        let found = faults(&format!("[{table}]"));
        assert!(found.iter().any(|fault| fault.starts_with(&format!("{table}.{key}: is missing"))), "{found:?}");
    }
}

/// What may be left out and isn't mandatory: a table with these values written out is the same as without.
fn defaults(schema: &Value, root: &Value) -> Map<String, Value> {
    let schema = resolve(schema, root);
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let default = |(key, property): (&String, &Value)| {
        let inner = resolve(property, root);
        let whole = property.get("default").or_else(|| inner.get("default"));
        match (whole, inner.get("properties")) {
            (Some(Value::Object(_)), Some(_)) => Some((key.clone(), Value::Object(defaults(inner, root)))),
            (whole, _) => whole.map(|value| (key.clone(), value.clone())),
        }
    };
    properties.filter_map(default).collect()
}

#[test]
fn every_default_of_the_schema_is_the_default() {
    let schema = file::schema().to_value();
    let mut written = defaults(&schema, &schema);
    let account = defaults(&schema["$defs"]["AccountTable"], &schema);
    let mut service = defaults(&schema["$defs"]["ServiceTable"], &schema);
    assert!(account.len() >= 8 && service.len() >= 6, "{account:?} {service:?}");
    let mut plain = serde_json::json!({
        "accounts": { "main": { "base_url": "https://f.example", "keys": { "source": "directory", "path": "keys" } } },
        "services": { "a": { "account": "main" } },
    });
    let credentials = serde_json::json!([{ "access_key": "a", "secret_sha256": super::DIGEST }]);
    plain["services"]["a"]["credentials"] = credentials.clone();
    service.insert("credentials".to_owned(), credentials);
    for (table, name, defaults) in [("accounts", "main", account), ("services", "a", service)] {
        let mut full = plain[table][name].as_object().expect("a table").clone();
        full.extend(defaults);
        written.insert(table.to_owned(), serde_json::json!({ name: full }));
    }
    let text = |value: &Value| toml::to_string(value).expect("TOML");
    let debug = |text: &str| {
        let mut config = checked(text).config.unwrap_or_else(|| panic!("{text}\n{:?}", faults(text)));
        config.hash.clear();
        format!("{config:#?}")
    };
    assert_eq!(debug(&text(&Value::Object(written))), debug(&text(&plain)));
}

#[test]
fn every_default_fits_its_own_schema() {
    let schema = file::schema().to_value();
    keys(&schema, &schema, &[], &mut |path, property| {
        if let Some(default) = property.get("default") {
            assert_eq!(fits(default, property, &schema), Ok(()), "{path:?}");
        }
    });
}
