//! Prepares the content of a mail about a pass: groups findings by reason, so that a thousand
//! similar ones take one line, and builds the tables of counts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::letter::{Links, Table, TableRow};
use crate::alerts::{self, AlertVerdict, is_repair, number};
use crate::report::{ActionKind, DropReport, Finding, Numbers, Outcome, Run};
use crate::wording;

/// Maximum number of lines in a list. The run contains the others.
const LINES: usize = 8;

/// Maximum number of users named in one line.
const PEOPLE: usize = 5;

/// Maximum number of coupons and drops named in one line.
const PLACES: usize = 5;

/// Maximum number of ranges of slots named in one line.
const STRETCHES: usize = 10;

/// Findings with the same reason, each with its detail.
type ReasonGroup<'a> = [(String, Placed<'a>)];

/// A finding and the drop whose report contains it.
pub(super) type Placed<'a> = (Option<DropId>, &'a Finding);

/// The input of a mail about a pass.
#[derive(Debug, Clone, Copy)]
pub struct PassMail<'a> {
    pub run: &'a Run,
    /// The parts of the run that are mailed.
    pub verdict: &'a AlertVerdict,
    /// Alert IDs by fingerprint.
    pub ids: &'a HashMap<String, i64>,
    pub links: &'a Links,
    /// How long admission was closed before this run opened it, if known.
    pub closed_for: Option<TimeDelta>,
    /// The time of mailing.
    pub now: DateTime<Utc>,
}

impl<'a> PassMail<'a> {
    /// Returns the report of a drop, if this pass examined it.
    pub(crate) fn report(&self, drop: DropId) -> Option<&'a DropReport> {
        self.run.drops.iter().find(|report| report.drop_id == drop)
    }

    /// Returns the coupon of a drop and its name, if the run has them.
    pub(crate) fn coupon_of(&self, drop: DropId) -> (Option<CouponId>, String) {
        let report = self.report(drop);
        let coupon = report.map(|report| report.coupon_id).or_else(|| {
            let notice = self
                .verdict
                .problems
                .iter()
                .chain(&self.verdict.information);
            let notice = notice
                .map(|notice| &notice.observation)
                .find(|seen| seen.drop_id == Some(drop));
            let over = self
                .verdict
                .resolved
                .iter()
                .find(|alert| alert.drop_id == Some(drop));
            notice
                .and_then(|seen| seen.coupon_id)
                .or_else(|| over.and_then(|alert| alert.coupon_id))
        });
        let name = report
            .map(|report| wording::line(&report.coupon_name, 100))
            .filter(|name| !name.is_empty());
        let named = || coupon.map_or_else(|| "a coupon".to_owned(), |id| format!("coupon {id}"));
        (coupon, name.unwrap_or_else(named))
    }

    /// Returns the repairs that are mailed, with their drops.
    pub(crate) fn repairs(&self) -> Vec<Placed<'a>> {
        let is_mailed = |drop: Option<DropId>| self.verdict.repaired.contains(&drop);
        let of_drops = self
            .run
            .drops
            .iter()
            .filter(|drop| is_mailed(Some(drop.drop_id)));
        let of_drops = of_drops.flat_map(|drop| {
            drop.findings
                .iter()
                .map(|finding| (Some(drop.drop_id), finding))
        });
        // Mention the reopening of admission only together with the repairs made for it.
        let any = !self.verdict.repaired.is_empty();
        let of_none = self.run.findings.iter();
        let of_none =
            of_none.filter(|finding| is_mailed(None) || any && finding.action == ActionKind::Open);
        let of_none = of_none.map(|finding| (None, finding));
        of_none
            .chain(of_drops)
            .filter(|(_, finding)| is_repair(finding))
            .collect()
    }

    /// Returns the number of unmailed repairs of earlier passes.
    pub(super) fn earlier_repairs(&self) -> usize {
        let earlier = self.verdict.earlier.iter();
        earlier.map(|earlier| earlier.repairs as usize).sum()
    }

    /// Describes the repairs of earlier passes with their number and the time of the first.
    pub(super) fn earlier(&self) -> Option<String> {
        let since = self
            .verdict
            .earlier
            .iter()
            .map(|earlier| earlier.since)
            .min()?;
        let repairs = wording::count(self.earlier_repairs(), "repair", "repairs");
        Some(format!(
            "{repairs} in earlier passes since {}",
            since.format("%H:%M UTC")
        ))
    }

    /// Returns the drops in the mail, those with problems first.
    pub(super) fn drops(&self) -> Vec<DropId> {
        let verdict = self.verdict;
        let notice = verdict
            .problems
            .iter()
            .chain(&verdict.information)
            .filter_map(|notice| notice.observation.drop_id);
        let rest = notice.chain(verdict.repaired.iter().copied().flatten());
        let rest = rest.chain(verdict.earlier.iter().filter_map(|earlier| earlier.drop_id));
        let rest = rest.chain(verdict.resolved.iter().filter_map(|alert| alert.drop_id));
        let mut seen = BTreeSet::new();
        rest.filter(|drop| seen.insert(*drop)).collect()
    }

    /// Returns the name of a drop, such as "Winter coupon (coupon 1, drop 7)".
    pub(super) fn place(&self, drop: DropId) -> String {
        let (coupon, name) = self.coupon_of(drop);
        let coupon = coupon
            .map(|id| format!("coupon {id}, "))
            .unwrap_or_default();
        format!("{name} ({coupon}drop {drop})")
    }
}

pub(super) fn issued(report: &DropReport) -> String {
    if report.unconfirmed {
        return "not compared again".to_owned();
    }
    if !was_examined(report) {
        return "not examined".to_owned();
    }
    let rows = wording::grouped(report.after.rows);
    let quantity = wording::grouped(u64::from(report.quantity));
    format!("{rows} of {quantity} issued")
}

/// Whether claims get 503 because the drop's own counts, as last seen, are inconsistent.
pub(super) fn is_shut(report: &DropReport) -> bool {
    let held = i64::try_from(report.after.users + report.after.free).unwrap_or(i64::MAX);
    was_examined(report) && report.after.count != held
}

/// Whether the drop was examined. If foreign data in a store prevented that, the report has no
/// counts.
fn was_examined(report: &DropReport) -> bool {
    let examined = &report.examined;
    examined.users > 0
        || examined.rows > 0
        || !report
            .findings
            .iter()
            .any(|finding| finding.result == Outcome::Failed && finding.is_whole())
}

/// Groups findings into one line per label and reason, the largest group first. Reasons that differ
/// only in numbers form one group, and the numbers are shown as a range. Findings about a whole
/// coupon are listed individually, because an operator has to look at each.
pub(super) fn reasons(
    findings: &[Placed<'_>],
    label: impl Fn(&Finding) -> Option<String>,
) -> Vec<String> {
    // The key of a line is the label and the reason without its numbers.
    let mut keys: Vec<(Option<String>, String)> = Vec::new();
    let mut groups: Vec<Vec<(String, Placed<'_>)>> = Vec::new();
    for placed in findings {
        let detail = wording::line(&placed.1.detail, wording::LONGEST);
        let reason = if is_listed_alone(placed) {
            detail.clone()
        } else {
            wording::without_numbers(&detail)
        };
        let key = (label(placed.1), reason);
        let at = keys
            .iter()
            .position(|known| *known == key)
            .unwrap_or_else(|| {
                keys.push(key);
                groups.push(Vec::new());
                groups.len() - 1
            });
        groups[at].push((detail, *placed));
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let rest = groups.iter().skip(LINES).flatten();
    let rest = number(rest.map(|(_, (_, finding))| *finding));
    let mut lines: Vec<String> = groups
        .iter()
        .take(LINES)
        .map(|group| line(label(group[0].1.1).as_deref(), group))
        .collect();
    if rest > 0 {
        lines.push(format!(
            "and {} more: the command for the whole run, below, lists them",
            wording::grouped(rest as u64)
        ));
    }
    lines
}

fn is_listed_alone(placed: &Placed<'_>) -> bool {
    let (drop, finding) = placed;
    let is_of_coupon = drop.is_none()
        && finding.coupon_id.is_some()
        && finding.is_whole()
        && finding.dead_letter.is_none();
    is_of_coupon && finding.needs_person
}

/// Returns a label for the repair that was attempted or held back.
pub(super) fn open_label(finding: &Finding) -> Option<String> {
    (finding.action != ActionKind::Report).then(|| {
        format!(
            "{}, {}",
            finding.kind.as_str(),
            wording::words(finding.action).to_do
        )
    })
}

fn line(label: Option<&str>, group: &ReasonGroup<'_>) -> String {
    let many = if group.len() > 1 {
        format!("{} × ", wording::grouped(group.len() as u64))
    } else {
        String::new()
    };
    let details: Vec<&str> = group.iter().map(|(detail, _)| detail.as_str()).collect();
    let reason = Some(merged(&details)).filter(|reason| !reason.is_empty());
    let what = [label.map(str::to_owned), reason]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(": ");
    let whom = [places(group), slots(group), people(group)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" · ");
    if whom.is_empty() {
        format!("{many}{what}")
    } else {
        format!("{many}{what} ({whom})")
    }
}

/// Names the coupons and drops of findings that are in no drop's report.
fn places(group: &ReasonGroup<'_>) -> Option<String> {
    let loose = group.iter().filter(|(_, (drop, _))| drop.is_none());
    let places: BTreeMap<_, String> = loose
        .filter_map(|(_, (_, finding))| {
            let id = (finding.coupon_id, finding.drop_id);
            Some((id, alerts::place(finding)?))
        })
        .collect();
    let more = if places.len() > PLACES { ", …" } else { "" };
    let named: Vec<String> = places.into_values().take(PLACES).collect();
    (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
}

/// Describes the slots of a group: "slot 37", "slots 1–20, 25", or the number of drops if there are
/// several.
fn slots(group: &ReasonGroup<'_>) -> Option<String> {
    let drops: HashSet<Option<DropId>> = group.iter().map(|(_, (drop, _))| *drop).collect();
    if drops.len() > 1 {
        return Some(wording::count(drops.len(), "drop", "drops"));
    }
    let mut slots: Vec<i64> = group
        .iter()
        .filter_map(|(_, (_, finding))| finding.slot)
        .collect();
    slots.sort_unstable();
    slots.dedup();
    let stretches: Vec<&[i64]> = slots.chunk_by(|a, b| a + 1 == *b).collect();
    let mut named: Vec<String> = stretches
        .iter()
        .take(STRETCHES)
        .map(|stretch| match stretch {
            [first, .., last] => format!("{first}–{last}"),
            one => one.iter().map(ToString::to_string).collect(),
        })
        .collect();
    if stretches.len() > STRETCHES {
        named.push("…".to_owned());
    }
    match slots.len() {
        0 => None,
        1 => Some(format!("slot {}", named[0])),
        _ => Some(format!("slots {}", named.join(", "))),
    }
}

fn people(group: &ReasonGroup<'_>) -> Option<String> {
    let people: Vec<String> = group
        .iter()
        .filter_map(|(_, (_, finding))| finding.user_id.as_deref())
        .map(wording::person)
        .collect();
    (1..=PEOPLE)
        .contains(&people.len())
        .then(|| people.join(", "))
}

/// Merges texts that differ only in numbers. Numbers that differ become ranges.
fn merged(texts: &[&str]) -> String {
    let parts: Vec<Vec<&str>> = texts
        .iter()
        .map(|text| {
            text.as_bytes()
                .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
                .scan(0, |at, chunk| {
                    let from = *at;
                    *at += chunk.len();
                    text.get(from..*at)
                })
                .collect()
        })
        .collect();
    let Some(first) = parts.first() else {
        return String::new();
    };
    let part = |(at, text): (usize, &&str)| {
        let numbers: Option<Vec<u64>> = parts.iter().map(|all| all.get(at)?.parse().ok()).collect();
        match numbers
            .as_deref()
            .map(|numbers| (numbers.iter().min(), numbers.iter().max()))
        {
            Some((Some(least), Some(most))) if least != most => format!("{least}–{most}"),
            _ => (*text).to_owned(),
        }
    };
    first.iter().enumerate().map(part).collect()
}

/// Builds a table of the counts that a pass changed, or returns `None` if it changed none.
pub(super) fn changes(before: &Numbers, after: &Numbers) -> Option<Table> {
    let count = |n: i64| u64::try_from(n).map_or_else(|_| n.to_string(), wording::grouped);
    let lines = |numbers: &Numbers| {
        [
            ("Rows", wording::grouped(numbers.rows)),
            ("People holding a slot", wording::grouped(numbers.users)),
            ("Highest slot given out", count(numbers.count)),
            ("Failed claims", wording::grouped(numbers.failed_claims)),
            ("In flight", wording::grouped(numbers.in_flight)),
            ("Slots given back", wording::grouped(numbers.free)),
            ("People waiting", wording::grouped(numbers.waiting)),
        ]
    };
    let changed: Vec<TableRow> = lines(before)
        .into_iter()
        .zip(lines(after))
        .filter(|(before, after)| before != after)
        .map(|((what, before), (_, after))| cells([what, &before, &after]))
        .collect();
    (!changed.is_empty()).then(|| Table {
        head: ["", "before", "after"].map(str::to_owned).to_vec(),
        rows: changed,
    })
}

pub(super) fn cells<const N: usize>(cells: [&str; N]) -> TableRow {
    TableRow {
        cells: cells.map(str::to_owned).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Kind;

    fn finding(user: &str, slot: i64, detail: &str) -> Finding {
        Finding {
            slot: Some(slot),
            user_id: Some(user.to_owned()),
            ..Finding::new(Kind::Unissued, ActionKind::Issue, Outcome::Applied, detail)
        }
    }

    fn grouped(findings: &[Finding]) -> Vec<String> {
        let placed: Vec<Placed<'_>> = findings.iter().map(|finding| (None, finding)).collect();
        reasons(&placed, |_| Some("issued late".to_owned()))
    }

    #[test]
    fn findings_that_differ_only_in_numbers_share_a_line() {
        let mut findings = vec![finding("customer-9", 9, "no message")];
        findings.extend([3, 1, 2, 7].map(|n| {
            finding(
                "someone-4711",
                n,
                &format!("admitted {} s ago, no row", 60 + n),
            )
        }));
        assert_eq!(
            grouped(&findings),
            [
                "4 × issued late: admitted 61–67 s ago, no row (slots 1–3, 7 · s•••11, s•••11, s•••11, s•••11)",
                "issued late: no message (slot 9 · c•••-9)",
            ]
        );
    }

    #[test]
    fn long_list_is_truncated() {
        let words = [
            "ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ij", "jk", "kl",
        ];
        let findings: Vec<Finding> = words
            .iter()
            .map(|word| finding("customer-1", 1, word))
            .collect();
        let lines = grouped(&findings);
        assert_eq!(
            (lines.len(), lines[LINES].starts_with("and 3 more")),
            (LINES + 1, true)
        );
        let apart: Vec<Finding> = (0..100)
            .map(|n| finding("customer-1", n * 2, "x"))
            .collect();
        assert_eq!(
            grouped(&apart),
            ["100 × issued late: x (slots 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, …)"]
        );
    }
}
