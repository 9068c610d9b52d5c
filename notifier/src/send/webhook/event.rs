//! Webhook events: what is mailed about alerts and repairs, and drops that are finished. They
//! contain no user IDs.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::alerts::{Alert, Notice, NoticeReason};
use crate::mails::{AlertMail, Links, Rendered};
use crate::report::DropReport;
use crate::wording::{LONGEST, grouped, line};

/// What a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The event as JSON, signed as standardwebhooks.com specifies.
    Signed,
    /// A line of text, as Slack, Mattermost and Google Chat want it.
    Text,
    Discord,
    Teams,
}

impl Format {
    pub(crate) fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let is_in = |domains: &[&str]| {
            let mut domains = domains.iter();
            domains.any(|it| host == *it || host.ends_with(&format!(".{it}")))
        };
        if is_in(&[
            "hooks.slack.com",
            "hooks.slack-gov.com",
            "chat.googleapis.com",
        ]) {
            Self::Text
        } else if is_in(&["discord.com", "discordapp.com"]) {
            Self::Discord
        } else if is_in(&[
            "webhook.office.com",
            "logic.azure.com",
            "api.powerplatform.com",
        ]) {
            Self::Teams
        } else {
            Self::Signed
        }
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// The header `webhook-id`. The outbox accepts each only once.
    pub(crate) id: String,
    /// The `type` of the body.
    pub(crate) kind: &'static str,
    at: DateTime<Utc>,
    data: Value,
    /// The event for people: a sentence, and a link if the page's address is known.
    text: String,
}

impl Event {
    fn new(kind: &'static str, at: DateTime<Utc>, data: Value, text: &str) -> Self {
        Self {
            id: format!("evt_{}", Uuid::now_v7().simple()),
            kind,
            at,
            data,
            text: line(text, 2 * LONGEST),
        }
    }

    /// Returns the body that is posted.
    pub(crate) fn body(&self, format: Format) -> String {
        let text = &self.text;
        match format {
            Format::Signed => {
                json!({"type": self.kind, "timestamp": instant(self.at), "data": self.data})
            }
            Format::Text => json!({"text": text}),
            // Nobody is notified by a name in the text.
            Format::Discord => json!({"content": text, "allowed_mentions": {"parse": []}}),
            Format::Teams => json!({"type": "message", "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {
                    "type": "AdaptiveCard", "version": "1.4",
                    "body": [{"type": "TextBlock", "text": text, "wrap": true}],
                },
            }]}),
        }
        .to_string()
    }

    /// Creates the event of `test-webhook`.
    pub(super) fn test(at: DateTime<Utc>) -> Self {
        let summary = "Webhooks of the Firstcome reconciler arrive here.";
        Self::new("test", at, json!({"summary": summary}), summary)
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn text(label: &str, summary: &str, more: &str, link: Option<String>) -> String {
    let link = link.unwrap_or_default();
    format!("[firstcome] {label}: {summary}. {more} {link}")
}

/// The events about everything that a mail says.
pub(crate) fn of_mail(mail: &AlertMail<'_>, written: &Rendered) -> Vec<Event> {
    let id = |name: &String| mail.ids.get(name).copied();
    let drops = mail.run.map_or(&[][..], |run| &run.drops);
    let report = |drop| drops.iter().find(|report| Some(report.drop_id) == drop);
    let problems = mail.problems.iter().map(|notice| {
        let problem = &notice.problem;
        of_problem(
            notice,
            id(&problem.name),
            report(problem.drop_id),
            mail.links,
            mail.now,
        )
    });
    let resolved = mail.resolved.iter();
    let resolved = resolved.map(|alert| of_resolved(alert, id(&alert.name), mail.links, mail.now));
    let number: u64 = mail.repairs.iter().map(|row| u64::from(row.number)).sum();
    let repaired = (number > 0).then(|| {
        let run = mail.run.map(|run| run.run_id.as_str());
        let data = json!({
            "kind": "repaired", "status": "repaired", "summary": written.summary, "repairs": number,
            "run_id": run,
        });
        let link = run.and_then(|run| mail.links.page(&format!("/runs/{run}")));
        let text = text("repaired", &written.summary, "", link);
        Event::new("alert.repaired", mail.now, data, &text)
    });
    problems.chain(resolved).chain(repaired).collect()
}

/// The event of a problem.
pub(crate) fn of_problem(
    notice: &Notice,
    alert: Option<i64>,
    report: Option<&DropReport>,
    links: &Links,
    now: DateTime<Utc>,
) -> Event {
    let problem = &notice.problem;
    let facts = problem.kind.facts();
    let status = match notice.reason {
        NoticeReason::New => "new",
        NoticeReason::Changed => "changed",
        NoticeReason::Repeat => "repeated",
    };
    let coupon = report.map(|report| line(&report.coupon_name, 100));
    let place = coupon.as_ref().map(|name| format!(" · {name}"));
    let summary = format!("{}{}", problem.summary, place.unwrap_or_default());
    let link = alert.and_then(|id| links.page(&Links::alert(id)));
    let data = json!({
        "alert_id": alert, "kind": facts.word, "status": status, "summary": problem.summary,
        "users_notice": facts.users, "what_to_do": facts.to_do, "cases": problem.size,
        "coupon_id": problem.coupon_id.map(|id| id.0), "coupon": coupon,
        "drop_id": problem.drop_id.map(|id| id.0),
        "quantity": report.map(|report| report.quantity),
        "issued": report.filter(|report| !report.unconfirmed).map(|report| report.after.rows),
        "since": instant(notice.since),
    });
    let text = text("action needed", &summary, facts.users, link);
    Event::new("alert.firing", now, data, &text)
}

/// The event of a problem that is over.
pub(crate) fn of_resolved(
    alert: &Alert,
    id: Option<i64>,
    links: &Links,
    now: DateTime<Utc>,
) -> Event {
    let data = json!({
        "alert_id": id, "kind": alert.kind, "status": "resolved", "summary": alert.summary,
        "coupon_id": alert.coupon_id.map(|id| id.0), "drop_id": alert.drop_id.map(|id| id.0),
        "since": instant(alert.first_seen_at), "resolved_at": alert.resolved_at.map(instant),
    });
    let link = id.and_then(|id| links.page(&Links::alert(id)));
    let text = text("resolved", &alert.summary, "", link);
    Event::new("alert.resolved", now, data, &text)
}

/// The event that stands for so many more.
pub(crate) fn of_more(more: usize, links: &Links, now: DateTime<Utc>) -> Event {
    let summary = format!("{more} more alerts are new or over");
    let data = json!({"kind": "more", "status": "new", "alerts": more, "summary": summary});
    let text = text("action needed", &summary, "", links.page("/alerts"));
    Event::new("alert.firing", now, data, &text)
}

/// The event of a drop that was verified exact after it closed.
pub(crate) fn of_sealed(report: &DropReport, now: DateTime<Utc>) -> Event {
    let coupon = line(&report.coupon_name, 100);
    let [rows, quantity] = [report.after.rows, report.quantity.into()].map(grouped);
    let text = format!(
        "{coupon} (drop {}) is finished: {rows} of {quantity} issued.",
        report.drop_id
    );
    let data = json!({
        "coupon_id": report.coupon_id.0, "coupon": coupon, "drop_id": report.drop_id.0,
        "quantity": report.quantity, "issued": report.after.rows,
    });
    Event {
        // A drop is sealed once, however often its run is recorded.
        id: format!("evt_drop_sealed_{}", report.drop_id),
        ..Event::new("drop.sealed", now, data, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_get_a_text_in_their_format() {
        let event = Event::test(DateTime::UNIX_EPOCH);
        for (url, format, part) in [
            (
                "https://hooks.slack.com/services/T/B/x",
                Format::Text,
                "{\"text\":\"Webhooks",
            ),
            (
                "https://chat.googleapis.com/v1/spaces/x",
                Format::Text,
                "{\"text\":\"Webhooks",
            ),
            (
                "https://discord.com/api/webhooks/1/x",
                Format::Discord,
                "\"content\":\"Webhooks",
            ),
            (
                "https://x.webhook.office.com/webhookb2/x",
                Format::Teams,
                "AdaptiveCard",
            ),
            (
                "https://prod-1.westeurope.logic.azure.com/x",
                Format::Teams,
                "AdaptiveCard",
            ),
            (
                "https://notdiscord.com/x",
                Format::Signed,
                "\"type\":\"test\"",
            ),
        ] {
            assert_eq!(Format::of(&Url::parse(url).unwrap()), format, "{url}");
            assert!(event.body(format).contains(part), "{url}");
        }
    }
}
