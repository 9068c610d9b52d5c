//! Admission of one claim. A call to Redis that may have had an effect is not repeated here: the
//! client retries and, if the first call gave the user a slot, gets `already_claimed`.

use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::problem::Code;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use tokio::time::Instant;

use super::batcher::join_call;
use super::outcome::{ClaimAnswer, ClaimRefusal};
use crate::serve::auth::Requester;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates};
use crate::serve::metrics::record_claim;
use crate::serve::state::App;

/// Processes one claim to its end. Once Redis is called, the claim continues even if its caller was
/// dropped.
pub(crate) async fn admit(
    app: &App,
    id: CouponId,
    requester: Requester,
) -> Result<ClaimAnswer, ClaimRefusal> {
    let answer = answer(app, id, &requester).await;
    match &answer {
        Ok(claim) => record_claim(claim.into()),
        Err(refusal) => {
            let (label, code, detail) = refusal.meaning();
            record_claim(label);
            if code == Code::Unavailable
                && let Some(left_out) = app.refused.allow(label, std::time::Instant::now())
            {
                let why = match refusal {
                    ClaimRefusal::NotAnswered(error) => error.to_string().into(),
                    _ => detail,
                };
                tracing::warn!(
                    reason = label, coupon = %id, %why, left_out,
                    "a claim was answered 503"
                );
            }
        }
    }
    answer
}

async fn answer(
    app: &App,
    id: CouponId,
    requester: &Requester,
) -> Result<ClaimAnswer, ClaimRefusal> {
    let coupon = app.catalogue.find(id).await?;
    if let Some(candidates) = coupon.candidates(app.clock.now(id)) {
        let losers = candidates.first.losers;
        if losers.include(candidates.ids(), &requester.user, Instant::now()) {
            return Err(ClaimRefusal::Refused(Admission::SoldOut));
        }
    }
    // Boxed, so that the claims of losers stay small: each is moved several times.
    let answer = Box::pin(claim_with(app, &coupon, requester)).await;
    // Perhaps Redis was rebuilt, or the coupon restricted to a group, and this process has not read
    // that yet. In these cases, the script changed nothing.
    let may_be_outdated = match &answer {
        Err(ClaimRefusal::NotAnswered(error)) => matches!(**error, AdmissionError::AnotherEra),
        Err(ClaimRefusal::Refused(Admission::ForGroup)) => requester.groups.are_known(),
        _ => false,
    };
    if may_be_outdated
        && app.catalogue.mysql_up()
        && let Ok(now) = Box::pin(app.catalogue.reread(id)).await
        && (now.coupon.era, &now.coupon.allow) != (coupon.coupon.era, &coupon.coupon.allow)
    {
        return Box::pin(claim_with(app, &now, requester)).await;
    }
    answer
}

/// Claims with this copy of the coupon.
async fn claim_with(
    app: &App,
    coupon: &CouponWithDrops,
    requester: &Requester,
) -> Result<ClaimAnswer, ClaimRefusal> {
    let now = app.clock.now(coupon.coupon.id);
    let is_copy = app.catalogue.is_copy();
    let Some(candidates) = coupon.candidates(now) else {
        return Err(if coupon.is_over(now) && !is_copy {
            ClaimRefusal::Refused(Admission::Closed(0))
        } else {
            ClaimRefusal::ClaimStateUnknown
        });
    };
    let answer = join_call(app, coupon, candidates, requester).await;
    if let Some(sealed) = sealed_drop(&answer, candidates) {
        let mut all = candidates.all();
        let later = all.find(|one| one.drop.opens_at > sealed.opens_at);
        return Err(ClaimRefusal::Refused(match later {
            Some(next) => Admission::NotOpen(next.drop.opens_at.timestamp_millis()),
            None => Admission::Closed(sealed.closes_at.map_or(0, |at| at.timestamp_millis())),
        }));
    }
    let lacks_a_drop = || coupon.lacks_a_drop(now);
    match answer {
        Err(ClaimRefusal::Refused(Admission::NotOpen(_))) if lacks_a_drop() => {
            Err(ClaimRefusal::ClaimStateUnknown)
        }
        Err(ClaimRefusal::Refused(Admission::Closed(_))) if is_copy || lacks_a_drop() => {
            Err(ClaimRefusal::ClaimStateUnknown)
        }
        answer => answer,
    }
}

/// Returns the drop that the answer is about, if it is sealed. Only MySQL knows such a drop: its
/// keys in Redis expire and, after a loss of Redis data, it is neither verified nor opened. It
/// gives out nothing, and its holders see their coupons at `claims/me`.
fn sealed_drop<'a>(
    answer: &Result<ClaimAnswer, ClaimRefusal>,
    candidates: DropCandidates<'a>,
) -> Option<&'a Drop> {
    let asked = match answer {
        Err(ClaimRefusal::Refused(Admission::Unloaded(drop))) => *drop,
        Err(ClaimRefusal::NotAnswered(error))
            if matches!(**error, AdmissionError::Closed | AdmissionError::AnotherEra) =>
        {
            candidates.first.drop.id
        }
        _ => return None,
    };
    let mut all = candidates.all().map(|one| one.drop);
    all.find(|drop| drop.id == asked && drop.sealed_at.is_some())
}
