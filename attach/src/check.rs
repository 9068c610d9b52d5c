//! Checks a campaign's mapping against `information_schema` and the types of its keys, before each
//! pass: a mapping that does not fit is refused with the nearest name, before anything is compared.

use mysql_async::Value;

use crate::config::{Done, Duplicates, Mode, Target};
use crate::keys::Keys;
use crate::sql::{Sql, text};
use crate::{Answer, AttachError};

/// What a pass must know about the tables of a campaign.
#[derive(Debug, Clone)]
pub struct Shape {
    pub rows: TableShape,
    pub failed: Option<TableShape>,
    /// Whether `rows.order` is a date or time, which a score counts in milliseconds.
    pub order_is_time: bool,
    /// A sentence for the operator: what does not prevent a user's second row.
    pub warning: Option<String>,
    /// Another one: what makes passes slow.
    pub slow: Option<String>,
}

/// A table that is read by pages of its primary key.
#[derive(Debug, Clone)]
pub struct TableShape {
    /// The columns of the primary key.
    pub key: Vec<String>,
    /// Users are numbers, and are compared as numbers.
    user_is_integer: bool,
}

impl TableShape {
    /// Returns the value of a user, or `None` if the column cannot hold it as it is written.
    pub fn user(&self, user: &str) -> Option<Value> {
        let is_number = || user.parse().is_ok_and(|it: i128| it.to_string() == user);
        let is_kept = !self.user_is_integer || is_number();
        self.like(user).filter(|_| is_kept)
    }

    /// Returns the value with which a user compares as equal, such as 7 for `007`. MySQL itself
    /// would take text that is no number for zero.
    pub fn like(&self, user: &str) -> Option<Value> {
        if !self.user_is_integer {
            return Some(Value::Bytes(user.into()));
        }
        let number = user.trim().parse::<i128>().ok()?;
        let signed = i64::try_from(number).ok().map(Value::Int);
        signed.or_else(|| u64::try_from(number).ok().map(Value::UInt))
    }
}

const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
const TEXTS: [&str; 2] = ["char", "varchar"];
/// Types whose values MySQL sorts otherwise than it compares them.
const UNORDERED: [&str; 4] = ["enum", "set", "bit", "float"];
/// Engines in which a row can be taken back.
const TRANSACTIONAL: [&str; 3] = ["innodb", "ndbcluster", "rocksdb"];
const TIMES: [&str; 3] = ["datetime", "timestamp", "date"];

/// Checks one target.
///
/// # Errors
/// [`AttachError::Misfit`] with what to write, or that a store does not answer.
pub async fn check(target: &Target<'_>, sql: &mut Sql, keys: &mut Keys) -> Answer<Shape> {
    let campaign = target.campaign;
    let rows = Table::read(sql, "rows", &campaign.rows.table).await?;
    rows.all(campaign.rows.of.keys().chain(campaign.rows.insert.keys()))?;
    let order = campaign.rows.order.as_ref().map(|name| rows.kind(name));
    let failed = match &campaign.failed {
        None => None,
        Some(failed) => {
            let table = Table::read(sql, "failed", &failed.table).await?;
            table.all(failed.of.keys())?;
            if let Done::Column { column, .. } = &failed.done {
                table.kind(column)?;
            }
            table.must_be_transactional(sql, campaign.mode).await?;
            Some(table.shape(&failed.user)?)
        }
    };
    if let Some(stock) = &campaign.stock {
        let table = Table::read(sql, "stock", &stock.table).await?;
        table.all(stock.of.keys())?;
        table.must_be_transactional(sql, campaign.mode).await?;
    }
    rows.must_be_transactional(sql, campaign.mode).await?;
    keys.check(target).await?;
    Ok(Shape {
        rows: rows.shape(&campaign.rows.user)?,
        failed,
        order_is_time: order.transpose()?.is_some_and(|kind| TIMES.contains(&kind)),
        warning: rows.without_unique_key(target)?,
        slow: rows.without_index(target),
    })
}

/// A table, its columns with their types, and its unique keys by name, in lower case.
struct Table<'a> {
    /// The field of the file that names it.
    field: &'a str,
    name: &'a str,
    columns: Vec<(String, String)>,
    unique: Vec<(String, String)>,
    /// Likewise, of all indexes.
    indexes: Vec<(String, String)>,
}

impl<'a> Table<'a> {
    async fn read(sql: &mut Sql, field: &'a str, name: &'a str) -> Answer<Self> {
        let columns = "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS \
            WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";
        let columns = pairs(sql, columns, name).await?;
        if columns.is_empty() {
            let tables = "SELECT TABLE_NAME, '' FROM information_schema.TABLES \
                WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME <> ?";
            let near = nearest(name, &pairs(sql, tables, name).await?);
            let why = format!("{field}.table: this database has no table {name:?}{near}");
            return Err(AttachError::Misfit(why));
        }
        let indexes = "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS \
            WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY INDEX_NAME, SEQ_IN_INDEX";
        let unique = indexes.replace("ORDER", "AND NON_UNIQUE = 0 ORDER");
        Ok(Self {
            field,
            name,
            columns,
            unique: pairs(sql, &unique, name).await?,
            indexes: pairs(sql, indexes, name).await?,
        })
    }

    /// Returns the type of a column.
    fn kind(&self, name: &str) -> Answer<&str> {
        let mut columns = self.columns.iter();
        let found = columns.find(|(column, _)| column.eq_ignore_ascii_case(name));
        let kind = found.map(|(_, kind)| kind.as_str());
        kind.ok_or_else(|| {
            let (of, table, near) = (self.field, self.name, nearest(name, &self.columns));
            AttachError::Misfit(format!("{of}: table {table} has no column {name:?}{near}"))
        })
    }

    fn all<'n>(&self, mut names: impl Iterator<Item = &'n String>) -> Answer<()> {
        names.try_for_each(|name| self.kind(name).map(|_| ()))
    }

    /// Repairs need to lock rows, and to take them back.
    async fn must_be_transactional(&self, sql: &mut Sql, mode: Mode) -> Answer<()> {
        let engine = "SELECT ENGINE, '' FROM information_schema.TABLES \
            WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
        let found = pairs(sql, engine, self.name).await?;
        let mut engines = found.iter().map(|(engine, _)| engine.as_str());
        if mode == Mode::Observe || engines.all(|engine| TRANSACTIONAL.contains(&engine)) {
            return Ok(());
        }
        let (of, table) = (self.field, self.name);
        Err(AttachError::Misfit(format!(
            "{of}.table: the engine of {table} has no transactions, so that a repair could be left half done: \
             ALTER TABLE {table} ENGINE = InnoDB, or write mode = \"observe\""
        )))
    }

    fn shape(&self, user: &str) -> Answer<TableShape> {
        let (of, table) = (self.field, self.name);
        let key = self.unique.iter().filter(|(index, _)| index == "primary");
        let key: Vec<String> = key.map(|(_, column)| column.clone()).collect();
        let kind = self.kind(user)?;
        let user_is_integer = INTEGERS.contains(&kind);
        let is_unordered = |name: &&String| self.kind(name).is_ok_and(|it| UNORDERED.contains(&it));
        let why = if key.is_empty() {
            format!(
                "{of}.table: {table} has no primary key, by which its rows are read in pages: add one"
            )
        } else if let Some(column) = key.iter().find(is_unordered) {
            format!(
                "{of}.table: the primary key of {table} has {column:?}, by whose type no pages can be read"
            )
        } else if !user_is_integer && !TEXTS.contains(&kind) {
            format!(
                "{of}.user: column {user:?} of {table} is {kind}; name a CHAR, VARCHAR or integer column"
            )
        } else {
            return Ok(TableShape {
                key,
                user_is_integer,
            });
        };
        Err(AttachError::Misfit(why))
    }

    /// Whether no index finds a user among the rows of the campaign.
    fn without_index(&self, target: &Target<'_>) -> Option<String> {
        let rows = &target.campaign.rows;
        let is_user = |it: &(String, String)| it.1.eq_ignore_ascii_case(&rows.user);
        let is_of = |it: &(String, String)| {
            let mut names = rows.of.keys();
            names.any(|name| name.eq_ignore_ascii_case(&it.1))
        };
        let mut indexes = self.indexes.chunk_by(|a, b| a.0 == b.0);
        let finds_user = indexes.any(|index| {
            let user = index.iter().find(|it| !is_of(it));
            user.is_some_and(is_user)
        });
        let why = format!(
            "no index of {} begins with {}: each repair reads all its rows",
            self.name, rows.user
        );
        (!finds_user).then_some(why)
    }

    /// Whether no unique key refuses a user's second row: one of the user, and of columns whose
    /// values are the same in all rows of the campaign. Then a repair needs to know what does.
    fn without_unique_key(&self, target: &Target<'_>) -> Answer<Option<String>> {
        let rows = &target.campaign.rows;
        // A unique key takes any number of NULLs.
        let same = rows.of.iter().filter(|it| !it.1.is_null()).map(|it| it.0);
        let columns: Vec<&String> = same.chain([&rows.user]).collect();
        let is_fixed = |name: &String| columns.iter().any(|it| it.eq_ignore_ascii_case(name));
        let has_user = |name: &String| rows.user.eq_ignore_ascii_case(name);
        let mut indexes = self.unique.chunk_by(|a, b| a.0 == b.0);
        let is_unique = indexes.any(|index| {
            index.iter().all(|it| is_fixed(&it.1)) && index.iter().any(|it| has_user(&it.1))
        });
        if is_unique {
            return Ok(None);
        }
        let names: Vec<&str> = columns.iter().map(|it| it.as_str()).collect();
        let (table, names) = (self.name, names.join(", "));
        let lacks = format!("{table} has no unique key on ({names})");
        match (target.campaign.mode, rows.duplicates) {
            (_, Some(Duplicates::Locked)) => Ok(None),
            (Mode::Observe, _) | (_, Some(Duplicates::Reported)) => Ok(Some(format!(
                "{lacks}: nothing refuses a user's second row, also of a message that comes late"
            ))),
            (Mode::Repair, None) => Err(AttachError::Misfit(format!(
                "{lacks}: add one (ALTER TABLE {table} ADD UNIQUE KEY ({names})), or write what prevents a second row: \
                 duplicates = \"locked\" (your writers lock the row of stock first) or \"reported\" (nothing)"
            ))),
        }
    }
}

/// Reads two columns about a table, in lower case.
async fn pairs(sql: &mut Sql, query: &str, table: &str) -> Answer<Vec<(String, String)>> {
    let rows = sql.rows(query, vec![Value::Bytes(table.into())]).await?;
    let pair = |row: &mysql_async::Row| (text(row, 0).to_lowercase(), text(row, 1).to_lowercase());
    Ok(rows.iter().map(pair).collect())
}

/// Names what was probably meant.
fn nearest(name: &str, all: &[(String, String)]) -> String {
    let name = name.to_lowercase();
    let distance = |other: &&(String, String)| strsim::damerau_levenshtein(&name, &other.0);
    let nearest = all.iter().min_by_key(distance);
    nearest
        .map(|(near, _)| format!("; the nearest is {near:?}"))
        .unwrap_or_default()
}
