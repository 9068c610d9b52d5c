//! The input of a mail about a pass or an outage, and the drops that it names.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::{BrokenPromise, RepairsRow};
use firstcome_shared::subject::Subject;

use super::links::Links;
use super::problem::{EndedAlert, Problem, ProblemNotice};
use crate::report::{AlertKind, DropReport, Kind, KindFacts, Run};
use crate::wording::{grouped, line};

/// The input of a mail: what is new, over, or repaired.
#[derive(Debug, Clone)]
pub struct AlertMail<'a> {
    /// The pass, unless the mail is about an outage that something else has noticed.
    pub run: Option<&'a Run>,
    pub problems: &'a [ProblemNotice],
    /// Alerts of earlier mails that are over.
    pub resolved: &'a [EndedAlert],
    /// Repairs of this pass and of earlier ones that are not mailed yet, oldest first.
    pub repairs: &'a [RepairsRow],
    /// Broken promises of the drops that the pass examined, and of those with an alert about them.
    pub broken: &'a [BrokenPromise],
    /// Alert IDs by name.
    pub ids: HashMap<String, i64>,
    /// When Redis was first found restarted or replaced, if a pass that made some of the repairs
    /// found it so. Unless Redis lost a drop's data, it came back with an older copy.
    pub older_since: Option<DateTime<Utc>>,
    /// What else is wrong because of the problems of the mail, and gets no mail of its own.
    pub explained: Vec<String>,
    /// Coupons that are closed.
    pub closed: BTreeSet<CouponId>,
    /// Whether a coupon of which Redis lost data has a waiting list.
    pub has_waiting_list: bool,
    /// Whether an operator confirmed the repairs.
    pub is_confirmed: bool,
    /// What the tables say about drops that the pass does not list.
    pub reports: &'a [DropReport],
    /// How many of a drop's broken promises were kept after all, and how many ended without a
    /// coupon: the user was informed or revoked.
    pub fates: HashMap<DropId, [i64; 2]>,
    pub links: &'a Links,
    /// The time of mailing.
    pub now: DateTime<Utc>,
}

impl<'a> AlertMail<'a> {
    /// A mail that says nothing yet.
    pub fn empty(links: &'a Links, now: DateTime<Utc>) -> Self {
        Self {
            run: None,
            problems: &[],
            resolved: &[],
            repairs: &[],
            broken: &[],
            ids: HashMap::new(),
            older_since: None,
            explained: Vec::new(),
            closed: BTreeSet::new(),
            has_waiting_list: false,
            is_confirmed: false,
            reports: &[],
            fates: HashMap::new(),
            links,
            now,
        }
    }

    /// Returns the facts of a problem. Those of a broken promise differ if its drop is sealed,
    /// because such a drop gives no more slots, and those of repairs that wait if the coupon is
    /// closed.
    pub(crate) fn facts(&self, problem: &Problem, drop: Option<&NamedDrop<'_>>) -> KindFacts {
        let facts = self.links.facts(problem.kind, problem.coupon_id);
        let report = drop.and_then(|drop| drop.report);
        let is_sealed = report.is_some_and(|report| report.sealed);
        if is_sealed && problem.kind == AlertKind::Left(Kind::BrokenPromise) {
            return KindFacts {
                users: "They were promised a coupon and have none, and their drop is finished.",
                to_do: "Tell them, and note it in their story; the last note ends this alert.",
                ..facts
            };
        }
        let is_closed = problem
            .coupon_id
            .is_some_and(|it| self.closed.contains(&it));
        if is_closed && problem.kind == AlertKind::Braked {
            return KindFacts {
                users: "Nothing was changed in Redis. The coupon is closed: claims get 503.",
                ..facts
            };
        }
        facts
    }

    /// Returns the names of the coupons with such repairs, each once.
    pub(super) fn coupons_of<'n>(
        &self,
        drops: &'n [NamedDrop<'_>],
        is_such: impl Fn(&RepairsRow) -> bool,
    ) -> Vec<&'n str> {
        let such = self.repairs.iter().filter(|row| is_such(row));
        let drops_of = such.filter_map(|row| drops.iter().find(|it| it.id.0 == row.drop_id));
        let names: BTreeSet<&str> = drops_of.map(|drop| drop.name.as_str()).collect();
        names.into_iter().collect()
    }
}

/// A drop that the mail is about.
pub(crate) struct NamedDrop<'a> {
    pub(crate) id: DropId,
    coupon: Option<CouponId>,
    pub(crate) name: String,
    pub(crate) report: Option<&'a DropReport>,
}

impl NamedDrop<'_> {
    /// Describes the drop: its name, its day, the numbers that the API and the command line need,
    /// and what is issued. A campaign has no numbers.
    pub(super) fn place(&self) -> String {
        let name = &self.name;
        let id = self.id;
        let ids = match id.subject() {
            Subject::Drop => {
                let coupon = self.coupon.map(|coupon| format!("coupon {coupon}, "));
                format!(" ({}drop {id})", coupon.unwrap_or_default())
            }
            Subject::Campaign => String::new(),
        };
        let day = self
            .report
            .and_then(|report| report.day)
            .map_or_else(String::new, |day| format!(", {day}"));
        match self.issued() {
            none if none.is_empty() => format!("{name}{day}{ids}:"),
            issued => format!("{name}{day}{ids}: {issued}"),
        }
    }

    /// Returns text such as "100 of 100 issued"; without a report the drop's label, which is empty
    /// for a campaign.
    pub(super) fn issued(&self) -> String {
        match self.report {
            None => self.id.label().unwrap_or_default(),
            Some(report) => {
                let [rows, quantity] = [report.after.rows, report.quantity.into()].map(grouped);
                format!("{rows} of {quantity} issued")
            }
        }
    }
}

/// Returns the drops in the mail, those with problems first.
pub(crate) fn drops<'a>(mail: &AlertMail<'a>) -> Vec<NamedDrop<'a>> {
    let problems = mail
        .problems
        .iter()
        .map(|it| &it.problem)
        .map(|it| (it.coupon_id, it.drop_id));
    let repaired = mail
        .repairs
        .iter()
        .map(|row| DropId(row.drop_id))
        .map(|drop| (None, Some(drop).filter(|id| id.0 != 0)));
    let resolved = mail.resolved.iter().map(|it| (it.coupon_id, it.drop_id));
    let mut drops = Vec::new();
    let mut seen = HashSet::new();
    for (coupon, drop) in problems.chain(repaired).chain(resolved) {
        let Some(id) = drop.filter(|id| seen.insert(*id)) else {
            continue;
        };
        let mut reports = mail.run.map_or(&[][..], |run| &run.drops).iter();
        let report = reports
            .find(|report| report.drop_id == id)
            .or_else(|| mail.reports.iter().find(|report| report.drop_id == id));
        let coupon = report.map(|report| report.coupon_id).or(coupon);
        let name = report
            .map(|report| line(&report.coupon_name, 100))
            .filter(|name| !name.is_empty())
            .or_else(|| mail.links.name(coupon))
            .unwrap_or_else(|| "a coupon".to_owned());
        drops.push(NamedDrop {
            id,
            coupon,
            name,
            report,
        });
    }
    drops
}
