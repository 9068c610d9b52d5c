//! Texts of a mail about one problem: the description, the instruction and the commands. They
//! depend on the case of the findings or, without a case, on their kind.

use std::fmt;

use firstcome_shared::domain::{CouponId, DropId};

use super::groups::{PassMail, is_shut};
use super::lead::is_one_sentence;
use super::letter::{Block, Links, once};
use crate::alerts::{About, Observation, common_case, number};
use crate::case;
use crate::report::{ActionKind, DropReport, Finding, FindingCase, Kind, Outcome};
use crate::wording::{self, count};

/// Describes the fault and its effect on users. Returns `None` if the text of the kind is
/// sufficient.
pub(super) fn of_case(
    pass: &PassMail<'_>,
    seen: &Observation,
    name: Option<&str>,
) -> Option<[String; 2]> {
    let n = number(&seen.findings);
    let case = common_case(&seen.findings)?;
    let summary = case::summary(case, n)?;
    let detail = || {
        seen.findings
            .first()
            .map(|finding| wording::line(&finding.detail, wording::LONGEST))
            .unwrap_or_default()
    };
    let name = name.unwrap_or("A coupon");
    let of_name = if seen.drop_id.is_some() {
        format!("{name}: {summary}.")
    } else {
        format!("{}.", wording::capital(&summary))
    };
    Some(match case {
        FindingCase::Plain
        | FindingCase::MoreLeft(_)
        | FindingCase::ConsumerStands
        | FindingCase::Unsafe(_)
        | FindingCase::Unworkable(_)
        | FindingCase::SettingsDiffer
        | FindingCase::AllowListDiffers
        | FindingCase::RunFailed(_) => {
            return None;
        }
        FindingCase::NoSlotLeft => [
            of_name,
            "These people were promised a coupon and have none.".to_owned(),
        ],
        FindingCase::NoSuchSlot | FindingCase::NamesNoDrop(_) => [
            of_name,
            "Somebody may have been promised a coupon and have none.".to_owned(),
        ],
        FindingCase::NamesNobody => [
            of_name,
            "If an API of Firstcome wrote it, somebody was promised a coupon and has none."
                .to_owned(),
        ],
        // The detail says that no promise is lost.
        FindingCase::Unreadable if is_one_sentence(seen) => [
            format!("{}.", wording::capital(&detail())),
            "Passes issue the claims of this batch from Redis.".to_owned(),
        ],
        FindingCase::Unreadable => [
            of_name,
            "No promise is lost by it: passes issue the claims of this batch from Redis."
                .to_owned(),
        ],
        FindingCase::RowRefused(why) => [
            format!(
                "MySQL refuses {} of {name}: {}.",
                count(n, "row", "rows"),
                wording::line(why, 120).trim_end_matches('.')
            ),
            "These people were promised a coupon and have none.".to_owned(),
        ],
        FindingCase::NoUserId => [
            format!(
                "Somebody wrote a name into Redis that is no user id: {name}{}.",
                slots_of(&seen.findings)
            ),
            "Nobody waits for a coupon on it.".to_owned(),
        ],
        FindingCase::KeyOfWrongType { .. } => [
            format!("{name} is closed: {}.", detail()),
            "All claims to it get 503. Nobody loses a coupon.".to_owned(),
        ],
        FindingCase::RowsLocked => [
            of_name,
            "Nobody loses a coupon, but people get their codes late.".to_owned(),
        ],
        FindingCase::ReadAgain(_) => {
            let is_exact = pass.run.drops.iter().all(|report| report.exact);
            let rows = if is_exact {
                "The rows are complete: everybody in Redis has one."
            } else {
                ""
            };
            [format!("{}.", wording::capital(&detail())), rows.to_owned()]
        }
    })
}

/// Returns the slots of findings as text, such as ", slot 4".
fn slots_of(findings: &[Finding]) -> String {
    let slots: Vec<String> = findings
        .iter()
        .filter_map(|finding| Some(finding.slot?.to_string()))
        .take(5)
        .collect();
    match slots.len() {
        0 => String::new(),
        1 => format!(", slot {}", slots[0]),
        _ => format!(", slots {}", slots.join(", ")),
    }
}

/// Describes the repairs that the limit held back, and whether users can claim in the meantime.
pub(super) fn held_back(
    pass: &PassMail<'_>,
    seen: &Observation,
    name: Option<&str>,
) -> [String; 2] {
    let report = seen.drop_id.and_then(|drop| pass.report(drop));
    let repairs = count(number(&seen.findings), "repair", "repairs");
    let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
    let to_put_back = seen.findings.iter();
    let puts_back = number(to_put_back.filter(|finding| finding.action == ActionKind::PutBack));
    if report.is_some_and(is_shut) {
        let lacking = count(
            puts_back,
            "user with a row or a message is",
            "users with a row or a message are",
        );
        let lacking = if puts_back > 0 {
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
        finding.action == ActionKind::OpenGate
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
    let risk = if puts_back > 0 {
        ": users whom Redis lacks may lose their slots to others"
    } else {
        ""
    };
    [
        format!("{repairs}{of} need a confirmation: this many at once are rarely right."),
        format!("None was made. Claims go on{risk}."),
    ]
}

/// Returns the instruction for a kind of problem, regardless of its case.
pub fn what_to_do(about: About) -> &'static str {
    match about {
        About::RunFailed => {
            "Check that Redis, MySQL and Kafka can be reached. A mail says when a pass has succeeded again."
        }
        About::Stalled => {
            "Check that the consumers run, and that Kafka and MySQL can be reached. A mail says when it moves again."
        }
        About::Braked => {
            "If you don't know the cause, pause the coupon and wait for somebody who does. If you know it, and MySQL is complete \
             (Redis was restored from an old copy, say), list the repairs and confirm them."
        }
        About::BrokenPromise => {
            "Raise the quantity before the drop closes: the next pass gives each of them a coupon. (For a daily coupon, this raises \
             every drop that is not closed.) If you can't, tell each of them, and note it in their story on the operations page; \
             the last one ends this alert."
        }
        About::Left(Kind::FailedClaim) => {
            "See the reason of each. Correct the claim on its page, and the next pass issues it. Raise the quantity only if the \
             reason is that no slot is left. Discard a claim only if nobody was promised anything."
        }
        About::Left(Kind::RedisLost) => {
            "See what else is wrong with this coupon, and correct it. Then run a pass over all live drops, which opens what it \
             can verify; the next scheduled pass does the same."
        }
        About::Left(Kind::UnsafeSetting) => {
            "Change the setting as the sentence says, in the running server and in its file. A mail says when it is correct."
        }
        About::Left(_) => {
            "See the reason of each: OPERATIONS.md says under the name of this kind what to do about it. Do not raise the \
             quantity. The next scheduled pass tries again."
        }
        About::ClosedBelowQuantity => "Nothing needs to be done.",
    }
}

/// Returns the instruction for a problem that the current pass has found.
pub(crate) fn what_to_do_here(pass: &PassMail<'_>, seen: &Observation) -> String {
    let mut parts: Vec<String> = Vec::new();
    for finding in &seen.findings {
        let Some(part) = todo_of_case(&finding.case, number_of(&seen.findings, &finding.case))
        else {
            return what_to_do(seen.about).to_owned();
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    let may_tempt = |finding: &Finding| {
        matches!(
            finding.case,
            FindingCase::NoSlotLeft | FindingCase::NoSuchSlot | FindingCase::NamesNoDrop(_)
        )
    };
    if seen.findings.iter().any(may_tempt) {
        parts.push("Discard a claim only if nobody was promised anything.".to_owned());
    }
    let is_closed = |report: &DropReport| report.sealed;
    if seen
        .drop_id
        .and_then(|drop| pass.report(drop))
        .is_some_and(is_closed)
    {
        parts.push("The drop is sealed: a deep pass compares it.".to_owned());
    }
    parts.join(" ")
}

fn number_of(findings: &[Finding], case: &FindingCase) -> usize {
    number(findings.iter().filter(|finding| finding.case.is_like(case)))
}

fn todo_of_case(case: &FindingCase, n: usize) -> Option<String> {
    let todo = match case {
        FindingCase::Plain
        | FindingCase::MoreLeft(_)
        | FindingCase::ConsumerStands
        | FindingCase::Unsafe(_)
        | FindingCase::Unworkable(_)
        | FindingCase::SettingsDiffer
        | FindingCase::AllowListDiffers
        | FindingCase::RunFailed(_) => {
            return None;
        }
        FindingCase::NoSlotLeft => {
            let claims = if n == 1 { "the claim" } else { "these claims" };
            return Some(format!(
                "Raise the quantity by {n} before the drop closes: the next pass issues {claims}."
            ));
        }
        FindingCase::NoSuchSlot => {
            "If the drop lacks its slot, correct the slot on the claim's page: the next pass issues it."
        }
        FindingCase::NamesNobody => {
            "See the message on its page and find out who wrote it. If it is a claim, correct it there, and the next pass issues it; \
             if Firstcome did not write it, discard it."
        }
        FindingCase::NamesNoDrop(_) => {
            "If coupon or drop of the claim are wrong, correct them on its page, and the next pass issues it. If it names a sealed \
             drop, first check whether that drop has lost the row of its slot: if so, correct the claim; otherwise discard it."
        }
        FindingCase::Unreadable => {
            "Check that a consumer runs. Look for the cause as OPERATIONS.md says (unreadable), and discard the failed claim after \
             the next pass."
        }
        FindingCase::RowRefused(_) => {
            "Do not raise the quantity. Remove the reason that MySQL gives, as OPERATIONS.md says; the next pass writes the rows."
        }
        FindingCase::NoUserId => "Remove the name from Redis with the commands below.",
        FindingCase::KeyOfWrongType(_) => {
            "Delete this key, then run a pass, which writes it again and opens the coupon."
        }
        FindingCase::RowsLocked => {
            "Find the transaction that holds the lock and end it. The next pass repairs what waits for it."
        }
        FindingCase::ReadAgain(_) => {
            "Find out what changed: the topic, the data of the brokers, MySQL, or offsets. Reading a claim twice does no harm. This ends \
             an hour after the consumers began again."
        }
    };
    Some(todo.to_owned())
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
    let by_command = open.filter(|_| !links.page_changes_coupons);
    let pause = || {
        coupon
            .filter(|_| !links.page_changes_coupons)
            .map(|coupon| links.pause(coupon))
    };
    match (seen.about, common_case(&seen.findings)) {
        (About::Braked, _) => {
            let once = [
                once("List the repairs", coupon, " --dry-run"),
                once("Confirm them", coupon, " --confirm"),
            ];
            pause().into_iter().chain(once).collect()
        }
        (About::Left(Kind::FailedClaim), case) => {
            let waiting = number_of(&seen.findings, &FindingCase::NoSlotLeft) as u64;
            let more = by_command
                .filter(|_| waiting > 0)
                .map(|report| raise("Where no slot is left", report, waiting, links));
            let is_refused = matches!(case, Some(FindingCase::RowRefused(_)));
            let select = (!is_refused).then(|| select(coupon));
            let when = if is_refused {
                "Once the reason is removed"
            } else {
                "Once they are corrected"
            };
            let once = once(when, coupon, "");
            more.into_iter().chain(select).chain([once]).collect()
        }
        (_, Some(FindingCase::NoUserId)) => {
            let place = coupon.zip(seen.drop_id);
            place
                .map(|(coupon, drop)| remove_name(coupon, drop, &seen.findings))
                .unwrap_or_default()
        }
        (_, Some(FindingCase::KeyOfWrongType(wrong))) => vec![
            redis("Delete the key", format_args!("DEL '{}'", wrong.key)),
            once("Then", coupon, ""),
        ],
        (_, Some(FindingCase::RowsLocked)) => vec![locks(), once("Once it has ended", coupon, "")],
        (_, Some(FindingCase::ReadAgain(_))) => positions(),
        // Only a pass over everything can reopen admission.
        (About::Left(Kind::RedisLost), _) => vec![once("Try again now", None, "")],
        (About::Stalled, _) => vec![once(
            "Issue what waits too long now, without the consumers",
            coupon,
            "",
        )],
        (About::RunFailed | About::Left(_), _) => {
            let of_sealed = if report.is_some_and(|report| report.sealed) {
                " --deep"
            } else {
                ""
            };
            vec![once("Try again now", coupon, of_sealed)]
        }
        (About::BrokenPromise, _) => {
            let raise = open.map(|report| raise("Give each of them a slot", report, n, links));
            raise
                .into_iter()
                .flat_map(|raise| [raise, once("Then", coupon, "")])
                .collect()
        }
        (About::ClosedBelowQuantity, _) => Vec::new(),
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

fn locks() -> Block {
    Block::Command {
        what: "Lock holders in MySQL (end one with KILL and its number)".to_owned(),
        line: "SELECT trx_mysql_thread_id, trx_started, trx_query\nFROM information_schema.innodb_trx\nORDER BY trx_started;"
            .to_owned(),
    }
}

fn redis(what: &str, command: fmt::Arguments<'_>) -> Block {
    Block::Command {
        what: what.to_owned(),
        line: format!("redis-cli -u \"$REDIS_URL\" {command}"),
    }
}

/// Returns commands that remove an invalid name. Mails never contain the name, because it may have
/// been meant as a user ID.
fn remove_name(coupon: CouponId, drop: DropId, findings: &[Finding]) -> Vec<Block> {
    let key = |name: &str| format!("\"${{REDIS_KEY_PREFIX:-fc}}:{{{coupon}}}:{name}\"");
    let users = key(&format!("drop:{drop}:users"));
    let slot = findings
        .iter()
        .find_map(|finding| finding.slot)
        .unwrap_or_default();
    vec![
        redis(
            "The name",
            format_args!("ZRANGE {users} {slot} {slot} BYSCORE"),
        ),
        redis(
            "Remove it; write the name in place of NAME",
            format_args!("ZREM {users} 'NAME'"),
        ),
        redis(
            "And from the list of claimants",
            format_args!("HDEL {} 'NAME'", key("claimants")),
        ),
        once("Then", Some(coupon), ""),
    ]
}

fn positions() -> Vec<Block> {
    vec![Block::Command {
        what: "How far the consumers are, in MySQL".to_owned(),
        line: "SELECT partition_id, next_offset, fault, fault_at, fault_offset\nFROM topic_positions\nORDER BY partition_id;"
            .to_owned(),
    }]
}
