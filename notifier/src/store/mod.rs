//! What is kept in MySQL: the alerts, and the mails to send. A pass changes both in one transaction, so that no restart makes
//! a mail come twice or not at all.

mod day;
mod memory;
mod operators;
pub(super) mod outbox;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_shared::mysql::schema::{alerts, mail_outbox, reconciler_state};
use firstcome_shared::mysql::{Conn, Db, DbError};

use super::alerts::{Policy, Verdict, judge};
use super::render::{self, Links, Rendered};
use crate::report::Run;
use memory::{keep, remember};

pub(super) use day::{day, tidy};
pub use operators::{AlertError, AlertPage, AlertView, acknowledge, alert, list, silence};

/// Longest that recording a pass may take; one with ten thousand findings has much to hash.
const LIMIT: Duration = Duration::from_secs(30);

/// What mails need to know of the settings.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// Who gets mails, as they stand in a header.
    pub(super) recipients: Vec<String>,
    /// What comes after the `@` of ids.
    pub(super) domain: String,
    pub(super) links: Links,
    pub(super) policy: Policy,
}

/// Keeps what a pass means for the alerts and enqueues its mail, if it has one. Gives the number of mails enqueued. A run
/// that was told already is not told again, so this may be tried again after a timeout.
pub(super) async fn record_pass(db: &Db, run: Run, post: Arc<Post>, now: DateTime<Utc>) -> Result<usize, DbError> {
    db.run_within(LIMIT, "record alerts", async move |conn| {
        conn.transaction(async |conn| {
            one_at_a_time(conn).await?;
            let memory = remember(conn, &run).await?;
            let verdict = judge(&run, &memory, post.policy, now);
            for alert in &verdict.alerts {
                keep(conn, alert).await?;
            }
            // Judged anew after a timeout, only repairs would be told twice: all else is remembered as told.
            if !verdict.says_something() || is_told(conn, &run.run_id).await? {
                return Ok(0);
            }
            let ids = ids(conn, &verdict).await?;
            let pass = render::Pass { run: &run, verdict: &verdict, ids: &ids, links: &post.links, now };
            let mail = render::pass(&pass).map_err(unrendered)?;
            let threads = threads(&verdict, &post.domain);
            outbox::enqueue(conn, &mail, Some(&run.run_id), threads.as_deref(), &post, now).await
        })
        .await
    })
    .await
}

/// Enqueues a mail that belongs to no pass.
pub(super) async fn enqueue(db: &Db, mail: Rendered, post: Arc<Post>, now: DateTime<Utc>) -> Result<usize, DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| outbox::enqueue(conn, &mail, None, None, &post, now).await).await
    })
    .await
}

fn unrendered(error: anyhow::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(error.into())
}

/// Holds a row's lock to the end of the transaction: two processes must not judge by the same memory.
async fn one_at_a_time(conn: &mut Conn) -> QueryResult<()> {
    // Not INSERT IGNORE, whose shared lock would let two in and then block both.
    diesel::insert_into(reconciler_state::table)
        .values((reconciler_state::name.eq("notify"), reconciler_state::value.eq("")))
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set(reconciler_state::value.eq(""))
        .execute(conn)
        .await
        .map(|_| ())
}

async fn is_told(conn: &mut Conn, run_id: &str) -> QueryResult<bool> {
    let rows: i64 = mail_outbox::table.filter(mail_outbox::run_id.eq(run_id)).count().get_result(conn).await?;
    Ok(rows > 0)
}

async fn ids(conn: &mut Conn, verdict: &Verdict) -> QueryResult<HashMap<String, i64>> {
    let told: Vec<&str> = verdict.problems.iter().map(|told| told.observation.fingerprint.as_str()).collect();
    let rows: Vec<(String, i64)> = alerts::table
        .filter(alerts::fingerprint.eq_any(told))
        .select((alerts::fingerprint, alerts::id))
        .load(conn)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Most threads that one mail belongs to.
const THREADS: usize = 10;

/// The threads of the drifts a mail tells of, the most pressing first; none for what is told once.
fn threads(verdict: &Verdict, domain: &str) -> Option<String> {
    let told = verdict.problems.iter().map(|told| told.observation.fingerprint.as_str());
    let told = told.chain(verdict.resolved.iter().map(|alert| alert.fingerprint.as_str()));
    let thread_of = |fingerprint: &str| {
        verdict
            .alerts
            .iter()
            .find(|alert| alert.fingerprint == fingerprint)
            .map(|alert| format!("{}@{domain}", alert.thread))
    };
    let threads: Vec<String> = told.filter_map(thread_of).take(THREADS).collect();
    (!threads.is_empty()).then(|| threads.join(" "))
}
