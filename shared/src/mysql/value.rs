//! Values of statements.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use diesel::QueryResult;
use diesel::mysql::Mysql;
use diesel::query_builder::AstPass;
use diesel::sql_types::{BigInt, Binary, Date, Datetime, Nullable, Text, Unsigned};

use crate::domain::{CouponId, DropId, UserId};
use crate::report::Stored;

/// A value of a statement.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Int(i64),
    Unsigned(u64),
    Text(String),
    Bytes(Vec<u8>),
    Time(NaiveDateTime),
    Date(NaiveDate),
    /// Several values with commas, for `IN (?)`. An empty list matches nothing.
    List(Vec<Value>),
}

macro_rules! from_types {
    ($($type:ty: $value:ident => $variant:expr,)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $variant
            }
        })*
    };
}

from_types! {
    i32: value => Self::Int(value.into()),
    i64: value => Self::Int(value),
    u32: value => Self::Int(value.into()),
    u64: value => Self::Unsigned(value),
    bool: value => Self::Int(value.into()),
    &str: value => Self::Text(value.to_owned()),
    &String: value => Self::Text(value.clone()),
    String: value => Self::Text(value),
    &[u8]: value => Self::Bytes(value.to_vec()),
    DateTime<Utc>: value => Self::Time(value.naive_utc()),
    NaiveDate: value => Self::Date(value),
    CouponId: value => Self::Int(value.0),
    DropId: value => Self::Int(value.0),
    &UserId: value => Self::Text(value.as_str().to_owned()),
}

impl<T> From<Option<T>> for Value
where
    Self: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

impl<T> From<Stored<T>> for Value
where
    &'static str: From<T>,
{
    fn from(word: Stored<T>) -> Self {
        Self::Text(word.into_word())
    }
}

/// A list for `IN (?)`.
pub fn list<T>(values: impl IntoIterator<Item = T>) -> Value
where
    Value: From<T>,
{
    Value::List(values.into_iter().map(Value::from).collect())
}

impl Value {
    /// Writes numbers as text, because each parameter costs MySQL a packet. If the statement stays
    /// prepared (`is_cached`), its text must stay the same, so numbers are parameters.
    pub(super) fn push<'b>(
        &'b self,
        out: &mut AstPass<'_, 'b, Mysql>,
        is_cached: bool,
    ) -> QueryResult<()> {
        match self {
            Self::Null if is_cached => out.push_bind_param::<Nullable<BigInt>, _>(&None::<i64>)?,
            Self::Null => out.push_sql("NULL"),
            Self::Int(value) if is_cached => out.push_bind_param::<BigInt, _>(value)?,
            Self::Int(value) => out.push_sql(&value.to_string()),
            Self::Unsigned(value) if is_cached => {
                out.push_bind_param::<Unsigned<BigInt>, _>(value)?;
            }
            Self::Unsigned(value) => out.push_sql(&value.to_string()),
            Self::Text(value) => out.push_bind_param::<Text, _>(value)?,
            Self::Bytes(value) => out.push_bind_param::<Binary, _>(value)?,
            Self::Time(value) => out.push_bind_param::<Datetime, _>(value)?,
            Self::Date(value) => out.push_bind_param::<Date, _>(value)?,
            Self::List(values) if values.is_empty() => out.push_sql("NULL"),
            Self::List(values) => {
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push_sql(",");
                    }
                    value.push(out, is_cached)?;
                }
            }
        }
        Ok(())
    }
}
