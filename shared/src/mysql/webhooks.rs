//! The tables of webhooks: `webhook_outbox`, with one row per event and target, leased like mails;
//! and `webhook_drops`, the data of the last events about each drop.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use diesel::dsl::{max, sql};
use diesel::prelude::*;
use diesel::sql_types::{Datetime, Text};
use diesel_async::RunQueryDsl;

use super::outbox::{DeliveryOutcome, deliveries, is_due};
use super::schema::{issued_coupons, webhook_drops, webhook_outbox};
use super::{Conn, Db, DbError};
use crate::domain::DropId;

deliveries!(webhook_outbox);

/// Rows inserted per statement.
const AT_ONCE: usize = 100;

/// An event for one target, before it is in the outbox.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = webhook_outbox)]
pub struct NewWebhook<'a> {
    /// The current time.
    pub created_at: NaiveDateTime,
    /// Time of the first attempt.
    pub next_attempt_at: NaiveDateTime,
    /// The event's id, the same for all targets.
    pub event_id: &'a str,
    /// The kind of event, as one word.
    pub kind: &'a str,
    pub target: &'a str,
    /// The JSON, exactly as it is signed.
    pub body: String,
}

/// An event leased to this sender until the lease expires.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = webhook_outbox)]
pub struct LeasedWebhook {
    pub id: i64,
    pub created_at: NaiveDateTime,
    pub event_id: String,
    pub kind: String,
    pub body: String,
    pub attempts: u32,
}

/// Adds events to the outbox. An event that is already queued for a target stays unchanged.
pub async fn enqueue(conn: &mut Conn, mut events: Vec<NewWebhook<'_>>) -> QueryResult<()> {
    while !events.is_empty() {
        let rest = events.split_off(events.len().min(AT_ONCE));
        diesel::insert_into(webhook_outbox::table)
            .values(std::mem::replace(&mut events, rest))
            .on_conflict(diesel::dsl::DuplicatedKeys)
            .do_update()
            .set(webhook_outbox::event_id.eq(sql::<Text>("webhook_outbox.event_id")))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Leases the oldest due event of this target.
pub async fn lease(
    db: &Db,
    target: String,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<LeasedWebhook>, DbError> {
    db.run("lease a webhook", async move |conn| {
        let due = || {
            webhook_outbox::table.filter(
                webhook_outbox::target
                    .eq(&target)
                    .and(is_due!(webhook_outbox, now)),
            )
        };
        // FOR UPDATE SKIP LOCKED would also lock rows of other targets that it reads, and their
        // senders would skip these rows. In a transaction, every read would see the snapshot of the
        // first one.
        loop {
            let oldest = due()
                .order(webhook_outbox::id)
                .select(webhook_outbox::id)
                .first::<i64>(conn);
            let Some(id) = oldest.await.optional()? else {
                return Ok(None);
            };
            let row = webhook_outbox::table.filter(webhook_outbox::id.eq(id));
            let leased = diesel::update(row.filter(is_due!(webhook_outbox, now)))
                .set(webhook_outbox::leased_until.eq(until.naive_utc()))
                .execute(conn)
                .await?;
            if leased > 0 {
                return row
                    .select(LeasedWebhook::as_select())
                    .first(conn)
                    .await
                    .optional();
            }
        }
    })
    .await
}

/// The error of events that [`give_up_orphans`] gives up.
const ORPHAN: &str = "no reconciler had this target in WEBHOOK_URLS for days";

/// Gives up a limited number of events that were queued before this time and whose target no
/// process serves. Senders give up their own undeliverable events earlier. Returns how many were
/// given up.
pub async fn give_up_orphans(
    db: &Db,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<u64, DbError> {
    let statement = "UPDATE webhook_outbox SET given_up_at = ?, last_error = COALESCE(last_error, ?) \
                     WHERE sent_at IS NULL AND given_up_at IS NULL AND created_at < ? \
                     AND next_attempt_at < ? LIMIT 1000";
    db.run_within(
        Duration::from_secs(30),
        "give up old webhooks",
        async move |conn| {
            let update = diesel::sql_query(statement)
                .bind::<Datetime, _>(now.naive_utc())
                .bind::<Text, _>(ORPHAN);
            let update = update.bind::<Datetime, _>(before.naive_utc());
            // Skip events whose next attempt was due less than an hour ago: an operator may have
            // just rescheduled them.
            update
                .bind::<Datetime, _>((now - TimeDelta::hours(1)).naive_utc())
                .execute(conn)
                .await
                .map(|rows| rows as u64)
        },
    )
    .await
}

/// Data of the last events about a drop.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = webhook_drops)]
pub struct SaidOfDrop {
    pub drop_id: i64,
    /// The run that observed it; run ids sort by time.
    pub run_id: String,
    /// Number of rows.
    pub issued: i64,
    pub highest_slot: i64,
    /// The quantity last reported as sold out, or 0.
    pub sold_out_quantity: u32,
    pub updated_at: NaiveDateTime,
}

/// Reads the data of the last events about these drops.
pub async fn said_of(conn: &mut Conn, drops: &[i64]) -> QueryResult<HashMap<DropId, SaidOfDrop>> {
    let mut said = HashMap::new();
    for some in drops.chunks(super::MOST_VALUES) {
        let query = webhook_drops::table
            .filter(webhook_drops::drop_id.eq_any(some))
            .select(SaidOfDrop::as_select());
        let rows = query.load::<SaidOfDrop>(conn).await?;
        said.extend(rows.into_iter().map(|row| (DropId(row.drop_id), row)));
    }
    Ok(said)
}

/// Stores the data of the last events about a drop.
pub async fn say_of(conn: &mut Conn, said: &SaidOfDrop) -> QueryResult<()> {
    let insert = diesel::insert_into(webhook_drops::table).values(said);
    insert
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set(said)
        .execute(conn)
        .await
        .map(|_| ())
}

/// Reads the highest slot of a drop that has a row, or 0.
pub async fn highest_slot(conn: &mut Conn, drop: DropId) -> QueryResult<i64> {
    let rows = issued_coupons::table.filter(issued_coupons::drop_id.eq(drop.0));
    let highest: Option<u32> = rows.select(max(issued_coupons::slot)).first(conn).await?;
    Ok(highest.map_or(0, i64::from))
}
