//! Values of the file with a syntax or bounds of their own: how each is parsed, printed, and described in the JSON
//! Schema.
//!
//! A rule about one value is here; a rule about two values is in [`check`](crate::config::check). No message repeats the
//! value, because it may be a secret in the wrong place.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A value that the file contains as a string.
pub trait TextValue: Sized {
    /// Describes valid values; follows "must be" in an error message.
    const KIND: &'static str;

    /// # Errors
    /// What is wrong, beginning with "must". Never contains the text itself.
    fn parse(text: &str) -> Result<Self, String>;

    /// The inverse of `parse`.
    fn to_text(&self) -> String;

    /// The smallest and the largest value as text, if there are bounds.
    fn bounds() -> Option<String> {
        None
    }

    /// An error message that says what the value must be.
    fn must_be() -> String {
        format!("must be {}", Self::KIND)
    }
}

/// A [`TextValue`] parsed from a string of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parsed<T>(pub T);

impl<'de, T: TextValue> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(std::marker::PhantomData<T>);
        impl<T: TextValue> de::Visitor<'_> for TextVisitor<T> {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(T::KIND)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Parsed<T>, E> {
                T::parse(text).map(Parsed).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TextVisitor(std::marker::PhantomData))
    }
}

impl<T: TextValue> Serialize for Parsed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_text())
    }
}

impl<T: TextValue> JsonSchema for Parsed<T> {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let kind = match T::bounds() {
            Some(bounds) => format!("{}, {bounds}", T::KIND),
            None => T::KIND.to_owned(),
        };
        json_schema!({ "type": "string", "title": kind })
    }
}

/// A duration of `MIN` to `MAX` milliseconds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationBetween<const MIN: u64, const MAX: u64>(pub Duration);

/// A duration of `MIN` to `MAX` milliseconds in the file.
pub type BoundedDuration<const MIN: u64, const MAX: u64> = Parsed<DurationBetween<MIN, MAX>>;

impl<const MIN: u64, const MAX: u64> Parsed<DurationBetween<MIN, MAX>> {
    /// A default; must be within the bounds.
    pub(super) const fn millis(millis: u64) -> Self {
        Parsed(DurationBetween(Duration::from_millis(millis)))
    }
}

impl<const MIN: u64, const MAX: u64> TextValue for DurationBetween<MIN, MAX> {
    const KIND: &'static str = "a duration such as \"250ms\" or \"24h\"";

    fn parse(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text).map_err(|_| Self::must_be())?;
        if (Duration::from_millis(MIN)..=Duration::from_millis(MAX)).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(format!("must be {}", Self::bounds().unwrap_or_default()))
        }
    }

    fn to_text(&self) -> String {
        duration_text(self.0)
    }

    fn bounds() -> Option<String> {
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        Some(format!("from \"{}\" to \"{}\"", duration_text(min), duration_text(max)))
    }
}

/// The duration in the largest unit that divides it.
fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit))
        .map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

/// A size of `MIN` to `MAX` bytes, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeBetween<const MIN: u64, const MAX: u64>(pub u64);

/// A size of `MIN` to `MAX` bytes in the file.
pub type BoundedSize<const MIN: u64, const MAX: u64> = Parsed<SizeBetween<MIN, MAX>>;

impl<const MIN: u64, const MAX: u64> Parsed<SizeBetween<MIN, MAX>> {
    /// A default; must be within the bounds.
    pub(super) const fn bytes(bytes: u64) -> Self {
        Parsed(SizeBetween(bytes))
    }
}

impl<const MIN: u64, const MAX: u64> TextValue for SizeBetween<MIN, MAX> {
    const KIND: &'static str = "a size such as \"64MiB\"";

    fn parse(text: &str) -> Result<Self, String> {
        let size: bytesize::ByteSize = text.parse().map_err(|_| Self::must_be())?;
        if (MIN..=MAX).contains(&size.0) {
            Ok(Self(size.0))
        } else {
            Err(format!("must be {}", Self::bounds().unwrap_or_default()))
        }
    }

    fn to_text(&self) -> String {
        size_text(self.0)
    }

    fn bounds() -> Option<String> {
        Some(format!("from \"{}\" to \"{}\"", size_text(MIN), size_text(MAX)))
    }
}

/// The size in the largest binary unit that divides it.
fn size_text(bytes: u64) -> String {
    [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// A whole number from 1 to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PositiveInteger<const MAX: u64 = { u32::MAX as u64 }>(pub u64);

impl PositiveInteger {
    /// The number; the default bound fits in 32 bits.
    pub fn get(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<'de, const MAX: u64> Deserialize<'de> for PositiveInteger<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntegerVisitor<const MAX: u64>;
        impl<const MAX: u64> de::Visitor<'_> for IntegerVisitor<MAX> {
            type Value = PositiveInteger<MAX>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number above zero, without quotes")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PositiveInteger<MAX>, E> {
                u64::try_from(number).map_err(|_| E::custom("must be above zero")).and_then(|n| self.visit_u64(n))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PositiveInteger<MAX>, E> {
                match number {
                    0 => Err(E::custom("must be above zero")),
                    n if n > MAX => Err(E::custom(format_args!("must be at most {MAX}"))),
                    n => Ok(PositiveInteger(n)),
                }
            }
        }
        deserializer.deserialize_any(IntegerVisitor)
    }
}

impl<const MAX: u64> JsonSchema for PositiveInteger<MAX> {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX })
    }
}

/// A fraction from 0 to 1; zero only if `ZERO`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Fraction<const ZERO: bool>(pub f64);

impl<const ZERO: bool> Fraction<ZERO> {
    const KIND: &'static str = if ZERO { "a number from 0 to 1" } else { "a number above 0 and at most 1" };
}

impl<'de, const ZERO: bool> Deserialize<'de> for Fraction<ZERO> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FractionVisitor<const ZERO: bool>;
        impl<const ZERO: bool> de::Visitor<'_> for FractionVisitor<ZERO> {
            type Value = Fraction<ZERO>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(Fraction::<ZERO>::KIND)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Fraction<ZERO>, E> {
                if (ZERO && number == 0.0) || (number > 0.0 && number <= 1.0) {
                    Ok(Fraction(number))
                } else {
                    Err(E::custom(format_args!("must be {}", Fraction::<ZERO>::KIND)))
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Fraction<ZERO>, E> {
                self.visit_f64(number as f64)
            }
        }
        deserializer.deserialize_any(FractionVisitor)
    }
}

impl<const ZERO: bool> JsonSchema for Fraction<ZERO> {
    fn schema_name() -> Cow<'static, str> {
        "Fraction".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let bound = if ZERO { "minimum" } else { "exclusiveMinimum" };
        json_schema!({ "type": "number", bound: 0, "maximum": 1 })
    }
}

impl TextValue for PathBuf {
    const KIND: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') { Err(Self::must_be()) } else { Ok(Self::from(text)) }
    }

    fn to_text(&self) -> String {
        self.display().to_string()
    }
}
