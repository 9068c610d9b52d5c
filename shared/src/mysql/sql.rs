//! Statements: SQL text with a `?` for each value, run by diesel. A row is read as a tuple, or as a
//! struct that [`row!`] declares, by the position of its columns.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::QueryResult;
use diesel::mysql::Mysql;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::Error::QueryBuilderError;
use diesel_async::RunQueryDsl as _;
use diesel_async::methods::LoadQuery;

use super::{Columns, Conn, Db, DbResult, Value};

/// Builds a [`Sql`] from its text and values.
#[macro_export]
macro_rules! sql {
    ($text:expr $(, $value:expr)* $(,)?) => {
        $crate::mysql::Sql::new($text, vec![$($crate::mysql::Value::from($value)),*])
    };
}

/// Declares a struct that is read from the columns of the same names (or of those after `as`), in
/// the order of its fields, and inserted with them.
macro_rules! row {
    (
        $(#[$meta:meta])*
        $seen:vis struct $name:ident {
            $($(#[$doc:meta])* $field_seen:vis $field:ident $(as $column:ident)?: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $seen struct $name { $($(#[$doc])* $field_seen $field: $type,)* }

        $crate::mysql::sql::stored_as!($name { $($field $(as $column)?: $type,)* });
    };
}

/// Reads and inserts a struct with these columns.
macro_rules! stored_as {
    ($name:ty { $($field:ident $(as $column:ident)?: $type:ty,)* }) => {
        $crate::mysql::sql::read_as!($name { $($field $(as $column)?: $type,)* });

        impl $crate::mysql::sql::Row for $name {
            fn values(self) -> Vec<$crate::mysql::Value> {
                vec![$($crate::mysql::Value::from(self.$field)),*]
            }
        }
    };
}

/// Reads a struct from these columns, in this order.
macro_rules! read_as {
    ($name:ty { $($field:ident $(as $column:ident)?: $type:ty,)* }) => {
        impl $crate::mysql::Columns for $name {
            type Sql = ($(<$type as $crate::mysql::Columns>::Sql,)*);
            type Raw = ($(<$type as $crate::mysql::Columns>::Raw,)*);
            const NAMES: &'static [&'static str] = &[$($crate::mysql::sql::name!($field $($column)?)),*];

            fn from_raw(($($field,)*): Self::Raw) -> Self {
                Self { $($field: $crate::mysql::Columns::from_raw($field),)* }
            }
        }
    };
}

/// Names the column of a field.
macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $column:ident) => {
        stringify!($column)
    };
}

/// A statement. Its text contains `?` only where a value belongs. In a query, `{columns}` stands
/// for the columns of the struct that a row is read as, and `{t.columns}` for these columns of
/// table `t`.
#[derive(Debug, Clone)]
pub struct Sql {
    text: Cow<'static, str>,
    values: Vec<Value>,
    /// Whether the text consists only of constants in the source code, so that there are few such
    /// texts.
    is_fixed: bool,
}

/// Rows inserted per statement. Mails and messages may have several kilobytes.
const INSERTED_AT_ONCE: usize = 200;

/// Inserts rows with few statements. `into` names the table and its columns, `then` is what follows
/// the rows.
pub async fn insert_all(
    conn: &mut Conn,
    into: &str,
    rows: Vec<Vec<Value>>,
    then: &str,
) -> QueryResult<()> {
    for some in rows.chunks(INSERTED_AT_ONCE) {
        let places: Vec<String> = some
            .iter()
            .map(|row| format!("({})", vec!["?"; row.len()].join(", ")))
            .collect();
        let text = format!("INSERT INTO {into} VALUES {}{then}", places.join(", "));
        Sql::new(text, some.concat()).run(conn).await?;
    }
    Ok(())
}

/// A struct that is inserted.
pub(super) trait Row: Columns {
    /// Returns the values of its columns.
    fn values(self) -> Vec<Value>;
}

/// Inserts rows into a table. `then` is SQL after the rows, such as ` ON DUPLICATE KEY UPDATE …`,
/// or empty.
pub(super) async fn insert_rows<R: Row>(
    conn: &mut Conn,
    table: &str,
    rows: Vec<R>,
    then: &str,
) -> QueryResult<()> {
    let into = format!("{table} ({})", R::NAMES.join(", "));
    let rows = rows.into_iter().map(R::values).collect();
    insert_all(conn, &into, rows, then).await
}

impl Sql {
    pub fn new(text: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        let text = text.into();
        Self {
            is_fixed: matches!(text, Cow::Borrowed(_)),
            text,
            values,
        }
    }

    /// Whether the statement stays prepared on its connection, which saves a round trip: its text
    /// is always the same, even if it contains lists of one value. Each distinct text takes one of
    /// MySQL's prepared statements (`max_prepared_stmt_count`).
    fn is_cached(&self) -> bool {
        self.is_fixed
            && self.values.iter().all(|value: &Value| match value {
                Value::List(values) => values.len() == 1,
                _ => true,
            })
    }

    /// Appends another statement's text and values.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.text.to_mut().push_str(&more.text);
        self.values.extend(more.values);
        self.is_fixed &= more.is_fixed;
        self
    }

    /// Reads all rows into a collection.
    pub async fn all<C>(self, conn: &mut Conn) -> QueryResult<C>
    where
        C: IntoIterator<Item: Columns> + FromIterator<C::Item>,
        Reading<C::Item>: LoadQuery<'static, Conn, <C::Item as Columns>::Raw>,
    {
        let rows = Reading(self, PhantomData::<fn() -> C::Item>).load(conn);
        Ok(rows.await?.into_iter().map(C::Item::from_raw).collect())
    }

    /// Reads the first row, if there is one.
    pub async fn first<T: Columns>(self, conn: &mut Conn) -> QueryResult<Option<T>>
    where
        Reading<T>: LoadQuery<'static, Conn, T::Raw>,
    {
        Ok(self.all::<Vec<T>>(conn).await?.into_iter().next())
    }

    /// Reads the only row.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn one<T: Columns>(self, conn: &mut Conn) -> QueryResult<T>
    where
        Reading<T>: LoadQuery<'static, Conn, T::Raw>,
    {
        let first = self.first(conn).await?;
        first.ok_or(diesel::result::Error::NotFound)
    }

    /// Runs a statement that returns no rows, and returns how many rows it matched.
    pub async fn run(self, conn: &mut Conn) -> QueryResult<usize> {
        Reading::<i64>(self, PhantomData).execute(conn).await
    }
}

impl Db {
    /// Reads all rows of one statement into a collection.
    pub async fn all<C>(&self, what: &'static str, sql: Sql) -> DbResult<C>
    where
        C: IntoIterator<Item: Columns> + FromIterator<C::Item> + Send + 'static,
        Reading<C::Item>: LoadQuery<'static, Conn, <C::Item as Columns>::Raw>,
    {
        self.run(what, async move |conn| sql.all(conn).await).await
    }

    /// Runs one statement that returns no rows, and returns how many rows it matched.
    pub async fn execute(&self, what: &'static str, sql: Sql) -> DbResult<usize> {
        self.write(what, sql).await
    }

    /// Reads the first row of one statement, if there is one.
    pub async fn first<T: Columns>(&self, what: &'static str, sql: Sql) -> DbResult<Option<T>>
    where
        Reading<T>: LoadQuery<'static, Conn, T::Raw>,
    {
        self.run(what, async move |conn| sql.first(conn).await)
            .await
    }
}

/// A statement whose rows are read as `T`.
#[derive(Debug)]
pub struct Reading<T>(Sql, PhantomData<fn() -> T>);

impl<T: Columns> Query for Reading<T> {
    type SqlType = T::Sql;
}

impl<T: 'static> QueryId for Reading<T> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryId for Sql {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Mysql> for Sql {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        self.walk::<i64>(out)
    }
}

impl<T: Columns> QueryFragment<Mysql> for Reading<T> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        self.0.walk::<T>(out)
    }
}

impl Sql {
    fn walk<'b, T: Columns>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        let is_cached = self.is_cached();
        if !is_cached {
            out.unsafe_to_cache_prepared();
        }
        let misfit = || QueryBuilderError("a statement has more or fewer `?` than values".into());
        let mut values = self.values.iter();
        for (at, part) in self.text.split('?').enumerate() {
            if at > 0 {
                let value = values.next().ok_or_else(misfit)?;
                value.push(&mut out, is_cached)?;
            }
            push_text::<T>(&mut out, part);
        }
        values.next().map_or(Ok(()), |_| Err(misfit()))
    }
}

/// Writes a part of a statement, and replaces `{columns}` and `{t.columns}` by the names.
fn push_text<T: Columns>(out: &mut AstPass<'_, '_, Mysql>, mut text: &str) {
    while let Some((before, rest)) = text.split_once('{') {
        let Some((place, after)) = rest.split_once("columns}") else {
            break;
        };
        let names = T::NAMES.iter().map(|name| format!("{place}{name}"));
        out.push_sql(before);
        out.push_sql(&names.collect::<Vec<_>>().join(", "));
        text = after;
    }
    out.push_sql(text);
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::mysql::list;

    fn text(sql: Sql) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let query = Reading::<i64>(sql, PhantomData);
        write!(text, "{}", diesel::debug_query::<Mysql, _>(&query))?;
        Ok(text)
    }

    #[test]
    fn only_fixed_text_binds_numbers_and_an_empty_list_matches_nothing() {
        let some = text(sql!("a = ? AND b IN (?)", "x", list([1, -2])));
        assert_eq!(some.unwrap(), r#"a = ? AND b IN (1,-2) -- binds: ["x"]"#);
        let fixed = text(sql!("a = ? AND b <=> ?", 1, None::<i64>));
        assert_eq!(fixed.unwrap(), "a = ? AND b <=> ? -- binds: [1, None]");
        let parts = sql!("a = ?", 1).and(sql!(" AND b IN (?)", list([2])));
        let parts = text(parts).unwrap();
        assert_eq!(parts, "a = ? AND b IN (?) -- binds: [1, 2]");
        let built = sql!("a = ?", 1).and(sql!(" AND b = ?".to_owned(), 2));
        assert_eq!(text(built).unwrap(), "a = 1 AND b = 2 -- binds: []");
        let none = sql!("a <=> ?", None::<i64>).and(sql!(" OR b IN (?)", list([""; 0])));
        assert_eq!(
            text(none).unwrap(),
            "a <=> NULL OR b IN (NULL) -- binds: []"
        );
    }

    #[test]
    fn statement_with_more_or_fewer_values_than_question_marks_is_refused() {
        for sql in [sql!("a = ? AND b = ?", 1), sql!("a = ?", 1, 2)] {
            assert!(text(sql).is_err());
        }
    }
}
