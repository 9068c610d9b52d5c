//! Renders mails that are not about a pass: missed runs, outages of MySQL and Redis, webhooks,
//! tests.

use chrono::{DateTime, Utc};

use super::groups::cells;
use super::lead::duration;
use super::letter::{Block, Letter, MailKind, MailTone, Rendered, Section, Table};
use super::letter::{Links, once};
use super::pass::{COMMANDS, time};
use crate::report::FailureCause;
use crate::wording;

/// A run that did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedRun {
    /// The name of the schedule's setting, such as `RECONCILE_CRON`.
    pub schedule: String,
    /// When the first missed run was due.
    pub expected_at: DateTime<Utc>,
    /// When the miss was noticed.
    pub noticed_at: DateTime<Utc>,
    /// Why the run did not happen, for example because another pass was running.
    pub because: Option<String>,
}

/// Renders the mail about a missed run.
pub fn missed(missed: &MissedRun, links: &Links) -> anyhow::Result<Rendered> {
    let schedule = wording::line(&missed.schedule, 80);
    let late = duration(missed.noticed_at - missed.expected_at);
    let mut lines = vec![
        format!("Schedule: {schedule}"),
        format!("Due: {}", time(missed.expected_at)),
        format!("Noticed: {}, {late} later", time(missed.noticed_at)),
    ];
    let (todo, lead) = if let Some(because) = &missed.because {
        lines.push(format!("Now: {}", wording::line(because, wording::LONGEST)));
        (
            "See which process blocks it, below, as host:number. If that pass does not end within half an hour, end \
             its process: the next pass does its work.",
            "It starts when the running pass ends. Nothing is lost; until then, drops outside that pass are not verified.",
        )
    } else {
        (
            "Find out why the reconciler did not run then: it was stopped or restarted, or its host was asleep.",
            "It runs now. Nothing is lost, but in the meantime nothing was verified, and after a restart of Redis nobody could claim.",
        )
    };
    let blocks = with_runs(todo, lines, Vec::new(), links, "run_missed");
    let title = format!("A scheduled run of the reconciler is {late} late.");
    notice(PlainMail {
        kind: MailKind::Missed,
        subject: format!("{schedule}, {late} late"),
        at: missed.noticed_at,
        title: &title,
        lead,
        blocks,
    })
}

const NOTHING: &str = "Nothing needs to be done.";

const WHY: &str = "You get this because your address is in ALERT_TO of a Firstcome reconciler.";

/// Builds the instruction, the known facts, commands, and a reference to docs/OPERATIONS.md. A link
/// to the last runs comes first, because phones cannot run commands.
fn with_runs(
    todo: &str,
    known: Vec<String>,
    commands: Vec<Block>,
    links: &Links,
    section: &str,
) -> Vec<Block> {
    let mut blocks = vec![Block::Todo(todo.to_owned())];
    let mut runs = links.runs();
    let command = runs.pop();
    blocks.extend(runs);
    blocks.push(Block::List(known));
    blocks.extend(commands.into_iter().chain(command));
    blocks.push(Links::section(section));
    blocks
}

/// A mail with a single section.
struct PlainMail<'a> {
    kind: MailKind,
    subject: String,
    at: DateTime<Utc>,
    title: &'a str,
    lead: &'a str,
    blocks: Vec<Block>,
}

fn notice(mail: PlainMail<'_>) -> anyhow::Result<Rendered> {
    let is_good = matches!(mail.kind, MailKind::Resolved | MailKind::Test);
    let is_command = |block: &Block| matches!(block, Block::Command { .. });
    Letter {
        kind: mail.kind,
        tone: if is_good {
            MailTone::Good
        } else {
            MailTone::Bad
        },
        subject: mail.subject,
        at: mail.at,
        title: mail.title.to_owned(),
        lead: mail.lead.to_owned(),
        footer: footer(mail.blocks.iter().any(is_command)),
        sections: vec![Section {
            title: String::new(),
            blocks: mail.blocks,
        }],
    }
    .render()
}

pub(super) fn footer(has_commands: bool) -> Vec<String> {
    let commands = has_commands.then_some(COMMANDS);
    let lines = commands.into_iter().chain([WHY]);
    lines.map(str::to_owned).collect()
}

/// Renders the mail sent when MySQL cannot be reached. It bypasses the outbox, which is in MySQL.
pub fn database_gone(reason: &str, now: DateTime<Utc>, links: &Links) -> anyhow::Result<Rendered> {
    let reason = wording::line(
        &wording::plainly(Some(FailureCause::Mysql), reason),
        wording::LONGEST,
    );
    let mut blocks = vec![Block::Todo(
        "Bring MySQL back. The reconciler then continues automatically.".to_owned(),
    )];
    // Link to this screen, since the others need MySQL.
    blocks.extend(links.on_page("The last known state, in a browser", "/"));
    blocks.extend([
        Block::List(vec![format!("Seen: {}", time(now)), format!("Reason: {reason}")]),
        Block::Paragraph(
            "Until MySQL is back no pass is recorded, and no other mail can be queued. This mail was sent directly; while it lasts \
             it comes again every four hours."
                .to_owned(),
        ),
    ]);
    blocks.push(once(
        "Once MySQL is back, if you do not want to wait for the next pass",
        None,
        "",
    ));
    blocks.push(Links::section("mysql_unreachable"));
    let subject = format!("MySQL cannot be used ({})", wording::line(&reason, 60));
    let lead = "Claims are accepted as long as Kafka takes them, and wait there: no promise is lost, but people get their codes late.";
    notice(PlainMail {
        kind: MailKind::Action,
        subject,
        at: now,
        title: "The reconciler cannot use MySQL.",
        lead,
        blocks,
    })
}

/// Renders the mail sent when MySQL answers but the alerts of passes cannot be recorded. It
/// bypasses the outbox.
pub fn cannot_record(reason: &str, now: DateTime<Utc>, links: &Links) -> anyhow::Result<Rendered> {
    let reason = wording::line(reason, wording::LONGEST);
    let todo = "Look for what blocks MySQL: a long transaction, a full disk, a missing right. Until then look at the last runs \
                every hour.";
    let seen = vec![format!("Seen: {}", time(now)), format!("Reason: {reason}")];
    let blocks = with_runs(todo, seen, Vec::new(), links, "alerts_not_recorded");
    let subject = format!("alerts cannot be recorded ({})", wording::line(&reason, 60));
    notice(PlainMail {
        kind: MailKind::Action,
        subject,
        at: now,
        title: "The reconciler checks and repairs as usual, but it cannot save its alerts in MySQL.",
        lead: "Until it can, no mail comes about other problems. A mail says when this is over.",
        blocks,
    })
}

/// Renders the mail sent when MySQL is available again or alerts can be recorded again.
pub fn can_record(
    was_away: bool,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    links: &Links,
) -> anyhow::Result<Rendered> {
    over(
        if was_away {
            "MySQL can be used again"
        } else {
            "Alerts can be recorded again"
        },
        since,
        now,
        links,
    )
}

/// Renders the mail sent while admission is closed, or while no reconciler can reach Redis. In the
/// second case the APIs may still reach it.
pub fn admission_closed(
    is_closed: bool,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    links: &Links,
) -> anyhow::Result<Rendered> {
    let lasts = duration(now - since);
    let (subject, title, todo, what) = if is_closed {
        (
            format!("admission has been closed for {lasts}"),
            format!(
                "Claims have got 503 for {lasts}: Redis was away, or lost data and is not verified yet."
            ),
            "Look at the last runs: they say why Redis is not verified.",
            "Closed",
        )
    } else {
        (
            format!("Redis has not been reached for {lasts}"),
            format!(
                "The reconciler has not reached Redis for {lasts}. If the APIs cannot reach it either, claims get 503."
            ),
            "Check that Redis answers. If it does, check the connection between it and the reconciler.",
            "Not reached",
        )
    };
    let ask = Block::Command {
        what: "Ask Redis".to_owned(),
        line: "redis-cli -u \"$REDIS_URL\" ping".to_owned(),
    };
    let known = vec![format!("{what}: {}", time(since))];
    let mut blocks = with_runs(todo, known, vec![ask], links, "redis_lost");
    if let Some(first) = links.on_page("Closed coupons and unavailable stores, in a browser", "/") {
        blocks.insert(1, first);
    }
    notice(PlainMail {
        kind: MailKind::Action,
        subject,
        at: now,
        title: &title,
        lead: "Nobody who holds a coupon loses it. The reconciler opens each coupon automatically once it is verified.",
        blocks,
    })
}

/// Renders the mail sent when admission is open again, or when a reconciler sees it open after none
/// could reach Redis.
pub fn admission_open(
    was_closed: bool,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    links: &Links,
) -> anyhow::Result<Rendered> {
    let what = if was_closed {
        "Admission is open again"
    } else {
        "Redis can be reached, and admission is open"
    };
    over(what, since, now, links)
}

fn over(
    what: &str,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    links: &Links,
) -> anyhow::Result<Rendered> {
    let lasted = duration(now - since);
    let lines = vec![
        format!("From: {}", time(since)),
        format!("To: {}", time(now)),
    ];
    let subject = format!("{what}, after {lasted}");
    let title = format!("{subject}.");
    let blocks = [Block::List(lines)]
        .into_iter()
        .chain(links.open_problems())
        .collect();
    notice(PlainMail {
        kind: MailKind::Resolved,
        subject,
        at: now,
        title: &title,
        lead: NOTHING,
        blocks,
    })
}

/// Renders the mail sent when a receiver refuses to accept any more webhooks.
pub fn webhooks_off(target: &str, now: DateTime<Utc>) -> anyhow::Result<Rendered> {
    let target = wording::line(target, 100);
    let todo = "Remove the address from WEBHOOK_URLS, or repair the receiver; then restart the reconciler.";
    let blocks = vec![
        Block::Todo(todo.to_owned()),
        Block::List(vec![format!("Receiver: {target}"), format!("Seen: {}", time(now))]),
        Block::Paragraph(
            "Events from now on wait, for three days at most, and are posted after the restart. The refused event is \
             given up: send it again by hand."
                .to_owned(),
        ),
        Links::section("webhooks"),
    ];
    let title = format!(
        "{target} answered 410 Gone: nothing is posted there until the reconciler is restarted."
    );
    let subject = format!(
        "webhooks to {} are off (410 Gone)",
        wording::line(&target, 60)
    );
    notice(PlainMail {
        kind: MailKind::Action,
        subject,
        at: now,
        title: &title,
        lead: "Passes, mails and other receivers are not affected.",
        blocks,
    })
}

/// Renders the mail of `test-email`.
pub fn test(now: DateTime<Utc>, host: &str) -> anyhow::Result<Rendered> {
    let blocks = vec![
        Block::Paragraph(format!(
            "Sent {} from {}.",
            time(now),
            wording::line(host, 100)
        )),
        Block::Paragraph("This is how numbers and commands look:".to_owned()),
        Block::Table(Table {
            head: vec![String::new(), "before".to_owned(), "after".to_owned()],
            rows: vec![
                cells(["Rows", "97", "100"]),
                cells(["Failed claims", "2", "0"]),
            ],
        }),
        once("A pass by hand", None, ""),
    ];
    notice(PlainMail {
        kind: MailKind::Test,
        subject: "mail arrives".to_owned(),
        at: now,
        title: "Mail from the Firstcome reconciler arrives here.",
        lead: NOTHING,
        blocks,
    })
}
