//! Admission of one claim. Nothing here is retried: a client's retry gets `already_claimed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use metrics::Counter;

use super::durability::{Durability, SecondStore};
use super::in_flight::InFlightLimit;
use super::micro_batch::{ClaimReply, MicroBatches};
use super::outcome::{ClaimAnswer, ClaimOutcome};
use super::refusal::ClaimRefusal;
use crate::serve::auth::Requester;
use crate::serve::bulkheads::Bulkheads;
use crate::serve::catalogue::Catalogue;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates, instant};

/// What a claim needs.
pub(crate) struct ClaimService {
    /// Only for questions: no other claim depends on MySQL.
    pub(super) questions: Db,
    /// For revocations by operators.
    pub(super) operators: Db,
    pub(super) question_limit: InFlightLimit,
    pub(super) redis: Redis,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) durability: Arc<Durability>,
    batches: Arc<MicroBatches>,
    /// Looked up once: nearly every claim of a crowd is counted here.
    sold_out: Counter,
    refused: LineLimit,
}

/// Maximum questions in flight. While MySQL does not answer, each waits for its timeout (0.4 s).
const MAX_QUESTIONS: usize = 512;

impl ClaimService {
    /// `redis_timeout`: a claim that waited for longer than one call may take is refused.
    pub(crate) fn new(
        mysql: &Bulkheads,
        redis: Redis,
        catalogue: Arc<Catalogue>,
        durability: Durability,
        in_flight: &Arc<InFlightLimit>,
        redis_timeout: Duration,
    ) -> Self {
        let durability = Arc::new(durability);
        let shared_limit = Arc::clone(in_flight);
        let question_limit = in_flight.for_questions(MAX_QUESTIONS);
        let batches = MicroBatches::new(
            redis.clone(),
            Arc::clone(&durability),
            shared_limit,
            redis_timeout,
        );
        let sold_out = ClaimOutcome::SoldOut.counter();
        let batches = Arc::new(batches);
        let refused = LineLimit::default();
        Self {
            questions: mysql.questions.clone(),
            operators: mysql.operators.clone(),
            question_limit,
            redis,
            catalogue,
            durability,
            batches,
            sold_out,
            refused,
        }
    }

    pub(crate) fn durability(&self) -> &Durability {
        &self.durability
    }

    /// Processes one claim to its end. From the call to Redis on, the claim continues even if its
    /// caller is gone.
    pub(crate) async fn admit(
        &self,
        id: CouponId,
        requester: Requester,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let coupon = self.catalogue.find(id).await.map_err(|error| {
            let refusal = ClaimRefusal::from(error);
            self.warn(id, "coupon_unknown", &refusal);
            refusal
        })?;
        let mut answer = self.ask(&coupon, &requester).await;
        // Redis was rebuilt, and this process has not read that yet. Nothing ran.
        if is_of_another_era(&answer)
            && self.catalogue.mysql_up()
            && let Ok(now) = self.catalogue.reread(id).await
            && now.coupon.era != coupon.coupon.era
        {
            answer = self.ask(&now, &requester).await;
        }
        match &answer {
            Err(ClaimRefusal::Refused(Admission::SoldOut)) => self.sold_out.increment(1),
            other => {
                let outcome = ClaimOutcome::of(other);
                outcome.counter().increment(1);
                if let Err(refusal) = other {
                    self.warn(id, outcome.into(), refusal);
                }
            }
        }
        answer
    }

    /// Logs why claims get 503.
    fn warn(&self, coupon: CouponId, reason: &'static str, refusal: &ClaimRefusal) {
        let Some(why) = refusal.why_unavailable() else {
            return;
        };
        if let Some(left_out) = self.refused.allow(reason, Instant::now()) {
            tracing::warn!(reason, %coupon, why, left_out, "a claim was answered 503");
        }
    }

    async fn ask(
        &self,
        coupon: &Arc<CouponWithDrops>,
        requester: &Requester,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let mut candidates = coupon.candidates(Utc::now()).ok_or(ClaimRefusal::NoDrop)?;
        let mut reply = self.batches.ask(coupon, candidates, requester).await;
        // None of these is open by Redis's time, so the call admitted nobody: this host's clock may
        // have named the wrong ones.
        if let Ok(ClaimReply {
            open_drop: None,
            now_ms,
            ..
        }) = reply
            && let Some(by_redis) = coupon.candidates(instant(now_ms))
            && !by_redis.are(&candidates)
        {
            candidates = by_redis;
            reply = self.batches.ask(coupon, candidates, requester).await;
        }
        let asked_in_mysql = match &reply {
            // Nothing of a sealed drop is verified after a loss of Redis: nobody is admitted to it.
            Err(ClaimRefusal::NotAnswered(error))
                if matches!(**error, AdmissionError::Closed | AdmissionError::AnotherEra) =>
            {
                Some(candidates.first)
            }
            Ok(ClaimReply {
                admission: Admission::Unloaded(drop),
                ..
            }) => candidates.all().find(|one| one.drop.id == *drop),
            _ => None,
        };
        match asked_in_mysql.filter(|one| one.drop.sealed_at.is_some()) {
            Some(sealed) => {
                let user = requester.user.clone();
                self.ask_mysql(coupon, candidates, sealed.drop, user).await
            }
            None => answer(&reply?),
        }
    }

    /// A sealed drop's keys expire in Redis. The drop was verified exact, so MySQL alone knows the
    /// holders of its slots.
    async fn ask_mysql(
        &self,
        coupon: &CouponWithDrops,
        candidates: DropCandidates<'_>,
        sealed: &Drop,
        user: UserId,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let db = self.questions.clone();
        let coupon_id = coupon.coupon.id;
        let rows = self
            .question_limit
            .run(async move { db.rows_of_person(coupon_id, &user).await })
            .await?;
        let rows = rows.map_err(|error| {
            tracing::warn!(%error, "a claim on a sealed drop could not be answered");
            ClaimRefusal::SealedUnknown
        })?;
        let counts = |drop: i64| drop == sealed.id.0 || coupon.coupon.once_per == OncePer::Coupon;
        if let Some(row) = rows.iter().rev().find(|row| counts(row.drop_id)) {
            return Ok(ClaimAnswer::AlreadyClaimed {
                drop_id: DropId(row.drop_id),
                slot: row.slot,
            });
        }
        let later = candidates
            .all()
            .find(|one| one.drop.opens_at > sealed.opens_at);
        Err(ClaimRefusal::Refused(match later {
            Some(next) => Admission::NotOpen(next.drop.opens_at.timestamp_millis()),
            None => Admission::Closed(sealed.closes_at.map_or(0, |at| at.timestamp_millis())),
        }))
    }
}

fn is_of_another_era(answer: &Result<ClaimAnswer, ClaimRefusal>) -> bool {
    matches!(answer, Err(ClaimRefusal::NotAnswered(error)) if matches!(**error, AdmissionError::AnotherEra))
}

/// A slot is acknowledged only if a second store holds it.
fn answer(reply: &ClaimReply) -> Result<ClaimAnswer, ClaimRefusal> {
    match (reply.admission, reply.stored, reply.open_drop) {
        (Admission::Accepted(slot), Some(store), Some(drop_id)) => Ok(ClaimAnswer::Accepted {
            drop_id,
            slot,
            queued: store == SecondStore::Kafka,
        }),
        (Admission::Already(drop_id, slot), Some(_), _) => {
            Ok(ClaimAnswer::AlreadyClaimed { drop_id, slot })
        }
        (Admission::Accepted(_) | Admission::Already(..), ..) => Err(ClaimRefusal::NotDurable),
        (Admission::Waiting(position), ..) => Ok(ClaimAnswer::Waiting { position }),
        (refused, ..) => Err(ClaimRefusal::Refused(refused)),
    }
}
