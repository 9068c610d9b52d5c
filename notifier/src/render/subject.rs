//! The subject, which says it all.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;

use super::pass::{Pass, issued};
use crate::alerts::{About, Notice, NoticeReason};
use crate::report::ActionKind;
use crate::{clean, wording};

/// Longest name of a coupon in a subject, in characters.
const NAME: usize = 60;

/// The word for the outbox, and the subject after `[firstcome] `.
pub(super) fn subject(pass: &Pass<'_>) -> (&'static str, String) {
    let verdict = pass.verdict;
    if !verdict.problems.is_empty() {
        return ("action", format!("action needed: {}", problems(pass)));
    }
    // That a person needs to do nothing any more is worth more than what was done for it.
    if !verdict.resolved.is_empty() {
        return ("resolved", format!("resolved: {}", resolved(pass)));
    }
    if !(verdict.repaired.is_empty() && verdict.earlier.is_empty()) {
        return ("repaired", format!("repaired: {}", repaired(pass)));
    }
    let drops: BTreeSet<DropId> = verdict.information.iter().filter_map(|notice| notice.observation.drop_id).collect();
    let what = place(pass, &drops).unwrap_or_default();
    ("information", format!("closed below its quantity: {what}"))
}

fn problems(pass: &Pass<'_>) -> String {
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
            format!("{}{and_more}{again}{also}", clean::line(&notice.observation.summary, 90))
        }
        (None, Some(notice), Some(place)) => {
            // The problem first: a lock screen shows the beginning.
            format!("{}{and_more}{again} · {place}{also}", clean::line(&notice.observation.summary, 60))
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

fn repaired(pass: &Pass<'_>) -> String {
    let verdict = pass.verdict;
    let drops = verdict.earlier.iter().map(|earlier| earlier.drop_id);
    let drops: BTreeSet<DropId> = drops.chain(verdict.repaired.iter().copied()).flatten().collect();
    let what = [also_repaired(pass), pass.earlier()].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let is_rebuilt = pass.repairs().iter().any(|(_, finding)| finding.action == ActionKind::Rebuild);
    let problem = if is_rebuilt { "Redis lacked data · " } else { "" };
    place(pass, &drops).map_or_else(|| what.clone(), |place| format!("{problem}{place} ({what})"))
}

/// What was repaired beside what the subject is about.
fn also_repaired(pass: &Pass<'_>) -> Option<String> {
    let done = wording::done(pass.repairs().into_iter().map(|(_, finding)| finding));
    (!done.is_empty()).then_some(done)
}

fn resolved(pass: &Pass<'_>) -> String {
    let resolved = &pass.verdict.resolved;
    let drops = resolved.iter().filter_map(|alert| alert.drop_id);
    let drops: BTreeSet<DropId> = drops.chain(pass.verdict.repaired.iter().copied().flatten()).collect();
    let was = match resolved.as_slice() {
        [one] => clean::line(&one.summary, 80),
        many => wording::count(many.len(), "problem", "problems"),
    };
    let also = also_repaired(pass).map(|done| format!("; repaired: {done}")).unwrap_or_default();
    let place = place(pass, &drops).map(|place| format!(" · {place}")).unwrap_or_default();
    format!("{was}{place}{also}")
}

/// One drop by its name and numbers, several by how many. `None` for no drop.
fn place(pass: &Pass<'_>, drops: &BTreeSet<DropId>) -> Option<String> {
    let first = drops.first()?;
    if drops.len() > 1 {
        let coupons: BTreeSet<_> = drops.iter().map(|drop| pass.coupon_of(*drop)).collect();
        let coupons = if coupons.len() == 1 {
            coupons.first().map(|(_, name)| clean::line(name, NAME)).unwrap_or_default()
        } else {
            wording::count(coupons.len(), "coupon", "coupons")
        };
        return Some(format!("{} drops of {coupons}", drops.len()));
    }
    let report = pass.report(*first);
    let (_, name) = pass.coupon_of(*first);
    let name = clean::line(&name, NAME);
    Some(report.map_or_else(|| format!("{name} · drop {first}"), |report| format!("{name} · {}", issued(report))))
}
