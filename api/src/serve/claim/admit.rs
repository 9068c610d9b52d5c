//! Admission of one claim. A failed call is not retried: the client retries and, if the first call
//! gave it a slot, gets `already_claimed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::problem::Code;
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use metrics::{Counter, Histogram, histogram};

use super::batcher::{ClaimReply, PendingClaim, Queues};
use super::outcome::{ClaimAnswer, ClaimRefusal, Meaning, counter};
use super::second_store::{SecondStore, Store};
use super::status::ClaimStatus;
use crate::serve::auth::{Groups, Requester};
use crate::serve::bulkheads::{Bulkheads, InFlightLimit};
use crate::serve::catalogue::Catalogue;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates, instant};

pub(crate) struct ClaimService {
    /// Claims on open drops do not depend on it.
    pub(super) mysql: Bulkheads,
    pub(super) in_flight: Arc<InFlightLimit>,
    pub(super) redis: Redis,
    pub(super) catalogue: Arc<Catalogue>,
    pub(crate) second_store: SecondStore,
    /// Maximum wait for the next call to Redis.
    pub(super) max_wait: Duration,
    pub(super) queues: Queues<PendingClaim>,
    pub(super) call_seconds: Histogram,
    pub(super) batch_size: Histogram,
    /// Cached because most claims of a crowd increment it.
    sold_out: Counter,
    refused: LineLimit,
}

impl ClaimService {
    /// Claims that wait longer than `redis_timeout` are refused.
    pub(crate) fn new(
        mysql: Bulkheads,
        redis: Redis,
        catalogue: Arc<Catalogue>,
        second_store: SecondStore,
        in_flight: Arc<InFlightLimit>,
        redis_timeout: Duration,
    ) -> Self {
        Self {
            mysql,
            in_flight,
            redis,
            catalogue,
            second_store,
            max_wait: redis_timeout,
            queues: Queues::default(),
            call_seconds: histogram!("firstcome_admission_seconds"),
            batch_size: histogram!("firstcome_admission_batch_claims"),
            sold_out: counter("sold_out"),
            refused: LineLimit::default(),
        }
    }

    /// Processes one claim to its end. Once Redis is called, the claim continues even if its caller
    /// was dropped.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        id: CouponId,
        requester: Requester,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let answer = self.answer(id, &requester).await;
        match &answer {
            Ok(claim) => counter(claim.into()).increment(1),
            Err(ClaimRefusal::Refused(Admission::SoldOut)) => self.sold_out.increment(1),
            Err(refusal) => {
                let Meaning {
                    label,
                    code,
                    detail,
                } = refusal.meaning();
                counter(label).increment(1);
                if code == Code::Unavailable
                    && let Some(left_out) = self.refused.allow(label, Instant::now())
                {
                    let why = match refusal {
                        ClaimRefusal::NotAnswered(error) => error.to_string().into(),
                        _ => detail,
                    };
                    tracing::warn!(reason = label, coupon = %id, %why, left_out, "a claim was answered 503");
                }
            }
        }
        answer
    }

    async fn answer(
        self: &Arc<Self>,
        id: CouponId,
        requester: &Requester,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let coupon = self.catalogue.find(id).await?;
        let answer = self.ask(&coupon, requester).await;
        // Redis was rebuilt or the coupon got another group, and this process has not read that
        // yet. The script changed nothing.
        if is_outdated(&answer, requester)
            && self.catalogue.mysql_up()
            && let Ok(now) = self.catalogue.reread(id).await
            && (now.coupon.era, &now.coupon.allow) != (coupon.coupon.era, &coupon.coupon.allow)
        {
            return self.ask(&now, requester).await;
        }
        answer
    }

    async fn ask(
        self: &Arc<Self>,
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
        let mut reply = self.join_call(coupon, candidates, requester).await;
        // No candidate is open by Redis's clock, so the call admitted no user. This host's clock
        // may differ: choose the candidates again by Redis's clock.
        if let Ok((replied, _)) = &reply
            && replied.open_drop.is_none()
            && let Some(by_redis) = coupon.candidates(instant(replied.now_ms))
            && !by_redis.are(&candidates)
        {
            candidates = by_redis;
            reply = self.join_call(coupon, candidates, requester).await;
        }
        if let Some(sealed) = sealed_drop(&reply, candidates) {
            return self
                .ask_mysql(coupon, candidates, sealed, &requester.user)
                .await;
        }
        match acknowledge(reply?) {
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
        user: &UserId,
    ) -> Result<ClaimAnswer, ClaimRefusal> {
        let claim = self.status_in(coupon, sealed, user).await?;
        if let (ClaimStatus::Issued, Some(drop_id), Some(slot)) =
            (claim.status, claim.drop_id, claim.slot)
        {
            return Ok(ClaimAnswer::AlreadyClaimed { drop_id, slot });
        }
        let mut all = candidates.all();
        let later = all.find(|one| one.drop.opens_at > sealed.opens_at);
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
        Ok((reply, _)) => match reply.admission {
            Admission::Unloaded(drop) => drop,
            _ => return None,
        },
        Err(ClaimRefusal::NotAnswered(error)) => match **error {
            AdmissionError::Closed | AdmissionError::AnotherEra => candidates.first.drop.id,
            _ => return None,
        },
        Err(_) => return None,
    };
    let mut all = candidates.all().map(|one| one.drop);
    all.find(|drop| drop.id == asked && drop.sealed_at.is_some())
}

/// Whether this process's copy of the coupon may be older than Redis's.
fn is_outdated(answer: &Result<ClaimAnswer, ClaimRefusal>, requester: &Requester) -> bool {
    match answer {
        Err(ClaimRefusal::NotAnswered(error)) => matches!(**error, AdmissionError::AnotherEra),
        Err(ClaimRefusal::Refused(Admission::ForGroup)) => {
            matches!(requester.groups, Groups::Named(_))
        }
        _ => false,
    }
}

/// Acknowledges a slot only if a second store holds the claim.
fn acknowledge((reply, stored): ClaimReply) -> Result<ClaimAnswer, ClaimRefusal> {
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
