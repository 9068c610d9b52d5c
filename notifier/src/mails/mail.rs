//! The mail about a verdict: what is wrong and for how many, what users notice, what happens by
//! itself or what to do, then the reasons; what is over; what was repaired. Its length is limited
//! regardless of the number of findings.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::wording::{self, count, grouped, line};
use firstcome_shared::report::{AlertKind, DropReport, Kind, KindFacts, Run, Status};

use super::document::{Block, Document, Rendered, time};
use super::links::Links;
use super::phrases::{bounded, duration, things};
use super::place::DescribedDrop;
use super::reasons::{FindingState, PlacedFinding, reasons};
use super::remedy::{Placed, last_runs, open_problems};
use super::section::Section;
use crate::decide::Reason;
use crate::levels::mailed_repairs;
use crate::queries::alerts::RepairsRow;

/// Maximum number of problems that are described in full.
const PROBLEMS: usize = 4;

/// Maximum number of lines in a list.
const LINES: usize = 10;

/// Maximum length of a coupon's name in a subject, in characters.
const NAME: usize = 60;

/// What a mail is about.
#[derive(Debug, Clone)]
pub struct AlertMail<'a> {
    /// The pass that found the problems or made the last repairs, if one did.
    pub run: Option<Run>,
    /// What is wrong, the gravest first.
    pub problems: Vec<Section>,
    pub over: Vec<Section>,
    /// What else is wrong because of the problems, a line for each. It gets no mail of its own.
    pub explained: Vec<String>,
    /// Repairs that are not mailed yet, oldest first.
    pub repairs: Vec<RepairsRow>,
    /// When Redis was first found restarted or replaced, if a pass that made some of the repairs
    /// found it so. Unless Redis lost a drop's data, it came back with an older copy.
    pub older_since: Option<DateTime<Utc>>,
    /// A coupon with repairs has a waiting list.
    pub has_waiting_list: bool,
    /// Coupons that are closed.
    pub closed: BTreeSet<CouponId>,
    /// What other runs, and then the tables, say about drops that the pass does not list.
    pub reports: Vec<DropReport>,
    /// What became of the broken promises that are over.
    pub fates: HashMap<DropId, [i64; 2]>,
    pub links: &'a Links,
    pub now: DateTime<Utc>,
}

/// What the parts of a mail have in common.
struct Content<'a> {
    mail: &'a AlertMail<'a>,
    /// The drops of the mail, those with problems first.
    drops: Vec<DescribedDrop<'a>>,
    /// What the pass repaired.
    repaired: Vec<PlacedFinding<'a>>,
    /// Repairs of earlier passes, by run.
    earlier: Vec<&'a [RepairsRow]>,
    /// What was repaired, in a few words.
    done: String,
}

impl<'a> AlertMail<'a> {
    /// A mail that says nothing yet.
    pub fn empty(links: &'a Links, now: DateTime<Utc>) -> Self {
        Self {
            run: None,
            problems: Vec::new(),
            over: Vec::new(),
            explained: Vec::new(),
            repairs: Vec::new(),
            older_since: None,
            has_waiting_list: false,
            closed: BTreeSet::new(),
            reports: Vec::new(),
            fates: HashMap::new(),
            links,
            now,
        }
    }

    /// Adds what is told.
    pub(crate) fn add(&mut self, section: Section) {
        if section.reason == Reason::Over {
            self.over.push(section);
        } else if section.kind != AlertKind::Repaired {
            self.problems.push(section);
        }
    }

    /// Writes the mail.
    pub fn render(&self) -> anyhow::Result<Rendered> {
        let content = Content::new(self);
        let mut lead = content.lead().into_iter();
        Document {
            kind: match (self.problems.as_slice(), self.over.as_slice()) {
                ([_, ..], _) => ["action", "action needed"],
                ([], [_, ..]) => ["resolved"; 2],
                ([], []) => ["repaired"; 2],
            },
            is_bad: !self.problems.is_empty(),
            subject: content.subject(),
            at: self.now,
            title: lead.next().unwrap_or_default(),
            lead: lead.collect::<Vec<_>>().join(" "),
            blocks: content.blocks(),
            footer: self.footer(),
        }
        .render()
    }

    /// Returns what a problem means. A drop that is sealed gives no more slots, and a coupon with
    /// repairs that wait may be closed.
    pub(crate) fn facts(&self, problem: &Section, drop: Option<&DescribedDrop<'_>>) -> KindFacts {
        let facts = self.links.facts(problem.kind, problem.alert.coupon_id);
        let report = drop.and_then(|drop| drop.report);
        let coupon = problem.alert.coupon_id;
        match problem.kind {
            AlertKind::Left(Kind::BrokenPromise) if report.is_some_and(|it| it.sealed) => {
                KindFacts {
                    users: "They were promised a coupon and have none, and their drop is finished.",
                    to_do: "Tell them, and note it in their story; the last note ends this alert.",
                    ..facts
                }
            }
            AlertKind::Braked if coupon.is_some_and(|id| self.closed.contains(&id)) => KindFacts {
                users: "Nothing was changed in Redis. The coupon is closed: claims get 503.",
                ..facts
            },
            _ => facts,
        }
    }

    /// Returns the drops that the mail is about, those with problems first.
    pub(crate) fn drops(&self) -> Vec<DescribedDrop<'_>> {
        let told = self
            .problems
            .iter()
            .chain(&self.over)
            .filter_map(|it| Some((it.alert.coupon_id, it.alert.drop_id?)));
        let repaired = self
            .repairs
            .iter()
            .filter(|row| row.drop_id != 0)
            .map(|row| (None, DropId(row.drop_id)));
        let mut seen = HashSet::new();
        told.chain(repaired)
            .filter(|(_, id)| seen.insert(*id))
            .map(|(coupon, id)| self.named(coupon, id))
            .collect()
    }

    fn named(&self, coupon: Option<CouponId>, id: DropId) -> DescribedDrop<'_> {
        let of_run = self.run.iter().flat_map(|run| &run.drops);
        let mut reports = of_run.chain(&self.reports);
        let report = reports.find(|report| report.drop_id == id);
        let coupon = report.map(|report| report.coupon_id).or(coupon);
        let name = report
            .map(|report| line(&report.coupon_name, 100))
            .filter(|name| !name.is_empty())
            .or_else(|| self.links.name(coupon))
            .unwrap_or_else(|| "a coupon".to_owned());
        DescribedDrop {
            id,
            coupon,
            name,
            report,
        }
    }

    fn footer(&self) -> Vec<String> {
        let Some(run) = &self.run else {
            return Vec::new();
        };
        let (drops, examined) = run.examined();
        let [users, rows] = [examined.users, examined.rows].map(grouped);
        let [one, many] = self.links.subject().nouns();
        let drops = count(drops, one, many);
        let operator = run.asked_by.as_ref().map(|name| line(name, 100));
        let by = operator
            .map(|name| format!(", asked for by {name}"))
            .unwrap_or_default();
        let began = time(run.started_at);
        let id = line(&run.run_id, 64);
        let trigger = run.trigger.as_str();
        vec![
            format!("Run {id} ({trigger}{by}), started {began}."),
            format!("Examined {drops}: {users} users in Redis, {rows} rows."),
        ]
    }
}

impl<'a> Content<'a> {
    fn new(mail: &'a AlertMail<'a>) -> Self {
        let drops = mail.drops();
        let id = mail.run.as_ref().map_or("", |run| run.run_id.as_str());
        let by_run = mail.repairs.chunk_by(|a, b| a.run_id == b.run_id);
        let (own, earlier): (Vec<_>, Vec<_>) = by_run.partition(|rows| rows[0].run_id == id);
        let run = mail.run.as_ref().filter(|_| !own.is_empty());
        let repaired: Vec<PlacedFinding<'_>> = run.into_iter().flat_map(mailed_repairs).collect();
        let mut done = vec![wording::done(repaired.iter().map(|(_, finding)| *finding))];
        if let [[first, ..], ..] = earlier.as_slice() {
            let kinds = by_kind(earlier.iter().copied().flatten());
            let since = first.repaired_at.format("%H:%M UTC");
            done.push(format!("{kinds} in earlier passes since {since}"));
        }
        Self {
            mail,
            drops,
            repaired,
            earlier,
            done: joined(done, "; "),
        }
    }

    fn drop(&self, section: &Section) -> Option<&DescribedDrop<'a>> {
        self.drops
            .iter()
            .find(|drop| Some(drop.id) == section.alert.drop_id)
    }

    fn place(&self, section: &Section) -> Option<&str> {
        self.drop(section).map(|drop| drop.name.as_str())
    }

    fn placed<'s>(&'s self, section: &'s Section) -> Placed<'s> {
        let mail = self.mail;
        let drop = self.drop(section);
        Placed {
            section,
            links: mail.links,
            facts: mail.facts(section, drop),
            drop,
            run: mail.run.as_ref(),
        }
    }

    fn title(&self, section: &Section) -> String {
        section.title(self.place(section), self.mail.now)
    }

    /// The first sentences: what happened, what users notice, and whether an operator is needed.
    /// The first one is the title of the mail.
    fn lead(&self) -> Vec<String> {
        let mail = self.mail;
        let mut lead = Vec::new();
        if let [first, others @ ..] = mail.problems.as_slice() {
            lead.push(self.title(first));
            lead.push(mail.facts(first, self.drop(first)).users.to_owned());
            if !others.is_empty() {
                let [one, many] = ["more problem is", "more problems are"];
                let others = count(others.len() as u64, one, many);
                lead.push(format!("{others} below."));
            }
        }
        match mail.over.as_slice() {
            [] => {}
            [one] => lead.push(self.end(one)),
            many => lead.push(format!("{} earlier problems are over.", many.len())),
        }
        lead.extend(self.lost_data());
        if !self.done.is_empty() {
            lead.push(format!("Repaired: {}.", self.done));
        }
        if mail.problems.is_empty() {
            lead.extend(self.single_drop());
            lead.push(self.what_is_needed().to_owned());
        }
        lead
    }

    /// What was wrong, and what became of the users of broken promises.
    fn end(&self, over: &Section) -> String {
        let text = over.end();
        let is_promise = over.kind == AlertKind::Left(Kind::BrokenPromise);
        let drop = over.alert.drop_id.filter(|_| is_promise);
        let Some([kept, told]) = drop.and_then(|drop| self.mail.fates.get(&drop)) else {
            return text;
        };
        let kept = count(*kept, "user has a coupon now", "users have a coupon now");
        let [one, many] =
            ["was", "were"].map(|were| format!("{were} told that there is none, or revoked"));
        let told = match told {
            0 => String::new(),
            told => format!(", {}", count(*told, &one, &many)),
        };
        format!("{text} {kept}{told}.")
    }

    /// Says what Redis has lost, and what that means for users.
    fn lost_data(&self) -> Vec<String> {
        let lost = self.coupons_with(Kind::RedisLost);
        let (written, waiting) = match (lost.as_slice(), self.mail.older_since) {
            ([], None) => return Vec::new(),
            ([], Some(since)) => (
                format!(
                    "Redis may have come back with older data at {}, and was written again from \
                    the rows.",
                    since.format("%H:%M UTC")
                ),
                "If so, people who joined a waiting list after that copy must claim again.",
            ),
            (lost, _) => (
                format!(
                    "Redis lost data{}, and was written again from the rows.",
                    of_coupons(lost)
                ),
                "Waiting lists are lost: people who waited must claim again.",
            ),
        };
        let waiting = self.mail.has_waiting_list.then(|| waiting.to_owned());
        [written].into_iter().chain(waiting).collect()
    }

    /// Gives the state of the drop after the pass, if the mail is about only one drop.
    fn single_drop(&self) -> Option<String> {
        let [drop] = self.drops.as_slice() else {
            return None;
        };
        let report = drop.report?;
        let is_full = report.after.rows == u64::from(report.quantity);
        let exactness = match (report.exact, is_full) {
            (true, true) => "exact",
            (true, false) => "everybody admitted has a row",
            (false, _) => "not exact yet",
        };
        Some(format!("{}: {}, {exactness}.", drop.name, drop.issued()))
    }

    /// Says what an operator has to do if the mail has no problem.
    fn what_is_needed(&self) -> &'static str {
        let mail = self.mail;
        let has_failed = mail
            .run
            .as_ref()
            .is_some_and(|run| run.status == Status::Failed);
        let mut reports = self.drops.iter().filter_map(|drop| drop.report);
        if mail.over.iter().any(|over| over.alert.given_up) {
            "Nothing compares it any more: what is left can only be repaired by hand."
        } else if has_failed || !reports.all(|report| report.exact) {
            "The next pass compares again, and a mail says if something is left."
        } else if self.earlier.is_empty() || !mail.over.is_empty() {
            "Nothing needs to be done about it."
        } else {
            "It can wait until morning: then find out what makes repairs necessary."
        }
    }

    /// The subject without its prefix. The problem comes first, since a lock screen shows only the
    /// beginning.
    fn subject(&self) -> String {
        let mail = self.mail;
        let place = self.where_it_is();
        let mut parts = Vec::new();
        if let [first, rest @ ..] = mail.problems.as_slice() {
            parts.push(self.problem(first, rest.len(), place.is_empty()));
        } else {
            if !self.coupons_with(Kind::RedisLost).is_empty() {
                parts.push("Redis lost data".to_owned());
            } else if mail.older_since.is_some() {
                parts.push("Redis may have come back with older data".to_owned());
            }
            parts.push(self.ends());
        }
        parts.push(place);
        let is_only_repaired = mail.problems.is_empty() && mail.over.is_empty();
        parts.push(if is_only_repaired || self.done.is_empty() {
            self.done.clone()
        } else {
            format!("repaired: {}", self.done)
        });
        joined(parts, " · ")
    }

    fn problem(&self, first: &Section, others: usize, has_room: bool) -> String {
        let longest = if has_room { 2 * NAME } else { NAME };
        let mut what = line(&first.alert.summary, longest);
        if others > 0 {
            what = format!("{what}, {others} more");
        }
        if first.reason == Reason::Repeat || first.kind.is_outage() {
            what = format!(
                "{what} (for {})",
                duration(self.mail.now - first.alert.began_at)
            );
        }
        what
    }

    /// What is over.
    fn ends(&self) -> String {
        match self.mail.over.as_slice() {
            [] => String::new(),
            [one] => line(&one.alert.summary, 80),
            many => count(many.len() as u64, "problem", "problems"),
        }
    }

    /// Names a single drop with its counts, or says how many drops there are.
    fn where_it_is(&self) -> String {
        match self.drops.as_slice() {
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

    fn blocks(&self) -> Vec<Block> {
        let mail = self.mail;
        let links = mail.links;
        let mut blocks = Vec::new();
        for section in mail.problems.iter().take(PROBLEMS) {
            let placed = self.placed(section);
            // The lead has the title and the consequence of a single problem.
            if mail.problems.len() > 1 {
                blocks.push(Block::Title(self.title(section)));
                blocks.push(Block::Paragraph(placed.facts.users.to_owned()));
            }
            blocks.extend(placed.blocks());
        }
        let more: Vec<String> = mail
            .problems
            .iter()
            .skip(PROBLEMS)
            .map(|it| it.line(self.place(it)))
            .collect();
        if let Some(more) = Block::list(bounded(more, LINES)) {
            blocks.push(Block::Title("Also".to_owned()));
            blocks.push(more);
            blocks.extend(open_problems(links));
        }
        if let Some(explained) = Block::list(bounded(mail.explained.clone(), LINES)) {
            blocks.push(Block::Title("Because of this".to_owned()));
            blocks.push(explained);
        }
        if mail.over.len() > 1 {
            let ends = mail.over.iter().map(|it| match self.place(it) {
                Some(place) => format!("{place}: {}", self.end(it)),
                None => self.end(it),
            });
            blocks.push(Block::Title("Over".to_owned()));
            blocks.extend(Block::list(bounded(ends.collect(), LINES)));
        }
        if !self.done.is_empty() {
            blocks.extend(self.repairs());
        }
        match &mail.run {
            Some(run) => blocks.extend(whole_pass(run, links)),
            None if mail.problems.is_empty() => blocks.extend(open_problems(links)),
            None => {}
        }
        blocks
    }

    /// Lists the repairs of this pass and of earlier ones.
    fn repairs(&self) -> Vec<Block> {
        let links = self.mail.links;
        let mut blocks = vec![Block::Title("Repaired".to_owned())];
        blocks.extend(Block::list(reasons(&self.repaired, FindingState::Repaired)));
        for rows in self.earlier.iter().take(LINES) {
            let first = &rows[0];
            let at = first.repaired_at.format("%H:%M:%S UTC");
            let text = format!("{at}: {}{}", by_kind(*rows), self.of(rows));
            blocks.extend(links.linked(&format!("/runs/{}", first.run_id), text));
        }
        let more = self.earlier.len().saturating_sub(LINES);
        if more > 0 {
            let passes = count(more as u64, "other pass", "other passes");
            blocks.push(Block::Paragraph(format!("and {passes}")));
        }
        if !self.earlier.is_empty() {
            blocks.extend(last_runs(links));
        }
        blocks
    }

    /// Names the coupons of these repairs, if the mail has repairs of several coupons.
    fn of(&self, rows: &[RepairsRow]) -> String {
        if self.coupons(&self.mail.repairs).len() > 1 {
            of_coupons(&self.coupons(rows))
        } else {
            String::new()
        }
    }

    fn coupons_with(&self, kind: Kind) -> Vec<&str> {
        let of_kind = self
            .mail
            .repairs
            .iter()
            .filter(|row| row.kind == kind.as_str());
        self.coupons(of_kind)
    }

    /// Returns the names of the coupons with such repairs, each once.
    fn coupons<'r>(&self, rows: impl IntoIterator<Item = &'r RepairsRow>) -> Vec<&str> {
        let names: BTreeSet<&str> = rows
            .into_iter()
            .filter_map(|row| self.drops.iter().find(|it| it.id.0 == row.drop_id))
            .map(|drop| drop.name.as_str())
            .collect();
        names.into_iter().collect()
    }
}

/// Links to the pass, or gives a command that reads it. An attached system without the address of a
/// page gets neither.
fn whole_pass(run: &Run, links: &Links) -> Vec<Block> {
    let what = "This pass, with its findings";
    let screen = links.screen(&format!("/runs/{}", run.run_id), what);
    let read = links.read(&format!("/v1/runs/{}", run.run_id), what);
    let ways: Vec<Block> = screen.into_iter().chain(read).collect();
    if ways.is_empty() {
        return ways;
    }
    let mut blocks = vec![Block::Title("The pass".to_owned())];
    blocks.extend(ways);
    blocks
}

/// Names these coupons in a sentence, two at most.
fn of_coupons(names: &[&str]) -> String {
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

/// Describes repairs by kind, most first, as "4 slot conflicts, 1 promise without a row".
fn by_kind<'a>(repairs: impl IntoIterator<Item = &'a RepairsRow>) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in repairs {
        *counts.entry(&row.kind).or_default() += u64::from(row.number);
    }
    let mut counts: Vec<(&str, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let counts = counts.into_iter().map(|(kind, n)| things(kind, n));
    counts.collect::<Vec<_>>().join(", ")
}
