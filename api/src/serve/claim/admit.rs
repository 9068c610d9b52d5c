//! Admission of one claim. Nothing here is retried: a client's retry finds `already_claimed`.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use metrics::{Counter, counter};

use super::durability::{Durability, Store};
use super::in_flight::{InFlightLimit, WorkError};
use super::micro_batch::{ClaimReply, MicroBatches};
use super::{ClaimAnswer, ClaimRefusal};
use crate::serve::catalogue::Catalogue;
use crate::serve::catalogue::coupon_with_drops::{Clock, CouponWithDrops, DropWithKeys, instant};

/// What a claim needs.
pub(crate) struct Claims {
    pub(super) db: Db,
    pub(super) redis: Redis,
    pub(super) clock: Arc<Clock>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) durability: Arc<Durability>,
    pub(super) in_flight: Arc<InFlightLimit>,
    batches: Arc<MicroBatches>,
    /// Looked up once: nearly every claim of a crowd counts here.
    sold_out: Counter,
}

impl Claims {
    /// `redis_timeout`: a claim that waited for longer than one call may take is refused.
    pub(crate) fn new(
        db: Db,
        redis: Redis,
        clock: Arc<Clock>,
        catalogue: Arc<Catalogue>,
        durability: Durability,
        in_flight: Arc<InFlightLimit>,
        redis_timeout: Duration,
    ) -> Self {
        let durability = Arc::new(durability);
        let (shared_clock, shared_limit) = (Arc::clone(&clock), Arc::clone(&in_flight));
        let batches =
            MicroBatches::new(redis.clone(), shared_clock, Arc::clone(&durability), shared_limit, redis_timeout);
        let sold_out = counter!("firstcome_claims_total", "outcome" => "sold_out");
        Self { db, redis, clock, catalogue, durability, in_flight, batches: Arc::new(batches), sold_out }
    }

    pub(crate) fn durability(&self) -> &Durability {
        &self.durability
    }

    /// Works one claim to its end. From the call to Redis on, the claim goes on without its caller.
    pub(crate) async fn admit(&self, id: CouponId, user: UserId) -> Result<ClaimAnswer, ClaimRefusal> {
        let coupon = self.catalogue.find(id).await?;
        let answer = self.ask(&coupon, user).await;
        match &answer {
            Err(ClaimRefusal::Refused(Admission::SoldOut)) => self.sold_out.increment(1),
            other => counter!("firstcome_claims_total", "outcome" => outcome(other)).increment(1),
        }
        answer
    }

    async fn ask(&self, coupon: &Arc<CouponWithDrops>, user: UserId) -> Result<ClaimAnswer, ClaimRefusal> {
        let chosen = coupon.for_claim(self.clock.now()).ok_or(ClaimRefusal::NoDrop)?;
        let reply = match self.batches.ask(coupon, chosen, user.clone()).await {
            // Nothing of a sealed drop is verified after a loss of Redis: nobody is admitted to it.
            Err(ClaimRefusal::NotAnswered(error))
                if matches!(*error, AdmissionError::Closed) && chosen.drop.sealed_at.is_some() =>
            {
                return self.ask_mysql(coupon, chosen, user).await;
            }
            reply => reply?,
        };
        match reply.admission {
            // This process's clock may have chosen the wrong drop; Redis's own time has come with
            // the reply. The first call admitted nobody then.
            Admission::NotOpen(_) | Admission::Closed(_) => {
                let by_redis = coupon.for_claim(instant(reply.now_ms)).ok_or(ClaimRefusal::NoDrop)?;
                if by_redis.drop.id == chosen.drop.id {
                    return answer(chosen.drop.id, &reply);
                }
                answer(by_redis.drop.id, &self.batches.ask(coupon, by_redis, user).await?)
            }
            Admission::Unloaded if chosen.drop.sealed_at.is_some() => self.ask_mysql(coupon, chosen, user).await,
            _ => answer(chosen.drop.id, &reply),
        }
    }

    /// A sealed drop's keys expire in Redis. The drop was verified exact, so MySQL alone knows who
    /// holds a slot.
    async fn ask_mysql(
        &self,
        coupon: &CouponWithDrops,
        sealed: DropWithKeys<'_>,
        user: UserId,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let (db, coupon_id) = (self.db.clone(), coupon.coupon.id);
        let rows = self.in_flight.run(async move { db.rows_of_person(coupon_id, &user).await }).await?;
        let rows = rows.map_err(|error| {
            tracing::warn!(%error, "a claim on a sealed drop could not be answered");
            ClaimRefusal::SealedUnknown
        })?;
        let counts = |drop: i64| drop == sealed.drop.id.0 || coupon.coupon.once_per == OncePer::Coupon;
        let closed_at = sealed.drop.closes_at.map_or(0, |at| at.timestamp_millis());
        match rows.iter().rev().find(|row| counts(row.drop_id)) {
            Some(row) => Ok(ClaimAnswer::AlreadyClaimed { drop_id: DropId(row.drop_id), slot: row.slot }),
            None => Err(ClaimRefusal::Refused(Admission::Closed(closed_at))),
        }
    }
}

/// A slot is acknowledged only where a second store holds it.
fn answer(drop_id: DropId, reply: &ClaimReply) -> Result<ClaimAnswer, ClaimRefusal> {
    match (reply.admission, reply.stored) {
        (Admission::Accepted(slot), Some(store)) => {
            Ok(ClaimAnswer::Accepted { drop_id, slot, queued: store == Store::Kafka })
        }
        (Admission::Already(drop_id, slot), Some(_)) => Ok(ClaimAnswer::AlreadyClaimed { drop_id, slot }),
        (Admission::Accepted(_) | Admission::Already(..), None) => Err(ClaimRefusal::NotDurable),
        (Admission::Waiting(position), _) => Ok(ClaimAnswer::Waiting { position }),
        (refused, _) => Err(ClaimRefusal::Refused(refused)),
    }
}

/// The label in `firstcome_claims_total`.
fn outcome(answer: &Result<ClaimAnswer, ClaimRefusal>) -> &'static str {
    match answer {
        Ok(ClaimAnswer::Accepted { .. }) => "accepted",
        Ok(ClaimAnswer::AlreadyClaimed { .. }) => "already_claimed",
        Ok(ClaimAnswer::Waiting { .. }) => "waiting",
        Err(ClaimRefusal::Refused(refused)) => match refused {
            Admission::SoldOut => "sold_out",
            Admission::Paused => "paused",
            Admission::NotOpen(_) => "not_open",
            Admission::Closed(_) => "closed",
            Admission::Unloaded => "unloaded",
            _ => "unverified",
        },
        Err(ClaimRefusal::NotAnswered(error)) => match **error {
            AdmissionError::Closed => "no_licence",
            AdmissionError::Unanswered => "redis_slow",
            AdmissionError::Redis(_) => "redis_error",
            AdmissionError::Unexpected => "unexpected",
        },
        Err(ClaimRefusal::NoDrop) => "closed",
        Err(ClaimRefusal::NotDurable) => "not_held",
        Err(ClaimRefusal::SealedUnknown) => "mysql_error",
        Err(ClaimRefusal::Work(WorkError::TooMany)) => "shed",
        Err(ClaimRefusal::Work(WorkError::Panicked) | ClaimRefusal::Coupon(_) | ClaimRefusal::StandingUnknown) => {
            "unexpected"
        }
    }
}
