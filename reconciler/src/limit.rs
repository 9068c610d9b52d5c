//! The repair limit: how many users of a drop may lose the slot that Redis shows without an
//! operator's confirmation ([`held_back`]): a fifth of the quantity, and at least fifty. The limit
//! does not apply to inserting rows. A plan is identified by a hash of its slots and users. A run,
//! except a dry run, that leaves nothing of the drop planned or failed forgets the drop's plan
//! ([`crate::record::finish`]).
//!
//! [`held_back`]: firstcome_shared::mysql::held_back

use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::held_back::{Confirmation, ShownRepairs};
use firstcome_shared::tuning::Tuning;

use crate::pass::Takes;
use crate::read::DropPass;

/// Returns why a projection must wait for an operator, or `None` if it may go on.
pub(crate) async fn brake(drop: DropPass<'_>, takes: &Takes) -> Result<Option<String>, DbError> {
    let ctx = drop.ctx;
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
    let confirmation = drop
        .db()
        .confirmation(drop.id(), now, &ctx.run_id, ctx.asked);
    let lose = format!("{number} users would lose their slot");
    Ok(match confirmation.await? {
        Confirmation::Given => None,
        Confirmation::NotAsked => Some(format!("{lose}, which needs a confirmation")),
        Confirmation::OthersShown => Some(format!(
            "not confirmed: another plan was shown before, now {lose}; see it in a \
            dry run, and confirm that"
        )),
        Confirmation::NeverShown => Some(format!(
            "not confirmed: no pass has shown before that {lose}; see it in a dry run, and \
            confirm that"
        )),
    })
}
