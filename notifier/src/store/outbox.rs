//! Mails to send, one row a recipient. A sender leases a row before it sends it, so that two never send the same; a lease that
//! ran out belongs to a sender that died.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_shared::mysql::schema::mail_outbox;
use firstcome_shared::mysql::{Conn, Db, DbError};
use uuid::Uuid;

use super::Post;
use crate::render::Rendered;

/// Rows looked at for one round.
const ROUND: i64 = 64;

/// A mail that is this sender's until its lease runs out.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = mail_outbox)]
pub(crate) struct Leased {
    pub(crate) id: i64,
    pub(crate) created_at: NaiveDateTime,
    pub(crate) kind: String,
    pub(crate) recipient: String,
    pub(crate) subject: String,
    pub(crate) message_id: String,
    pub(crate) thread_refs: Option<String>,
    pub(crate) body_text: String,
    pub(crate) body_html: String,
    pub(crate) attempts: u32,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Sent,
    /// To be tried again at that time.
    Later(DateTime<Utc>, String),
    /// Never to be tried again.
    GivenUp(String),
}

/// Puts a mail in the outbox, once for each recipient. Gives how many.
pub(super) async fn enqueue(
    conn: &mut Conn,
    mail: &Rendered,
    run_id: Option<&str>,
    threads: Option<&str>,
    post: &Post,
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    let id = Uuid::now_v7();
    let rows: Vec<_> = post
        .recipients
        .iter()
        .enumerate()
        .map(|(at, recipient)| {
            (
                mail_outbox::created_at.eq(now.naive_utc()),
                mail_outbox::next_attempt_at.eq(now.naive_utc()),
                mail_outbox::kind.eq(mail.kind),
                mail_outbox::run_id.eq(run_id),
                mail_outbox::recipient.eq(recipient),
                mail_outbox::subject.eq(&mail.subject),
                mail_outbox::message_id.eq(format!("{id}.{at}@{}", post.domain)),
                mail_outbox::thread_refs.eq(threads),
                mail_outbox::body_text.eq(&mail.text),
                mail_outbox::body_html.eq(&mail.html),
            )
        })
        .collect();
    if rows.is_empty() {
        return Ok(0);
    }
    diesel::insert_into(mail_outbox::table).values(rows).execute(conn).await
}

/// Leases the oldest due mail of each recipient: one that can't be reached never holds up another.
pub(crate) async fn lease(db: &Db, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<Leased>, DbError> {
    let now = now.naive_utc();
    let until = until.naive_utc();
    db.run("lease mails", async move |conn| {
        conn.transaction(async |conn| {
            let is_open = mail_outbox::sent_at.is_null().and(mail_outbox::given_up_at.is_null());
            let is_free = mail_outbox::leased_until.is_null().or(mail_outbox::leased_until.le(now));
            // Another sender's rows are skipped, not waited for.
            let due: Vec<(i64, String)> = mail_outbox::table
                .filter(is_open.and(mail_outbox::next_attempt_at.le(now)).and(is_free))
                .order(mail_outbox::id)
                .limit(ROUND)
                .select((mail_outbox::id, mail_outbox::recipient))
                .for_update()
                .skip_locked()
                .load(conn)
                .await?;
            let mut recipients = HashSet::new();
            let ids: Vec<i64> =
                due.into_iter().filter(|(_, to)| recipients.insert(to.clone())).map(|(id, _)| id).collect();
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            diesel::update(mail_outbox::table.filter(mail_outbox::id.eq_any(&ids)))
                .set(mail_outbox::leased_until.eq(until))
                .execute(conn)
                .await?;
            mail_outbox::table
                .filter(mail_outbox::id.eq_any(&ids))
                .order(mail_outbox::id)
                .select(Leased::as_select())
                .load(conn)
                .await
        })
        .await
    })
    .await
}

/// Writes down what became of a leased mail, and gives the lease back.
pub(crate) async fn settle(db: &Db, id: i64, fate: Fate, now: DateTime<Utc>) -> Result<(), DbError> {
    let now = now.naive_utc();
    db.run("settle a mail", async move |conn| {
        let row = mail_outbox::table.filter(mail_outbox::id.eq(id).and(mail_outbox::sent_at.is_null()));
        let counted =
            (mail_outbox::attempts.eq(mail_outbox::attempts + 1), mail_outbox::leased_until.eq(None::<NaiveDateTime>));
        match fate {
            Fate::Sent => {
                let sent = (mail_outbox::sent_at.eq(now), mail_outbox::last_error.eq(None::<String>));
                diesel::update(row).set((counted, sent)).execute(conn).await
            }
            Fate::Later(at, error) => {
                let later = (mail_outbox::next_attempt_at.eq(at.naive_utc()), mail_outbox::last_error.eq(error));
                diesel::update(row).set((counted, later)).execute(conn).await
            }
            Fate::GivenUp(error) => {
                let given_up = (mail_outbox::given_up_at.eq(now), mail_outbox::last_error.eq(error));
                diesel::update(row).set((counted, given_up)).execute(conn).await
            }
        }
        .map(|_| ())
    })
    .await
}

/// How many mails wait to be sent.
pub(crate) async fn waiting(db: &Db) -> Result<i64, DbError> {
    db.run("count waiting mails", async |conn| {
        mail_outbox::table
            .filter(mail_outbox::sent_at.is_null().and(mail_outbox::given_up_at.is_null()))
            .count()
            .get_result(conn)
            .await
    })
    .await
}
