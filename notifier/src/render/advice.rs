//! What a person is asked to do, by what is left.

use firstcome_shared::domain::CouponId;

use super::letter::Block;
use super::links::{Links, once};
use crate::alerts::{About, Observation};
use crate::report::{DropReport, Kind};

/// What to do about one problem, with its commands. `report` is of the problem's drop.
pub(super) fn advice(seen: &Observation, report: Option<&DropReport>, links: &Links) -> Vec<Block> {
    let mut blocks = vec![Block::Todo(sentence(seen.about).to_owned())];
    blocks.extend(commands(seen, report, links));
    blocks
}

fn sentence(about: About) -> &'static str {
    match about {
        About::RunFailed => {
            "Check that Redis, MySQL and Kafka can be reached. A mail says when a pass has succeeded again."
        }
        About::Stalled => {
            "Check that the consumers run, and that Kafka and MySQL can be reached. A mail says when it moves again."
        }
        About::Braked => {
            "Look at what would be done. If it is right, confirm it. If it is not, something has changed Redis or MySQL \
             by hand or by mistake: find that first."
        }
        About::BrokenPromise => {
            "Raise the quantity, and the next pass gives each of them a coupon; this works until the drop closes. \
             Otherwise tell them that they have none."
        }
        About::Left(Kind::FailedClaim) => {
            "Correct the slot or the person of each entry in the table failed_claims, and the next pass issues it. To \
             drop an entry, set its resolved_at and resolution."
        }
        About::Left(Kind::RedisLost) => {
            "Admission may be closed: claims then get 503 until a pass over all coupons has verified Redis. The next pass \
             tries again. If this stays, see what else is listed here and in the run."
        }
        About::Left(_) => "The next pass tries again where that can help. If this stays, look at the reconciler's log.",
        About::ClosedBelowQuantity => "Nothing is to be done.",
    }
}

fn commands(seen: &Observation, report: Option<&DropReport>, links: &Links) -> Vec<Block> {
    let coupon = seen.coupon_id;
    match seen.about {
        About::Braked => {
            vec![once("See what would be done", coupon, " --dry-run"), once("Confirm it", coupon, " --confirm")]
        }
        About::Left(Kind::FailedClaim) => {
            vec![select(coupon), once("Once they are corrected", coupon, "")]
        }
        // Only a pass over everything may reopen admission.
        About::Left(Kind::RedisLost) => vec![once("Try again now", None, "")],
        About::RunFailed | About::Stalled | About::Left(_) => vec![once("Try again now", coupon, "")],
        About::BrokenPromise => {
            let open = report.filter(|report| !report.sealed);
            open.map(|report| raise(report, seen.findings.len() as u64, links)).into_iter().collect()
        }
        About::ClosedBelowQuantity => Vec::new(),
    }
}

fn raise(report: &DropReport, by: u64, links: &Links) -> Block {
    let (from, to) = (u64::from(report.quantity), u64::from(report.quantity) + by);
    links.quantity(&format!("Give each of them a slot (quantity {from} → {to})"), report.coupon_id, to)
}

fn select(coupon: Option<CouponId>) -> Block {
    let of_coupon = coupon.map(|id| format!("coupon_id = {id} AND ")).unwrap_or_default();
    Block::Command {
        what: "The entries, in MySQL".to_owned(),
        line: format!(
            "SELECT id, drop_id, slot, user_id, reason, error\nFROM failed_claims\nWHERE {of_coupon}resolved_at IS NULL;"
        ),
    }
}
