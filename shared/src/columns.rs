//! The types of columns: MySQL's times in UTC, and the columns of our own types.

use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::{AppearsOnTable, AsExpression, Expression, SelectableExpression};
use diesel::expression::{ValidGrouping, is_aggregate};
use diesel::mysql::{Mysql, MysqlValue};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::{self, BigInt, Json, Nullable, SqlOrd, SqlType, Text};
use diesel::{QueryResult, declare_sql_function};

use serde_json::{Value, json};

use crate::coupon::Allow;
use crate::domain::{CouponId, DropId, OncePer, UserId};
use crate::report::{AlertState, Stored};
use crate::schedule::Schedule;

/// A time in UTC. diesel reads DATETIME only as a time without a zone.
#[derive(Debug, Clone, Copy, QueryId, SqlType)]
#[diesel(mysql_type(name = "DateTime"))]
pub struct Datetime;

impl SqlOrd for Datetime {}

impl FromSql<Datetime, Mysql> for DateTime<Utc> {
    fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
        let time: NaiveDateTime = FromSql::<sql_types::Datetime, Mysql>::from_sql(value)?;
        Ok(time.and_utc())
    }
}

impl ToSql<Datetime, Mysql> for DateTime<Utc> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        let time = self.naive_utc();
        ToSql::<sql_types::Datetime, Mysql>::to_sql(&time, &mut out.reborrow())
    }
}

/// A time as the value of a column that is not nullable. Nullable ones take `Some(time)`; rust lets
/// no crate but diesel and chrono make a bare time a value.
#[derive(Debug, Clone, Copy, AsExpression)]
#[diesel(sql_type = Datetime)]
pub struct At(pub DateTime<Utc>);

impl From<DateTime<Utc>> for At {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl ToSql<Datetime, Mysql> for At {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        self.0.to_sql(out)
    }
}

/// MySQL's time plus some seconds.
#[derive(Debug, Clone, Copy, QueryId)]
pub struct MysqlTime {
    plus_seconds: i64,
}

/// MySQL's time: a process whose clock differs must not decide what is old.
pub fn now() -> MysqlTime {
    seconds_from_now(0)
}

/// MySQL's time plus some seconds, which may be negative.
pub fn seconds_from_now(plus_seconds: i64) -> MysqlTime {
    MysqlTime { plus_seconds }
}

impl Expression for MysqlTime {
    type SqlType = Datetime;
}

impl<T> AppearsOnTable<T> for MysqlTime {}

impl<T> SelectableExpression<T> for MysqlTime {}

impl<G> ValidGrouping<G> for MysqlTime {
    type IsAggregate = is_aggregate::Never;
}

impl QueryFragment<Mysql> for MysqlTime {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        out.push_sql("(UTC_TIMESTAMP(3) + INTERVAL ");
        out.push_bind_param::<BigInt, _>(&self.plus_seconds)?;
        out.push_sql(" SECOND)");
        Ok(())
    }
}

#[declare_sql_function]
extern "SQL" {
    /// The value that an INSERT … ON DUPLICATE KEY UPDATE would have inserted.
    #[sql_name = "VALUES"]
    fn inserted<T: SqlType + sql_types::SingleValue>(column: T) -> T;

    /// The place of a text in another one, from 1, or 0.
    fn locate(part: Text, text: Text) -> BigInt;
}

/// Reads and writes a type of ours as a number or a text.
macro_rules! column {
    ($type:ty: $sql:ty as $stored:ty, $read:expr, $write:expr) => {
        impl FromSql<$sql, Mysql> for $type {
            fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
                let read: fn(<$stored as ToOwned>::Owned) -> deserialize::Result<Self> = $read;
                read(FromSql::<$sql, Mysql>::from_sql(value)?)
            }
        }

        impl ToSql<$sql, Mysql> for $type {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
                let write: fn(&Self) -> &$stored = $write;
                ToSql::<$sql, Mysql>::to_sql(write(self), out)
            }
        }
    };
}

column!(CouponId: BigInt as i64, |id| Ok(Self(id)), |id| &id.0);
column!(DropId: BigInt as i64, |id| Ok(Self(id)), |id| &id.0);
column!(UserId: Text as str, |id| Ok(Self::from_store(id)), UserId::as_str);
// The schema admits no other scope.
column!(OncePer: Text as str, |word| Ok(word.parse()?), |once| once.as_str());
// An alert in an unknown state fires, so that no problem is hidden.
column!(
    AlertState: Text as str,
    |word| Ok(word.parse().unwrap_or_else(|_| {
        tracing::warn!(
            word,
            "MySQL has a state of an alert that this version does not know"
        );
        Self::Firing
    })),
    |state| <&str>::from(*state)
);

impl<T: FromStr> FromSql<Text, Mysql> for Stored<T> {
    fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
        let word: String = FromSql::<Text, Mysql>::from_sql(value)?;
        Ok(word.parse().map_or(Self::Unknown(word), Self::Known))
    }
}

impl<T: Copy + std::fmt::Debug> ToSql<Text, Mysql> for Stored<T>
where
    &'static str: From<T>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        let word = match self {
            Self::Known(value) => <&str>::from(*value),
            Self::Unknown(word) => word,
        };
        ToSql::<Text, Mysql>::to_sql(word, out)
    }
}

impl ToSql<Json, Mysql> for Schedule {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        ToSql::<Json, Mysql>::to_sql(&json!(self), &mut out.reborrow())
    }
}

/// The schedule of a coupon, or `None` without one. One that was written by hand and cannot be
/// parsed creates no drops.
#[derive(Debug, FromSqlRow)]
pub struct StoredSchedule(Option<Schedule>);

impl FromSql<Nullable<Json>, Mysql> for StoredSchedule {
    fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
        let value: Value = FromSql::<Json, Mysql>::from_sql(value)?;
        Ok(Self(serde_json::from_value(value).ok()))
    }

    fn from_nullable_sql(value: Option<MysqlValue<'_>>) -> deserialize::Result<Self> {
        value.map_or(Ok(Self(None)), Self::from_sql)
    }
}

impl From<StoredSchedule> for Option<Schedule> {
    fn from(stored: StoredSchedule) -> Self {
        stored.0
    }
}

/// A restriction that cannot be read admits only users on the list.
impl FromSql<Text, Mysql> for Allow {
    fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
        let rule: String = FromSql::<Text, Mysql>::from_sql(value)?;
        Ok(rule.try_into().unwrap_or(Self::List))
    }
}

impl ToSql<Text, Mysql> for Allow {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        ToSql::<Text, Mysql>::to_sql(&String::from(self.clone()), &mut out.reborrow())
    }
}
