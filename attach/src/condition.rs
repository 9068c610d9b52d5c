//! Builds the conditions and values of SQL statements from the columns that the file names.

use mysql_async::Value;

use crate::config::{Columns, Scalar, Target};
use crate::schema::MadeKind;
use crate::shape::{TableShape, uuid};
use crate::sql::quoted;

/// A condition, and the values of its parameters.
#[derive(Debug, Clone)]
pub struct Condition {
    pub sql: String,
    pub values: Vec<Value>,
}

/// A new id for a BIGINT, also for one that programs read as a signed number. The bit that is
/// cleared is the highest of the eight bits of `server_id`, with which every id of a server begins:
/// only ids of two servers whose `server_id` differs by 128 may be the same.
const SHORT_UUID: &str = "UUID_SHORT() & 9223372036854775807";

/// Which rows a condition on a column selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    OneOf,
    NoneOf,
}

impl Condition {
    /// Creates the condition that selects the rows of a table with these values.
    pub fn new(columns: &Columns, target: &Target<'_>, table: &TableShape) -> Self {
        let mut condition = Self {
            sql: "TRUE".to_owned(),
            values: Vec::new(),
        };
        for (name, value) in columns {
            condition = condition.and_also(Self::column(Is::OneOf, name, value, target, table));
        }
        condition
    }

    /// Compares a column with its values in the file. A comparison in SQL selects NULL neither as
    /// equal nor as different, so NULL is compared separately.
    pub fn column(
        is: Is,
        name: &str,
        value: &Scalar,
        target: &Target<'_>,
        table: &TableShape,
    ) -> Self {
        let column = quoted(name);
        let (nulls, others): (Vec<&Scalar>, Vec<&Scalar>) =
            value.all().iter().partition(|it| it.is_null());
        let (is_other, values) = match day_of(value, target, table.made_kind(name)) {
            Some(day) => {
                let within = format!(
                    "{column} >= CAST(? AS DATE) AND {column} < CAST(? AS DATE) + INTERVAL 1 DAY"
                );
                (within, vec![day.clone(), day])
            }
            None if others.is_empty() => ("FALSE".to_owned(), Vec::new()),
            None => {
                let marks = vec!["?"; others.len()].join(", ");
                let is_uuid = table.is_uuid(name);
                let values = others.iter().map(|it| bound(it, target, is_uuid));
                (format!("{column} IN ({marks})"), values.collect())
            }
        };
        let sql = match (is, nulls.is_empty()) {
            (Is::OneOf, true) => format!("({is_other})"),
            (Is::OneOf, false) => format!("({column} IS NULL OR {is_other})"),
            (Is::NoneOf, true) => format!("({column} IS NULL OR NOT ({is_other}))"),
            (Is::NoneOf, false) => format!("({column} IS NOT NULL AND NOT ({is_other}))"),
        };
        Self { sql, values }
    }

    #[must_use]
    pub fn and(mut self, sql: &str, values: impl IntoIterator<Item = Value>) -> Self {
        self.sql = format!("{} AND {sql}", self.sql);
        self.values.extend(values);
        self
    }

    #[must_use]
    pub fn and_also(self, other: Self) -> Self {
        self.and(&other.sql, other.values)
    }

    /// Selects the rows of these users. `None` if the column of users can hold none of them.
    #[must_use]
    pub fn among(self, column: &str, users: &[String], table: &TableShape) -> Option<Self> {
        let values: Vec<Value> = users.iter().filter_map(|user| table.like(user)).collect();
        if values.is_empty() {
            return None;
        }
        let marks = vec!["?"; values.len()].join(", ");
        Some(self.and(&format!("{} IN ({marks})", quoted(column)), values))
    }

    /// Selects the rows after the one with these key values, in the order of the key. The separate
    /// condition on the first column bounds the range that MySQL reads.
    #[must_use]
    pub fn after(self, key: &[String], last: &[Value]) -> Self {
        let Some(first) = last.first() else {
            return self;
        };
        let names: Vec<String> = key.iter().map(|name| quoted(name)).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let sql = format!("{} >= ? AND ({}) > ({marks})", names[0], names.join(", "));
        self.and(&sql, std::iter::once(first.clone()).chain(last.to_vec()))
    }
}

/// Returns the value of a parameter. `is_uuid`: its column stores UUIDs in 16 bytes.
fn bound(value: &Scalar, target: &Target<'_>, is_uuid: bool) -> Value {
    match value.first() {
        value if value.is_null() => Value::NULL,
        Scalar::Flag(flag) => Value::Int(i64::from(*flag)),
        Scalar::Number(number) => Value::Int(*number),
        Scalar::Text(text) => {
            let text = target.fill(text);
            let bytes = is_uuid.then(|| uuid(&text)).flatten();
            bytes.unwrap_or(Value::Bytes(text.into_bytes()))
        }
        Scalar::AnyOf(_) => Value::NULL,
    }
}

/// Returns the target's day if the value is `{date}` and the column holds a time: then the value
/// means the whole day.
fn day_of(value: &Scalar, target: &Target<'_>, kind: Option<MadeKind>) -> Option<Value> {
    let is_day = kind == Some(MadeKind::Time) && value.text() == Some("{date}");
    let date = target.date.filter(|_| is_day)?;
    Some(Value::Bytes(date.to_string().into_bytes()))
}

/// Returns the MySQL expression that writes a column's value, and its parameter if it has one.
pub fn written(
    name: &str,
    value: &Scalar,
    target: &Target<'_>,
    table: &TableShape,
) -> (String, Option<Value>) {
    let value = value.first();
    let kind = table.made_kind(name);
    if let Some(day) = day_of(value, target, kind) {
        let now = "LEAST(NOW(6), CAST(? AS DATE) + INTERVAL 86399 SECOND)";
        return (now.to_owned(), Some(day));
    }
    let expression = match (value.text(), value.days_from_now(), value.random_digits()) {
        (_, Some(days), _) => format!("NOW(6) + INTERVAL {days} DAY"),
        (_, _, Some(digits)) => format!("LEFT(HEX(RANDOM_BYTES(32)), {digits})"),
        (Some("{uuid}"), ..) => match kind {
            Some(MadeKind::Uuid) => "UNHEX(REPLACE(UUID(), '-', ''))".to_owned(),
            Some(MadeKind::Number) => SHORT_UUID.to_owned(),
            Some(MadeKind::Time) | None => "UUID()".to_owned(),
        },
        _ => {
            let value = bound(value, target, table.is_uuid(name));
            return ("?".to_owned(), Some(value));
        }
    };
    (expression, None)
}

#[cfg(test)]
mod tests {
    use super::{Scalar, TableShape, written};
    use crate::config::AttachFile;
    use crate::schema::MadeKind;

    const FILE: &str = r#"
database = "mysql://app@db/shop"
redis = "redis://cache"
[[campaign]]
name = "Winter"
quantity = 10
count = { key = "count", means = "issued" }
rows = { table = "coupon", user = "user_id" }
"#;

    /// On a server whose `server_id` has the bit 128, `UUID_SHORT()` is above the highest BIGINT.
    #[test]
    fn new_number_fits_a_signed_column_on_every_server() {
        let file = AttachFile::parse(FILE).unwrap();
        let target = file.campaigns[0].drops(chrono::Utc::now())[0];
        let table = TableShape {
            kinds: [("id".to_owned(), MadeKind::Number)].into(),
            ..TableShape::default()
        };
        let new = Scalar::Text("{uuid}".to_owned());
        let (sql, value) = written("id", &new, &target, &table);
        let highest = i64::MAX;
        assert_eq!(sql, format!("UUID_SHORT() & {highest}"));
        assert_eq!(value, None);
        let short_uuid = (200_u64 << 56) + 1;
        assert!(i64::try_from(short_uuid & highest.cast_unsigned()).is_ok());
    }
}
