//! Admission of one claim. A failed call is not retried: the client retries and, if the first call
//! gave it a slot, gets `already_claimed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::http::problem::Code;
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use metrics::Counter;

use super::batcher::{Batcher, ClaimReply};
use super::in_flight::InFlightLimit;
use super::outcome::{ClaimAnswer, ClaimRefusal, counter};
use super::second_store::{SecondStore, Store};
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
    pub(super) second_store: Arc<SecondStore>,
    batcher: Arc<Batcher>,
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
        second_store: SecondStore,
        in_flight: &Arc<InFlightLimit>,
        redis_timeout: Duration,
    ) -> Self {
        let second_store = Arc::new(second_store);
        let batcher = Batcher::new(
            redis.clone(),
            Arc::clone(&second_store),
            Arc::clone(in_flight),
            redis_timeout,
        );
        Self {
            questions: mysql.questions.clone(),
            operators: mysql.operators.clone(),
            question_limit: in_flight.for_questions(MAX_QUESTIONS),
            redis,
            catalogue,
            second_store,
            batcher: Arc::new(batcher),
            sold_out: counter("sold_out"),
            refused: LineLimit::default(),
        }
    }

    pub(crate) fn second_store(&self) -> &SecondStore {
        &self.second_store
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
            Ok(claim) => counter(claim.label()).increment(1),
            Err(ClaimRefusal::Refused(Admission::SoldOut)) => self.sold_out.increment(1),
            Err(refusal) => {
                counter(refusal.label()).increment(1);
                self.warn(id, refusal.label(), refusal);
            }
        }
        answer
    }

    /// Logs why claims are answered with 503.
    fn warn(&self, coupon: CouponId, reason: &'static str, refusal: &ClaimRefusal) {
        if refusal.code() != Code::Unavailable {
            return;
        }
        if let Some(left_out) = self.refused.allow(reason, Instant::now()) {
            let why = match refusal {
                ClaimRefusal::NotAnswered(error) => error.to_string().into(),
                other => other.detail(),
            };
            tracing::warn!(reason, %coupon, %why, left_out, "a claim was answered 503");
        }
    }

    async fn ask(
        &self,
        coupon: &Arc<CouponWithDrops>,
        requester: &Requester,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let now = Utc::now();
        let Some(mut candidates) = coupon.candidates(now) else {
            return Err(if coupon.is_over(now) && !self.catalogue.is_copy() {
                ClaimRefusal::Refused(Admission::Closed(0))
            } else {
                ClaimRefusal::StandingUnknown
            });
        };
        let mut reply = self.batcher.ask(coupon, candidates, requester).await;
        // No candidate is open by Redis's clock, so the call admitted no user. This host's clock
        // may differ: choose the candidates again by Redis's clock.
        if let Ok((replied, _)) = &reply
            && replied.open_drop.is_none()
            && let Some(by_redis) = coupon.candidates(instant(replied.now_ms))
            && !by_redis.are(&candidates)
        {
            candidates = by_redis;
            reply = self.batcher.ask(coupon, candidates, requester).await;
        }
        if let Some(sealed) = sealed_drop(&reply, candidates) {
            let user = requester.user.clone();
            return self.ask_mysql(coupon, candidates, sealed, user).await;
        }
        match answer(reply?) {
            Err(ClaimRefusal::Refused(
                refused @ (Admission::NotOpen(_) | Admission::Closed(_)),
            )) if coupon.lacks_a_drop(Utc::now())
                || self.catalogue.is_copy() && matches!(refused, Admission::Closed(_)) =>
            {
                Err(ClaimRefusal::StandingUnknown)
            }
            answered => answered,
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

/// Returns the sealed drop that MySQL alone knows: after a loss of Redis data, sealed drops are
/// neither verified nor opened.
fn sealed_drop<'a>(
    reply: &Result<ClaimReply, ClaimRefusal>,
    candidates: DropCandidates<'a>,
) -> Option<&'a Drop> {
    let asked = match reply {
        Err(ClaimRefusal::NotAnswered(error))
            if matches!(**error, AdmissionError::Closed | AdmissionError::AnotherEra) =>
        {
            candidates.first
        }
        Ok((reply, _)) => match reply.admission {
            Admission::Unloaded(drop) => candidates.all().find(|one| one.drop.id == drop)?,
            _ => return None,
        },
        Err(_) => return None,
    };
    Some(asked.drop).filter(|drop| drop.sealed_at.is_some())
}

fn is_of_another_era(answer: &Result<ClaimAnswer, ClaimRefusal>) -> bool {
    matches!(answer, Err(ClaimRefusal::NotAnswered(error)) if matches!(**error, AdmissionError::AnotherEra))
}

/// Acknowledges a slot only if a second store holds the claim.
fn answer((reply, stored): ClaimReply) -> Result<ClaimAnswer, ClaimRefusal> {
    match (reply.admission, stored, reply.open_drop) {
        (Admission::Accepted(slot), Some(store), Some(drop_id)) => Ok(ClaimAnswer::Accepted {
            drop_id,
            slot,
            queued: store == Store::Kafka,
        }),
        (Admission::Already(drop_id, slot), Some(_), _) => {
            Ok(ClaimAnswer::AlreadyClaimed { drop_id, slot })
        }
        (Admission::Accepted(_) | Admission::Already(..), ..) => Err(ClaimRefusal::NotDurable),
        (Admission::Waiting(position), ..) => Ok(ClaimAnswer::Waiting { position }),
        (refused, ..) => Err(ClaimRefusal::Refused(refused)),
    }
}
