//! The daily digest: problems first, then runs, repairs and finished drops.

use firstcome_shared::mysql::digest::{DailyDigest, DigestDrop, LostMessages, OpenAlert};
use lettre::message::Mailbox;

use super::duration;
use super::letter::{Block, Letter, Rendered, time};
use super::links::{Links, once, section};
use crate::report::{AlertKind, Kind};
use crate::wording::{self, capital, count, grouped, line};

/// Writes the daily digest.
pub fn daily(day: &DailyDigest, links: &Links) -> anyhow::Result<Rendered> {
    let total: u64 = day.runs.iter().map(|(_, n)| n).sum();
    let without = day.lost.iter().filter(|lost| lost.sent == 0).count() as u64;
    let mut parts = Vec::new();
    if total == 0 {
        parts.push("no pass has ended".to_owned());
    }
    for (n, one, many) in [
        (without, "address gets nothing", "addresses get nothing"),
        (day.broken, "promise is broken", "promises are broken"),
        (day.open_total, "problem open", "problems open"),
    ] {
        parts.extend((n > 0).then(|| count(n, one, many)));
    }
    let is_bad = !parts.is_empty() || !day.lost.is_empty();
    if parts.is_empty() {
        parts.push("nothing is open".to_owned());
    }
    let state = parts.join(", ");
    let runs = count(total, "run", "runs");
    let exact = count(day.sealed_total, "drop exact", "drops exact");
    let mut blocks = vec![Block::Title("Problems".to_owned())];
    problems(day, links, &mut blocks);
    blocks.push(Block::Title("Runs and repairs".to_owned()));
    blocks.push(Block::List(runs_and_repairs(day)));
    blocks.push(Block::Title("Finished drops".to_owned()));
    let sealed = day.sealed.iter().map(finished).collect();
    let none = "No drop was finished in this time.";
    blocks.push(list_or(none, sealed, day.sealed_total));
    Letter {
        kind: ["digest", "daily digest"],
        is_bad,
        subject: format!("{state} · {runs} · {exact}"),
        at: day.to,
        title: capital(&format!("{state}, {runs}.")),
        lead: format!("From {} to {}.", time(day.from), time(day.to)),
        blocks,
        footer: Vec::new(),
    }
    .render()
}

/// Undelivered mails come first, because only the reader can tell their recipients.
fn problems(day: &DailyDigest, links: &Links, blocks: &mut Vec<Block>) {
    if !day.lost.is_empty() {
        blocks.push(Block::List(day.lost.iter().map(lost).collect()));
        let todo = "Check ALERT_TO and WEBHOOK_URLS, then run: firstcome-reconciler test-email, and test-webhook";
        blocks.push(Block::Todo(todo.to_owned()));
    }
    if day.runs.is_empty() {
        let todo = "Find out now why the reconciler does not run. If Redis restarts meanwhile, nobody can claim.";
        blocks.push(Block::Todo(todo.to_owned()));
        blocks.extend(links.on_page("Run a pass", "/runs"));
        blocks.push(once("A pass by hand", None, ""));
        blocks.push(section(AlertKind::RunMissed.facts().word));
    }
    let nothing = match (day.runs.is_empty(), day.broken) {
        (true, _) => "No problem is recorded, but no pass ran.",
        (false, 0) => "Nothing needs a person.",
        (false, _) => "No alert is open.",
    };
    let open = day.open.iter().map(|alert| open(alert, day)).collect();
    blocks.push(list_or(nothing, open, day.open_total));
    blocks.extend(links.firing());
    if day.broken > 0 {
        let broken = count(day.broken, "promise is broken", "promises are broken");
        blocks.push(Block::Paragraph(format!(
            "{broken}: these people have no coupon."
        )));
        blocks.push(section(Kind::BrokenPromise.facts().word));
    }
}

fn list_or(nothing: &str, mut lines: Vec<String>, total: u64) -> Block {
    if lines.is_empty() {
        return Block::Paragraph(nothing.to_owned());
    }
    let more = total.saturating_sub(lines.len() as u64);
    lines.extend((more > 0).then(|| format!("and {} more", grouped(more))));
    Block::List(lines)
}

fn lost(lost: &LostMessages) -> String {
    let target = match lost.target.parse::<Mailbox>() {
        Ok(to) => format!("mail to {}", wording::person(to.email.as_ref())),
        Err(_) => format!("webhook {}", line(&lost.target, 60)),
    };
    let rest = match lost.sent {
        0 => "that address gets nothing".to_owned(),
        sent => count(sent, "other arrived", "others arrived"),
    };
    let given_up = grouped(lost.given_up);
    format!("{target}: {given_up} refused or given up; {rest}")
}

fn open(alert: &OpenAlert, day: &DailyDigest) -> String {
    let mut text = String::new();
    if let Some(drop) = alert.drop_id {
        let name = alert.coupon_name.as_ref().map(|name| line(name, 60));
        let name = name.map(|name| format!("{name}, ")).unwrap_or_default();
        text = format!("{text}{name}drop {drop}: ");
    }
    let lasts = duration(day.to - alert.since);
    text = format!(
        "{text}{}, for {lasts}",
        line(&alert.summary, wording::LONGEST)
    );
    if let Some(by) = &alert.acknowledged_by {
        text = format!("{text}, taken on by {}", line(by, 60));
    }
    format!("{text} (alert {})", alert.id)
}

fn finished(drop: &DigestDrop) -> String {
    let name = line(&drop.coupon_name, 60);
    let [rows, quantity] = [drop.rows, drop.quantity].map(|n| grouped(n.into()));
    let place = format!("coupon {}, drop {}", drop.coupon_id, drop.drop_id);
    format!("{name} ({place}): {rows} of {quantity} issued, verified and sealed")
}

fn runs_and_repairs(day: &DailyDigest) -> Vec<String> {
    let listed = |all: &[(String, u64)], none: &str| {
        let parts = all
            .iter()
            .map(|(word, n)| format!("{} {word}", grouped(*n)));
        let parts = parts.collect::<Vec<_>>().join(", ");
        if parts.is_empty() {
            none.to_owned()
        } else {
            parts
        }
    };
    let runs = listed(&day.runs, "none ended, so nothing was verified");
    let ago = |at| format!("{}, {} before this mail", time(at), duration(day.to - at));
    let last = day.last_success_at.map(ago);
    let last = last.unwrap_or_else(|| "no run has ever ended clean or repaired".to_owned());
    let [sent, waiting, untried] = day.messages.map(grouped);
    let mut lines = vec![
        format!("Runs: {runs}"),
        format!("The last that ended clean or repaired: {last}"),
        format!("Repaired: {}", listed(&day.repairs, "nothing")),
        format!("Mails and webhooks: {sent} sent, {waiting} waiting"),
    ];
    if day.messages[2] > 0 {
        lines.push(format!(
            "Never sent: {untried} from before SMTP_URL or their address was set; the table outbox has them"
        ));
    }
    if day.redis_is_managed {
        let managed = "REDIS_DURABILITY is managed: that Redis keeps what it promised is the operator's word, and is not checked";
        lines.push(managed.to_owned());
    }
    lines
}
