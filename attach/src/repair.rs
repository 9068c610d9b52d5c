//! Writes repairs into their stores. Rows are inserted in short transactions under a named lock of
//! MySQL, which keeps out other reconcilers, and, if the file names their stock row, under the lock
//! of that row, which their own writers take too. Under these locks the quantity and the rows are
//! read again, so that no repair knowingly adds a row beyond the quantity. Every repair can be
//! repeated: a process that dies between any two statements leaves a state that the next pass
//! finishes.

use std::collections::BTreeMap;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::quoted::without_values;
use mysql_async::Value;
use tokio_util::sync::CancellationToken;

use crate::condition::{Condition, written};
use crate::config::{Done, KeyType};
use crate::facts::StockColumn;
use crate::forms::{Members, Spelling};
use crate::judge::{Judged, Repair, TAKEN_BACK};
use crate::keys::{MoveCount, NewMember};
use crate::read::{Reader, open};
use crate::sql::{quoted, text};
use crate::{Answer, AttachError};
use firstcome_shared::report::Outcome;

/// Rows of one transaction: few, because their writers may wait for its lock.
const ROWS: usize = 50;

/// Errors that say nothing about the row, so that the whole transaction is tried again: a deadlock,
/// for which MySQL rolled it back; a lock wait timeout, after which each further row would wait for
/// that lock while their writers wait for ours; a server that is read-only (1290, 1836); a full
/// disk or table (1021, 1114); a statement that was interrupted (1317, 3024); and too many prepared
/// statements (1461).
const ENDS_TRANSACTION: [u16; 9] = [1213, 1205, 1290, 1836, 1021, 1114, 1317, 3024, 1461];

/// The name of the lock on a target's rows. It does not depend on the campaign's name, which may
/// differ in another file.
const LOCK: &str = "CONCAT('firstcome:', LEFT(SHA2(CONCAT(DATABASE(), ?), 256), 40))";

/// What the two looks at a target saw, as far as its repairs depend on it.
#[derive(Debug, Clone, Copy)]
pub struct LooksSaw<'a> {
    /// The file names a users' key that has not expired after the end, so that each user who gets a
    /// row must be a member.
    pub name_users: bool,
    /// The key had no members, so that it may be created.
    pub may_create: bool,
    /// How most members of the key are written.
    pub spelling: Spelling,
    /// By user: members without a row, in a spelling that [`Members::all`] does not list.
    pub odd: &'a BTreeMap<String, Vec<u8>>,
    /// The column of the stock row, if both looks saw the same, with the changes of this pass.
    pub stock: Option<StockColumn>,
}

/// The outcome of a repair, and the reason if it was not made.
type Repaired = (Outcome, String);

const GIVEN_OUT: &str = "all were given out meanwhile";
const PROCESSED: &str = "it was processed meanwhile";

fn applied() -> Repaired {
    (Outcome::Applied, String::new())
}

/// The repair was not made: somebody else has made it, its reason is gone, or the next pass looks
/// again.
fn skipped(why: &str) -> Repaired {
    (Outcome::Skipped, why.to_owned())
}

/// Errors of MySQL that quote names of columns and tables, and no values.
const WITH_NAMES: [u16; 10] = [1048, 1054, 1142, 1143, 1146, 1265, 1364, 1406, 3105, 3819];
/// "Incorrect … value: '…' for column …".
const INCORRECT_VALUE: u16 = 1366;

/// Says why MySQL refused a statement, without the values that its error quotes.
pub fn refusal(code: u16, why: &str) -> String {
    if WITH_NAMES.contains(&code) {
        return why.to_owned();
    }
    let column = why
        .rsplit_once(" for column ")
        .filter(|_| code == INCORRECT_VALUE);
    match column {
        Some((value, column)) => format!("{} for column {column}", without_values(value)),
        None => without_values(why),
    }
}

/// Returns the reason of a refusal or a misfit, without the values that MySQL quotes. Returns any
/// other error, such as that of a store that is away: the caller then drops the connection to
/// MySQL, which ends the transaction and releases the lock.
fn reason(error: AttachError) -> Answer<String> {
    match error {
        AttachError::Refused { code, why } => {
            Ok(format!("MySQL refuses it: {}", refusal(code, &why)))
        }
        AttachError::Misfit(why) => Ok(why),
        error => Err(error),
    }
}

fn failed(error: AttachError) -> Answer<Repaired> {
    Ok((Outcome::Failed, reason(error)?))
}

impl Judged {
    pub(super) fn became(&mut self, (outcome, why): Repaired) {
        self.finding.result = outcome;
        if !why.is_empty() {
            self.finding.detail = format!("{}; {why}", self.finding.detail);
        }
    }
}

/// Applies these repairs, and notes what became of each. Ends early between two repairs if the
/// process has to stop.
pub async fn apply(
    reader: &mut Reader<'_>,
    judged: Vec<&mut Judged>,
    mut seen: LooksSaw<'_>,
    stop: &CancellationToken,
) -> Answer<()> {
    let (mut rows, others): (Vec<_>, Vec<_>) = judged
        .into_iter()
        .partition(|it: &&mut Judged| matches!(it.repair, Some(Repair::Insert(..))));
    for rows in rows.chunks_mut(ROWS) {
        must_go_on(stop)?;
        crash_point(Point::RepairBegun);
        let repaired = insert(reader, rows, &mut seen).await?;
        rows.iter_mut()
            .zip(repaired)
            .for_each(|(it, repaired)| it.became(repaired));
        crash_point(Point::RowReissued);
    }
    let is_as_planned = rows.iter().all(|it| it.finding.result == Outcome::Applied);
    for it in others {
        must_go_on(stop)?;
        let repaired = match &it.repair {
            None | Some(Repair::Insert(..)) => continue,
            Some(Repair::Close(event)) => close_alone(reader, event).await?,
            Some(Repair::Add(user)) => add(reader, user, seen).await?,
            // The move of the counter was planned for the case that all planned rows are inserted.
            Some(Repair::MoveCount(_)) if !is_as_planned && it.counts_inserts => {
                it.finding.needs_person = true;
                skipped("not all rows were inserted; the next pass counts again")
            }
            Some(Repair::MoveCount(set)) => {
                crash_point(Point::PeopleRebuilt);
                move_count(reader, set).await?
            }
        };
        it.became(repaired);
    }
    Ok(())
}

pub(super) fn must_go_on(stop: &CancellationToken) -> Answer<()> {
    if stop.is_cancelled() {
        Err(AttachError::Stopped)
    } else {
        Ok(())
    }
}

/// Inserts rows in one transaction, under the lock on the target's rows. If the whole transaction
/// fails, no row has failed for itself: the next pass tries its users again in their order, and no
/// later user gets their coupons.
async fn insert(
    reader: &mut Reader<'_>,
    rows: &mut [&mut Judged],
    seen: &mut LooksSaw<'_>,
) -> Answer<Vec<Repaired>> {
    let of = reader.of_rows();
    let lock = Value::from(format!("{}{of:?}", reader.target.campaign.rows.table));
    let take = format!("SELECT CAST(GET_LOCK({LOCK}, 2) AS SIGNED)");
    if reader.sql.number(&take, vec![lock.clone()]).await? != Some(1) {
        let why = "another reconciler repairs this campaign";
        return Ok(vec![skipped(why); rows.len()]);
    }
    reader.sql.command("START TRANSACTION").await?;
    let repaired = match locked(reader, rows, *seen).await {
        Ok((repaired, at_rest)) => {
            crash_point(Point::RowsInserted);
            reader.sql.command("COMMIT").await?;
            seen.stock = at_rest;
            repaired
        }
        Err(error) => {
            let undone = skipped(&reason(error)?);
            reader.sql.command("ROLLBACK").await?;
            for it in rows.iter_mut() {
                it.finding.needs_person = true;
            }
            vec![undone; rows.len()]
        }
    };
    let release = format!("DO RELEASE_LOCK({LOCK})");
    reader.sql.rows(&release, vec![lock]).await?;
    Ok(repaired)
}

/// Locks the stock row, if the file names one, and inserts rows. Also returns the column of the
/// stock row as both looks would have seen it with these rows.
async fn locked(
    reader: &mut Reader<'_>,
    rows: &[&mut Judged],
    seen: LooksSaw<'_>,
) -> Answer<(Vec<Repaired>, Option<StockColumn>)> {
    if let (Some(stock), Some(shape)) = (&reader.target.campaign.stock, &reader.shape.stock) {
        let table = quoted(&stock.table);
        let of = Condition::new(&stock.of, &reader.target, shape);
        let sql = format!("SELECT 1 FROM {table} WHERE {} FOR UPDATE", of.sql);
        if reader.sql.number(&sql, of.values).await?.is_none() {
            let why = "stock.where selects no row to lock";
            return Err(AttachError::Misfit(why.to_owned()));
        }
    }
    must_not_be_made_ahead(reader).await?;
    let quantity = reader.quantity().await?;
    let rows_before = reader.count_rows().await?;
    let mut room = quantity.saturating_sub(rows_before);
    let mut column = Column {
        quantity,
        rows: rows_before,
        now: reader.stock(quantity, rows_before).await?,
        at_rest: seen.stock,
    };
    let mut all = Vec::new();
    for it in rows {
        let Some(Repair::Insert(user, event)) = &it.repair else {
            continue;
        };
        // Their API may have removed the user since the look, or while we waited for the lock.
        if seen.name_users && !is_member(reader, user, seen.odd.get(user)).await? {
            all.push(skipped("it left Redis meanwhile"));
            continue;
        }
        if column.may_be_ahead() {
            all.push(skipped(
                "the column of the stock row moves: it may count this row already, and the next \
                pass looks again",
            ));
            continue;
        }
        reader.sql.command("SAVEPOINT one").await?;
        let inserted = insert_row(reader, user, event.as_deref(), room).await;
        let inserted = match inserted {
            Ok(applied @ (Outcome::Applied, _)) => {
                room -= 1;
                column.follow(reader).await?;
                Ok(applied)
            }
            other => other,
        };
        let repaired = match inserted {
            Err(error @ AttachError::Refused { code, .. }) if ENDS_TRANSACTION.contains(&code) => {
                return Err(error);
            }
            repaired => repaired.or_else(failed)?,
        };
        // Undo only what belongs to this row, such as the closed event: the other rows stay.
        if repaired.0 == Outcome::Failed {
            reader.sql.command("ROLLBACK TO one").await?;
        }
        all.push(repaired);
    }
    Ok((all, column.at_rest))
}

/// The column of the stock row, under its lock.
struct Column {
    quantity: u64,
    rows: u64,
    now: Option<StockColumn>,
    /// What both looks saw, with the rows that this pass has inserted.
    at_rest: Option<StockColumn>,
}

impl Column {
    /// Whether it may differ from the rows because one of their writers has moved it and has not
    /// inserted the row yet, perhaps the very row that is to be inserted. A difference that both
    /// looks saw has another cause.
    fn may_be_ahead(&self) -> bool {
        self.now
            .is_some_and(|it| it.says != it.due && self.at_rest != Some(it))
    }

    /// Moves the column with a row that was inserted, if it was right before, and if the insert
    /// itself (a trigger) has not moved it.
    async fn follow(&mut self, reader: &mut Reader<'_>) -> Answer<()> {
        self.rows += 1;
        let (Some(before), Some(stock)) = (self.now, &reader.target.campaign.stock) else {
            return Ok(());
        };
        let (Some((column, is_left)), Some(shape)) = (stock.column(), &reader.shape.stock) else {
            return Ok(());
        };
        if before.says == before.due {
            let step = if is_left { -1 } else { 1 };
            let of = Condition::new(&stock.of, &reader.target, shape);
            let table = quoted(&stock.table);
            let column = quoted(column);
            let sql = format!(
                "UPDATE {table} SET {column} = {column} + ({step}) WHERE {} AND {column} = ?",
                of.sql
            );
            let mut values = of.values;
            values.push(Value::Int(before.says));
            reader.sql.change(&sql, values).await?;
        }
        self.now = reader.stock(self.quantity, self.rows).await?;
        if self.at_rest == Some(before) {
            self.at_rest = self.now;
        }
        Ok(())
    }
}

/// Refuses a table with rows without a user. They may be coupons made in advance: an inserted row
/// would then be one more coupon.
async fn must_not_be_made_ahead(reader: &mut Reader<'_>) -> Answer<()> {
    let rows = &reader.target.campaign.rows;
    let has_none = format!("{} IS NULL", quoted(&rows.user));
    let of = Condition::new(&rows.of, &reader.target, &reader.shape.rows).and(&has_none, []);
    if reader.select("1", of, "LIMIT 1").await?.is_empty() {
        return Ok(());
    }
    let why = "rows without a user are coupons made ahead (give one of them to the user by hand), or \
        those of users who were erased (insert the row by hand): attach inserts no row beside them";
    Err(AttachError::Misfit(why.to_owned()))
}

/// Counts the rows of a user. MySQL compares the names, because its collation may treat two of them
/// as equal.
async fn rows_of(reader: &mut Reader<'_>, user: &Value) -> Answer<Option<i64>> {
    let column = quoted(&reader.target.campaign.rows.user);
    let of = reader
        .of_rows()
        .and(&format!("{column} = ?"), [user.clone()]);
    reader.count(of).await
}

async fn is_member(reader: &mut Reader<'_>, user: &str, odd: Option<&Vec<u8>>) -> Answer<bool> {
    let Some(users) = &reader.target.campaign.users else {
        return Ok(true);
    };
    let key = users.name(&reader.target);
    let members = users.members().map_err(AttachError::Misfit)?;
    let mut all = members.all(user);
    all.extend(odd.cloned());
    reader.keys.has(users.kind, &key, &all).await
}

/// Closes the failed event, if there is one, and inserts the row. In this order, because their own
/// job may process the event at the same time: then the event is closed already, or their job waits
/// for our lock.
async fn insert_row(
    reader: &mut Reader<'_>,
    user: &str,
    event: Option<&[Value]>,
    room: u64,
) -> Answer<Repaired> {
    let shape = &reader.shape.rows;
    let Some(user) = shape.user(user) else {
        return Ok((Outcome::Failed, shape.why_not().to_owned()));
    };
    if room == 0 && rows_of(reader, &user).await? == Some(0) {
        return Ok(skipped(GIVEN_OUT));
    }
    if let Some(event) = event
        && !close(reader, event).await?
    {
        return Ok(skipped(PROCESSED));
    }
    let target = reader.target;
    let rows = &target.campaign.rows;
    let table = quoted(&rows.table);
    let column = quoted(&rows.user);
    if rows_of(reader, &user).await? != Some(0) {
        return Ok(skipped("a row came meanwhile"));
    }
    if room == 0 {
        // The user's row was deleted while we waited for the lock of the event.
        reader.sql.command("ROLLBACK TO one").await?;
        return Ok(skipped(GIVEN_OUT));
    }
    if has_changed(reader, &user).await? {
        return Ok((Outcome::Failed, TAKEN_BACK.to_owned()));
    }
    let mut columns = vec![column];
    let mut marks = vec!["?".to_owned()];
    let mut values = vec![user.clone()];
    let further = rows.insert.iter().filter(|it| !rows.of.contains_key(it.0));
    for (name, value) in rows.of.iter().chain(further) {
        let (mark, value) = written(name, value, &target, shape);
        columns.push(quoted(name));
        marks.push(mark);
        values.extend(value);
    }
    let columns = columns.join(", ");
    let marks = marks.join(", ");
    let sql = format!("INSERT INTO {table} ({columns}) VALUES ({marks})");
    match reader.sql.change(&sql, values).await {
        Ok(_) if rows_of(reader, &user).await? == Some(1) => Ok(applied()),
        // The next pass would not see this row either, and would insert another one.
        Ok(_) => Err(AttachError::Misfit(
            "a row that was inserted is not there as it was written: a trigger changes it"
                .to_owned(),
        )),
        Err(error) => Err(error),
    }
}

/// Whether the user has a row that is not selected because a column has changed, such as a status
/// or the time of a soft deletion.
async fn has_changed(reader: &mut Reader<'_>, user: &Value) -> Answer<bool> {
    let Some(of) = reader.of_any_state() else {
        return Ok(false);
    };
    let is_its = format!("{} = ?", quoted(&reader.target.campaign.rows.user));
    let of = of.and(&is_its, [user.clone()]);
    Ok(!reader.select("1", of, "LIMIT 1").await?.is_empty())
}

/// Marks a failed event as processed, and returns whether it was open.
async fn close(reader: &mut Reader<'_>, event: &[Value]) -> Answer<bool> {
    let (Some(failed), Some(shape)) = (&reader.target.campaign.failed, &reader.shape.failed) else {
        return Ok(false);
    };
    let table = quoted(&failed.table);
    let key: Vec<String> = shape
        .key
        .iter()
        .map(|name: &String| format!("{} = ?", quoted(name)))
        .collect();
    let of = open(failed, shape, &reader.target).and(&key.join(" AND "), event.to_vec());
    let (sql, mut values) = match &failed.done {
        Done::Word(_) => (format!("DELETE FROM {table} WHERE {}", of.sql), Vec::new()),
        Done::Column { column, value } => {
            let (mark, value) = written(column, value, &reader.target, shape);
            let sql = format!(
                "UPDATE {table} SET {} = {mark} WHERE {}",
                quoted(column),
                of.sql
            );
            (sql, value.into_iter().collect())
        }
    };
    values.extend(of.values);
    Ok(reader.sql.change(&sql, values).await? > 0)
}

async fn close_alone(reader: &mut Reader<'_>, event: &[Value]) -> Answer<Repaired> {
    match close(reader, event).await {
        Ok(true) => Ok(applied()),
        Ok(false) => Ok(skipped(PROCESSED)),
        Err(error) => failed(error),
    }
}

/// Adds a user who still has a row. In a sorted set, the score follows from `rows.order`.
async fn add(reader: &mut Reader<'_>, user: &str, seen: LooksSaw<'_>) -> Answer<Repaired> {
    let target = reader.target;
    let rows = &target.campaign.rows;
    let (Some(users), Some(value)) = (&target.campaign.users, reader.shape.rows.user(user)) else {
        return Ok(skipped("it cannot have a row"));
    };
    let members = users.members().map_err(AttachError::Misfit)?;
    let Some(member) = members.encode(seen.spelling, user) else {
        let why = "programs may write it in several ways: add it with yours";
        return Ok((Outcome::Failed, why.to_owned()));
    };
    let is_its = format!("{} = ?", quoted(&rows.user));
    let of = reader.of_rows().and(&is_its, [value]);
    let row = reader.select(&place(reader), of, "LIMIT 1").await?;
    let Some(row) = row.first() else {
        return Ok(skipped("its row is gone"));
    };
    let key = users.name(&target);
    let mut score = 0.0;
    if users.kind == KeyType::SortedSet {
        let unit = unit_of_scores(reader, &members, &key).await?;
        let place = text(row, 0).parse::<f64>();
        let (Some(unit), Ok(place)) = (unit, place) else {
            let why = "the scores are not rows.order: add it with your program";
            return Ok((Outcome::Failed, why.to_owned()));
        };
        score = place * unit;
    }
    let value = match &users.value {
        Some(value) => target.fill(value).into_bytes(),
        None if users.kind == KeyType::Hash => {
            let excepted = users.excepted(&members).concat();
            let Some(value) = reader.keys.value_of_all(&key, &excepted).await? else {
                let why = "the users in the hash have no common value: write users.value";
                return Ok((Outcome::Failed, why.to_owned()));
            };
            value
        }
        None => Vec::new(),
    };
    let member = NewMember {
        kind: users.kind,
        spellings: members.all(user),
        member,
        score,
        value,
        may_create: seen.may_create,
    };
    Ok(if reader.keys.add(&key, &member).await? {
        applied()
    } else {
        skipped("its key expired meanwhile")
    })
}

/// Returns the expression for a row's place in `rows.order`. Times are in milliseconds.
fn place(reader: &Reader<'_>) -> String {
    let place = match &reader.target.campaign.rows.order {
        None => "NULL".to_owned(),
        Some(order) if reader.shape.order_is_time => {
            format!("UNIX_TIMESTAMP({}) * 1000", quoted(order))
        }
        Some(order) => quoted(order),
    };
    format!("CAST({place} AS CHAR)")
}

/// Factors from milliseconds to the units of scores: milliseconds, seconds, microseconds,
/// nanoseconds.
const UNITS: [f64; 4] = [1.0, 1e-3, 1e3, 1e6];

/// A score matches the place of a row if they differ by no more than this fraction: for a time,
/// half an hour, which is less than time zones usually differ; for a ticket below a million, less
/// than 1.
const NEAR: f64 = 1e-6;

/// Returns the factor from places of rows to scores, found by comparing a user who is in both
/// stores: 1 if the set is empty, `None` if no unit fits.
async fn unit_of_scores(
    reader: &mut Reader<'_>,
    members: &Members,
    key: &[u8],
) -> Answer<Option<f64>> {
    let scores: BTreeMap<String, f64> = reader
        .keys
        .some_scores(key)
        .await?
        .into_iter()
        .filter_map(|(member, score)| Some((members.decode(&member)?.0, score)))
        .collect();
    if scores.is_empty() {
        return Ok(Some(1.0));
    }
    let names: Vec<String> = scores.keys().cloned().collect();
    let places = reader.places_of(&names, &place(reader)).await?;
    let units = if reader.shape.order_is_time {
        &UNITS[..]
    } else {
        &UNITS[..1]
    };
    Ok(units.iter().copied().find(|unit| {
        places.iter().any(|(user, place)| {
            let score = scores.get(user).copied().unwrap_or(f64::NAN);
            (place * unit - score).abs() <= score.abs() * NEAR
        })
    }))
}

async fn move_count(reader: &mut Reader<'_>, to: &MoveCount) -> Answer<Repaired> {
    let Some(count) = &reader.target.campaign.count else {
        return Ok(skipped("there is no counter"));
    };
    let name = count.name(&reader.target);
    Ok(if reader.keys.move_count(&name, to).await? {
        applied()
    } else {
        skipped("it moved meanwhile; the next pass counts again")
    })
}
