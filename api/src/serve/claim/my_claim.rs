//! `GET /v1/coupons/{id}/claims/me`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::promises::PersonRecord;
use firstcome_shared::redis::reads::Standing;
use serde::Serialize;
use utoipa::ToSchema;

use crate::serve::auth::Person;
use crate::serve::catalogue::coupon_with_drops::{Chosen, Entry};
use crate::serve::claim::Admitted;
use crate::serve::routes::extract::CouponPath;
use crate::serve::routes::refusals::not_durable;
use crate::serve::state::{App, Services};

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClaimStatus {
    /// The slot is theirs; the coupon is on its way.
    Accepted,
    /// The coupon is theirs; `code` redeems it.
    Issued,
    /// On the waiting list.
    Waiting,
    /// It had been promised and could not be kept.
    Broken,
    /// Nothing.
    None,
}

/// One person's claim of a coupon: of the drop that is open or was open last, or of any drop where one each is allowed in
/// the whole coupon.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MyClaim {
    /// Where it stands.
    status: ClaimStatus,
    /// The drop; null where there is no claim.
    drop_id: Option<DropId>,
    /// The slot; null where there is none.
    slot: Option<Slot>,
    /// What redeems the coupon; null until it is issued.
    code: Option<String>,
    /// The place on the waiting list, 1 is next; null for others.
    position: Option<u32>,
}

impl MyClaim {
    const NONE: Self = Self { status: ClaimStatus::None, drop_id: None, slot: None, code: None, position: None };
}

/// See where your claim stands
#[utoipa::path(
    get, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    params(("id" = i64, Path, description = "Number of the coupon")),
    responses(
        (status = 200, description = "Where it stands", body = MyClaim),
        (status = 400, description = "`bad_user_id`", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: what is known right now is not enough to say", body = Problem, content_type = "application/problem+json"),
    ),
    security(("person" = []))
)]
pub(crate) async fn mine(
    State(app): State<App>,
    Person(user): Person,
    CouponPath(id): CouponPath,
) -> Result<Json<MyClaim>, Problem> {
    let entry = app.catalogue.find(id).await?;
    let services = Arc::clone(&app);
    app.in_hand.run(async move { look(&services, &entry, &user).await }).await?.map(Json)
}

async fn look(services: &Services, entry: &Entry, user: &UserId) -> Result<MyClaim, Problem> {
    let now = services.clock.now();
    // Redis forgets sealed drops: that it knows nothing of one says nothing.
    let asked = about(entry, now);
    let in_redis = async {
        match asked.filter(|chosen| chosen.drop.sealed_at.is_none()) {
            Some(chosen) => Some(services.redis.standing(chosen.keys, user).await),
            None => None,
        }
    };
    let (record, standing) = tokio::join!(services.db.person(entry.coupon.id, user), in_redis);
    if let Err(error) = &record {
        tracing::debug!(%error, "a claim is looked up without MySQL");
    }
    let nothing = Ok(Standing { loaded: true, trusted: true, slot: None, position: None, claimant: None });
    let standing = standing.unwrap_or(nothing);
    if let Err(error) = &standing {
        tracing::debug!(%error, "a claim is looked up without Redis");
    }
    let drop = asked.map(|chosen| chosen.drop.id);
    let claim = judge(entry.coupon.once_per, drop, record.ok(), standing.ok())
        .ok_or_else(|| Problem::unavailable("where this claim stands is not known right now; try again"))?;
    hold(services, entry, user, &claim).await?;
    Ok(claim)
}

/// `accepted` is a promise here as well: it is told only when a second store holds it.
async fn hold(services: &Services, entry: &Entry, user: &UserId, claim: &MyClaim) -> Result<(), Problem> {
    let (ClaimStatus::Accepted, Some(drop_id), Some(slot)) = (claim.status, claim.drop_id, claim.slot) else {
        return Ok(());
    };
    let keys = services.redis.keys(entry.coupon.id, drop_id);
    let at_ms = services.redis.admitted_at(&keys, slot).await.map_err(|error| {
        tracing::debug!(%error, "when a claim was admitted could not be looked up");
        Problem::unavailable("where this claim stands is not known right now; try again")
    })?;
    let now_ms = services.clock.now().timestamp_millis();
    let admitted = Admitted { drop_id, slot, user: user.clone(), at_ms, now_ms };
    services.claims.secure(entry, admitted).await.map(|_| ()).ok_or_else(|| not_durable().1)
}

/// The drop that the answer is about. Before the first has opened nobody can hold one of it, but somebody may have been put
/// in by hand. Where one each is allowed in the whole coupon, a drop that Redis still knows tells of all of them.
fn about(entry: &Entry, now: DateTime<Utc>) -> Option<Chosen<'_>> {
    let current = entry.current(now).or_else(|| entry.all().next());
    if entry.coupon.once_per == OncePer::Drop || current.is_some_and(|chosen| chosen.drop.sealed_at.is_none()) {
        return current;
    }
    let unsealed = |chosen: &Chosen| chosen.drop.sealed_at.is_none() && chosen.drop.opens_at <= now;
    entry.all().rev().find(unsealed).or(current)
}

/// What can be said for certain from what the stores said; `None` where a store that said nothing could have said more.
fn judge(
    once_per: OncePer,
    drop: Option<DropId>,
    record: Option<PersonRecord>,
    standing: Option<Standing>,
) -> Option<MyClaim> {
    let counts = |id: DropId| once_per == OncePer::Coupon || Some(id) == drop;
    if let Some(row) = record.iter().flat_map(|r| &r.rows).rev().find(|row| counts(DropId(row.drop_id))) {
        let (drop_id, slot, code) = (Some(DropId(row.drop_id)), Some(row.slot), Some(row.code.clone()));
        return Some(MyClaim { status: ClaimStatus::Issued, drop_id, slot, code, position: None });
    }
    let standing = standing?;
    let claimant = standing.claimant.filter(|_| once_per == OncePer::Coupon);
    if let Some((drop_id, slot)) = drop.zip(standing.slot).or(claimant) {
        // While the gate is closed this may be older than what was promised since.
        if !standing.trusted {
            return None;
        }
        let (drop_id, slot) = (Some(drop_id), Some(slot));
        return Some(MyClaim { status: ClaimStatus::Accepted, drop_id, slot, ..MyClaim::NONE });
    }
    // Broken before waiting: they were told yes once, and stand in line because that could not be kept.
    if let Some((drop_id, slot)) = record.iter().flat_map(|r| &r.broken).rev().find(|(id, _)| counts(*id)) {
        let slot = slot.and_then(|slot| Slot::try_from(slot).ok());
        let (drop_id, position) = (Some(*drop_id), standing.position);
        return Some(MyClaim { status: ClaimStatus::Broken, drop_id, slot, position, ..MyClaim::NONE });
    }
    if standing.position.is_some() {
        return Some(MyClaim {
            status: ClaimStatus::Waiting,
            drop_id: drop,
            position: standing.position,
            ..MyClaim::NONE
        });
    }
    record?;
    standing.trusted.then_some(MyClaim::NONE)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::mysql::issued::IssuedRow;

    use super::*;

    const NOWHERE: Standing = Standing { loaded: true, trusted: true, slot: None, position: None, claimant: None };

    fn row(drop_id: i64) -> IssuedRow {
        let at = DateTime::UNIX_EPOCH.naive_utc();
        let (user_id, code, issued_by) = ("u-1".into(), "CODE".into(), "consumer".into());
        IssuedRow { drop_id, slot: 7, coupon_id: 1, user_id, code, claimed_at: at, issued_at: at, issued_by }
    }

    fn record(rows: &[i64], broken: &[i64]) -> PersonRecord {
        let broken = broken.iter().map(|id| (DropId(*id), Some(9))).collect();
        PersonRecord { rows: rows.iter().copied().map(row).collect(), broken }
    }

    fn said(once: OncePer, record: Option<PersonRecord>, standing: Option<Standing>) -> Option<(ClaimStatus, i64)> {
        let claim = judge(once, Some(DropId(2)), record, standing)?;
        Some((claim.status, claim.drop_id.map_or(0, |d| d.0)))
    }

    #[test]
    fn a_row_says_issued_in_the_scope_of_one_each() {
        assert_eq!(said(OncePer::Coupon, Some(record(&[1], &[])), Some(NOWHERE)), Some((ClaimStatus::Issued, 1)));
        assert_eq!(said(OncePer::Drop, Some(record(&[1], &[])), Some(NOWHERE)), Some((ClaimStatus::None, 0)));
        assert_eq!(said(OncePer::Drop, Some(record(&[1, 2], &[])), Some(NOWHERE)), Some((ClaimStatus::Issued, 2)));
        assert_eq!(
            said(OncePer::Coupon, Some(record(&[2], &[])), None),
            Some((ClaimStatus::Issued, 2)),
            "without Redis"
        );
    }

    #[test]
    fn redis_says_accepted_or_waiting_also_without_mysql() {
        let holds = Standing { slot: Some(3), ..NOWHERE };
        let waits = Standing { position: Some(4), ..NOWHERE };
        let elsewhere = Standing { claimant: Some((DropId(1), 5)), ..NOWHERE };
        assert_eq!(said(OncePer::Drop, None, Some(holds)), Some((ClaimStatus::Accepted, 2)));
        assert_eq!(said(OncePer::Drop, None, Some(waits)), Some((ClaimStatus::Waiting, 2)));
        assert_eq!(said(OncePer::Coupon, None, Some(elsewhere)), Some((ClaimStatus::Accepted, 1)));
        assert_eq!(said(OncePer::Drop, Some(record(&[], &[])), Some(elsewhere)), Some((ClaimStatus::None, 0)));
    }

    #[test]
    fn broken_comes_after_whatever_mends_it() {
        let holds = Standing { slot: Some(3), ..NOWHERE };
        assert_eq!(said(OncePer::Drop, Some(record(&[], &[2])), Some(NOWHERE)), Some((ClaimStatus::Broken, 2)));
        assert_eq!(said(OncePer::Drop, Some(record(&[], &[2])), Some(holds)), Some((ClaimStatus::Accepted, 2)));
        assert_eq!(said(OncePer::Drop, Some(record(&[2], &[2])), Some(NOWHERE)), Some((ClaimStatus::Issued, 2)));
        assert_eq!(said(OncePer::Drop, Some(record(&[], &[1])), Some(NOWHERE)), Some((ClaimStatus::None, 0)));
    }

    #[test]
    fn nothing_is_said_only_when_every_store_was_heard_and_can_be_believed() {
        assert_eq!(said(OncePer::Coupon, Some(record(&[], &[])), Some(NOWHERE)), Some((ClaimStatus::None, 0)));
        assert_eq!(said(OncePer::Coupon, None, Some(NOWHERE)), None);
        assert_eq!(said(OncePer::Coupon, Some(record(&[], &[])), None), None);
        let doubtful = Standing { trusted: false, ..NOWHERE };
        assert_eq!(said(OncePer::Coupon, Some(record(&[], &[])), Some(doubtful)), None);
        let perhaps = Standing { slot: Some(3), ..doubtful };
        assert_eq!(said(OncePer::Coupon, Some(record(&[], &[])), Some(perhaps)), None);
        assert_eq!(said(OncePer::Coupon, Some(record(&[2], &[])), Some(perhaps)), Some((ClaimStatus::Issued, 2)));
    }
}
