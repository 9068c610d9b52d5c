//! Conditions and values of statements, from the columns that the file names.

use mysql_async::Value;

use crate::config::{Columns, Scalar, Target};
use crate::shape::{TableShape, uuid};
use crate::sql::quoted;

/// A condition, and the values of its parameters.
#[derive(Debug, Clone)]
pub struct Condition {
    pub sql: String,
    pub values: Vec<Value>,
}

impl Condition {
    /// Creates the condition that selects the rows of a table with these values.
    pub fn new(columns: &Columns, target: &Target<'_>, table: &TableShape) -> Self {
        let mut condition = Self {
            sql: "TRUE".to_owned(),
            values: Vec::new(),
        };
        for (name, value) in columns {
            let column = quoted(name);
            let values: Vec<Value> = value
                .all()
                .iter()
                .map(|it| bound(it, target, table.is_uuid(name)))
                .collect();
            let marks = vec!["?"; values.len()].join(", ");
            condition = match values.as_slice() {
                // `<=>` also compares NULL.
                [_] => condition.and(&format!("{column} <=> ?"), values),
                _ => condition.and(&format!("{column} IN ({marks})"), values),
            };
        }
        condition
    }

    #[must_use]
    pub fn and(mut self, sql: &str, values: impl IntoIterator<Item = Value>) -> Self {
        self.sql = format!("{} AND {sql}", self.sql);
        self.values.extend(values);
        self
    }

    /// The rows behind the one with these values of the key, in its order. The first column alone
    /// bounds the range that MySQL reads.
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

/// The value of a parameter. `is_uuid`: its column has UUIDs in 16 bytes.
pub fn bound(value: &Scalar, target: &Target<'_>, is_uuid: bool) -> Value {
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

/// The value of a column that is written: an expression of MySQL, or a parameter.
pub fn written(value: &Scalar, target: &Target<'_>, is_uuid: bool) -> (String, Option<Value>) {
    let random = |text: &str| {
        let length = text.strip_prefix("{random:")?.strip_suffix('}')?;
        length.parse::<u8>().ok().filter(|it| (1..=64).contains(it))
    };
    let parameter = || ("?".to_owned(), Some(bound(value, target, is_uuid)));
    let Scalar::Text(text) = value.first() else {
        return parameter();
    };
    let expression = match text.as_str() {
        "{now}" => "NOW(6)".to_owned(),
        "{uuid}" if is_uuid => "UNHEX(REPLACE(UUID(), '-', ''))".to_owned(),
        "{uuid}" => "UUID()".to_owned(),
        "{uuid:binary}" => "UNHEX(REPLACE(UUID(), '-', ''))".to_owned(),
        text => match random(text) {
            Some(length) => format!("LEFT(HEX(RANDOM_BYTES(32)), {length})"),
            None => return parameter(),
        },
    };
    (expression, None)
}
