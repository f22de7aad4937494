//! TOML values that remember where they stand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One profile file as read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Where it was read from.
    pub(crate) path: PathBuf,
    /// Its text.
    pub(crate) text: String,
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A default of the program.
    Default,
    /// A place in a file.
    File {
        /// Index of the [`Source`].
        source: usize,
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) data: Data,
    pub(crate) origin: Origin,
}

/// The kinds of TOML values that a profile has use for.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Located>),
    Table(Table),
}

pub(crate) type Table = BTreeMap<String, Member>;

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) key: Origin,
    pub(crate) value: Located,
}

/// A value that no profile key takes.
#[derive(Debug)]
pub(crate) struct Unsupported {
    pub(crate) origin: Origin,
    pub(crate) message: &'static str,
}

impl Located {
    /// Whether both say the same, wherever they stand.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        match (&self.data, &other.data) {
            (Data::String(a), Data::String(b)) => a == b,
            (Data::Integer(a), Data::Integer(b)) => a == b,
            (Data::Float(a), Data::Float(b)) => a == b,
            (Data::Boolean(a), Data::Boolean(b)) => a == b,
            (Data::Array(a), Data::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.says_the_same(b))
            }
            (Data::Table(a), Data::Table(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && a.value.says_the_same(&b.value))
            }
            _ => false,
        }
    }

    /// The kind of value, with an article.
    pub(crate) fn kind(&self) -> &'static str {
        match self.data {
            Data::String(_) => "a string",
            Data::Integer(_) => "an integer",
            Data::Float(_) => "a float",
            Data::Boolean(_) => "a boolean",
            Data::Array(_) => "a list",
            Data::Table(_) => "a table",
        }
    }
}

/// A parsed file's top table.
pub(crate) fn from_file(table: &DeTable<'_>, source: usize) -> Result<Table, Unsupported> {
    table
        .iter()
        .map(|(key, value)| {
            let span = key.span();
            let key_origin = Origin::File { source, start: span.start, end: span.end };
            Ok((key.get_ref().to_string(), Member { key: key_origin, value: from_value(value, source)? }))
        })
        .collect()
}

fn from_value(value: &Spanned<DeValue<'_>>, source: usize) -> Result<Located, Unsupported> {
    let span = value.span();
    let origin = Origin::File { source, start: span.start, end: span.end };
    let unsupported = |message| Unsupported { origin, message };
    let data = match value.get_ref() {
        DeValue::String(text) => Data::String(text.to_string()),
        DeValue::Integer(number) => Data::Integer(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| unsupported("the number does not fit 64 bits"))?,
        ),
        DeValue::Float(number) => {
            Data::Float(number.as_str().parse().map_err(|_| unsupported("the number cannot be represented"))?)
        }
        DeValue::Boolean(value) => Data::Boolean(*value),
        DeValue::Datetime(_) => {
            return Err(unsupported("no profile key takes a date; write a string, in quotes"));
        }
        DeValue::Array(items) => {
            Data::Array(items.iter().map(|item| from_value(item, source)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Data::Table(from_file(table, source)?),
    };
    Ok(Located { data, origin })
}

/// The program's defaults, as the lowest layer.
pub(crate) fn from_defaults(value: toml::Value) -> Located {
    let data = match value {
        toml::Value::String(text) => Data::String(text),
        toml::Value::Integer(number) => Data::Integer(number),
        toml::Value::Float(number) => Data::Float(number),
        toml::Value::Boolean(value) => Data::Boolean(value),
        toml::Value::Datetime(date) => Data::String(date.to_string()),
        toml::Value::Array(items) => Data::Array(items.into_iter().map(from_defaults).collect()),
        toml::Value::Table(table) => Data::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, Member { key: Origin::Default, value: from_defaults(value) }))
                .collect(),
        ),
    };
    Located { data, origin: Origin::Default }
}
