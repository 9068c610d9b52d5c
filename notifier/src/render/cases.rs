//! Texts of a mail about one problem: the instruction and the commands. What is said about a kind
//! comes from the table of kinds.

use firstcome_shared::domain::CouponId;

use super::groups::{PassMail, is_shut};
use super::letter::{Block, Links, once};
use crate::alerts::{About, Observation, number};
use crate::report::{ActionKind, DropReport, Finding, FindingCase, Kind, Outcome};
use crate::wording::count;

/// Describes the repairs that the limit held back, and whether users can claim in the meantime.
pub(super) fn held_back(
    pass: &PassMail<'_>,
    seen: &Observation,
    name: Option<&str>,
) -> [String; 2] {
    let report = seen.drop_id.and_then(|drop| pass.report(drop));
    let repairs = count(number(&seen.findings), "repair", "repairs");
    let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
    let missing = seen.findings.iter();
    let missing = number(missing.filter(|finding| finding.kind == Kind::MissingAdmission));
    if report.is_some_and(is_shut) {
        let lacking = count(missing, "user with a row is", "users with a row are");
        let lacking = if missing > 0 {
            format!("{lacking} not in Redis. ")
        } else {
            String::new()
        };
        return [
            format!(
                "Claims to {} get 503 until {repairs} are confirmed.",
                name.unwrap_or("a coupon")
            ),
            format!("{lacking}No repair was made: this many at once need a confirmation."),
        ];
    }
    let is_closed = |finding: &Finding| {
        finding.action == ActionKind::Open
            && finding.result == Outcome::Failed
            && finding.coupon_id == seen.coupon_id
    };
    if pass.run.findings.iter().any(is_closed) {
        return [
            format!(
                "Claims to {} get 503 until {repairs} are confirmed.",
                name.unwrap_or("a coupon")
            ),
            "They would move users or take slots back: this many at once need a confirmation. Repairs that only add what was promised were made."
                .to_owned(),
        ];
    }
    let risk = if missing > 0 {
        ": users whom Redis lacks may lose their slots to others"
    } else {
        ""
    };
    [
        format!("{repairs}{of} need a confirmation: this many at once are rarely right."),
        format!("None was made. Claims go on{risk}."),
    ]
}

/// Returns the instruction for a kind of problem.
pub fn what_to_do(about: About) -> &'static str {
    match about {
        About::RunFailed => {
            "Check that Redis, MySQL and Kafka can be reached. A mail says when a pass has succeeded again."
        }
        About::Stalled => Kind::Stalled.facts().to_do,
        About::Braked => {
            "If you don't know the cause, pause the coupon and wait for somebody who does. If you know it, and MySQL is complete \
             (Redis was restored from an old copy, say), list the repairs and confirm them."
        }
        About::BrokenPromise => Kind::BrokenPromise.facts().to_do,
        About::Left(kind) => kind.facts().to_do,
        About::ClosedBelowQuantity => "Nothing needs to be done.",
    }
}

/// Returns the instruction for a problem that the current pass has found.
pub(crate) fn what_to_do_here(seen: &Observation) -> &'static str {
    let is_unsafe = |finding: &Finding| matches!(finding.case, FindingCase::Unsafe(_));
    if seen.findings.iter().any(is_unsafe) {
        return "Change the setting as the sentence says, in the running server and in its file. A mail says when it is correct.";
    }
    what_to_do(seen.about)
}

/// Returns the commands for one problem. `report` is the report of its drop.
pub(super) fn commands(
    seen: &Observation,
    report: Option<&DropReport>,
    links: &Links,
) -> Vec<Block> {
    let coupon = seen.coupon_id;
    let n = number(&seen.findings) as u64;
    let open = report.filter(|report| !report.sealed);
    let pause = || {
        coupon
            .filter(|_| !links.page_changes_coupons)
            .map(|coupon| links.pause(coupon))
    };
    match seen.about {
        About::Braked => {
            let once = [
                once("List the repairs", coupon, " --dry-run"),
                once("Confirm them", coupon, " --confirm"),
            ];
            pause().into_iter().chain(once).collect()
        }
        About::Left(Kind::FailedClaim) => {
            vec![select(coupon), once("Once they are corrected", coupon, "")]
        }
        About::Stalled => vec![once(
            "Issue what waits too long now, without the consumers",
            coupon,
            "",
        )],
        About::RunFailed | About::Left(_) => vec![once("Try again now", coupon, "")],
        About::BrokenPromise => {
            let raise = open.map(|report| raise("Give each of them a slot", report, n, links));
            raise
                .into_iter()
                .flat_map(|raise| [raise, once("Then", coupon, "")])
                .collect()
        }
        About::ClosedBelowQuantity => Vec::new(),
    }
}

fn raise(what: &str, report: &DropReport, by: u64, links: &Links) -> Block {
    let to = u64::from(report.quantity) + by;
    let from = u64::from(report.quantity);
    links.quantity(
        &format!("{what} (quantity {from} → {to})"),
        report.coupon_id,
        to,
    )
}

fn select(coupon: Option<CouponId>) -> Block {
    let of_coupon = coupon
        .map(|id| format!("coupon_id = {id} AND "))
        .unwrap_or_default();
    Block::Command {
        what: "At a computer: the entries, in MySQL".to_owned(),
        line: format!(
            "SELECT id, drop_id, slot, user_id, reason, error\nFROM failed_claims\nWHERE {of_coupon}resolved_at IS NULL;"
        ),
    }
}
