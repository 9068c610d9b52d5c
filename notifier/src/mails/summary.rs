//! The content of a mail about a pass or an outage: its subject, what is wrong and for how many,
//! what is over, and what was repaired.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::RepairsRow;
use firstcome_shared::subject::Subject;

use super::headline::{Headline, would_lose};
use super::input::{AlertMail, NamedDrop};
use super::problem::{EndedAlert, ProblemNotice};
use super::reasons::{Listed, Placed, reasons};
use super::section::Section;
use super::{bounded, by_kind, duration};
use crate::decide::Reason;
use crate::levels::mailed_repairs;
use crate::report::{AlertKind, DropReport, Kind, Status};
use crate::wording::{self, LONGEST, count, line};

/// Maximum number of problems that are described in full.
const PROBLEMS: usize = 4;

/// Maximum number of lines in a list.
pub(super) const LINES: usize = 10;

/// Maximum length of a coupon's name in a subject, in characters.
const NAME: usize = 60;

/// What a mail says, computed once.
pub(super) struct PassSummary<'a> {
    pub(super) mail: &'a AlertMail<'a>,
    /// The drops of the mail, those with problems first.
    pub(super) drops: &'a [NamedDrop<'a>],
    pub(super) sections: Vec<Section<'a>>,
    /// The titles of the other problems.
    pub(super) more: Vec<String>,
    /// A line for each alert that is over. The mail lists them if they are several.
    pub(super) over: Vec<String>,
    /// What this pass repaired.
    pub(super) repaired: Vec<String>,
    /// What this pass repaired, and what earlier ones did, in a few words each.
    pub(super) done: String,
    /// Repairs of earlier passes, by run.
    pub(super) earlier_repairs: Vec<&'a [RepairsRow]>,
    /// What else is wrong because of a problem of the mail.
    pub(super) explained: Vec<String>,
    /// The names of the coupons of whose drops Redis lost data.
    pub(super) lost: Vec<&'a str>,
    /// When Redis may have come back with older data, as far as these repairs tell.
    pub(super) older_since: Option<DateTime<Utc>>,
    /// Whether all reported drops are exact after their repairs: only then nothing needs to be
    /// done.
    pub(super) is_compared: bool,
}

impl<'a> PassSummary<'a> {
    pub(super) fn new(mail: &'a AlertMail<'a>, drops: &'a [NamedDrop<'a>]) -> Self {
        let id = mail.run.map_or("", |run| run.run_id.as_str());
        let by_run = mail.repairs.chunk_by(|a, b| a.run_id == b.run_id);
        let (own, earlier_repairs): (Vec<_>, Vec<_>) =
            by_run.partition(|rows| rows[0].run_id == id);
        let run = mail.run.filter(|_| !own.is_empty());
        let repaired: Vec<Placed<'_>> = run
            .map(|run| mailed_repairs(run).collect())
            .unwrap_or_default();
        let mut done = vec![wording::done(repaired.iter().map(|(_, finding)| *finding))];
        if let [[first, ..], ..] = earlier_repairs.as_slice() {
            let kinds = by_kind(earlier_repairs.iter().copied().flatten());
            let since = first.repaired_at.format("%H:%M UTC");
            done.push(format!("{kinds} in earlier passes since {since}"));
        }
        let mut summary = Self {
            mail,
            drops,
            sections: Vec::new(),
            more: Vec::new(),
            over: Vec::new(),
            repaired: reasons(&repaired, Listed::Repaired),
            done: joined(done, "; "),
            earlier_repairs,
            explained: bounded(mail.explained.clone(), LINES),
            lost: mail.coupons_of(drops, |row| row.kind == Kind::RedisLost.as_str()),
            older_since: mail.older_since,
            is_compared: drops
                .iter()
                .filter_map(|drop| drop.report)
                .all(|report: &DropReport| report.exact),
        };
        let first = mail.problems.iter().take(PROBLEMS);
        summary.sections = first.map(|it| summary.section(it)).collect();
        let more = mail.problems.iter().skip(PROBLEMS);
        summary.more = bounded(more.map(|it| summary.title(it)).collect(), LINES);
        let over = mail
            .resolved
            .iter()
            .map(|it| match summary.drop(it.drop_id) {
                Some(drop) => format!("{}: {}", drop.name, summary.over(it)),
                None => summary.over(it),
            });
        summary.over = bounded(over.collect(), LINES);
        summary
    }

    fn drop(&self, id: Option<DropId>) -> Option<&'a NamedDrop<'a>> {
        self.drops.iter().find(|drop| Some(drop.id) == id)
    }

    fn section(&self, notice: &'a ProblemNotice) -> Section<'a> {
        let problem = &notice.problem;
        let findings: Vec<Placed<'_>> = problem
            .findings
            .iter()
            .filter(|_| problem.headline() != Headline::Sentence)
            .map(|it| (problem.drop_id, it))
            .collect();
        let listed = match self.mail.links.campaign(problem.coupon_id) {
            Some(campaign) if !campaign.is_repaired => Listed::Observed,
            Some(_) | None => Listed::Open,
        };
        Section {
            problem,
            title: self.title(notice),
            facts: self.mail.facts(problem, self.drop(problem.drop_id)),
            drop: self.drop(problem.drop_id),
            alert: self.mail.ids.get(&problem.name).copied(),
            why: reasons(&findings, listed),
        }
    }

    /// Names the coupons of these repairs, if the mail has repairs of several coupons.
    pub(super) fn of_coupons(&self, rows: &[RepairsRow]) -> String {
        let of_rows = self.mail.coupons_of(self.drops, |row| rows.contains(row));
        let all = self.mail.coupons_of(self.drops, |_| true);
        if all.len() > 1 {
            of_coupons(&of_rows)
        } else {
            String::new()
        }
    }

    pub(super) fn repaired_how(&self) -> &'static str {
        if self.mail.is_confirmed {
            "Repaired after a confirmation"
        } else {
            "Repaired by itself"
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        let run = self.mail.run;
        run.is_some_and(|run| run.status == Status::Failed)
    }

    /// Whether what is over was not repaired: no pass compares it any more.
    pub(super) fn is_left_out(&self) -> bool {
        self.mail.resolved.iter().any(|ended| ended.given_up)
    }

    /// The subject without its prefix. The problem comes first, since a lock screen shows only the
    /// beginning.
    pub(super) fn subject(&self) -> String {
        let place = self.place();
        let repaired = self.done.clone();
        let (what, repaired) = match (self.mail.problems, self.mail.resolved) {
            ([], []) if !self.lost.is_empty() => ("Redis lost data".to_owned(), repaired),
            ([], []) if self.older_since.is_some() => {
                let older = "Redis may have come back with older data";
                (older.to_owned(), repaired)
            }
            ([], []) => (String::new(), repaired),
            ([], _) if !self.lost.is_empty() => {
                let over = self.news(&place);
                (
                    format!("Redis lost data, and is written again; over: {over}"),
                    String::new(),
                )
            }
            (_, _) if repaired.is_empty() => (self.news(&place), repaired),
            (_, _) => (self.news(&place), format!("repaired: {repaired}")),
        };
        joined(vec![what, place, repaired], " · ")
    }

    /// What is wrong or over, for a subject.
    fn news(&self, place: &str) -> String {
        match (self.mail.problems, self.mail.resolved) {
            ([first, rest @ ..], _) => {
                let longest = if place.is_empty() { 2 * NAME } else { NAME };
                let mut what = line(&first.problem.summary, longest);
                if !rest.is_empty() {
                    what = format!("{what}, {} more", rest.len());
                }
                if first.reason == Reason::Repeat || first.problem.kind.is_outage() {
                    what = format!("{what} (for {})", self.age(first));
                }
                what
            }
            ([], [one]) => line(&was(one), 80),
            ([], many) => count(many.len() as u64, "problem", "problems"),
        }
    }

    /// Names a single drop with its counts, or says how many drops there are.
    fn place(&self) -> String {
        match self.drops {
            [] => String::new(),
            [one] => joined(vec![line(&one.name, NAME), one.issued()], " · "),
            many => {
                let names: BTreeSet<&str> = many.iter().map(|drop| drop.name.as_str()).collect();
                let coupons = match names.first() {
                    Some(one) if names.len() == 1 => line(one, NAME),
                    _ => count(names.len() as u64, "coupon", "coupons"),
                };
                format!("{} drops of {coupons}", many.len())
            }
        }
    }

    fn age(&self, notice: &ProblemNotice) -> String {
        duration(self.mail.now - notice.since)
    }

    /// What is wrong, in one sentence.
    fn title(&self, notice: &ProblemNotice) -> String {
        let problem = &notice.problem;
        let name = self.drop(problem.drop_id).map(|drop| drop.name.as_str());
        let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
        let first_line = line(&problem.summary, LONGEST);
        let summary = first_line.trim_end_matches('.');
        let [one, many] = problem.kind.facts().noun;
        let things = count(problem.size, one, many);
        let lasts = self.age(notice);
        let what = match problem.headline() {
            Headline::Outage => return format!("{} (for {lasts}).", wording::capital(summary)),
            Headline::Sentence => match name {
                Some(name) => format!("{name}: {summary}."),
                None => format!("{}.", wording::capital(summary)),
            },
            Headline::HeldBack(users) => match name {
                Some(name) => format!("{} ({name}).", would_lose(users)),
                None => format!("{}.", would_lose(users)),
            },
            Headline::Number => format!("{things}{of}."),
            Headline::Forged => {
                "Messages without our signature are on the topic: somebody else writes to it."
                    .to_owned()
            }
            Headline::NotRepaired | Headline::Example => match self.mail.links.subject() {
                Subject::Drop => format!("{things}{of} could not be repaired."),
                // Most are only reported: nothing has tried to repair them.
                Subject::Campaign => format!("{things}{of}: not repaired."),
            },
        };
        match notice.reason {
            Reason::New => what,
            Reason::Changed => format!("Changed, first seen {lasts} ago: {what}"),
            Reason::Repeat | Reason::Over => format!("Still there after {lasts}: {what}"),
        }
    }

    /// What was wrong and for how long, and what became of the users of broken promises.
    pub(super) fn over(&self, alert: &EndedAlert) -> String {
        let lasted = duration(alert.ended_at - alert.began_at);
        let text = format!("Over after {lasted}: {}.", line(&was(alert), LONGEST));
        let is_promise = alert.kind == Kind::BrokenPromise.as_str();
        let drop = alert.drop_id.filter(|_| is_promise);
        let Some([kept, told]) = drop.and_then(|drop| self.mail.fates.get(&drop)) else {
            return text;
        };
        let kept = count(*kept, "user has a coupon now", "users have a coupon now");
        let [one, many] =
            ["was", "were"].map(|were| format!("{were} told that there is none, or revoked"));
        let told = Some(told)
            .filter(|told| **told > 0)
            .map(|told| format!(", {}", count(*told, &one, &many)))
            .unwrap_or_default();
        format!("{text} {kept}{told}.")
    }
}

/// Names these coupons in a sentence, two at most.
pub(super) fn of_coupons(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => format!(" of {}", line(one, NAME)),
        [one, other] => format!(" of {} and {}", line(one, NAME), line(other, NAME)),
        [one, rest @ ..] => format!(" of {} and {} more coupons", line(one, NAME), rest.len()),
    }
}

fn joined(mut parts: Vec<String>, separator: &str) -> String {
    parts.retain(|part| !part.is_empty());
    parts.join(separator)
}

/// What an alert was about: an outage is named by its store.
pub(crate) fn was(alert: &EndedAlert) -> String {
    let what = match AlertKind::from_word(&alert.kind) {
        Some(kind) if kind.is_outage() => kind.facts().noun[0].to_owned(),
        // Its sentence says how many wait, which is not so any more.
        Some(kind @ (AlertKind::ConsumerStands | AlertKind::TheirsQueue)) => {
            kind.facts().noun[0].to_owned()
        }
        Some(_) | None => alert.summary.clone(),
    };
    if alert.given_up {
        format!("{what} (not repaired, no longer compared)")
    } else {
        what
    }
}
