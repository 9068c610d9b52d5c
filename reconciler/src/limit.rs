//! The repair limit: how many users of a drop may lose the slot that Redis shows without an
//! operator's confirmation: a fifth of the quantity, and at least fifty. Rows are never limited. A
//! confirmation applies to the plan that was shown, by the SHA-256 of its slots and users, and to
//! nothing else. The plan is forgotten by the run that finds the drop without it
//! ([`crate::record::finish`]).

use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::held_back::ShownRepairs;
use firstcome_shared::tuning::Tuning;

use crate::pass::Takes;
use crate::read::DropPass;

/// Returns why a projection must wait for an operator, or `None` if it may go on.
pub(crate) async fn brake(drop: DropPass<'_>, takes: &Takes) -> Result<Option<String>, DbError> {
    let ctx = drop.ctx;
    let db = drop.db();
    let id = drop.id();
    let percent = Tuning::RepairLimitPercent.or(20_u64);
    let at_least = Tuning::RepairLimitAtLeast.or(50_u64);
    let limit = (u64::from(drop.own.drop.quantity) * percent / 100).max(at_least);
    let number = takes.number;
    if number <= limit {
        return Ok(None);
    }
    let now = ShownRepairs {
        number: u32::try_from(number).unwrap_or(u32::MAX),
        fingerprint: takes.fingerprint(),
    };
    let shown = db.shown_repairs(id).await?;
    let asks = ctx.confirm && !ctx.dry_run;
    if asks && shown == Some(now) {
        return Ok(None);
    }
    let is_seen = ctx.confirm || ctx.dry_run;
    db.hold_back(id, now, &ctx.run_id, is_seen).await?;
    let lose = format!("{number} users would lose their slot");
    Ok(Some(match shown {
        _ if !asks => format!("{lose}, which needs a confirmation"),
        Some(_) => {
            format!("not confirmed: another plan was shown before, now {lose}; confirm again")
        }
        None => format!("not confirmed: no pass has shown before that {lose}; confirm again"),
    }))
}
