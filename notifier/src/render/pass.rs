//! Renders the mail about a pass: what happened, what to do, the reasons in groups, and the counts.
//! The length is limited regardless of the number of findings.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::cases::{commands, what_to_do_here};
use super::groups::{PassMail, Placed, cells, changes, issued, open_label, reasons};
use super::lead::{duration, is_one_sentence, lead, subject, summary};
use super::letter::{Block, Letter, Links, MailKind, MailTone, Rendered, Section, Table};
use crate::alerts::{About, Alert, Notice, Observation, is_repair, number};
use crate::report::{DropReport, Kind, Run, Trigger};
use crate::wording;

/// Maximum number of problems that get their own section.
const PROBLEMS: usize = 4;

/// Maximum number of lines in a list or rows in a table.
const LINES: usize = 10;

/// Renders the mail about a pass.
pub fn pass(pass: &PassMail<'_>) -> anyhow::Result<Rendered> {
    let (kind, subject) = subject(pass);
    let tone = match kind {
        MailKind::Action => MailTone::Bad,
        MailKind::Information => MailTone::Plain,
        _ => MailTone::Good,
    };
    let mut sections: Vec<Section> = pass
        .verdict
        .problems
        .iter()
        .take(PROBLEMS)
        .map(|notice| problem(pass, notice))
        .collect();
    sections.extend(more_problems(pass));
    sections.extend(repaired(pass));
    sections.extend(resolved(pass));
    sections.extend(numbers(pass));
    sections.push(closing(pass));
    let (title, lead) = lead(pass);
    Letter {
        kind,
        tone,
        subject,
        at: pass.now,
        title,
        lead,
        sections,
        footer: footer(pass.run),
    }
    .render()
}

/// Builds the section of a problem: its place, what to do, and the reasons.
fn problem(pass: &PassMail<'_>, notice: &Notice) -> Section {
    let seen = &notice.observation;
    let report = seen.drop_id.and_then(|drop| pass.report(drop));
    let place = seen.drop_id.map(|drop| {
        let issued = report
            .map(|report| format!(": {}", issued(report)))
            .unwrap_or_default();
        format!("{}{issued}", pass.place(drop))
    });
    let mut blocks = Vec::new();
    // A single problem is already described at the beginning of the mail.
    if pass.verdict.problems.len() > 1 {
        blocks.push(Block::Heading(summary(pass, notice)));
    }
    blocks.push(Block::Todo(what_to_do_here(seen).to_owned()));
    let in_browser = on_page(pass, seen);
    let by_command = commands(seen, report, pass.links);
    // Links come before commands, because phones cannot run commands. If the page lacks the action,
    // commands come first.
    let is_for_api = matches!(seen.about, About::Braked | About::BrokenPromise);
    if is_for_api && !pass.links.page_changes_coupons {
        blocks.extend(by_command.into_iter().chain(in_browser));
    } else {
        blocks.extend(in_browser.into_iter().chain(by_command));
    }
    // Do not repeat what the beginning of the mail already says in full.
    if !is_one_sentence(seen) {
        let findings: Vec<Placed<'_>> = seen
            .findings
            .iter()
            .map(|finding| (seen.drop_id, finding))
            .collect();
        blocks.push(Block::Heading("Why".to_owned()));
        blocks.push(Block::List(reasons(&findings, open_label)));
    }
    blocks.push(Links::section(seen.about.word()));
    Section {
        title: place.unwrap_or_default(),
        blocks,
    }
}

/// Returns links to the operations page: where to see the problem, and where to act.
fn on_page(pass: &PassMail<'_>, seen: &Observation) -> Vec<Block> {
    let mut screens = Vec::new();
    let is_letter = seen.about == About::Left(Kind::FailedClaim);
    if is_letter {
        let of_drop = seen
            .drop_id
            .map(|drop| format!("?drop={drop}"))
            .unwrap_or_default();
        screens.push((
            "See them, with their reasons, in a browser",
            format!("/dead-letters{of_drop}"),
        ));
    }
    if seen.about == About::RunFailed {
        screens.push(("Current problems, in a browser", "/".to_owned()));
    }
    screens.push(match seen.coupon_id.zip(seen.drop_id) {
        Some((coupon, drop)) => {
            let label = match (seen.about, pass.links.page_changes_coupons) {
                (About::Braked, true) => {
                    "Pause the coupon, or see and confirm the repairs, in a browser"
                }
                (About::Braked, false) => "See and confirm the repairs, in a browser",
                (About::BrokenPromise, true) => "Raise the quantity, in a browser",
                _ if is_letter => "Run a pass over this drop, in a browser",
                _ => "This drop, in a browser",
            };
            (label, format!("/coupons/{coupon}/drops/{drop}"))
        }
        None => (
            "Run a pass over all live drops, in a browser",
            "/runs".to_owned(),
        ),
    });
    if let Some(alert) = pass.ids.get(&seen.fingerprint) {
        // An alert without a drop can't be silenced.
        let label = match seen.drop_id {
            Some(_) => "Acknowledge it, or silence its mails, in a browser",
            None => "Acknowledge it, in a browser",
        };
        screens.push((label, format!("/alerts#alert-{alert}")));
    }
    screens
        .into_iter()
        .filter_map(|(label, path)| pass.links.on_page(label, &path))
        .collect()
}

/// Builds the section of problems without their own section and of additional information.
fn more_problems(pass: &PassMail<'_>) -> Option<Section> {
    let line = |notice: &Notice| {
        let place = notice
            .observation
            .drop_id
            .map(|drop| format!("{}: ", pass.place(drop)))
            .unwrap_or_default();
        format!("{place}{}", summary(pass, notice))
    };
    let problems = pass.verdict.problems.iter().skip(PROBLEMS);
    // If there is nothing but information, the mail already begins with it.
    let is_alone = subject(pass).0 == MailKind::Information;
    let information = pass
        .verdict
        .information
        .iter()
        .filter(|_| !is_alone || pass.verdict.information.len() > 1);
    let lines: Vec<String> = problems.chain(information).map(line).collect();
    (!lines.is_empty()).then(|| {
        let mut blocks = vec![Block::List(bounded(lines))];
        if pass.verdict.problems.len() > PROBLEMS {
            blocks.extend(pass.links.firing());
        }
        Section {
            title: "Also".to_owned(),
            blocks,
        }
    })
}

/// Builds the section of the repairs of all drops.
fn repaired(pass: &PassMail<'_>) -> Option<Section> {
    let mut blocks = Vec::new();
    if let Some(earlier) = pass.earlier() {
        let were = if pass.earlier_repairs() == 1 {
            "was"
        } else {
            "were"
        };
        blocks.push(Block::Paragraph(format!(
            "{earlier} {were} not mailed yet. Something makes repairs necessary again and again: see what these runs have in \
             common."
        )));
        blocks.extend(pass.links.runs());
    }
    let repairs = pass.repairs();
    if !repairs.is_empty() {
        blocks.push(Block::List(reasons(&repairs, |finding| {
            Some(wording::words(finding.action).done.to_owned())
        })));
    }
    (!blocks.is_empty()).then(|| Section {
        title: "Repaired automatically".to_owned(),
        blocks,
    })
}

/// Builds the section of problems from earlier mails that are over.
fn resolved(pass: &PassMail<'_>) -> Option<Section> {
    if pass.verdict.resolved.is_empty() {
        return None;
    }
    let line = |alert: &Alert| {
        let lasted = duration(alert.resolved_at.unwrap_or(pass.now) - alert.first_seen_at);
        let place = alert
            .drop_id
            .map(|drop| format!("{}: ", pass.place(drop)))
            .unwrap_or_default();
        format!(
            "{place}{}, after {lasted}",
            wording::line(&alert.summary, wording::LONGEST)
        )
    };
    let lines: Vec<String> = pass.verdict.resolved.iter().map(line).collect();
    // A single resolved problem is already described at the beginning of the mail.
    let is_said =
        lines.len() < 2 && pass.verdict.problems.is_empty() && pass.verdict.repaired.is_empty();
    (!is_said).then(|| Section {
        title: "Resolved".to_owned(),
        blocks: vec![Block::List(bounded(lines))],
    })
}

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES);
    if more > 0 {
        lines.truncate(LINES);
        lines.push(format!("and {} more", wording::grouped(more as u64)));
    }
    lines
}

/// Builds the table of counts: the changes of a single drop, or one row per drop.
fn numbers(pass: &PassMail<'_>) -> Option<Section> {
    let reports: Vec<&DropReport> = pass
        .drops()
        .into_iter()
        .filter_map(|drop| pass.report(drop))
        .collect();
    let blocks = match reports.as_slice() {
        [] => return None,
        [one] if one.unconfirmed => return None,
        [one] => vec![Block::Table(changes(&one.before, &one.after)?)],
        many => drops_table(pass, many),
    };
    Some(Section {
        title: "Numbers".to_owned(),
        blocks,
    })
}

fn drops_table(pass: &PassMail<'_>, reports: &[&DropReport]) -> Vec<Block> {
    let row = |report: &&DropReport| {
        let name = wording::line(&pass.coupon_of(report.drop_id).1, 40);
        let repairs = number(report.findings.iter().filter(|finding| is_repair(finding))) as u64;
        cells([
            &format!("{name}, drop {}", report.drop_id),
            &if report.unconfirmed {
                "not known".to_owned()
            } else {
                wording::grouped(report.after.rows)
            },
            &wording::grouped(u64::from(report.quantity)),
            &wording::grouped(repairs),
        ])
    };
    let head = ["Drop", "issued", "of", "repairs"]
        .map(str::to_owned)
        .to_vec();
    let mut blocks = vec![Block::Table(Table {
        head,
        rows: reports.iter().take(LINES).map(row).collect(),
    })];
    let more = reports.len().saturating_sub(LINES);
    if more > 0 {
        let drops = wording::count(more, "more drop is", "more drops are");
        blocks.push(Block::Paragraph(format!("{drops} in the run.")));
    }
    blocks
}

/// Builds the section of commands that concern the whole mail.
fn closing(pass: &PassMail<'_>) -> Section {
    let id = |notice: &Notice| pass.ids.get(&notice.observation.fingerprint).copied();
    let problems = || pass.verdict.problems.iter();
    let mut drops = HashSet::new();
    let all: Vec<i64> = problems().filter_map(id).take(LINES).collect();
    // Silences apply to a whole drop, so one alert of each drop is enough.
    let one_a_drop: Vec<i64> = problems()
        .filter(|notice| {
            notice
                .observation
                .drop_id
                .is_some_and(|drop| drops.insert(drop))
        })
        .filter_map(id)
        .take(LINES)
        .collect();
    let page = format!("/runs/{}", &pass.run.run_id);
    let mut blocks: Vec<Block> = pass
        .links
        .on_page("This pass, with its findings, in a browser", &page)
        .into_iter()
        .collect();
    if !pass.run.drops.is_empty() {
        blocks.push(pass.links.run(&pass.run.run_id));
    }
    blocks.extend((!all.is_empty()).then(|| pass.links.acknowledge(&all)));
    blocks.extend((!one_a_drop.is_empty()).then(|| pass.links.silence(&one_a_drop, pass.now)));
    Section {
        title: "Commands".to_owned(),
        blocks,
    }
}

/// The environment that a mail's commands need.
pub(super) const COMMANDS: &str =
    "Commands run where the reconciler runs, with its settings and OPS_TOKEN in the environment.";

fn footer(run: &Run) -> Vec<String> {
    let (drops, examined) = run.examined();
    let [users, rows] = [examined.users, examined.rows].map(wording::grouped);
    let failed = wording::count(examined.failed_claims, "failed claim", "failed claims");
    // Use a non-breaking space before the unit.
    let took = run.finished_at.map(|end| {
        format!(
            ", took {:.1}\u{a0}s",
            (end - run.started_at).as_seconds_f64()
        )
    });
    let trigger = match (run.trigger, &run.asked_by) {
        (_, Some(name)) => format!("asked for by {}", wording::line(name, 100)),
        (Trigger::Cron, None) => "by schedule".to_owned(),
        (Trigger::Endpoint, None) => "by request".to_owned(),
        (Trigger::Cli, None) => "by the command line".to_owned(),
        (Trigger::Startup, None) => "by the daemon itself".to_owned(),
    };
    vec![
        format!(
            "Run {}, {trigger}, started {}{}.",
            wording::line(&run.run_id, 64),
            time(run.started_at),
            took.unwrap_or_default()
        ),
        format!(
            "Examined {}: {users} people in Redis, {rows} rows, {failed}.",
            wording::count(drops, "drop", "drops")
        ),
        COMMANDS.to_owned(),
    ]
}

/// Formats a time as in all mails.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
