//! The users whom drops owe a slot: they were promised one and got none. Those of sealed drops are
//! reported.

use std::collections::HashSet;

use diesel::prelude::*;
use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::{DropId, OncePer, UserId};
use firstcome_shared::model::OwedUser;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schema::drops;

use crate::context::{PassContext, Step};
use crate::ledger::Ledger;
use crate::queries::{self, Scope};
use crate::report::{DropReport, Finding, Kind, Numbers, Run};
use crate::sealed_letters::{OfDrop, sealed_drop};

/// Reads a drop's open broken promises. Closes those whose users have a row, except in a dry run,
/// and returns the others.
pub(crate) async fn open_promises(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: DropId,
) -> Step<Vec<OwedUser>> {
    let db = &ctx.stores.db;
    let mut open = Vec::new();
    let mut after = String::new();
    loop {
        let page = queries::promises::open_promises(db, drop, after).await?;
        let Some(last) = page.last() else {
            return Ok(open);
        };
        after = last.user.to_string();
        let users: Vec<UserId> = page.iter().map(|promise| promise.user.clone()).collect();
        let rows = queries::rows::rows_of_users(db, coupon.id, &users).await?;
        let whole_coupon = coupon.once_per == OncePer::Coupon;
        let rows = rows
            .into_iter()
            .filter(|row| whole_coupon || row.drop_id == drop.0);
        let with_row: HashSet<String> = rows.map(|row| row.user_id).collect();
        let mut kept = Vec::new();
        for owed in page {
            if with_row.contains(owed.user.as_str()) {
                kept.push(owed.user);
            } else {
                open.push(owed);
            }
        }
        if !ctx.dry_run && !kept.is_empty() {
            let drop_id = drop.0;
            let users = kept.len();
            tracing::info!(drop_id, users, "broken promises are kept");
            queries::promises::mend_broken_promises(db, drop, &kept).await?;
        }
    }
}

/// Reports the sealed drops that still owe users a slot, with these users, so that the drop's alert
/// lasts until each promise is kept or given up.
pub(crate) async fn report_owing(ctx: &PassContext, scope: Scope, run: &mut Run) -> Step<()> {
    for of_drop in sealed_that_owe(&ctx.stores.db, scope).await? {
        let Some((seen, own)) = sealed_drop(ctx, of_drop).await? else {
            continue;
        };
        let id = own.drop.id;
        let mut ledger = Ledger::default();
        let owed = open_promises(ctx, &seen.coupon, id).await?;
        let numbers = Numbers {
            rows: own.drop.sealed_rows.unwrap_or(0).into(),
            broken_promises: owed.len() as u64,
            ..Numbers::default()
        };
        for owed in owed {
            let found = Finding::report(Kind::BrokenPromise, "promised, and its drop is sealed");
            ledger.add(found.naming(owed.slot, Some(&owed.user)));
        }
        let findings = ledger.findings(Some(seen.coupon.id), Some(id));

        match run.drops.iter_mut().find(|it| it.drop_id == id) {
            // This pass has sealed it.
            Some(known)
                if known
                    .findings
                    .iter()
                    .any(|it| it.kind == Kind::BrokenPromise) => {}
            Some(known) => known.findings.extend(findings),
            None if findings.is_empty() => {}
            None => run.drops.push(DropReport {
                coupon_name: seen.coupon.settings.name,
                sealed: true,
                before: numbers,
                after: numbers,
                findings,
                ..DropReport::begun(of_drop.0, id, own.drop.quantity)
            }),
        }
    }
    Ok(())
}

/// Reads the sealed drops with users who are still owed a slot.
async fn sealed_that_owe(db: &Db, scope: Scope) -> Result<Vec<OfDrop>, DbError> {
    let owing = queries::promises::drops_with_broken_promises(db).await?;
    let sealed = drops::table
        .filter(drops::id.eq_any(owing))
        .filter(drops::sealed_at.is_not_null())
        .select((drops::coupon_id, drops::id));
    let mut sealed: Vec<OfDrop> = db.rows("sealed drops that owe", sealed).await?;
    sealed.retain(|(coupon, drop)| scope.has(*coupon, *drop));
    Ok(sealed)
}
