//! The daily digest: problems first, then runs, repairs and finished drops.

use askama::Template;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::ListedAlert;
use firstcome_shared::mysql::digest::DailyDigest;
use lettre::message::Mailbox;

use super::document::{Document, Rendered, time};
use super::duration;
use super::links::Links;
use crate::report::AlertKind;
use crate::wording::{LONGEST, capital, count, line, person};

/// Maximum number of open problems.
const LINES: usize = 20;

#[derive(Template)]
#[template(path = "digest.txt")]
struct Digest<'a> {
    day: &'a DailyDigest,
    /// The file of an attached system, whose drops are never sealed.
    file: Option<&'a str>,
    /// Targets with messages that were given up, masked. They come first, because only the reader
    /// can tell their recipients.
    lost: Vec<(String, u64)>,
    open: Vec<String>,
}

/// Writes the daily digest.
pub fn daily(day: &DailyDigest, links: &Links) -> anyhow::Result<Rendered> {
    let total: u64 = day.runs.iter().map(|(_, n)| n).sum();
    // The digest itself says whether passes run, and it may be late itself.
    let late = AlertKind::RunMissed.word();
    let open = day.open.iter().filter(|it| it.alert.kind != late);
    let lost = day.lost.iter().map(|(to, n)| (masked(to), *n));
    let digest = Digest {
        day,
        file: links.file.as_deref(),
        lost: lost.collect(),
        open: open.map(|alert| open_alert(alert, day, links)).collect(),
    };
    let mut parts = Vec::new();
    parts.extend((total == 0).then(|| "no pass has ended".to_owned()));
    let lost = digest.lost.len() as u64;
    let open = digest.open.len() as u64;
    for (n, one, many) in [
        (lost, "address misses mails", "addresses miss mails"),
        (day.broken, "promise is broken", "promises are broken"),
        (open, "problem open", "problems open"),
    ] {
        parts.extend((n > 0).then(|| count(n, one, many)));
    }
    let is_bad = !parts.is_empty();
    if !is_bad {
        parts.push("nothing is open".to_owned());
    }
    let state = parts.join(", ");
    let runs = count(total, "run", "runs");
    let sealed = day.sealed_total;
    let exact = count(sealed, "drop exact", "drops exact");
    let exact = Some(format!(" · {exact}")).filter(|_| sealed > 0);
    Document {
        kind: ["digest", "daily digest"],
        is_bad,
        subject: format!("{state} · {runs}{}", exact.unwrap_or_default()),
        at: day.to,
        title: capital(&format!("{state}, {runs}.")),
        lead: format!("From {} to {}.", time(day.from), time(day.to)),
        blocks: links.blocks(&digest.render()?),
        footer: Vec::new(),
    }
    .render()
}

fn masked(target: &str) -> String {
    match target.parse::<Mailbox>() {
        Ok(to) => format!("mail to {}", person(to.email.as_ref())),
        Err(_) => format!("webhook {}", line(target, 60)),
    }
}

fn open_alert(listed: &ListedAlert, day: &DailyDigest, links: &Links) -> String {
    let alert = &listed.alert;
    let name = listed
        .coupon_name
        .as_ref()
        .map(|name| line(name, 60))
        .or_else(|| links.name(alert.coupon_id));
    let drop = alert.drop_id.and_then(DropId::label);
    let places: Vec<String> = name.into_iter().chain(drop).collect();
    let place = places.join(", ");
    let end = if place.is_empty() { "" } else { ": " };
    let what = line(&alert.summary, LONGEST);
    let lasts = duration(day.to - alert.first_seen_at);
    let by = alert
        .acknowledged_by
        .as_ref()
        .map(|by| format!(", taken on by {}", line(by, 60)))
        .unwrap_or_default();
    format!("{place}{end}{what}, for {lasts}{by} (alert {})", listed.id)
}
