//! The fallback for claims that Kafka does not acknowledge: their rows, written with the consumer's
//! writer. While Kafka answers, this module sends no queries to MySQL. Otherwise, one transaction
//! writes all claims of a coupon that have accumulated.

use std::time::Duration;

use diesel_async::AsyncConnection as _;
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::issued::{IssuedBy, has_later_era};
use firstcome_shared::mysql::{Conn, Db, DbError};
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::rows::{Outcome, write_rows};

/// Maximum number of claims that wait to be written. Additional claims get 503.
const QUEUE: usize = 16_384;

/// Maximum number of claims that are taken from the queue at once.
const MAX_CLAIMS: usize = 1_000;

pub(crate) struct Fallback {
    queue: mpsc::Sender<Waiting>,
    deadline: Duration,
}

struct Waiting {
    claim: Claim,
    /// The era of the gate when the claim was admitted.
    era: u64,
    written: oneshot::Sender<bool>,
}

impl Fallback {
    /// Starts the writing task. It ends when this is dropped.
    pub(crate) fn new(db: &Db, deadline: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(db.of_primary(), waiting, deadline));
        Self { queue, deadline }
    }

    /// Writes the row of a claim that was admitted in this era. Returns whether it is known to
    /// exist within the deadline.
    pub(super) async fn write(&self, claim: Claim, era: u64) -> bool {
        let (written, answer) = oneshot::channel();
        let waiting = Waiting {
            claim,
            era,
            written,
        };
        self.queue.try_send(waiting).is_ok()
            && matches!(timeout(self.deadline, answer).await, Ok(Ok(true)))
    }
}

async fn write_all(db: Db, mut queue: mpsc::Receiver<Waiting>, deadline: Duration) {
    let mut waiting = Vec::new();
    let mut failing = false;
    while queue.recv_many(&mut waiting, MAX_CLAIMS).await > 0 {
        // Drops claims whose requests got 503 in the meantime; they are retried.
        waiting.retain(|one| !one.written.is_closed());
        waiting.sort_by_key(|one| (one.claim.coupon_id, one.era));
        let mut have_rows = Vec::new();
        for some in
            waiting.chunk_by(|a, b| (a.claim.coupon_id, a.era) == (b.claim.coupon_id, b.era))
        {
            let claims: Vec<Claim> = some.iter().map(|one| one.claim.clone()).collect();
            let written = write(&db, claims, some[0].era, deadline).await;
            let error = written.as_ref().err();
            if let Some(error) = error.filter(|_| !failing) {
                tracing::warn!(%error, claims = some.len(), "rows of claims that Kafka has not acknowledged could not be written");
            }
            failing = error.is_some();
            have_rows.extend(written.unwrap_or_else(|_| vec![false; some.len()]));
        }
        let rows = have_rows.iter().filter(|has_row| **has_row).count();
        counter!("firstcome_claims_backed_up_total").increment(rows as u64);
        for (one, has_row) in waiting.drain(..).zip(have_rows) {
            // If the request has already ended, the row stays, and a retry finds it.
            let _ = one.written.send(has_row);
        }
    }
}

/// Writes the claims of one coupon, and returns which of them have rows. If the coupon has begun a
/// later era, none is written: Redis may have been rebuilt without them.
async fn write(
    db: &Db,
    claims: Vec<Claim>,
    era: u64,
    deadline: Duration,
) -> Result<Vec<bool>, DbError> {
    let key = db.code_key().await?;
    let begun = Instant::now();
    loop {
        let (claims, key) = (claims.clone(), key.clone());
        let writing = async move |conn: &mut Conn| {
            conn.transaction(async |conn| {
                if has_later_era(conn, claims[0].coupon_id, era).await? {
                    return Ok(vec![false; claims.len()]);
                }
                let outcomes = write_rows(conn, &claims, &key, IssuedBy::Api).await?;
                Ok(outcomes.iter().map(Outcome::has_row).collect())
            })
            .await
        };
        let left = deadline.saturating_sub(begun.elapsed());
        let written = db.run_within(left, "write claims that are not published", writing);
        match written.await {
            // Two processes that write the same claims can deadlock.
            Err(error) if error.is_deadlock() && begun.elapsed() < deadline => {}
            written => return written,
        }
    }
}
