//! Retention: what passes and mails leave in the tables is deleted after its time, a bounded part
//! after each pass. What is still open (findings that stay, alerts that fire, mails not sent,
//! promises not mended) stays, however old.

use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Datetime, Text};
use diesel_async::RunQueryDsl;

use super::schema::reconcile_runs;
use super::{Db, DbError};

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Runs that found nothing new.
    pub clean_runs: Duration,
    /// Other runs, findings that are over, and what operators did.
    pub runs: Duration,
    /// Alerts that are over.
    pub alerts: Duration,
    /// Mails that were sent or given up.
    pub mails: Duration,
    /// Broken promises, after they were mended.
    pub mended_promises: Duration,
}

/// Rows deleted in one statement: short locks, and millions are caught up with in a day.
const AT_ONCE: u32 = 1_000;

/// How long one of these is kept.
type Time = fn(&Kept) -> Duration;

/// What is deleted by its age alone, in the order of an index.
const BY_AGE: &[(&str, Time)] = &[
    // A finding that is over and that no run refers to any more: see `delete_old_findings`.
    ("reconcile_findings WHERE seen_from IS NULL AND created_at < ? ORDER BY created_at", |kept| kept.runs),
    ("alerts WHERE status = 'resolved' AND last_seen_at < ? ORDER BY last_seen_at", |kept| kept.alerts),
    ("alerts WHERE status = 'told' AND last_seen_at < ? ORDER BY last_seen_at", |kept| kept.alerts),
    ("mail_outbox WHERE sent_at < ? ORDER BY sent_at", |kept| kept.mails),
    ("mail_outbox WHERE sent_at IS NULL AND given_up_at < ? ORDER BY given_up_at", |kept| kept.mails),
    ("ops_actions WHERE at < ? ORDER BY at", |kept| kept.runs),
    ("broken_promises WHERE mended_at < ? ORDER BY mended_at", |kept| kept.mended_promises),
];

impl Db {
    /// Deletes a bounded part of what is older than it is kept.
    pub async fn delete_old(&self, kept: Kept) -> Result<(), DbError> {
        self.delete_old_runs(kept.clean_runs, true).await?;
        self.delete_old_runs(kept.runs, false).await?;
        self.delete_old_findings().await?;
        for (what, time) in BY_AGE {
            let Some(before) = ago(time(&kept)) else { continue };
            let sql = format!("DELETE FROM {what} LIMIT {AT_ONCE}");
            self.run("delete what is old", async move |conn| {
                diesel::sql_query(sql).bind::<Datetime, _>(before).execute(conn).await
            })
            .await?;
        }
        Ok(())
    }

    /// The last clean run stays through any time of trouble, and so does a run whose reports
    /// another one refers to.
    async fn delete_old_runs(&self, kept: Duration, nothing_new: bool) -> Result<(), DbError> {
        let Some(before) = ago(kept) else { return Ok(()) };
        self.run("delete old runs", async move |conn| {
            let clean = reconcile_runs::table.filter(reconcile_runs::status.eq("clean"));
            let last: Option<String> = clean
                .filter(reconcile_runs::dry_run.eq(false))
                .order(reconcile_runs::started_at.desc())
                .select(reconcile_runs::id)
                .first(conn)
                .await
                .optional()?;
            let sql = format!(
                "DELETE r FROM reconcile_runs r JOIN (SELECT id FROM reconcile_runs o WHERE o.nothing_new = {nothing_new} \
                 AND o.started_at < ? AND o.status <> 'running' AND o.id <> ? AND NOT EXISTS \
                 (SELECT 1 FROM reconcile_runs l WHERE l.drops_run = o.id) ORDER BY o.started_at LIMIT {AT_ONCE}) old USING (id)"
            );
            let delete = diesel::sql_query(sql).bind::<Datetime, _>(before);
            delete.bind::<Text, _>(last.unwrap_or_default()).execute(conn).await.map(|_| ())
        })
        .await
    }

    /// Numbered findings that were over before the oldest numbered run there is.
    async fn delete_old_findings(&self) -> Result<(), DbError> {
        self.run("delete old findings", async move |conn| {
            let sql = format!(
                "DELETE FROM reconcile_findings WHERE seen_to <= (SELECT MIN(number) FROM reconcile_runs) \
                 ORDER BY seen_to LIMIT {AT_ONCE}"
            );
            diesel::sql_query(sql).execute(conn).await.map(|_| ())
        })
        .await
    }
}

/// `None`: longer than time itself, so nothing is old.
fn ago(kept: Duration) -> Option<NaiveDateTime> {
    let kept = TimeDelta::from_std(kept).ok()?;
    Utc::now().checked_sub_signed(kept).map(|at| at.naive_utc())
}
