//! The repair limit: how many users of a drop may lose the slot that Redis shows without an
//! operator's confirmation: a fifth of the quantity, and at least fifty. The limit does not apply to
//! inserting rows. A run shows the repairs with a fingerprint, and the confirmation of that
//! fingerprint covers these repairs and no others, so nothing is stored in between.

use firstcome_shared::tuning::Tuning;

use crate::pass::Takes;
use crate::read::DropPass;
use crate::report::HeldBack;

/// Returns the repairs if they must wait for an operator. A dry run shows them even if they are
/// confirmed.
pub(crate) fn brake(drop: DropPass<'_>, takes: &Takes) -> Option<HeldBack> {
    let percent = Tuning::RepairLimitPercent.or(20_u64);
    let at_least = Tuning::RepairLimitAtLeast.or(50_u64);
    let limit = (u64::from(drop.own.drop.quantity) * percent / 100).max(at_least);
    let held_back = HeldBack {
        users: takes.number,
        fingerprint: takes.fingerprint(drop.id()),
    };
    let is_confirmed = !drop.ctx.dry_run && drop.ctx.confirms.covers(held_back.fingerprint);
    (takes.number > limit && !is_confirmed).then_some(held_back)
}

/// Says why a drop waits for an operator.
pub(crate) fn says(held_back: &HeldBack) -> String {
    let users = held_back.users;
    format!("{users} users would lose their slot, which needs a confirmation")
}
