//! Writes the beginning of a mail about a pass: the subject, what happened (most urgent first), and
//! what an operator should do.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;

use super::cases::held_back;
use super::groups::{PassMail, is_shut, issued};
use super::letter::MailKind;
use crate::alerts::{About, Notice, NoticeReason, Observation, number};
use crate::report::{ActionKind, DropReport, Kind, Outcome, Status};
use crate::wording;

/// Returns the title, which is the most urgent problem, and the other events.
pub(super) fn lead(pass: &PassMail<'_>) -> (String, String) {
    let verdict = pass.verdict;
    let mut parts = Vec::new();
    if let [first, rest @ ..] = verdict.problems.as_slice() {
        parts.extend(sentences(pass, first));
        if !rest.is_empty() {
            parts.push(format!(
                "{} below.",
                wording::count(rest.len(), "more problem is", "more problems are")
            ));
        }
    }
    parts.extend(repaired(pass));
    match verdict.resolved.as_slice() {
        [] => {}
        [one] => {
            let lasted = duration(one.resolved_at.unwrap_or(pass.now) - one.first_seen_at);
            parts.push(format!(
                "Resolved after {lasted}: {}.",
                wording::line(&one.summary, wording::LONGEST)
            ));
        }
        many => parts.push(format!("{} earlier problems are resolved.", many.len())),
    }
    if let Some(notice) = verdict.information.first().filter(|_| parts.is_empty()) {
        parts.extend(sentences(pass, notice));
    }
    parts.retain(|part| !part.is_empty());
    if verdict.problems.is_empty() {
        parts.extend(state(pass));
        parts.push(what_is_left(pass).to_owned());
    }
    let title = parts.remove(0);
    (title, parts.join(" "))
}

/// Returns the instruction for a mail without problems. It is "Nothing" only if the drops were
/// compared.
fn what_is_left(pass: &PassMail<'_>) -> &'static str {
    let reports = || {
        pass.drops()
            .into_iter()
            .filter_map(|drop| pass.report(drop))
    };
    let is_compared = |report: &DropReport| report.exact && !report.unconfirmed;
    if pass.run.status == Status::Failed {
        "The pass stopped early. The next one continues, and a mail says if anything is left."
    } else if !reports().all(is_compared) {
        "The next pass compares again, and a mail says if something is left."
    } else if has_lost(pass) {
        "Nothing needs to be done tonight; those who run the coupons may want to tell the people who waited."
    } else if pass.verdict.earlier.is_empty() {
        "Nothing needs to be done."
    } else {
        "It can wait until morning: find out today what makes repairs necessary again and again."
    }
}

/// Whether a drop was written to Redis again after a loss.
fn has_lost(pass: &PassMail<'_>) -> bool {
    let repairs = pass.repairs().into_iter().map(|(_, finding)| finding);
    repairs
        .into_iter()
        .any(|finding| finding.action == ActionKind::Project && finding.kind == Kind::RedisLost)
}

fn repaired(pass: &PassMail<'_>) -> Vec<String> {
    let repairs = pass.repairs();
    let earlier = pass
        .earlier()
        .map(|earlier| format!("Before that: {earlier}."));
    if repairs.is_empty() {
        return earlier.into_iter().collect();
    }
    let with = |action| {
        repairs
            .iter()
            .filter(|(_, finding)| finding.action == action)
            .count()
    };
    let mut parts = Vec::new();
    if has_lost(pass) {
        parts.push("Redis lost data, and was written again from the rows.".to_owned());
        parts.push(
            "Any waiting list is lost: people who waited must claim again, and the product does not tell them."
                .to_owned(),
        );
    }
    let others = repairs.iter().map(|(_, finding)| *finding);
    let others = others.filter(|finding| finding.action != ActionKind::Open);
    let done = wording::done(others);
    parts.extend((!done.is_empty()).then(|| format!("Repaired automatically: {done}.")));
    if with(ActionKind::Open) > 0 {
        parts.push(pass.closed_for.map_or_else(
            || "Until then claims got 503.".to_owned(),
            |closed| format!("Until then claims got 503, for {}.", duration(closed)),
        ));
    }
    parts.extend(earlier);
    parts
}

/// Describes the state of the drop, if the mail concerns exactly one.
fn state(pass: &PassMail<'_>) -> Option<String> {
    let [drop] = pass.drops()[..] else {
        return None;
    };
    let report = pass.report(drop)?;
    let exact = match (
        report.exact,
        report.after.rows == u64::from(report.quantity),
    ) {
        (true, true) => ", exact",
        (true, false) => ", everybody admitted has a row",
        (false, _) if report.unconfirmed => " since its repairs",
        (false, _) => ", not exact yet",
    };
    Some(format!(
        "{}: {}{exact}.",
        pass.coupon_of(drop).1,
        issued(report)
    ))
}

/// Describes a problem: what is wrong, and what that means for users.
fn sentences(pass: &PassMail<'_>, notice: &Notice) -> [String; 2] {
    let seen = &notice.observation;
    let name = seen.drop_id.map(|drop| pass.coupon_of(drop).1);
    let summary = wording::line(&seen.summary, wording::LONGEST);
    let summary = summary.trim_end_matches('.');
    let [what, meaning] = match seen.about {
        About::ClosedBelowQuantity => {
            return [
                format!(
                    "{} {summary}.",
                    name.unwrap_or_else(|| "A coupon".to_owned())
                ),
                String::new(),
            ];
        }
        About::Braked => held_back(pass, seen, name.as_deref()),
        about => {
            let (what, meaning) = of_kind(about, seen, name.as_deref(), summary);
            [what, meaning.to_owned()]
        }
    };
    let what = match notice.reason {
        NoticeReason::New => what,
        NoticeReason::Changed => format!(
            "Changed, first seen {} ago: {what}",
            duration(pass.now - notice.since)
        ),
        NoticeReason::Repeat => format!(
            "Still there after {}: {what}",
            duration(pass.now - notice.since)
        ),
    };
    [what, meaning]
}

/// Describes the fault and its effect on users.
fn of_kind(
    about: About,
    seen: &Observation,
    name: Option<&str>,
    summary: &str,
) -> (String, &'static str) {
    let n = number(&seen.findings);
    let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
    let whole = format!("{}.", wording::capital(summary));
    match about {
        About::RunFailed => (
            whole,
            "Nothing is lost: the next pass examines everything again.",
        ),
        About::Stalled => (whole, Kind::Stalled.facts().meaning),
        About::BrokenPromise => {
            let people = wording::count(
                n,
                "person was promised a coupon and has none",
                "people were promised a coupon and have none",
            );
            let name = name.map(|name| format!(": {name}")).unwrap_or_default();
            (
                format!("{people}{name}."),
                Kind::BrokenPromise.facts().meaning,
            )
        }
        About::Left(kind) if is_one_sentence(seen) => (
            name.map_or(whole, |name| format!("{name}: {summary}.")),
            kind.facts().meaning,
        ),
        About::Left(kind) => (
            format!("{}{of} could not be repaired.", wording::things(kind, n)),
            kind.facts().meaning,
        ),
        About::Braked | About::ClosedBelowQuantity => (whole, ""),
    }
}

/// Whether the problem is a single finding without a user, so that its text needs no addition.
pub(super) fn is_one_sentence(seen: &Observation) -> bool {
    matches!(seen.findings.as_slice(), [one] if one.is_whole())
        && seen.about != About::Left(Kind::FailedClaim)
}

/// Returns a problem as one line, with its age.
pub(super) fn summary(pass: &PassMail<'_>, notice: &Notice) -> String {
    let ago = duration(pass.now - notice.since);
    let how = match notice.reason {
        NoticeReason::New => String::new(),
        NoticeReason::Changed => format!(" (changed; first seen {ago} ago)"),
        NoticeReason::Repeat => format!(" (still there after {ago})"),
    };
    format!(
        "{}{how}",
        wording::line(&notice.observation.summary, wording::LONGEST)
    )
}

/// Maximum length of a coupon's name in a subject, in characters.
const NAME: usize = 60;

/// Maximum length in a subject, in characters, of the summary of a problem that concerns no drop.
const GENERAL: usize = 115;

/// Returns the kind of the mail, and its subject without the prefix.
pub(super) fn subject(pass: &PassMail<'_>) -> (MailKind, String) {
    let verdict = pass.verdict;
    if !verdict.problems.is_empty() {
        return (MailKind::Action, problems(pass));
    }
    // A subject that shows that no action is needed is more useful than a list of repairs.
    if !verdict.resolved.is_empty() {
        return (MailKind::Resolved, resolved(pass));
    }
    if !(verdict.repaired.is_empty() && verdict.earlier.is_empty()) {
        return (MailKind::Repaired, repaired_in(pass));
    }
    let drops: BTreeSet<DropId> = verdict
        .information
        .iter()
        .filter_map(|notice| notice.observation.drop_id)
        .collect();
    let what = place(pass, &drops).unwrap_or_default();
    (MailKind::Information, what)
}

fn problems(pass: &PassMail<'_>) -> String {
    let problems = &pass.verdict.problems;
    let drops: BTreeSet<DropId> = problems
        .iter()
        .filter_map(|notice| notice.observation.drop_id)
        .collect();
    let of_no_drop = problems
        .iter()
        .find(|notice| notice.observation.drop_id.is_none());
    let more = problems.len() - 1;
    let and_more = if more == 0 {
        String::new()
    } else {
        format!(", {more} more")
    };
    let again = again(problems, pass.now);
    let also = also_repaired(pass)
        .map(|done| format!("; repaired: {done}"))
        .unwrap_or_default();
    // A problem of the whole system takes precedence over a problem of one drop.
    let general = of_no_drop
        .filter(|notice| matches!(notice.observation.about, About::RunFailed | About::Stalled));
    match (general, problems.first(), place(pass, &drops)) {
        (Some(notice), _, _) | (None, Some(notice), None) => {
            format!(
                "{}{and_more}{again}{also}",
                wording::line(&notice.observation.summary, GENERAL)
            )
        }
        (None, Some(notice), Some(place)) => {
            // Put the problem first, since a lock screen shows only the beginning.
            format!(
                "{}{and_more}{again} · {place}{also}",
                wording::line(&notice.observation.summary, 60)
            )
        }
        (None, None, _) => String::new(),
    }
}

/// Returns the age of the problems, if all of them were mailed before.
fn again(problems: &[Notice], now: DateTime<Utc>) -> String {
    let all_again = problems
        .iter()
        .all(|notice| notice.reason == NoticeReason::Repeat);
    match problems.iter().map(|notice| notice.since).min() {
        Some(since) if all_again => format!(", for {}", duration(now - since)),
        _ => String::new(),
    }
}

/// Formats a duration in its largest unit.
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
    let drops: BTreeSet<DropId> = drops
        .chain(verdict.repaired.iter().copied())
        .flatten()
        .collect();
    let what = [also_repaired(pass), pass.earlier()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ");
    let problem = if has_lost(pass) {
        "Redis lost data · "
    } else {
        ""
    };
    place(pass, &drops).map_or_else(
        || what.clone(),
        |place| format!("{problem}{place} ({what})"),
    )
}

/// Returns a note about repairs that the subject does not mention otherwise.
fn also_repaired(pass: &PassMail<'_>) -> Option<String> {
    let done = wording::done(pass.repairs().into_iter().map(|(_, finding)| finding));
    (!done.is_empty()).then_some(done)
}

fn resolved(pass: &PassMail<'_>) -> String {
    let resolved = &pass.verdict.resolved;
    let drops = resolved.iter().filter_map(|alert| alert.drop_id);
    let drops: BTreeSet<DropId> = drops
        .chain(pass.verdict.repaired.iter().copied().flatten())
        .collect();
    let was = match resolved.as_slice() {
        [one] => wording::line(&one.summary, 80),
        many => wording::count(many.len(), "problem", "problems"),
    };
    let also = also_repaired(pass)
        .map(|done| format!("; repaired: {done}"))
        .unwrap_or_default();
    let place = place(pass, &drops)
        .map(|place| format!(" · {place}"))
        .unwrap_or_default();
    format!("{was}{place}{also}")
}

/// Names a single drop by its coupon and IDs, or returns how many drops there are. Returns `None`
/// without a drop.
fn place(pass: &PassMail<'_>, drops: &BTreeSet<DropId>) -> Option<String> {
    let first = drops.first()?;
    if drops.len() > 1 {
        let coupons: BTreeSet<_> = drops.iter().map(|drop| pass.coupon_of(*drop)).collect();
        let coupons = if coupons.len() == 1 {
            coupons
                .first()
                .map(|(_, name)| wording::line(name, NAME))
                .unwrap_or_default()
        } else {
            wording::count(coupons.len(), "coupon", "coupons")
        };
        return Some(format!("{} drops of {coupons}", drops.len()));
    }
    let report = pass.report(*first);
    let (_, name) = pass.coupon_of(*first);
    let name = wording::line(&name, NAME);
    Some(match report {
        None => format!("{name} · drop {first}"),
        Some(report) if is_held_up(report) && is_shut(report) => format!("{name} · claims get 503"),
        Some(report) => format!("{name} · {}", issued(report)),
    })
}

/// Whether the pass left the drop unchanged, so that admission still sees the reported counts.
fn is_held_up(report: &DropReport) -> bool {
    report
        .findings
        .iter()
        .any(|finding| matches!(finding.result, Outcome::Planned | Outcome::Failed))
}
