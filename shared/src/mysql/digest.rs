//! Reads the data of the daily digest for a period.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::QueryResult;

use super::alerts::{self, ListedAlert};
use super::sql::row;
use super::{Conn, Db, DbResult};
use crate::domain::{CouponId, DropId};
use crate::report::AlertState;
use crate::sql;
use crate::subject::Subject;

/// Maximum number of sealed drops, and of targets with lost messages, that the mail lists. It shows
/// only the number of the others.
const LINES: i64 = 20;

/// Time limit of all queries. With a pass every second, a day has about 86,000 runs.
const LIMIT: Duration = Duration::from_secs(30);

row! {
    /// A drop that was verified exact after it closed.
    #[derive(PartialEq, Eq)]
    pub struct DigestDrop {
        pub coupon_id: CouponId,
        pub coupon_name: String,
        pub drop_id: DropId,
        /// Number of coupons offered.
        pub quantity: u32,
        /// Number of coupons issued.
        pub rows: u32,
    }
}

row! {
    /// Repairs of one kind.
    #[derive(PartialEq, Eq)]
    pub struct DigestRepairs {
        /// The campaign. 0 for Firstcome's own drops, which are too many to be listed.
        pub drop_id: DropId,
        pub kind: String,
        pub number: u64,
    }
}

/// The daily digest of a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyDigest {
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive.
    pub to: DateTime<Utc>,
    /// The alerts that are open at the end, newest first, 500 at most.
    pub open: Vec<ListedAlert>,
    /// Broken promises that have not been resolved.
    pub broken: u64,
    /// Number of runs that started in the period and have ended, by status, without dry runs.
    pub runs: Vec<(String, u64)>,
    /// When the last clean or repaired run ended, in the period or before it, without dry runs.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Repairs by campaign and kind.
    pub repairs: Vec<DigestRepairs>,
    /// The drops that were sealed in the period, oldest first, at most `LINES`.
    pub sealed: Vec<DigestDrop>,
    /// Number of drops that were sealed in the period.
    pub sealed_total: u64,
    /// Messages sent in the period.
    pub sent: u64,
    /// Messages that wait to be sent.
    pub waiting: u64,
    /// Targets with messages that were given up in the period, at most `LINES`, each with the
    /// number of these messages.
    pub lost: Vec<(String, u64)>,
    /// Number of all such targets.
    pub lost_total: u64,
}

/// Reads the digest of a period.
pub async fn day(
    db: &Db,
    subject: Subject,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> DbResult<DailyDigest> {
    let named = match subject {
        Subject::Drop => "0",
        Subject::Campaign => "drop_id",
    };
    let open = alerts::list(db, Some(AlertState::Firing), None, 500).await?;
    db.within(LIMIT)
        .run("gather the day", async move |conn| {
            let runs = sql!(
                "SELECT status, COUNT(*) FROM reconcile_runs WHERE started_at >= ? \
            AND started_at < ? AND finished_at IS NOT NULL AND NOT dry_run GROUP BY status \
            ORDER BY status",
                from,
                to
            )
            .all(conn)
            .await?;
            let last = "SELECT MAX(finished_at) FROM reconcile_runs \
            WHERE status IN ('clean', 'repaired') AND NOT dry_run";
            let last_success_at = sql!(last).one(conn).await?;
            let repairs = format!(
                "SELECT {named}, kind, CAST(SUM(number) AS SIGNED) FROM repairs \
                WHERE repaired_at >= ? AND repaired_at < ? GROUP BY 1, kind ORDER BY 1, kind"
            );
            let repairs = sql!(repairs, from, to).all(conn).await?;
            let claims = match subject {
                Subject::Drop => claims(conn, from, to).await?,
                // Its database has no such tables.
                Subject::Campaign => Claims::default(),
            };
            let totals = sql!(
                "SELECT (SELECT COUNT(*) FROM outbox WHERE sent_at >= ? \
            AND sent_at < ?), (SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL \
            AND given_up_at IS NULL), (SELECT COUNT(DISTINCT target) FROM outbox \
            WHERE given_up_at >= ? AND given_up_at < ?)",
                from,
                to,
                from,
                to
            );
            let (sent, waiting, lost_total) = totals.one(conn).await?;
            let lost = sql!(
                "SELECT target, COUNT(*) FROM outbox WHERE given_up_at >= ? \
            AND given_up_at < ? GROUP BY target ORDER BY target LIMIT ?",
                from,
                to,
                LINES
            )
            .all(conn)
            .await?;
            Ok(DailyDigest {
                from,
                to,
                open: open.alerts,
                broken: claims.broken,
                runs,
                last_success_at,
                repairs,
                sealed: claims.sealed,
                sealed_total: claims.sealed_total,
                sent,
                waiting,
                lost,
                lost_total,
            })
        })
        .await
}

/// What the tables of claims have for the digest.
#[derive(Debug, Default)]
struct Claims {
    broken: u64,
    sealed: Vec<DigestDrop>,
    sealed_total: u64,
}

async fn claims(conn: &mut Conn, from: DateTime<Utc>, to: DateTime<Utc>) -> QueryResult<Claims> {
    let sealed = sql!(
        "SELECT c.id, c.name, d.id, d.quantity, COALESCE(d.sealed_rows, 0) \
        FROM drops d JOIN coupons c ON c.id = d.coupon_id WHERE d.sealed_at >= ? \
        AND d.sealed_at < ? ORDER BY d.sealed_at LIMIT ?",
        from,
        to,
        LINES
    );
    let totals = sql!(
        "SELECT (SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL), \
        (SELECT COUNT(*) FROM drops WHERE sealed_at >= ? AND sealed_at < ?)",
        from,
        to
    );
    let sealed = sealed.all(conn).await?;
    let (broken, sealed_total) = totals.one(conn).await?;
    Ok(Claims {
        broken,
        sealed,
        sealed_total,
    })
}
