//! Renders the daily digest: problems first, then runs, finished drops and totals.

use chrono::{DateTime, Utc};
use firstcome_shared::mysql::digest::LostMails;
pub use firstcome_shared::mysql::digest::{DailyDigest, DigestDrop, OpenAlert};
use lettre::message::Mailbox;

use super::groups::cells;
use super::lead::duration;
use super::letter::{Block, Letter, Links, MailKind, MailTone, Rendered, Section, Table, once};
use super::notices::footer;
use super::pass::time;
use crate::wording;

/// Maximum number of lines in a list.
const LINES: usize = 20;

/// Renders the daily digest.
pub fn daily(day: &DailyDigest, links: &Links) -> anyhow::Result<Rendered> {
    let total: u64 = day.runs.iter().map(|(_, n)| n).sum();
    let problems = day.open_total;
    let nobody_looked = total == 0;
    let broken = (day.broken > 0).then(|| broken(day.broken));
    let without_mail = day.lost_mails.iter().filter(|lost| lost.sent == 0).count();
    let without_mail = (without_mail > 0).then(|| {
        wording::count(
            without_mail,
            "address gets no mail",
            "addresses get no mail",
        )
    });
    let state = match (problems, nobody_looked) {
        (_, true) => "no pass has ended".to_owned(),
        (0, _) if broken.is_none() && without_mail.is_none() => "nothing is open".to_owned(),
        (n, _) => {
            let open =
                (n > 0).then(|| format!("{} open", wording::count(n, "problem", "problems")));
            without_mail
                .into_iter()
                .chain(broken)
                .chain(open)
                .collect::<Vec<_>>()
                .join(", ")
        }
    };
    let runs = wording::count(total, "run", "runs");
    Letter {
        kind: MailKind::Digest,
        tone: if problems > 0 || day.broken > 0 || nobody_looked || !day.lost_mails.is_empty() {
            MailTone::Bad
        } else {
            MailTone::Good
        },
        subject: format!(
            "{state} · {runs} · {}",
            wording::count(day.sealed_total, "drop exact", "drops exact")
        ),
        at: day.to,
        title: wording::capital(&format!("{state}, {runs}.")),
        lead: format!("From {} to {}.", time(day.from), time(day.to)),
        sections: vec![
            open(day, links),
            runs_section(day, total),
            successes(day),
            totals(day),
        ],
        footer: footer(nobody_looked || day.open_total > 0),
    }
    .render()
}

fn open(day: &DailyDigest, links: &Links) -> Section {
    let mut blocks = lost_mails(day);
    let nobody_looked = day.runs.is_empty();
    if nobody_looked {
        let todo = "Find out now why the reconciler does not run. If Redis restarts meanwhile, nobody can claim.";
        blocks.push(Block::Todo(todo.to_owned()));
        blocks.push(once("A pass by hand", None, ""));
        blocks.push(Links::section("run_missed"));
    }
    if day.open.is_empty() && day.broken == 0 && day.lost_mails.is_empty() {
        let nothing = if nobody_looked {
            "No problem is recorded, but no pass ran."
        } else {
            "Nothing needs a person."
        };
        blocks.push(Block::Paragraph(nothing.to_owned()));
    }
    if nobody_looked {
        blocks.extend(links.on_page("Run a pass, in a browser", "/runs"));
    } else if day.open.is_empty() {
        blocks.extend(links.open_problems());
    }
    if !day.open.is_empty() {
        let mut lines: Vec<String> = day
            .open
            .iter()
            .take(LINES)
            .map(|alert| open_line(alert, day.to))
            .collect();
        let more = day.open_total.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("and {} more", wording::grouped(more)));
        }
        blocks.push(Block::List(lines));
        blocks.extend(links.firing());
    }
    if day.broken > 0 {
        blocks.push(Block::Paragraph(format!(
            "{}: these people have no coupon.",
            wording::capital(&broken(day.broken))
        )));
        blocks.extend(links.on_page("These people, by alert, in a browser", "/alerts"));
        blocks.push(Links::section("broken_promise"));
    }
    Section {
        title: "Problems".to_owned(),
        blocks,
    }
}

/// Lists recipients whose mails were given up. Comes first, because only the reader can inform
/// them.
fn lost_mails(day: &DailyDigest) -> Vec<Block> {
    if day.lost_mails.is_empty() {
        return Vec::new();
    }
    let line = |lost: &LostMails| {
        let address = lost
            .recipient
            .parse::<Mailbox>()
            .map(|to| to.email.to_string())
            .unwrap_or_default();
        let rest = match lost.sent {
            0 => "that address gets nothing".to_owned(),
            sent => wording::count(sent, "other arrived", "others arrived"),
        };
        let address = wording::person(&address);
        let one = format!("mail to {address} was");
        let many = format!("mails to {address} were");
        format!(
            "{} refused or given up: {rest}",
            wording::count(lost.given_up, &one, &many)
        )
    };
    let todo = "Check the address in ALERT_TO, then run: firstcome-reconciler test-email";
    vec![
        Block::List(day.lost_mails.iter().map(line).collect()),
        Block::Todo(todo.to_owned()),
    ]
}

fn broken(promises: u64) -> String {
    wording::count(promises, "promise is broken", "promises are broken")
}

fn open_line(alert: &OpenAlert, now: DateTime<Utc>) -> String {
    let place = match (&alert.coupon_name, alert.drop_id) {
        (Some(name), Some(drop)) => format!("{} (drop {drop}): ", wording::line(name, 60)),
        (None, Some(drop)) => format!("drop {drop}: "),
        _ => String::new(),
    };
    let taken = alert
        .acknowledged_by
        .as_ref()
        .map(|by| format!(", taken on by {}", wording::line(by, 60)));
    format!(
        "{place}{}, for {}{} (alert {})",
        wording::line(&alert.summary, wording::LONGEST),
        duration(now - alert.since),
        taken.unwrap_or_default(),
        alert.id
    )
}

fn runs_section(day: &DailyDigest, total: u64) -> Section {
    let mut blocks = Vec::new();
    if total == 0 {
        blocks.push(Block::Paragraph(
            "No run ended in this time, so nothing was verified.".to_owned(),
        ));
    } else {
        let rows = day
            .runs
            .iter()
            .map(|(status, n)| cells([status.as_str(), &wording::grouped(*n)]))
            .collect();
        blocks.push(Block::Table(Table {
            head: vec!["Ended".to_owned(), "runs".to_owned()],
            rows,
        }));
    }
    let last = day.last_success_at.map_or_else(
        || "No run has ever ended clean or repaired.".to_owned(),
        |at| {
            format!(
                "The last that ended clean or repaired: {}, {} before this mail.",
                time(at),
                duration(day.to - at)
            )
        },
    );
    blocks.push(Block::Paragraph(last));
    Section {
        title: "Runs".to_owned(),
        blocks,
    }
}

fn successes(day: &DailyDigest) -> Section {
    let mut blocks = Vec::new();
    if day.sealed.is_empty() {
        blocks.push(Block::Paragraph(
            "No drop was finished in this time.".to_owned(),
        ));
    } else {
        let lines = day.sealed.iter().take(LINES).map(|drop| {
            let name = wording::line(&drop.coupon_name, 60);
            let rows = wording::grouped(drop.rows.into());
            let quantity = wording::grouped(drop.quantity.into());
            format!(
                "{name} (coupon {}, drop {}): {rows} of {quantity} issued, verified and sealed",
                drop.coupon_id, drop.drop_id
            )
        });
        let mut lines: Vec<String> = lines.collect();
        let more = day.sealed_total.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("and {} more", wording::grouped(more)));
        }
        blocks.push(Block::List(lines));
    }
    Section {
        title: "Finished drops".to_owned(),
        blocks,
    }
}

fn totals(day: &DailyDigest) -> Section {
    let mut blocks = Vec::new();
    if day.findings.is_empty() {
        blocks.push(Block::Paragraph("No drift was found.".to_owned()));
    } else {
        let rows = day.findings.iter().map(|(kind, found, repaired)| {
            cells([
                kind.as_str(),
                &wording::grouped(*found),
                &wording::grouped(*repaired),
            ])
        });
        let head = ["Drift", "found", "repaired"].map(str::to_owned).to_vec();
        blocks.push(Block::Table(Table {
            head,
            rows: rows.collect(),
        }));
    }
    let [users, rows, _] = day.examined.map(wording::grouped);
    let failed = wording::count(day.examined[2], "failed claim", "failed claims");
    let [sent, waiting, given_up, untried] = day.mails.map(wording::grouped);
    let mut lines = vec![
        format!("Examined, all runs together: {users} people in Redis, {rows} rows, {failed}"),
        format!("Mails: {sent} sent, {waiting} waiting, {given_up} given up"),
    ];
    if day.mails[3] > 0 {
        lines.push(format!("Never sent: {untried} mails from before SMTP_URL was set; the table mail_outbox has them"));
    }
    if day.redis_is_managed {
        lines.push(
            "REDIS_DURABILITY is managed: that Redis keeps what it promised is the operator's word, and is not checked"
                .to_owned(),
        );
    }
    blocks.push(Block::List(lines));
    Section {
        title: "Totals".to_owned(),
        blocks,
    }
}
