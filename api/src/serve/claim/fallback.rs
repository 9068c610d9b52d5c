//! The fallback for claims that Kafka does not acknowledge: the table `failed_claims`. While Kafka
//! answers, this module sends no queries to MySQL. Otherwise, one statement writes all claims that
//! have accumulated.

use std::time::Duration;

use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::dead_letters::Unpublished;
use firstcome_shared::mysql::{Db, DbError, dead_letters};
use firstcome_shared::trace::TraceContext;
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Maximum number of claims that wait to be written. Additional claims get 503.
const QUEUE: usize = 16_384;

/// Maximum number of rows per statement.
const MAX_ROWS: usize = 1_000;

pub(crate) struct Fallback {
    queue: mpsc::Sender<UnpublishedClaim>,
    deadline: Duration,
}

struct UnpublishedClaim {
    claim: Unpublished,
    kept: oneshot::Sender<bool>,
}

impl Fallback {
    /// Starts the writing task. It ends when this is dropped.
    pub(crate) fn new(db: Db, deadline: Duration) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE);
        tokio::spawn(write(db, pending, deadline));
        Self { queue, deadline }
    }

    /// Stores the claim, and returns whether the table is known to have it within the deadline.
    pub(super) async fn keep(&self, claim: &ClaimEvent, trace: Option<TraceContext>) -> bool {
        let (kept, answer) = oneshot::channel();
        let claim = Unpublished {
            claim: claim.clone(),
            trace,
        };
        if self
            .queue
            .try_send(UnpublishedClaim { claim, kept })
            .is_err()
        {
            return false;
        }
        matches!(
            tokio::time::timeout(self.deadline, answer).await,
            Ok(Ok(true))
        )
    }
}

async fn write(db: Db, mut pending: mpsc::Receiver<UnpublishedClaim>, deadline: Duration) {
    let mut batch = Vec::new();
    let mut failing = false;
    while pending.recv_many(&mut batch, MAX_ROWS).await > 0 {
        // Drops claims whose requests got 503 in the meantime; they are retried.
        batch.retain(|one| !one.kept.is_closed());
        if batch.is_empty() {
            continue;
        }
        let claims: Vec<Unpublished> = batch.iter().map(|one| one.claim.clone()).collect();
        let written = insert(&db, claims, deadline).await;
        match &written {
            Ok(()) => counter!("firstcome_claims_backed_up_total").increment(batch.len() as u64),
            Err(error) if !failing => {
                tracing::warn!(%error, claims = batch.len(), "claims that Kafka has not acknowledged could not be kept in the dead-letter table");
            }
            Err(_) => {}
        }
        failing = written.is_err();
        for one in batch.drain(..) {
            // If the request has already ended, the row stays and the reconciler issues the coupon.
            let _ = one.kept.send(written.is_ok());
        }
    }
}

/// Retries the statement once if MySQL refuses it: two processes that write the same claims can
/// deadlock.
async fn insert(db: &Db, claims: Vec<Unpublished>, deadline: Duration) -> Result<(), DbError> {
    let begun = Instant::now();
    let again = claims.clone();
    let once = async |claims: Vec<Unpublished>, limit| {
        let keep = async move |conn: &mut firstcome_shared::mysql::Conn| {
            dead_letters::keep_unpublished(conn, &claims).await
        };
        db.run_within(limit, "keep claims that are not published", keep)
            .await
    };
    match once(claims, deadline).await {
        Err(DbError::Query { .. }) if begun.elapsed() < deadline => {
            once(again, deadline.saturating_sub(begun.elapsed())).await
        }
        other => other,
    }
}
