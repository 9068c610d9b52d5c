//! `firstcome-api coupon …`: commands for operators, which use the routes of the API.

mod client;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use axum::http::Method;
use chrono::NaiveDate;
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};

use self::client::{ApiArgs, Client, Refused};

#[derive(Debug, Clone, Args)]
pub struct CouponArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(subcommand)]
    command: CouponCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum CouponCommand {
    /// Create a coupon that opens once, or daily
    #[command(before_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List coupons
    List,
    /// Show a coupon
    Show { coupon: i64 },
    /// Stop admission for now
    Pause { coupon: i64 },
    /// Resume admission
    Resume { coupon: i64 },
    /// Raise the quantity of the drops that are not closed, and of later ones. While no drop is open,
    /// also lower it
    Raise { coupon: i64, quantity: u32 },
    /// Close the open drop, or a coupon that has not opened, immediately and permanently
    Close {
        coupon: i64,
        /// Close it; without this flag, the command only shows the coupon
        #[arg(long)]
        yes: bool,
    },
}

const CREATE_EXAMPLES: &str = "\
Opens once (without --closes-at it stays open):
  firstcome-api coupon create --name Winter --quantity 500 \\
    --opens-at 2026-12-01T15:00:00+09:00 --closes-at 2026-12-01T18:00:00+09:00

Opens daily (without --last-day it continues; --once-per drop: one per person and day):
  firstcome-api coupon create --name Winter --quantity 500 --once-per drop \\
    --time-zone Asia/Seoul --opens 15:00 --closes 18:00 --first-day 2026-12-01";

#[derive(Debug, Clone, Args)]
struct CreateArgs {
    /// Name, as shown to users
    #[arg(long)]
    name: String,
    /// Quantity of each drop
    #[arg(long)]
    quantity: u32,
    /// Scope in which a user may hold one coupon
    #[arg(long, value_parser = ["coupon", "drop"], default_value = "coupon")]
    once_per: String,
    /// Places on the waiting list of a sold-out drop
    #[arg(long, default_value_t = 0)]
    waiting_list: u32,
    /// Restrict claims to `list` (the allow list) or `group:NAME`; without it everybody may claim
    #[arg(long, value_name = "WHOM")]
    allow: Option<String>,
    /// Time at which the coupon opens once, such as 2026-12-01T15:00:00+09:00
    #[arg(
        long,
        required_unless_present = "time_zone",
        conflicts_with = "time_zone"
    )]
    opens_at: Option<String>,
    /// Time at which the coupon closes (default: it stays open)
    #[arg(long, conflicts_with = "time_zone")]
    closes_at: Option<String>,
    /// Time zone of a daily coupon, such as Asia/Seoul
    #[arg(long, requires_all = ["opens", "closes", "first_day"])]
    time_zone: Option<String>,
    /// Local opening time of a daily coupon, such as 15:00
    #[arg(long, requires = "time_zone")]
    opens: Option<String>,
    /// Local closing time of a daily coupon; on the next day if it is not after the opening
    #[arg(long, requires = "time_zone")]
    closes: Option<String>,
    /// First local date
    #[arg(long, requires = "time_zone")]
    first_day: Option<NaiveDate>,
    /// Last local date (default: none)
    #[arg(long, requires = "time_zone")]
    last_day: Option<NaiveDate>,
}

impl CreateArgs {
    fn body(&self) -> Value {
        let schedule = if self.time_zone.is_some() {
            json!({
                "type": "daily", "time_zone": self.time_zone, "opens": self.opens, "closes": self.closes,
                "first_day": self.first_day, "last_day": self.last_day,
            })
        } else {
            json!({"type": "once", "opens_at": self.opens_at, "closes_at": self.closes_at})
        };
        json!({
            "name": self.name, "quantity": self.quantity, "once_per": self.once_per, "waiting_list": self.waiting_list,
            "allow": self.allow, "schedule": schedule,
        })
    }
}

/// Exits 0 on success, 1 if the API refused, 2 if the API could not be reached.
pub async fn run(args: CouponArgs) -> ExitCode {
    match act(&args).await {
        Ok(text) => {
            // Most likely, the reader of the pipe, such as `head`, has closed it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("firstcome-api: {error:#}");
            ExitCode::from(if error.is::<Refused>() { 1 } else { 2 })
        }
    }
}

/// Returns the output of a command.
async fn act(args: &CouponArgs) -> anyhow::Result<String> {
    let client = Client::new(&args.api)?;
    let path = |coupon: &i64| format!("/v1/coupons/{coupon}");
    let change = |coupon, body: Value| (Method::PATCH, path(coupon), body.to_string().into());
    let (method, path, body): (_, _, Vec<u8>) = match &args.command {
        CouponCommand::List => return list(&client, args.api.json).await,
        CouponCommand::Create(create) => {
            let body = create.body().to_string();
            (Method::POST, "/v1/coupons".to_owned(), body.into())
        }
        CouponCommand::Show { coupon } => (Method::GET, path(coupon), Vec::new()),
        CouponCommand::Pause { coupon } => change(coupon, json!({"paused": true})),
        CouponCommand::Resume { coupon } => change(coupon, json!({"paused": false})),
        CouponCommand::Raise { coupon, quantity } => {
            return raise(&client, &path(coupon), *quantity).await;
        }
        CouponCommand::Close { coupon, yes: true } => change(coupon, json!({"close_now": true})),
        CouponCommand::Close { coupon, yes: false } => {
            let coupon = client.get(&path(coupon)).await?;
            bail!(Refused(format!(
                "{coupon:#}\nThis would be closed for good, and its waiting list ends: repeat it with --yes"
            )))
        }
    };
    let answer = client.send(method, &path, None, body).await?;
    Ok(format!("{answer:#}\n"))
}

/// Coupons of one page of the list.
const PAGE: usize = 1_000;

async fn list(client: &Client<'_>, json: bool) -> anyhow::Result<String> {
    let mut coupons: Vec<Value> = Vec::new();
    while coupons.len().is_multiple_of(PAGE) {
        let after = coupons
            .last()
            .map_or(0, |last| last["id"].as_i64().unwrap_or_default());
        let page = client
            .get(&format!("/v1/coupons?limit={PAGE}&after={after}"))
            .await?;
        match page {
            Value::Array(page) if !page.is_empty() => coupons.extend(page),
            _ => break,
        }
    }
    if json {
        return Ok(format!("{}\n", Value::Array(coupons)));
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["id", "state", "left", "opens", "name"]);
    for coupon in &coupons {
        let drop = match &coupon["current_drop"] {
            Value::Null => &coupon["next_drop"],
            current => current,
        };
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let left = drop["remaining"].as_u64();
        let left = left.map_or("?".to_owned(), |left| left.to_string());
        table.add_row([
            coupon["id"].to_string(),
            text(&drop["state"]),
            format!("{left} of {}", drop["quantity"]),
            text(&drop["opens_at"]),
            text(&coupon["name"]),
        ]);
    }
    Ok(format!("{table}\n"))
}

/// Refuses a lower quantity once a drop has opened, because slots that were given are promised.
async fn raise(client: &Client<'_>, path: &str, quantity: u32) -> anyhow::Result<String> {
    let coupon = client.get(path).await?;
    let current = &coupon["current_drop"];
    let state = current["state"].as_str();
    let is_open = matches!(state, Some("open" | "sold_out" | "paused"));
    let now = coupon["quantity"]
        .as_u64()
        .max(current["quantity"].as_u64());
    if let Some(now) = now.filter(|now| is_open && u64::from(quantity) <= *now) {
        bail!(Refused(format!(
            "it gives out {now} already; give a larger number than that"
        )));
    }
    // The change fails if another operator has changed the coupon since.
    let only = Some(&coupon["revision"]);
    let body = json!({ "quantity": quantity }).to_string().into();
    let answer = client.send(Method::PATCH, path, only, body).await?;
    Ok(format!("{answer:#}\n"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn examples_in_the_help_of_create_are_valid() {
        let commands = CREATE_EXAMPLES
            .split("\n\n")
            .filter_map(|part| Some(part.split_once("\n  ")?.1.replace('\\', "")));
        let mut read = 0;
        for command in commands {
            Cli::try_parse_from(command.split_whitespace())
                .unwrap_or_else(|error| panic!("{command}: {error}"));
            read += 1;
        }
        assert_eq!(read, 2);
    }
}
