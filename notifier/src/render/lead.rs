//! What a mail about a pass says first: its subject, what happened (most pressing first), and what
//! a person is asked to do.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::groups::{PassMail, issued};
use super::letter::{Block, Links, once};
use crate::alerts::{About, Notice, NoticeReason, Observation};
use crate::report::{ActionKind, DropReport, Finding, Kind, Status};
use crate::wording;

/// What happened: the most pressing first, which is the title, then the rest.
pub(super) fn lead(pass: &PassMail<'_>) -> (String, String) {
    let verdict = pass.verdict;
    let mut parts = Vec::new();
    if let [first, rest @ ..] = verdict.problems.as_slice() {
        parts.extend(sentences(pass, first));
        if !rest.is_empty() {
            parts.push(format!("{} below.", wording::count(rest.len(), "more problem is", "more problems are")));
        }
    }
    parts.extend(repaired(pass));
    match verdict.resolved.as_slice() {
        [] => {}
        [one] => {
            let lasted = duration(one.resolved_at.unwrap_or(pass.now) - one.first_seen_at);
            parts.push(format!("Resolved after {lasted}: {}.", wording::line(&one.summary, wording::LONGEST)));
        }
        many => parts.push(format!("{} earlier problems are resolved.", many.len())),
    }
    if let Some(notice) = verdict.information.first().filter(|_| parts.is_empty()) {
        parts.extend(sentences(pass, notice));
    }
    parts.retain(|part| !part.is_empty());
    if verdict.problems.is_empty() {
        parts.extend(state(pass));
        let todo = if pass.run.status == Status::Failed {
            "The pass ended before it was through, and the next one goes on: nothing is to be done unless a mail says so."
        } else if verdict.earlier.is_empty() && has_rebuilt(pass) {
            "Nothing is to be done tonight; who runs the coupons may want to tell those who waited."
        } else if verdict.earlier.is_empty() {
            "Nothing is to be done."
        } else {
            "No promise is lost, and it can wait until morning: find out today what makes repairs necessary again and again."
        };
        parts.push(todo.to_owned());
    }
    let title = parts.remove(0);
    (title, parts.join(" "))
}

fn has_rebuilt(pass: &PassMail<'_>) -> bool {
    pass.repairs().iter().any(|(_, finding)| finding.action == ActionKind::Rebuild)
}

fn repaired(pass: &PassMail<'_>) -> Vec<String> {
    let repairs = pass.repairs();
    let earlier = pass.earlier().map(|earlier| format!("Before that: {earlier}."));
    if repairs.is_empty() {
        return earlier.into_iter().collect();
    }
    let with = |action| repairs.iter().filter(|(_, finding)| finding.action == action).count();
    let mut parts = Vec::new();
    let rebuilt = with(ActionKind::Rebuild);
    if rebuilt > 0 {
        let drops = wording::count(rebuilt, "drop was", "drops were");
        // A pass that failed may not have come to all drops.
        let are_kept = pass.run.status != Status::Failed
            && pass.run.drops.iter().all(|report| report.exact)
            && pass.verdict.problems.is_empty();
        let kept = if are_kept { ", and every promise is kept" } else { "" };
        parts.push(format!("Redis lost data: {drops} rebuilt from MySQL and Kafka{kept}."));
        parts.push(
            "Any waiting list is lost: people who waited must claim again, and the product does not tell them."
                .to_owned(),
        );
    }
    let others = repairs.iter().map(|(_, finding)| *finding).filter(|finding| finding.action != ActionKind::Rebuild);
    let done = wording::done(others);
    parts.extend((!done.is_empty()).then(|| format!("Repaired by itself: {done}.")));
    if with(ActionKind::GrantLicence) > 0 {
        parts.push(pass.closed_for.map_or_else(
            || "Until then claims got 503.".to_owned(),
            |closed| format!("Until then claims got 503, for {}.", duration(closed)),
        ));
    }
    parts.extend(earlier);
    parts
}

/// The state of the only drop that the mail is about.
fn state(pass: &PassMail<'_>) -> Option<String> {
    let [drop] = pass.drops()[..] else { return None };
    let report = pass.report(drop)?;
    let exact = match (report.exact, report.after.rows == u64::from(report.quantity)) {
        (true, true) => ", exact",
        (true, false) => ", every promise has its row",
        (false, _) if report.unconfirmed => " since its repairs",
        (false, _) => ", not exact yet",
    };
    Some(format!("{}: {}{exact}.", pass.coupon_of(drop).1, issued(report)))
}

/// One problem: what is wrong, and what that means for people.
fn sentences(pass: &PassMail<'_>, notice: &Notice) -> [String; 2] {
    let seen = &notice.observation;
    let n = seen.findings.len();
    let name = seen.drop_id.map(|drop| pass.coupon_of(drop).1);
    let of = name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let summary = wording::line(&seen.summary, wording::LONGEST);
    let summary = summary.trim_end_matches('.');
    let whole = format!("{}.", wording::capital(summary));
    let (what, meaning) = match seen.about {
        About::RunFailed => (whole, "Nothing is lost: the next pass examines everything again."),
        About::Stalled => {
            (whole, "No promise is lost: passes issue what waits too long, so people get their codes late.")
        }
        About::Braked => {
            let found = wording::count(n, "repair was found in one pass", "repairs were found in one pass");
            (
                format!("{found}{}, more than the repair limit allows.", over(name.as_deref())),
                "None was made. Claims go on: people whom Redis lacks may lose their slots to others.",
            )
        }
        About::BrokenPromise => {
            let people =
                wording::count(n, "person was told yes and has no coupon", "people were told yes and have no coupon");
            let name = name.map(|name| format!(": {name}")).unwrap_or_default();
            (format!("{people}{name}."), "They are first on its waiting list.")
        }
        About::Left(Kind::RedisLost) => (
            format!("Redis lost data and could not be verified: {summary}."),
            "Claims to what is closed get 503; nobody loses a coupon.",
        ),
        About::Left(Kind::UnsafeSetting) => (whole, "Nothing is lost yet."),
        About::Left(_) if is_one_sentence(seen) => {
            (name.map_or(whole, |name| format!("{name}: {summary}.")), "A person has to mend it.")
        }
        About::Left(kind @ (Kind::FailedClaim | Kind::Unissued)) => {
            let meaning = if kind == Kind::Unissued {
                "People were told yes and have no coupon yet."
            } else {
                "People may have been told yes and have no coupon."
            };
            (format!("{}{of} could not be repaired.", wording::things(kind, n)), meaning)
        }
        About::Left(kind) => (format!("{}{of} could not be repaired.", wording::things(kind, n)), ""),
        About::ClosedBelowQuantity => {
            return [format!("{} {summary}.", name.unwrap_or_else(|| "A coupon".to_owned())), String::new()];
        }
    };
    let what = match notice.reason {
        NoticeReason::New => what,
        NoticeReason::Changed => format!("Changed, first seen {} ago: {what}", duration(pass.now - notice.since)),
        NoticeReason::Repeat => format!("Still there after {}: {what}", duration(pass.now - notice.since)),
    };
    [what, meaning.to_owned()]
}

/// What is wrong is one finding of no person, whose text says all of it.
pub(super) fn is_one_sentence(seen: &Observation) -> bool {
    let is_whole = |finding: &Finding| finding.slot.is_none() && finding.user_id.is_none();
    matches!(seen.findings.as_slice(), [one] if is_whole(one)) && seen.about != About::Left(Kind::FailedClaim)
}

fn over(name: Option<&str>) -> String {
    name.map(|name| format!(" over {name}")).unwrap_or_default()
}

/// A problem as one line, with for how long it is there.
pub(super) fn summary(pass: &PassMail<'_>, notice: &Notice) -> String {
    let ago = duration(pass.now - notice.since);
    let how = match notice.reason {
        NoticeReason::New => String::new(),
        NoticeReason::Changed => format!(" (changed; first seen {ago} ago)"),
        NoticeReason::Repeat => format!(" (still there after {ago})"),
    };
    format!("{}{how}", wording::line(&notice.observation.summary, wording::LONGEST))
}

/// Longest name of a coupon in a subject, in characters.
const NAME: usize = 60;

/// The word for the outbox, and the subject after `[firstcome] `.
pub(super) fn subject(pass: &PassMail<'_>) -> (&'static str, String) {
    let verdict = pass.verdict;
    if !verdict.problems.is_empty() {
        return ("action", format!("action needed: {}", problems(pass)));
    }
    // That a person needs to do nothing any more is worth more than what was done for it.
    if !verdict.resolved.is_empty() {
        return ("resolved", format!("resolved: {}", resolved(pass)));
    }
    if !(verdict.repaired.is_empty() && verdict.earlier.is_empty()) {
        return ("repaired", format!("repaired: {}", repaired_in(pass)));
    }
    let drops: BTreeSet<DropId> = verdict.information.iter().filter_map(|notice| notice.observation.drop_id).collect();
    let what = place(pass, &drops).unwrap_or_default();
    ("information", format!("closed below its quantity: {what}"))
}

fn problems(pass: &PassMail<'_>) -> String {
    let problems = &pass.verdict.problems;
    let drops: BTreeSet<DropId> = problems.iter().filter_map(|notice| notice.observation.drop_id).collect();
    let of_no_drop = problems.iter().find(|notice| notice.observation.drop_id.is_none());
    let more = problems.len() - 1;
    let and_more = if more == 0 { String::new() } else { format!(", {more} more") };
    let again = again(problems, pass.now);
    let also = also_repaired(pass).map(|done| format!("; repaired: {done}")).unwrap_or_default();
    // What is about everything says more than any one drop.
    let general = of_no_drop.filter(|notice| matches!(notice.observation.about, About::RunFailed | About::Stalled));
    match (general, problems.first(), place(pass, &drops)) {
        (Some(notice), _, _) | (None, Some(notice), None) => {
            format!("{}{and_more}{again}{also}", wording::line(&notice.observation.summary, 90))
        }
        (None, Some(notice), Some(place)) => {
            // The problem first: a lock screen shows the beginning.
            format!("{}{and_more}{again} · {place}{also}", wording::line(&notice.observation.summary, 60))
        }
        (None, None, _) => String::new(),
    }
}

/// For how long it has been there, where all of it was told before.
fn again(problems: &[Notice], now: DateTime<Utc>) -> String {
    let all_again = problems.iter().all(|notice| notice.reason == NoticeReason::Repeat);
    match problems.iter().map(|notice| notice.since).min() {
        Some(since) if all_again => format!(", for {}", duration(now - since)),
        _ => String::new(),
    }
}

/// A length of time in its largest unit.
pub(super) fn duration(time: TimeDelta) -> String {
    let minutes = time.num_minutes();
    match minutes {
        ..1 => format!("{} s", time.num_seconds().max(0)),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

fn repaired_in(pass: &PassMail<'_>) -> String {
    let verdict = pass.verdict;
    let drops = verdict.earlier.iter().map(|earlier| earlier.drop_id);
    let drops: BTreeSet<DropId> = drops.chain(verdict.repaired.iter().copied()).flatten().collect();
    let what = [also_repaired(pass), pass.earlier()].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let problem = if has_rebuilt(pass) { "Redis lacked data · " } else { "" };
    place(pass, &drops).map_or_else(|| what.clone(), |place| format!("{problem}{place} ({what})"))
}

/// What was repaired beside what the subject is about.
fn also_repaired(pass: &PassMail<'_>) -> Option<String> {
    let done = wording::done(pass.repairs().into_iter().map(|(_, finding)| finding));
    (!done.is_empty()).then_some(done)
}

fn resolved(pass: &PassMail<'_>) -> String {
    let resolved = &pass.verdict.resolved;
    let drops = resolved.iter().filter_map(|alert| alert.drop_id);
    let drops: BTreeSet<DropId> = drops.chain(pass.verdict.repaired.iter().copied().flatten()).collect();
    let was = match resolved.as_slice() {
        [one] => wording::line(&one.summary, 80),
        many => wording::count(many.len(), "problem", "problems"),
    };
    let also = also_repaired(pass).map(|done| format!("; repaired: {done}")).unwrap_or_default();
    let place = place(pass, &drops).map(|place| format!(" · {place}")).unwrap_or_default();
    format!("{was}{place}{also}")
}

/// One drop by its name and numbers, several by how many. `None` for no drop.
fn place(pass: &PassMail<'_>, drops: &BTreeSet<DropId>) -> Option<String> {
    let first = drops.first()?;
    if drops.len() > 1 {
        let coupons: BTreeSet<_> = drops.iter().map(|drop| pass.coupon_of(*drop)).collect();
        let coupons = if coupons.len() == 1 {
            coupons.first().map(|(_, name)| wording::line(name, NAME)).unwrap_or_default()
        } else {
            wording::count(coupons.len(), "coupon", "coupons")
        };
        return Some(format!("{} drops of {coupons}", drops.len()));
    }
    let report = pass.report(*first);
    let (_, name) = pass.coupon_of(*first);
    let name = wording::line(&name, NAME);
    Some(report.map_or_else(|| format!("{name} · drop {first}"), |report| format!("{name} · {}", issued(report))))
}

/// What a person is to do about it, in a sentence or two.
pub fn what_to_do(about: About) -> &'static str {
    match about {
        About::RunFailed => {
            "Check that Redis, MySQL and Kafka can be reached. A mail says when a pass has succeeded again."
        }
        About::Stalled => {
            "Check that the consumers run, and that Kafka and MySQL can be reached. A mail says when it moves again."
        }
        About::Braked => {
            "If you don't know the cause, pause the coupon and wait for somebody who does. If you know it and MySQL is complete \
             (Redis was restored from an old copy, say): look at what would be done, and confirm it."
        }
        About::BrokenPromise => {
            "Raise the quantity before the drop closes: the next pass gives each of them a coupon. (Of a daily coupon this raises \
             every drop that is not closed.) If you can't, tell each of them, and note it in their story on the operations page; \
             the last one ends this alert."
        }
        About::Left(Kind::FailedClaim) => {
            "Is no slot left? Raise the quantity, then run a pass. Is slot or person wrong? Correct the claim on its page; the next \
             pass issues it. Discard a claim only if nobody was promised anything, or tell the person."
        }
        About::Left(Kind::RedisLost) => {
            "See what else the mail or its run lists, and mend that. Then run a pass over all live drops, which opens what it \
             can verify; the next scheduled pass does the same."
        }
        About::Left(Kind::UnsafeSetting) => {
            "Change the setting as the sentence says, in the running server and in its file. A mail says when it is right."
        }
        About::Left(_) => {
            "The mail and its run give the reason of each, and OPERATIONS.md says what to do, under the name of this kind. Once it \
             is mended, run a pass; the next scheduled one tries again, too."
        }
        About::ClosedBelowQuantity => "Nothing is to be done.",
    }
}

/// What to do about one problem, as commands. `report` is of the problem's drop.
pub(super) fn commands(seen: &Observation, report: Option<&DropReport>, links: &Links) -> Vec<Block> {
    let coupon = seen.coupon_id;
    match seen.about {
        About::Braked => {
            let pause = coupon.filter(|_| !links.page_changes_coupons).map(|coupon| links.pause(coupon));
            let once = [once("See what would be done", coupon, " --dry-run"), once("Confirm it", coupon, " --confirm")];
            pause.into_iter().chain(once).collect()
        }
        About::Left(Kind::FailedClaim) => {
            let open = report.filter(|report| !report.sealed && !links.page_changes_coupons);
            let more = open.map(|report| raise("Where no slot is left", report, seen.findings.len() as u64, links));
            let select = [select(coupon), once("Once they are corrected", coupon, "")];
            more.into_iter().chain(select).collect()
        }
        // Only a pass over everything may reopen admission.
        About::Left(Kind::RedisLost) => vec![once("Try again now", None, "")],
        About::Stalled => vec![once("Issue what waits too long now, without the consumers", coupon, "")],
        About::RunFailed | About::Left(_) => {
            let of_sealed = if report.is_some_and(|report| report.sealed) { " --deep" } else { "" };
            vec![once("Try again now", coupon, of_sealed)]
        }
        About::BrokenPromise => {
            let open = report.filter(|report| !report.sealed);
            let raise = open.map(|report| raise("Give each of them a slot", report, seen.findings.len() as u64, links));
            raise.into_iter().flat_map(|raise| [raise, once("Then", coupon, "")]).collect()
        }
        About::ClosedBelowQuantity => Vec::new(),
    }
}

fn raise(what: &str, report: &DropReport, by: u64, links: &Links) -> Block {
    let (from, to) = (u64::from(report.quantity), u64::from(report.quantity) + by);
    links.quantity(&format!("{what} (quantity {from} → {to})"), report.coupon_id, to)
}

fn select(coupon: Option<CouponId>) -> Block {
    let of_coupon = coupon.map(|id| format!("coupon_id = {id} AND ")).unwrap_or_default();
    Block::Command {
        what: "At a computer: the entries, in MySQL".to_owned(),
        line: format!(
            "SELECT id, drop_id, slot, user_id, reason, error\nFROM failed_claims\nWHERE {of_coupon}resolved_at IS NULL;"
        ),
    }
}
