//! Webhook events: what is mailed about alerts, and drops that are finished. They contain no user
//! IDs.

use chrono::{DateTime, SecondsFormat, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::DropReport;
use firstcome_shared::report::wording::{LONGEST, grouped, line};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::decide::Reason;
use crate::mails::{AlertMail, DescribedDrop, Links, Section};

/// The format that a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The event as JSON, signed as standardwebhooks.com specifies.
    Signed,
    /// A line of text, as Slack and Google Chat want it.
    Text,
    Discord,
    Teams,
}

/// The hosts of chats, which want a text, with their formats. Their subdomains count, too.
const CHATS: [(&str, Format); 8] = [
    ("hooks.slack.com", Format::Text),
    ("hooks.slack-gov.com", Format::Text),
    ("chat.googleapis.com", Format::Text),
    ("discord.com", Format::Discord),
    ("discordapp.com", Format::Discord),
    ("webhook.office.com", Format::Teams),
    ("logic.azure.com", Format::Teams),
    ("api.powerplatform.com", Format::Teams),
];

impl Format {
    pub(crate) fn for_url(url: &Url) -> Self {
        let host = format!(".{}", url.host_str().unwrap_or_default());
        let mut chats = CHATS.into_iter();
        let chat = chats.find(|(chat, _)| host.ends_with(&format!(".{chat}")));
        chat.map_or(Self::Signed, |(_, format)| format)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// The header `webhook-id`. The outbox accepts each only once per target.
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
        let Self {
            kind, text, data, ..
        } = self;
        let body = match format {
            Format::Signed => json!({"type": kind, "timestamp": instant(self.at), "data": data}),
            // <…> is a command there, such as <!channel>, and the chats have no common escape.
            Format::Text => json!({"text": text.replace('<', "‹").replace('>', "›")}),
            // A name in the text must not notify anybody.
            Format::Discord => json!({"content": text, "allowed_mentions": {"parse": []}}),
            Format::Teams => json!({"type": "message", "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {
                    "type": "AdaptiveCard", "version": "1.4",
                    "body": [{"type": "TextBlock", "text": text, "wrap": true}],
                },
            }]}),
        };
        body.to_string()
    }

    /// Creates the event of `test-webhook`.
    pub(crate) fn test(at: DateTime<Utc>) -> Self {
        let summary = "Webhooks of the Firstcome reconciler arrive here.";
        Self::new("test", at, json!({"summary": summary}), summary)
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(crate) fn about_alerts(mail: &AlertMail<'_>) -> Vec<Event> {
    let drops = mail.drops();
    let told = mail.problems.iter().chain(&mail.over);
    told.map(|section| {
        let drop = drops
            .iter()
            .find(|drop| Some(drop.id) == section.alert.drop_id);
        about_alert(section, drop, mail)
    })
    .collect()
}

fn about_alert(section: &Section, drop: Option<&DescribedDrop<'_>>, mail: &AlertMail<'_>) -> Event {
    let coupon = drop.map(|drop| &drop.name);
    let place = coupon.map(|name| format!(" · {name}")).unwrap_or_default();
    let id = section.alert_id();
    let link = id
        .and_then(|id| mail.links.page(&Links::alert(id)))
        .unwrap_or_default();
    let summary = &section.alert.summary;
    let mut data = json!({
        "alert_id": id, "kind": section.kind.word(), "summary": summary,
        "coupon_id": section.alert.coupon_id, "coupon": coupon, "drop_id": section.alert.drop_id,
        "since": instant(section.alert.began_at),
    });
    let status = match section.reason {
        Reason::New => "new",
        Reason::Changed => "changed",
        Reason::Repeat => "repeated",
        Reason::Over => {
            data["status"] = json!("resolved");
            data["resolved_at"] = json!(section.gone_at().map(instant));
            let text = format!("[firstcome] resolved: {summary}{place}. {link}");
            return Event::new("alert.resolved", mail.now, data, &text);
        }
    };
    let facts = mail.facts(section, drop);
    let report = drop.and_then(|drop| drop.report);
    data["status"] = json!(status);
    data["users_notice"] = json!(facts.users);
    data["what_to_do"] = json!(facts.to_do);
    data["cases"] = json!(section.size);
    data["quantity"] = json!(report.map(|report| report.quantity));
    data["issued"] = json!(report.map(|report| report.after.rows));
    let users = facts.users;
    let text = format!("[firstcome] action needed: {summary}{place}. {users} {link}");
    Event::new("alert.firing", mail.now, data, &text)
}

/// A moment of a drop that a shop wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropMoment {
    Opened,
    SoldOut,
}

/// A drop at such a moment.
#[derive(Debug, Clone)]
pub struct DropAtMoment {
    pub moment: DropMoment,
    pub coupon_id: CouponId,
    pub coupon_name: String,
    pub drop_id: DropId,
    pub quantity: u32,
}

/// The event of a drop that has opened or is sold out.
pub(crate) fn about_moment(drop: &DropAtMoment, now: DateTime<Utc>) -> Event {
    let coupon = line(&drop.coupon_name, 100);
    let quantity = grouped(drop.quantity.into());
    let id = drop.drop_id;
    let (kind, says) = match drop.moment {
        DropMoment::Opened => ("drop.opened", "is open"),
        DropMoment::SoldOut => ("drop.sold_out", "is sold out"),
    };
    let text = format!("{coupon} (drop {id}) {says}: {quantity} coupons.");
    let data = json!({
        "coupon_id": drop.coupon_id, "coupon": coupon, "drop_id": id, "quantity": drop.quantity,
    });
    Event {
        // Two daemons see the same moment.
        id: format!("evt_{}_{id}", kind.replace('.', "_")),
        ..Event::new(kind, now, data, &text)
    }
}

/// The event of a drop that was verified exact after it closed.
pub(crate) fn about_sealed(report: &DropReport, now: DateTime<Utc>) -> Event {
    let coupon = line(&report.coupon_name, 100);
    let [rows, quantity] = [report.after.rows, report.quantity.into()].map(grouped);
    let drop = report.drop_id;
    let text = format!("{coupon} (drop {drop}) is finished: {rows} of {quantity} issued.");
    let data = json!({
        "coupon_id": report.coupon_id, "coupon": coupon, "drop_id": drop,
        "quantity": report.quantity, "issued": report.after.rows,
    });
    Event {
        // A drop is sealed once, however often its run is recorded.
        id: format!("evt_drop_sealed_{drop}"),
        ..Event::new("drop.sealed", now, data, &text)
    }
}

#[cfg(test)]
mod tests {
    use crate::queries::alerts::ToldRow;
    use firstcome_shared::report::AlertKind;

    use super::*;

    #[test]
    fn chats_get_a_harmless_text_in_their_format_and_other_hosts_a_signed_event() {
        let event = Event::test(DateTime::UNIX_EPOCH);
        let [text, discord] = [
            "{\"text\":\"Webhooks",
            "{\"allowed_mentions\":{\"parse\":[]},\"content\":",
        ];
        for (host, format, part) in [
            ("hooks.slack.com", Format::Text, text),
            ("chat.googleapis.com", Format::Text, text),
            ("discord.com", Format::Discord, discord),
            ("x.webhook.office.com", Format::Teams, "AdaptiveCard"),
            (
                "prod-1.westeurope.logic.azure.com",
                Format::Teams,
                "AdaptiveCard",
            ),
            ("notdiscord.com", Format::Signed, "\"type\":\"test\""),
        ] {
            let url = format!("https://{host}/x");
            assert_eq!(Format::for_url(&Url::parse(&url).unwrap()), format, "{url}");
            assert!(event.body(format).contains(part), "{url}");
        }
        let name = "<!channel> <users/all>";
        let body = Event::new("test", event.at, json!({}), name).body(Format::Text);
        assert_eq!(body, r#"{"text":"‹!channel› ‹users/all›"}"#);
    }

    #[test]
    fn end_of_a_standstill_is_told_without_the_number_that_waited() {
        let kind = AlertKind::ConsumerStands;
        let alert = ToldRow {
            summary: "no consumer works: 5,000 messages are unread".to_owned(),
            ..ToldRow::default()
        };
        let standstill = Section::over(&alert, kind);
        let links = Links::default();
        let mail = AlertMail::empty(&links, DateTime::UNIX_EPOCH);
        let event = about_alert(&standstill, None, &mail);
        let says = "[firstcome] resolved: standstill of consumers.";
        assert!(event.text.starts_with(says), "{}", event.text);
        assert_eq!(event.data["summary"], "standstill of consumers");
    }
}
