//! The table `outbox`: mails and webhook events to send, one row per target. A sender leases a row
//! before sending it, so that two senders never send the same one. A lease expires if its sender
//! dies.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use diesel::QueryResult;

use super::sql::row;
use super::{Conn, Db, DbError, Sql, list};
use crate::sql;

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
    let into = format!("outbox ({})", Outgoing::columns(""));
    for some in messages.chunks(AT_ONCE) {
        let rows = some.iter().cloned().map(Outgoing::values).collect();
        let stays = sql!(" ON DUPLICATE KEY UPDATE batch = outbox.batch");
        Sql::insert(&into, rows).and(stays).run(conn).await?;
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
    db.transaction("lease messages", async move |conn| {
        // No attempt or lease is scheduled that far ahead. If there is one, the clock has been set
        // back since.
        let never = now + TimeDelta::minutes(75);
        // Skip rows that another sender has locked instead of waiting.
        let due = format!(
            "SELECT id, attempts, {} FROM outbox WHERE sent_at IS NULL AND given_up_at IS NULL \
             AND (next_attempt_at <= ? OR next_attempt_at > ? OR attempts = 0) \
             AND (leased_until IS NULL OR leased_until <= ? OR leased_until > ?) \
             AND (channel = ? OR target IN (?)) AND target NOT IN ('', ?) ORDER BY id LIMIT ? FOR UPDATE SKIP LOCKED",
            Outgoing::columns("")
        );
        let mails = if served.mails { Channel::Mail.word() } else { "" };
        let webhooks = list(&served.webhooks);
        // A list that is empty matches nothing, also behind NOT.
        let busy = list(served.busy.iter().map(String::as_str).chain([""]));
        let due = sql!(due, now, never, now, never, mails, webhooks, busy, ROUND);
        let due: Vec<(i64, u32, Outgoing)> = due.all(conn).await?;
        let leased = |(id, attempts, message)| Leased { id, attempts, message };
        let mut due: Vec<Leased> = due.into_iter().map(leased).collect();
        let mut targets = HashSet::new();
        due.retain(|it| targets.insert(it.message.target.clone()));
        let lease = "UPDATE outbox SET leased_until = ? WHERE id IN (?)";
        let lease = sql!(lease, until, list(due.iter().map(|it| it.id)));
        lease.run(conn).await?;
        Ok(due)
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
    let at = Some(now);
    let (sent, given_up, next, error) = match outcome {
        DeliveryOutcome::Sent => (at, None, None, None),
        DeliveryOutcome::Retry(next, error) => (None, None, Some(next), Some(error)),
        DeliveryOutcome::GivenUp(error) => (None, at, None, Some(error)),
    };
    let record = "UPDATE outbox SET attempts = attempts + 1, leased_until = NULL, sent_at = ?, given_up_at = ?, \
                  last_error = ?, next_attempt_at = COALESCE(?, next_attempt_at) WHERE id = ? AND sent_at IS NULL";
    let record = sql!(record, sent, given_up, error, next, id);
    db.execute("record a delivery", record).await.map(|_| ())
}

/// Gives up on a limited number of messages that are a day old and whose next attempt was due an
/// hour ago: no process serves them. Otherwise, when `SMTP_URL` is set after months, old mails
/// would look as if their events had just happened. Returns how many.
pub async fn give_up_untried(db: &Db, now: DateTime<Utc>) -> Result<usize, DbError> {
    // A read takes no locks, so the sender of another process is not delayed.
    let old = "SELECT id FROM outbox WHERE sent_at IS NULL AND given_up_at IS NULL \
               AND created_at < ? AND next_attempt_at < ? LIMIT 1000";
    let old = sql!(old, now - GIVE_UP, now - TimeDelta::hours(1));
    let ids: Vec<i64> = db.all("read old messages", old).await?;
    let give_up = "UPDATE outbox SET given_up_at = ?, last_error = 'nothing was set for a day that sends it' WHERE id IN (?)";
    db.execute("give up old messages", sql!(give_up, now, list(ids)))
        .await
}

/// Whether a message of this age is given up when an attempt fails.
pub fn is_old(created_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - created_at >= GIVE_UP
}

/// Counts unsent messages by channel.
pub async fn waiting(db: &Db) -> Result<Vec<(String, i64)>, DbError> {
    let waiting = "SELECT channel, COUNT(*) FROM outbox WHERE sent_at IS NULL AND given_up_at IS NULL GROUP BY channel";
    db.all("count what waits in the outbox", sql!(waiting))
        .await
}
