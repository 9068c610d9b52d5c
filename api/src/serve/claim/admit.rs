//! Admission of one claim. A failed call is not retried: the client retries and, if the first call
//! gave it a slot, gets `already_claimed`.

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
use super::outcome::{ClaimAnswer, counter, label};
use super::refusal::ClaimRefusal;
use crate::serve::auth::Requester;
use crate::serve::bulkheads::Bulkheads;
use crate::serve::catalogue::Catalogue;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates, instant};

pub(crate) struct ClaimService {
    /// Connections for reads of the status of claims. Claims on open drops do not depend on MySQL.
    pub(super) questions: Db,
    /// Connections for revocations by operators.
    pub(super) operators: Db,
    pub(super) question_limit: InFlightLimit,
    pub(super) redis: Redis,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) durability: Arc<Durability>,
    batches: Arc<MicroBatches>,
    /// Cached because most claims of a crowd increment it.
    sold_out: Counter,
    refused: LineLimit,
}

/// Maximum number of reads in flight. While MySQL does not answer, each read waits for its timeout
/// (0.4 s).
const MAX_QUESTIONS: u32 = 512;

impl ClaimService {
    /// Claims that wait longer than `redis_timeout` are refused.
    pub(crate) fn new(
        mysql: &Bulkheads,
        redis: Redis,
        catalogue: Arc<Catalogue>,
        durability: Durability,
        in_flight: &Arc<InFlightLimit>,
        redis_timeout: Duration,
    ) -> Self {
        let durability = Arc::new(durability);
        let batches = MicroBatches::new(
            redis.clone(),
            Arc::clone(&durability),
            Arc::clone(in_flight),
            redis_timeout,
        );
        Self {
            questions: mysql.questions.clone(),
            operators: mysql.operators.clone(),
            question_limit: in_flight.for_questions(MAX_QUESTIONS),
            redis,
            catalogue,
            durability,
            batches: Arc::new(batches),
            sold_out: counter("sold_out"),
            refused: LineLimit::default(),
        }
    }

    pub(crate) fn durability(&self) -> &Durability {
        &self.durability
    }

    /// Processes one claim to its end. Once Redis is called, the claim continues even if its caller
    /// was dropped.
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
        // Redis was rebuilt, and this process has not read the new era yet. The script changed
        // nothing.
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
                let outcome = label(other);
                counter(outcome).increment(1);
                if let Err(refusal) = other {
                    self.warn(id, outcome, refusal);
                }
            }
        }
        answer
    }

    /// Logs why claims are answered with 503.
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
        let now = Utc::now();
        let Some(mut candidates) = coupon.candidates(now) else {
            return Err(if coupon.is_over(now) {
                ClaimRefusal::Refused(Admission::Closed(0))
            } else {
                ClaimRefusal::StandingUnknown
            });
        };
        let mut reply = self.batches.ask(coupon, candidates, requester).await;
        // No candidate is open by Redis's clock, so the call admitted no user. This host's clock
        // may differ: choose the candidates again by Redis's clock.
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
            // After a loss of Redis data, sealed drops are neither verified nor opened, so ask
            // MySQL.
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
            None => match answer(&reply?) {
                Err(ClaimRefusal::Refused(Admission::NotOpen(_) | Admission::Closed(_)))
                    if coupon.lacks_a_drop(Utc::now()) =>
                {
                    Err(ClaimRefusal::StandingUnknown)
                }
                answered => answered,
            },
        }
    }

    /// Answers a claim on a sealed drop from MySQL: its keys in Redis expire, and a pass has
    /// verified that its rows are complete.
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
            .run(async move { db.rows_of_people(coupon_id, &[user]).await })
            .await?;
        let rows = rows.map_err(|error| {
            tracing::warn!(%error, "a claim on a sealed drop could not be answered");
            ClaimRefusal::SealedUnknown
        })?;
        let counts = |drop: i64| drop == sealed.id.0 || coupon.coupon.once_per == OncePer::Coupon;
        if let Some(row) = rows.iter().find(|row| counts(row.drop_id)) {
            return Ok(ClaimAnswer::AlreadyClaimed {
                drop_id: DropId(row.drop_id),
                slot: row.slot,
            });
        }
        // A replica may lack the user's row.
        if !self.catalogue.is_of_primary() {
            return Err(ClaimRefusal::SealedUnknown);
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

/// Acknowledges a slot only if a second store holds the claim.
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
