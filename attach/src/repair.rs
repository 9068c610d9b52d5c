//! Writes repairs into their stores. Rows are inserted in short transactions under a lock: the row
//! of their stock, which their own writers lock too, or a named lock of MySQL, which keeps out other
//! reconcilers. Under the lock the quantity and the rows are read again, so that there are never
//! more rows than the quantity. Every repair can be repeated: a process that dies between any two
//! statements leaves a state that the next pass finishes.

use std::collections::HashSet;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::quoted::without_values;
use mysql_async::Value;
use tokio_util::sync::CancellationToken;

use crate::config::{Done, Scalar};
use crate::judge::{Judged, Repair, SetCount};
use crate::read::{Reader, open};
use crate::sql::{Condition, bound, quoted, text};
use crate::{Answer, AttachError};
use firstcome_shared::report::Outcome;

/// Rows of one transaction: few, because their writers may wait for its lock.
const ROWS: usize = 50;

/// MySQL rolled the whole transaction back, or somebody holds a lock: each further row would wait
/// for it while their writers wait for ours.
const ENDS_TRANSACTION: [u16; 2] = [1213, 1205];

/// The lock of a target's rows, whatever its campaign is called in another file.
const LOCK: &str = "CONCAT('firstcome:', LEFT(SHA2(CONCAT(DATABASE(), ?), 256), 40))";

/// What the looks saw of the users' key.
#[derive(Debug, Clone, Copy)]
pub struct UsersSeen {
    /// It is there, so that each user who gets a row is a member.
    pub name_users: bool,
    /// It was not, so that it may be created.
    pub may_create: bool,
}

/// What became of a repair, and why it was not made.
type Repaired = (Outcome, String);

const PROCESSED: &str = "it was processed meanwhile";

fn applied() -> Repaired {
    (Outcome::Applied, String::new())
}

/// Somebody else has done it, or its reason is gone.
fn skipped(why: &str) -> Repaired {
    (Outcome::Skipped, why.to_owned())
}

/// Says why MySQL refused a statement, without the values that it quotes; or returns that a store
/// is away, whose connection is closed, and its transaction and lock with it.
fn failed(error: AttachError) -> Answer<Repaired> {
    let why = match error {
        AttachError::Refused { why, .. } => format!("MySQL refuses it: {}", without_values(&why)),
        AttachError::Misfit(why) => why,
        error => return Err(error),
    };
    Ok((Outcome::Failed, why))
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
    seen: UsersSeen,
    stop: &CancellationToken,
) -> Answer<()> {
    let is_insert = |it: &&mut Judged| matches!(it.repair, Some(Repair::Insert(..)));
    let (mut rows, others): (Vec<_>, Vec<_>) = judged.into_iter().partition(is_insert);
    for rows in rows.chunks_mut(ROWS) {
        must_go_on(stop)?;
        crash_point(Point::RepairBegun);
        let repaired = insert(reader, rows, seen.name_users).await?;
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
            Some(Repair::Add(user)) => add(reader, user, seen.may_create).await?,
            // The counter was planned for the rows that were planned.
            Some(Repair::SetCount(_)) if !is_as_planned => {
                skipped("not all rows were inserted; the next pass counts again")
            }
            Some(Repair::SetCount(set)) => {
                crash_point(Point::PeopleRebuilt);
                set_count(reader, set).await?
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

/// Inserts rows in one transaction under the lock.
async fn insert(
    reader: &mut Reader<'_>,
    rows: &[&mut Judged],
    are_members: bool,
) -> Answer<Vec<Repaired>> {
    // Their API may have taken a user back since the look.
    let mut left = HashSet::new();
    for it in rows {
        if let Some(Repair::Insert(user, _)) = &it.repair
            && are_members
            && !is_member(reader, user).await?
        {
            left.insert(user.clone());
        }
    }
    let of = reader.of_rows();
    let lock = Value::from(format!("{}{of:?}", reader.target.campaign.rows.table));
    let take = format!("SELECT CAST(GET_LOCK({LOCK}, 2) AS SIGNED)");
    if reader.sql.number(&take, vec![lock.clone()]).await? != Some(1) {
        let why = "another reconciler repairs this campaign";
        return Ok(vec![skipped(why); rows.len()]);
    }
    reader.sql.command("START TRANSACTION").await?;
    let repaired = match locked(reader, rows, &left).await {
        Ok(repaired) => {
            crash_point(Point::RowsInserted);
            reader.sql.command("COMMIT").await?;
            repaired
        }
        Err(error) => {
            let failed = failed(error)?;
            reader.sql.command("ROLLBACK").await?;
            vec![failed; rows.len()]
        }
    };
    let release = format!("DO RELEASE_LOCK({LOCK})");
    reader.sql.rows(&release, vec![lock]).await?;
    Ok(repaired)
}

/// Inserts rows while the transaction holds the lock.
async fn locked(
    reader: &mut Reader<'_>,
    rows: &[&mut Judged],
    left: &HashSet<String>,
) -> Answer<Vec<Repaired>> {
    if let Some(stock) = &reader.target.campaign.stock {
        let (table, of) = (
            quoted(&stock.table),
            Condition::of(&stock.of, &reader.target),
        );
        let sql = format!("SELECT 1 FROM {table} WHERE {} FOR UPDATE", of.sql);
        if reader.sql.number(&sql, of.values).await?.is_none() {
            let why = "stock.where selects no row to lock";
            return Err(AttachError::Misfit(why.to_owned()));
        }
    }
    must_not_be_made_ahead(reader).await?;
    let quantity = reader.quantity().await?;
    let mut room = quantity.saturating_sub(reader.count_rows().await?);
    let mut all = Vec::new();
    for it in rows {
        let Some(Repair::Insert(user, event)) = &it.repair else {
            continue;
        };
        if left.contains(user) {
            all.push(skipped("it left Redis meanwhile"));
            continue;
        }
        reader.sql.command("SAVEPOINT one").await?;
        let repaired = match insert_row(reader, user, event.as_deref(), &mut room).await {
            Err(error @ AttachError::Refused { code, .. }) if ENDS_TRANSACTION.contains(&code) => {
                return Err(error);
            }
            repaired => repaired.or_else(failed)?,
        };
        // What one row of theirs refuses must not keep the others waiting.
        if repaired.0 == Outcome::Failed {
            reader.sql.command("ROLLBACK TO one").await?;
        }
        all.push(repaired);
    }
    Ok(all)
}

/// Refuses a table of coupons that wait for their users: a new row would be one more coupon.
async fn must_not_be_made_ahead(reader: &mut Reader<'_>) -> Answer<()> {
    let rows = &reader.target.campaign.rows;
    let has_none = format!("{} IS NULL", quoted(&rows.user));
    let of = Condition::of(&rows.of, &reader.target).and(&has_none, []);
    if reader.select("1", of, "LIMIT 1").await?.is_empty() {
        return Ok(());
    }
    let why = "rows without a user are coupons made ahead: give one of them to the user by hand; \
        attach only inserts rows";
    Err(AttachError::Misfit(why.to_owned()))
}

/// Counts the rows of a user. MySQL compares, since two names may be one for its collation.
async fn rows_of(reader: &mut Reader<'_>, user: &Value) -> Answer<Option<i64>> {
    let rows = &reader.target.campaign.rows;
    let (table, column) = (quoted(&rows.table), quoted(&rows.user));
    let of = reader
        .of_rows()
        .and(&format!("{column} = ?"), [user.clone()]);
    let sql = format!("SELECT COUNT(*) FROM {table} WHERE {}", of.sql);
    reader.sql.number(&sql, of.values).await
}

async fn is_member(reader: &mut Reader<'_>, user: &str) -> Answer<bool> {
    let Some(users) = &reader.target.campaign.users else {
        return Ok(true);
    };
    let key = reader.target.fill(&users.key);
    reader.keys.has(users, &key, user).await
}

/// Closes the failed event, if there is one, and inserts the row. In this order, because their own
/// job may process the event at the same time: then it is closed already, or waits for the lock.
async fn insert_row(
    reader: &mut Reader<'_>,
    user: &str,
    event: Option<&[Value]>,
    room: &mut u64,
) -> Answer<Repaired> {
    let Some(user) = reader.shape.rows.user(user) else {
        let why = "the column of users takes whole numbers only";
        return Ok((Outcome::Failed, why.to_owned()));
    };
    if let Some(event) = event
        && !close(reader, event).await?
    {
        return Ok(skipped(PROCESSED));
    }
    let target = reader.target;
    let rows = &target.campaign.rows;
    let (table, column) = (quoted(&rows.table), quoted(&rows.user));
    if rows_of(reader, &user).await? != Some(0) {
        return Ok(skipped("a row came meanwhile"));
    }
    if *room == 0 {
        return Ok((Outcome::Failed, "all were given out meanwhile".to_owned()));
    }
    let (mut columns, mut marks, mut values) = (vec![column], vec!["?"], vec![user.clone()]);
    let further = rows.insert.iter().filter(|it| !rows.of.contains_key(it.0));
    for (name, value) in rows.of.iter().chain(further) {
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
        Ok(_) if rows_of(reader, &user).await? == Some(1) => {
            *room -= 1;
            Ok(applied())
        }
        // The next pass would not see it either, and insert another one.
        Ok(_) => Err(AttachError::Misfit(
            "a row that was inserted is not there as it was written: a trigger changes it"
                .to_owned(),
        )),
        Err(error) => Err(error),
    }
}

/// Marks a failed event as processed, and returns whether it was open.
async fn close(reader: &mut Reader<'_>, event: &[Value]) -> Answer<bool> {
    let (Some(failed), Some(shape)) = (&reader.target.campaign.failed, &reader.shape.failed) else {
        return Ok(false);
    };
    let table = quoted(&failed.table);
    let is_same = |name: &String| format!("{} = ?", quoted(name));
    let key: Vec<String> = shape.key.iter().map(is_same).collect();
    let of = open(failed, &reader.target).and(&key.join(" AND "), event.to_vec());
    let (sql, mut values) = match &failed.done {
        Done::Word(_) => (format!("DELETE FROM {table} WHERE {}", of.sql), Vec::new()),
        Done::Column { column, value } => {
            let sql = format!("UPDATE {table} SET {} = ? WHERE {}", quoted(column), of.sql);
            (sql, vec![bound(value, &reader.target)])
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

/// Adds a user who still has a row, with the score of the row's order. `may_create`: the looks saw
/// no key.
async fn add(reader: &mut Reader<'_>, user: &str, may_create: bool) -> Answer<Repaired> {
    let target = reader.target;
    let rows = &target.campaign.rows;
    let (Some(users), Some(value)) = (&target.campaign.users, reader.shape.rows.user(user)) else {
        return Ok(skipped("it cannot have a row"));
    };
    let score = match &rows.order {
        None => "0".to_owned(),
        Some(order) if reader.shape.order_is_time => {
            format!("UNIX_TIMESTAMP({}) * 1000", quoted(order))
        }
        Some(order) => quoted(order),
    };
    let is_its = format!("{} = ?", quoted(&rows.user));
    let of = reader.of_rows().and(&is_its, [value]);
    let score = format!("CAST({score} AS CHAR)");
    let row = reader.select(&score, of, "LIMIT 1").await?;
    let Some(row) = row.first() else {
        return Ok(skipped("its row is gone"));
    };
    let score = text(row, 0).parse().unwrap_or_default();
    let key = target.fill(&users.key);
    let is_added = reader.keys.add(users, &key, user, score, may_create);
    Ok(if is_added.await? {
        applied()
    } else {
        skipped("its key expired meanwhile")
    })
}

async fn set_count(reader: &mut Reader<'_>, set: &SetCount) -> Answer<Repaired> {
    let count = reader.target.campaign.count.as_ref();
    let key = count.map(|count| reader.target.fill(&count.key));
    let key = key.unwrap_or_default();
    let is_set = reader.keys.set_count(&key, set).await?;
    Ok(if is_set {
        applied()
    } else {
        skipped("it moved meanwhile; the next pass counts again")
    })
}
