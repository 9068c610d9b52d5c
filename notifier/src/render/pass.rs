//! The digest of one pass.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::advice::advice;
use super::letter::{Block, Letter, Rendered, Section, Tone};
use super::lines::{done, lines, numbers, open_line};
use super::links::Links;
use super::subject::{duration, subject};
use crate::alerts::{About, Alert, Observation, Say, Told, Verdict, is_repair};
use crate::report::{DropReport, Finding, Run};
use crate::{clean, wording};

/// Drops with a section of their own.
const DROPS: usize = 20;

/// Everything a digest says.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    pub run: &'a Run,
    /// What of it is told.
    pub verdict: &'a Verdict,
    /// Alerts' numbers by fingerprint.
    pub ids: &'a HashMap<String, i64>,
    pub links: &'a Links,
    /// The time of mailing.
    pub now: DateTime<Utc>,
}

/// The digest of a pass that says something.
pub fn pass(pass: &Pass<'_>) -> anyhow::Result<Rendered> {
    let (kind, subject) = subject(pass);
    let tone = match kind {
        "action" => Tone::Bad,
        "information" => Tone::Plain,
        _ => Tone::Good,
    };
    let people = everyone(pass);
    let told = drops_told(pass);
    let mut sections = Vec::new();
    let general = general(pass, &people);
    if !general.is_empty() {
        sections.push(Section { title: String::new(), blocks: general });
    }
    sections.extend(told.iter().take(DROPS).map(|drop| drop_section(pass, *drop, &people)));
    sections.push(closing(pass, told.len()));
    Letter { kind, tone, subject, lead: lead(pass), sections, footer: footer(pass.run) }.render()
}

impl Pass<'_> {
    /// The coupon of a drop and its name, as far as the run knows it.
    pub(super) fn coupon_of(&self, drop: DropId) -> (Option<CouponId>, String) {
        let report = self.run.drops.iter().find(|report| report.drop_id == drop);
        let coupon = report.map(|report| report.coupon_id).or_else(|| {
            let told = self.told_of(Some(drop)).next().and_then(|told| told.observation.coupon_id);
            let over = self.verdict.resolved.iter().find(|alert| alert.drop_id == Some(drop));
            told.or_else(|| over.and_then(|alert| alert.coupon_id))
        });
        let name = report.map(|report| clean::line(&report.coupon_name, 100)).filter(|name| !name.is_empty());
        let named = || coupon.map_or_else(|| "a coupon".to_owned(), |id| format!("coupon {id}"));
        (coupon, name.unwrap_or_else(named))
    }

    /// The repairs that are told.
    pub(super) fn repairs(&self) -> Vec<&Finding> {
        let told = |drop: Option<DropId>| self.verdict.repaired.contains(&drop);
        let of_drops = self.run.drops.iter().filter(|drop| told(Some(drop.drop_id))).flat_map(|drop| &drop.findings);
        let loose = self.run.findings.iter().filter(|_| told(None));
        loose.chain(of_drops).filter(|finding| is_repair(finding)).collect()
    }

    /// Repairs of earlier passes, all together.
    pub(super) fn earlier(&self) -> Option<String> {
        let since = self.verdict.earlier.iter().map(|earlier| earlier.since).min()?;
        let repairs: u64 = self.verdict.earlier.iter().map(|earlier| earlier.repairs).sum();
        let repairs = wording::count(usize::try_from(repairs).unwrap_or(usize::MAX), "repair", "repairs");
        Some(format!("{repairs} in earlier passes since {}", since.format("%H:%M UTC")))
    }

    fn told_of(&self, drop: Option<DropId>) -> impl Iterator<Item = &Told> {
        let all = self.verdict.problems.iter().chain(&self.verdict.information);
        all.filter(move |told| told.observation.drop_id == drop)
    }
}

/// Every id that must not stand in full in any detail.
fn everyone<'a>(pass: &'a Pass<'_>) -> HashSet<&'a str> {
    let told = pass.verdict.problems.iter().flat_map(|told| &told.observation.findings);
    pass.run.all_findings().chain(told).filter_map(|finding| finding.user_id.as_deref()).collect()
}

/// Drops with something to tell: those with problems first, those where all is over last.
fn drops_told(pass: &Pass<'_>) -> Vec<DropId> {
    let problems = pass.verdict.problems.iter().filter_map(|told| told.observation.drop_id);
    let rest = pass.verdict.repaired.iter().copied().flatten();
    let rest = rest.chain(pass.verdict.information.iter().filter_map(|told| told.observation.drop_id));
    let rest = rest.chain(pass.verdict.earlier.iter().filter_map(|earlier| earlier.drop_id));
    let rest = rest.chain(pass.verdict.resolved.iter().filter_map(|alert| alert.drop_id));
    let mut seen = BTreeSet::new();
    problems.chain(rest).filter(|drop| seen.insert(*drop)).collect()
}

/// What happened, most pressing first.
fn lead(pass: &Pass<'_>) -> String {
    let verdict = pass.verdict;
    let mut parts = Vec::new();
    match verdict.problems.as_slice() {
        [] => {}
        [one] => parts.push(format!("A person is needed: {}.", at_place(pass, one))),
        many => {
            let first = many.iter().take(2).map(|told| at_place(pass, told)).collect::<Vec<_>>().join("; ");
            let more = if many.len() > 2 { format!("; {} more", many.len() - 2) } else { String::new() };
            parts.push(format!("A person is needed for {} things: {first}{more}.", many.len()));
        }
    }
    let repairs = pass.repairs();
    if !repairs.is_empty() {
        parts.push(format!("Repaired by itself: {}.", wording::done(repairs)));
    }
    parts.extend(pass.earlier().map(|earlier| format!("Not told before: {earlier}.")));
    match verdict.resolved.as_slice() {
        [] => {}
        [one] => parts.push(format!("Over: {}.", clean::line(&one.summary, clean::LONGEST))),
        many => parts.push(format!("{} earlier alerts are over.", many.len())),
    }
    if let Some(told) = verdict.information.first().filter(|_| parts.is_empty()) {
        parts.push(format!("For your information: {}. Nothing is to be done.", at_place(pass, told)));
    }
    parts.join(" ")
}

fn at_place(pass: &Pass<'_>, told: &Told) -> String {
    let summary = clean::line(&told.observation.summary, clean::LONGEST);
    let summary = summary.trim_end_matches('.');
    told.observation.drop_id.map_or_else(|| summary.to_owned(), |drop| format!("{}, {summary}", pass.coupon_of(drop).1))
}

/// What is of no drop.
fn general(pass: &Pass<'_>, people: &HashSet<&str>) -> Vec<Block> {
    let mut blocks = problems(pass, None, people);
    blocks.extend(over(pass, None));
    if pass.verdict.repaired.contains(&None) {
        let loose = pass.run.findings.iter().filter(|f| is_repair(f));
        blocks.extend(done(loose, people));
    }
    blocks
}

fn drop_section(pass: &Pass<'_>, drop: DropId, people: &HashSet<&str>) -> Section {
    let (coupon, name) = pass.coupon_of(drop);
    let coupon = coupon.map(|id| format!("coupon {id}, ")).unwrap_or_default();
    let mut blocks = Vec::new();
    let report = pass.run.drops.iter().find(|report| report.drop_id == drop);
    if let Some(report) = report {
        blocks.push(Block::Paragraph(state_of(pass, report)));
    }
    let earlier = pass.verdict.earlier.iter().find(|earlier| earlier.drop_id == Some(drop));
    blocks.extend(earlier.map(|earlier| {
        let repairs = wording::count(usize::try_from(earlier.repairs).unwrap_or(usize::MAX), "repair", "repairs");
        let below = if pass.verdict.repaired.contains(&Some(drop)) { ", beside those below" } else { "" };
        Block::Paragraph(format!(
            "Repairs came with pass after pass, so they are told together: {repairs} in earlier passes since {}{below}. GET /v1/runs has them all. Something makes this happen again and again; see what.",
            time(earlier.since)
        ))
    }));
    blocks.extend(problems(pass, Some(drop), people));
    blocks.extend(over(pass, Some(drop)));
    if let Some(report) = report.filter(|_| pass.verdict.repaired.contains(&Some(drop))) {
        blocks.extend(done(report.findings.iter().filter(|f| is_repair(f)), people));
    }
    // What happened and what to do come first; on a telephone the numbers alone fill the screen.
    blocks.extend(report.map(|report| Block::Table(numbers(&report.before, &report.after))));
    Section { title: format!("{name} ({coupon}drop {drop})"), blocks }
}

fn state_of(pass: &Pass<'_>, report: &DropReport) -> String {
    let (rows, quantity) = (report.after.rows, u64::from(report.quantity));
    // "Exact" beside something to do would contradict it.
    let problem = pass.verdict.problems.iter().find(|told| told.observation.drop_id == Some(report.drop_id));
    if let Some(told) = problem {
        let problem = clean::line(&told.observation.summary, clean::LONGEST);
        return format!(
            "{} of {} issued; {}.",
            wording::grouped(rows),
            wording::grouped(quantity),
            problem.trim_end_matches('.')
        );
    }
    let exact = match (report.exact, rows == quantity) {
        (true, true) => "exact",
        (true, false) => "every promise has its row",
        (false, _) => "not exact yet",
    };
    format!("{} of {} issued: {exact}.", wording::grouped(rows), wording::grouped(quantity))
}

fn problems(pass: &Pass<'_>, drop: Option<DropId>, people: &HashSet<&str>) -> Vec<Block> {
    let told: Vec<&Told> = pass.told_of(drop).collect();
    let mut blocks: Vec<Block> = told.iter().flat_map(|told| problem(pass, told, people)).collect();
    // Silence is the whole drop's: once is enough.
    let of_drop = told.iter().filter(|_| drop.is_some()).find_map(|told| id(pass, told));
    blocks.extend(of_drop.map(|id| pass.links.silence(id, pass.now)));
    blocks
}

fn id(pass: &Pass<'_>, told: &Told) -> Option<i64> {
    let is_problem = told.observation.about != About::ClosedBelowQuantity;
    pass.ids.get(&told.observation.fingerprint).copied().filter(|_| is_problem)
}

/// One problem: what it is, whom it concerns, what to do.
fn problem(pass: &Pass<'_>, told: &Told, people: &HashSet<&str>) -> Vec<Block> {
    let seen = &told.observation;
    let ago = duration(pass.now - told.since);
    let how = match told.say {
        Say::New => String::new(),
        Say::Changed => format!(" (changed; first seen {ago} ago)"),
        Say::Repeat => format!(" (still there after {ago})"),
    };
    let label = if seen.about == About::ClosedBelowQuantity { "For information" } else { "To do" };
    let mut blocks = vec![Block::Heading(format!("{label}: {}{how}", clean::line(&seen.summary, clean::LONGEST)))];
    if lists_people(seen) {
        let findings: Vec<&Finding> = seen.findings.iter().collect();
        blocks.push(Block::List(lines(&findings, people, &open_line)));
    }
    blocks.extend(advice(seen.about, seen.coupon_id, id(pass, told), pass.links));
    blocks
}

/// What is over, as one list.
fn over(pass: &Pass<'_>, drop: Option<DropId>) -> Vec<Block> {
    let over = |alert: &Alert| {
        let lasted = duration(alert.resolved_at.unwrap_or(pass.now) - alert.first_seen_at);
        format!("{} (it lasted {lasted})", clean::line(&alert.summary, clean::LONGEST))
    };
    let lines: Vec<String> = pass.verdict.resolved.iter().filter(|alert| alert.drop_id == drop).map(over).collect();
    if lines.is_empty() {
        return Vec::new();
    }
    vec![Block::Heading("Over".to_owned()), Block::List(lines)]
}

/// Whether the summary alone does not say it all.
fn lists_people(seen: &Observation) -> bool {
    !matches!(seen.about, About::RunFailed | About::Stalled | About::ClosedBelowQuantity) || seen.findings.len() > 1
}

fn closing(pass: &Pass<'_>, drops: usize) -> Section {
    let mut blocks = Vec::new();
    if drops > DROPS {
        blocks.push(Block::Paragraph(format!("{} more drops are in the run.", drops - DROPS)));
    }
    blocks.push(pass.links.run(&pass.run.run_id));
    Section { title: "This pass".to_owned(), blocks }
}

fn footer(run: &Run) -> Vec<String> {
    let examined = run.drops.iter().fold([0; 3], |[users, rows, failed], drop| {
        [users + drop.examined.users, rows + drop.examined.rows, failed + drop.examined.failed_claims]
    });
    let [users, rows, failed] = examined.map(wording::grouped);
    let took = run.finished_at.map(|end| format!(", took {:.1} s", (end - run.started_at).as_seconds_f64()));
    vec![
        format!(
            "Run {} · {} · started {}{}",
            clean::line(&run.run_id, 64),
            run.trigger.as_str(),
            time(run.started_at),
            took.unwrap_or_default()
        ),
        format!(
            "Looked at {}: {users} people in Redis, {rows} rows, {failed} failed claims.",
            wording::count(run.drops.len(), "drop", "drops")
        ),
    ]
}

/// An instant as mails tell it.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
