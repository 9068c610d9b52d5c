//! The table `outbox`: mails and webhook events to send, one row for each message and target. A
//! sender leases a row before sending it, so that no two send it at the same time. The lease of a
//! sender that dies expires.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::QueryResult;

use super::sql::{insert_rows, row, values};
use super::{Conn, Db, DbResult, Sql, list};
use crate::sql;

/// Age from which messages are given up.
const GIVE_UP: TimeDelta = TimeDelta::days(1);

/// Maximum time for which a target may postpone the next attempt.
pub const PUT_OFF_AT_MOST: TimeDelta = TimeDelta::hours(6);

/// How much further ahead than the maximum an attempt or a lease may be by this host's clock,
/// because the clocks of hosts differ.
const AHEAD: TimeDelta = TimeDelta::minutes(15);

/// How a message is delivered.
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
        pub created_at: DateTime<Utc>,
        /// Earliest time of the next attempt.
        pub next_attempt_at: DateTime<Utc>,
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

/// Leases the oldest message of each target that the sender serves and is not busy with, if it is
/// due: messages arrive in order, and an unreachable target delays no other. An oldest message that
/// has failed `WAS_AWAY` times or more is also due as soon as a newer one is.
pub async fn lease(
    db: &Db,
    served: Served,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> DbResult<Vec<Leased>> {
    db.transaction("lease messages", async move |conn| {
        // No process stores an attempt or a lease that is so far ahead. If there is one, the clock
        // has been set back since.
        let never = now + PUT_OFF_AT_MOST + AHEAD;
        let never_leased = until + AHEAD;
        let is_open = "sent_at IS NULL AND given_up_at IS NULL \
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
        let of_open = values![now, never_leased, mails, hooks, busy];
        // The inner read sees the rows of its snapshot, and the locking read the latest ones. So
        // both check that a row is open.
        let oldest = format!(
            "SELECT head.id FROM outbox head JOIN (\
            SELECT MIN(id) AS id, MIN(next_attempt_at) AS next FROM outbox \
            WHERE {is_open} GROUP BY target) waiting ON waiting.id = head.id \
            WHERE head.next_attempt_at <= ? OR head.next_attempt_at > ? \
            OR head.attempts >= ? AND waiting.next <= ?"
        );
        let head = values![now, never, WAS_AWAY, now];
        // Rows that another sender has locked are skipped.
        let due: Vec<(i64, u32, Outgoing)> = Sql::new(
            format!(
                "SELECT id, attempts, {{columns}} \
            FROM outbox WHERE {is_open} AND id IN ({oldest}) FOR UPDATE SKIP LOCKED"
            ),
            [of_open.clone(), of_open, head].concat(),
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

/// A message that failed this often, and was not given up, was not refused for good: usually, its
/// target or the mail server was away.
const WAS_AWAY: u32 = 5;

/// Records the outcome of an attempt, and releases the lease. If the attempt is to be repeated, all
/// other messages to the target are due when this one is; if it succeeded, they are due now. A mail
/// that is sent also proves that the mail server is back: mails that failed `WAS_AWAY` times or more
/// are due now, whatever their target.
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
    let others = "UPDATE outbox o JOIN outbox own ON own.id = ? SET o.next_attempt_at = ? \
        WHERE o.sent_at IS NULL AND o.given_up_at IS NULL AND o.id <> own.id AND (o.target = \
        own.target OR ? AND o.channel = own.channel AND own.channel = ? AND o.attempts >= ?)";
    // Change the others first: the caller may repeat the call after an error, and this statement,
    // unlike the next one, may run twice.
    if let Some(due) = next.or(sent) {
        let is_back = sent.is_some();
        let others = sql!(others, id, due, is_back, Channel::Mail.word(), WAS_AWAY);
        db.execute("put off other messages", others).await?;
    }
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

/// Gives up on at most 1,000 messages of a channel that are a day old and whose next attempt was
/// due an hour ago: no process seems to serve them. Otherwise, when `SMTP_URL` is set after months,
/// old mails would look as if their events had just happened. Returns how many.
pub async fn give_up_untried(db: &Db, channel: Channel, now: DateTime<Utc>) -> DbResult<usize> {
    let old = sql!(
        "UPDATE outbox SET given_up_at = ?, \
        last_error = COALESCE(last_error, 'nothing was set for a day that sends it') \
        WHERE channel = ? AND sent_at IS NULL AND given_up_at IS NULL AND created_at < ? \
        AND next_attempt_at < ? LIMIT 1000",
        now,
        channel.word(),
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
