//! How columns are read: as a value, a tuple, or a struct that [`row!`](super::sql) declares.

use std::convert::identity;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use diesel::sql_types::{
    BigInt, Binary, Bool, Date, Datetime, Double, Integer, Nullable, Text, Unsigned,
};

use super::Value;
use crate::domain::{CouponId, DropId, OncePer, UserId};
use crate::report::{AlertState, Stored};

/// What a row, or a part of it, is read as.
pub trait Columns: Send + Sized + 'static {
    /// The SQL types of the columns.
    type Sql: 'static;
    /// What diesel reads.
    type Raw: Send + 'static;
    /// The names of the columns that `{columns}` stands for.
    const NAMES: &'static [&'static str] = &[];

    fn from_raw(raw: Self::Raw) -> Self;
}

macro_rules! columns {
    ($($type:ty: $raw:ty, $sql:ty => $from_raw:expr,)*) => {
        $(impl Columns for $type {
            type Sql = $sql;
            type Raw = $raw;

            fn from_raw(raw: $raw) -> Self {
                $from_raw(raw)
            }
        })*
    };
}

columns! {
    bool: bool, Bool => identity,
    f64: f64, Double => identity,
    i32: i32, Integer => identity,
    i64: i64, BigInt => identity,
    u32: u32, Unsigned<Integer> => identity,
    u64: u64, Unsigned<BigInt> => identity,
    String: String, Text => identity,
    Vec<u8>: Vec<u8>, Binary => identity,
    NaiveDate: NaiveDate, Date => identity,
    DateTime<Utc>: NaiveDateTime, Datetime => |at: NaiveDateTime| at.and_utc(),
    CouponId: i64, BigInt => CouponId,
    DropId: i64, BigInt => DropId,
    UserId: String, Text => UserId::from_store,
}

/// Types with one value that also represents every unknown word: the schema admits no other scope,
/// and an alert in an unknown state still fires, so that no problem is hidden.
macro_rules! words {
    ($($type:ty: $otherwise:ident,)*) => {
        $(impl Columns for $type {
            type Sql = Text;
            type Raw = String;

            fn from_raw(word: String) -> Self {
                word.parse().unwrap_or_else(|_| {
                    let kind = stringify!($type);
                    tracing::warn!(word, kind, "MySQL has a word that this version does not know");
                    Self::$otherwise
                })
            }
        }

        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::Text(<&str>::from(value).to_owned())
            }
        })*
    };
}

words! {
    OncePer: Coupon,
    AlertState: Firing,
}

impl<T: FromStr + Send + 'static> Columns for Stored<T> {
    type Sql = Text;
    type Raw = String;

    fn from_raw(word: String) -> Self {
        word.parse().map_or(Self::Unknown(word), Self::Known)
    }
}

impl<T: Columns> Columns for Option<T> {
    type Sql = Nullable<T::Sql>;
    type Raw = Option<T::Raw>;

    fn from_raw(raw: Self::Raw) -> Self {
        raw.map(T::from_raw)
    }
}

macro_rules! tuples {
    ($(($($type:ident)+))*) => {
        $(impl<$($type: Columns),+> Columns for ($($type,)+) {
            type Sql = ($($type::Sql,)+);
            type Raw = ($($type::Raw,)+);
            const NAMES: &'static [&'static str] = {
                let mut names: &'static [&'static str] = &[];
                $(if names.is_empty() { names = $type::NAMES; })+
                names
            };

            #[allow(non_snake_case)] // values are named by their types
            fn from_raw(($($type,)+): Self::Raw) -> Self {
                ($(<$type as Columns>::from_raw($type),)+)
            }
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
