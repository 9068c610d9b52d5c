//! The daily digest: problems first, then runs, repairs and finished drops.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::ListedAlert;
use firstcome_shared::report::wording::{capital, count, grouped, line, person};
use firstcome_shared::report::{AlertKind, Kind};
use firstcome_shared::subject::Subject;
use lettre::message::Mailbox;

use super::document::{Block, Document, Rendered, time};
use super::links::Links;
use super::phrases::{bounded, duration, placed, things, with_rest};
use super::remedy::open_problems;
use crate::queries::digest::DailyDigest;

/// Maximum number of open problems, of lost targets, and of lines about repairs.
const LINES: usize = 20;

/// Maximum number of campaigns that the subject names.
const FEW: u64 = 3;

/// Writes the daily digest.
pub fn daily(day: &DailyDigest, links: &Links) -> anyhow::Result<Rendered> {
    let total: u64 = day.runs.iter().map(|(_, n)| n).sum();
    // The digest itself says whether passes run, and it may be late itself.
    let late = AlertKind::RunMissed.word();
    let open: Vec<String> = day
        .open
        .iter()
        .filter(|it| it.alert.kind != late)
        .map(|alert| open_alert(alert, day, links))
        .collect();
    let mut parts = Vec::new();
    parts.extend((total == 0).then(|| "no pass has ended".to_owned()));
    for (n, one, many) in [
        (
            day.lost.len() as u64,
            "address misses mails",
            "addresses miss mails",
        ),
        (day.broken, "promise is broken", "promises are broken"),
        (open.len() as u64, "problem open", "problems open"),
    ] {
        parts.extend((n > 0).then(|| count(n, one, many)));
    }
    let is_bad = !parts.is_empty();
    if !is_bad {
        parts.push("nothing is open".to_owned());
    }
    let state = parts.join(", ");
    let names = campaigns(day, links);
    let campaigns = names.map_or_else(String::new, |names| format!(" · {names}"));
    let runs = count(total, "run", "runs");
    let exact = match day.sealed_total {
        0 => String::new(),
        sealed => format!(" · {}", count(sealed, "drop exact", "drops exact")),
    };
    let mut blocks = problems(day, open, links);
    blocks.extend(runs_and_repairs(day, links));
    match links.subject() {
        Subject::Drop => blocks.extend(finished_drops(day)),
        // Campaigns are never sealed.
        Subject::Campaign => {}
    }
    Document {
        kind: ["digest", "daily digest"],
        is_bad,
        subject: format!("{state}{campaigns} · {runs}{exact}"),
        at: day.to,
        title: capital(&format!("{state}, {runs}.")),
        lead: format!("From {} to {}.", time(day.from), time(day.to)),
        blocks,
        footer: Vec::new(),
    }
    .render()
}

/// Lists first the targets whose messages were given up, because only the reader can inform their
/// recipients.
fn problems(day: &DailyDigest, open: Vec<String>, links: &Links) -> Vec<Block> {
    let mut blocks = vec![Block::Title("Problems".to_owned())];
    let lost = day.lost.iter().map(|(target, given_up)| {
        let given_up = grouped(*given_up);
        format!(
            "{}: {given_up} refused, or not sent for a day",
            masked(target)
        )
    });
    if let Some(lost) = Block::list(bounded(lost.collect(), LINES)) {
        blocks.push(lost);
        let to_do = "Check ALERT_TO, SMTP_URL and WEBHOOK_URLS, then run: \
            firstcome-reconciler test-email, and test-webhook";
        blocks.push(Block::Todo(to_do.to_owned()));
    }
    if day.runs.is_empty() {
        blocks.extend(without_runs(links));
    }
    let nothing = match (day.runs.is_empty(), day.broken) {
        (true, _) => "No problem is recorded, but no pass ran.",
        (false, 0) if day.lost.is_empty() => "Nothing needs an operator.",
        (false, _) => "No alert is open.",
    };
    let open = Block::list(bounded(open, LINES));
    blocks.push(open.unwrap_or_else(|| Block::Paragraph(nothing.to_owned())));
    blocks.extend(open_problems(links));
    if day.broken > 0 {
        let broken = count(day.broken, "promise is broken", "promises are broken");
        let what = format!("{broken}: these users have no coupon.");
        blocks.push(Block::Paragraph(what));
        blocks.push(links.section(Kind::BrokenPromise.as_str()));
    }
    blocks
}

fn without_runs(links: &Links) -> Vec<Block> {
    let find_out = "Find out now why the reconciler does not run.";
    let (to_do, command) = match &links.file {
        Some(file) => (
            find_out.to_owned(),
            format!("firstcome-reconciler attach {file} --once"),
        ),
        None => (
            format!("{find_out} If Redis restarts meanwhile, nobody can claim."),
            "firstcome-reconciler once".to_owned(),
        ),
    };
    let mut blocks = vec![Block::Todo(to_do)];
    blocks.extend(links.screen("/runs", "Run a pass"));
    blocks.push(Block::command("A pass by hand", command));
    blocks.push(links.section(AlertKind::RunMissed.word()));
    blocks
}

fn runs_and_repairs(day: &DailyDigest, links: &Links) -> [Block; 2] {
    let runs: Vec<String> = day
        .runs
        .iter()
        .map(|(word, n)| format!("{} {word}", grouped(*n)))
        .collect();
    let runs = match runs.as_slice() {
        [] => "none ended, so nothing was verified".to_owned(),
        ended => ended.join(", "),
    };
    let last = match day.last_success_at {
        Some(at) => format!("{}, {} before this mail", time(at), duration(day.to - at)),
        None => "no run has ever ended clean or repaired".to_owned(),
    };
    let [sent, waiting] = [day.sent, day.waiting].map(grouped);
    let mut items = vec![
        format!("Runs: {runs}"),
        format!("The last that ended clean or repaired: {last}"),
    ];
    items.extend(bounded(repairs(day, links), LINES));
    items.push(format!(
        "Mails and webhooks: {sent} sent, {waiting} waiting"
    ));
    [
        Block::Title("Runs and repairs".to_owned()),
        Block::List(items),
    ]
}

/// Lists the repairs; for an attached system, by campaign.
fn repairs(day: &DailyDigest, links: &Links) -> Vec<String> {
    if day.repairs.is_empty() {
        return vec!["Repaired: nothing".to_owned()];
    }
    let campaigns = links.campaigns.values();
    let names: HashMap<DropId, &str> = campaigns
        .map(|it| (DropId::of_campaign(&it.name, None), it.name.as_str()))
        .collect();
    let mut by_name: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
    for it in &day.repairs {
        let of = match (links.subject(), names.get(&it.drop_id)) {
            (Subject::Drop, _) => String::new(),
            (Subject::Campaign, Some(name)) => format!(" in {}", line(name, 60)),
            (Subject::Campaign, None) => {
                " in campaigns of `each`, or no longer in the file".to_owned()
            }
        };
        let repaired = by_name.entry(of).or_default();
        *repaired.entry(&it.kind).or_default() += it.number;
    }
    let mut lines = Vec::new();
    for (of, repaired) in by_name {
        let repaired = repaired.into_iter();
        let kinds: Vec<String> = repaired
            .map(|(kind, number)| things(kind, number))
            .collect();
        lines.push(format!("Repaired{of}: {}", kinds.join(", ")));
    }
    lines
}

fn finished_drops(day: &DailyDigest) -> [Block; 2] {
    let sealed = day.sealed.iter().map(|drop| {
        let name = line(&drop.coupon_name, 60);
        let [rows, quantity] = [drop.rows.into(), drop.quantity.into()].map(grouped);
        format!(
            "{name} (coupon {}, drop {}): {rows} of {quantity} issued, verified and sealed",
            drop.coupon_id, drop.drop_id
        )
    });
    let items = with_rest(sealed.collect(), day.sealed_total);
    let none = || Block::Paragraph("No drop was finished in this time.".to_owned());
    [
        Block::Title("Finished drops".to_owned()),
        Block::list(items).unwrap_or_else(none),
    ]
}

/// Names the campaigns with problems or, if there are none, all campaigns. If they are many, only
/// counts them.
fn campaigns(day: &DailyDigest, links: &Links) -> Option<String> {
    let concerned = day.open.iter().filter_map(|it| it.alert.coupon_id);
    let mut names: BTreeSet<&str> = concerned
        .filter_map(|id| links.campaign(Some(id)))
        .map(|it| it.name.as_str())
        .collect();
    if names.is_empty() {
        names = links
            .campaigns
            .values()
            .map(|it| it.name.as_str())
            .collect();
    }
    let many = names.len() as u64;
    match many {
        0 => None,
        1..=FEW => {
            let names: Vec<String> = names.into_iter().map(|name| line(name, 40)).collect();
            Some(names.join(", "))
        }
        _ => Some(count(many, "campaign", "campaigns")),
    }
}

fn masked(target: &str) -> String {
    match target.parse::<Mailbox>() {
        Ok(to) => format!("mail to {}", person(to.email.as_ref())),
        Err(_) => format!("webhook {}", line(target, 60)),
    }
}

fn open_alert(listed: &ListedAlert, day: &DailyDigest, links: &Links) -> String {
    let alert = &listed.alert;
    let known = listed.coupon_name.as_ref().map(|name| line(name, 60));
    let name = match alert.drop_id {
        Some(_) => known.or_else(|| links.name(alert.coupon_id)),
        // The summary already says which campaign could not be compared.
        None => known,
    };
    let drop = alert.drop_id.and_then(DropId::label);
    let places: Vec<String> = name.into_iter().chain(drop).collect();
    let place = Some(places.join(", ")).filter(|place| !place.is_empty());
    let what = placed(place.as_deref(), &alert.summary);
    let lasts = duration(day.to - alert.first_seen_at);
    let by = alert
        .acknowledged_by
        .as_ref()
        .map(|by| format!(", taken on by {}", line(by, 60)))
        .unwrap_or_default();
    format!("{what}, for {lasts}{by} (alert {})", listed.id)
}
