//! Their tables, as `information_schema` describes them: columns with their defaults, rights and
//! character sets, and keys. One query reads all tables of a campaign.

use std::collections::BTreeMap;

use mysql_async::{Row, Value};

use crate::Answer;
use crate::sql::{Sql, text};

/// A table or view.
#[derive(Debug, Default)]
pub struct Table {
    pub name: String,
    pub is_view: bool,
    /// In lower case.
    pub engine: String,
    /// A trigger before each insert may fill columns that have no default.
    pub has_triggers: bool,
    pub columns: Vec<Column>,
    pub indexes: Vec<IndexPart>,
}

/// Its texts are in lower case.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    pub kind: String,
    /// In characters for texts, in bytes for `BINARY` and the like; 0 for numbers and times.
    pub length: u64,
    /// Empty if the column holds no text.
    pub charset: String,
    /// An INSERT without it fails.
    pub needs_value: bool,
    /// An INSERT without it leaves it NULL.
    pub is_null_by_default: bool,
    pub is_generated: bool,
    /// Later rows have higher values.
    pub is_increasing: bool,
    /// What our login may do with it, such as `select,insert`.
    pub rights: String,
}

#[derive(Debug)]
pub struct IndexPart {
    pub index: String,
    /// Empty if it is an expression.
    pub column: String,
    pub is_unique: bool,
}

/// Each row is a table, a column, or a part of an index, with up to seven facts. The facts are
/// texts in one collation, as UNION needs.
fn query(marks: &str) -> String {
    format!(
        "SELECT CAST(TABLE_NAME AS CHAR), 1 AS part, '' AS of_index, 0 AS place,
      CAST(TABLE_TYPE LIKE '%VIEW' AS CHAR),
      CAST(LOWER(COALESCE(ENGINE, '')) AS CHAR),
      CAST(EXISTS (
        SELECT 1 FROM information_schema.TRIGGERS
        WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = TABLE_NAME
          AND ACTION_TIMING = 'BEFORE' AND EVENT_MANIPULATION = 'INSERT') AS CHAR),
      '', '', '', ''
    FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({marks})
    UNION ALL
    SELECT CAST(TABLE_NAME AS CHAR), 2, '', ORDINAL_POSITION,
      CAST(LOWER(COLUMN_NAME) AS CHAR),
      CAST(LOWER(DATA_TYPE) AS CHAR),
      CAST(COALESCE(CHARACTER_MAXIMUM_LENGTH, 0) AS CHAR),
      CAST(COALESCE(CHARACTER_SET_NAME, '') AS CHAR),
      CAST(IF(COALESCE(COLUMN_DEFAULT, 'NULL') <> 'NULL' OR EXTRA LIKE '%GENERATED%', 'given',
        IS_NULLABLE) AS CHAR),
      CAST(LOWER(EXTRA) AS CHAR),
      CAST(LOWER(PRIVILEGES) AS CHAR)
    FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({marks})
    UNION ALL
    SELECT CAST(TABLE_NAME AS CHAR), 3, CAST(LOWER(INDEX_NAME) AS CHAR), SEQ_IN_INDEX,
      CAST(LOWER(COALESCE(COLUMN_NAME, '')) AS CHAR),
      CAST(NON_UNIQUE = 0 AS CHAR),
      '', '', '', '', ''
    FROM information_schema.STATISTICS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({marks})
    ORDER BY part, of_index, place"
    )
}

/// Reads those of these tables that exist, in any order.
pub async fn read(sql: &mut Sql, names: &[&str]) -> Answer<Vec<Table>> {
    let marks = vec!["?"; names.len()].join(", ");
    let query = query(&marks);
    let names = names.repeat(3);
    let values = names.into_iter().map(|name| Value::Bytes(name.into()));
    let rows = sql.rows(&query, values.collect()).await?;
    let mut tables: Vec<Table> = Vec::new();
    for row in &rows {
        let name = text(row, 0);
        match number(row, 1) {
            1 => tables.push(Table {
                name,
                is_view: is(row, 4),
                engine: text(row, 5),
                has_triggers: is(row, 6),
                ..Table::default()
            }),
            part => {
                let Some(table) = tables.iter_mut().find(|it| it.name == name) else {
                    continue;
                };
                if part == 2 {
                    table.columns.push(column(row));
                } else {
                    table.indexes.push(IndexPart {
                        index: text(row, 2),
                        column: text(row, 4),
                        is_unique: is(row, 5),
                    });
                }
            }
        }
    }
    Ok(tables)
}

fn number(row: &Row, at: usize) -> i64 {
    let number = row.get_opt::<i64, _>(at);
    number.and_then(Result::ok).unwrap_or_default()
}

fn is(row: &Row, at: usize) -> bool {
    text(row, at) == "1"
}

fn column(row: &Row) -> Column {
    let extra = text(row, 9);
    let is_increasing = extra.contains("auto_increment");
    Column {
        name: text(row, 4),
        kind: text(row, 5),
        length: text(row, 6).parse().unwrap_or_default(),
        charset: text(row, 7),
        needs_value: text(row, 8) == "NO" && !is_increasing,
        is_null_by_default: text(row, 8) == "YES",
        is_generated: extra.contains(" generated"),
        is_increasing,
        rights: text(row, 10),
    }
}

/// Whether one of these names is the column's. MySQL ignores their case.
pub fn is_among<'n>(column: &str, mut names: impl Iterator<Item = &'n String>) -> bool {
    names.any(|name| name.eq_ignore_ascii_case(column))
}

/// Lists the tables of the database, to suggest the one that was meant.
pub async fn names(sql: &mut Sql) -> Answer<Vec<String>> {
    let all = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";
    let rows = sql.rows(all, Vec::new()).await?;
    Ok(rows.iter().map(|row| text(row, 0)).collect())
}

/// Lists the tables of a view; none if their server refuses the query.
pub async fn tables_of_view(sql: &mut Sql, view: &str) -> Vec<String> {
    let used = "SELECT TABLE_NAME FROM information_schema.VIEW_TABLE_USAGE \
        WHERE VIEW_SCHEMA = DATABASE() AND VIEW_NAME = ?";
    let rows = sql.rows(used, vec![Value::Bytes(view.into())]).await;
    rows.map_or_else(
        |_| Vec::new(),
        |rows| {
            rows.iter()
                .map(|row| format!("{:?}", text(row, 0)))
                .collect()
        },
    )
}

/// How a column stores a generated value: a new id, or the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeKind {
    /// 16 bytes, whose values are UUIDs.
    Uuid,
    /// An integer of 8 bytes.
    Number,
    /// A date with a time.
    Time,
}

impl Column {
    /// Whether a new id is written to this column as bytes or as a number, not as a text.
    pub fn takes_uuid(&self) -> bool {
        let kind = self.made_kind();
        matches!(kind, Some(MadeKind::Uuid | MadeKind::Number))
    }

    pub fn made_kind(&self) -> Option<MadeKind> {
        match self.kind.as_str() {
            "binary" if self.length == 16 => Some(MadeKind::Uuid),
            "bigint" => Some(MadeKind::Number),
            "datetime" | "timestamp" => Some(MadeKind::Time),
            _ => None,
        }
    }

    /// Whether our login has this right on it.
    pub fn may(&self, right: &str) -> bool {
        self.rights.split(',').any(|it| it == right)
    }
}

impl Table {
    /// Whether its primary key tells which rows came last.
    pub fn is_in_order(&self) -> bool {
        let key = self.primary_key();
        let first = key.first().and_then(|name| self.column(name));
        key.len() == 1 && first.is_some_and(|it| it.is_increasing)
    }

    /// Its indexes, each with its parts in order.
    pub fn whole_indexes(&self) -> impl Iterator<Item = &[IndexPart]> {
        self.indexes.chunk_by(|a, b| a.index == b.index)
    }

    /// Whether a unique key has this column and no other.
    pub fn is_unique_alone(&self, name: &str) -> bool {
        self.whole_indexes().any(|key: &[IndexPart]| {
            matches!(key, [only] if only.is_unique && only.column.eq_ignore_ascii_case(name))
        })
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        let mut columns = self.columns.iter();
        columns.find(|it| it.name == name.to_lowercase())
    }

    /// The columns whose generated values are not texts, with their kinds.
    pub fn made_kinds(&self) -> BTreeMap<String, MadeKind> {
        let columns = self.columns.iter();
        let kinds = columns.filter_map(|it| Some((it.name.clone(), it.made_kind()?)));
        kinds.collect()
    }

    /// The columns of the primary key.
    pub fn primary_key(&self) -> Vec<String> {
        self.indexes
            .iter()
            .filter(|it| it.index == "primary")
            .map(|it| it.column.clone())
            .collect()
    }

    /// Whether its rows can be locked, and changes rolled back.
    pub fn is_transactional(&self) -> bool {
        TRANSACTIONAL.contains(&self.engine.as_str())
    }
}

/// Engines with transactions.
const TRANSACTIONAL: [&str; 3] = ["innodb", "ndbcluster", "rocksdb"];
