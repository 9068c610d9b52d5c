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
    /// How often in a row its target has refused it.
    pub refusals: u32,
    pub message: Outgoing,
}

/// The outcome of an attempt to deliver a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The target accepted it.
    Sent,
    /// The target is away. The next attempt is at this time.
    Retry(DateTime<Utc>, String),
    /// The target answered, and refused it. The next attempt is at this time.
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
        refusals: u32,
        next_attempt_at: NaiveDateTime,
        attempted_at: Option<NaiveDateTime>,
        leased_until: Option<NaiveDateTime>,
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
        let of_open = values![mails, hooks, busy];
        let waiting = format!("SELECT {{columns}} FROM outbox WHERE {is_open} ORDER BY id");
        let waiting: Vec<WaitingMessage> = Sql::new(waiting, of_open).all(conn).await?;
        let times = Times { now, until };
        let due = next_of_each_target(&waiting, times);
        // A locking read sees the latest rows. Those that another sender has locked are skipped.
        let lock = sql!(
            "SELECT id, attempts, refusals, {columns} FROM outbox \
            WHERE id IN (?) AND sent_at IS NULL AND given_up_at IS NULL \
            AND (leased_until IS NULL OR leased_until <= ? OR leased_until > ?) \
            FOR UPDATE SKIP LOCKED",
            list(due),
            now,
            times.never_leased()
        );
        let locked: Vec<(i64, u32, u32, Outgoing)> = lock.all(conn).await?;
        let ids = list(locked.iter().map(|(id, ..)| *id));
        let lease = sql!(
            "UPDATE outbox SET leased_until = ? WHERE id IN (?)",
            until,
            ids
        );
        lease.run(conn).await?;
        Ok(locked
            .into_iter()
            .map(|(id, attempts, refusals, message)| Leased {
                id,
                attempts,
                refusals,
                message,
            })
            .collect())
    })
    .await
}

/// The times of a lease.
#[derive(Clone, Copy)]
struct Times {
    now: DateTime<Utc>,
    /// When the lease expires.
    until: DateTime<Utc>,
}

impl Times {
    /// No lease is that far ahead. If there is one, the clock has been set back since.
    fn never_leased(self) -> DateTime<Utc> {
        self.until + AHEAD
    }

    fn is_leased(self, message: &WaitingMessage) -> bool {
        message.leased_until.is_some_and(|until| {
            until > self.now.naive_utc() && until <= self.never_leased().naive_utc()
        })
    }

    fn is_due(self, time: NaiveDateTime) -> bool {
        // Nor is an attempt that far ahead.
        let never = self.now + PUT_OFF_AT_MOST + AHEAD;
        time <= self.now.naive_utc() || time > never.naive_utc()
    }
}

/// Returns the message of each target that is to be sent next, if one is due. Messages are sorted
/// by their ID, from the oldest.
fn next_of_each_target(waiting: &[WaitingMessage], times: Times) -> Vec<i64> {
    let mut targets: BTreeMap<&str, Vec<&WaitingMessage>> = BTreeMap::new();
    for message in waiting {
        targets.entry(&message.target).or_default().push(message);
    }
    let next = targets
        .values()
        .map(|messages| next_of_target(messages, times));
    next.flatten().collect()
}

/// A target's messages arrive in order. Only messages that the target has refused often delay no
/// newer one, but each of them is tried once more before a newer one is: a target that refused
/// everything for a while gets everything in order afterwards.
fn next_of_target(messages: &[&WaitingMessage], times: Times) -> Option<i64> {
    let mut leased = messages.iter().filter(|it| times.is_leased(it));
    // Another sender has them. Only what a target has refused must be tried before a newer one.
    if leased.any(|it| it.refusals > 0) {
        return None;
    }
    let mut messages = messages.to_vec();
    messages.retain(|it| !times.is_leased(it));
    let refused = messages
        .iter()
        .take(PASSED_AT_MOST)
        .take_while(|it| it.refusals >= REFUSED_OFTEN)
        .count();
    for (at, message) in messages.iter().enumerate().take(refused + 1) {
        let is_last = at == refused;
        let newer = if is_last { &messages[at + 1..] } else { &[] };
        let due_at = due_at(message, newer);
        if times.is_due(due_at) {
            let mut older = messages[..at].iter();
            let untried = older.find(|it| it.attempted_at < Some(due_at));
            let may_wait = due_at <= times.now.naive_utc();
            let first = untried.filter(|_| may_wait).unwrap_or(message);
            return Some(first.id);
        }
    }
    None
}

/// Returns when a message is due. If it has failed so often that its target was away, that is as
/// soon as a newer one becomes due after its last attempt.
fn due_at(message: &WaitingMessage, newer: &[&WaitingMessage]) -> NaiveDateTime {
    let own = message.next_attempt_at;
    if message.attempts < WAS_AWAY {
        return own;
    }
    let newer = newer.iter().map(|it| it.next_attempt_at);
    let since = newer.filter(|time| Some(*time) >= message.attempted_at);
    since.min().map_or(own, |time| time.min(own))
}

/// A message that failed this often was not refused: its target, or the mail server, was away.
const WAS_AWAY: u32 = 5;

/// A message that its target has refused this often, for about eight minutes, delays no newer one.
const REFUSED_OFTEN: u32 = 5;

/// A target that has refused this many messages often refuses everything.
const PASSED_AT_MOST: usize = 10;

/// What an attempt changes.
#[derive(Default)]
struct Changes {
    sent_at: Option<DateTime<Utc>>,
    given_up_at: Option<DateTime<Utc>>,
    refusals: u32,
    next_attempt_at: Option<DateTime<Utc>>,
    /// When the messages that waited for this one are due.
    others_due_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

impl Changes {
    fn from_outcome(outcome: DeliveryOutcome, refusals: u32, now: DateTime<Utc>) -> Self {
        match outcome {
            DeliveryOutcome::Sent => Self {
                sent_at: Some(now),
                others_due_at: Some(now),
                refusals,
                ..Self::default()
            },
            DeliveryOutcome::Retry(at, error) => Self {
                next_attempt_at: Some(at),
                others_due_at: Some(at),
                last_error: Some(error),
                ..Self::default()
            },
            DeliveryOutcome::Refused(at, error) => Self {
                refusals: refusals + 1,
                next_attempt_at: Some(at),
                others_due_at: (refusals + 1 < REFUSED_OFTEN).then_some(at),
                last_error: Some(error),
                ..Self::default()
            },
            DeliveryOutcome::GivenUp(error) => Self {
                given_up_at: Some(now),
                refusals,
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
/// that it has just refused again: an alert must not begin after it has ended. Returns how many of
/// those were given up.
pub async fn record_outcome(
    db: &Db,
    leased: &Leased,
    outcome: DeliveryOutcome,
    now: DateTime<Utc>,
) -> DbResult<usize> {
    let id = leased.id;
    let changes = Changes::from_outcome(outcome, leased.refusals, now);
    let is_sent = changes.sent_at.is_some();
    db.transaction("record a delivery", async move |conn| {
        let own = sql!(
            "UPDATE outbox SET attempts = attempts + 1, refusals = ?, attempted_at = ?, \
            leased_until = NULL, sent_at = ?, given_up_at = COALESCE(?, given_up_at), \
            last_error = ?, next_attempt_at = COALESCE(?, next_attempt_at) \
            WHERE id = ? AND sent_at IS NULL",
            changes.refusals,
            now,
            changes.sent_at,
            changes.given_up_at,
            changes.last_error,
            changes.next_attempt_at,
            id
        );
        own.run(conn).await?;
        let mut passed_over = 0;
        if is_sent {
            let refused = sql!(
                "UPDATE outbox o JOIN outbox own ON own.id = ? SET o.given_up_at = ? \
                WHERE o.target = own.target AND o.id < own.id AND o.refusals >= ? \
                AND o.sent_at IS NULL AND o.given_up_at IS NULL",
                id,
                now,
                REFUSED_OFTEN
            );
            passed_over = refused.run(conn).await?;
        }
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
            others.run(conn).await?;
        }
        Ok(passed_over)
    })
    .await
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
    fn message(id: i64, attempts: u32, next: i64) -> WaitingMessage {
        WaitingMessage {
            id,
            target: "a@example.org".to_owned(),
            attempts,
            refusals: 0,
            next_attempt_at: minutes(next).naive_utc(),
            attempted_at: (attempts > 0).then(|| minutes(-20).naive_utc()),
            leased_until: None,
        }
    }

    /// A message that was refused often, the last time at this minute.
    fn refused(id: i64, next: i64, last: i64) -> WaitingMessage {
        WaitingMessage {
            refusals: REFUSED_OFTEN,
            attempted_at: Some(minutes(last).naive_utc()),
            ..message(id, 5, next)
        }
    }

    fn leased(id: i64, until: i64) -> WaitingMessage {
        WaitingMessage {
            leased_until: Some(minutes(until).naive_utc()),
            ..message(id, 0, 0)
        }
    }

    fn leased_again(id: i64, until: i64) -> WaitingMessage {
        WaitingMessage {
            refusals: 1,
            ..leased(id, until)
        }
    }

    fn minutes(number: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1) + TimeDelta::minutes(number)
    }

    fn times() -> Times {
        Times {
            now: minutes(0),
            until: minutes(4),
        }
    }

    #[test]
    fn messages_of_a_target_are_sent_in_order_and_refused_ones_before_newer_ones() {
        let later = 24 * 60;
        for (what, waiting, next) in [
            ("nothing", vec![], None),
            (
                "the oldest first",
                vec![message(1, 0, 0), message(2, 0, -1)],
                Some(1),
            ),
            (
                "the newer waits",
                vec![message(1, 1, 10), message(2, 0, -1)],
                None,
            ),
            (
                "no attempt is that late",
                vec![message(1, 1, later)],
                Some(1),
            ),
            (
                "the target may be back",
                vec![message(1, 5, 10), message(2, 0, -1)],
                Some(1),
            ),
            (
                "nothing new is due",
                vec![message(1, 5, 10), message(2, 0, -30)],
                None,
            ),
            (
                "another sender has it",
                vec![leased(1, 3), message(2, 0, 0)],
                Some(2),
            ),
            (
                "it may be refused again",
                vec![leased_again(1, 3), message(2, 0, 0)],
                None,
            ),
            (
                "its sender died",
                vec![leased(1, -1), message(2, 0, 0)],
                Some(1),
            ),
            (
                "no lease is that long",
                vec![leased(1, later), message(2, 0, 0)],
                Some(1),
            ),
            ("refused", vec![refused(1, 10, -30)], None),
            ("refused, and due again", vec![refused(1, 0, -30)], Some(1)),
            (
                "a last chance",
                vec![refused(1, 10, -30), message(2, 0, -1)],
                Some(1),
            ),
            (
                "refused again",
                vec![refused(1, 10, 0), message(2, 0, -1)],
                Some(2),
            ),
            (
                "none is due",
                vec![refused(1, 10, -30), message(2, 1, 5)],
                None,
            ),
            (
                "the older first",
                vec![refused(1, 30, -10), refused(2, 0, -8)],
                Some(1),
            ),
            (
                "both were refused",
                vec![refused(1, 30, 0), refused(2, 0, -8)],
                Some(2),
            ),
            (
                "the clock was set back",
                vec![refused(1, 10, -30), message(2, 1, later)],
                Some(2),
            ),
        ] {
            let waiting: Vec<&WaitingMessage> = waiting.iter().collect();
            assert_eq!(next_of_target(&waiting, times()), next, "{what}");
        }
    }

    #[test]
    fn target_that_refuses_many_messages_gets_no_newer_one() {
        let mut all: Vec<WaitingMessage> = (1..).map(|id| refused(id, 10, 0)).take(11).collect();
        all.push(message(12, 0, -1));
        let waiting: Vec<&WaitingMessage> = all.iter().collect();
        assert_eq!(next_of_target(&waiting, times()), None);
        assert_eq!(next_of_target(&waiting[1..], times()), Some(12));
    }

    #[test]
    fn target_that_waits_delays_no_other() {
        let mut other = message(2, 0, 0);
        other.target = "b@example.org".to_owned();
        let waiting = [message(1, 1, 10), other];
        assert_eq!(next_of_each_target(&waiting, times()), [2]);
    }
}
