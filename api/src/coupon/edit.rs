//! `firstcome-api coupon edit` and `close`: changes of an existing coupon.

use axum::http::Method;
use chrono::NaiveDate;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, CommandFailure};
use super::{Id, path, show, table};

/// The argument that removes a limit.
const NEVER: &str = "never";

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub(super) struct EditArgs {
    /// Name, as shown to users
    #[arg(long)]
    name: Option<String>,
    /// Places on the waiting list of a sold-out drop
    #[arg(long)]
    waiting_list: Option<u32>,
    /// Closing time of a coupon that opens once, such as 2026-12-01T18:00:00+09:00, or `never`
    #[arg(long, conflicts_with_all = ["opens", "closes", "last_day"])]
    closes_at: Option<String>,
    /// Local opening time of later drops of a daily coupon, such as 15:00
    #[arg(long)]
    opens: Option<String>,
    /// Local closing time of later drops of a daily coupon
    #[arg(long)]
    closes: Option<String>,
    /// Last local date of a daily coupon, such as 2026-12-10, or `never`
    #[arg(long, value_parser = last_day)]
    last_day: Option<LastDay>,
}

#[derive(Debug, Clone, Copy)]
struct LastDay(Option<NaiveDate>);

fn last_day(text: &str) -> Result<LastDay, String> {
    if text == NEVER {
        return Ok(LastDay(None));
    }
    let day = text
        .parse()
        .map_err(|_| format!("give a date such as 2026-12-10, or {NEVER}"))?;
    Ok(LastDay(Some(day)))
}

impl EditArgs {
    pub(super) fn body(&self) -> Value {
        let at = |text: &String| {
            if text == NEVER {
                Value::Null
            } else {
                json!(text)
            }
        };
        let fields = [
            ("name", self.name.as_ref().map(|name| json!(name))),
            (
                "waiting_list",
                self.waiting_list.map(|places| json!(places)),
            ),
            ("closes_at", self.closes_at.as_ref().map(at)),
            ("opens", self.opens.as_ref().map(|time| json!(time))),
            ("closes", self.closes.as_ref().map(|time| json!(time))),
            ("last_day", self.last_day.map(|day| json!(day.0))),
        ];
        let given = |(name, value): (&str, Option<Value>)| Some((name.to_owned(), value?));
        Value::Object(fields.into_iter().filter_map(given).collect::<Map<_, _>>())
    }
}

/// Closes the open drop, which cannot be undone. Without `yes`, only describes it.
pub(super) async fn close(
    client: &Client,
    json: bool,
    id: Id,
    yes: bool,
) -> Result<(), CommandFailure> {
    let (coupon, _) = client.get(&path(id)).await?;
    if yes {
        let closed = client
            .ops(Method::PATCH, &path(id), &json!({"close_now": true}), None)
            .await;
        return match closed {
            Ok(coupon) => show(json, &coupon, false),
            Err(CommandFailure::Refused(why)) => {
                Err(CommandFailure::Refused(not_open(&coupon, why)))
            }
            other => other.map(drop),
        };
    }
    let drop = &coupon["current_drop"];
    let is_open = matches!(drop["state"].as_str(), Some("open" | "sold_out" | "paused"));
    Err(CommandFailure::Refused(if is_open {
        let name = coupon["name"].as_str().unwrap_or_default();
        let number = &drop["id"];
        let left = table::left(drop);
        format!(
            "this would close drop {number} of coupon {:?} ({left} left) for good, and its waiting list ends: \
             repeat it with --yes",
            table::fit(name, 60)
        )
    } else {
        not_open(
            &coupon,
            "no drop is open, so there is nothing to close".to_owned(),
        )
    }))
}

/// Adds the commands that prevent the next drop from opening.
fn not_open(coupon: &Value, why: String) -> String {
    let id = &coupon["id"];
    let edit = match coupon["schedule"]["type"].as_str() {
        Some("daily") => format!("coupon edit {id} --last-day DATE ends its days"),
        _ => format!("coupon edit {id} --closes-at INSTANT moves its end"),
    };
    let Some(opens) = coupon["next_drop"]["opens_at"].as_str() else {
        return why;
    };
    format!(
        "{why}; the next drop opens at {opens}: coupon pause {id} keeps it from admitting anybody, {edit}"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        edit: EditArgs,
    }

    #[test]
    fn edit_sends_only_given_fields_and_null_for_never() {
        let body = |args: &[&str]| {
            Line::try_parse_from([&["x"], args].concat()).map(|line| line.edit.body())
        };
        assert_eq!(
            body(&["--name", "Winter"]).unwrap(),
            json!({"name": "Winter"})
        );
        assert_eq!(
            body(&["--closes-at", "never"]).unwrap(),
            json!({"closes_at": null})
        );
        assert_eq!(
            body(&["--last-day", "never", "--opens", "15:00"]).unwrap(),
            json!({"last_day": null, "opens": "15:00"})
        );
        assert_eq!(
            body(&["--last-day", "2026-12-10", "--waiting-list", "5"]).unwrap(),
            json!({"last_day": "2026-12-10", "waiting_list": 5})
        );
        for wrong in [
            &[][..],
            &["--last-day", "soon"],
            &["--closes-at", "never", "--opens", "15:00"],
        ] {
            assert!(body(wrong).is_err(), "{wrong:?}");
        }
    }
}
