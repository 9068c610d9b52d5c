//! Checks a campaign's mapping against `information_schema` and the types of its keys, before each
//! pass: a mapping that does not fit is refused with the nearest name, before anything is compared.

use std::collections::BTreeSet;

use mysql_async::{Row, Value};
use uuid::Uuid;

use crate::config::{Campaign, Columns, Done, Duplicates, Mode, Scalar, StockRow, Target};
use crate::keys::Keys;
use crate::sql::{Sql, quoted, text};
use crate::{Answer, AttachError};

/// What a pass must know about the tables of a campaign.
#[derive(Debug, Clone)]
pub struct Shape {
    pub rows: TableShape,
    pub failed: Option<TableShape>,
    pub stock: Option<TableShape>,
    /// Whether `rows.order` is a date or time, which a score counts in milliseconds.
    pub order_is_time: bool,
    /// A sentence for the operator: what does not prevent a user's second row.
    pub warning: Option<String>,
    /// Other ones: what makes passes slow, what may change later.
    pub notes: Vec<String>,
}

/// A table that is read by pages of its primary key.
#[derive(Debug, Clone, Default)]
pub struct TableShape {
    /// The columns of the primary key.
    pub key: Vec<String>,
    user: UserColumn,
    /// Columns in `BINARY(16)`, whose values are UUIDs.
    uuids: BTreeSet<String>,
}

/// How the column of users holds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum UserColumn {
    #[default]
    Text,
    /// Numbers are compared as numbers.
    Integer,
    /// 16 bytes.
    Uuid,
}

impl TableShape {
    /// Returns the value of a user, or `None` if the column cannot hold it as it is written.
    pub fn user(&self, user: &str) -> Option<Value> {
        let value = self.like(user)?;
        let is_number = || user.parse().is_ok_and(|it: i128| it.to_string() == user);
        let is_kept = self.user != UserColumn::Integer || is_number();
        is_kept.then_some(value)
    }

    /// Returns the value with which a user compares as equal, such as 7 for `007`. MySQL itself
    /// would take text that is no number for zero.
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

    /// Selects the users of this column as text.
    pub fn selected(&self, user: &str) -> String {
        match self.user {
            UserColumn::Text | UserColumn::Integer => format!("CAST({} AS CHAR)", quoted(user)),
            UserColumn::Uuid => format!("LOWER(HEX({}))", quoted(user)),
        }
    }

    /// Returns a user that was selected, as it is written in Redis.
    pub fn user_of(&self, row: &Row, at: usize) -> String {
        let text = text(row, at);
        match self.user {
            UserColumn::Text | UserColumn::Integer => text,
            UserColumn::Uuid => Uuid::parse_str(&text).map_or(text, |uuid| uuid.to_string()),
        }
    }

    /// What is wrong with a user, if the column cannot hold it.
    pub fn why_not(&self) -> &'static str {
        match self.user {
            UserColumn::Text => "the column of users cannot hold it",
            UserColumn::Integer => "the column of users takes whole numbers only",
            UserColumn::Uuid => "the column of users takes UUIDs only",
        }
    }

    /// Whether the values of a column are UUIDs in 16 bytes.
    pub fn is_uuid(&self, column: &str) -> bool {
        self.uuids.contains(&column.to_lowercase())
    }
}

/// The 16 bytes of a UUID.
pub fn uuid(text: &str) -> Option<Value> {
    let uuid = Uuid::try_parse(text).ok()?;
    Some(Value::Bytes(uuid.as_bytes().to_vec()))
}

const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
const TEXTS: [&str; 2] = ["char", "varchar"];
/// Types whose values MySQL sorts otherwise than it compares them.
const UNORDERED: [&str; 4] = ["enum", "set", "bit", "float"];
/// Engines in which a row can be taken back.
const TRANSACTIONAL: [&str; 3] = ["innodb", "ndbcluster", "rocksdb"];
const TIMES: [&str; 3] = ["datetime", "timestamp", "date"];
/// Parts of the names of columns that change after a row was inserted.
const CHANGING: [&str; 8] = [
    "status", "state", "used", "active", "valid", "redeem", "expired", "enabled",
];
/// Parts of the names of columns that count coupons.
const COUNTING: [&str; 8] = [
    "left", "remain", "avail", "issued", "given", "sold", "used", "count",
];

/// Columns of `where` whose values change later, as a status does.
pub fn changing(of: &Columns) -> Vec<&String> {
    let columns = of.iter().filter(|(name, value)| {
        let is_flag = value.all().iter().any(|it| matches!(it, Scalar::Flag(_)));
        !value.is_null() && (is_flag || has_part(name, &CHANGING))
    });
    columns.map(|it| it.0).collect()
}

fn has_part(name: &str, parts: &[&str]) -> bool {
    let name = name.to_lowercase();
    parts.iter().any(|part| name.contains(part))
}

/// Checks one target.
///
/// # Errors
/// [`AttachError::Misfit`] with what to write, or that a store does not answer.
pub async fn check(target: &Target<'_>, sql: &mut Sql, keys: &mut Keys) -> Answer<Shape> {
    let campaign = target.campaign;
    let rows = Table::read(sql, "rows", &campaign.rows.table).await?;
    let of = &campaign.rows;
    rows.must_have(
        of.of
            .keys()
            .chain(of.insert.keys())
            .chain([&of.user])
            .chain(&of.order),
    )?;
    let order = of.order.as_ref().map(|name| rows.kind(name)).transpose()?;
    let rows_shape = rows.shape(&of.user)?;
    rows.must_be_uuids(&rows_shape, &of.of)?;
    let mut notes: Vec<String> = rows.without_index(campaign).into_iter().collect();
    notes.extend(changes_later(&campaign.rows.of));
    let failed = match &campaign.failed {
        None => None,
        Some(failed) => {
            let table = Table::read(sql, "failed", &failed.table).await?;
            let column = match &failed.done {
                Done::Column { column, .. } => Some(column),
                Done::Word(_) => None,
            };
            let of = failed.of();
            table.must_have(of.keys().chain([&failed.user]).chain(column))?;
            table.must_be_transactional(campaign.mode)?;
            let shape = table.shape(&failed.user)?;
            table.must_be_uuids(&shape, &of)?;
            Some(shape)
        }
    };
    let stock = match &campaign.stock {
        None => None,
        Some(stock) => {
            let table = Table::read(sql, "stock", &stock.table).await?;
            table.must_have(stock.of.keys().chain(&stock.left).chain(&stock.given))?;
            table.must_be_transactional(campaign.mode)?;
            table.must_not_count(stock, campaign)?;
            Some(TableShape {
                uuids: table.uuids(),
                ..TableShape::default()
            })
        }
    };
    rows.must_be_transactional(campaign.mode)?;
    rows.must_take_rows(campaign)?;
    keys.check(target).await?;
    Ok(Shape {
        warning: rows.without_unique_key(campaign)?,
        rows: rows_shape,
        failed,
        stock,
        order_is_time: order.is_some_and(|kind| TIMES.contains(&kind)),
        notes,
    })
}

fn changes_later(of: &Columns) -> Option<String> {
    let columns = changing(of).into_iter();
    let single: Vec<&str> = columns
        .filter(|name| of.get(*name).is_some_and(|it| it.all().len() == 1))
        .map(String::as_str)
        .collect();
    let why = format!(
        "rows.where: {} may change after a coupon is issued, and its row would count as lost: \
        write all values of issued coupons, such as [\"ISSUED\", \"USED\"]",
        single.join(", ")
    );
    (!single.is_empty()).then_some(why)
}

/// A table, its columns, and its indexes.
struct Table<'a> {
    /// The field of the file that names it.
    field: &'a str,
    name: &'a str,
    engine: String,
    columns: Vec<Column>,
    /// A trigger may fill columns that have no default.
    has_triggers: bool,
    indexes: Vec<IndexPart>,
}

/// Its texts are in lower case.
struct Column {
    name: String,
    kind: String,
    bytes: u64,
    /// An INSERT without it fails.
    needs_value: bool,
    is_generated: bool,
}

struct IndexPart {
    index: String,
    column: String,
    is_unique: bool,
}

const COLUMNS: &str = "SELECT LOWER(COLUMN_NAME), LOWER(DATA_TYPE), \
    CAST(COALESCE(CHARACTER_OCTET_LENGTH, 0) AS CHAR), \
    CAST(IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL AND EXTRA NOT LIKE '%auto_increment%' \
      AND EXTRA NOT LIKE '%GENERATED%' AS CHAR), \
    CAST(EXTRA LIKE '% GENERATED%' AS CHAR) \
    FROM information_schema.COLUMNS \
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";

const INDEXES: &str = "SELECT LOWER(INDEX_NAME), LOWER(COLUMN_NAME), CAST(NON_UNIQUE = 0 AS CHAR) \
    FROM information_schema.STATISTICS \
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY INDEX_NAME, SEQ_IN_INDEX";

const TABLE: &str = "SELECT TABLE_TYPE, COALESCE(ENGINE, ''), \
    CAST(EXISTS (SELECT 1 FROM information_schema.TRIGGERS \
      WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = TABLE_NAME \
        AND ACTION_TIMING = 'BEFORE' AND EVENT_MANIPULATION = 'INSERT') AS CHAR) \
    FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";

impl<'a> Table<'a> {
    async fn read(sql: &mut Sql, field: &'a str, name: &'a str) -> Answer<Self> {
        let of_name = || vec![Value::Bytes(name.into())];
        let is = |row: &Row, at| text(row, at) == "1";
        let found = sql.rows(TABLE, of_name()).await?;
        let Some(table) = found.first() else {
            let tables = sql
                .rows(
                    "SELECT TABLE_NAME FROM information_schema.TABLES \
                WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME <> ?",
                    of_name(),
                )
                .await?;
            let near = nearest(name, tables.iter().map(|row| text(row, 0)));
            let why = format!("{field}.table: this database has no table {name:?}{near}");
            return Err(AttachError::Misfit(why));
        };
        if text(table, 0).contains("VIEW") {
            return Err(AttachError::Misfit(format!(
                "{field}.table: {name:?} is a view, whose rows have no primary key: name its table"
            )));
        }
        let column_rows = sql.rows(COLUMNS, of_name()).await?;
        let columns = column_rows.iter().map(|row| Column {
            name: text(row, 0),
            kind: text(row, 1),
            bytes: text(row, 2).parse().unwrap_or_default(),
            needs_value: is(row, 3),
            is_generated: is(row, 4),
        });
        let index_rows = sql.rows(INDEXES, of_name()).await?;
        let indexes = index_rows.iter().map(|row| IndexPart {
            index: text(row, 0),
            column: text(row, 1),
            is_unique: is(row, 2),
        });
        Ok(Self {
            field,
            name,
            engine: text(table, 1).to_lowercase(),
            columns: columns.collect(),
            has_triggers: is(table, 2),
            indexes: indexes.collect(),
        })
    }

    fn misfit(&self, part: &str, why: &str) -> AttachError {
        AttachError::Misfit(format!("{}{part}: {why}", self.field))
    }

    fn column(&self, name: &str) -> Option<&Column> {
        let mut columns = self.columns.iter();
        columns.find(|it| it.name == name.to_lowercase())
    }

    /// Returns the type of a column.
    fn kind(&self, name: &str) -> Answer<&str> {
        self.must_have([&name.to_owned()].into_iter())?;
        Ok(self.column(name).map_or("", |it| it.kind.as_str()))
    }

    /// Refuses names that are no columns, all at once.
    fn must_have<'n>(&self, names: impl Iterator<Item = &'n String>) -> Answer<()> {
        let missing: Vec<String> = names
            .filter(|name| self.column(name).is_none())
            .map(|name| {
                let near = nearest(name, self.columns.iter().map(|it| it.name.clone()));
                format!("{name:?}{near}")
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "table {} has no column {}",
            self.name,
            missing.join(", no column ")
        );
        Err(self.misfit("", &why))
    }

    /// Columns whose values are UUIDs in 16 bytes.
    fn uuids(&self) -> BTreeSet<String> {
        let columns = self
            .columns
            .iter()
            .filter(|it: &&Column| it.kind == "binary" && it.bytes == 16);
        columns.map(|it| it.name.clone()).collect()
    }

    /// Refuses values of `BINARY(16)` columns that are no UUIDs: they would select nothing.
    fn must_be_uuids(&self, shape: &TableShape, of: &Columns) -> Answer<()> {
        for (name, value) in of.iter().filter(|it| shape.is_uuid(it.0)) {
            let mut values = value.all().iter().filter(|it| !it.is_null());
            if !values.all(|it| it.text().is_some_and(|text| uuid(text).is_some())) {
                let why = format!(
                    "column {name:?} of {} is BINARY(16): write a UUID",
                    self.name
                );
                return Err(self.misfit(".where", &why));
            }
        }
        Ok(())
    }

    /// Repairs need to lock rows, and to take them back.
    fn must_be_transactional(&self, mode: Mode) -> Answer<()> {
        if mode == Mode::Observe || TRANSACTIONAL.contains(&self.engine.as_str()) {
            return Ok(());
        }
        let table = self.name;
        let why = format!(
            "the engine of {table} has no transactions, so that a repair could be left half done: \
             ALTER TABLE {table} ENGINE = InnoDB, or write mode = \"observe\""
        );
        Err(self.misfit(".table", &why))
    }

    /// Names every column that a repair could not fill, before any is tried.
    fn must_take_rows(&self, campaign: &Campaign) -> Answer<()> {
        if campaign.mode == Mode::Observe {
            return Ok(());
        }
        let rows = &campaign.rows;
        let names = rows.of.keys().chain(rows.insert.keys());
        let given: Vec<String> = names
            .chain([&rows.user])
            .map(|it| it.to_lowercase())
            .collect();
        let is_given = |it: &&Column| given.contains(&it.name);
        let quoted = |it: &Column| format!("{:?}", it.name);
        let made: Vec<String> = self
            .columns
            .iter()
            .filter(|it| it.is_generated)
            .filter(is_given)
            .map(quoted)
            .collect();
        if !made.is_empty() {
            let why = format!(
                "column {} of {} is generated, so no row can be inserted with it: \
                select by the columns that it is made of",
                made.join(", "),
                self.name
            );
            return Err(self.misfit(".where", &why));
        }
        let needed: Vec<String> = self
            .columns
            .iter()
            .filter(|it| it.needs_value && !is_given(it))
            .map(quoted)
            .collect();
        if needed.is_empty() || self.has_triggers {
            return Ok(());
        }
        let why = format!(
            "a repair could insert no row: {} has no default for {}. Write a value for each, such as \
             \"{{now}}\", \"{{uuid}}\" or \"{{random:16}}\", or give the column a DEFAULT",
            self.name,
            needed.join(", ")
        );
        Err(self.misfit(".insert", &why))
    }

    /// Refuses a stock row with a column that seems to count, but is not described: it would keep
    /// its old number beside each row that a repair inserts, and their consumers would sell on.
    fn must_not_count(&self, stock: &StockRow, campaign: &Campaign) -> Answer<()> {
        let is_said = stock.column().is_some() || stock.counts.is_some();
        if is_said || campaign.mode == Mode::Observe {
            return Ok(());
        }
        let is_counter =
            |it: &&Column| INTEGERS.contains(&it.kind.as_str()) && has_part(&it.name, &COUNTING);
        let is_selected = |it: &Column| {
            stock
                .of
                .keys()
                .any(|name| name.eq_ignore_ascii_case(&it.name))
        };
        let mut counters = self.columns.iter().filter(is_counter);
        let Some(counter) = counters.find(|it| !is_selected(it)) else {
            return Ok(());
        };
        let why = format!(
            "column {0:?} of {1} seems to count coupons: write left = {0:?} or given = {0:?}, so \
            that it moves with each row that a repair inserts, or counts = false",
            counter.name, self.name
        );
        Err(self.misfit("", &why))
    }

    fn shape(&self, user: &str) -> Answer<TableShape> {
        let table = self.name;
        let key: Vec<String> = self
            .indexes
            .iter()
            .filter(|it| it.index == "primary")
            .map(|it| it.column.clone())
            .collect();
        let kind = self.kind(user)?;
        let uuids = self.uuids();
        if key.is_empty() {
            let why =
                format!("{table} has no primary key, by which its rows are read in pages: add one");
            return Err(self.misfit(".table", &why));
        }
        if let Some(column) = key
            .iter()
            .find(|name: &&String| self.kind(name).is_ok_and(|it| UNORDERED.contains(&it)))
        {
            let why = format!(
                "the primary key of {table} has {column:?}, by whose type no pages can be read"
            );
            return Err(self.misfit(".table", &why));
        }
        let column = if INTEGERS.contains(&kind) {
            UserColumn::Integer
        } else if TEXTS.contains(&kind) {
            UserColumn::Text
        } else if uuids.contains(&user.to_lowercase()) {
            UserColumn::Uuid
        } else {
            let why = format!(
                "column {user:?} of {table} is {kind}; name a CHAR, VARCHAR, BINARY(16) or \
                integer column"
            );
            return Err(self.misfit(".user", &why));
        };
        Ok(TableShape {
            key,
            user: column,
            uuids,
        })
    }

    /// Whether no index finds a user among the rows of the campaign.
    fn without_index(&self, campaign: &Campaign) -> Option<String> {
        let rows = &campaign.rows;
        let is_of = |it: &IndexPart| {
            rows.of
                .keys()
                .any(|name| name.eq_ignore_ascii_case(&it.column))
        };
        let mut indexes = self.indexes.chunk_by(|a, b| a.index == b.index);
        let finds_user = indexes.any(|index| {
            let user = index.iter().find(|it| !is_of(it));
            user.is_some_and(|it| it.column.eq_ignore_ascii_case(&rows.user))
        });
        let why = format!(
            "no index of {} begins with {}: each repair reads all its rows",
            self.name, rows.user
        );
        (!finds_user).then_some(why)
    }

    /// Whether no unique key refuses a user's second row: one of the user, and of columns whose
    /// values are the same in all rows of the campaign. Then a repair needs to know what does.
    fn without_unique_key(&self, campaign: &Campaign) -> Answer<Option<String>> {
        let rows = &campaign.rows;
        // A unique key takes any number of NULLs.
        let is_same = |value: &Scalar| !value.is_null() && value.all().len() == 1;
        let same = rows.of.iter().filter(|it| is_same(it.1)).map(|it| it.0);
        let columns: Vec<&String> = same.chain([&rows.user]).collect();
        let is_fixed = |name: &str| columns.iter().any(|it| it.eq_ignore_ascii_case(name));
        let unique: Vec<&IndexPart> = self.indexes.iter().filter(|it| it.is_unique).collect();
        let mut indexes = unique.chunk_by(|a, b| a.index == b.index);
        let is_unique = indexes.any(|index| {
            let mut columns = index.iter();
            columns.all(|it| is_fixed(&it.column))
                && index
                    .iter()
                    .any(|it| rows.user.eq_ignore_ascii_case(&it.column))
        });
        if is_unique {
            return Ok(None);
        }
        let names: Vec<&str> = columns.iter().map(|it| it.as_str()).collect();
        let table = self.name;
        let names = names.join(", ");
        let lacks = format!("{table} has no unique key on ({names})");
        match (campaign.mode, rows.duplicates) {
            (_, Some(Duplicates::Locked)) => Ok(None),
            (Mode::Observe, _) | (_, Some(Duplicates::Reported)) => Ok(Some(format!(
                "{lacks}: nothing refuses a user's second row, also of a message that comes late"
            ))),
            (Mode::Repair, None) => Err(AttachError::Misfit(format!(
                "{lacks}: add one (ALTER TABLE {table} ADD UNIQUE KEY ({names})), or write what \
                prevents a second row: duplicates = \"locked\" (your writers lock the row of \
                stock first) or \"reported\" (nothing)"
            ))),
        }
    }
}

/// Names what was probably meant.
fn nearest(name: &str, all: impl Iterator<Item = String>) -> String {
    let name = name.to_lowercase();
    let nearest =
        all.min_by_key(|other: &String| strsim::damerau_levenshtein(&name, &other.to_lowercase()));
    nearest
        .map(|near| format!("; the nearest is {near:?}"))
        .unwrap_or_default()
}
