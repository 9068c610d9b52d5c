//! `firstcome-api coupon …`: commands for operators, which use the routes of the API.

mod allow;
mod client;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use axum::http::Method;
use axum::http::header::IF_MATCH;
use chrono::NaiveDate;
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use self::allow::AllowWhat;
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
    List {
        /// Only coupons in this state: scheduled, open, `sold_out`, paused, closed, sealed
        #[arg(long)]
        state: Option<String>,
    },
    /// Show a coupon
    Show(Id),
    /// Stop admission for now
    Pause(Id),
    /// Resume admission
    Resume(Id),
    /// Raise the quantity of the drops that are not closed, and of later ones. While no drop is open,
    /// also lower it
    Raise {
        #[command(flatten)]
        id: Id,
        /// Quantity of each drop from now on
        quantity: u32,
    },
    /// Close the open drop, or a coupon that has not opened, immediately and permanently
    Close {
        #[command(flatten)]
        id: Id,
        /// Close it; without this flag, the command only shows what it would close
        #[arg(long)]
        yes: bool,
    },
    /// Revoke a user's coupon; its slot goes to the next user on the waiting list
    Revoke(RevokeArgs),
    /// Show or change a coupon's allow list
    Allow {
        #[command(flatten)]
        id: Id,
        #[command(flatten)]
        what: AllowWhat,
    },
}

#[derive(Debug, Clone, Args)]
struct RevokeArgs {
    #[command(flatten)]
    id: Id,
    /// The user's id
    #[arg(value_name = "PERSON")]
    user: String,
    /// Reason, kept with the revocation
    #[arg(long)]
    reason: String,
    /// Operator who decided it (default: --operator)
    #[arg(long)]
    by: Option<String>,
    /// Drop of the coupon (default: the open one, else the last opened)
    #[arg(long, value_name = "ID")]
    drop: Option<i64>,
    /// The user may claim another coupon
    #[arg(long)]
    may_claim_again: bool,
}

#[derive(Debug, Clone, Copy, Args)]
struct Id {
    /// Coupon ID
    #[arg(value_name = "COUPON")]
    id: i64,
}

impl Id {
    fn path(self) -> String {
        format!("/v1/coupons/{}", self.id)
    }
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
    /// Restrict claims to `list` (see `coupon allow`) or `group:NAME`; without it everybody may
    /// claim
    #[arg(long, value_name = "WHOM")]
    allow: Option<String>,
    /// A repeated command with the same key creates no second coupon
    #[arg(long)]
    idempotency_key: Option<String>,
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
        let mut schedule = json!({
            "type": self.time_zone.as_ref().map_or("once", |_| "daily"),
            "opens_at": self.opens_at, "closes_at": self.closes_at, "time_zone": self.time_zone,
            "opens": self.opens, "closes": self.closes,
            "first_day": self.first_day, "last_day": self.last_day,
        });
        if let Some(fields) = schedule.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
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
    let json = args.api.json;
    let change = async |id: &Id, body: Value| {
        let request = client.request(Method::PATCH, &id.path());
        client.send_json(request, &body).await
    };
    let answer = match &args.command {
        CouponCommand::List { state } => return list(&client, json, state.as_deref()).await,
        CouponCommand::Allow { id, what } => {
            return allow::run(&client, json, &id.path(), what).await;
        }
        CouponCommand::Create(create) => {
            let mut request = client.request(Method::POST, "/v1/coupons");
            if let Some(key) = &create.idempotency_key {
                request = request.header("idempotency-key", key);
            }
            client.send_json(request, &create.body()).await?
        }
        CouponCommand::Show(id) => client.get(&id.path()).await?,
        CouponCommand::Pause(id) => change(id, json!({"paused": true})).await?,
        CouponCommand::Resume(id) => change(id, json!({"paused": false})).await?,
        CouponCommand::Raise { id, quantity } => raise(&client, *id, *quantity).await?,
        CouponCommand::Close { id, yes: true } => change(id, json!({"close_now": true})).await?,
        CouponCommand::Close { id, yes: false } => bail!(would_close(&client, *id).await?),
        CouponCommand::Revoke(revoke) => {
            let by = revoke.by.as_ref().or(args.api.operator.as_ref());
            let by = by.context("say who decided it: give --by, or --operator")?;
            let body = json!({
                "reason": revoke.reason, "by": by, "drop_id": revoke.drop,
                "may_claim_again": revoke.may_claim_again,
            });
            let path = format!(
                "{}/people/{}/revoke",
                revoke.id.path(),
                encoded(&revoke.user)
            );
            client
                .send_json(client.request(Method::POST, &path), &body)
                .await?
        }
    };
    Ok(shown(&answer))
}

/// Encodes a value for a path or a query. Also encodes dots, because programs that normalize paths
/// remove `..`.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn shown(answer: &Value) -> String {
    format!("{answer:#}\n")
}

async fn list(client: &Client<'_>, json: bool, state: Option<&str>) -> anyhow::Result<String> {
    let state = state.map(|state| format!("&state={}", encoded(state)));
    let first = format!("/v1/coupons?limit=1000{}", state.unwrap_or_default());
    let pages = client.pages(first).await?;
    let coupons = pages
        .into_iter()
        .filter_map(|page| page.as_array().cloned());
    let coupons: Vec<Value> = coupons.flatten().collect();
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
        let left = &drop["remaining"];
        let left = left
            .as_u64()
            .map_or("?".to_owned(), |left| left.to_string());
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
async fn raise(client: &Client<'_>, id: Id, quantity: u32) -> anyhow::Result<Value> {
    let coupon = client.get(&id.path()).await?;
    let current = &coupon["current_drop"];
    let is_open = matches!(
        current["state"].as_str(),
        Some("open" | "sold_out" | "paused")
    );
    let now = [&coupon["quantity"], &current["quantity"]];
    let now = now
        .into_iter()
        .filter_map(Value::as_u64)
        .max()
        .unwrap_or_default();
    if is_open && u64::from(quantity) <= now {
        bail!(Refused(format!(
            "it gives out {now} already; give a larger number than that"
        )));
    }
    // Send the revision, so that the change fails if another operator has changed the coupon since.
    let revision = format!("\"{}\"", coupon["revision"]);
    let request = client
        .request(Method::PATCH, &id.path())
        .header(IF_MATCH, revision);
    client
        .send_json(request, &json!({ "quantity": quantity }))
        .await
}

/// Describes what would be closed, which cannot be undone.
async fn would_close(client: &Client<'_>, id: Id) -> anyhow::Result<Refused> {
    let coupon = client.get(&id.path()).await?;
    let (name, drop) = (&coupon["name"], &coupon["current_drop"]);
    let is_open = matches!(drop["state"].as_str(), Some("open" | "sold_out" | "paused"));
    let is_to_come = drop.is_null() && coupon["schedule"]["type"] == "once";
    if !is_open && !is_to_come {
        let why = "no drop is open, so there is nothing to close; `coupon pause` keeps the next one from admitting anybody";
        return Ok(Refused(why.to_owned()));
    }
    let left = if is_open {
        &drop["remaining"]
    } else {
        &coupon["quantity"]
    };
    Ok(Refused(format!(
        "this would close {name} ({left} left) for good, and its waiting list ends: repeat it with --yes"
    )))
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
