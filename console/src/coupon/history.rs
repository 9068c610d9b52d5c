//! What operators did to a coupon, in the words of its settings.

use chrono::{DateTime, Utc};
use firstcome_shared::model::RecordedAct;
use firstcome_shared::schedule::Tz;
use serde_json::{Map, Value, json};

use super::fields::{FIELDS, shown};
use super::state::{CANCELLED, never_opens};
use crate::text::Text as _;

/// Describes what an operator did: the fields of the change, without JSON's punctuation.
pub(super) fn act(recorded: &RecordedAct, zone: Option<Tz>) -> String {
    let all = recorded.detail.as_object().cloned().unwrap_or_default();
    let is_cancelling = all.values().any(|change| is_cancelled(&change["to"]));
    // Changes of drops repeat the change of the coupon.
    let mut own = all.clone();
    own.retain(|name, _| !name.starts_with("drop "));
    let fields = if own.is_empty() { all } else { own };
    let text = if is_cancelling {
        CANCELLED.to_owned()
    } else {
        described(&fields, zone).join(", ").text()
    };
    match recorded.action.as_str() {
        "change_coupon" if text.is_empty() => "changed nothing".to_owned(),
        "change_coupon" => text,
        action => format!("{}: {text}", action.replace('_', " ")),
    }
}

/// Describes fields, such as "Quantity: 100 → 200".
fn described(fields: &Map<String, Value>, zone: Option<Tz>) -> Vec<String> {
    let mut parts = Vec::new();
    for (name, value) in fields {
        let known = FIELDS.iter().find(|field| field.name == name);
        let label = known.map_or_else(|| name.replace('_', " "), |field| field.label.to_owned());
        let show =
            |value| known.map_or_else(|| shown(value, zone), |field| field.show(value, zone));
        match (value.get("from"), value.get("to"), value) {
            (Some(from @ Value::Object(_)), Some(to), _) => {
                parts.extend(described(&differences(from, to), zone));
            }
            (Some(from), Some(to), _) => {
                parts.push(format!("{label}: {} → {}", show(from), show(to)));
            }
            (_, _, Value::Object(nested)) => parts.extend(described(nested, zone)),
            (_, _, Value::Null) => {}
            _ => parts.push(format!("{label}: {}", show(value))),
        }
    }
    parts
}

/// Returns the fields that differ, also those that only one side has.
fn differences(from: &Value, to: &Value) -> Map<String, Value> {
    let sides = [from, to].into_iter().filter_map(Value::as_object);
    let names = sides.flat_map(Map::keys).map(String::as_str);
    let changed = names.filter(|name| from[*name] != to[*name]);
    changed
        .map(|name| {
            let change = json!({"from": from[name], "to": to[name]});
            (name.to_owned(), change)
        })
        .collect()
}

/// Whether a schedule has the window of a coupon that was ended before it opened.
fn is_cancelled(schedule: &Value) -> bool {
    let [opens, closes] = ["opens_at", "closes_at"]
        .map(|name| schedule[name].as_str()?.parse::<DateTime<Utc>>().ok());
    opens.is_some_and(|opens| never_opens(opens, closes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(action: &str, detail: &Value) -> String {
        let recorded = RecordedAct {
            at: Utc::now(),
            by: Some("kim".to_owned()),
            action: action.to_owned(),
            detail: detail.clone(),
        };
        act(&recorded, "Asia/Seoul".parse().ok())
    }

    #[test]
    fn history_describes_creation_changes_removals_and_cancellations_in_the_coupons_zone() {
        let window = |opens: &str, closes: &str| json!({"opens_at": opens, "closes_at": closes});
        let planned = window("2026-12-24T09:00:00Z", "2026-12-24T12:00:00Z");
        let never = window("2026-11-28T12:00:00Z", "2026-11-28T12:00:00.001Z");
        for (detail, says) in [
            (json!({}), "changed nothing"),
            (
                json!({"quantity": {"from": 800, "to": 1000}}),
                "Quantity: 800 → 1,000",
            ),
            (
                json!({"paused": {"from": false, "to": true}}),
                "paused: no → yes",
            ),
            (
                json!({"allow": {"from": null, "to": "list"}}),
                "Who may claim: everybody → people on its allow list",
            ),
            (
                json!({"schedule": {"from": planned, "to": {"opens_at": "2026-12-24T10:00:00Z"}}}),
                "Closes at: 2026-12-24 21:00 +09:00 → never, Opens at: 2026-12-24 18:00 +09:00 → \
                2026-12-24 19:00 +09:00",
            ),
            (
                json!({"schedule": {"from": {}, "to": {"last_day": "2026-12-24"}}}),
                "Last day: no end → 2026-12-24",
            ),
            // The schedule of a daily coupon does not show that it was cancelled.
            (
                json!({
                    "drop 7": {"from": planned, "to": never},
                    "schedule": {"from": {}, "to": {"last_day": "2026-12-24"}},
                }),
                CANCELLED,
            ),
            // The open drop of a daily coupon was closed early.
            (
                json!({"drop 7": {
                    "from": {"closes_at": "2026-12-24T12:00:00Z"},
                    "to": {"closes_at": "2026-12-24T10:00:00Z"},
                }}),
                "Closes at: 2026-12-24 21:00 +09:00 → 2026-12-24 19:00 +09:00",
            ),
        ] {
            assert_eq!(describe("change_coupon", &detail), says);
        }
        let made = json!({"name": "A", "quantity": 5, "schedule": {"type": "once"}});
        let says = "create coupon: Name: A, Quantity: 5, Opens: once";
        assert_eq!(describe("create_coupon", &made), says);
        let listed = json!({"added": 3, "people": 5});
        assert_eq!(
            describe("allow_list", &listed),
            "allow list: added: 3, people: 5"
        );
    }
}
