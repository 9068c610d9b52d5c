//! The first sentences of a mail about a pass: what happened, most pressing first.

use super::pass::{Pass, issued};
use super::subject::duration;
use crate::alerts::{About, Notice, NoticeReason};
use crate::report::{ActionKind, Kind};
use crate::{clean, wording};

/// What happened: the most pressing first, which is the title, then the rest.
pub(super) fn lead(pass: &Pass<'_>) -> (String, String) {
    let verdict = pass.verdict;
    let mut parts = Vec::new();
    if let [first, rest @ ..] = verdict.problems.as_slice() {
        parts.push(sentences(pass, first));
        if !rest.is_empty() {
            parts.push(format!("{} below.", wording::count(rest.len(), "more problem is", "more problems are")));
        }
    }
    parts.extend(repaired(pass));
    match verdict.resolved.as_slice() {
        [] => {}
        [one] => {
            let lasted = duration(one.resolved_at.unwrap_or(pass.now) - one.first_seen_at);
            parts.push(format!("Resolved after {lasted}: {}.", clean::line(&one.summary, clean::LONGEST)));
        }
        many => parts.push(format!("{} earlier problems are resolved.", many.len())),
    }
    if let Some(notice) = verdict.information.first().filter(|_| parts.is_empty()) {
        parts.push(sentences(pass, notice));
    }
    if verdict.problems.is_empty() {
        parts.extend(state(pass));
        let todo =
            if verdict.earlier.is_empty() { "Nothing is to be done." } else { "Please look for what causes them." };
        parts.push(todo.to_owned());
    }
    let title = parts.remove(0);
    (title, parts.join(" "))
}

fn repaired(pass: &Pass<'_>) -> Vec<String> {
    let repairs = pass.repairs();
    let earlier = pass.earlier().map(|earlier| format!("Before that: {earlier}."));
    if repairs.is_empty() {
        return earlier.into_iter().collect();
    }
    let with = |action| repairs.iter().filter(|(_, finding)| finding.action == action).count();
    let mut parts = Vec::new();
    let rebuilt = with(ActionKind::Rebuild);
    if rebuilt > 0 {
        let drops = wording::count(rebuilt, "drop, which was", "drops, which were");
        parts.push(format!("Redis lacked {drops} rebuilt from MySQL and Kafka."));
        parts.push("Waiting lists are lost: people who waited must claim again.".to_owned());
    }
    parts.push(format!("Repaired by itself: {}.", wording::done(repairs.iter().map(|(_, finding)| *finding))));
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
fn state(pass: &Pass<'_>) -> Option<String> {
    let [drop] = pass.drops()[..] else { return None };
    let report = pass.report(drop)?;
    let exact = match (report.exact, report.after.rows == u64::from(report.quantity)) {
        (true, true) => ", exact",
        (true, false) => ", every promise has its row",
        (false, _) => ", not exact yet",
    };
    Some(format!("{}: {}{exact}.", pass.coupon_of(drop).1, issued(report)))
}

/// One problem as two sentences: what is wrong, and what that means for people.
fn sentences(pass: &Pass<'_>, notice: &Notice) -> String {
    let seen = &notice.observation;
    let n = seen.findings.len();
    let name = seen.drop_id.map(|drop| pass.coupon_of(drop).1);
    let of = name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let summary = clean::line(&seen.summary, clean::LONGEST);
    let summary = summary.trim_end_matches('.');
    let what = match seen.about {
        About::RunFailed => {
            format!("{}. Nothing is lost: the next pass examines everything again.", wording::capital(summary))
        }
        About::Stalled => format!("{}. Nothing is lost, but rows come late.", wording::capital(summary)),
        About::Braked => {
            let found = wording::count(n, "repair was found in one pass", "repairs were found in one pass");
            format!("{found}{}, more than the repair limit allows. To be safe, none was made.", over(name.as_deref()))
        }
        About::BrokenPromise => {
            let people =
                wording::count(n, "person was told yes and has no coupon", "people were told yes and have no coupon");
            let name = name.map(|name| format!(": {name}")).unwrap_or_default();
            format!("{people}{name}. They are first on its waiting list.")
        }
        About::Left(Kind::FailedClaim) => {
            let claims = wording::count(n, "failed claim", "failed claims");
            format!("{claims}{of} could not be repaired. A person must decide.")
        }
        About::Left(Kind::RedisLost) => format!("Redis lost data and could not be verified: {summary}."),
        About::Left(kind) => format!("{}{of} could not be repaired.", wording::things(kind, n)),
        About::ClosedBelowQuantity => {
            return format!("{} {summary}.", name.unwrap_or_else(|| "A coupon".to_owned()));
        }
    };
    match notice.reason {
        NoticeReason::New => what,
        NoticeReason::Changed => format!("Changed, first seen {} ago: {what}", duration(pass.now - notice.since)),
        NoticeReason::Repeat => format!("Still there after {}: {what}", duration(pass.now - notice.since)),
    }
}

fn over(name: Option<&str>) -> String {
    name.map(|name| format!(" over {name}")).unwrap_or_default()
}

/// A problem as one line, with for how long it is there.
pub(super) fn summary(pass: &Pass<'_>, notice: &Notice) -> String {
    let ago = duration(pass.now - notice.since);
    let how = match notice.reason {
        NoticeReason::New => String::new(),
        NoticeReason::Changed => format!(" (changed; first seen {ago} ago)"),
        NoticeReason::Repeat => format!(" (still there after {ago})"),
    };
    format!("{}{how}", clean::line(&notice.observation.summary, clean::LONGEST))
}
