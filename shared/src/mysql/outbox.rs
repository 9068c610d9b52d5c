//! The table `mail_outbox`: mails to send, one row per recipient. A sender leases a row before
//! sending it, so that two senders never send the same mail. A lease expires if its sender dies.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::schema::{alerts as alerts_table, mail_outbox, reconciler_state};
use super::{Conn, Db, DbError, alerts};

/// Rows read per round.
const ROUND: i64 = 64;

/// Condition for rows that are due, not leased, and neither sent nor given up. A macro, because
/// each outbox table has a different diesel type.
macro_rules! is_due {
    ($table:ident, $now:expr) => {{
        // No attempt or lease is scheduled that far ahead. If there is one, the clock has been set
        // back since.
        let never = ($now + TimeDelta::minutes(75)).naive_utc();
        let now = $now.naive_utc();
        let is_open = $table::sent_at.is_null().and($table::given_up_at.is_null());
        let is_free = $table::leased_until
            .is_null()
            .or($table::leased_until.le(now))
            .or($table::leased_until.gt(never));
        let is_due = $table::next_attempt_at
            .le(now)
            .or($table::next_attempt_at.gt(never))
            .or($table::attempts.eq(0));
        is_open.and(is_due).and(is_free)
    }};
}

/// Defines functions that record delivery outcomes and count waiting rows.
macro_rules! deliveries {
    ($table:ident) => {
        /// Records the outcome of an attempt, and releases the lease.
        pub async fn record_outcome(
            db: &Db,
            id: i64,
            outcome: DeliveryOutcome,
            now: DateTime<Utc>,
        ) -> Result<(), DbError> {
            db.run("record a delivery", async move |conn| {
                note_outcome(conn, id, outcome, now).await
            })
            .await
        }

        async fn note_outcome(
            conn: &mut Conn,
            id: i64,
            outcome: DeliveryOutcome,
            now: DateTime<Utc>,
        ) -> QueryResult<()> {
            let now = now.naive_utc();
            let row = $table::table.filter($table::id.eq(id).and($table::sent_at.is_null()));
            let counted = (
                $table::attempts.eq($table::attempts + 1),
                $table::leased_until.eq(None::<NaiveDateTime>),
            );
            match outcome {
                DeliveryOutcome::Sent => {
                    let sent = (
                        $table::sent_at.eq(now),
                        $table::last_error.eq(None::<String>),
                    );
                    diesel::update(row).set((counted, sent)).execute(conn).await
                }
                DeliveryOutcome::Retry(at, error) => {
                    let later = (
                        $table::next_attempt_at.eq(at.naive_utc()),
                        $table::last_error.eq(error),
                    );
                    diesel::update(row)
                        .set((counted, later))
                        .execute(conn)
                        .await
                }
                DeliveryOutcome::GivenUp(error) => {
                    let given_up = ($table::given_up_at.eq(now), $table::last_error.eq(error));
                    diesel::update(row)
                        .set((counted, given_up))
                        .execute(conn)
                        .await
                }
            }
            .map(|_| ())
        }

        /// Counts unsent rows.
        pub async fn waiting(db: &Db) -> Result<i64, DbError> {
            db.run("count what waits in an outbox", async |conn| {
                count_waiting(conn).await
            })
            .await
        }

        pub(super) async fn count_waiting(conn: &mut Conn) -> QueryResult<i64> {
            let is_open = $table::sent_at.is_null().and($table::given_up_at.is_null());
            $table::table.filter(is_open).count().get_result(conn).await
        }
    };
}

pub(super) use {deliveries, is_due};

deliveries!(mail_outbox);

/// A mail to one recipient, before it is in the outbox.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = mail_outbox)]
pub struct NewMail<'a> {
    /// The current time.
    pub created_at: NaiveDateTime,
    /// Time of the first attempt.
    pub next_attempt_at: NaiveDateTime,
    /// The kind of mail, as one word.
    pub kind: &'a str,
    /// The run that it reports.
    pub run_id: Option<&'a str>,
    /// As written in a header.
    pub recipient: &'a str,
    /// The subject, on one line.
    pub subject: &'a str,
    /// Message-ID without angle brackets.
    pub message_id: String,
    /// Message-IDs of the mails that it replies to, separated by spaces.
    pub thread_refs: Option<&'a str>,
    /// The body as plain text.
    pub body_text: &'a str,
    pub body_html: &'a str,
}

/// A mail leased to this sender until the lease expires.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = mail_outbox)]
pub struct LeasedMail {
    pub id: i64,
    pub created_at: NaiveDateTime,
    pub kind: String,
    pub recipient: String,
    pub subject: String,
    pub message_id: String,
    pub thread_refs: Option<String>,
    pub body_text: String,
    pub body_html: String,
    pub attempts: u32,
}

/// The outcome of an attempt to deliver a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The server accepted it.
    Sent,
    /// The attempt failed. The next one is at this time.
    Retry(DateTime<Utc>, String),
    /// The attempt failed, and no other follows.
    GivenUp(String),
}

/// Adds mails to the outbox. Returns how many.
pub async fn enqueue(conn: &mut Conn, mails: Vec<NewMail<'_>>) -> QueryResult<usize> {
    if mails.is_empty() {
        return Ok(0);
    }
    diesel::insert_into(mail_outbox::table)
        .values(mails)
        .execute(conn)
        .await
}

/// Whether the outbox has a mail about this run.
pub async fn has_run(conn: &mut Conn, run_id: &str) -> QueryResult<bool> {
    let rows: i64 = mail_outbox::table
        .filter(mail_outbox::run_id.eq(run_id))
        .count()
        .get_result(conn)
        .await?;
    Ok(rows > 0)
}

/// Leases the oldest due mail of each recipient, so that an unreachable recipient does not delay
/// others.
pub async fn lease(
    db: &Db,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<LeasedMail>, DbError> {
    db.run("lease mails", async move |conn| {
        conn.transaction(async |conn| {
            // Skip rows that another sender has locked instead of waiting.
            let due: Vec<(i64, String)> = mail_outbox::table
                .filter(is_due!(mail_outbox, now))
                .order(mail_outbox::id)
                .limit(ROUND)
                .select((mail_outbox::id, mail_outbox::recipient))
                .for_update()
                .skip_locked()
                .load(conn)
                .await?;
            let mut recipients = HashSet::new();
            let ids: Vec<i64> = due
                .into_iter()
                .filter(|(_, to)| recipients.insert(to.clone()))
                .map(|(id, _)| id)
                .collect();
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            diesel::update(mail_outbox::table.filter(mail_outbox::id.eq_any(&ids)))
                .set(mail_outbox::leased_until.eq(until.naive_utc()))
                .execute(conn)
                .await?;
            let leased = mail_outbox::table
                .filter(mail_outbox::id.eq_any(&ids))
                .order(mail_outbox::id);
            leased.select(LeasedMail::as_select()).load(conn).await
        })
        .await
    })
    .await
}

/// Renews the lease of a mail that is still being sent.
pub async fn renew(db: &Db, id: i64, until: DateTime<Utc>) -> Result<(), DbError> {
    db.run("renew the lease of a mail", async move |conn| {
        let open = mail_outbox::sent_at
            .is_null()
            .and(mail_outbox::given_up_at.is_null());
        let row = mail_outbox::table.filter(mail_outbox::id.eq(id).and(open));
        diesel::update(row)
            .set(mail_outbox::leased_until.eq(until.naive_utc()))
            .execute(conn)
            .await
            .map(|_| ())
    })
    .await
}

/// Whether a server has accepted this mail for any recipient.
pub async fn was_taken(db: &Db, id: i64) -> Result<bool, DbError> {
    db.run("look for other recipients of a mail", async move |conn| {
        let Some(mail) = MailRows::of(conn, id).await? else {
            return Ok(false);
        };
        mail.was_taken(conn).await
    })
    .await
}

/// A mail with the rows of all its recipients, whose Message-IDs share a prefix.
struct MailRows {
    created_at: NaiveDateTime,
    /// LIKE pattern of its Message-IDs.
    ids: String,
}

impl MailRows {
    async fn of(conn: &mut Conn, id: i64) -> QueryResult<Option<Self>> {
        let row = mail_outbox::table
            .find(id)
            .select((mail_outbox::created_at, mail_outbox::message_id));
        let row: Option<(NaiveDateTime, String)> = row.first(conn).await.optional()?;
        // Format: UUID, full stop, number of the recipient.
        let ids = |message_id: &str| {
            message_id
                .split_once('.')
                .map(|(mail, _)| format!("{mail}.%"))
        };
        Ok(row.and_then(|(created_at, message_id)| {
            Some(Self {
                created_at,
                ids: ids(&message_id)?,
            })
        }))
    }

    async fn was_taken(&self, conn: &mut Conn) -> QueryResult<bool> {
        // The first condition uses the index. The margin allows for another process's clock being
        // behind.
        let sent = mail_outbox::sent_at.ge(self.created_at - TimeDelta::days(1));
        let rows = mail_outbox::table.filter(sent.and(mail_outbox::message_id.like(&self.ids)));
        Ok(rows.count().get_result::<i64>(conn).await? > 0)
    }

    async fn may_be_taken(&self, conn: &mut Conn) -> QueryResult<bool> {
        let open = mail_outbox::sent_at
            .is_null()
            .and(mail_outbox::given_up_at.is_null());
        let rows = mail_outbox::table.filter(open.and(mail_outbox::message_id.like(&self.ids)));
        Ok(rows.count().get_result::<i64>(conn).await? > 0)
    }
}

/// Gives up on a mail to one recipient. If no recipient has received the mail or still may receive
/// it, its alerts count as not mailed, and the next pass that sees them mails them again.
pub async fn give_up(db: &Db, id: i64, error: String, now: DateTime<Utc>) -> Result<(), DbError> {
    db.run("give up a mail", async move |conn| {
        conn.transaction(async |conn| {
            // Lock the alerts, so that two recipients of a mail are given up one after the other
            // and no pass uses outdated alerts in the meantime.
            alerts::lock(conn).await?;
            note_outcome(conn, id, DeliveryOutcome::GivenUp(error), now).await?;
            let Some(mail) = MailRows::of(conn, id).await? else {
                return Ok(());
            };
            if mail.was_taken(conn).await? || mail.may_be_taken(conn).await? {
                return Ok(());
            }
            not_mailed(conn, &[mail.created_at]).await
        })
        .await
    })
    .await
}

/// Makes notices due again if their mails, queued at these times, reached no recipient. Alerts
/// store when their last mail was queued, and values in `reconciler_state` end with that time.
async fn not_mailed(conn: &mut Conn, queued_at: &[NaiveDateTime]) -> QueryResult<()> {
    diesel::update(alerts_table::table.filter(alerts_table::last_mailed_at.eq_any(queued_at)))
        .set(alerts_table::last_mailed_at.eq(None::<NaiveDateTime>))
        .execute(conn)
        .await?;
    for at in queued_at {
        let mailed = reconciler_state::value.like(format!("% {}", at.and_utc().to_rfc3339()));
        diesel::update(reconciler_state::table.filter(mailed))
            .set(reconciler_state::value.eq(""))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// The error of mails that [`give_up_untried`] gives up.
pub(super) const UNTRIED: &str = "no mail server was set for days";

/// Gives up on mails that were queued before this time and never attempted. Returns how many.
pub async fn give_up_untried(
    db: &Db,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<u64, DbError> {
    db.run_within(
        std::time::Duration::from_secs(30),
        "give up old mails",
        async move |conn| {
            conn.transaction(async |conn| {
                alerts::lock(conn).await?;
                let is_open = mail_outbox::sent_at
                    .is_null()
                    .and(mail_outbox::given_up_at.is_null());
                let is_old = mail_outbox::attempts
                    .eq(0)
                    .and(mail_outbox::created_at.lt(before.naive_utc()));
                let old = mail_outbox::table.filter(is_open.and(is_old));
                let queued_at: Vec<NaiveDateTime> = old
                    .select(mail_outbox::created_at)
                    .distinct()
                    .load(conn)
                    .await?;
                let given_up = diesel::update(old)
                    .set((
                        mail_outbox::given_up_at.eq(now.naive_utc()),
                        mail_outbox::last_error.eq(UNTRIED),
                    ))
                    .execute(conn)
                    .await?;
                not_mailed(conn, &queued_at).await?;
                Ok(given_up as u64)
            })
            .await
        },
    )
    .await
}
