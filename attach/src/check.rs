//! Checks a campaign's mapping against its tables and the types of its keys before each pass.
//! Unknown tables are reported first, then all other misfits together, before anything is compared.
//! An unknown name is reported with the nearest one.

use crate::config::{
    Campaign, Columns, Done, Duplicates, FailedTable, Mode, Scalar, StockRow, Target, has_part,
    may_be_taken_back,
};
use crate::keys::Keys;
use crate::sample::Unnamed;
use crate::schema::{Column, IndexPart, MadeKind, Table, is_among};
use crate::shape::{Shape, TableShape, UserColumn, uuid};
use crate::sql::{Sql, quoted};
use crate::{Answer, AttachError, schema};

const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
const TEXTS: [&str; 2] = ["char", "varchar"];
/// Other types whose values MySQL compares with a number as numbers: `'Y'` as 0, and `'7-gift'` as
/// 7. An ENUM is compared by the place of its value.
const OTHER_TEXTS: [&str; 12] = [
    "tinytext",
    "text",
    "mediumtext",
    "longtext",
    "enum",
    "set",
    "binary",
    "varbinary",
    "tinyblob",
    "blob",
    "mediumblob",
    "longblob",
];
/// Types of numbers beside integers.
const OTHER_NUMBERS: [&str; 5] = ["decimal", "float", "double", "bit", "year"];
/// Types whose values MySQL compares otherwise than it sorts them, so that a table cannot be read
/// in pages by such a column.
const UNORDERED: [&str; 4] = ["enum", "set", "bit", "float"];
const TIMES: [&str; 3] = ["datetime", "timestamp", "date"];
/// Parts of column names which suggest that the column counts coupons.
const COUNTING: [&str; 8] = [
    "left", "remain", "avail", "issued", "given", "sold", "used", "count",
];
/// Parts that suggest the same, unless the name also has a part that suggests a constant number.
const STOCKS: [&str; 3] = ["stock", "quantity", "qty"];
const STAYING: [&str; 5] = ["total", "max", "limit", "initial", "_id"];

/// Names of columns that probably say how many coupons a row is for.
const QUANTITIES: [&str; 2] = ["quantity", "qty"];

/// Returns the first integer column whose name matches and that `selected` does not fix.
fn free_number<'t>(
    table: &'t Table,
    selected: &Columns,
    is_named: impl Fn(&str) -> bool,
) -> Option<&'t Column> {
    table.columns.iter().find(|column: &&Column| {
        INTEGERS.contains(&column.kind.as_str())
            && is_named(&column.name)
            && !is_among(&column.name, selected.keys())
    })
}

/// Checks one target.
///
/// # Errors
/// [`AttachError::Misfit`] lists the unknown tables, or else all other misfits, with what to write.
/// Any other error comes from a store that refuses a query or does not answer.
pub async fn check(target: &Target<'_>, sql: &mut Sql, keys: &mut Keys) -> Answer<Shape> {
    let campaign = target.campaign;
    let rows = ("rows", campaign.rows.table.as_str());
    let failed = campaign
        .failed
        .as_ref()
        .map(|it| ("failed", it.table.as_str()));
    let stock = campaign
        .stock
        .as_ref()
        .map(|it| ("stock", it.table.as_str()));
    let fields: Vec<(&str, &str)> = [rows].into_iter().chain(failed).chain(stock).collect();
    let names: Vec<&str> = fields.iter().map(|it| it.1).collect();
    let tables = schema::read(sql, &names).await?;
    must_be_tables(sql, &fields, &tables).await?;
    let mut rules = Rules {
        target,
        mode: campaign.mode,
        misfits: Vec::new(),
    };
    let mut shape = rules.shape(campaign, &tables);
    match rules.must_be_named(sql, &tables, target).await {
        // The query failed because of a misfit that is already listed, such as an unknown column.
        Err(AttachError::Refused { .. }) if !rules.misfits.is_empty() => {}
        notes => {
            let notes = notes?;
            if let Some(shape) = &mut shape {
                shape.notes.extend(notes);
            }
        }
    }
    if campaign.mode == Mode::Repair {
        rules.misfits.extend(denied(target, sql).await?);
    }
    match keys.check(target).await {
        Err(AttachError::Misfit(why)) => rules.misfits.push(why),
        checked => checked?,
    }
    match shape {
        Some(shape) if rules.misfits.is_empty() => Ok(shape),
        _ => Err(AttachError::Misfit(rules.misfits.join("; "))),
    }
}

/// Refuses views and unknown tables, and says what to write instead.
async fn must_be_tables(sql: &mut Sql, fields: &[(&str, &str)], tables: &[Table]) -> Answer<()> {
    let mut misfits = Vec::new();
    for (field, name) in fields {
        match find(tables, name) {
            Some(table) if table.is_view => {
                let of = schema::tables_of_view(sql, &table.name).await.join(" or ");
                misfits.push(format!(
                    "{field}.table: {name:?} is a view, whose rows have no primary key: name its \
                    table {of}"
                ));
            }
            Some(_) => {}
            None => {
                let near = nearest(name, schema::names(sql).await?.into_iter());
                misfits.push(format!(
                    "{field}.table: this database has no table {name:?}{near}"
                ));
            }
        }
    }
    if misfits.is_empty() {
        return Ok(());
    }
    Err(AttachError::Misfit(misfits.join("; ")))
}

fn find<'t>(tables: &'t [Table], name: &str) -> Option<&'t Table> {
    let mut tables = tables.iter();
    tables.find(|it| it.name.eq_ignore_ascii_case(name))
}

/// Asks their server whether our login may lock and delete as repairs do, without changing
/// anything. The answer covers rights on whole tables and rights granted through roles.
async fn denied(target: &Target<'_>, sql: &mut Sql) -> Answer<Vec<String>> {
    let campaign = target.campaign;
    let mut statements = Vec::new();
    if let Some(stock) = &campaign.stock {
        let table = quoted(&stock.table);
        let lock = format!("SELECT 1 FROM {table} WHERE FALSE FOR UPDATE");
        statements.push(("stock", lock));
    }
    if let Some(failed) = &campaign.failed
        && let Done::Word(_) = failed.done
    {
        let table = quoted(&failed.table);
        let delete = format!("EXPLAIN DELETE FROM {table} WHERE FALSE");
        statements.push(("failed", delete));
    }
    let mut misfits = Vec::new();
    for (field, statement) in statements {
        match sql.command(&statement).await {
            Ok(()) => {}
            Err(AttachError::Refused { code, why }) if NO_RIGHT.contains(&code) => {
                misfits.push(format!("{field}.table: {why}: grant it"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(misfits)
}

/// MySQL's errors for a missing right on a table and on a column.
const NO_RIGHT: [u16; 2] = [1142, 1143];

fn changes_later(campaign: &Campaign) -> Option<String> {
    let single: Vec<&str> = campaign
        .changing()
        .into_iter()
        .filter(|name| {
            let of = &campaign.rows.of;
            of.get(*name)
                .is_some_and(|it| it.all().len() == 1 && !it.may_be_null())
        })
        .map(String::as_str)
        .collect();
    let why = format!(
        "rows.where: {} may change after a coupon is issued, and its row would count as lost: \
        write all values of issued coupons, such as [\"ISSUED\", \"USED\"]",
        single.join(", ")
    );
    (!single.is_empty()).then_some(why)
}

/// Checks tables, and collects what does not fit.
struct Rules<'a> {
    target: &'a Target<'a>,
    mode: Mode,
    misfits: Vec<String>,
}

impl Rules<'_> {
    fn refuse(&mut self, field: &str, why: &str) {
        self.misfits.push(format!("{field}: {why}"));
    }

    /// Checks all tables of a campaign. Returns `None` if the rows cannot even be read.
    fn shape(&mut self, campaign: &Campaign, tables: &[Table]) -> Option<Shape> {
        let rows = find(tables, &campaign.rows.table)?;
        let of = &campaign.rows;
        let read: Vec<&String> = of.of.keys().chain([&of.user]).chain(&of.order).collect();
        let others = of.insert.keys().chain(&of.ignore);
        self.must_have("rows", rows, read.iter().copied().chain(others));
        self.must_allow("rows", rows, "select", &read);
        let rows_shape = self.table_shape("rows", rows, &of.user);
        self.must_compare("rows.where", rows, &of.of);
        let mut warning = None;
        self.must_be_one_each(rows, campaign);
        if campaign.inserts_rows() {
            self.must_be_transactional("rows", rows);
            self.must_take_rows(rows, campaign);
            warning = self.without_unique_key(rows, campaign);
        }
        // A table without a shape already has a misfit.
        let failed = campaign.failed.as_ref().and_then(|failed| {
            let table = find(tables, &failed.table)?;
            self.failed_shape(table, failed)
        });
        let stock = campaign.stock.as_ref().and_then(|stock| {
            let table = find(tables, &stock.table)?;
            Some(self.stock_shape(table, stock))
        });
        let order = of.order.as_ref().and_then(|name| rows.column(name));
        let notes = [
            without_index(rows, campaign),
            changes_later(campaign),
            narrow_charset(rows, &of.user),
        ];
        Some(Shape {
            warning,
            rows: rows_shape?,
            failed,
            stock,
            unselected: unselected(rows, campaign),
            has_order: of.order.is_some() || rows.is_in_order(),
            order_is_time: order.is_some_and(|it| TIMES.contains(&it.kind.as_str())),
            notes: notes.into_iter().flatten().collect(),
        })
    }

    fn failed_shape(&mut self, table: &Table, failed: &FailedTable) -> Option<TableShape> {
        let column = match &failed.done {
            Done::Column { column, .. } => Some(column),
            Done::Word(_) => None,
        };
        let of = failed.selection();
        let read: Vec<&String> = of
            .keys()
            .chain(failed.skip.keys())
            .chain([&failed.user])
            .chain(column)
            .collect();
        let named = read.iter().copied().chain(&failed.ignore);
        self.must_have("failed", table, named);
        self.must_allow("failed", table, "select", &read);
        if let (Some(column), Mode::Repair) = (column, self.mode) {
            self.must_allow("failed", table, "update", &[column]);
        }
        if let Done::Column { column, value } = &failed.done {
            let marks = Columns::from([(column.clone(), value.clone())]);
            self.must_take_times("failed.done", table, &marks);
            self.must_compare("failed.done", table, &marks);
        }
        self.must_be_transactional("failed", table);
        self.must_compare("failed.where", table, &of);
        self.must_compare("failed.skip", table, &failed.skip);
        self.table_shape("failed", table, &failed.user)
    }

    fn stock_shape(&mut self, table: &Table, stock: &StockRow) -> TableShape {
        let counts = stock.left.iter().chain(&stock.given);
        let read: Vec<&String> = stock.of.keys().chain(counts.clone()).collect();
        self.must_have("stock", table, read.iter().copied());
        self.must_allow("stock", table, "select", &read);
        if self.mode == Mode::Repair {
            let written: Vec<&String> = counts.collect();
            self.must_allow("stock", table, "update", &written);
        }
        self.must_be_transactional("stock", table);
        self.must_compare("stock.where", table, &stock.of);
        self.must_not_count(table, stock);
        TableShape::plain(table)
    }

    /// Refuses names of columns that do not exist.
    fn must_have<'n>(
        &mut self,
        field: &str,
        table: &Table,
        names: impl Iterator<Item = &'n String>,
    ) {
        let missing: Vec<String> = names
            .filter(|name| table.column(name).is_none())
            .map(|name| {
                let near = nearest(name, table.columns.iter().map(|it| it.name.clone()));
                format!("{name:?}{near}")
            })
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(", no column ");
            let why = format!("table {} has no column {missing}", table.name);
            self.refuse(field, &why);
        }
    }

    /// Refuses columns on which our login lacks a right.
    fn must_allow(&mut self, field: &str, table: &Table, right: &str, columns: &[&String]) {
        let lacks = |it: &&&String| {
            let column = table.column(it);
            column.is_some_and(|column| !column.may(right))
        };
        let denied: Vec<&str> = columns.iter().filter(lacks).map(|it| it.as_str()).collect();
        if !denied.is_empty() {
            let why = format!(
                "the login of `database` lacks {} on column {} of {}: grant it",
                right.to_uppercase(),
                denied.join(", "),
                table.name
            );
            self.refuse(field, &why);
        }
    }

    /// Refuses values that MySQL would compare otherwise than the file means: they would select
    /// nothing, or other rows as well.
    fn must_compare(&mut self, field: &str, table: &Table, of: &Columns) {
        for (name, value) in of {
            let Some(column) = table.column(name) else {
                continue;
            };
            if let Some(to_do) = self.not_comparable(column, value) {
                let why = format!("column {name:?} of {} is {to_do}", table.name);
                self.refuse(field, &why);
            }
        }
    }

    /// Returns the column's type, and what to write instead, if it does not fit the values.
    fn not_comparable(&self, column: &Column, value: &Scalar) -> Option<String> {
        let kind = column.kind.as_str();
        // `{now}` in `done` is compared as NULL.
        let all = value.all().iter();
        let mut values = all.filter(|it| !it.is_null() && it.days_from_now().is_none());
        if column.made_kind() == Some(MadeKind::Uuid) {
            let is_uuid = |it: &Scalar| it.text().is_some_and(|text| uuid(text).is_some());
            return (!values.all(is_uuid)).then(|| "BINARY(16): write a UUID".to_owned());
        }
        if TEXTS.contains(&kind) || OTHER_TEXTS.contains(&kind) {
            let example = values.find_map(|it| match it {
                Scalar::Flag(true) => Some("Y".to_owned()),
                Scalar::Flag(false) => Some("N".to_owned()),
                Scalar::Number(number) => Some(number.to_string()),
                Scalar::Text(_) | Scalar::AnyOf(_) => None,
            })?;
            return Some(format!(
                "{kind}, which MySQL compares with a number or true as a number: write the text \
                that it stores, such as {example:?}"
            ));
        }
        let is_number = INTEGERS.contains(&kind) || OTHER_NUMBERS.contains(&kind);
        let mut texts = values.filter_map(Scalar::text).filter(|_| is_number);
        let word = texts.find(|text| !self.is_number(text))?;
        Some(format!(
            "{kind}, with which MySQL compares the first digits of {word:?}, or 0: write a number"
        ))
    }

    /// Whether a text of the file is a number, such as `{date:%Y%m%d}`.
    fn is_number(&self, text: &str) -> bool {
        let number = self.target.fill(text).parse::<f64>();
        number.is_ok_and(f64::is_finite)
    }

    /// Refuses to repair if a column that the file does not name seems to tell campaigns apart, or
    /// would be NULL only in the rows of repairs. In mode `observe`, returns notes about the first
    /// case instead.
    async fn must_be_named(
        &mut self,
        sql: &mut Sql,
        tables: &[Table],
        target: &Target<'_>,
    ) -> Answer<Vec<String>> {
        let campaign = target.campaign;
        let mut notes = Vec::new();
        if let Some(table) = find(tables, &campaign.rows.table) {
            let unnamed = Unnamed::of_rows(sql, table, target).await?;
            notes.extend(unnamed.advice(&table.name).map(|it| format!("rows: {it}")));
            let names = unnamed.is_never_null.join(", ");
            if self.mode == Mode::Repair && !names.is_empty() {
                let why = format!(
                    "a repair would leave {names} of {} NULL, which no other row does: write a \
                    value for each, such as \"{{now}}\" or \"{{null}}\"",
                    table.name
                );
                self.refuse("rows.insert", &why);
            }
        }
        let failed = campaign.failed.as_ref().map(|it| it.table.as_str());
        if let Some(table) = failed.and_then(|name| find(tables, name)) {
            let unnamed = Unnamed::of_failed(sql, table, target).await?;
            notes.extend(
                unnamed
                    .advice(&table.name)
                    .map(|it| format!("failed: {it}")),
            );
        }
        if self.mode == Mode::Repair {
            self.misfits.append(&mut notes);
        }
        Ok(notes)
    }

    /// Refuses engines without transactions: repairs lock rows, and may have to roll back.
    fn must_be_transactional(&mut self, field: &str, table: &Table) {
        if self.mode == Mode::Observe || table.is_transactional() {
            return;
        }
        let table = &table.name;
        let why = format!(
            "the engine of {table} has no transactions, so that a repair could be left half done: \
             ALTER TABLE {table} ENGINE = InnoDB, or write mode = \"observe\""
        );
        self.refuse(&format!("{field}.table"), &why);
    }

    /// Refuses every column that a repair could not fill or may not write, before any repair is
    /// tried.
    fn must_take_rows(&mut self, table: &Table, campaign: &Campaign) {
        if self.mode == Mode::Observe {
            return;
        }
        let rows = &campaign.rows;
        let names = rows.of.keys().chain(rows.insert.keys());
        let written: Vec<&String> = names.chain([&rows.user]).collect();
        self.must_allow("rows", table, "insert", &written);
        let is_given = |it: &&Column| is_among(&it.name, written.iter().copied());
        let listed = |columns: Vec<&Column>| {
            let names = columns.iter().map(|it| format!("{:?}", it.name));
            names.collect::<Vec<_>>().join(", ")
        };
        let columns = table.columns.iter();
        let made: Vec<&Column> = columns
            .clone()
            .filter(|it| it.is_generated)
            .filter(is_given)
            .collect();
        if !made.is_empty() {
            let why = format!(
                "column {} of {} is generated, so no row can be inserted with it: \
                select by the columns that it is made of",
                listed(made),
                table.name
            );
            self.refuse("rows.where", &why);
        }
        let needed: Vec<&Column> = columns
            .filter(|it| it.needs_value && !is_given(it))
            .collect();
        self.must_take_times("rows.insert", table, &rows.insert);
        self.must_take_made_values(table, &rows.insert);
        if !needed.is_empty() && !table.has_triggers {
            let why = format!(
                "a repair could insert no row: {} has no default for {}. Write a value for each, \
                such as \"{{now}}\", \"{{uuid}}\" or \"{{random:16}}\", or give the column a DEFAULT; if \
                a trigger fills it: GRANT TRIGGER",
                table.name,
                listed(needed)
            );
            self.refuse("rows.insert", &why);
        }
    }

    /// Refuses `{now}` in columns that hold neither times nor texts: a number column would get
    /// 20261231180000.
    fn must_take_times(&mut self, field: &str, table: &Table, values: &Columns) {
        for (name, _) in values.iter().filter(|it| it.1.days_from_now().is_some()) {
            let Some(column) = table.column(name) else {
                continue;
            };
            let kind = column.kind.as_str();
            if !TIMES.contains(&kind) && kind != "time" && !TEXTS.contains(&kind) {
                let why = format!(
                    "\"{{now}}\" is for DATETIME, TIMESTAMP and DATE, and column {name:?} of {} is {kind}",
                    table.name
                );
                self.refuse(field, &why);
            }
        }
    }

    /// Refuses columns that cannot hold a new UUID, or as many random digits as the file asks for.
    fn must_take_made_values(&mut self, table: &Table, values: &Columns) {
        for (name, value) in values {
            let Some(column) = table.column(name) else {
                continue;
            };
            let (word, digits) = match (value.text(), value.random_digits()) {
                (_, Some(digits)) => ("random", digits),
                (Some("{uuid}"), _) if !column.takes_uuid() => ("uuid", 36),
                _ => continue,
            };
            let is_text = TEXTS.contains(&column.kind.as_str());
            if !is_text || column.length < digits.into() {
                let why = format!(
                    "\"{{{word}…}}\" has {digits} characters, and column {name:?} of {} is {}({})",
                    table.name, column.kind, column.length
                );
                self.refuse("rows.insert", &why);
            }
        }
    }

    /// Refuses a stock row with a column that seems to count, but is not described: the column
    /// would keep its number when a repair inserts a row, and their consumers could sell that
    /// coupon again.
    fn must_not_count(&mut self, table: &Table, stock: &StockRow) {
        let is_said = stock.column().is_some() || stock.counts.is_some();
        if is_said || self.mode == Mode::Observe {
            return;
        }
        let counter = free_number(table, &stock.of, |name| {
            has_part(name, &COUNTING) || has_part(name, &STOCKS) && !has_part(name, &STAYING)
        });
        if let Some(counter) = counter {
            let why = format!(
                "column {0:?} of {1} seems to count coupons: write left = {0:?} or given = {0:?}, \
                so that it moves with each row that a repair inserts, or counts = false",
                counter.name, table.name
            );
            self.refuse("stock", &why);
        }
    }

    /// Refuses to compare a counter or a stock with the number of rows if a row may be for several
    /// coupons: after a repair, too many coupons would count as left, and be sold again.
    fn must_be_one_each(&mut self, table: &Table, campaign: &Campaign) {
        let stock = campaign.stock.as_ref().and_then(StockRow::column);
        if self.mode == Mode::Observe || campaign.count.is_none() && stock.is_none() {
            return;
        }
        let is_quantity = |name: &str| QUANTITIES.iter().any(|it| it.eq_ignore_ascii_case(name));
        if let Some(quantity) = free_number(table, &campaign.rows.of, is_quantity) {
            let why = format!(
                "column {0:?} of {1} seems to say how many coupons a row is for, and the number of \
                rows is compared: leave count and stock out, or, if it is always 1, write {0} = 1 \
                into where",
                quantity.name, table.name
            );
            self.refuse("rows", &why);
        }
    }

    /// Returns how a table is read in pages of its primary key. Refuses keys and user columns that
    /// do not allow it.
    fn table_shape(&mut self, field: &str, table: &Table, user: &str) -> Option<TableShape> {
        let name = &table.name;
        let key = table.primary_key();
        if key.is_empty() {
            let why =
                format!("{name} has no primary key, by which its rows are read in pages: add one");
            self.refuse(&format!("{field}.table"), &why);
        }
        let is_unordered = |it: &&String| {
            let column = table.column(it);
            column.is_some_and(|column| UNORDERED.contains(&column.kind.as_str()))
        };
        if let Some(column) = key.iter().find(is_unordered) {
            let why = format!(
                "the primary key of {name} has {column:?}, by whose type no pages can be read"
            );
            self.refuse(&format!("{field}.table"), &why);
        }
        let shape = TableShape::plain(table);
        let kind = table.column(user)?.kind.as_str();
        let user = if INTEGERS.contains(&kind) {
            UserColumn::Integer
        } else if TEXTS.contains(&kind) {
            UserColumn::Text
        } else if shape.is_uuid(user) {
            UserColumn::Uuid
        } else {
            let why = format!(
                "column {user:?} of {name} is {kind}; name a CHAR, VARCHAR, BINARY(16) or \
                integer column"
            );
            self.refuse(&format!("{field}.user"), &why);
            return None;
        };
        Some(TableShape { key, user, ..shape })
    }

    /// Returns a warning if nothing refuses a user's second row: neither the lock of the stock row
    /// nor a unique key on the user and on columns that have the same value in all rows of the
    /// campaign. In mode `repair`, the file then has to set `duplicates`.
    fn without_unique_key(&mut self, table: &Table, campaign: &Campaign) -> Option<String> {
        let rows = &campaign.rows;
        // A unique key allows any number of NULLs, so a column that may be NULL is not the same in
        // all rows.
        let shape = TableShape::plain(table);
        let is_same = |(name, value): &(&String, &Scalar)| {
            let is_day = shape.made_kind(name) == Some(MadeKind::Time);
            !value.may_be_null() && value.all().len() == 1 && !is_day
        };
        let same = rows.of.iter().filter(is_same).map(|it| it.0);
        let columns: Vec<&String> = same.chain([&rows.user]).collect();
        let is_fixed = |name: &str| is_among(name, columns.iter().copied());
        let unique_with_user: Vec<&[IndexPart]> = table
            .whole_indexes()
            .filter(|index: &&[IndexPart]| {
                let mut parts = index.iter();
                let is_unique = index.iter().all(|it| it.is_unique);
                is_unique && parts.any(|it| rows.user.eq_ignore_ascii_case(&it.column))
            })
            .collect();
        let is_unique = unique_with_user.iter().any(|index: &&[IndexPart]| {
            let mut parts = index.iter();
            parts.all(|it| is_fixed(&it.column))
        });
        if is_unique || rows.duplicates == Some(Duplicates::Locked) {
            return None;
        }
        // A unique key on the user and one more column, which may tell campaigns apart.
        let of_campaign = unique_with_user.iter().find_map(|index: &&[IndexPart]| {
            let mut others = index.iter().filter(|it| !is_fixed(&it.column));
            let other = others.next()?;
            (others.next().is_none() && !other.column.is_empty()).then_some(other)
        });
        let names: Vec<&str> = columns.iter().map(|it| it.as_str()).collect();
        let table = &table.name;
        let names = names.join(", ");
        let lacks = format!("{table} has no unique key on ({names})");
        if self.mode == Mode::Repair && rows.duplicates.is_none() {
            let add = match of_campaign {
                Some(IndexPart { column, .. }) => {
                    format!(
                        "if {column} tells campaigns apart, write it in where; otherwise add one"
                    )
                }
                None => "add one".to_owned(),
            };
            let why = format!(
                "{lacks}: {add} (ALTER TABLE {table} ADD UNIQUE KEY ({names})), or write what \
                prevents a second row: duplicates = \"locked\" (your writers lock the row of \
                stock first) or \"reported\" (nothing)"
            );
            self.refuse("rows", &why);
        }
        Some(format!(
            "{lacks}: nothing refuses a user's second row, also of a message that comes late"
        ))
    }
}

/// Returns a column that may say that a coupon was taken back, and that the file does not name.
fn unselected(table: &Table, campaign: &Campaign) -> Option<String> {
    let rows = &campaign.rows;
    let named = rows.of.keys().chain(&rows.ignore);
    table
        .columns
        .iter()
        .map(|column| &column.name)
        .find(|name| may_be_taken_back(name) && !is_among(name, named.clone()))
        .cloned()
}

/// Returns a warning if no index finds a user among the rows of the campaign.
fn without_index(table: &Table, campaign: &Campaign) -> Option<String> {
    let rows = &campaign.rows;
    let finds_user = table.whole_indexes().any(|index: &[IndexPart]| {
        let user = index
            .iter()
            .find(|it| !is_among(&it.column, rows.of.keys()));
        user.is_some_and(|it| it.column.eq_ignore_ascii_case(&rows.user))
    });
    let why = format!(
        "no index of {} begins with {}: each repair reads all its rows",
        table.name, rows.user
    );
    (!finds_user).then_some(why)
}

/// Character sets that are taken to hold every user. Empty: the column holds no text.
const WIDE: [&str; 5] = ["", "utf8mb4", "utf16", "utf16le", "utf32"];

/// Returns a warning if the column's character set cannot hold every user: users whom it cannot
/// hold get no row.
fn narrow_charset(table: &Table, user: &str) -> Option<String> {
    let column = table.column(user)?;
    let why = format!(
        "column {user:?} of {} is in {}: users whom that cannot hold are only named",
        table.name, column.charset
    );
    (!WIDE.contains(&column.charset.as_str())).then_some(why)
}

/// Suggests the most similar name.
fn nearest(name: &str, all: impl Iterator<Item = String>) -> String {
    let name = name.to_lowercase();
    let nearest =
        all.min_by_key(|other: &String| strsim::damerau_levenshtein(&name, &other.to_lowercase()));
    nearest
        .map(|near| format!("; the nearest is {near:?}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;
    use crate::config::AttachFile;

    const FILE: &str = r#"
database = "mysql://app@db/shop"
redis = "redis://cache"
[[campaign]]
name = "Winter"
quantity = 10
count = { key = "count", means = "issued" }
rows = { table = "coupon", user = "user_id" }
"#;

    fn column(kind: &str) -> Column {
        Column {
            name: "kind".to_owned(),
            kind: kind.to_owned(),
            length: 16,
            charset: String::new(),
            needs_value: false,
            is_null_by_default: true,
            is_generated: false,
            is_increasing: false,
            rights: String::new(),
        }
    }

    #[test]
    fn value_is_refused_if_mysql_would_compare_it_otherwise_than_it_is_written() {
        let file = AttachFile::parse(FILE).unwrap();
        let target = Target {
            campaign: &file.campaigns[0],
            date: NaiveDate::from_ymd_opt(2026, 11, 28),
            is_over: false,
        };
        let text = |text: &str| Scalar::Text(text.to_owned());
        let off = Scalar::Flag(false);
        let seven = Scalar::Number(7);
        let some = |values: [Scalar; 2]| Scalar::AnyOf(values.into());
        for (kind, value, to_write) in [
            ("char", off.clone(), "such as \"N\""),
            ("char", Scalar::Flag(true), "such as \"Y\""),
            ("varchar", seven.clone(), "such as \"7\""),
            ("varchar", some([text("A"), seven.clone()]), "such as \"7\""),
            ("enum", seven.clone(), "such as \"7\""),
            ("varchar", text("7"), ""),
            ("varchar", some([text("{null}"), text("A")]), ""),
            ("int", text("Winter"), "\"Winter\", or 0: write a number"),
            ("int", text("{date}"), "\"{date}\", or 0: write a number"),
            ("int", text("{date:%Y%m%d}"), ""),
            ("int", text("7"), ""),
            ("int", text("{null}"), ""),
            ("int", seven.clone(), ""),
            ("tinyint", off.clone(), ""),
            ("bit", off, ""),
            ("decimal", text("7.5"), ""),
            ("datetime", text("{date}"), ""),
            ("datetime", text("{now}"), ""),
            ("binary", seven, "write a UUID"),
        ] {
            let mut rules = Rules {
                target: &target,
                mode: Mode::Observe,
                misfits: Vec::new(),
            };
            let table = Table {
                columns: vec![column(kind)],
                ..Table::default()
            };
            let of = Columns::from([("kind".to_owned(), value.clone())]);
            rules.must_compare("rows.where", &table, &of);
            let told = rules.misfits.concat();
            assert_eq!(
                told.is_empty(),
                to_write.is_empty(),
                "{kind} {value:?}: {told}"
            );
            assert!(told.ends_with(to_write), "{kind} {value:?}: {told}");
        }
    }
}
