//! The table `levels`: what is wrong as looks see it, one row for each condition. Only looks write
//! it. The row `notify.…` of `reconciler_state` orders its changes and those of `told`: every
//! writer locks it and raises its version, so that readers know when to read again.

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use super::{Conn, ROWS_AT_ONCE};
use crate::columns::{At, now};
use crate::domain::{CouponId, DropId};
use crate::schema::{levels, reconciler_state};
use crate::subject::Subject;

/// Something that is wrong, as looks see it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = levels, treat_none_as_default_value = false)]
pub struct LevelRow {
    /// Its identity. Nothing parses it.
    pub name: String,
    /// `drop` or `campaign`.
    pub subject: String,
    /// The word of its kind, which a later version may have written.
    pub kind: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    /// The number of cases.
    pub number: u64,
    /// 8 bytes for each case, or `None` if they are only counted.
    pub cases: Option<Vec<u8>>,
    /// Facts that deciding needs, as JSON.
    pub facts: String,
    /// The run that stores its findings.
    pub run_id: String,
    /// The first and the last look that saw it.
    #[diesel(serialize_as = At)]
    pub first_at: DateTime<Utc>,
    #[diesel(serialize_as = At)]
    pub last_at: DateTime<Utc>,
    /// It is not repaired, and no look can judge it any more.
    pub given_up: bool,
}

/// The row `notify.…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotifyRow {
    /// Raised with every change of `levels` and `told`.
    pub version: u64,
    /// The times of the last mails.
    pub mails: Vec<DateTime<Utc>>,
}

impl NotifyRow {
    fn name(subject: Subject) -> String {
        format!("notify.{}", subject.word())
    }

    fn parsed(text: Option<String>) -> Self {
        let parsed = text.and_then(|text| serde_json::from_str(&text).ok());
        parsed.unwrap_or_default()
    }

    /// Reads the row without a lock.
    pub async fn read(conn: &mut Conn, subject: Subject) -> QueryResult<Self> {
        let row = reconciler_state::table
            .filter(reconciler_state::name.eq(Self::name(subject)))
            .select(reconciler_state::value);
        Ok(Self::parsed(row.first(conn).await.optional()?))
    }

    /// Locks the row until the end of the transaction, and returns it.
    pub async fn lock(conn: &mut Conn, subject: Subject) -> QueryResult<Self> {
        let name = Self::name(subject);
        // INSERT IGNORE would take a shared lock, which two transactions could hold and then
        // deadlock.
        diesel::insert_into(reconciler_state::table)
            .values((
                reconciler_state::name.eq(&name),
                reconciler_state::value.eq("{}"),
            ))
            .on_conflict(diesel::dsl::DuplicatedKeys)
            .do_update()
            .set(reconciler_state::name.eq(&name))
            .execute(conn)
            .await?;
        Self::read(conn, subject).await
    }

    /// Writes the locked row with a higher version.
    pub async fn raise(mut self, conn: &mut Conn, subject: Subject) -> QueryResult<()> {
        self.version += 1;
        let value = serde_json::json!(self).to_string();
        diesel::update(reconciler_state::table.find(Self::name(subject)))
            .set(reconciler_state::value.eq(value))
            .execute(conn)
            .await
            .map(|_| ())
    }
}

/// Reads MySQL's clock, the only one that alerts are decided by.
pub async fn clock(conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    select(now()).get_result(conn).await
}

/// Whether anything is wrong.
pub async fn any(conn: &mut Conn, subject: Subject) -> QueryResult<bool> {
    let of = levels::table.filter(levels::subject.eq(subject.word()));
    select(exists(of)).get_result(conn).await
}

pub async fn all(conn: &mut Conn, subject: Subject) -> QueryResult<Vec<LevelRow>> {
    levels::table
        .filter(levels::subject.eq(subject.word()))
        .order(levels::name)
        .select(LevelRow::as_select())
        .load(conn)
        .await
}

pub async fn put(conn: &mut Conn, rows: Vec<LevelRow>) -> QueryResult<()> {
    for some in rows.chunks(ROWS_AT_ONCE) {
        diesel::replace_into(levels::table)
            .values(some.to_vec())
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Notes that a look saw these again. `run_id` is the run that stores the findings, if it was
/// stored.
pub async fn seen(
    conn: &mut Conn,
    names: &[String],
    run_id: Option<&str>,
    at: DateTime<Utc>,
) -> QueryResult<()> {
    for some in names.chunks(ROWS_AT_ONCE) {
        let rows = || levels::table.filter(levels::name.eq_any(some.to_vec()));
        let seen = diesel::update(rows()).set(levels::last_at.eq(At(at)));
        seen.execute(conn).await?;
        if let Some(run_id) = run_id {
            let named = diesel::update(rows()).set(levels::run_id.eq(run_id));
            named.execute(conn).await?;
        }
    }
    Ok(())
}

pub async fn delete(conn: &mut Conn, names: &[String]) -> QueryResult<()> {
    for some in names.chunks(ROWS_AT_ONCE) {
        let gone = levels::table.filter(levels::name.eq_any(some.to_vec()));
        diesel::delete(gone).execute(conn).await?;
    }
    Ok(())
}

/// Gives levels up: they are not repaired, and no look will judge them any more.
pub async fn give_up(conn: &mut Conn, names: &[String]) -> QueryResult<()> {
    for some in names.chunks(ROWS_AT_ONCE) {
        let rows = levels::table.filter(levels::name.eq_any(some.to_vec()));
        let given_up = diesel::update(rows).set(levels::given_up.eq(true));
        given_up.execute(conn).await?;
    }
    Ok(())
}

/// Ends the levels of a drop, in the transaction that seals it.
pub async fn seal(conn: &mut Conn, drop: DropId) -> QueryResult<()> {
    let of_drop = levels::table.filter(levels::drop_id.eq(drop.0));
    let any: bool = select(exists(of_drop)).get_result(conn).await?;
    if !any {
        return Ok(());
    }
    let row = NotifyRow::lock(conn, drop.subject()).await?;
    diesel::delete(of_drop).execute(conn).await?;
    row.raise(conn, drop.subject()).await
}
