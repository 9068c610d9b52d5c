//! What operators did to a coupon, in the words of its forms.

use std::collections::BTreeSet;
use std::iter::once;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::model::RecordedAct;
use serde_json::{Value, json};

use crate::text::Text as _;

const CANCELLED: &str = "cancelled: it never opens";

/// Describes what an operator did: the fields of the change, without JSON's punctuation.
pub(crate) fn act(recorded: &RecordedAct) -> String {
    let all = recorded
        .detail
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null());
    // Changes of drops repeat the change of the coupon.
    let (of_drops, own): (Vec<_>, Vec<_>) = all.partition(|(name, _)| name.starts_with("drop "));
    // The schedule of a daily coupon does not show that it was cancelled.
    let is_cancelling = of_drops.iter().any(|(_, drop)| is_cancelled(&drop["to"]));
    let is_change = recorded.action == "change_coupon";
    let fields = if is_cancelling {
        let others = own
            .into_iter()
            .filter(|(name, _)| *name != "schedule")
            .map(|(name, value)| field(name, value));
        listed(once(CANCELLED.to_owned()).chain(others))
    } else {
        let fields = if own.is_empty() { of_drops } else { own };
        listed(fields.into_iter().map(|(name, value)| field(name, value)))
    };
    match (is_change, fields.as_str()) {
        (true, "") => "changed nothing".to_owned(),
        (true, fields) => fields.text(),
        (false, fields) => format!("{}: {fields}", recorded.action.replace('_', " ")).text(),
    }
}

fn listed(fields: impl Iterator<Item = String>) -> String {
    let fields: Vec<String> = fields.filter(|field| !field.is_empty()).collect();
    fields.join(", ")
}

/// Describes a field, such as "quantity: 100 → 200". Empty if there is nothing to say.
fn field(name: &str, value: &Value) -> String {
    match (value.get("from"), value.get("to"), value) {
        (Some(_), Some(to), _) if is_cancelled(to) => CANCELLED.to_owned(),
        (Some(Value::Object(from)), Some(Value::Object(to)), _) => {
            // What was taken away is only in `from`.
            let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
            let [from, to] = [from, to].map(|side| move |name| side.get(name).cloned());
            let sides = names.into_iter().map(|name| (name, [from(name), to(name)]));
            let changed = sides.filter(|(_, [from, to])| from != to);
            listed(changed.map(|(name, [from, to])| field(name, &json!({"from": from, "to": to}))))
        }
        (Some(_), Some(Value::Bool(true)), _) if name == "paused" => "paused".to_owned(),
        (Some(_), Some(Value::Bool(false)), _) if name == "paused" => "resumed".to_owned(),
        (Some(from), Some(to), _) => {
            format!("{}: {} → {}", label(name), plain(from), plain(to))
        }
        (_, _, Value::Object(own)) => listed(own.iter().map(|(name, value)| field(name, value))),
        (_, _, Value::Null | Value::Bool(false)) => String::new(),
        _ => format!("{} {}", label(name), plain(value)),
    }
}

/// Returns when a cancelled coupon would have opened, if these acts contain the cancellation.
pub(super) fn would_have_opened(acts: &[RecordedAct]) -> Option<DateTime<Utc>> {
    let mut found = acts.iter().filter_map(|act| {
        let mut windows = act.detail.as_object()?.iter();
        let (_, window) = windows.find(|(name, window)| {
            name.starts_with("drop ")
                && is_cancelled(&window["to"])
                && !is_cancelled(&window["from"])
        })?;
        window["from"]["opens_at"].as_str()?.parse().ok()
    });
    found.next()
}

/// Whether a schedule has the window of a coupon that was ended before it opened.
fn is_cancelled(schedule: &Value) -> bool {
    let at = |name: &str| schedule[name].as_str()?.parse::<DateTime<Utc>>().ok();
    let window = at("opens_at").zip(at("closes_at"));
    window.is_some_and(|(opens, closes)| closes - opens <= TimeDelta::milliseconds(1))
}

/// A field as the forms name it.
fn label(name: &str) -> String {
    match name {
        "once_per" => "one for each person and".to_owned(),
        "waiting_list" => "places on the waiting list".to_owned(),
        "allow" => "for".to_owned(),
        "type" => "opens".to_owned(),
        "opens_at" => "opens at".to_owned(),
        "closes_at" => "closes at".to_owned(),
        other => other.replace('_', " "),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text
            .parse()
            .map_or(text.clone(), |at: DateTime<Utc>| at.text()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(action: &str, detail: &Value) -> String {
        act(&RecordedAct {
            at: Utc::now(),
            by: Some("kim".to_owned()),
            action: action.to_owned(),
            detail: detail.clone(),
        })
    }

    #[test]
    fn cancelled_coupon_would_have_opened_at_its_former_time() {
        let window = |opens: &str, closes: &str| json!({"opens_at": opens, "closes_at": closes});
        let planned = window("2026-12-24T09:00:00Z", "2026-12-24T12:00:00Z");
        let never = window("2026-11-28T12:00:00Z", "2026-11-28T12:00:00.001Z");
        let act = |detail: Value| RecordedAct {
            at: Utc::now(),
            by: None,
            action: "change_coupon".to_owned(),
            detail,
        };
        let renamed = act(json!({"name": {"from": "A", "to": "B"}}));
        let cancelled = act(json!({"drop 7": {"from": planned, "to": never}}));
        let opens = "2026-12-24T09:00:00Z".parse().ok();
        assert_eq!(would_have_opened(&[renamed.clone(), cancelled]), opens);
        assert_eq!(would_have_opened(&[renamed]), None);
    }

    #[test]
    fn history_describes_creation_changes_removals_and_cancellations() {
        let once = |closes: Value| json!({"type": "once", "closes_at": closes});
        for (from, to, says) in [
            (
                json!({"schedule": once(json!("2026-12-01T06:00:00Z")), "name": "A"}),
                json!({"schedule": {"type": "once"}, "name": "A"}),
                "closes at: 2026-12-01 06:00:00 UTC → none",
            ),
            (
                json!({"schedule": {"opens_at": "2026-12-24T09:00:00Z"}}),
                json!({"schedule": {
                    "opens_at": "2026-11-28T12:00:00Z", "closes_at": "2026-11-28T12:00:00.001Z"
                }}),
                "cancelled: it never opens",
            ),
            (
                json!({"schedule": {"opens_at": "2026-12-24T09:00:00Z"}}),
                json!({"schedule": {"opens_at": "2026-12-25T09:00:00Z"}}),
                "opens at: 2026-12-24 09:00:00 UTC → 2026-12-25 09:00:00 UTC",
            ),
            (
                json!({"schedule": {"last_day": "2026-12-24"}}),
                json!({"schedule": {}}),
                "last day: 2026-12-24 → none",
            ),
            (
                json!({"quantity": 80}),
                json!({"quantity": 80}),
                "changed nothing",
            ),
            (
                json!({"quantity": 80}),
                json!({"quantity": 100}),
                "quantity: 80 → 100",
            ),
            (json!({"paused": false}), json!({"paused": true}), "paused"),
            (json!({"paused": true}), json!({"paused": false}), "resumed"),
        ] {
            let detail = json!({"coupon": {"from": from, "to": to}});
            assert_eq!(describe("change_coupon", &detail), says);
        }
        let drop = json!({
            "from": {"opens_at": "2026-12-24T09:00:00Z", "closes_at": "2026-12-24T12:00:00Z"},
            "to": {"opens_at": "2026-11-28T12:00:00Z", "closes_at": "2026-11-28T12:00:00.001Z"},
        });
        let days = json!({"from": {}, "to": {"last_day": "2026-12-24"}});
        let mut of_daily = json!({"schedule": days, "drop 7": drop});
        assert_eq!(describe("change_coupon", &of_daily), CANCELLED);
        of_daily["name"] = json!({"from": "A", "to": "B"});
        let also_renamed = "cancelled: it never opens, name: A → B";
        assert_eq!(describe("change_coupon", &of_daily), also_renamed);
        let made =
            json!({"name": "A", "quantity": 5, "paused": false, "schedule": {"type": "once"}});
        assert_eq!(
            describe("create_coupon", &made),
            "create coupon: name A, quantity 5, opens once"
        );
    }
}
