//! Writes repairs into their stores. Rows are inserted in short transactions under a lock: the row
//! of their stock, which their own writers lock too, or a named lock of MySQL, which keeps out other
//! reconcilers. Under the lock the quantity and the rows are read again, so that there are never
//! more rows than the quantity. Every repair can be repeated: a process that dies between any two
//! statements leaves a state that the next pass finishes.

use std::collections::BTreeMap;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::quoted::without_values;
use mysql_async::Value;
use tokio_util::sync::CancellationToken;

use super::AttachError;
use super::check::text;
use super::config::{Done, Scalar};
use super::judge::{Judged, Repair};
use super::read::{Reader, open};
use super::sql::{Condition, bound, quoted};

/// Rows of one transaction: few, because their writers may wait for its lock.
const ROWS: usize = 50;

/// MySQL rolled the whole transaction back.
const DEADLOCK: u16 = 1213;

/// Maximum wait for the named lock, in seconds.
const LOCK_SECONDS: i64 = 5;

/// What became of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// Somebody else has done it, or its reason is gone.
    Skipped(&'static str),
    Failed(String),
}

/// A row to insert.
struct NewRow<'r> {
    /// Its place among the differences.
    at: usize,
    user: &'r str,
    events: &'r [Vec<Value>],
}

/// Applies the repairs of these differences, and returns what became of each, by its place. Ends
/// early between two repairs if the process has to stop.
pub async fn apply(
    reader: &mut Reader<'_>,
    judged: &[(usize, &Judged)],
    stop: &CancellationToken,
) -> Result<BTreeMap<usize, Outcome>, AttachError> {
    let mut done = BTreeMap::new();
    let mut new_rows = Vec::new();
    for (at, it) in judged {
        if let Some(Repair::Insert { user, events }) = &it.repair {
            new_rows.push(NewRow { at: *at, user, events });
        }
    }
    let wanted = new_rows.len();
    for rows in new_rows.chunks(ROWS) {
        if stop.is_cancelled() {
            return Err(AttachError::Stopped);
        }
        crash_point(Point::RepairBegun);
        done.extend(insert(reader, rows).await?);
        crash_point(Point::RowReissued);
    }
    let is_as_planned = done.values().filter(|it| **it == Outcome::Applied).count() == wanted;
    for (at, it) in judged {
        if stop.is_cancelled() {
            return Err(AttachError::Stopped);
        }
        let outcome = match &it.repair {
            None | Some(Repair::Insert { .. }) => continue,
            Some(Repair::Close { event }) => close_alone(reader, event).await?,
            Some(Repair::Add { user }) => add(reader, user).await?,
            // A counter was planned for the rows that were planned.
            Some(Repair::SetCount { .. } | Repair::SetLeft { .. }) if !is_as_planned => {
                Outcome::Skipped("not all rows were inserted; the next pass counts again")
            }
            Some(Repair::SetCount { from, to }) => {
                crash_point(Point::PeopleRebuilt);
                set_count(reader, *from, *to).await?
            }
            Some(Repair::SetLeft { from, to }) => set_left(reader, *from, *to).await?,
        };
        done.insert(*at, outcome);
    }
    Ok(done)
}

/// Inserts rows in one transaction under the lock.
async fn insert(
    reader: &mut Reader<'_>,
    rows: &[NewRow<'_>],
) -> Result<BTreeMap<usize, Outcome>, AttachError> {
    let named = reader.target.campaign.stock.is_none().then(|| {
        let name = format!("firstcome-attach:{}", reader.target.drop_id().0);
        vec![Value::from(name), Value::Int(LOCK_SECONDS)]
    });
    if let Some(values) = named.clone() {
        let took = "SELECT CAST(GET_LOCK(?, ?) AS SIGNED)";
        if reader.sql.number(took, values).await? != Some(1) {
            let why = "another process holds the lock of this campaign";
            return Ok(rows.iter().map(|row| (row.at, Outcome::Skipped(why))).collect());
        }
    }
    reader.sql.command("START TRANSACTION").await?;
    let inserted = locked(reader, rows).await;
    let outcomes = match inserted {
        Ok(outcomes) => {
            crash_point(Point::RowsInserted);
            reader.sql.command("COMMIT").await?;
            outcomes
        }
        Err(AttachError::Refused { why, .. }) => {
            reader.sql.command("ROLLBACK").await?;
            let failed = Outcome::Failed(refused(&why));
            rows.iter().map(|row| (row.at, failed.clone())).collect()
        }
        // The connection is closed, and its transaction with it.
        Err(error) => return Err(error),
    };
    if let Some(mut values) = named {
        values.truncate(1);
        reader.sql.rows("DO RELEASE_LOCK(?)", values).await?;
    }
    Ok(outcomes)
}

/// Inserts rows while the transaction holds the lock.
async fn locked(
    reader: &mut Reader<'_>,
    rows: &[NewRow<'_>],
) -> Result<BTreeMap<usize, Outcome>, AttachError> {
    if let Some(stock) = &reader.target.campaign.stock {
        let of = Condition::of(&stock.of, &reader.target);
        let sql = format!("SELECT 1 FROM {} WHERE {} FOR UPDATE", quoted(&stock.table), of.sql);
        if reader.sql.number(&sql, of.values).await?.is_none() {
            let why = "stock.where selects no row, so nothing is locked".to_owned();
            return Err(AttachError::Refused { code: 0, why });
        }
    }
    let quantity = reader.quantity().await?;
    let mut room = quantity.saturating_sub(reader.count_rows().await?);
    let mut outcomes = BTreeMap::new();
    for row in rows {
        let outcome = match reader.shape.rows.user(row.user) {
            None => Outcome::Failed("the column of users takes whole numbers only".to_owned()),
            Some(user) => insert_row(reader, &user, &mut room).await?,
        };
        let has_row = matches!(outcome, Outcome::Applied | Outcome::Skipped(_));
        for event in row.events.iter().filter(|_| has_row) {
            close(reader, event).await?;
        }
        outcomes.insert(row.at, outcome);
    }
    Ok(outcomes)
}

async fn insert_row(reader: &mut Reader<'_>, user: &Value, room: &mut u64) -> Result<Outcome, AttachError> {
    let target = reader.target;
    let rows = &target.campaign.rows;
    let (table, column) = (quoted(&rows.table), quoted(&rows.user));
    // MySQL compares, since two names may be one for its collation.
    let of = reader.of_rows().and(&format!("{column} = ?"), [user.clone()]);
    let sql = format!("SELECT COUNT(*) FROM {table} WHERE {}", of.sql);
    if reader.sql.number(&sql, of.values).await? != Some(0) {
        return Ok(Outcome::Skipped("a row came meanwhile"));
    }
    if *room == 0 {
        return Ok(Outcome::Failed("all coupons were given out meanwhile".to_owned()));
    }
    let (mut columns, mut marks, mut values) = (vec![column], vec!["?"], vec![user.clone()]);
    for (name, value) in rows.of.iter().chain(rows.insert.iter().filter(|(name, _)| !rows.of.contains_key(*name))) {
        columns.push(quoted(name));
        marks.push(match value {
            Scalar::Text(text) if text == "{now}" => "NOW(6)",
            Scalar::Text(text) if text == "{uuid}" => "UUID()",
            value => {
                values.push(bound(value, &target));
                "?"
            }
        });
    }
    let (columns, marks) = (columns.join(", "), marks.join(", "));
    let sql = format!("INSERT INTO {table} ({columns}) VALUES ({marks})");
    match reader.sql.change(&sql, values).await {
        Ok(_) => {
            *room -= 1;
            Ok(Outcome::Applied)
        }
        Err(AttachError::Refused { code, why }) if code != DEADLOCK => Ok(Outcome::Failed(refused(&why))),
        Err(error) => Err(error),
    }
}

/// Says why MySQL refused a statement, without the values that it quotes.
fn refused(why: &str) -> String {
    format!("MySQL refuses it: {}", without_values(why))
}

/// Marks a failed event as processed, and returns whether it was open.
async fn close(reader: &mut Reader<'_>, event: &[Value]) -> Result<bool, AttachError> {
    let (Some(failed), Some(shape)) = (&reader.target.campaign.failed, &reader.shape.failed) else {
        return Ok(false);
    };
    let table = quoted(&failed.table);
    let key: Vec<String> = shape.key.iter().map(|name| format!("{} = ?", quoted(name))).collect();
    let of = open(failed, &reader.target).and(&key.join(" AND "), event.to_vec());
    let (sql, mut values) = match &failed.done {
        Done::Word(_) => (format!("DELETE FROM {table} WHERE {}", of.sql), Vec::new()),
        Done::Column(done) => {
            let column = quoted(&done.column);
            let value = bound(&done.value, &reader.target);
            (format!("UPDATE {table} SET {column} = ? WHERE {}", of.sql), vec![value])
        }
    };
    values.extend(of.values);
    Ok(reader.sql.change(&sql, values).await? > 0)
}

async fn close_alone(reader: &mut Reader<'_>, event: &[Value]) -> Result<Outcome, AttachError> {
    match close(reader, event).await {
        Ok(true) => Ok(Outcome::Applied),
        Ok(false) => Ok(Outcome::Skipped("it was processed meanwhile")),
        Err(AttachError::Refused { why, .. }) => Ok(Outcome::Failed(refused(&why))),
        Err(error) => Err(error),
    }
}

/// Adds a user who still has a row, with the score of the row's order.
async fn add(reader: &mut Reader<'_>, user: &str) -> Result<Outcome, AttachError> {
    let target = reader.target;
    let rows = &target.campaign.rows;
    let (Some(users), Some(value)) = (&target.campaign.users, reader.shape.rows.user(user)) else {
        return Ok(Outcome::Skipped("it cannot have a row"));
    };
    let score = match &rows.order {
        None => "1".to_owned(),
        Some(order) if reader.shape.order_is_time => format!("UNIX_TIMESTAMP({}) * 1000", quoted(order)),
        Some(order) => quoted(order),
    };
    let of = reader.of_rows().and(&format!("{} = ?", quoted(&rows.user)), [value]);
    let sql = format!("SELECT CAST({score} AS CHAR) FROM {} WHERE {} LIMIT 1", quoted(&rows.table), of.sql);
    let row = reader.sql.rows(&sql, of.values).await?;
    let Some(row) = row.first() else {
        return Ok(Outcome::Skipped("its row is gone"));
    };
    let key = target.fill(&users.key);
    let score = text(row, 0).parse().ok();
    reader.keys.add(users, &key, user, score).await?;
    Ok(Outcome::Applied)
}

async fn set_count(reader: &mut Reader<'_>, from: Option<i64>, to: i64) -> Result<Outcome, AttachError> {
    let Some(count) = &reader.target.campaign.count else {
        return Ok(Outcome::Skipped("there is no counter"));
    };
    let is_set = reader.keys.set_count(&reader.target.fill(&count.key), from, to).await?;
    Ok(if is_set { Outcome::Applied } else { CHANGED })
}

const CHANGED: Outcome = Outcome::Skipped("it changed meanwhile; the next pass counts again");

async fn set_left(reader: &mut Reader<'_>, from: i64, to: i64) -> Result<Outcome, AttachError> {
    let Some(stock) = &reader.target.campaign.stock else {
        return Ok(Outcome::Skipped("there is no stock row"));
    };
    let column = quoted(stock.left.as_deref().unwrap_or_default());
    let of = Condition::of(&stock.of, &reader.target).and(&format!("{column} = ?"), [Value::Int(from)]);
    let sql = format!("UPDATE {} SET {column} = ? WHERE {}", quoted(&stock.table), of.sql);
    let values = std::iter::once(Value::Int(to)).chain(of.values).collect();
    match reader.sql.change(&sql, values).await {
        Ok(0) => Ok(CHANGED),
        Ok(_) => Ok(Outcome::Applied),
        Err(AttachError::Refused { why, .. }) => Ok(Outcome::Failed(refused(&why))),
        Err(error) => Err(error),
    }
}
