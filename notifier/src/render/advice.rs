//! What a person is asked to do, by what is left.

use firstcome_shared::domain::CouponId;

use super::letter::Block;
use super::links::{Links, once};
use crate::alerts::About;
use crate::report::Kind;

/// Sentences and commands for one alert. `id` is its number, for the command that names it.
pub(super) fn advice(about: About, coupon: Option<CouponId>, id: Option<i64>, links: &Links) -> Vec<Block> {
    let mut blocks = vec![Block::Paragraph(sentence(about).to_owned()), links.section(about.word())];
    blocks.extend(commands(about, coupon));
    blocks.extend(id.map(|id| links.acknowledge(id)));
    blocks
}

fn sentence(about: About) -> &'static str {
    match about {
        About::RunFailed => {
            "Nothing is lost by this: each pass looks at everything anew. See that Redis, MySQL and Kafka can be reached; \
             the next pass that comes through will say so."
        }
        About::Stalled => {
            "Nothing is lost by this, but rows come late. See what does not move; the next pass that finds it moving will \
             say so."
        }
        About::Braked => {
            "More repairs than the repair limit allows, so none was made. Look at the list first. If it is \
             right, confirm; if it is not, something has changed Redis or MySQL by hand or by mistake."
        }
        About::BrokenPromise => {
            "These people were told yes and there is no slot for them. They stand at the head of the waiting list: raise \
             the quantity by as many and the next pass promotes them, or tell them."
        }
        About::Left(Kind::FailedClaim) => {
            "These claims can't be issued as they are; each says why. Correct the entry's slot or person in the table \
             failed_claims and the next pass issues it, or set resolved_at and resolution where it is to be dropped."
        }
        About::Left(Kind::RedisLost) => {
            "Admission may be closed: the API answers 503 until a pass over everything has verified Redis. The next pass \
             tries again; if this stays, see what else this mail or the run says is left."
        }
        About::Left(_) => {
            "No repair took, or none is possible; each says why. Later passes try again where that can help; if this \
             stays, look at the run and at the reconciler's log."
        }
        About::ClosedBelowQuantity => "Nothing is to be done: nobody waits. You are told this once.",
    }
}

fn commands(about: About, coupon: Option<CouponId>) -> Vec<Block> {
    match about {
        About::Braked => vec![
            once("See what would be done, person by person", coupon, " --dry-run"),
            once("Let it be done", coupon, " --confirm"),
        ],
        About::RunFailed | About::Stalled => vec![once("Look again now", coupon, "")],
        About::Left(Kind::FailedClaim) => {
            vec![once("Once you have corrected it", coupon, ""), explain(coupon)]
        }
        // Only a pass over everything may reopen admission.
        About::Left(Kind::RedisLost) => vec![once("Try again now", None, "")],
        About::Left(_) => vec![once("Try again now", coupon, "")],
        About::BrokenPromise => {
            let id = coupon.map(|id| id.to_string()).unwrap_or_default();
            let line = format!(
                "curl -X PATCH -H \"Authorization: Bearer $OPS_TOKEN\" -H \"Content-Type: application/json\" \
                 -d '{{\"quantity\":NEW}}' http://127.0.0.1:8080/v1/coupons/{id}"
            );
            vec![
                Block::Command { what: "Raise the quantity (the API's address is its default)".to_owned(), line },
                explain(coupon),
            ]
        }
        About::ClosedBelowQuantity => Vec::new(),
    }
}

fn explain(coupon: Option<CouponId>) -> Block {
    let coupon = coupon.map_or_else(|| "ID".to_owned(), |id| id.to_string());
    Block::Command {
        what: "One person's whole story (the run has the ids in full)".to_owned(),
        line: format!("firstcome-reconciler explain --coupon {coupon} --user ID"),
    }
}
