//! One claim: admission in Redis, then the hand-over to Kafka. Nothing here is ever tried twice by itself: a client's retry
//! finds `already_claimed`.

use std::sync::Arc;

use axum::http::StatusCode;
use chrono::SecondsFormat;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::http::Problem;
use firstcome_shared::redis::admission::{Admission, AdmissionError, Reply, TOLD_AFTER};
use metrics::{counter, histogram};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::clock::instant;
use super::entry::{Chosen, Entry};
use super::held::Holder;
use super::state::Services;

/// Yes, in one of three ways.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
#[schema(as = Claim)]
pub(super) enum Yes {
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

/// `sold_out`, as everybody is told it.
pub(super) fn sold_out() -> Problem {
    no(Admission::SoldOut)
}

/// Works one claim to its end.
pub(super) async fn admit(services: &Services, entry: Arc<Entry>, user: UserId) -> Result<Yes, Problem> {
    let answered = match ask(services, &entry, &user).await {
        Ok((drop_id, reply)) => answer(services, &entry, user, drop_id, reply).await,
        Err(refused) => Err(refused),
    };
    let outcome = answered.as_ref().map_or_else(|refused| refused.0, Yes::word);
    counter!("firstcome_claims_total", "outcome" => outcome).increment(1);
    answered.map_err(|refused| refused.1)
}

/// What is told of an answer of admission: a yes only once a second store beside Redis holds it.
async fn answer(
    services: &Services,
    entry: &Entry,
    user: UserId,
    drop_id: DropId,
    reply: Reply,
) -> Result<Yes, Refused> {
    match reply.admission {
        Admission::Accepted(slot) => {
            crash_point(Point::ClaimAdmitted);
            let now_ms = reply.now_ms;
            let deniable = reply.after_sold_out || entry.another_open_around(drop_id, instant(now_ms));
            let admitted = Admitted { drop_id, slot, user, at_ms: Some(now_ms), now_ms, deniable };
            let holder = secure(services, entry, admitted).await?;
            Ok(Yes::Accepted { drop_id, slot, queued: holder == Holder::Topic })
        }
        Admission::Already(held_in, slot) => {
            let now_ms = reply.now_ms;
            let at_ms = if held_in == drop_id { reply.admitted_at_ms } else { None };
            secure(services, entry, Admitted { drop_id: held_in, slot, user, at_ms, now_ms, deniable: true }).await?;
            Ok(Yes::AlreadyClaimed { drop_id: held_in, slot })
        }
        Admission::Waiting(position) => {
            tokio::time::sleep(TOLD_AFTER).await;
            Ok(Yes::Waiting { position })
        }
        refusal => Err((word(refusal), no(refusal))),
    }
}

/// Somebody whom Redis has on a slot.
pub(super) struct Admitted {
    pub(super) drop_id: DropId,
    pub(super) slot: Slot,
    pub(super) user: UserId,
    /// When they were admitted, by Redis's clock, where that is known.
    pub(super) at_ms: Option<i64>,
    /// Redis's clock.
    pub(super) now_ms: i64,
    /// Whether a process may have a copy of who lost that does not know them yet.
    pub(super) deniable: bool,
}

/// Sees to it that a second store beside Redis holds what is about to be promised.
///
/// # Errors
/// 503 where neither Kafka nor MySQL took it in time. The admission stands, and a retry finds it.
pub(super) async fn secure(services: &Services, entry: &Entry, admitted: Admitted) -> Result<Holder, Refused> {
    let Admitted { drop_id, slot, user, at_ms, now_ms, deniable } = admitted;
    let drop = entry.drops.iter().find(|drop| drop.id == drop_id);
    if drop.is_some_and(|drop| drop.sealed_at.is_some()) {
        // Verified: every slot has its row.
        return Ok(Holder::Topic);
    }
    let begun = Instant::now();
    let claimed_at = instant(at_ms.unwrap_or(now_ms));
    let event = ClaimEvent { coupon_id: entry.coupon.id, drop_id, slot, user_id: user, claimed_at };
    let quantity = drop.map_or(0, |drop| drop.quantity);
    let holder = services.promises.secure(&event, at_ms, quantity).await.ok_or_else(|| {
        let detail = "a place is kept for you, but cannot be promised right now; try again";
        ("not_held", Problem::unavailable(detail))
    })?;
    if deniable && at_ms.is_none_or(|at| just_now(at, now_ms)) {
        tokio::time::sleep_until(begun + TOLD_AFTER).await;
    }
    Ok(holder)
}

/// Whether somebody was admitted so short a time ago, both by Redis's clock, that it need not be [`TOLD_AFTER`].
pub(super) fn just_now(at_ms: i64, now_ms: i64) -> bool {
    /// That, in the whole milliseconds that Redis counts, and what this host may be wrong about its clock.
    const JUST_NOW_MS: i64 = 20;
    now_ms - at_ms <= JUST_NOW_MS
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

/// A word for the figures, and what is told.
pub(super) type Refused = (&'static str, Problem);

/// Asks admission, and once more for the right drop where the window that this host's clock chose turned out to be the
/// wrong one by Redis's. The first asking admitted nobody then.
async fn ask(services: &Services, entry: &Entry, user: &UserId) -> Result<(DropId, Reply), Refused> {
    let over = || ("closed", Problem::new(StatusCode::GONE, "closed", "no drop of this coupon is open or planned"));
    let first = entry.for_claim(services.clock.now()).ok_or_else(over)?;
    let reply = call(services, first, user).await?;
    if matches!(reply.admission, Admission::NotOpen(_) | Admission::Closed(_)) {
        let second = entry.for_claim(instant(reply.now_ms)).ok_or_else(over)?;
        if second.drop.id != first.drop.id {
            return Ok((second.drop.id, call(services, second, user).await?));
        }
    }
    if reply.admission == Admission::Unloaded && first.drop.sealed_at.is_some() {
        return Ok((first.drop.id, Reply { admission: sealed(services, entry, first, user).await?, ..reply }));
    }
    Ok((first.drop.id, reply))
}

/// A sealed drop's keys leave Redis after a while. It was verified exact, so MySQL alone knows who holds one.
async fn sealed(services: &Services, entry: &Entry, chosen: Chosen<'_>, user: &UserId) -> Result<Admission, Refused> {
    let rows = services.db.rows_of_person(entry.coupon.id, user).await.map_err(|error| {
        tracing::warn!(%error, "a claim on a sealed drop could not be answered");
        (
            "mysql_error",
            Problem::unavailable("this coupon is closed; who holds one cannot be told right now, try again"),
        )
    })?;
    let held =
        rows.iter().rev().find(|row| row.drop_id == chosen.drop.id.0 || entry.coupon.once_per == OncePer::Coupon);
    let closed_at = chosen.drop.closes_at.map_or(0, |at| at.timestamp_millis());
    Ok(held.map_or(Admission::Closed(closed_at), |row| Admission::Already(DropId(row.drop_id), row.slot)))
}

async fn call(services: &Services, chosen: Chosen<'_>, user: &UserId) -> Result<Reply, Refused> {
    let begun = Instant::now();
    crash_point(Point::ClaimAsked);
    let asked = services.redis.claim(chosen.keys, chosen.drop.id, user).await;
    histogram!("firstcome_admission_seconds").record(begun.elapsed().as_secs_f64());
    match asked {
        Ok(reply) => {
            services.clock.seen(reply.now_ms);
            if reply.admission == Admission::SoldOut {
                services.sold_out.heard(chosen.drop.id, chosen.keys);
            }
            Ok(reply)
        }
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &AdmissionError) -> Refused {
    match error {
        AdmissionError::NoLicence => ("no_licence", Problem::unavailable("admission is closed for a check; try again")),
        AdmissionError::Redis(cause) => {
            tracing::debug!(%cause, "a claim could not be worked");
            ("redis_error", Problem::unavailable("whether this claim went through is not known yet; try again"))
        }
        AdmissionError::Unexpected => {
            tracing::error!(%error, "a claim could not be worked");
            ("unexpected", Problem::unavailable("this claim could not be worked; try again"))
        }
    }
}

fn no(refusal: Admission) -> Problem {
    let conflict = |code, detail: &str| Problem::new(StatusCode::CONFLICT, code, detail);
    let time = |ms| instant(ms).to_rfc3339_opts(SecondsFormat::Millis, true);
    match refusal {
        Admission::SoldOut => conflict("sold_out", "all are given out"),
        Admission::Paused => conflict("paused", "this coupon is stopped for the moment; try again later"),
        Admission::NotOpen(at) => conflict("not_open", "this coupon is not open yet").with("opens_at", time(at)),
        Admission::Closed(at) => {
            Problem::new(StatusCode::GONE, "closed", "this coupon is closed").with("closed_at", time(at))
        }
        // Unloaded, unverified, and (never here) the answers that are a yes.
        _ => Problem::unavailable("this coupon is being checked; try again"),
    }
}

fn word(admission: Admission) -> &'static str {
    match admission {
        Admission::SoldOut => "sold_out",
        Admission::NotOpen(_) => "not_open",
        Admission::Closed(_) => "closed",
        Admission::Paused => "paused",
        Admission::Unloaded => "unloaded",
        // Unverified, and (never here) the answers that are a yes.
        _ => "unverified",
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
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

    #[test]
    fn every_refusal_has_its_status_and_code() {
        let cases = [
            (Admission::SoldOut, 409, "sold_out"),
            (Admission::Paused, 409, "paused"),
            (Admission::NotOpen(0), 409, "not_open"),
            (Admission::Closed(0), 410, "closed"),
            (Admission::Unloaded, 503, "unavailable"),
            (Admission::Unverified, 503, "unavailable"),
        ];
        for (refusal, status, code) in cases {
            let problem = no(refusal);
            assert_eq!(problem.code(), code);
            let response = problem.into_response();
            assert_eq!(response.status(), status, "{code}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503, "{code}");
        }
        let opens = serde_json::to_value(no(Admission::NotOpen(1_764_568_800_000))).unwrap();
        assert_eq!(opens["opens_at"], "2025-12-01T06:00:00.000Z");
    }
}
