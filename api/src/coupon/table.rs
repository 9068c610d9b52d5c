//! Formats coupons and holders as text of at most 80 columns.

use std::fmt::Write as _;

use serde_json::Value;
use unicode_width::UnicodeWidthChar as _;

/// Formats one coupon with its drops.
pub(super) fn coupon(coupon: &Value) -> String {
    let mut text = format!(
        "coupon {}: {}\n",
        coupon["id"],
        fit(text_of(&coupon["name"]), 50)
    );
    let paused = if coupon["paused"] == true {
        ", PAUSED"
    } else {
        ""
    };
    let quantity = &coupon["quantity"];
    let once = text_of(&coupon["once_per"]);
    let waiting = &coupon["waiting_list"];
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "  gives out {quantity}, one each per {once}, waiting list {waiting}"
    );
    if let Some(allow) = coupon["allow"].as_str() {
        let _ = writeln!(text, "  only for {allow}");
    }
    let _ = writeln!(text, "  revision {}{paused}", coupon["revision"]);
    for (name, drop) in [
        ("now", &coupon["current_drop"]),
        ("next", &coupon["next_drop"]),
    ] {
        if !drop.is_null() {
            let closes = drop["closes_at"].as_str().map_or_else(
                || "stays open".to_owned(),
                |at| format!("to {}", minute(at)),
            );
            let opens = minute(text_of(&drop["opens_at"]));
            let _ = writeln!(
                text,
                "  {name:<4} drop {}: {}, {}",
                drop["id"],
                text_of(&drop["state"]),
                left(drop)
            );
            let _ = writeln!(text, "       {opens} {closes} UTC");
        }
    }
    text
}

/// Formats one line per coupon.
pub(super) fn coupons(coupons: &[Value]) -> String {
    if coupons.is_empty() {
        return "there is no such coupon\n".to_owned();
    }
    let mut text = format!(
        "{:>16}  {}  {:<9}  {:<20}  {:<11}\n",
        "coupon",
        pad("name", 16),
        "state",
        "left",
        "opens (UTC)"
    );
    for coupon in coupons {
        let drop = if coupon["current_drop"].is_null() {
            &coupon["next_drop"]
        } else {
            &coupon["current_drop"]
        };
        let id = coupon["id"].to_string();
        let name = pad(text_of(&coupon["name"]), 16);
        let state = text_of(&drop["state"]);
        // Ids have 16 digits, so that the year does not fit.
        let opens = minute(text_of(&drop["opens_at"]));
        let opens = opens.get(5..).unwrap_or_default();
        let _ = writeln!(
            text,
            "{id:>16}  {name}  {state:<9}  {:<20}  {opens:<11}",
            left(drop)
        );
    }
    text
}

/// Formats one line per holder. `of` is the drop of the previous line.
pub(super) fn winners(rows: &[Value], of: &mut Option<i64>) -> String {
    let mut text = String::new();
    for row in rows {
        let drop = row["drop_id"].as_i64();
        if *of != drop {
            let name = format!("drop {}", row["drop_id"]);
            let _ = writeln!(text, "{name}\n{:>8}  {:<36}  person", "slot", "code");
            *of = drop;
        }
        let slot = row["slot"].to_string();
        let code = text_of(&row["code"]);
        let user = fit(text_of(&row["user_id"]), 32);
        let _ = writeln!(text, "{slot:>8}  {code:<36}  {user}");
    }
    text
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn left(drop: &Value) -> String {
    match (&drop["remaining"], &drop["quantity"]) {
        (_, Value::Null) => String::new(),
        (Value::Null, quantity) => format!("? of {quantity}"),
        (remaining, quantity) => format!("{remaining} of {quantity}"),
    }
}

/// Formats `2026-12-01T06:00:00Z` as `2026-12-01 06:00`.
fn minute(instant: &str) -> String {
    instant.get(..16).unwrap_or(instant).replace('T', " ")
}

/// Returns the width of a character in terminal columns. East Asian letters and emoji take two.
fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// Truncates text that is too wide.
pub(super) fn fit(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut used = 1;
    let cut = text.chars().take_while(|c| {
        used += columns(*c);
        used <= most
    });
    cut.collect::<String>() + "…"
}

fn pad(text: &str, to: usize) -> String {
    let text = fit(text, to);
    let spaces = to.saturating_sub(width(&text));
    text + &" ".repeat(spaces)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_have_at_most_80_columns() {
        let drop = json!({
            "id": 9_007_199_254_740_991_i64, "state": "sold_out", "remaining": 10_000_000, "quantity": 10_000_000,
            "opens_at": "2026-12-01T06:00:00Z", "closes_at": "2026-12-01T09:00:00Z",
        });
        let one = json!({
            "id": 9_007_199_254_740_991_i64, "name": "겨울 쿠폰 ".repeat(30), "quantity": 10_000_000, "once_per": "coupon",
            "waiting_list": 1_000_000, "paused": true, "revision": 123_456, "current_drop": drop, "next_drop": drop,
        });
        let row = json!({
            "drop_id": 9_007_199_254_740_991_i64, "slot": 10_000_000, "user_id": "u".repeat(128), "code": "X".repeat(36),
            "issued_at": "2026-12-01T06:00:00.123Z",
        });
        let tables = [
            coupon(&one),
            coupons(&[one.clone(), one.clone()]),
            winners(&[row.clone(), row], &mut None),
        ];
        for line in tables.iter().flat_map(|text| text.lines()) {
            assert!(width(line) <= 80, "{} columns: {line}", width(line));
        }
        assert_eq!(
            tables
                .iter()
                .map(|text| text.lines().count())
                .collect::<Vec<_>>(),
            [7, 3, 4]
        );
        assert!(coupons(&[]).contains("no such coupon"));
    }
}
