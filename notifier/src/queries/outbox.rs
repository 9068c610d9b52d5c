//! The table `outbox`: mails and webhook events to send, one row for each message and target. A
//! sender leases a row before sending it, so that no two send it at the same time. The lease of a
//! sender that dies expires.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::dsl::{DuplicatedKeys, count_star, min, not};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use firstcome_shared::columns::{At, seconds_from_now};
use firstcome_shared::mysql::{Conn, Db, DbResult, ROWS_AT_ONCE};
use firstcome_shared::schema::outbox;

/// Age from which messages are given up.
const GIVE_UP: TimeDelta = TimeDelta::days(1);

/// Maximum time for which a target may postpone the next attempt.
pub const PUT_OFF_AT_MOST: TimeDelta = TimeDelta::hours(6);

/// How much further ahead than the maximum an attempt or a lease may be, because the clock of a
/// MySQL server that takes over differs.
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

/// A message to one target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = outbox, treat_none_as_default_value = false)]
pub struct Outgoing {
    #[diesel(serialize_as = At)]
    pub created_at: DateTime<Utc>,
    /// Earliest time of the next attempt.
    #[diesel(serialize_as = At)]
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
pub async fn enqueue(conn: &mut Conn, messages: Vec<Outgoing>) -> QueryResult<()> {
    for some in messages.chunks(ROWS_AT_ONCE) {
        diesel::insert_into(outbox::table)
            .values(some.to_vec())
            .on_conflict(DuplicatedKeys)
            .do_nothing()
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
}

/// Leases the oldest message of each target that the sender serves, if it is due and not leased:
/// messages arrive in order, and an unreachable target delays no other. So a target gets one message
/// at a time from all senders together, and nothing until the lease of one that died expires. An
/// oldest message that has failed `WAS_AWAY` times or more is also due as soon as a newer one is.
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
        let mails = if served.mails {
            Channel::Mail.word()
        } else {
            ""
        };
        let is_leased = outbox::leased_until
            .gt(Some(now))
            .and(outbox::leased_until.le(Some(never_leased)))
            .assume_not_null();
        let open = || {
            let is_served = outbox::channel
                .eq(mails)
                .or(outbox::target.eq_any(&served.webhooks));
            outbox::table
                .filter(outbox::sent_at.is_null())
                .filter(outbox::given_up_at.is_null())
                .filter(is_served)
        };
        // The first read sees the rows of its snapshot, and the locking read the latest ones. So
        // both check that a row is open.
        let heads: Vec<(i64, DateTime<Utc>)> = open()
            .group_by(outbox::target)
            .select((
                min(outbox::id).assume_not_null(),
                min(outbox::next_attempt_at).assume_not_null(),
            ))
            .load(conn)
            .await?;
        let due_at: HashMap<i64, DateTime<Utc>> = heads.into_iter().collect();
        // Rows that another sender has locked are skipped.
        let mut due: Vec<Leased> = open()
            .filter(outbox::id.eq_any(due_at.keys().copied()))
            .filter(outbox::leased_until.is_null().or(not(is_leased)))
            .select(Leased::as_select())
            .for_update()
            .skip_locked()
            .load(conn)
            .await?;
        due.retain(|head| {
            let at = head.message.next_attempt_at;
            let a_newer_one_is_due = due_at.get(&head.id).is_some_and(|next| *next <= now);
            at <= now || at > never || head.attempts >= WAS_AWAY && a_newer_one_is_due
        });
        let leased = outbox::table.filter(outbox::id.eq_any(due.iter().map(|head| head.id)));
        diesel::update(leased)
            .set(outbox::leased_until.eq(Some(until)))
            .execute(conn)
            .await?;
        Ok(due)
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
    // Change the others first: the caller may repeat the call after an error, and this statement,
    // unlike the next one, may run twice.
    if let Some(due) = next.or(sent) {
        let is_back = sent.is_some();
        db.run("put off other messages", async move |conn| {
            let own: Option<(String, String)> = outbox::table
                .find(id)
                .select((outbox::target, outbox::channel))
                .get_result(conn)
                .await
                .optional()?;
            let Some((target, channel)) = own else {
                return Ok(());
            };
            // Whether the mail server is back.
            let is_mail = is_back && channel == Channel::Mail.word();
            let mails = if is_mail { Channel::Mail.word() } else { "" };
            let of_server = outbox::channel.eq(mails).and(outbox::attempts.ge(WAS_AWAY));
            let others = outbox::table
                .filter(outbox::sent_at.is_null())
                .filter(outbox::given_up_at.is_null())
                .filter(outbox::id.ne(id))
                .filter(outbox::target.eq(target).or(of_server));
            diesel::update(others)
                .set(outbox::next_attempt_at.eq(At(due)))
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await?;
    }
    let unsent = outbox::table.find(id).filter(outbox::sent_at.is_null());
    let set = diesel::update(unsent).set((
        outbox::attempts.eq(outbox::attempts + 1),
        outbox::leased_until.eq(None::<DateTime<Utc>>),
        outbox::sent_at.eq(sent),
        outbox::given_up_at.eq(given_up),
        outbox::last_error.eq(error),
        next.map(|next| outbox::next_attempt_at.eq(At(next))),
    ));
    db.write("record a delivery", set).await.map(|_| ())
}

/// Gives up on at most 1,000 messages of a channel that are a day old and whose next attempt was
/// due an hour ago: no process seems to serve them. Otherwise, when `SMTP_URL` is set after months,
/// old mails would look as if their events had just happened. Returns how many.
pub async fn give_up_untried(db: &Db, channel: Channel, now: DateTime<Utc>) -> DbResult<usize> {
    db.run("give up old messages", async move |conn| {
        let old: Vec<i64> = outbox::table
            .filter(outbox::channel.eq(channel.word()))
            .filter(outbox::sent_at.is_null())
            .filter(outbox::given_up_at.is_null())
            .filter(outbox::created_at.lt(At(now - GIVE_UP)))
            .filter(outbox::next_attempt_at.lt(At(now - TimeDelta::hours(1))))
            .limit(1_000)
            .select(outbox::id)
            .load(conn)
            .await?;
        let untried = outbox::table
            .filter(outbox::id.eq_any(&old))
            .filter(outbox::last_error.is_null());
        diesel::update(untried)
            .set(outbox::last_error.eq(Some("nothing was set for a day that sends it")))
            .execute(conn)
            .await?;
        let given_up = outbox::table.filter(outbox::id.eq_any(&old));
        diesel::update(given_up)
            .set(outbox::given_up_at.eq(Some(now)))
            .execute(conn)
            .await
    })
    .await
}

/// Whether a message of this age is given up when an attempt fails.
pub fn is_old(created_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - created_at >= GIVE_UP
}

/// Counts the messages that have waited for longer than this many seconds.
pub async fn late(db: &Db, seconds: i64) -> DbResult<u64> {
    let late = outbox::table
        .filter(outbox::sent_at.is_null())
        .filter(outbox::given_up_at.is_null())
        .filter(outbox::created_at.lt(seconds_from_now(-seconds)))
        .select(count_star());
    let late: Option<i64> = db.row("count late messages", late).await?;
    Ok(late.map_or(0, i64::unsigned_abs))
}

/// Counts unsent messages by channel.
pub async fn waiting(db: &Db) -> DbResult<Vec<(String, i64)>> {
    let open = outbox::table
        .filter(outbox::sent_at.is_null())
        .filter(outbox::given_up_at.is_null())
        .group_by(outbox::channel)
        .select((outbox::channel, count_star()));
    db.rows("count what waits in the outbox", open).await
}
