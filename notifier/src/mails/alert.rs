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
use super::{by_kind, duration};
use crate::alerts::{Alert, BrokenPromise, Notice, NoticeReason, Problem, is_mailed_repair};
use crate::report::{AlertKind, DropReport, Finding, Kind, Remedy, Run, Severity, Status};
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
        Block::Paragraph(format!(
            "{} ({coupon}drop {}): {issued}",
            self.name, self.id
        ))
    }

    /// Such as "100 of 100 issued".
    fn issued(&self) -> String {
        let Some(report) = self.report else {
            return format!("drop {}", self.id);
        };
        if report.unconfirmed {
            "not compared again".to_owned()
        } else {
            let [rows, quantity] = [report.after.rows, report.quantity.into()].map(grouped);
            format!("{rows} of {quantity} issued")
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
    done: Vec<String>,
    /// Repairs of earlier passes, by run.
    held_back: Vec<&'a [RepairsRow]>,
    /// Whether Redis lost data.
    is_lost: bool,
}

impl<'a> PassSummary<'a> {
    fn of(mail: &'a AlertMail<'a>) -> Self {
        let run = mail.run.map_or("", |run| run.run_id.as_str());
        let is_own = |rows: &&[RepairsRow]| rows.iter().all(|row| row.run_id == run);
        let by_run = mail.repairs.chunk_by(|a, b| a.run_id == b.run_id);
        let (own, held_back): (Vec<_>, Vec<_>) = by_run.partition(is_own);
        let repaired = if own.is_empty() {
            Vec::new()
        } else {
            repaired(mail)
        };
        let now = wording::done(repaired.iter().map(|(_, finding)| *finding));
        let earlier = held_back
            .first()
            .and_then(|rows| rows.first())
            .map(|first| {
                let kinds = by_kind(held_back.iter().copied().flatten()).join(", ");
                format!(
                    "{kinds} in earlier passes since {}",
                    first.repaired_at.format("%H:%M UTC")
                )
            });
        Self {
            mail,
            drops: drops(mail),
            repaired,
            done: [now]
                .into_iter()
                .chain(earlier)
                .filter(|done| !done.is_empty())
                .collect(),
            held_back,
            is_lost: mail
                .repairs
                .iter()
                .any(|row| row.kind == Kind::RedisLost.as_str()),
        }
    }

    fn drop(&self, id: Option<DropId>) -> Option<&NamedDrop<'a>> {
        self.drops.iter().find(|drop| Some(drop.id) == id)
    }

    fn letter(&self) -> Letter {
        let mail = self.mail;
        let (title, lead) = self.lead();
        let mut blocks = Vec::new();
        for notice in mail.problems.iter().take(PROBLEMS) {
            self.problem(notice, &mut blocks);
        }
        self.more_problems(&mut blocks);
        self.repairs(&mut blocks);
        if let Some(run) = mail.run {
            blocks.push(Block::Title("The pass".to_owned()));
            let id = &run.run_id;
            let path = format!("/runs/{id}");
            blocks.extend(mail.links.shown(
                "This pass, with its findings",
                &path,
                &format!("runs/{id}"),
            ));
        } else if mail.problems.is_empty() {
            blocks.extend(mail.links.firing());
        }
        let kind = match (mail.problems, mail.resolved) {
            ([_, ..], _) => ["action", "action needed"],
            ([], [_, ..]) => ["resolved"; 2],
            ([], []) => ["repaired"; 2],
        };
        Letter {
            kind,
            is_bad: !mail.problems.is_empty(),
            subject: self.subject(),
            at: mail.now,
            title,
            lead,
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
                let longest = if place.is_some() { NAME } else { 2 * NAME };
                let is_aged = first.reason == NoticeReason::Repeat;
                let is_aged = is_aged || first.problem.kind.is_outage();
                let lasts = is_aged.then(|| format!(", for {}", self.age(first)));
                let more = (!rest.is_empty()).then(|| format!(", {} more", rest.len()));
                let what = line(&first.problem.summary, longest);
                [Some(what), more, lasts].into_iter().flatten().collect()
            }
            ([], [one]) => line(&was(one), 80),
            ([], [_, ..]) => count(resolved.len() as u64, "problem", "problems"),
            ([], []) if self.is_lost => "Redis lost data".to_owned(),
            ([], []) => String::new(),
        };
        let is_repair = problems.is_empty() && resolved.is_empty();
        let done = match self.done.join("; ") {
            done if is_repair || done.is_empty() => done,
            done => format!("repaired: {done}"),
        };
        let parts = [what, place.unwrap_or_default(), done];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(" · ")
    }

    /// Names a single drop with its counts, or says how many drops there are.
    fn place(&self) -> Option<String> {
        match self.drops.as_slice() {
            [] => None,
            [one] => Some(format!("{} · {}", line(&one.name, NAME), one.issued())),
            many => {
                let names: BTreeSet<&str> = many.iter().map(|drop| drop.name.as_str()).collect();
                let coupons = match names.first() {
                    Some(one) if names.len() == 1 => line(one, NAME),
                    _ => count(names.len() as u64, "coupon", "coupons"),
                };
                Some(format!("{} drops of {coupons}", many.len()))
            }
        }
    }

    /// What happened and for how many, and what users notice of it.
    fn lead(&self) -> (String, String) {
        let mail = self.mail;
        let mut parts = Vec::new();
        if let [first, rest @ ..] = mail.problems {
            parts.push(self.title(first));
            parts.push(first.problem.kind.facts().users.to_owned());
            let more = count(rest.len() as u64, "more problem is", "more problems are");
            parts.extend((!rest.is_empty()).then(|| format!("{more} below.")));
        }
        match mail.resolved {
            many @ [_, _, ..] => parts.push(format!("{} earlier problems are over.", many.len())),
            few => parts.extend(few.iter().map(|alert| self.over(alert))),
        }
        if self.is_lost {
            parts.push("Redis lost data, and was written again from the rows.".to_owned());
            parts.push(
                "Waiting lists are lost: people who waited must claim again; the coupon page tells those who open it \
                 again in the same browser."
                    .to_owned(),
            );
            let closed = mail.closed_for.map(duration);
            parts.extend(closed.map(|closed| format!("Claims got 503 for {closed}.")));
        }
        let done = self.done.join("; ");
        parts.extend((!done.is_empty()).then(|| format!("Repaired by itself: {done}.")));
        if mail.problems.is_empty() {
            parts.extend(self.state());
            parts.push(self.what_is_left().to_owned());
        }
        let title = parts.remove(0);
        (title, parts.join(" "))
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
        let what = line(&was(alert), LONGEST);
        let fate = alert.drop_id.and_then(|drop| self.mail.fates.get(&drop));
        let fate = fate.filter(|_| alert.kind == Kind::BrokenPromise.as_str());
        let fate = fate.map(|fate| {
            let [kept, told] = fate.map(|n| u64::try_from(n).unwrap_or(0));
            let kept = count(kept, "user has a coupon now", "users have a coupon now");
            let was = count(
                told,
                "was told that there is none",
                "were told that there is none",
            );
            if told > 0 {
                format!(" {kept}, {was}.")
            } else {
                format!(" {kept}.")
            }
        });
        format!("Over after {lasted}: {what}.{}", fate.unwrap_or_default())
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
        if self
            .mail
            .run
            .is_some_and(|run| run.status == Status::Failed)
        {
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
        self.remedy(problem, drop.and_then(|drop| drop.report), blocks);
        if let Some(alert) = self.mail.ids.get(&problem.name) {
            let is_critical = facts.severity == Severity::Critical;
            let label = match problem.drop_id {
                Some(_) if !is_critical => "Acknowledge it, or silence its mails",
                _ => "Acknowledge it",
            };
            blocks.extend(self.mail.links.on_page(label, &Links::alert(*alert)));
            blocks.push(self.mail.links.acknowledge(*alert));
        }
        if !is_one_sentence(problem) && !problem.findings.is_empty() {
            let findings = problem.findings.iter();
            let findings: Vec<Placed<'_>> = findings.map(|it| (problem.drop_id, it)).collect();
            blocks.push(Block::Heading("Why".to_owned()));
            blocks.push(Block::List(reasons(&findings, false)));
        }
        blocks.push(section(facts.word));
    }

    /// Adds the links and the commands of one problem. Links come first, because phones cannot run
    /// commands, except if the page lacks the action.
    fn remedy(&self, problem: &Problem, report: Option<&DropReport>, blocks: &mut Vec<Block>) {
        let links = self.mail.links;
        let coupon = problem.coupon_id;
        let of_drop = coupon
            .zip(problem.drop_id)
            .map(|(coupon, drop)| Links::drop(coupon, drop));
        let page = |label: &str| match &of_drop {
            Some(path) => links.on_page(label, path),
            None => links.on_page("Run a pass over all live drops", "/runs"),
        };
        let has_forms = links.page_changes_coupons;
        let first = blocks.len();
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
                let label = "Pause the coupon, or see and confirm the repairs";
                blocks.extend(page(if has_forms {
                    label
                } else {
                    "See and confirm the repairs"
                }));
                if let Some(coupon) = coupon.filter(|_| !has_forms) {
                    let what = "Pause the coupon: nobody can claim until it is resumed";
                    blocks.insert(first, links.change(what, coupon, "{\"paused\":true}"));
                }
                blocks.push(once("List the repairs", coupon, " --dry-run"));
                blocks.push(once("Confirm them", coupon, " --confirm"));
            }
            Remedy::Raise => {
                let form = of_drop.as_ref().filter(|_| has_forms);
                let form = form.and_then(|path| {
                    links.on_page("Raise the quantity", &format!("{path}#quantity"))
                });
                blocks.extend(form.or_else(|| page("This drop")));
                let run = self.mail.run.map(|run| format!("/runs/{}", run.run_id));
                blocks.extend(run.and_then(|run| links.on_page("Who they are", &run)));
                if let Some(report) = report.filter(|report| !report.sealed) {
                    let from = u64::from(report.quantity);
                    let to = from + problem.size;
                    let what = format!("Give each of them a slot (quantity {from} → {to})");
                    let raise =
                        links.change(&what, report.coupon_id, &format!("{{\"quantity\":{to}}}"));
                    blocks.insert(if has_forms { blocks.len() } else { first }, raise);
                    blocks.push(once("Then", coupon, ""));
                }
            }
        }
    }

    /// Tells the problems without their own part, and what is over if it is more than one thing.
    fn more_problems(&self, blocks: &mut Vec<Block>) {
        let more = self.mail.problems.iter().skip(PROBLEMS);
        let more: Vec<String> = more.map(|notice| self.title(notice)).collect();
        if !more.is_empty() {
            blocks.push(Block::Title("Also".to_owned()));
            blocks.push(Block::List(bounded(more)));
            blocks.extend(self.mail.links.firing());
        }
        if let many @ [_, _, ..] = self.mail.resolved {
            let over = |alert: &Alert| {
                let name = self
                    .drop(alert.drop_id)
                    .map(|drop| format!("{}: ", drop.name));
                format!("{}{}", name.unwrap_or_default(), self.over(alert))
            };
            blocks.push(Block::Title("Over".to_owned()));
            blocks.push(Block::List(bounded(many.iter().map(over).collect())));
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
        if self.held_back.is_empty() {
            return;
        }
        let line = |rows: &&[RepairsRow]| {
            let first = rows.first()?;
            let kinds = by_kind(rows.iter()).join(", ");
            let line = format!("{}: {kinds}", first.repaired_at.format("%H:%M:%S UTC"));
            let path = format!("/runs/{}", first.run_id);
            let plain = Block::Paragraph(line.clone());
            let link = self
                .mail
                .links
                .page(&path)
                .map(|url| Block::Link { label: line, url });
            Some(link.unwrap_or(plain))
        };
        blocks.extend(self.held_back.iter().take(LINES).filter_map(line));
        blocks.extend(self.mail.links.runs());
    }
}

/// What an alert was about: an outage is named by its store.
fn was(alert: &Alert) -> String {
    let kind = AlertKind::from_word(&alert.kind).filter(|kind| kind.is_outage());
    kind.map_or_else(
        || alert.summary.clone(),
        |kind| kind.facts().noun[0].to_owned(),
    )
}

/// Returns the drops in the mail, those with problems first.
fn drops<'a>(mail: &AlertMail<'a>) -> Vec<NamedDrop<'a>> {
    let problems = mail
        .problems
        .iter()
        .map(|it| (it.problem.coupon_id, it.problem.drop_id));
    let resolved = mail.resolved.iter().map(|it| (it.coupon_id, it.drop_id));
    let repaired = mail
        .repairs
        .iter()
        .map(|row| (None, Some(DropId(row.drop_id))));
    let mut seen = HashSet::new();
    let named = |(coupon, id): (Option<CouponId>, Option<DropId>)| {
        let id = id.filter(|id| id.0 != 0 && seen.insert(*id))?;
        let mut reports = mail.run.map_or(&[][..], |run| &run.drops).iter();
        let report = reports.find(|report| report.drop_id == id);
        let coupon = report.map(|report| report.coupon_id).or(coupon);
        let name = report
            .map(|report| line(&report.coupon_name, 100))
            .filter(|it| !it.is_empty());
        let of_coupon =
            || coupon.map_or_else(|| "a coupon".to_owned(), |id| format!("coupon {id}"));
        Some(NamedDrop {
            id,
            coupon,
            name: name.unwrap_or_else(of_coupon),
            report,
        })
    };
    problems
        .chain(repaired)
        .chain(resolved)
        .filter_map(named)
        .collect()
}

/// Returns the repairs of this pass, with their drops.
fn repaired<'a>(mail: &AlertMail<'a>) -> Vec<Placed<'a>> {
    let Some(run) = mail.run else {
        return Vec::new();
    };
    let of_drops = run.drops.iter().flat_map(|drop| {
        drop.findings
            .iter()
            .map(move |finding| (Some(drop.drop_id), finding))
    });
    let is_broken = |drop: Option<DropId>, finding: &Finding| {
        let user = finding.user_id.as_deref();
        let mut broken = mail.broken.iter();
        broken.any(|it| Some(it.drop_id) == drop && Some(it.user_id.as_str()) == user)
    };
    let loose = run.findings.iter().map(|finding| (None, finding));
    let all = loose.chain(of_drops);
    all.filter(|(drop, it)| is_mailed_repair(it) && !is_broken(*drop, it))
        .collect()
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

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    lines.extend((more > 0).then(|| format!("and {} more", grouped(more as u64))));
    lines
}

fn footer(run: &Run) -> Vec<String> {
    let (drops, examined) = run.examined();
    let [users, rows] = [examined.users, examined.rows].map(grouped);
    let drops = count(drops, "drop", "drops");
    let asked = run
        .asked_by
        .as_ref()
        .map(|name| format!(", asked for by {}", line(name, 100)));
    let asked = asked.unwrap_or_default();
    let began = time(run.started_at);
    let id = line(&run.run_id, 64);
    let trigger = run.trigger.as_str();
    vec![
        format!("Run {id} ({trigger}{asked}), started {began}."),
        format!("Examined {drops}: {users} people in Redis, {rows} rows."),
    ]
}
