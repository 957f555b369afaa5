//! Reading queries and JSON bodies, with error messages like the API's.
//!
//! What always holds: unknown members are ignored; a member's type is never coerced (the API expects a number here
//! and a string there); every error names the member. No input panics.

use serde_json::{Map, Value};

use super::envelope::ApiError;

pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// Largest number accepted: keeps sums and products of a few of them within 64 bits.
pub(crate) const MAX_NUMBER: u64 = 1_000_000_000_000;

/// A JSON object and its path within the body.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

fn invalid<T>(text: String) -> ApiResult<T> {
    Err(ApiError::Invalid(text))
}

/// Parses a body.
///
/// # Errors
///
/// If it isn't JSON.
pub(crate) fn json(body: &[u8]) -> ApiResult<Value> {
    serde_json::from_slice(body).or_else(|_| invalid("Invalid JSON body".to_owned()))
}

pub(crate) fn query(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode(value))
    })
}

/// A numeric query parameter, such as a region's id.
///
/// # Errors
///
/// If it is missing or not a number.
pub(crate) fn query_id(text: Option<&str>, name: &str) -> ApiResult<u64> {
    match query(text, name).filter(|value| !value.is_empty()) {
        None => invalid(format!("{name} is required")),
        Some(value) => value.parse().or_else(|_| invalid(format!("{name} must be a number"))),
    }
}

/// Percent-decodes; invalid sequences stay as they are.
pub(super) fn decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let [byte, after @ ..] = rest {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        // `from_str_radix` alone would take a sign.
        let hex = hex.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let (decoded, used) = match (byte, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(decoded)) => (decoded, 3),
            (b'+', _) => (b' ', 1),
            _ => (*byte, 1),
        };
        out.push(decoded);
        rest = &rest[used..];
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl<'a> Fields<'a> {
    /// A body that must be an object.
    ///
    /// # Errors
    ///
    /// If it is not an object.
    pub(crate) fn of(value: &'a Value) -> ApiResult<Self> {
        match value.as_object() {
            Some(map) => Ok(Fields { map, path: String::new() }),
            None => invalid("Body must be a JSON object".to_owned()),
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    fn error<T>(&self, name: &str, what: &str) -> ApiResult<T> {
        invalid(format!("{} {what}", self.name(name)))
    }

    /// A member that is present and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn required(&self, name: &str) -> ApiResult<&'a Value> {
        self.get(name).map_or_else(|| self.error(name, "is required"), Ok)
    }

    /// A string that is not empty.
    ///
    /// # Errors
    ///
    /// If it is missing or of another type; so with all methods below.
    pub(crate) fn text(&self, name: &str) -> ApiResult<&'a str> {
        match self.required(name)?.as_str() {
            Some("") => self.error(name, "is required"),
            Some(text) => Ok(text),
            None => self.error(name, "must be a string"),
        }
    }

    /// A string, empty if it is missing.
    pub(crate) fn text_or_empty(&self, name: &str) -> ApiResult<&'a str> {
        match self.get(name) {
            None => Ok(""),
            Some(value) => value.as_str().map_or_else(|| self.error(name, "must be a string"), Ok),
        }
    }

    /// A number of at least 0; fractions are rounded up.
    pub(crate) fn number(&self, name: &str) -> ApiResult<u64> {
        let value = self.required(name)?;
        let number = value.as_u64().or_else(|| {
            let rounded = value.as_f64()?.ceil();
            // In range, so the cast is exact.
            (0.0..=MAX_NUMBER as f64).contains(&rounded).then_some(rounded as u64)
        });
        match number {
            Some(number) if number <= MAX_NUMBER => Ok(number),
            _ if value.is_number() => self.error(name, "is out of range"),
            _ => self.error(name, "must be a number"),
        }
    }

    /// A number of at least 1.
    pub(crate) fn positive(&self, name: &str) -> ApiResult<u64> {
        match self.number(name)? {
            0 => self.error(name, "must be above zero"),
            number => Ok(number),
        }
    }

    /// A number, or `absent` if it is missing.
    pub(crate) fn number_or(&self, name: &str, absent: u64) -> ApiResult<u64> {
        if self.get(name).is_some() { self.number(name) } else { Ok(absent) }
    }

    /// A flag `"0"` or `"1"`.
    pub(crate) fn flag(&self, name: &str) -> ApiResult<bool> {
        match self.required(name)?.as_str() {
            Some("1") => Ok(true),
            Some("0") => Ok(false),
            _ => self.error(name, r#"must be "0" or "1""#),
        }
    }

    /// A flag, false if it is missing.
    pub(crate) fn flag_or_false(&self, name: &str) -> ApiResult<bool> {
        if self.get(name).is_some() { self.flag(name) } else { Ok(false) }
    }

    pub(crate) fn object(&self, name: &str) -> ApiResult<Fields<'a>> {
        match self.required(name)?.as_object() {
            Some(map) => Ok(Fields { map, path: format!("{}.", self.name(name)) }),
            None => self.error(name, "must be an object"),
        }
    }

    /// An array of 1 to 1,000 objects.
    pub(crate) fn objects(&self, name: &str) -> ApiResult<Vec<Fields<'a>>> {
        let Some(list) = self.required(name)?.as_array() else { return self.error(name, "must be an array") };
        if list.is_empty() || list.len() > 1_000 {
            return self.error(name, "must have 1 to 1000 elements");
        }
        let element = |(position, value): (usize, &'a Value)| match value.as_object() {
            Some(map) => Ok(Fields { map, path: format!("{}[{position}].", self.name(name)) }),
            None => self.error(&format!("{name}[{position}]"), "must be an object"),
        };
        list.iter().enumerate().map(element).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_not_coerced_and_complaints_name_the_member() {
        let value = json!({"n": "1", "s": 1, "o": {"x": -1}, "a": [{"q": 0}], "f": 1, "big": 1e300, "half": 1.2});
        let fields = Fields::of(&value).unwrap();
        let text = |failure: ApiError| failure.message().to_owned();
        assert_eq!(text(fields.number("n").unwrap_err()), "n must be a number");
        assert_eq!(text(fields.text("s").unwrap_err()), "s must be a string");
        assert_eq!(text(fields.flag("f").unwrap_err()), r#"f must be "0" or "1""#);
        assert_eq!(text(fields.number("big").unwrap_err()), "big is out of range");
        assert_eq!(text(fields.text("none").unwrap_err()), "none is required");
        assert_eq!(text(fields.object("o").unwrap().number("x").unwrap_err()), "o.x is out of range");
        assert_eq!(text(fields.objects("a").unwrap()[0].positive("q").unwrap_err()), "a[0].q must be above zero");
        assert_eq!(fields.number("half").unwrap(), 2);
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(query(Some("a=1&b=x%20y+z"), "b").as_deref(), Some("x y z"));
        assert_eq!(query(Some("a=%zz%4"), "a").as_deref(), Some("%zz%4"));
        assert_eq!(query(Some("ab=1"), "a"), None);
        assert!(query_id(Some("id=12"), "id").is_ok() && query_id(None, "id").is_err());
        assert!(query_id(Some("id=1x"), "id").is_err() && query_id(Some("id="), "id").is_err());
    }
}
