//! Samples the newest rows for columns that the file should name: those that seem to tell campaigns
//! apart, because rows of another campaign would count as ours, and those that are never NULL,
//! because their program may be unable to read a row without a value.

use mysql_async::Row;

use crate::Answer;
use crate::condition::Condition;
use crate::config::{Columns, Target, has_part, may_change_later};
use crate::schema::{Column, Table, is_among};
use crate::shape::TableShape;
use crate::sql::{Sql, quoted};

/// Rows in a sample.
const ROWS: u32 = 100;
/// In fewer rows, a column may be filled by chance.
const ENOUGH: i64 = 10;

/// Columns of a table that the file should name.
#[derive(Debug, Default)]
pub struct Unnamed {
    pub tells_apart: Vec<String>,
    pub is_never_null: Vec<String>,
}

impl Unnamed {
    /// Samples the newest coupons.
    pub async fn of_rows(sql: &mut Sql, table: &Table, target: &Target<'_>) -> Answer<Self> {
        let campaign = target.campaign;
        let rows = &campaign.rows;
        let changing = campaign.changing();
        // If each user can have only one row, the table holds one campaign.
        let is_selected = rows.of.keys().any(|name| !changing.contains(&name))
            || table.is_unique_alone(&rows.user);
        let may_tell = |name: &str| {
            let is_named = is_selected || is_among(name, rows.ignore.iter());
            !is_named && (name.ends_with("_id") || is_type(name))
        };
        let is_left_null = |it: &Column| {
            let is_written = is_among(&it.name, rows.insert.keys());
            it.is_null_by_default && !is_written && !may_change_later(&it.name)
        };
        let writes = campaign.inserts_rows() && !table.has_triggers;
        let asked = table.columns.iter().filter(|it: &&Column| {
            let is_asked = may_tell(&it.name) || writes && is_left_null(it);
            is_asked && !is_among(&it.name, rows.of.keys().chain([&rows.user]))
        });
        let sampled = sample(sql, table, &rows.of, target, asked.collect()).await?;
        let mut unnamed = Self::default();
        for it in sampled {
            if may_tell(&it.column.name) && it.has_few_values(ENOUGH) {
                unnamed.tells_apart.push(it.column.name.clone());
            } else if writes && is_left_null(it.column) && it.filled == it.rows.max(ENOUGH) {
                unnamed.is_never_null.push(it.column.name.clone());
            }
        }
        Ok(unnamed)
    }

    /// Samples the newest failed events.
    pub async fn of_failed(sql: &mut Sql, table: &Table, target: &Target<'_>) -> Answer<Self> {
        let Some(failed) = &target.campaign.failed else {
            return Ok(Self::default());
        };
        let of = failed.selection();
        let mut named: Vec<&String> = of.keys().chain(failed.skip.keys()).collect();
        named.extend(failed.ignore.iter().chain([&failed.user]));
        let columns = table.columns.iter().filter(|it: &&Column| {
            let may_tell = of.is_empty() && it.name.ends_with("_id") || is_type(&it.name);
            may_tell && !is_among(&it.name, named.iter().copied())
        });
        let sampled = sample(sql, table, &of, target, columns.collect()).await?;
        let few = sampled.iter().filter(|it| it.has_few_values(2));
        Ok(Self {
            tells_apart: few.map(|it| it.column.name.clone()).collect(),
            is_never_null: Vec::new(),
        })
    }

    /// What to write, if a column seems to tell campaigns apart.
    pub fn advice(&self, table: &str) -> Option<String> {
        let names = self.tells_apart.join(", ");
        let why = format!(
            "column {names} of {table} has the same value in many rows, as if it told campaigns or \
            kinds apart: write it in where, or ignore = {:?}",
            self.tells_apart
        );
        (!self.tells_apart.is_empty()).then_some(why)
    }
}

/// Whether a column names the type of a row, such as an event's, and not the type of an error.
fn is_type(name: &str) -> bool {
    name.ends_with("type") && !has_part(name, &["err", "exc", "fail", "reason"])
}

/// The values of a column in the newest rows.
struct Sampled<'t> {
    column: &'t Column,
    rows: i64,
    /// Not NULL.
    filled: i64,
    distinct: i64,
}

impl Sampled<'_> {
    /// Whether values repeat, unlike those that differ in each row, such as the id of an order.
    /// `least` is the number of values that are needed to tell.
    fn has_few_values(&self, least: i64) -> bool {
        self.filled >= least && self.distinct * 2 <= self.filled
    }
}

async fn sample<'t>(
    sql: &mut Sql,
    table: &Table,
    of: &Columns,
    target: &Target<'_>,
    mut columns: Vec<&'t Column>,
) -> Answer<Vec<Sampled<'t>>> {
    columns.retain(|it| it.may("select"));
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let shape = TableShape::plain(table);
    let of = Condition::new(of, target, &shape);
    let list = |each: &dyn Fn(String) -> String| {
        let names = columns.iter().map(|it| each(quoted(&it.name)));
        names.collect::<Vec<_>>().join(", ")
    };
    let counts = list(&|name| format!("COUNT({name}), COUNT(DISTINCT {name})"));
    let key = table.primary_key().into_iter();
    let newest: Vec<String> = key.map(|name| format!("{} DESC", quoted(&name))).collect();
    let sample = format!(
        "SELECT COUNT(*), {counts} FROM (SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {ROWS}) AS newest",
        list(&|name| name),
        quoted(&table.name),
        of.sql,
        newest.join(", ")
    );
    let rows = sql.rows(&sample, of.values).await?;
    let number = |row: &Row, at: usize| row.get::<i64, _>(at).unwrap_or_default();
    let Some(row) = rows.first() else {
        return Ok(Vec::new());
    };
    let sampled = columns.into_iter().enumerate().map(|(at, column)| Sampled {
        column,
        rows: number(row, 0),
        filled: number(row, 1 + at * 2),
        distinct: number(row, 2 + at * 2),
    });
    Ok(sampled.collect())
}
