//! Mails that are not about one pass: a run that did not happen, MySQL gone and back, a test.

use chrono::{DateTime, Utc};

use super::groups::cells;
use super::letter::{Block, Letter, Rendered, Section, Table, Tone};
use super::links::{Links, once};
use super::pass::time;
use super::subject::duration;
use crate::clean;

/// A run that should have been and was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedRun {
    /// Which schedule, by its variable: `RECONCILE_CRON`.
    pub schedule: String,
    /// When the first of the missed runs was due.
    pub expected_at: DateTime<Utc>,
    /// When that was noticed.
    pub noticed_at: DateTime<Utc>,
}

/// The mail for a run that did not happen.
pub fn missed(missed: &MissedRun, links: &Links) -> anyhow::Result<Rendered> {
    let schedule = clean::line(&missed.schedule, 80);
    let late = duration(missed.noticed_at - missed.expected_at);
    let blocks = vec![
        Block::Todo(
            "Find out why the reconciler did not run then: stopped, restarted, its host asleep, or a pass longer than its \
             interval."
                .to_owned(),
        ),
        Block::List(vec![
            format!("Schedule: {schedule}"),
            format!("Due: {}", time(missed.expected_at)),
            format!("Noticed: {}, {late} later", time(missed.noticed_at)),
        ]),
        once("See that a pass succeeds", None, ""),
        links.section("run_missed"),
    ];
    Letter {
        kind: "missed",
        tone: Tone::Bad,
        subject: format!("run missed: {schedule}, {late} late"),
        at: missed.noticed_at,
        title: format!("A scheduled run of the reconciler came {late} late."),
        lead: "It has been made up for and nothing is lost, but meanwhile nothing was verified.".to_owned(),
        sections: vec![Section { title: String::new(), blocks }],
        footer: vec![WHY.to_owned()],
    }
    .render()
}

const NOTHING: &str = "Nothing is to be done.";

pub(super) const WHY: &str = "You get this because your address is in ALERT_TO of a Firstcome reconciler.";

/// The mail when MySQL can't be reached: it is sent past the outbox, which is in MySQL.
pub fn database_gone(reason: &str, now: DateTime<Utc>, links: &Links) -> anyhow::Result<Rendered> {
    let reason = clean::line(reason, clean::LONGEST);
    let blocks = vec![
        Block::Todo("Bring MySQL back. Nothing else is to be done: the reconciler goes on by itself.".to_owned()),
        Block::List(vec![format!("Seen: {}", time(now)), format!("Reason: {reason}")]),
        Block::Paragraph(
            "Claims are still accepted and wait in Kafka. Until MySQL is back no pass is recorded and no other mail can be \
             queued; this one was sent past the outbox, and is repeated after the cooldown."
                .to_owned(),
        ),
        once("Once MySQL is back", None, ""),
        links.section("mysql_unreachable"),
    ];
    Letter {
        kind: "action",
        tone: Tone::Bad,
        subject: format!("action needed: MySQL cannot be used ({})", clean::line(&reason, 60)),
        at: now,
        title: "The reconciler cannot use MySQL.".to_owned(),
        lead: "Nothing is lost, but rows come late.".to_owned(),
        sections: vec![Section { title: String::new(), blocks }],
        footer: vec![WHY.to_owned()],
    }
    .render()
}

/// The notice that MySQL is back.
pub fn database_back(since: DateTime<Utc>, now: DateTime<Utc>) -> anyhow::Result<Rendered> {
    let lasted = duration(now - since);
    Letter {
        kind: "resolved",
        tone: Tone::Good,
        subject: format!("resolved: MySQL can be used again, after {lasted}"),
        at: now,
        title: format!("The reconciler can use MySQL again, after {lasted}."),
        lead: NOTHING.to_owned(),
        sections: vec![Section {
            title: String::new(),
            blocks: vec![Block::List(vec![
                format!("Gone: {}", time(since)),
                format!("Back: {}, after {lasted}", time(now)),
            ])],
        }],
        footer: vec![WHY.to_owned()],
    }
    .render()
}

/// The mail of `test-email`.
pub fn test(now: DateTime<Utc>, host: &str) -> anyhow::Result<Rendered> {
    Letter {
        kind: "test",
        tone: Tone::Good,
        subject: "test: mail arrives".to_owned(),
        at: now,
        title: "Mail from the Firstcome reconciler arrives here.".to_owned(),
        lead: NOTHING.to_owned(),
        sections: vec![Section {
            title: String::new(),
            blocks: vec![
                Block::Paragraph(format!("Sent {} from {}.", time(now), clean::line(host, 100))),
                Block::Paragraph("This is how numbers and commands look:".to_owned()),
                Block::Table(Table {
                    head: vec![String::new(), "before".to_owned(), "after".to_owned()],
                    rows: vec![cells(["Rows", "97", "100"]), cells(["Failed claims", "2", "0"])],
                }),
                once("A pass by hand", None, ""),
            ],
        }],
        footer: vec![WHY.to_owned()],
    }
    .render()
}
