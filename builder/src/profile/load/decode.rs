//! Located values into typed ones: a serde deserializer whose errors know their place.
//!
//! Serde reports an error without saying where. Here the innermost value or key that was being read when it arose
//! is attached to it on the way out, and the dotted key is put together.

use super::document::{Data, Located, Member, Origin};
use super::suggest;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use std::collections::btree_map;
use std::fmt;

/// Why a value was refused.
#[derive(Debug)]
pub(crate) struct DecodeError {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) origin: Option<Origin>,
    /// Dotted key, innermost part last.
    pub(crate) key: String,
}

impl DecodeError {
    fn new(message: String) -> Self {
        Self { message, help: None, origin: None, key: String::new() }
    }

    fn at(mut self, origin: Origin) -> Self {
        self.origin.get_or_insert(origin);
        self
    }

    fn below(mut self, part: &str) -> Self {
        self.key = match self.key.as_str() {
            "" => part.to_owned(),
            rest if rest.starts_with('[') => format!("{part}{rest}"),
            rest => format!("{part}.{rest}"),
        };
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

/// What was found, in TOML's words.
fn found(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(number) => format!("the integer {number}"),
        Unexpected::Signed(number) => format!("the integer {number}"),
        Unexpected::Float(number) => format!("the float {number}"),
        Unexpected::Str(text) => format!("the string \"{text}\""),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What was wanted, in TOML's words; serde and derived code name Rust types.
fn wanted(expected: &dyn serde::de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        "u8" => "an integer from 0 to 255".to_owned(),
        "u16" => "an integer from 0 to 65535".to_owned(),
        "u32" => "an integer from 0 to 4294967295".to_owned(),
        "u64" => "an integer from 0 on".to_owned(),
        "f64" => "a number".to_owned(),
        _ if text.starts_with("struct ") => "a table".to_owned(),
        _ => text,
    }
}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new(format!("expected {}, found {}", wanted(expected), found(&unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::new(format!("unknown key `{field}`"));
        error.help = Some(match suggest::nearest(field, expected.iter().copied()) {
            Some(key) => suggest::did_you_mean(key),
            None => format!("known here: {}", expected.join(", ")),
        });
        error
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::new(format!("`{variant}` is none of {}", expected.join(", ")));
        error.help = suggest::nearest(variant, expected.iter().copied()).map(suggest::did_you_mean);
        error
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the key `{field}` is missing"))
    }
}

impl<'de> Deserializer<'de> for &'de Located {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.data {
            Data::String(text) => visitor.visit_borrowed_str(text),
            Data::Integer(number) => visitor.visit_i64(*number),
            Data::Float(number) => visitor.visit_f64(*number),
            Data::Boolean(value) => visitor.visit_bool(*value),
            Data::Array(items) => visitor.visit_seq(List { items: items.iter(), index: 0 }),
            Data::Table(table) => visitor.visit_map(Fields { members: table.iter(), value: None }),
        }
        .map_err(|error| error.at(self.origin))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self).map_err(|error| error.at(self.origin))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let _ = name;
        match &self.data {
            Data::String(text) => {
                let text: StrDeserializer<'_, DecodeError> = text.as_str().into_deserializer();
                visitor.visit_enum(text).map_err(|error| error.at(self.origin))
            }
            _ => Err(DecodeError::new(format!(
                "expected one of {}, found {}",
                variants.join(", "),
                self.kind()
            ))
            .at(self.origin)),
        }
    }

    // A value that is checked while it becomes typed (`try_from`) fails after it was read, so its place has to be
    // attached here as well as in `deserialize_any`; see `Fields` and `List`.
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct List<'de> {
    items: std::slice::Iter<'de, Located>,
    index: usize,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.at(item.origin).below(&format!("[{index}]")))
    }
}

struct Fields<'de> {
    members: btree_map::Iter<'de, String, Member>,
    value: Option<(&'de str, &'de Located)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, member)) = self.members.next() else { return Ok(None) };
        self.value = Some((key, &member.value));
        let text: BorrowedStrDeserializer<'de, DecodeError> = BorrowedStrDeserializer::new(key);
        seed.deserialize(text).map(Some).map_err(|error| error.at(member.key).below(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        let Some((key, value)) = self.value.take() else {
            return Err(DecodeError::new("a value was asked for before its key".to_owned()));
        };
        seed.deserialize(value).map_err(|error| error.at(value.origin).below(key))
    }
}
