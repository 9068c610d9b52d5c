//! Admission of one claim. Nothing here is retried: a client's retry gets `already_claimed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
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
use crate::serve::catalogue::coupon_with_drops::{
    CouponWithDrops, DropWithKeys, RedisClock, instant,
};

/// What a claim needs.
pub(crate) struct ClaimService {
    /// Only for questions: no other claim depends on MySQL.
    pub(super) questions: Db,
    /// For revocations by operators.
    pub(super) operators: Db,
    pub(super) question_limit: InFlightLimit,
    pub(super) redis: Redis,
    pub(super) clock: Arc<RedisClock>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) durability: Arc<Durability>,
    batches: Arc<MicroBatches>,
    /// Looked up once: nearly every claim of a crowd is counted here.
    sold_out: Counter,
    refused: LineLimit,
}

/// Maximum questions in flight. While MySQL does not answer, each waits for its timeout (0.4 s).
const MAX_QUESTIONS: usize = 512;

/// A claim in the first moments of a drop may be the retry of one in the last moments of the
/// previous drop, whose response was lost.
const RETRY_GRACE: TimeDelta = TimeDelta::seconds(15);

/// For this long after it closed, a sealed drop is asked about claims that come before the next one
/// opens. Not forever: each of these claims costs a second call to Redis.
const SEALED_RETRY_GRACE: TimeDelta = TimeDelta::minutes(10);

impl ClaimService {
    /// `redis_timeout`: a claim that waited for longer than one call may take is refused.
    pub(crate) fn new(
        mysql: &Bulkheads,
        redis: Redis,
        clock: Arc<RedisClock>,
        catalogue: Arc<Catalogue>,
        durability: Durability,
        in_flight: &Arc<InFlightLimit>,
        redis_timeout: Duration,
    ) -> Self {
        let durability = Arc::new(durability);
        let shared_clock = Arc::clone(&clock);
        let shared_limit = Arc::clone(in_flight);
        let question_limit = in_flight.for_questions(MAX_QUESTIONS);
        let batches = MicroBatches::new(
            redis.clone(),
            shared_clock,
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
            clock,
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
        let now = self.clock.now();
        let mut chosen = coupon.for_claim(now).ok_or(ClaimRefusal::NoDrop)?;
        if let Some(before) = just_closed(coupon, chosen.drop, now) {
            let reply = self.batches.ask(coupon, before, requester).await?;
            // By Redis's clock the drop may not be over: then users get that drop's coupon, and no
            // second one.
            let is_open = matches!(
                reply.admission,
                Admission::Accepted(_) | Admission::Waiting(_)
            );
            if is_open || is_retry(before.drop, &reply) {
                return answer(before.drop.id, &reply);
            }
        }
        let mut reply = match self.batches.ask(coupon, chosen, requester).await {
            // Nothing of a sealed drop is verified after a loss of Redis: nobody is admitted to it.
            Err(ClaimRefusal::NotAnswered(error))
                if matches!(*error, AdmissionError::Closed | AdmissionError::AnotherEra)
                    && chosen.drop.sealed_at.is_some() =>
            {
                return self.ask_mysql(coupon, chosen, requester.user.clone()).await;
            }
            reply => reply?,
        };
        // This process's clock may have chosen the wrong drop; the reply contains Redis's own time.
        // In that case the first call admitted nobody.
        let by_redis = coupon
            .for_claim(instant(reply.now_ms))
            .ok_or(ClaimRefusal::NoDrop)?;
        if by_redis.drop.id != chosen.drop.id && is_of_another(chosen.drop, by_redis.drop, &reply) {
            chosen = by_redis;
            reply = self.batches.ask(coupon, by_redis, requester).await?;
        }
        if is_over_or_early(&reply) {
            return self.ask_drop_before(coupon, chosen, requester, reply).await;
        }
        if reply.admission == Admission::Unloaded && chosen.drop.sealed_at.is_some() {
            return self.ask_mysql(coupon, chosen, requester.user.clone()).await;
        }
        answer(chosen.drop.id, &reply)
    }

    /// A retry is always safe, even if the claim's drop has closed in the meantime: holders of a
    /// slot in the previous drop get that answer, not that the next drop is not open.
    async fn ask_drop_before(
        &self,
        coupon: &Arc<CouponWithDrops>,
        chosen: DropWithKeys<'_>,
        requester: &Requester,
        refused: ClaimReply,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let now = instant(refused.now_ms);
        // If one coupon is allowed in total, admission has already checked all drops.
        let wanted = coupon.coupon.once_per == OncePer::Drop && chosen.drop.opens_at > now;
        let is_sealed = |drop: &Drop| drop.sealed_at.is_some();
        let is_recent = |drop: &Drop| {
            drop.closes_at
                .is_some_and(|at| now - at <= SEALED_RETRY_GRACE)
        };
        let asked =
            |one: &DropWithKeys<'_>| wanted && (!is_sealed(one.drop) || is_recent(one.drop));
        let Some(before) = coupon.before(chosen.drop, now).filter(asked) else {
            return answer(chosen.drop.id, &refused);
        };
        // Redis first, even for a sealed drop: users who hold nothing cost MySQL nothing.
        let reply = self.batches.ask(coupon, before, requester).await?;
        if reply.admission == Admission::Unloaded && is_sealed(before.drop) {
            return match self.ask_mysql(coupon, before, requester.user.clone()).await {
                Err(ClaimRefusal::Refused(_)) => answer(chosen.drop.id, &refused),
                held_or_unknown => held_or_unknown,
            };
        }
        match reply.admission {
            // Unloaded: Redis has lost it, and the holders of its slots are unknown.
            Admission::Accepted(_)
            | Admission::Already(..)
            | Admission::Waiting(_)
            | Admission::Unloaded => answer(before.drop.id, &reply),
            _ => answer(chosen.drop.id, &refused),
        }
    }

    /// A sealed drop's keys expire in Redis. The drop was verified exact, so MySQL alone knows the
    /// holders of its slots.
    async fn ask_mysql(
        &self,
        coupon: &CouponWithDrops,
        sealed: DropWithKeys<'_>,
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
        let counts =
            |drop: i64| drop == sealed.drop.id.0 || coupon.coupon.once_per == OncePer::Coupon;
        let closed_at = sealed.drop.closes_at.map_or(0, |at| at.timestamp_millis());
        match rows.iter().rev().find(|row| counts(row.drop_id)) {
            Some(row) => Ok(ClaimAnswer::AlreadyClaimed {
                drop_id: DropId(row.drop_id),
                slot: row.slot,
            }),
            None => Err(ClaimRefusal::Refused(Admission::Closed(closed_at))),
        }
    }
}

fn is_of_another_era(answer: &Result<ClaimAnswer, ClaimRefusal>) -> bool {
    matches!(answer, Err(ClaimRefusal::NotAnswered(error)) if matches!(**error, AdmissionError::AnotherEra))
}

/// Whether the claim is for `by_redis` rather than for the drop that was `asked`. Users who held a
/// slot of `asked` get that answer even after it closed, but only a retry is still a claim for it.
fn is_of_another(asked: &Drop, by_redis: &Drop, reply: &ClaimReply) -> bool {
    let is_about_earlier = matches!(reply.admission, Admission::Already(..) | Admission::Revoked)
        && by_redis.is_open_at(instant(reply.now_ms))
        && !is_retry(asked, reply);
    is_over_or_early(reply) || is_about_earlier
}

fn is_over_or_early(reply: &ClaimReply) -> bool {
    matches!(
        reply.admission,
        Admission::NotOpen(_) | Admission::Closed(_)
    )
}

/// The drop that closed moments ago, if `chosen` has opened moments ago.
fn just_closed<'a>(
    coupon: &'a CouponWithDrops,
    chosen: &Drop,
    now: DateTime<Utc>,
) -> Option<DropWithKeys<'a>> {
    if coupon.coupon.once_per == OncePer::Coupon
        || !chosen.is_open_at(now)
        || now - chosen.opens_at > RETRY_GRACE
    {
        return None;
    }
    coupon.before(chosen, now).filter(|one| {
        one.drop
            .closes_at
            .is_some_and(|at| at <= now && now - at <= RETRY_GRACE)
    })
}

/// Whether this user was admitted in the drop's last moments.
fn is_retry(drop: &Drop, reply: &ClaimReply) -> bool {
    let admitted_late = || Some(drop.closes_at? - instant(reply.admitted_at_ms?) <= RETRY_GRACE);
    matches!(reply.admission, Admission::Already(..)) && admitted_late() == Some(true)
}

/// A slot is acknowledged only if a second store holds it.
fn answer(drop_id: DropId, reply: &ClaimReply) -> Result<ClaimAnswer, ClaimRefusal> {
    match (reply.admission, reply.stored) {
        (Admission::Accepted(slot), Some(store)) => Ok(ClaimAnswer::Accepted {
            drop_id,
            slot,
            queued: store == SecondStore::Kafka,
        }),
        (Admission::Already(drop_id, slot), Some(_)) => {
            Ok(ClaimAnswer::AlreadyClaimed { drop_id, slot })
        }
        (Admission::Accepted(_) | Admission::Already(..), None) => Err(ClaimRefusal::NotDurable),
        (Admission::Waiting(position), _) => Ok(ClaimAnswer::Waiting { position }),
        (refused, _) => Err(ClaimRefusal::Refused(refused)),
    }
}
