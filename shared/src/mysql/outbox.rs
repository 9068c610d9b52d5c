//! The table `outbox`: mails and webhook events to send, one row per target. A sender leases a row
//! before sending it, so that two senders never send the same one. A lease expires if its sender
//! dies.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use diesel::QueryResult;

use super::sql::{insert_rows, row, values};
use super::{Conn, Db, DbResult, Sql, list};
use crate::sql;

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

row! {
    /// A message to one target.
    #[derive(PartialEq, Eq)]
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
}

impl Outgoing {
    pub fn is_mail(&self) -> bool {
        self.channel == Channel::Mail.word()
    }
}

/// A message leased to this sender until the lease expires.
#[derive(Debug, Clone)]
pub struct Leased {
    pub id: i64,
    pub attempts: u32,
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
pub async fn enqueue(conn: &mut Conn, messages: Vec<Outgoing>) -> QueryResult<()> {
    let unchanged = " ON DUPLICATE KEY UPDATE batch = outbox.batch";
    insert_rows(conn, "outbox", messages, unchanged).await
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
) -> DbResult<Vec<Leased>> {
    db.transaction("lease messages", async move |conn| {
        // No attempt or lease is scheduled that far ahead. If there is one, the clock has been set
        // back since. Rows that another sender has locked are skipped.
        let never = now + TimeDelta::minutes(75);
        let is_due = "sent_at IS NULL AND given_up_at IS NULL \
                      AND (next_attempt_at <= ? OR next_attempt_at > ? OR attempts = 0) \
                      AND (leased_until IS NULL OR leased_until <= ? OR leased_until > ?) \
                      AND (channel = ? OR target IN (?)) AND target NOT IN (?)";
        let mails = if served.mails {
            Channel::Mail.word()
        } else {
            ""
        };
        // An empty list would exclude every target.
        let busy = served.busy.iter().map(String::as_str).chain([""]);
        let hooks = list(&served.webhooks);
        let busy = list(busy);
        let of_due = values![now, never, now, never, mails, hooks, busy];
        // A locking read sees the latest rows, the inner read those of its snapshot.
        let oldest = format!("SELECT MIN(id) FROM outbox WHERE {is_due} GROUP BY target");
        let due: Vec<(i64, u32, Outgoing)> = Sql::new(
            format!(
                "SELECT id, attempts, {{columns}} \
            FROM outbox WHERE {is_due} AND id IN ({oldest}) FOR UPDATE SKIP LOCKED"
            ),
            [of_due.clone(), of_due].concat(),
        )
        .all(conn)
        .await?;
        let ids = list(due.iter().map(|(id, ..)| *id));
        let lease = sql!(
            "UPDATE outbox SET leased_until = ? WHERE id IN (?)",
            until,
            ids
        );
        lease.run(conn).await?;
        Ok(due
            .into_iter()
            .map(|(id, attempts, message)| Leased {
                id,
                attempts,
                message,
            })
            .collect())
    })
    .await
}

/// Records the outcome of an attempt, and releases the lease.
pub async fn record_outcome(
    db: &Db,
    id: i64,
    outcome: DeliveryOutcome,
    now: DateTime<Utc>,
) -> DbResult<()> {
    let (sent, given_up, next, error) = match outcome {
        DeliveryOutcome::Sent => (Some(now), None, None, None),
        DeliveryOutcome::Retry(next, error) => (None, None, Some(next), Some(error)),
        DeliveryOutcome::GivenUp(error) => (None, Some(now), None, Some(error)),
    };
    let set = sql!(
        "UPDATE outbox SET attempts = attempts + 1, leased_until = NULL, sent_at = ?, \
        given_up_at = ?, last_error = ?, next_attempt_at = COALESCE(?, next_attempt_at) \
        WHERE id = ? AND sent_at IS NULL",
        sent,
        given_up,
        error,
        next,
        id
    );
    db.execute("record a delivery", set).await.map(|_| ())
}

/// Gives up on messages that are a day old and whose next attempt was due an hour ago: no process
/// serves them. Otherwise, when `SMTP_URL` is set after months, old mails would look as if their
/// events had just happened. Returns how many.
pub async fn give_up_untried(db: &Db, now: DateTime<Utc>) -> DbResult<usize> {
    let old = sql!(
        "UPDATE outbox SET given_up_at = ?, last_error = 'nothing was set for a day that sends \
        it' WHERE sent_at IS NULL AND given_up_at IS NULL AND created_at < ? \
        AND next_attempt_at < ? LIMIT 1000",
        now,
        now - GIVE_UP,
        now - TimeDelta::hours(1)
    );
    db.execute("give up old messages", old).await
}

/// Whether a message of this age is given up when an attempt fails.
pub fn is_old(created_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - created_at >= GIVE_UP
}

/// Counts unsent messages by channel.
pub async fn waiting(db: &Db) -> DbResult<Vec<(String, i64)>> {
    let open = "SELECT channel, COUNT(*) FROM outbox WHERE sent_at IS NULL \
        AND given_up_at IS NULL GROUP BY channel";
    db.all("count what waits in the outbox", sql!(open)).await
}
