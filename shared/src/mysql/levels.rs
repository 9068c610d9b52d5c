//! The row `notify.…` of `reconciler_state`: it orders the changes of `levels` (what is wrong as
//! looks see it) and of `told`. Every writer locks it and raises its version, so that readers know
//! when to read again.

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use super::Conn;
use crate::columns::now;
use crate::domain::DropId;
use crate::schema::{levels, reconciler_state};
use crate::subject::Subject;

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
