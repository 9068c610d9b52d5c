//! Checks that each promise became a row with the promised drop and slot.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use crate::answer::PromisedSlot;
use crate::measure::{CountedRow, Database};

const POLL: Duration = Duration::from_millis(50);
/// Maximum number of users without a row who are named.
const NAMED: usize = 20;

/// Lists users who were promised a coupon but have no row with the promised drop and slot.
#[allow(clippy::implicit_hasher, reason = "a tally has only this one")]
pub fn unkept(promises: &HashMap<String, PromisedSlot>, rows: &[CountedRow]) -> BTreeSet<String> {
    let rows: BTreeSet<(&str, i64, u32)> = rows
        .iter()
        .map(|row| (row.user_id.as_str(), row.promise.drop_id, row.promise.slot))
        .collect();
    let kept = |user_id: &str, promise: &PromisedSlot| {
        rows.contains(&(user_id, promise.drop_id, promise.slot))
    };
    promises
        .iter()
        .filter(|(user_id, promise)| !kept(user_id, promise))
        .map(|(user_id, _)| user_id.clone())
        .collect()
}

/// The rows of the coupon, compared with the promises.
#[derive(Debug, Clone, Serialize)]
pub struct RowCheck {
    /// Number of rows of the coupon, including those from before this crowd.
    pub rows: usize,
    /// Number of users who were promised a coupon but have no row, or a row on a different slot.
    pub promised_without_row: usize,
    pub named: Vec<String>,
    /// Time from the last answer until every user had a row. `None` if a row never appeared.
    pub complete_after_ms: Option<u64>,
}

impl RowCheck {
    /// Waits at most `limit` until every promise has its row.
    pub async fn wait(
        database: &mut Database,
        coupon: i64,
        promises: &HashMap<String, PromisedSlot>,
        limit: Duration,
    ) -> Result<Self> {
        let begun = Instant::now();
        loop {
            let rows = database.rows(coupon).await?;
            let missing = unkept(promises, &rows);
            let after = begun.elapsed();
            if missing.is_empty() || after > limit {
                return Ok(Self {
                    rows: rows.len(),
                    promised_without_row: missing.len(),
                    complete_after_ms: missing
                        .is_empty()
                        .then(|| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
                    named: missing.into_iter().take(NAMED).collect(),
                });
            }
            sleep(POLL).await;
        }
    }
}
