// SPDX-License-Identifier: Apache-2.0
//! Typed attribute values, the shape of OTLP's `AnyValue`.

use std::borrow::Cow;
use std::sync::Arc;

use super::Key;

/// A typed attribute value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(Cow<'static, str>),
    Array(Vec<Value>),
    /// A row of a table, or any nested structure.
    Map(Vec<(Cow<'static, str>, Value)>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(v: $from) -> Self { Value::$variant(v.into()) }
        })*
    };
}
value_from! {
    bool => Bool, i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => Int, u16 => Int, u32 => Int,
    f64 => Double, &'static str => Str, String => Str, Cow<'static, str> => Str,
}

impl From<Arc<str>> for Value {
    fn from(v: Arc<str>) -> Self {
        Value::Str(v.as_ref().to_owned().into())
    }
}

impl From<u64> for Value {
    /// What does not fit OTLP's signed integer keeps its digits as a string.
    fn from(v: u64) -> Self {
        i64::try_from(v).map_or_else(|_| Value::Str(v.to_string().into()), Value::Int)
    }
}

impl From<usize> for Value {
    fn from(v: usize) -> Self {
        Value::from(v as u64)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Self {
        Value::Array(v.into_iter().map(Into::into).collect())
    }
}

impl Value {
    /// A kernel address, which no JSON number can carry.
    #[must_use]
    pub fn address(a: u64) -> Self {
        Value::Str(format!("{a:#x}").into())
    }

    /// One row of a table: an OTLP key-value list.
    #[must_use]
    pub fn row<const N: usize>(cells: [(Key, Value); N]) -> Self {
        Value::table_row(cells.into())
    }

    /// The same for cells that are only known at run time.
    #[must_use]
    pub fn table_row(cells: Vec<(Key, Value)>) -> Self {
        Value::Map(cells.into_iter().map(|(k, v)| (Cow::Borrowed(k.name), v)).collect())
    }

    /// A list of figures under the kernel's own names, as `memory.stat` has them.
    #[must_use]
    pub fn figures<N: Into<String>>(lines: impl IntoIterator<Item = (N, u64)>) -> Self {
        Value::Map(lines.into_iter().map(|(n, v)| (Cow::Owned(n.into()), Value::from(v))).collect())
    }

    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }
}

/// An ordered attribute list; a key set again replaces its value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(Vec<(Cow<'static, str>, Value)>);

impl Attributes {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces one attribute.
    pub fn set(&mut self, key: Key, value: impl Into<Value>) -> &mut Self {
        self.set_named(Cow::Borrowed(key.name), value.into());
        self
    }

    /// Adds the attribute when there is a value for it.
    pub fn set_some(&mut self, key: Key, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(v) = value {
            self.set(key, v);
        }
        self
    }

    /// Adds or replaces an attribute whose name is only known at run time (a label, a stored entry).
    pub fn set_named(&mut self, name: Cow<'static, str>, value: Value) {
        match self.0.iter_mut().find(|(k, _)| *k == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn extend(&mut self, other: Attributes) {
        for (k, v) in other.0 {
            self.set_named(k, v);
        }
    }
}

impl IntoIterator for Attributes {
    type Item = (Cow<'static, str>, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
