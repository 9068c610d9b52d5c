//! The table `outbox`: mails and webhook events to send, one row per target. A sender leases a row
//! before sending it, so that two senders never send the same one. A lease expires if its sender
//! dies.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::schema::outbox;
use super::{Conn, Db, DbError};

/// Rows read per round.
const ROUND: i64 = 64;

/// Rows inserted per statement.
const AT_ONCE: usize = 100;

/// Rows of this age are given up.
const GIVE_UP: TimeDelta = TimeDelta::days(1);

/// What carries a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    Mail,
    Webhook,
}

impl Channel {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Webhook => "webhook",
        }
    }
}

/// A message to one target.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = outbox)]
pub struct Outgoing {
    pub created_at: NaiveDateTime,
    /// Time of the first attempt.
    pub next_attempt_at: NaiveDateTime,
    pub channel: String,
    /// The kind of mail or event, as one word.
    pub kind: String,
    /// The same for all targets of one mail or event.
    pub batch: String,
    /// A recipient as written in a header, or the name of a webhook's address.
    pub target: String,
    /// The subject of a mail, on one line.
    pub subject: String,
    /// Message-IDs of the mails that it replies to, separated by spaces.
    pub thread: Option<String>,
    /// Plain text, or the JSON exactly as it is signed.
    pub body: String,
    pub html: Option<String>,
}

impl Outgoing {
    pub fn is_mail(&self) -> bool {
        self.channel == Channel::Mail.word()
    }
}

/// A message leased to this sender until the lease expires.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = outbox)]
pub struct Leased {
    pub id: i64,
    pub attempts: u32,
    #[diesel(embed)]
    pub message: Outgoing,
}

/// The outcome of an attempt to deliver a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The target accepted it.
    Sent,
    /// The attempt failed. The next one is at this time.
    Retry(DateTime<Utc>, String),
    /// The attempt failed, and no other follows.
    GivenUp(String),
}

/// Adds messages to the outbox. One that is already there for its target stays unchanged.
pub async fn enqueue(conn: &mut Conn, mut messages: Vec<Outgoing>) -> QueryResult<()> {
    while !messages.is_empty() {
        let rest = messages.split_off(messages.len().min(AT_ONCE));
        diesel::insert_into(outbox::table)
            .values(std::mem::replace(&mut messages, rest))
            .on_conflict(diesel::dsl::DuplicatedKeys)
            .do_update()
            .set(outbox::batch.eq(sql::<Text>("outbox.batch")))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// What a sender delivers.
#[derive(Debug, Clone)]
pub struct Served {
    /// Whether it has a mail server.
    pub mails: bool,
    /// The names of its webhooks.
    pub webhooks: Vec<String>,
    /// Targets with a delivery in progress.
    pub busy: Vec<String>,
}

/// Leases the oldest due message of each target that the sender serves and is not busy with. An
/// unreachable target delays no other.
pub async fn lease(
    db: &Db,
    served: Served,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<Leased>, DbError> {
    db.run("lease messages", async move |conn| {
        conn.transaction(async |conn| {
            // No attempt or lease is scheduled that far ahead. If there is one, the clock has been
            // set back since.
            let never = (now + TimeDelta::minutes(75)).naive_utc();
            let at = now.naive_utc();
            let is_free = outbox::leased_until
                .is_null()
                .or(outbox::leased_until.le(at))
                .or(outbox::leased_until.gt(never));
            let is_due = outbox::next_attempt_at
                .le(at)
                .or(outbox::next_attempt_at.gt(never))
                .or(outbox::attempts.eq(0));
            let mails = if served.mails {
                Channel::Mail.word()
            } else {
                ""
            };
            let is_served = outbox::channel
                .eq(mails)
                .or(outbox::target.eq_any(&served.webhooks));
            // Skip rows that another sender has locked instead of waiting.
            let mut due: Vec<Leased> = outbox::table
                .filter(outbox::sent_at.is_null().and(outbox::given_up_at.is_null()))
                .filter(is_due.and(is_free))
                .filter(is_served.and(outbox::target.ne_all(&served.busy)))
                .order(outbox::id)
                .limit(ROUND)
                .select(Leased::as_select())
                .for_update()
                .skip_locked()
                .load(conn)
                .await?;
            let mut targets = HashSet::new();
            due.retain(|it| targets.insert(it.message.target.clone()));
            let ids: Vec<i64> = due.iter().map(|it| it.id).collect();
            if !ids.is_empty() {
                diesel::update(outbox::table.filter(outbox::id.eq_any(&ids)))
                    .set(outbox::leased_until.eq(until.naive_utc()))
                    .execute(conn)
                    .await?;
            }
            Ok(due)
        })
        .await
    })
    .await
}

/// Records the outcome of an attempt, and releases the lease.
pub async fn record_outcome(
    db: &Db,
    id: i64,
    outcome: DeliveryOutcome,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.run("record a delivery", async move |conn| {
        let at = Some(now.naive_utc());
        let (sent, given_up, next, error) = match outcome {
            DeliveryOutcome::Sent => (at, None, None, None),
            DeliveryOutcome::Retry(next, error) => (None, None, Some(next), Some(error)),
            DeliveryOutcome::GivenUp(error) => (None, at, None, Some(error)),
        };
        let row = outbox::table.filter(outbox::id.eq(id).and(outbox::sent_at.is_null()));
        diesel::update(row)
            .set((
                outbox::attempts.eq(outbox::attempts + 1),
                outbox::leased_until.eq(None::<NaiveDateTime>),
                outbox::sent_at.eq(sent),
                outbox::given_up_at.eq(given_up),
                outbox::last_error.eq(error),
                next.map(|next| outbox::next_attempt_at.eq(next.naive_utc())),
            ))
            .execute(conn)
            .await
            .map(|_| ())
    })
    .await
}

/// Gives up on a limited number of messages that are a day old and whose next attempt was due an
/// hour ago: no process serves them. Otherwise, when `SMTP_URL` is set after months, old mails
/// would look as if their events had just happened. Returns how many.
pub async fn give_up_untried(db: &Db, now: DateTime<Utc>) -> Result<usize, DbError> {
    db.run("give up old messages", async move |conn| {
        let old = outbox::created_at
            .lt((now - GIVE_UP).naive_utc())
            .and(outbox::next_attempt_at.lt((now - TimeDelta::hours(1)).naive_utc()));
        let open = outbox::sent_at.is_null().and(outbox::given_up_at.is_null());
        // A read takes no locks, so the sender of another process is not delayed.
        let ids = outbox::table.filter(open.and(old)).limit(1_000);
        let ids: Vec<i64> = ids.select(outbox::id).load(conn).await?;
        if ids.is_empty() {
            return Ok(0);
        }
        diesel::update(outbox::table.filter(outbox::id.eq_any(&ids)))
            .set((
                outbox::given_up_at.eq(now.naive_utc()),
                outbox::last_error.eq("nothing was set for a day that sends it"),
            ))
            .execute(conn)
            .await
    })
    .await
}

/// Whether a message of this age is given up when an attempt fails.
pub fn is_old(created_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - created_at >= GIVE_UP
}

/// Counts unsent messages by channel.
pub async fn waiting(db: &Db) -> Result<Vec<(String, i64)>, DbError> {
    db.run("count what waits in the outbox", async |conn| {
        outbox::table
            .filter(outbox::sent_at.is_null().and(outbox::given_up_at.is_null()))
            .group_by(outbox::channel)
            .select((outbox::channel, diesel::dsl::count_star()))
            .load(conn)
            .await
    })
    .await
}
