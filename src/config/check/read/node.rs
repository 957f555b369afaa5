//! The deserializer: a value of the TOML tree together with its key.

use std::{
    fmt,
    iter::{Enumerate, Skip, Take},
    slice,
};

use serde::{
    Deserializer,
    de::{self, IntoDeserializer as _, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use toml::de::{DeString, DeTable, DeValue};

use super::{
    super::{
        key_path::{KeyPath, KeySegment},
        spelling::{choice, unknown},
    },
    SkippedPaths,
};

/// Why a value cannot be used; never contains the value.
#[derive(Clone, Debug)]
pub(in super::super) struct ReadError {
    /// The innermost key that was rejected.
    pub(super) place: Option<KeyPath>,
    pub(super) message: String,
}

impl ReadError {
    fn new(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into() }
    }

    /// Sets the key, unless an inner key is already set.
    fn at(mut self, place: &KeyPath) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("must be {expected}"))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("must be {expected}"))
    }

    fn invalid_length(_: usize, expected: &dyn de::Expected) -> Self {
        Self::new(format!("must be {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("must be {}", choice(expected)))
    }
}

/// A value, or the whole file.
#[derive(Clone, Copy)]
enum TomlValue<'t> {
    TomlValue(&'t DeValue<'t>),
    Table(&'t DeTable<'t>),
}

/// A step from a table or an array to a value in it.
#[derive(Clone, Copy)]
pub(super) enum Step<'t> {
    Entry(&'t str, &'t DeValue<'t>),
    Element(usize, &'t DeValue<'t>),
}

impl<'t> Step<'t> {
    pub(super) fn value(self) -> &'t DeValue<'t> {
        match self {
            Step::Entry(_, value) | Step::Element(_, value) => value,
        }
    }

    pub(super) fn leads_to(self, segment: &KeySegment) -> bool {
        match (self, segment) {
            (Step::Entry(key, _), KeySegment::Key(name)) => key == name,
            (Step::Element(index, _), KeySegment::Index(at)) => index == *at,
            _ => false,
        }
    }
}

/// A value and its key.
pub(super) struct Node<'t> {
    value: TomlValue<'t>,
    place: KeyPath,
    /// Where to go from here: what is beside these steps is not read. Empty: everything in the value is read.
    steps: &'t [Step<'t>],
    skipped: &'t SkippedPaths,
}

impl<'t> Node<'t> {
    pub(super) fn root(table: &'t DeTable<'t>, steps: &'t [Step<'t>], skipped: &'t SkippedPaths) -> Self {
        Self { value: TomlValue::Table(table), place: KeyPath::default(), steps, skipped }
    }

    /// The table's entries, without those that are left out.
    fn entries(&self) -> Result<Vec<TableEntry<'t>>, ReadError> {
        let table = match self.value {
            TomlValue::Table(table) | TomlValue::TomlValue(DeValue::Table(table)) => table,
            _ => return Err(ReadError::new("must be a table").at(&self.place)),
        };
        let entry = |(key, value): (&'t str, &'t DeValue<'t>)| {
            let entry = TableEntry { key, place: self.place.key(key), value };
            self.skipped.is_good(&entry.place).then_some(entry)
        };
        if let Some(Step::Entry(key, value)) = self.steps.first() {
            return Ok(entry((key, value)).into_iter().collect());
        }
        let all = |(key, value): (&'t toml::Spanned<DeString<'t>>, &'t toml::Spanned<DeValue<'t>>)| {
            entry((key.get_ref(), value.get_ref()))
        };
        Ok(table.iter().filter_map(all).collect())
    }

    /// The steps that are left in a value of this table or array.
    fn next_steps(&self) -> &'t [Step<'t>] {
        self.steps.split_first().map_or(&[], |(_, rest)| rest)
    }

    fn visit_entries<V: Visitor<'t>>(&self, entries: Vec<TableEntry<'t>>, visitor: V) -> Result<V::Value, ReadError> {
        let (steps, skipped) = (self.next_steps(), self.skipped);
        let entries = TableEntries { entries: entries.into_iter(), value: None, steps, skipped };
        visitor.visit_map(entries).map_err(|error| error.at(&self.place))
    }

    fn visit_value<V: Visitor<'t>>(&self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            TomlValue::TomlValue(DeValue::String(text)) => visitor.visit_str(text),
            TomlValue::TomlValue(DeValue::Boolean(truth)) => visitor.visit_bool(*truth),
            TomlValue::TomlValue(DeValue::Integer(number)) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => visitor.visit_i64(number),
                    Err(_) => Err(ReadError::new("must be a number of at most 64 bits")),
                }
            }
            TomlValue::TomlValue(DeValue::Float(number)) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(ReadError::new("must be a number")),
            },
            // no key accepts these through `deserialize_any`: the visitor says what it expects
            TomlValue::TomlValue(DeValue::Datetime(_)) => {
                Err(de::Error::invalid_type(de::Unexpected::Other("date"), &visitor))
            }
            TomlValue::TomlValue(DeValue::Array(_)) => Err(de::Error::invalid_type(de::Unexpected::Seq, &visitor)),
            TomlValue::TomlValue(DeValue::Table(_)) | TomlValue::Table(_) => {
                Err(de::Error::invalid_type(de::Unexpected::Map, &visitor))
            }
        }
    }
}

impl<'t> Deserializer<'t> for Node<'t> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit_value(visitor).map_err(|error| error.at(&self.place))
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            TomlValue::TomlValue(DeValue::Boolean(truth)) => visitor.visit_bool(*truth),
            _ => Err(ReadError::new("must be true or false, without quotes").at(&self.place)),
        }
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            TomlValue::TomlValue(DeValue::Array(array)) => {
                let (first, count) = match self.steps.first() {
                    Some(Step::Element(index, _)) => (*index, 1),
                    _ => (0, array.len()),
                };
                visitor.visit_seq(ArrayElements {
                    elements: array.iter().enumerate().skip(first).take(count),
                    place: &self.place,
                    steps: self.next_steps(),
                    skipped: self.skipped,
                })
            }
            _ => Err(ReadError::new("must be a list in square brackets")),
        }
        .map_err(|error| error.at(&self.place))
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit_entries(self.entries()?, visitor)
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let (entries, unknown): (Vec<_>, Vec<_>) =
            self.entries()?.into_iter().partition(|entry| known.contains(&entry.key));
        for entry in unknown {
            self.skipped.note_unknown(entry.key, known, entry.place);
        }
        self.visit_entries(entries, visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.value {
            TomlValue::TomlValue(DeValue::String(text)) => {
                let word: StrDeserializer<'_, ReadError> = text.as_ref().into_deserializer();
                visitor.visit_enum(word)
            }
            _ => Err(de::Error::unknown_variant("", variants)),
        }
        .map_err(|error| error.at(&self.place))
    }

    forward_to_deserialize_any! {
        <V: Visitor<'t>>
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

/// A key and its value.
struct TableEntry<'t> {
    key: &'t str,
    place: KeyPath,
    value: &'t DeValue<'t>,
}

/// The entries of a table.
struct TableEntries<'t> {
    entries: std::vec::IntoIter<TableEntry<'t>>,
    value: Option<TableEntry<'t>>,
    steps: &'t [Step<'t>],
    skipped: &'t SkippedPaths,
}

impl<'t> de::MapAccess<'t> for TableEntries<'t> {
    type Error = ReadError;

    fn next_key_seed<K: de::DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        let word: StrDeserializer<'_, ReadError> = entry.key.into_deserializer();
        let key = seed.deserialize(word).map_err(|error| error.at(&entry.place))?;
        self.value = Some(entry);
        Ok(Some(key))
    }

    fn next_value_seed<V: de::DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let entry = self.value.take().ok_or_else(|| ReadError::new("must have a value"))?;
        let value = TomlValue::TomlValue(entry.value);
        seed.deserialize(Node { value, place: entry.place, steps: self.steps, skipped: self.skipped })
    }
}

/// The elements of an array, without those that are left out.
struct ArrayElements<'n, 't> {
    elements: Take<Skip<Enumerate<slice::Iter<'t, toml::Spanned<DeValue<'t>>>>>>,
    place: &'n KeyPath,
    steps: &'t [Step<'t>],
    skipped: &'t SkippedPaths,
}

impl<'t> de::SeqAccess<'t> for ArrayElements<'_, 't> {
    type Error = ReadError;

    fn next_element_seed<T: de::DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        for (index, element) in self.elements.by_ref() {
            let place = self.place.index(index);
            if self.skipped.is_good(&place) {
                let value = TomlValue::TomlValue(element.get_ref());
                let node = Node { value, place, steps: self.steps, skipped: self.skipped };
                return seed.deserialize(node).map(Some);
            }
        }
        Ok(None)
    }
}

pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let mut message = unknown("key", key, known.iter().copied());
    let key = key.to_ascii_lowercase();
    if ["secret", "password", "token"].iter().any(|word| key.contains(word)) {
        message.push_str(" (never put a secret here: give the path or the variable that holds it)");
    }
    message
}
