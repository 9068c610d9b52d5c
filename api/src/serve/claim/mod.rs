//! One claim: admission in Redis, in a micro-batch with those that come at the same time, then the hand-over to a second store.
//! Nothing here is ever tried twice by itself: a client's retry finds `already_claimed`.

pub(crate) mod durability;
pub(crate) mod fallback;
pub(crate) mod in_flight;
pub(crate) mod micro_batch;
pub(crate) mod my_claim;
pub(crate) mod publisher;
pub(crate) mod singleflight;

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError, Reply};
use firstcome_shared::redis::keys::DropKeys;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use metrics::{Counter, Histogram, counter, histogram};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::serve::catalogue::clock::{Clock, instant};
use crate::serve::catalogue::coupon_with_drops::{Chosen, Entry};
use crate::serve::claim::durability::Promises;
use crate::serve::claim::in_flight::{InHand, Place};
use crate::serve::claim::micro_batch::Batches;
use crate::serve::claim::singleflight::{Holder, Taken};
use crate::serve::routes::refusals::{Refused, no_drop, not_asked, not_durable, refused};

/// Yes, in one of three ways.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
#[schema(as = Claim)]
pub(crate) enum Yes {
    /// A slot, just now.
    Accepted {
        /// In which drop.
        drop_id: DropId,
        /// Which slot.
        slot: Slot,
        /// Whether the message is certain to be on the topic. If not, the backup table holds it, and the coupon comes all the
        /// same, a little later.
        queued: bool,
    },
    /// This person holds a slot already.
    AlreadyClaimed {
        /// In which drop.
        drop_id: DropId,
        /// Which slot.
        slot: Slot,
    },
    /// A place on the waiting list.
    Waiting {
        /// 1 is next.
        position: u32,
    },
}

impl Yes {
    fn word(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::AlreadyClaimed { .. } => "already_claimed",
            Self::Waiting { .. } => "waiting",
        }
    }
}

/// What claims need.
pub(crate) struct Claims {
    pub(crate) db: Db,
    pub(crate) redis: Redis,
    pub(crate) clock: Arc<Clock>,
    pub(crate) promises: Promises,
    pub(crate) in_hand: Arc<InHand>,
    /// Longest wait for the next call: longer than one unanswered call takes, nobody waits.
    patience: Duration,
    batches: Batches<Pending>,
    call_seconds: Histogram,
    batch_size: Histogram,
    /// Looked up once: nearly every claim of a crowd counts here.
    sold_out: Counter,
}

/// A claim that waits for its call, and then for the second store. Its client may be gone.
struct Pending {
    entry: Arc<Entry>,
    user: UserId,
    came: Instant,
    answer: oneshot::Sender<Result<Answer, Arc<AdmissionError>>>,
    /// Given back with the answer.
    _place: Place,
}

/// What admission said and, for a person on a slot, which second store holds the claim too.
struct Answer {
    reply: Reply,
    taken: Taken,
}

/// A person on a slot in Redis.
pub(crate) struct Admitted {
    pub(crate) drop_id: DropId,
    pub(crate) slot: Slot,
    pub(crate) user: UserId,
    /// When they were admitted, by Redis's clock, where that is known.
    pub(crate) at_ms: Option<i64>,
    /// Redis's clock.
    pub(crate) now_ms: i64,
}

impl Claims {
    /// `patience`: longest wait for the next call to Redis.
    pub(crate) fn new(
        db: Db,
        redis: Redis,
        clock: Arc<Clock>,
        promises: Promises,
        in_hand: Arc<InHand>,
        patience: Duration,
    ) -> Self {
        let call_seconds = histogram!("firstcome_admission_seconds");
        let batch_size = histogram!("firstcome_admission_batch_claims");
        let sold_out = counter!("firstcome_claims_total", "outcome" => "sold_out");
        let batches = Batches::default();
        Self { db, redis, clock, promises, in_hand, patience, batches, call_seconds, batch_size, sold_out }
    }

    /// Works one claim to its end. From the moment Redis is asked it goes on without the caller.
    pub(crate) async fn claim(self: &Arc<Self>, entry: Arc<Entry>, user: UserId) -> Result<Yes, Problem> {
        let answered = self.answer(&entry, user).await;
        let outcome = answered.as_ref().map_or_else(|refused| refused.0, Yes::word);
        if outcome == "sold_out" {
            self.sold_out.increment(1);
        } else {
            counter!("firstcome_claims_total", "outcome" => outcome).increment(1);
        }
        answered.map_err(|refused| refused.1)
    }

    /// Asks admission, and once more for the right drop where the window that this host's clock chose turned out to be the
    /// wrong one by Redis's. The first asking admitted nobody then.
    async fn answer(self: &Arc<Self>, entry: &Arc<Entry>, user: UserId) -> Result<Yes, Refused> {
        let first = entry.for_claim(self.clock.now()).ok_or_else(no_drop)?;
        let answer = self.ask(entry, first, user.clone()).await?;
        if matches!(answer.reply.admission, Admission::NotOpen(_) | Admission::Closed(_)) {
            let second = entry.for_claim(instant(answer.reply.now_ms)).ok_or_else(no_drop)?;
            if second.drop.id != first.drop.id {
                return said(second.drop.id, &self.ask(entry, second, user).await?);
            }
        }
        if answer.reply.admission == Admission::Unloaded && first.drop.sealed_at.is_some() {
            return self.sealed(entry, first, user).await;
        }
        said(first.drop.id, &answer)
    }

    /// Puts one claim into the next call for its drop, and waits for its answer.
    async fn ask(self: &Arc<Self>, entry: &Arc<Entry>, chosen: Chosen<'_>, user: UserId) -> Result<Answer, Refused> {
        let place = self.in_hand.enter().map_err(|problem| ("shed", problem))?;
        let (answer, answered) = oneshot::channel();
        let pending = Pending { entry: Arc::clone(entry), user, came: Instant::now(), answer, _place: place };
        let drop = chosen.drop.id;
        if self.batches.join(drop, pending) {
            let (claims, keys) = (Arc::clone(self), chosen.keys.clone());
            self.in_hand.spawn(async move { claims.call_until_nobody_waits(drop, &keys).await });
        }
        let Ok(answer) = answered.await else {
            tracing::error!(%drop, "a claim was dropped before its answer");
            return Err(("unexpected", Problem::internal()));
        };
        answer.map_err(|error| not_asked(&error))
    }

    async fn call_until_nobody_waits(self: Arc<Self>, drop: DropId, keys: &DropKeys) {
        let mut caller = self.batches.caller(drop);
        loop {
            let Some(mut batch) = caller.next() else { return };
            let now = Instant::now();
            let late = batch.extract_if(.., |pending| now.duration_since(pending.came) > self.patience);
            refuse(late.collect(), &Arc::new(AdmissionError::Unanswered));
            if batch.is_empty() {
                continue;
            }
            match self.call(drop, keys, &batch).await {
                Ok(replies) => {
                    self.deliver(drop, batch.into_iter().zip(replies));
                    // Requests that are on their sockets by now are read first, and join the next call.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    if matches!(error, AdmissionError::Redis(_)) {
                        batch.extend(caller.take_all());
                    }
                    refuse(batch, &Arc::new(error));
                }
            }
        }
    }

    async fn call(
        &self,
        drop: DropId,
        keys: &DropKeys,
        batch: &[Pending],
    ) -> Result<Vec<Option<Reply>>, AdmissionError> {
        let users: Vec<&UserId> = batch.iter().map(|pending| &pending.user).collect();
        let begun = Instant::now();
        crash_point(Point::ClaimAsked);
        let asked = self.redis.claim_all(keys, drop, &users).await;
        self.call_seconds.record(begun.elapsed().as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "at most MAX_BATCH")]
        self.batch_size.record(users.len() as f64);
        match &asked {
            Ok(replies) => {
                if let Some(reply) = replies.iter().flatten().next() {
                    self.clock.seen(reply.now_ms);
                }
            }
            Err(AdmissionError::Redis(cause)) => {
                tracing::debug!(%cause, claims = users.len(), "claims were not answered");
            }
            Err(AdmissionError::Unexpected) => tracing::error!(%drop, "admission's answer could not be read"),
            Err(_) => {}
        }
        asked
    }

    /// Answers those who hold no slot; for those who do, sees to it that a second store holds it, without the client if need be.
    fn deliver(self: &Arc<Self>, drop_id: DropId, replies: impl Iterator<Item = (Pending, Option<Reply>)>) {
        let mut yes = Vec::new();
        for (pending, reply) in replies {
            // One person's damaged entry is theirs alone.
            let Some(reply) = reply else {
                tracing::error!(drop = %drop_id, "admission's answer to one person could not be read");
                refuse(vec![pending], &Arc::new(AdmissionError::Unexpected));
                continue;
            };
            match reply.admission {
                Admission::Accepted(slot) => {
                    crash_point(Point::ClaimAdmitted);
                    yes.push((pending, reply, drop_id, slot));
                }
                Admission::Already(held_in, slot) => yes.push((pending, reply, held_in, slot)),
                _ => drop(pending.answer.send(Ok(Answer { reply, taken: None }))),
            }
        }
        if yes.is_empty() {
            return;
        }
        let claims = Arc::clone(self);
        self.in_hand.spawn(async move {
            let secure_one = async |(pending, reply, drop_id, slot): (Pending, Reply, DropId, Slot)| {
                let Pending { entry, user, answer, .. } = pending;
                let admitted = Admitted { drop_id, slot, user, at_ms: reply.admitted_at_ms, now_ms: reply.now_ms };
                let taken = claims.secure(&entry, admitted).await;
                // The client may be gone; a retry hears the same.
                let _ = answer.send(Ok(Answer { reply, taken }));
            };
            let mut all: FuturesUnordered<_> = yes.into_iter().map(secure_one).collect();
            while all.next().await.is_some() {}
        });
    }

    /// Sees to it that a second store beside Redis holds what is about to be promised. `None`: neither Kafka nor MySQL took it
    /// in time. The admission stands, and a retry finds it.
    pub(crate) async fn secure(&self, entry: &Entry, admitted: Admitted) -> Taken {
        let Admitted { drop_id, slot, user, at_ms, now_ms } = admitted;
        let drop = entry.drops.iter().find(|drop| drop.id == drop_id);
        if drop.is_some_and(|drop| drop.sealed_at.is_some()) {
            // Verified: every slot has its row.
            return Some(Holder::Topic);
        }
        let claimed_at = instant(at_ms.unwrap_or(now_ms));
        let event = ClaimEvent { coupon_id: entry.coupon.id, drop_id, slot, user_id: user, claimed_at };
        self.promises.secure(&event, at_ms, drop.map_or(0, |drop| drop.quantity)).await
    }

    /// A sealed drop's keys leave Redis after a while. It was verified exact, so MySQL alone knows who holds one.
    async fn sealed(&self, entry: &Arc<Entry>, chosen: Chosen<'_>, user: UserId) -> Result<Yes, Refused> {
        let (db, coupon) = (self.db.clone(), entry.coupon.id);
        let rows = self.in_hand.run(async move { db.rows_of_person(coupon, &user).await }).await;
        let rows = rows.map_err(|problem| ("shed", problem))?.map_err(|error| {
            tracing::warn!(%error, "a claim on a sealed drop could not be answered");
            let detail = "this coupon is closed; who holds one cannot be told right now, try again";
            ("mysql_error", Problem::unavailable(detail))
        })?;
        let counts = |drop: i64| drop == chosen.drop.id.0 || entry.coupon.once_per == OncePer::Coupon;
        let closed_at = chosen.drop.closes_at.map_or(0, |at| at.timestamp_millis());
        match rows.iter().rev().find(|row| counts(row.drop_id)) {
            Some(row) => Ok(Yes::AlreadyClaimed { drop_id: DropId(row.drop_id), slot: row.slot }),
            None => Err(refused(Admission::Closed(closed_at))),
        }
    }
}

fn refuse(claims: Vec<Pending>, error: &Arc<AdmissionError>) {
    for pending in claims {
        let _ = pending.answer.send(Err(Arc::clone(error)));
    }
}

/// The answer to a claim: a yes only where a second store holds it.
fn said(drop_id: DropId, answer: &Answer) -> Result<Yes, Refused> {
    match (answer.reply.admission, answer.taken) {
        (Admission::Accepted(slot), Some(holder)) => {
            Ok(Yes::Accepted { drop_id, slot, queued: holder == Holder::Topic })
        }
        (Admission::Already(drop_id, slot), Some(_)) => Ok(Yes::AlreadyClaimed { drop_id, slot }),
        (Admission::Accepted(_) | Admission::Already(..), None) => Err(not_durable()),
        (Admission::Waiting(position), _) => Ok(Yes::Waiting { position }),
        (refusal, _) => Err(refused(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_answers_are_the_contract_s() {
        let json = |yes| serde_json::to_value(yes).unwrap();
        let drop_id = DropId(3);
        assert_eq!(
            json(Yes::Accepted { drop_id, slot: 7, queued: true }),
            json!({"status": "accepted", "drop_id": 3, "slot": 7, "queued": true})
        );
        assert_eq!(
            json(Yes::AlreadyClaimed { drop_id, slot: 7 }),
            json!({"status": "already_claimed", "drop_id": 3, "slot": 7})
        );
        assert_eq!(json(Yes::Waiting { position: 2 }), json!({"status": "waiting", "position": 2}));
    }
}
