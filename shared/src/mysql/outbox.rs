//! The table `outbox`: mails and webhook events to send, one row per target. A sender leases a row
//! before sending it, so that two senders never send the same one. A lease expires if its sender
//! dies.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
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
    /// The target answers, but has refused this message several times. The next attempt is at this
    /// time, or when a newer message is due, which follows it at once.
    Refused(DateTime<Utc>, String),
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

row! {
    /// What decides when a message is leased.
    struct WaitingMessage {
        id: i64,
        target: String,
        attempts: u32,
        next_attempt_at: NaiveDateTime,
        /// When its target refused it for the last time, if it did several times.
        refused_at: Option<NaiveDateTime>,
    }
}

/// Leases the next message of each target that the sender serves and is not busy with.
pub async fn lease(
    db: &Db,
    served: Served,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> DbResult<Vec<Leased>> {
    db.transaction("lease messages", async move |conn| {
        let is_open = "sent_at IS NULL AND given_up_at IS NULL \
                       AND (leased_until IS NULL OR leased_until <= ? OR leased_until > ?) \
                       AND (channel = ? OR target IN (?)) AND target NOT IN (?)";
        // No lease is that far ahead. If there is one, the clock has been set back since.
        let never_leased = until + AHEAD;
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
        let waiting = format!("SELECT {{columns}} FROM outbox WHERE {is_open} ORDER BY id");
        let waiting: Vec<WaitingMessage> = Sql::new(waiting, of_open.clone()).all(conn).await?;
        let due = next_of_each_target(&waiting, now);
        // A locking read sees the latest rows. Those that another sender has locked are skipped.
        let lock = format!(
            "SELECT id, attempts, {{columns}} FROM outbox \
            WHERE id IN (?) AND {is_open} FOR UPDATE SKIP LOCKED"
        );
        let of_due = [values![list(due)], of_open].concat();
        let locked: Vec<(i64, u32, Outgoing)> = Sql::new(lock, of_due).all(conn).await?;
        let ids = list(locked.iter().map(|(id, ..)| *id));
        let lease = sql!(
            "UPDATE outbox SET leased_until = ? WHERE id IN (?)",
            until,
            ids
        );
        lease.run(conn).await?;
        Ok(locked
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

/// Returns the message of each target that is to be sent next, if one is due. Messages are sorted
/// by their ID, from the oldest.
fn next_of_each_target(waiting: &[WaitingMessage], now: DateTime<Utc>) -> Vec<i64> {
    let mut targets: BTreeMap<&str, Vec<&WaitingMessage>> = BTreeMap::new();
    for message in waiting {
        targets.entry(&message.target).or_default().push(message);
    }
    let next = targets
        .values()
        .map(|messages| next_of_target(messages, now));
    next.flatten().collect()
}

/// A target's messages arrive in order. If the oldest has failed so often that its target was away,
/// it is also due as soon as a newer one is. A message that its target refuses is tried before a
/// newer one, but no longer delays it.
fn next_of_target(messages: &[&WaitingMessage], now: DateTime<Utc>) -> Option<i64> {
    let now = now.naive_utc();
    // No attempt is that far ahead. If there is one, the clock has been set back since.
    let never = now + PUT_OFF_AT_MOST + AHEAD;
    let is_due = |time: NaiveDateTime| time <= now || time > never;
    let mut in_order = messages.iter().filter(|it| it.refused_at.is_none());
    let times = in_order.clone().map(|it| it.next_attempt_at);
    let earliest = times.filter(|time| *time <= now).min();
    let oldest = in_order.next().filter(|it| {
        let was_away = it.attempts >= WAS_AWAY;
        is_due(it.next_attempt_at) || was_away && earliest.is_some()
    });
    let followed_since = oldest.and(earliest);
    let refused = messages
        .iter()
        .find(|it| match (it.refused_at, followed_since) {
            (None, _) => false,
            (Some(_), None) => is_due(it.next_attempt_at),
            (Some(at), Some(followed_since)) => is_due(it.next_attempt_at) || at < followed_since,
        });
    let next = [refused, oldest].into_iter().flatten();
    next.map(|message| message.id).min()
}

/// A message that failed this often was not refused: its target, or the mail server, was away.
const WAS_AWAY: u32 = 5;

/// What an attempt changes.
#[derive(Default)]
struct Changes {
    sent_at: Option<DateTime<Utc>>,
    given_up_at: Option<DateTime<Utc>>,
    refused_at: Option<DateTime<Utc>>,
    next_attempt_at: Option<DateTime<Utc>>,
    /// When the messages that waited for this one are due.
    others_due_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

impl Changes {
    fn from_outcome(outcome: DeliveryOutcome, now: DateTime<Utc>) -> Self {
        match outcome {
            DeliveryOutcome::Sent => Self {
                sent_at: Some(now),
                others_due_at: Some(now),
                ..Self::default()
            },
            DeliveryOutcome::Retry(at, error) => Self {
                next_attempt_at: Some(at),
                others_due_at: Some(at),
                last_error: Some(error),
                ..Self::default()
            },
            DeliveryOutcome::Refused(at, error) => Self {
                refused_at: Some(now),
                next_attempt_at: Some(at),
                last_error: Some(error),
                ..Self::default()
            },
            DeliveryOutcome::GivenUp(error) => Self {
                given_up_at: Some(now),
                last_error: Some(error),
                ..Self::default()
            },
        }
    }
}

/// Records the outcome of an attempt, and releases the lease. If the attempt is to be repeated, all
/// other messages to the target are due when this one is; if it succeeded, they are due now. A mail
/// that is sent also proves that the mail server is back: mails that failed `WAS_AWAY` times or more
/// are due now, whatever their target. A target that accepts a message gets none of the older ones
/// that it refuses: an alert must not begin after it has ended. Returns how many of those were given
/// up.
pub async fn record_outcome(
    db: &Db,
    id: i64,
    outcome: DeliveryOutcome,
    now: DateTime<Utc>,
) -> DbResult<usize> {
    let changes = Changes::from_outcome(outcome, now);
    let is_sent = changes.sent_at.is_some();
    // Change the others first, because this may be repeated if recording the outcome fails.
    if let Some(due) = changes.others_due_at {
        let others = sql!(
            "UPDATE outbox o JOIN outbox own ON own.id = ? SET o.next_attempt_at = ? \
            WHERE o.sent_at IS NULL AND o.given_up_at IS NULL AND o.id <> own.id \
            AND (o.target = own.target \
            OR ? AND o.channel = own.channel AND own.channel = ? AND o.attempts >= ?)",
            id,
            due,
            is_sent,
            Channel::Mail.word(),
            WAS_AWAY
        );
        db.execute("put off other messages", others).await?;
    }
    let mut passed_over = 0;
    if is_sent {
        let refused = sql!(
            "UPDATE outbox o JOIN outbox own ON own.id = ? SET o.given_up_at = ? \
            WHERE o.target = own.target AND o.id < own.id AND o.refused_at IS NOT NULL \
            AND o.sent_at IS NULL AND o.given_up_at IS NULL",
            id,
            now
        );
        passed_over = db.execute("give up refused messages", refused).await?;
    }
    let set = sql!(
        "UPDATE outbox SET attempts = attempts + 1, leased_until = NULL, sent_at = ?, \
        given_up_at = ?, refused_at = ?, last_error = ?, \
        next_attempt_at = COALESCE(?, next_attempt_at) WHERE id = ? AND sent_at IS NULL",
        changes.sent_at,
        changes.given_up_at,
        changes.refused_at,
        changes.last_error,
        changes.next_attempt_at,
        id
    );
    db.execute("record a delivery", set).await?;
    Ok(passed_over)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A message to one target. Times are minutes from now.
    fn message(id: i64, attempts: u32, next: i64, refused: Option<i64>) -> WaitingMessage {
        WaitingMessage {
            id,
            target: "a@example.org".to_owned(),
            attempts,
            next_attempt_at: minutes(next).naive_utc(),
            refused_at: refused.map(|at| minutes(at).naive_utc()),
        }
    }

    fn minutes(number: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1) + TimeDelta::minutes(number)
    }

    #[test]
    fn messages_of_a_target_are_sent_in_order_and_refused_ones_before_newer_ones() {
        let first = message(1, 0, 0, None);
        let waits = message(1, 1, 10, None);
        let was_away = message(1, WAS_AWAY, 10, None);
        let refused = |at| message(1, 5, 10, Some(at));
        let refused_and_due = message(1, 5, 0, Some(-30));
        let newer = message(2, 0, -1, None);
        let newer_waits = message(2, 1, 5, None);
        let clock_was_set_back = message(1, 1, 24 * 60, None);
        for (what, waiting, next) in [
            ("nothing", vec![], None),
            ("the oldest first", vec![&first, &newer], Some(1)),
            ("the newer waits", vec![&waits, &newer], None),
            ("the target may be back", vec![&was_away, &newer], Some(1)),
            ("nothing new is due", vec![&was_away, &newer_waits], None),
            (
                "no attempt is that late",
                vec![&clock_was_set_back],
                Some(1),
            ),
            ("refused", vec![&refused(-30)], None),
            ("refused, and due again", vec![&refused_and_due], Some(1)),
            ("a last chance", vec![&refused(-30), &newer], Some(1)),
            ("it was refused again", vec![&refused(0), &newer], Some(2)),
            ("none is due", vec![&refused(-30), &newer_waits], None),
        ] {
            let found = next_of_target(&waiting, minutes(0));
            assert_eq!(found, next, "{what}");
        }
    }

    #[test]
    fn target_that_waits_delays_no_other() {
        let waits = message(1, 1, 10, None);
        let mut other = message(2, 0, 0, None);
        other.target = "b@example.org".to_owned();
        assert_eq!(next_of_each_target(&[waits, other], minutes(0)), [2]);
    }
}
