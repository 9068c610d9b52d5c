//! The fallback: claims that Kafka has not acknowledged go to the table `failed_claims`. While
//! Kafka answers, MySQL gets no queries from here. While it does not, one statement writes all
//! claims that have come together.

use std::time::Duration;

use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::{Db, DbError, dead_letters};
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Most claims that wait to be written; the requests of further ones are answered 503.
const QUEUE: usize = 16_384;

/// Most rows of one statement.
const MAX_ROWS: usize = 1_000;

pub(crate) struct Fallback {
    queue: mpsc::Sender<UnpublishedClaim>,
    deadline: Duration,
}

struct UnpublishedClaim {
    claim: ClaimEvent,
    kept: oneshot::Sender<bool>,
}

impl Fallback {
    /// Starts the task that writes. It ends when this is dropped.
    pub(crate) fn new(db: Db, deadline: Duration) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE);
        tokio::spawn(write(db, pending, deadline));
        Self { queue, deadline }
    }

    /// `false`: within the deadline it is not certain that the table has the claim.
    pub(super) async fn keep(&self, claim: &ClaimEvent) -> bool {
        let (kept, answer) = oneshot::channel();
        if self.queue.try_send(UnpublishedClaim { claim: claim.clone(), kept }).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(self.deadline, answer).await, Ok(Ok(true)))
    }
}

async fn write(db: Db, mut pending: mpsc::Receiver<UnpublishedClaim>, deadline: Duration) {
    let mut batch = Vec::new();
    let mut failing = false;
    while pending.recv_many(&mut batch, MAX_ROWS).await > 0 {
        // Requests that were answered 503 meanwhile; their retries come again.
        batch.retain(|one| !one.kept.is_closed());
        if batch.is_empty() {
            continue;
        }
        let claims: Vec<ClaimEvent> = batch.iter().map(|one| one.claim.clone()).collect();
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
            // Where nobody waits any more, the row stands, and the reconciler issues it.
            let _ = one.kept.send(written.is_ok());
        }
    }
}

/// One statement, tried once more where MySQL refused it: two processes that write the same claims
/// can deadlock.
async fn insert(db: &Db, claims: Vec<ClaimEvent>, deadline: Duration) -> Result<(), DbError> {
    let begun = Instant::now();
    let again = claims.clone();
    let once = async |claims: Vec<ClaimEvent>, limit| {
        let keep =
            async move |conn: &mut firstcome_shared::mysql::Conn| dead_letters::keep_unpublished(conn, &claims).await;
        db.run_within(limit, "keep claims that are not published", keep).await
    };
    match once(claims, deadline).await {
        Err(DbError::Query { .. }) if begun.elapsed() < deadline => {
            once(again, deadline.saturating_sub(begun.elapsed())).await
        }
        other => other,
    }
}
