//! The mail about a pass, and about an outage: what is wrong and for how many, what users notice,
//! what happens by itself or what to do, then the reasons. Its length is limited regardless of the
//! number of findings.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::RepairsRow;

use super::findings::{Placed, reasons};
use super::letter::{Block, Letter, Rendered, time};
use super::links::{Links, once, section};
use super::{bounded, by_kind, duration};
use crate::alerts::{Alert, BrokenPromise, Notice, NoticeReason, Problem, mailed_repairs};
use crate::report::{AlertKind, DropReport, Kind, Remedy, Run, Status};
use crate::wording::{self, LONGEST, count, grouped, line};

/// Maximum number of problems that are told in full.
const PROBLEMS: usize = 4;

/// Maximum number of lines in a list.
const LINES: usize = 10;

/// Maximum length of a coupon's name in a subject, in characters.
const NAME: usize = 60;

/// The input of a mail: what is new, over, or repaired.
#[derive(Debug, Clone, Copy)]
pub struct AlertMail<'a> {
    /// The pass, unless the mail is about an outage that something else has noticed.
    pub run: Option<&'a Run>,
    pub problems: &'a [Notice],
    /// Alerts of earlier mails that are over.
    pub resolved: &'a [Alert],
    /// Repairs of this pass and of earlier ones that are not mailed yet, oldest first.
    pub repairs: &'a [RepairsRow],
    /// Broken promises of the drops that the pass examined.
    pub broken: &'a [BrokenPromise],
    /// Alert IDs by name.
    pub ids: &'a HashMap<String, i64>,
    /// How many of a drop's broken promises were kept after all, and how many users were told.
    pub fates: &'a HashMap<DropId, [i64; 2]>,
    pub links: &'a Links,
    /// How long admission was closed before this run opened it, if known.
    pub closed_for: Option<TimeDelta>,
    /// The time of mailing.
    pub now: DateTime<Utc>,
}

impl<'a> AlertMail<'a> {
    /// A mail that says nothing yet.
    pub fn empty(links: &'a Links, now: DateTime<Utc>) -> Self {
        static NO_IDS: LazyLock<HashMap<String, i64>> = LazyLock::new(HashMap::new);
        static NO_FATES: LazyLock<HashMap<DropId, [i64; 2]>> = LazyLock::new(HashMap::new);
        Self {
            run: None,
            problems: &[],
            resolved: &[],
            repairs: &[],
            broken: &[],
            ids: &NO_IDS,
            fates: &NO_FATES,
            links,
            closed_for: None,
            now,
        }
    }

    /// Writes the mail.
    pub fn render(&self) -> anyhow::Result<Rendered> {
        PassSummary::of(self).letter().render()
    }
}

/// A drop that the mail names.
struct NamedDrop<'a> {
    id: DropId,
    coupon: Option<CouponId>,
    name: String,
    report: Option<&'a DropReport>,
}

impl NamedDrop<'_> {
    /// The drop with its numbers, which the API and the command line want.
    fn place(&self) -> Block {
        let coupon = self.coupon.map(|coupon| format!("coupon {coupon}, "));
        let (coupon, issued) = (coupon.unwrap_or_default(), self.issued());
        let Self { name, id, .. } = self;
        Block::Paragraph(format!("{name} ({coupon}drop {id}): {issued}"))
    }

    /// Such as "100 of 100 issued".
    fn issued(&self) -> String {
        match self.report {
            None => format!("drop {}", self.id),
            Some(report) if report.unconfirmed => "not compared again".to_owned(),
            Some(report) => {
                let [rows, quantity] = [report.after.rows, report.quantity.into()].map(grouped);
                format!("{rows} of {quantity} issued")
            }
        }
    }
}

/// What a mail says, computed once.
struct PassSummary<'a> {
    mail: &'a AlertMail<'a>,
    /// The drops of the mail, those with problems first.
    drops: Vec<NamedDrop<'a>>,
    /// What this pass repaired.
    repaired: Vec<Placed<'a>>,
    /// What this pass repaired, and what earlier ones did, in a few words each.
    done: String,
    /// Repairs of earlier passes, by run.
    held_back: Vec<&'a [RepairsRow]>,
    /// Whether Redis lost data.
    is_lost: bool,
}

impl<'a> PassSummary<'a> {
    fn of(mail: &'a AlertMail<'a>) -> Self {
        let id = mail.run.map_or("", |run| run.run_id.as_str());
        let by_run = mail.repairs.chunk_by(|a, b| a.run_id == b.run_id);
        let (own, held_back): (Vec<_>, Vec<_>) = by_run.partition(|rows| rows[0].run_id == id);
        let run = mail.run.filter(|_| !own.is_empty());
        let repaired = run.map(|run| mailed_repairs(run, mail.broken).collect());
        let repaired: Vec<Placed<'_>> = repaired.unwrap_or_default();
        let mut done = vec![wording::done(repaired.iter().map(|(_, finding)| *finding))];
        if let [[first, ..], ..] = held_back.as_slice() {
            let kinds = by_kind(held_back.iter().copied().flatten());
            let since = first.repaired_at.format("%H:%M UTC");
            done.push(format!("{kinds} in earlier passes since {since}"));
        }
        done.retain(|done| !done.is_empty());
        let lost = Kind::RedisLost.as_str();
        Self {
            mail,
            drops: drops(mail),
            repaired,
            done: done.join("; "),
            held_back,
            is_lost: mail.repairs.iter().any(|row| row.kind == lost),
        }
    }

    fn drop(&self, id: Option<DropId>) -> Option<&NamedDrop<'a>> {
        self.drops.iter().find(|drop| Some(drop.id) == id)
    }

    fn letter(&self) -> Letter {
        let mail = self.mail;
        let mut blocks = Vec::new();
        for notice in mail.problems.iter().take(PROBLEMS) {
            self.problem(notice, &mut blocks);
        }
        self.more_problems(&mut blocks);
        self.repairs(&mut blocks);
        if let Some(run) = mail.run {
            blocks.push(Block::Title("The pass".to_owned()));
            let runs = format!("runs/{}", run.run_id);
            let (what, path) = ("This pass, with its findings", format!("/{runs}"));
            blocks.extend(mail.links.shown(what, &path, &runs));
        } else if mail.problems.is_empty() {
            blocks.extend(mail.links.firing());
        }
        let mut lead = self.lead();
        Letter {
            kind: match (mail.problems, mail.resolved) {
                ([_, ..], _) => ["action", "action needed"],
                ([], [_, ..]) => ["resolved"; 2],
                ([], []) => ["repaired"; 2],
            },
            is_bad: !mail.problems.is_empty(),
            subject: self.subject(),
            at: mail.now,
            title: lead.remove(0),
            lead: lead.join(" "),
            blocks,
            footer: mail.run.map_or_else(Vec::new, footer),
        }
    }

    /// The subject without its prefix. The problem comes first, since a lock screen shows only the
    /// beginning.
    fn subject(&self) -> String {
        let (problems, resolved) = (self.mail.problems, self.mail.resolved);
        let place = self.place();
        let what = match (problems, resolved) {
            ([first, rest @ ..], _) => {
                let longest = if place.is_empty() { 2 * NAME } else { NAME };
                let mut what = line(&first.problem.summary, longest);
                if !rest.is_empty() {
                    what = format!("{what}, {} more", rest.len());
                }
                if first.reason == NoticeReason::Repeat || first.problem.kind.is_outage() {
                    what = format!("{what}, for {}", self.age(first));
                }
                what
            }
            ([], [one]) => line(&was(one), 80),
            ([], [_, ..]) => count(resolved.len() as u64, "problem", "problems"),
            ([], []) if self.is_lost => "Redis lost data".to_owned(),
            ([], []) => String::new(),
        };
        let is_repair = problems.is_empty() && resolved.is_empty();
        let repaired = if is_repair || self.done.is_empty() {
            self.done.clone()
        } else {
            format!("repaired: {}", self.done)
        };
        let mut parts = vec![what, place, repaired];
        parts.retain(|part| !part.is_empty());
        parts.join(" · ")
    }

    /// Names a single drop with its counts, or says how many drops there are.
    fn place(&self) -> String {
        match self.drops.as_slice() {
            [] => String::new(),
            [one] => format!("{} · {}", line(&one.name, NAME), one.issued()),
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

    /// What happened and for how many, and what users notice of it.
    fn lead(&self) -> Vec<String> {
        let mail = self.mail;
        let mut parts = Vec::new();
        if let [first, rest @ ..] = mail.problems {
            parts.push(self.title(first));
            parts.push(first.problem.kind.facts().users.to_owned());
            if !rest.is_empty() {
                let more = count(rest.len() as u64, "more problem is", "more problems are");
                parts.push(format!("{more} below."));
            }
        }
        match mail.resolved {
            many @ [_, _, ..] => parts.push(format!("{} earlier problems are over.", many.len())),
            few => parts.extend(few.iter().map(|alert| self.over(alert))),
        }
        if self.is_lost {
            let lost = "Redis lost data, and was written again from the rows.";
            let waiting = "Waiting lists are lost: people who waited must claim again; the coupon page tells those who open it \
                           again in the same browser.";
            parts.extend([lost, waiting].map(str::to_owned));
            let closed = mail.closed_for.map(duration);
            parts.extend(closed.map(|closed| format!("Claims got 503 for {closed}.")));
        }
        if !self.done.is_empty() {
            parts.push(format!("Repaired by itself: {}.", self.done));
        }
        if mail.problems.is_empty() {
            parts.extend(self.state());
            parts.push(self.what_is_left().to_owned());
        }
        parts
    }

    fn age(&self, notice: &Notice) -> String {
        duration(self.mail.now - notice.since)
    }

    /// What is wrong, in one sentence.
    fn title(&self, notice: &Notice) -> String {
        let problem = &notice.problem;
        let name = self.drop(problem.drop_id).map(|drop| drop.name.as_str());
        let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
        let summary = line(&problem.summary, LONGEST);
        let summary = summary.trim_end_matches('.');
        let [one, many] = problem.kind.facts().noun;
        let things = count(problem.size, one, many);
        let lasts = self.age(notice);
        let what = match problem.kind {
            kind if kind.is_outage() => {
                return format!("{}, for {lasts}.", wording::capital(summary));
            }
            _ if is_one_sentence(problem) => match name {
                Some(name) => format!("{name}: {summary}."),
                None => format!("{}.", wording::capital(summary)),
            },
            AlertKind::Braked => format!("{things}{of}: this many at once are rarely right."),
            AlertKind::Left(Kind::BrokenPromise) => format!("{things}{of}."),
            _ => format!("{things}{of} could not be repaired."),
        };
        match notice.reason {
            NoticeReason::New => what,
            NoticeReason::Changed => format!("Changed, first seen {lasts} ago: {what}"),
            NoticeReason::Repeat => format!("Still there after {lasts}: {what}"),
        }
    }

    /// What was wrong and for how long, and what became of the users.
    fn over(&self, alert: &Alert) -> String {
        let lasted = duration(alert.resolved_at.unwrap_or(self.mail.now) - alert.first_seen_at);
        let mut text = format!("Over after {lasted}: {}.", line(&was(alert), LONGEST));
        let fate = alert.drop_id.and_then(|drop| self.mail.fates.get(&drop));
        if let Some([kept, told]) = fate
            && alert.kind == Kind::BrokenPromise.as_str()
        {
            let kept = count(*kept, "user has a coupon now", "users have a coupon now");
            text = format!("{text} {kept}");
            if *told > 0 {
                let was = ["was", "were"].map(|was| format!("{was} told that there is none"));
                text = format!("{text}, {}", count(*told, &was[0], &was[1]));
            }
            text += ".";
        }
        text
    }

    /// Describes the state of the drop, if the mail concerns exactly one.
    fn state(&self) -> Option<String> {
        let [drop] = self.drops.as_slice() else {
            return None;
        };
        let report = drop.report?;
        let is_full = report.after.rows == u64::from(report.quantity);
        let exact = match (report.exact, is_full) {
            (true, true) => ", exact",
            (true, false) => ", everybody admitted has a row",
            (false, _) if report.unconfirmed => " since its repairs",
            (false, _) => ", not exact yet",
        };
        Some(format!("{}: {}{exact}.", drop.name, drop.issued()))
    }

    /// What happens next. It is "Nothing" only if the drops were compared.
    fn what_is_left(&self) -> &'static str {
        let is_compared = |report: &DropReport| report.exact && !report.unconfirmed;
        let mut reports = self.drops.iter().filter_map(|drop| drop.report);
        let has_failed = |run: &Run| run.status == Status::Failed;
        if self.mail.run.is_some_and(has_failed) {
            "The pass stopped early. The next one continues, and a mail says if anything is left."
        } else if !reports.all(is_compared) {
            "The next pass compares again, and a mail says if something is left."
        } else if self.is_lost {
            "Nothing needs to be done tonight; those who run the coupons may want to tell the people who waited."
        } else if self.held_back.is_empty() || !self.mail.resolved.is_empty() {
            "Nothing needs to be done."
        } else {
            "It can wait until morning: then find out what makes repairs necessary."
        }
    }

    /// Tells a problem: what to do, with the link and the command, and the reasons.
    fn problem(&self, notice: &Notice, blocks: &mut Vec<Block>) {
        let problem = &notice.problem;
        let facts = problem.kind.facts();
        let drop = self.drop(problem.drop_id);
        // A single problem is already described at the beginning of the mail.
        if self.mail.problems.len() > 1 {
            blocks.push(Block::Title(self.title(notice)));
            blocks.push(Block::Paragraph(facts.users.to_owned()));
        }
        blocks.extend(drop.map(NamedDrop::place));
        blocks.push(Block::Todo(facts.to_do.to_owned()));
        blocks.extend(self.remedy(problem, drop.and_then(|drop| drop.report)));
        if let Some(alert) = self.mail.ids.get(&problem.name) {
            let links = self.mail.links;
            blocks.extend(links.on_page("Acknowledge it", &Links::alert(*alert)));
            blocks.push(links.acknowledge(*alert));
        }
        if !is_one_sentence(problem) && !problem.findings.is_empty() {
            let findings = problem.findings.iter();
            let findings: Vec<Placed<'_>> = findings.map(|it| (problem.drop_id, it)).collect();
            blocks.push(Block::Heading("Why".to_owned()));
            blocks.push(Block::List(reasons(&findings, false)));
        }
        blocks.push(section(facts.word));
    }

    /// Returns the links and the commands of one problem. Links come first, because phones cannot
    /// run commands.
    fn remedy(&self, problem: &Problem, report: Option<&DropReport>) -> Vec<Block> {
        let links = self.mail.links;
        let coupon = problem.coupon_id;
        let of_drop = coupon.zip(problem.drop_id);
        let of_drop = of_drop.map(|(coupon, drop)| Links::drop(coupon, drop));
        let page = |label: &str| match &of_drop {
            Some(path) => links.on_page(label, path),
            None => links.on_page("Run a pass over all live drops", "/runs"),
        };
        let mut blocks = Vec::new();
        match problem.kind.facts().remedy {
            Remedy::Look => {
                blocks.extend(links.on_page("Closed coupons and unavailable stores", "/"));
                blocks.extend(page(""));
            }
            Remedy::LookAtRuns => blocks.extend(links.runs()),
            Remedy::Pass => {
                blocks.extend(page("This drop"));
                blocks.push(once("Try again now", coupon, ""));
            }
            Remedy::DeadLetters => {
                let of_drop = problem.drop_id.map(|drop| format!("?drop={drop}"));
                let letters = format!("/dead-letters{}", of_drop.unwrap_or_default());
                blocks.extend(links.on_page("See them, with their reasons", &letters));
                blocks.extend(page("Run a pass over this drop"));
                blocks.push(once("Once they are corrected", coupon, ""));
            }
            Remedy::Confirm => {
                blocks.extend(page("Pause the coupon, or see and confirm the repairs"));
                let what = "Pause the coupon: nobody can claim until it is resumed";
                let pause = coupon.map(|coupon| links.change(what, coupon, "{\"paused\":true}"));
                blocks.extend(pause);
                blocks.push(once("List the repairs", coupon, " --dry-run"));
                blocks.push(once("Confirm them", coupon, " --confirm"));
            }
            Remedy::Raise => {
                let form = coupon.map(|coupon| format!("/coupons/{coupon}#quantity"));
                blocks.extend(form.and_then(|path| links.on_page("Raise the quantity", &path)));
                let run = self.mail.run.map(|run| format!("/runs/{}", run.run_id));
                blocks.extend(run.and_then(|run| links.on_page("Who they are", &run)));
                if let Some(report) = report.filter(|report| !report.sealed) {
                    let from = u64::from(report.quantity);
                    let to = from + problem.size;
                    let what = format!("Give each of them a slot (quantity {from} → {to})");
                    let body = format!("{{\"quantity\":{to}}}");
                    blocks.push(links.change(&what, report.coupon_id, &body));
                    blocks.push(once("Then", coupon, ""));
                }
            }
        }
        blocks
    }

    /// Tells the problems without their own part, and what is over if it is more than one thing.
    fn more_problems(&self, blocks: &mut Vec<Block>) {
        let more = self.mail.problems.iter().skip(PROBLEMS);
        let more: Vec<String> = more.map(|notice| self.title(notice)).collect();
        if !more.is_empty() {
            blocks.push(Block::Title("Also".to_owned()));
            blocks.push(bounded(more, LINES));
            blocks.extend(self.mail.links.firing());
        }
        if let many @ [_, _, ..] = self.mail.resolved {
            let over = |alert: &Alert| {
                let name = self.drop(alert.drop_id).map(|drop| &drop.name);
                let name = name.map(|name| format!("{name}: "));
                format!("{}{}", name.unwrap_or_default(), self.over(alert))
            };
            blocks.push(Block::Title("Over".to_owned()));
            blocks.push(bounded(many.iter().map(over).collect(), LINES));
        }
    }

    /// Tells the repairs: those of this pass, then those that were held back, with their passes.
    fn repairs(&self, blocks: &mut Vec<Block>) {
        if !self.done.is_empty() {
            blocks.push(Block::Title("Repaired by itself".to_owned()));
        }
        if !self.repaired.is_empty() {
            blocks.push(Block::List(reasons(&self.repaired, true)));
        }
        for rows in self.held_back.iter().take(LINES) {
            let at = rows[0].repaired_at.format("%H:%M:%S UTC");
            let label = format!("{at}: {}", by_kind(rows.iter()));
            let url = self.mail.links.page(&format!("/runs/{}", rows[0].run_id));
            blocks.push(match url {
                Some(url) => Block::Link { label, url },
                None => Block::Paragraph(label),
            });
        }
        if !self.held_back.is_empty() {
            blocks.extend(self.mail.links.runs());
        }
    }
}

/// What an alert was about: an outage is named by its store.
fn was(alert: &Alert) -> String {
    match AlertKind::from_word(&alert.kind) {
        Some(kind) if kind.is_outage() => kind.facts().noun[0].to_owned(),
        _ => alert.summary.clone(),
    }
}

/// Returns the drops in the mail, those with problems first.
fn drops<'a>(mail: &AlertMail<'a>) -> Vec<NamedDrop<'a>> {
    let problems = mail.problems.iter().map(|it| &it.problem);
    let problems = problems.map(|it| (it.coupon_id, it.drop_id));
    let repaired = mail.repairs.iter().map(|row| DropId(row.drop_id));
    let repaired = repaired.map(|drop| (None, Some(drop).filter(|id| id.0 != 0)));
    let resolved = mail.resolved.iter().map(|it| (it.coupon_id, it.drop_id));
    let mut drops = Vec::new();
    let mut seen = HashSet::new();
    for (coupon, drop) in problems.chain(repaired).chain(resolved) {
        let Some(id) = drop.filter(|id| seen.insert(*id)) else {
            continue;
        };
        let mut reports = mail.run.map_or(&[][..], |run| &run.drops).iter();
        let report = reports.find(|report| report.drop_id == id);
        let coupon = report.map(|report| report.coupon_id).or(coupon);
        let name = report.map(|report| line(&report.coupon_name, 100));
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| {
            coupon.map_or_else(|| "a coupon".to_owned(), |id| format!("coupon {id}"))
        });
        drops.push(NamedDrop {
            id,
            coupon,
            name,
            report,
        });
    }
    drops
}

/// Whether the problem is a single finding without a user, so that its text needs no addition.
fn is_one_sentence(problem: &Problem) -> bool {
    let is_listed = matches!(
        problem.kind,
        AlertKind::Left(Kind::FailedClaim | Kind::BrokenPromise) | AlertKind::Braked
    );
    let is_whole = matches!(problem.findings.as_slice(), [one] if one.is_whole());
    is_whole && !is_listed && !problem.kind.is_outage()
}

fn footer(run: &Run) -> Vec<String> {
    let (drops, examined) = run.examined();
    let [users, rows] = [examined.users, examined.rows].map(grouped);
    let drops = count(drops, "drop", "drops");
    let by = run.asked_by.as_ref().map(|name| line(name, 100));
    let by = by.map(|name| format!(", asked for by {name}"));
    let (by, began) = (by.unwrap_or_default(), time(run.started_at));
    let (id, trigger) = (line(&run.run_id, 64), run.trigger.as_str());
    vec![
        format!("Run {id} ({trigger}{by}), started {began}."),
        format!("Examined {drops}: {users} people in Redis, {rows} rows."),
    ]
}
