//! Completes revocations that an API began and did not finish.

use diesel::prelude::*;
use firstcome_shared::columns::seconds_from_now;
use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::{DropId, OncePer, UserId};
use firstcome_shared::model::Revocation;
use firstcome_shared::mysql::DbError;
use firstcome_shared::schema::revoked_coupons;

use crate::context::{PassContext, Step};
use crate::ledger::Ledger;
use crate::read::CouponSeen;
use crate::report::{ActionKind, Finding, Kind};

/// Carries out the steps of a revocation (docs/decisions/0013-revoking.md) in the drop of the
/// claim: the revocation may name another one, in which its user waited before. Each step is
/// idempotent.
pub(crate) async fn complete(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: DropId,
    revocation: &Revocation,
) -> Step<()> {
    let db = &ctx.stores.db;
    let redis = &ctx.stores.redis;
    let keys = &redis.keys(coupon.id, drop);
    db.take_out_row(revocation.id).await?;
    let until = redis.revoke(keys, coupon.once_per, revocation).await?;
    if revocation.is_to_be_ended() {
        let ended = db.end_revocation(revocation, until).await?;
        redis.revoke(keys, coupon.once_per, &ended).await?;
    }
    Ok(())
}

/// Completes the coupon's revocations that have not ended although their users may claim again.
/// Leaves out those of the last second, which their API may be about to complete.
pub(crate) async fn finish_revocations(
    ctx: &PassContext,
    seen: &CouponSeen,
    ledger: &mut Ledger,
) -> Step<()> {
    if seen.banned.users == 0 {
        return Ok(());
    }
    for revocation in unended(ctx, seen).await? {
        if !ctx.dry_run {
            let drop = DropId(revocation.drop_id);
            complete(ctx, &seen.coupon, drop, &revocation).await?;
        }
        let kind = Kind::SettingsMismatch;
        let action = ActionKind::Revoke;
        let detail = "a claim was revoked, and its API did not finish";
        let user = UserId::from_store(revocation.user_id);
        let found = Finding::new(kind, action, ctx.outcome(), detail);
        ledger.add(found.naming(None, Some(&user)));
    }
    Ok(())
}

async fn unended(ctx: &PassContext, seen: &CouponSeen) -> Result<Vec<Revocation>, DbError> {
    let scopes: Vec<i64> = match seen.coupon.once_per {
        OncePer::Coupon => vec![0],
        OncePer::Drop => seen.drops.iter().map(|own| own.drop.id.0).collect(),
    };
    let unended = revoked_coupons::table
        .filter(revoked_coupons::coupon_id.eq(seen.coupon.id))
        .filter(revoked_coupons::person_scope.eq_any(scopes))
        .filter(revoked_coupons::may_claim_again)
        .filter(revoked_coupons::again_from.is_null())
        .filter(revoked_coupons::revoked_at.lt(seconds_from_now(-1)))
        .limit(1_000)
        .select(Revocation::as_select());
    ctx.stores.db.rows("unended revocations", unended).await
}
