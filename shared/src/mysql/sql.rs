//! Statements: SQL text with a `?` for each value, run by diesel. A row is read as a tuple, or as a
//! struct that [`row!`] declares, by the position of its columns.

use std::marker::PhantomData;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use diesel::QueryResult;
use diesel::mysql::Mysql;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::Error::QueryBuilderError;
use diesel::sql_types::{
    BigInt, Binary, Bool, Date, Datetime, Double, Integer, Nullable, Text, Unsigned,
};
use diesel_async::RunQueryDsl as _;
use diesel_async::methods::LoadQuery;

use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId, UserId};

/// Builds a [`Sql`] from its text and values.
#[macro_export]
macro_rules! sql {
    ($text:expr $(, $value:expr)* $(,)?) => {
        $crate::mysql::Sql::new($text, vec![$($crate::mysql::Value::from($value)),*])
    };
}

/// Builds the values of a row.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::mysql::Value::from($value)),*] };
}
pub(super) use values;

/// Declares a struct that is read from the columns of the same names, in the order of its fields.
macro_rules! row {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, diesel::Queryable)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }

        impl $name {
            /// Lists the columns, each after `prefix`.
            pub fn columns(prefix: &str) -> String {
                [$(stringify!($field)),*].map(|column| format!("{prefix}{column}")).join(", ")
            }

            /// Returns the values of these columns.
            pub fn values(self) -> Vec<$crate::mysql::Value> {
                vec![$($crate::mysql::Value::from(self.$field)),*]
            }
        }

        impl $crate::mysql::Columns for $name {
            type Sql = ($(<$type as $crate::mysql::Columns>::Sql,)*);
        }
    };
}
pub(super) use row;

/// A statement. Its text contains `?` only where a value belongs.
#[derive(Debug, Clone)]
pub struct Sql {
    text: String,
    values: Vec<Value>,
    is_cached: bool,
}

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
    NaiveDateTime: value => Self::Time(value),
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

/// A list for `IN (?)`.
pub fn list<T>(values: impl IntoIterator<Item = T>) -> Value
where
    Value: From<T>,
{
    Value::List(values.into_iter().map(Value::from).collect())
}

impl Sql {
    pub fn new(text: impl Into<String>, values: Vec<Value>) -> Self {
        Self {
            text: text.into(),
            values,
            is_cached: false,
        }
    }

    /// Keeps the statement prepared on its connection, which saves a round trip. Each distinct text
    /// takes one of MySQL's prepared statements (`max_prepared_stmt_count`).
    #[must_use]
    pub fn cached(mut self) -> Self {
        self.is_cached = true;
        self
    }

    /// Inserts rows; `into` names the table and its columns.
    pub fn insert(into: &str, rows: Vec<Vec<Value>>) -> Self {
        let row = |values: &Vec<Value>| format!("({})", vec!["?"; values.len()].join(", "));
        let places: Vec<String> = rows.iter().map(row).collect();
        let text = format!("INSERT INTO {into} VALUES {}", places.join(", "));
        Self::new(text, rows.into_iter().flatten().collect())
    }

    /// Appends another statement's text and values.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.text.push_str(&more.text);
        self.values.extend(more.values);
        self
    }

    /// Reads all rows.
    pub async fn all<T>(self, conn: &mut Conn) -> QueryResult<Vec<T>>
    where
        T: Columns + Send + 'static,
        Reading<T::Sql>: LoadQuery<'static, Conn, T>,
    {
        Reading(self, PhantomData).load(conn).await
    }

    /// Reads the first row, if there is one.
    pub async fn first<T>(self, conn: &mut Conn) -> QueryResult<Option<T>>
    where
        T: Columns + Send + 'static,
        Reading<T::Sql>: LoadQuery<'static, Conn, T>,
    {
        Ok(self.all(conn).await?.into_iter().next())
    }

    /// Reads the only row.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn one<T>(self, conn: &mut Conn) -> QueryResult<T>
    where
        T: Columns + Send + 'static,
        Reading<T::Sql>: LoadQuery<'static, Conn, T>,
    {
        let first = self.first(conn).await?;
        first.ok_or(diesel::result::Error::NotFound)
    }

    /// Runs a statement that returns no rows, and returns how many rows it matched.
    pub async fn run(self, conn: &mut Conn) -> QueryResult<usize> {
        Reading::<()>(self, PhantomData).execute(conn).await
    }
}

impl Db {
    /// Reads all rows of one statement.
    pub async fn all<T>(&self, what: &'static str, sql: Sql) -> Result<Vec<T>, DbError>
    where
        T: Columns + Send + 'static,
        Reading<T::Sql>: LoadQuery<'static, Conn, T>,
    {
        self.run(what, async move |conn| sql.all(conn).await).await
    }

    /// Reads the first row of one statement, if there is one.
    pub async fn first<T>(&self, what: &'static str, sql: Sql) -> Result<Option<T>, DbError>
    where
        T: Columns + Send + 'static,
        Reading<T::Sql>: LoadQuery<'static, Conn, T>,
    {
        Ok(self.all(what, sql).await?.into_iter().next())
    }

    /// Runs one statement that returns no rows, and returns how many rows it matched.
    pub async fn execute(&self, what: &'static str, sql: Sql) -> Result<usize, DbError> {
        self.run(what, async move |conn| sql.run(conn).await).await
    }
}

/// A statement whose rows have the SQL types `S`.
#[derive(Debug)]
pub struct Reading<S>(Sql, PhantomData<fn() -> S>);

impl<S> Query for Reading<S> {
    type SqlType = S;
}

impl<S: 'static> QueryId for Reading<S> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<S> QueryFragment<Mysql> for Reading<S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        let Sql {
            text,
            values,
            is_cached,
        } = &self.0;
        if !is_cached {
            out.unsafe_to_cache_prepared();
        }
        let misfit = || QueryBuilderError("a statement has more or fewer `?` than values".into());
        let mut values = values.iter();
        for (at, part) in text.split('?').enumerate() {
            if at > 0 {
                values
                    .next()
                    .ok_or_else(misfit)?
                    .push(&mut out, *is_cached)?;
            }
            out.push_sql(part);
        }
        values.next().map_or(Ok(()), |_| Err(misfit()))
    }
}

impl Value {
    /// Writes numbers as text, because each parameter costs MySQL a packet, unless the text must
    /// stay the same.
    fn push<'b>(&'b self, out: &mut AstPass<'_, 'b, Mysql>, is_cached: bool) -> QueryResult<()> {
        match self {
            Self::Null => out.push_sql("NULL"),
            Self::Int(value) if is_cached => out.push_bind_param::<BigInt, _>(value)?,
            Self::Int(value) => out.push_sql(&value.to_string()),
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

/// The SQL types of the columns that a Rust type is read from.
pub trait Columns {
    type Sql: 'static;
}

macro_rules! columns {
    ($($type:ty => $sql:ty,)*) => {
        $(impl Columns for $type {
            type Sql = $sql;
        })*
    };
}

columns! {
    bool => Bool,
    f64 => Double,
    i32 => Integer,
    i64 => BigInt,
    u32 => Unsigned<Integer>,
    u64 => Unsigned<BigInt>,
    String => Text,
    Vec<u8> => Binary,
    NaiveDateTime => Datetime,
    NaiveDate => Date,
}

impl<T: Columns> Columns for Option<T> {
    type Sql = Nullable<T::Sql>;
}

macro_rules! tuples {
    ($(($($type:ident)+))*) => {
        $(impl<$($type: Columns),+> Columns for ($($type,)+) {
            type Sql = ($($type::Sql,)+);
        })*
    };
}

tuples! {
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn text(sql: Sql) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let query = Reading::<()>(sql, PhantomData);
        write!(text, "{}", diesel::debug_query::<Mysql, _>(&query))?;
        Ok(text)
    }

    #[test]
    fn values_take_their_places_and_an_empty_list_matches_nothing() {
        let some = text(sql!("a = ? AND b IN (?)", "x", list([1, -2])));
        assert_eq!(some.unwrap(), r#"a = ? AND b IN (1,-2) -- binds: ["x"]"#);
        let none = sql!("a <=> ?", None::<i64>).and(sql!(" OR b IN (?)", list([""; 0])));
        assert_eq!(
            text(none).unwrap(),
            "a <=> NULL OR b IN (NULL) -- binds: []"
        );
    }

    #[test]
    fn statement_with_more_or_fewer_values_than_places_is_refused() {
        for sql in [sql!("a = ? AND b = ?", 1), sql!("a = ?", 1, 2)] {
            assert!(text(sql).is_err());
        }
    }
}
