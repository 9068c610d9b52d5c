//! Checks a campaign's mapping against `information_schema` and the types of its keys, at start and
//! before each pass: a mapping that does not fit is refused with the nearest name, before anything
//! is compared.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::{Row, Value};

use super::AttachError;
use super::config::{Campaign, Done, Duplicates, Mode, Scalar, Target};
use super::keys::Keys;
use super::sql::Sql;

/// What a pass must know about the tables of a campaign.
#[derive(Debug, Clone)]
pub struct Shape {
    pub rows: TableShape,
    pub failed: Option<TableShape>,
    /// Whether `rows.order` is a date or time, which a score counts in milliseconds.
    pub order_is_time: bool,
    /// No second row of a user can be written.
    pub is_unique: bool,
    /// Sentences for the operator.
    pub warnings: Vec<String>,
}

/// A table that is read by pages of its primary key.
#[derive(Debug, Clone)]
pub struct TableShape {
    /// The columns of the primary key.
    pub key: Vec<String>,
    /// Users are numbers, and are compared as numbers.
    pub user_is_integer: bool,
}

impl TableShape {
    /// Returns the value of a user, or `None` if the column cannot hold it: MySQL would take text
    /// that is no number for zero.
    pub fn user(&self, user: &str) -> Option<Value> {
        if !self.user_is_integer {
            return Some(Value::Bytes(user.into()));
        }
        let number = user.parse::<i128>().ok()?;
        let number = Some(number).filter(|number| number.to_string() == user)?;
        let signed = i64::try_from(number).ok().map(Value::Int);
        signed.or_else(|| u64::try_from(number).ok().map(Value::UInt))
    }
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: String,
    /// An inserted row needs a value.
    is_needed: bool,
}

const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
const TEXTS: [&str; 2] = ["char", "varchar"];
const TIMES: [&str; 3] = ["datetime", "timestamp", "date"];

/// The keys of an index by its name.
type Indexes = BTreeMap<String, (bool, Vec<String>)>;

struct Table<'a> {
    /// The field of the file that names it.
    field: &'a str,
    name: &'a str,
    columns: Vec<Column>,
    indexes: Indexes,
}

/// Checks one target.
///
/// # Errors
/// [`AttachError::Misfit`] with what to write, or that a store does not answer.
pub async fn check(target: &Target<'_>, sql: &mut Sql, keys: &mut Keys) -> Result<Shape, AttachError> {
    let campaign = target.campaign;
    let rows = Table::read(sql, "rows", &campaign.rows.table).await?;
    rows.of_campaign(campaign)?;
    let is_unique = rows.has_unique_user(campaign);
    let mut warnings = Vec::new();
    if !is_unique {
        warnings.extend(rows.without_unique_key(campaign)?);
    }
    if !campaign.rows.of.is_empty() && !rows.is_indexed(&campaign.rows.of) {
        let columns: Vec<&str> = campaign.rows.of.keys().map(String::as_str).collect();
        warnings.push(format!(
            "no index of {} begins with {}: each pass reads the whole table",
            rows.name,
            columns.join(" or ")
        ));
    }
    let order = campaign.rows.order.as_deref();
    let order = order.map(|name| rows.column("order", name)).transpose()?;
    let failed = match &campaign.failed {
        None => None,
        Some(failed) => {
            let table = Table::read(sql, "failed", &failed.table).await?;
            table.all("where", failed.of.keys())?;
            if let Done::Column(done) = &failed.done {
                table.column("done.column", &done.column)?;
            }
            Some(table.shape(&failed.user)?)
        }
    };
    if let Some(stock) = &campaign.stock {
        let table = Table::read(sql, "stock", &stock.table).await?;
        table.all("where", stock.of.keys())?;
        if let Some(left) = &stock.left {
            table.column("left", left)?;
        }
    }
    warnings.extend(keys.check(target).await?);
    Ok(Shape {
        rows: rows.shape(&campaign.rows.user)?,
        failed,
        order_is_time: order.is_some_and(|it| TIMES.contains(&it.kind.as_str())),
        is_unique,
        warnings,
    })
}

impl<'a> Table<'a> {
    async fn read(sql: &mut Sql, field: &'a str, name: &'a str) -> Result<Self, AttachError> {
        let of_table = "TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
        let values = || vec![Value::Bytes(name.into())];
        let query = format!(
            "SELECT COLUMN_NAME, DATA_TYPE, CAST(IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL \
             AND EXTRA NOT LIKE '%auto_increment%' AND EXTRA NOT LIKE '%GENERATED%' AS SIGNED) \
             FROM information_schema.COLUMNS WHERE {of_table} ORDER BY ORDINAL_POSITION"
        );
        let columns = sql.rows(&query, values()).await?;
        let columns: Vec<Column> = columns.iter().map(column).collect();
        if columns.is_empty() {
            let query = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";
            let names = sql.rows(query, Vec::new()).await?;
            let names: Vec<String> = names.iter().map(|row| text(row, 0)).collect();
            let near = nearest(name, names.iter().map(String::as_str));
            let why = format!("{field}.table: this database has no table {name:?}{near}");
            return Err(AttachError::Misfit(why));
        }
        let query = format!(
            "SELECT INDEX_NAME, COLUMN_NAME, CAST(NON_UNIQUE AS SIGNED) FROM information_schema.STATISTICS \
             WHERE {of_table} AND COLUMN_NAME IS NOT NULL ORDER BY INDEX_NAME, SEQ_IN_INDEX"
        );
        let mut indexes = Indexes::new();
        for row in sql.rows(&query, values()).await? {
            let (is_unique, columns) = indexes.entry(text(&row, 0)).or_default();
            *is_unique = number(&row, 2) == 0;
            columns.push(text(&row, 1).to_lowercase());
        }
        Ok(Self {
            field,
            name,
            columns,
            indexes,
        })
    }

    fn column(&self, field: &str, name: &str) -> Result<&Column, AttachError> {
        let mut columns = self.columns.iter();
        columns.find(|column| column.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let near = nearest(name, self.columns.iter().map(|column| column.name.as_str()));
            let (of, table) = (self.field, self.name);
            AttachError::Misfit(format!("{of}.{field}: table {table} has no column {name:?}{near}"))
        })
    }

    fn all<'n>(&self, field: &str, names: impl Iterator<Item = &'n String>) -> Result<(), AttachError> {
        for name in names {
            self.column(field, name)?;
        }
        Ok(())
    }

    fn shape(&self, user: &str) -> Result<TableShape, AttachError> {
        let (of, table) = (self.field, self.name);
        let key = self.indexes.get("PRIMARY").map(|(_, columns)| columns.clone());
        let no_key = || {
            AttachError::Misfit(format!(
                "{of}.table: {table} has no primary key, by which its rows are read page by page: add one"
            ))
        };
        let column = self.column("user", user)?;
        let kind = column.kind.as_str();
        let user_is_integer = INTEGERS.contains(&kind);
        if !user_is_integer && !TEXTS.contains(&kind) {
            let why = format!("{of}.user: column {user:?} of {table} is {kind}; name one of text or whole numbers");
            return Err(AttachError::Misfit(why));
        }
        Ok(TableShape {
            key: key.ok_or_else(no_key)?,
            user_is_integer,
        })
    }

    /// Checks the columns of `rows`; for repairs, also that an inserted row has all it needs.
    fn of_campaign(&self, campaign: &Campaign) -> Result<(), AttachError> {
        let rows = &campaign.rows;
        self.all("where", rows.of.keys())?;
        self.all("insert", rows.insert.keys())?;
        if campaign.mode == Mode::Observe {
            return Ok(());
        }
        let given: BTreeSet<String> = rows.of.keys().chain(rows.insert.keys()).chain([&rows.user])
            .map(|name| name.to_lowercase())
            .collect();
        let mut columns = self.columns.iter();
        match columns.find(|it| it.is_needed && !given.contains(&it.name.to_lowercase())) {
            None => Ok(()),
            Some(column) => Err(AttachError::Misfit(format!(
                "rows.insert: column {:?} of {} has no default, so a row needs a value: add it to insert ({{now}} is the time, {{uuid}} a new UUID)",
                column.name, self.name
            ))),
        }
    }

    /// Whether a unique key refuses a user's second row: the user, and columns whose values are the
    /// same in all rows of the campaign.
    fn has_unique_user(&self, campaign: &Campaign) -> bool {
        let user = campaign.rows.user.to_lowercase();
        let fixed: Vec<String> = campaign.rows.of.keys().map(|name| name.to_lowercase()).collect();
        self.indexes.values().any(|(is_unique, columns)| {
            *is_unique
                && columns.contains(&user)
                && columns.iter().all(|column| *column == user || fixed.contains(column))
        })
    }

    /// Without such a key, a repair needs to know how a second row is prevented.
    fn without_unique_key(&self, campaign: &Campaign) -> Result<Option<String>, AttachError> {
        let rows = &campaign.rows;
        let columns: Vec<&str> = rows.of.keys().chain([&rows.user]).map(String::as_str).collect();
        let (table, columns) = (self.name, columns.join(", "));
        let lacks = format!("{table} has no unique key on ({columns})");
        match (campaign.mode, rows.duplicates) {
            (Mode::Observe, _) => Ok(Some(format!("{lacks}: nothing refuses a user's second row"))),
            (Mode::Repair, Some(Duplicates::Reported)) => Ok(Some(format!(
                "{lacks}: a late message may write a second row for a user who was repaired; it is reported then"
            ))),
            (Mode::Repair, Some(Duplicates::Locked)) => Ok(None),
            (Mode::Repair, None) => Err(AttachError::Misfit(format!(
                "{lacks}: add one (ALTER TABLE {table} ADD UNIQUE KEY ({columns})), or write how a second row is prevented: \
                 rows.duplicates = \"locked\" (your writers lock the row of stock first) or \"reported\" (it is not)"
            ))),
        }
    }

    fn is_indexed(&self, of: &BTreeMap<String, Scalar>) -> bool {
        let fixed: Vec<String> = of.keys().map(|name| name.to_lowercase()).collect();
        let mut indexes = self.indexes.values();
        indexes.any(|(_, columns)| columns.first().is_some_and(|first| fixed.contains(first)))
    }
}

fn column(row: &Row) -> Column {
    Column {
        name: text(row, 0),
        kind: text(row, 1).to_lowercase(),
        is_needed: number(row, 2) == 1,
    }
}

pub fn text(row: &Row, at: usize) -> String {
    let text = row.get_opt::<Option<Vec<u8>>, _>(at).and_then(Result::ok).flatten();
    String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
}

pub fn number(row: &Row, at: usize) -> i64 {
    row.get_opt::<Option<i64>, _>(at).and_then(Result::ok).flatten().unwrap_or_default()
}

/// Names what was probably meant.
fn nearest<'n>(name: &str, all: impl Iterator<Item = &'n str>) -> String {
    let distance = |other: &&str| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let nearest = all.min_by_key(distance);
    nearest.map(|near| format!("; the nearest is {near:?}")).unwrap_or_default()
}
