//! The layout of a campaign's tables: how their rows are read, and how they store users.

use std::collections::BTreeMap;

use mysql_async::{Row, Value};
use uuid::Uuid;

use crate::schema::{MadeKind, Table};
use crate::sql::{quoted, text};

/// The layout of a campaign's tables.
#[derive(Debug, Clone)]
pub struct Shape {
    pub rows: TableShape,
    pub failed: Option<TableShape>,
    pub stock: Option<TableShape>,
    /// Whether `rows.order` is a date or time, which repairs read in milliseconds.
    pub order_is_time: bool,
    /// A column that may say that a coupon was taken back, and that the file does not name.
    pub unselected: Option<String>,
    /// Whether something tells which rows came last.
    pub has_order: bool,
    /// A warning for the operator: nothing refuses a user's second row.
    pub warning: Option<String>,
    /// Other notes for the operator, such as what makes passes slow or may change later.
    pub notes: Vec<String>,
}

/// A table that is read by pages of its primary key.
#[derive(Debug, Clone, Default)]
pub struct TableShape {
    /// The columns of the primary key.
    pub key: Vec<String>,
    pub(crate) user: UserColumn,
    pub(crate) kinds: BTreeMap<String, MadeKind>,
}

/// How the column of users holds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum UserColumn {
    #[default]
    Text,
    /// As integers: users are compared as numbers.
    Integer,
    /// As UUIDs in 16 bytes.
    Uuid,
}

impl TableShape {
    /// The layout of a table whose users are not read.
    pub fn plain(table: &Table) -> Self {
        Self {
            kinds: table.made_kinds(),
            ..Self::default()
        }
    }

    /// Returns the value of a user, or `None` if the column cannot hold it as it is written.
    pub fn user(&self, user: &str) -> Option<Value> {
        let value = self.like(user)?;
        let is_number = || user.parse().is_ok_and(|it: i128| it.to_string() == user);
        let is_kept = self.user != UserColumn::Integer || is_number();
        is_kept.then_some(value)
    }

    /// Returns the value with which a user compares as equal, such as 7 for `007`. MySQL itself
    /// would compare a text that is not a number as 0.
    pub fn like(&self, user: &str) -> Option<Value> {
        match self.user {
            UserColumn::Text => Some(Value::Bytes(user.into())),
            UserColumn::Uuid => uuid(user),
            UserColumn::Integer => {
                let number = user.trim().parse::<i128>().ok()?;
                let signed = i64::try_from(number).ok().map(Value::Int);
                signed.or_else(|| u64::try_from(number).ok().map(Value::UInt))
            }
        }
    }

    /// Returns the expression that selects a user as text: the hexadecimal digits of a UUID.
    pub fn selected(&self, user: &str) -> String {
        match self.user {
            UserColumn::Text | UserColumn::Integer => format!("CAST({} AS CHAR)", quoted(user)),
            UserColumn::Uuid => format!("LOWER(HEX({}))", quoted(user)),
        }
    }

    /// Returns the user in the first column of a selected row: a UUID in its usual form, with
    /// hyphens.
    pub fn user_of(&self, row: &Row) -> String {
        let text = text(row, 0);
        match self.user {
            UserColumn::Text | UserColumn::Integer => text,
            UserColumn::Uuid => Uuid::parse_str(&text).map_or(text, |uuid| uuid.to_string()),
        }
    }

    /// Why the column cannot hold a user.
    pub fn why_not(&self) -> &'static str {
        match self.user {
            UserColumn::Text => "the column of users cannot hold it",
            UserColumn::Integer => "the column of users takes whole numbers only",
            UserColumn::Uuid => "the column of users takes UUIDs only",
        }
    }

    /// Whether the values of a column are UUIDs in 16 bytes.
    pub fn is_uuid(&self, column: &str) -> bool {
        self.made_kind(column) == Some(MadeKind::Uuid)
    }

    pub(crate) fn made_kind(&self, column: &str) -> Option<MadeKind> {
        self.kinds.get(&column.to_lowercase()).copied()
    }
}

/// The 16 bytes of a UUID.
pub fn uuid(text: &str) -> Option<Value> {
    let uuid = Uuid::try_parse(text).ok()?;
    Some(Value::Bytes(uuid.as_bytes().to_vec()))
}
