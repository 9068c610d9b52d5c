//! The mail about a pass, and about an outage: what is wrong and for how many, what users notice,
//! what happens by itself or what to do, then the reasons. Its length is limited regardless of the
//! number of findings.

use firstcome_shared::subject::Subject;

use super::by_kind;
use super::document::{Block, Document, Rendered, time};
use super::input::{AlertMail, drops};
use super::lead::lead;
use super::links::Links;
use super::section::{last_runs, open_problems};
use super::summary::{LINES, PassSummary};
use crate::report::Run;
use crate::wording::{count, grouped, line};

impl AlertMail<'_> {
    /// Writes the mail.
    pub fn render(&self) -> anyhow::Result<Rendered> {
        let drops = drops(self);
        document(&PassSummary::new(self, &drops)).render()
    }
}

fn document(summary: &PassSummary<'_>) -> Document {
    let mail = summary.mail;
    let mut lead = lead(summary).into_iter();
    Document {
        kind: match (mail.problems, mail.resolved) {
            ([_, ..], _) => ["action", "action needed"],
            ([], [_, ..]) => ["resolved"; 2],
            ([], []) => ["repaired"; 2],
        },
        is_bad: !mail.problems.is_empty(),
        subject: summary.subject(),
        at: mail.now,
        title: lead.next().unwrap_or_default(),
        lead: lead.collect::<Vec<_>>().join(" "),
        blocks: blocks(summary),
        footer: mail
            .run
            .map_or_else(Vec::new, |run| footer(run, mail.links.subject())),
    }
}

fn blocks(summary: &PassSummary<'_>) -> Vec<Block> {
    let mail = summary.mail;
    let links = mail.links;
    let mut blocks = Vec::new();
    for section in &summary.sections {
        // The lead has the title and the consequence of a single problem.
        if mail.problems.len() > 1 {
            blocks.push(Block::Title(section.title.clone()));
            blocks.push(Block::Paragraph(section.facts.users.to_owned()));
        }
        blocks.extend(section.blocks(links, mail.run));
    }
    if let Some(more) = Block::list(summary.more.clone()) {
        blocks.push(Block::Title("Also".to_owned()));
        blocks.push(more);
        blocks.extend(open_problems(links));
    }
    if let Some(explained) = Block::list(summary.explained.clone()) {
        blocks.push(Block::Title("Because of this".to_owned()));
        blocks.push(explained);
        let ends = "No mail of its own comes about these: they end with their cause, or are mailed \
            if they outlast it.";
        blocks.push(Block::Paragraph(ends.to_owned()));
    }
    if mail.resolved.len() > 1 {
        blocks.push(Block::Title("Over".to_owned()));
        blocks.extend(Block::list(summary.over.clone()));
    }
    if !summary.done.is_empty() {
        blocks.extend(repairs(summary));
    }
    match mail.run {
        Some(run) => blocks.extend(whole_pass(run, links)),
        None if mail.problems.is_empty() => blocks.extend(open_problems(links)),
        None => {}
    }
    blocks
}

/// Lists the repairs of this pass and of earlier ones.
fn repairs(summary: &PassSummary<'_>) -> Vec<Block> {
    let links = summary.mail.links;
    let mut blocks = vec![Block::Title(summary.repaired_how().to_owned())];
    blocks.extend(Block::list(summary.repaired.clone()));
    for rows in summary.earlier_repairs.iter().take(LINES) {
        let first = &rows[0];
        let at = first.repaired_at.format("%H:%M:%S UTC");
        let text = format!("{at}: {}{}", by_kind(*rows), summary.of_coupons(rows));
        blocks.extend(links.linked(&format!("/runs/{}", first.run_id), text));
    }
    let more = summary.earlier_repairs.len().saturating_sub(LINES);
    if more > 0 {
        let passes = count(more as u64, "other pass", "other passes");
        blocks.push(Block::Paragraph(format!("and {passes}")));
    }
    if !summary.earlier_repairs.is_empty() {
        blocks.extend(last_runs(links));
    }
    blocks
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

fn footer(run: &Run, subject: Subject) -> Vec<String> {
    let (drops, examined) = run.examined();
    let [users, rows] = [examined.users, examined.rows].map(grouped);
    let [one, many] = subject.nouns();
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
