//! Builds webhook events: a pure function from the notices of a pass and the counts of its drops to
//! events. Notices become events exactly when they are mailed. User IDs are masked as in mails.

use chrono::{DateTime, SecondsFormat, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::webhooks::SaidOfDrop;
use serde_json::{Map, Value, json};

use crate::alerts::{About, Alert, Notice, NoticeReason, hash, number};
use crate::render::{self, PassMail, Rendered};
use crate::report::DropReport;
use crate::wording;

/// Maximum number of alerts of a pass that get their own event. One more event contains the number
/// of the others.
pub(super) const ALERTS: usize = 100;

/// Maximum number of findings in an event. Receivers prefer bodies below 20 kB.
const FINDINGS: usize = 20;

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// Rows were inserted. At most one event per pass and drop.
    Issued,
    /// The last slot of a drop was given away.
    SoldOut,
    /// A problem that needs an operator, or one that was repaired.
    Drift,
    /// Promises could not be kept.
    Broken,
    /// A problem is over.
    Resolved,
    /// `test-webhook` checks whether events arrive.
    Test,
}

impl EventKind {
    /// Returns the `type` of the body.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Issued => "drop.issued",
            Self::SoldOut => "drop.sold_out",
            Self::Drift => "alert.drift",
            Self::Broken => "alert.broken",
            Self::Resolved => "alert.resolved",
            Self::Test => "test",
        }
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WebhookEvent {
    /// Hexadecimal ID of the event. It prevents the same event from being created twice.
    pub(super) id: String,
    pub(super) kind: EventKind,
    at: DateTime<Utc>,
    data: Value,
}

impl WebhookEvent {
    fn new(kind: EventKind, what: &str, at: DateTime<Utc>, data: Value) -> Self {
        let id = hash([format!("{}/{what}", kind.name())]);
        Self {
            id: format!("evt_{id:.40}"),
            kind,
            at,
            data,
        }
    }

    /// Returns the body that is signed and posted.
    pub(super) fn body(&self) -> String {
        json!({"type": self.kind.name(), "timestamp": instant(self.at), "data": self.data})
            .to_string()
    }

    /// Creates the event for the beginning or the end of a problem outside passes, with the text of
    /// its mail. `what` is its heading in docs/OPERATIONS.md. `since` distinguishes it from the
    /// next problem of its kind.
    pub(crate) fn of_notice(
        kind: EventKind,
        what: &str,
        since: DateTime<Utc>,
        at: DateTime<Utc>,
        mail: &Rendered,
    ) -> Self {
        let status = if kind == EventKind::Resolved {
            "resolved"
        } else {
            "new"
        };
        let since = instant(since);
        let data = json!({"kind": what, "status": status, "since": since, "summary": mail.summary});
        Self::new(kind, &format!("{what}/{since}/{}", instant(at)), at, data)
    }

    /// Creates the event of `test-webhook`.
    pub(super) fn test(at: DateTime<Utc>) -> Self {
        let data = json!({"summary": "Webhooks of the Firstcome reconciler arrive here."});
        Self::new(EventKind::Test, &uuid::Uuid::now_v7().to_string(), at, data)
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Returns the events of a pass: everything that is mailed, except drops that closed below their
/// quantity.
pub(crate) fn of_pass(pass: &PassMail<'_>) -> Vec<WebhookEvent> {
    let verdict = pass.verdict;
    let problems = verdict.problems.iter().map(|notice| problem(pass, notice));
    let resolved = verdict.resolved.iter().map(|alert| resolved(pass, alert));
    let mut events: Vec<WebhookEvent> = problems.chain(resolved).take(ALERTS).collect();
    let more = (verdict.problems.len() + verdict.resolved.len()).saturating_sub(ALERTS);
    if more > 0 {
        let summary = format!("{more} more alerts are new or over: GET /v1/alerts has them");
        let data = json!({"kind": "more", "status": "new", "alerts": more, "summary": summary, "run_id": &pass.run.run_id});
        events.push(WebhookEvent::new(
            EventKind::Drift,
            &format!("{}/more", pass.run.run_id),
            pass.now,
            data,
        ));
    }
    events.extend(repaired(pass));
    events
}

fn problem(pass: &PassMail<'_>, notice: &Notice) -> WebhookEvent {
    let seen = &notice.observation;
    let status = match notice.reason {
        NoticeReason::New => "new",
        NoticeReason::Changed => "changed",
        NoticeReason::Repeat => "repeated",
    };
    let findings: Vec<Value> = seen
        .findings
        .iter()
        .take(FINDINGS)
        .map(|finding| {
            let detail = wording::line(&finding.detail, wording::LONGEST);
            let person = finding.user_id.as_deref().map(wording::person);
            json!({"kind": finding.kind.as_str(), "slot": finding.slot, "user_id": person, "detail": detail})
        })
        .collect();
    let mut data = place(pass, seen.coupon_id, seen.drop_id);
    data.extend(entries(json!({
        "alert_id": pass.ids.get(&seen.fingerprint),
        "kind": seen.about.word(),
        "status": status,
        "summary": seen.summary,
        "what_to_do": render::what_to_do_here(seen),
        "since": instant(notice.since),
        "findings": findings,
        "findings_total": number(&seen.findings),
        "run_id": &pass.run.run_id,
    })));
    let kind = if seen.about == About::BrokenPromise {
        EventKind::Broken
    } else {
        EventKind::Drift
    };
    WebhookEvent::new(
        kind,
        &format!("{}/{}", pass.run.run_id, seen.fingerprint),
        pass.now,
        data.into(),
    )
}

fn resolved(pass: &PassMail<'_>, alert: &Alert) -> WebhookEvent {
    let mut data = place(pass, alert.coupon_id, alert.drop_id);
    data.extend(entries(json!({
        "alert_id": pass.ids.get(&alert.fingerprint),
        "kind": alert.kind,
        "status": "resolved",
        "summary": alert.summary,
        "since": instant(alert.first_seen_at),
        "resolved_at": alert.resolved_at.map(instant),
        "run_id": &pass.run.run_id,
    })));
    WebhookEvent::new(
        EventKind::Resolved,
        &format!("{}/{}", pass.run.run_id, alert.fingerprint),
        pass.now,
        data.into(),
    )
}

/// Returns one event for all repairs, since they are in one mail.
fn repaired(pass: &PassMail<'_>) -> Option<WebhookEvent> {
    let verdict = pass.verdict;
    if verdict.repaired.is_empty() && verdict.earlier.is_empty() {
        return None;
    }
    let repairs = pass.repairs();
    let mut drops: Vec<DropId> = verdict.repaired.iter().copied().flatten().collect();
    drops.extend(verdict.earlier.iter().filter_map(|earlier| earlier.drop_id));
    drops.sort_unstable();
    drops.dedup();
    let of_one = (drops.len() == 1).then(|| drops.first().copied()).flatten();
    let mut data = place(pass, of_one.and_then(|drop| pass.coupon_of(drop).0), of_one);
    data.extend(entries(json!({
        "kind": "repaired",
        "status": "repaired",
        "summary": wording::done(repairs.iter().map(|(_, finding)| *finding)),
        "repairs": number(repairs.iter().map(|(_, finding)| *finding)),
        "repairs_before": verdict.earlier.iter().map(|earlier| u64::from(earlier.repairs)).sum::<u64>(),
        "drops": drops.iter().take(FINDINGS).map(|drop| drop.0).collect::<Vec<_>>(),
        "drops_total": drops.len(),
        "run_id": &pass.run.run_id,
    })));
    Some(WebhookEvent::new(
        EventKind::Drift,
        &format!("{}/repaired", pass.run.run_id),
        pass.now,
        data.into(),
    ))
}

/// Returns coupon and drop with their counts, if this pass has them.
fn place(
    pass: &PassMail<'_>,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
) -> Map<String, Value> {
    let report = drop.and_then(|drop| pass.report(drop));
    entries(json!({
        "coupon_id": coupon.map(|id| id.0),
        "coupon": drop.map(|drop| pass.coupon_of(drop).1),
        "drop_id": drop.map(|id| id.0),
        "quantity": report.map(|report| report.quantity),
        "issued": report.filter(|report| !report.unconfirmed).map(|report| report.after.rows),
    }))
}

fn entries(value: Value) -> Map<String, Value> {
    if let Value::Object(entries) = value {
        entries
    } else {
        Map::new()
    }
}

/// Compares a pass's report of a drop with the last events. Returns the new state to remember, and
/// the events. `highest_slot` is the highest slot with a row.
pub(super) fn of_drop(
    report: &DropReport,
    said: Option<&SaidOfDrop>,
    run_id: &str,
    highest_slot: i64,
    now: DateTime<Utc>,
) -> (SaidOfDrop, Vec<WebhookEvent>) {
    let rows = i64::try_from(report.after.rows).unwrap_or(i64::MAX);
    let (issued, after_slot, sold_out) = said.map_or((0, 0, 0), |said| {
        (said.issued, said.highest_slot, said.sold_out_quantity)
    });
    let drop = json!({
        "coupon_id": report.coupon_id.0,
        "coupon": wording::line(&report.coupon_name, 100),
        "drop_id": report.drop_id.0,
        "quantity": report.quantity,
        "issued": rows,
    });
    let mut events = Vec::new();
    if rows > issued || highest_slot > after_slot {
        let mut data = entries(drop.clone());
        data.extend(entries(json!({
            "newly_issued": (rows - issued).max(0),
            "after_slot": after_slot,
            "highest_slot": highest_slot,
        })));
        let what = format!("{}/{run_id}", report.drop_id);
        events.push(WebhookEvent::new(
            EventKind::Issued,
            &what,
            now,
            data.into(),
        ));
    }
    let is_sold_out = is_sold_out(report) && report.quantity > sold_out;
    if is_sold_out {
        // The ID contains the quantity, since a drop may sell out again after a raise.
        let what = format!("{}/{}", report.drop_id, report.quantity);
        events.push(WebhookEvent::new(EventKind::SoldOut, &what, now, drop));
    }
    let said = SaidOfDrop {
        drop_id: report.drop_id.0,
        run_id: run_id.to_owned(),
        issued: rows,
        highest_slot,
        sold_out_quantity: if is_sold_out {
            report.quantity
        } else {
            sold_out
        },
        updated_at: now.naive_utc(),
    };
    (said, events)
}

/// Whether every slot is given away and none was given back.
pub(super) fn is_sold_out(report: &DropReport) -> bool {
    report.quantity > 0
        && report.after.count >= i64::from(report.quantity)
        && report.after.free == 0
}
