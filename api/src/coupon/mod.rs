//! `firstcome-api coupon …`: commands for operators, which use the routes of the API.

mod allow;
mod client;

use std::io::Write as _;
use std::process::ExitCode;

use axum::http::Method;
use axum::http::header::IF_MATCH;
use chrono::NaiveDate;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use self::allow::AllowWhat;
use self::client::{ApiArgs, Client, CommandFailure};
use crate::percent::encoded;

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
    /// Raise the quantity of the drops that are not closed, and of later ones
    Raise {
        #[command(flatten)]
        id: Id,
        /// Quantity of each drop from now on
        quantity: u32,
    },
    /// Close the open drop immediately and permanently
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OncePerArg {
    Coupon,
    Drop,
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
    #[arg(long, value_enum, default_value = "coupon")]
    once_per: OncePerArg,
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
        let kind = self.time_zone.as_ref().map_or("once", |_| "daily");
        let fields = [
            ("type", Some(kind.to_owned())),
            ("opens_at", self.opens_at.clone()),
            ("closes_at", self.closes_at.clone()),
            ("time_zone", self.time_zone.clone()),
            ("opens", self.opens.clone()),
            ("closes", self.closes.clone()),
            ("first_day", self.first_day.map(|day| day.to_string())),
            ("last_day", self.last_day.map(|day| day.to_string())),
        ];
        let given =
            |(name, value): (&str, Option<String>)| Some((name.to_owned(), Value::String(value?)));
        let schedule: Map<String, Value> = fields.into_iter().filter_map(given).collect();
        let once_per = match self.once_per {
            OncePerArg::Coupon => "coupon",
            OncePerArg::Drop => "drop",
        };
        json!({
            "name": self.name, "quantity": self.quantity, "once_per": once_per, "waiting_list": self.waiting_list,
            "allow": self.allow, "schedule": schedule,
        })
    }
}

/// Exits 0 on success, 1 if the API refused, 2 if the API could not be reached.
pub async fn run(args: CouponArgs) -> ExitCode {
    let done = match Client::new(&args.api) {
        Ok(client) => act(&client, &args).await,
        Err(failure) => Err(failure),
    };
    let (code, why) = match done {
        Ok(text) => {
            // Most likely, the reader of the pipe, such as `head`, has closed it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(CommandFailure::Refused(why)) => (1, why),
        Err(CommandFailure::NotAsked(why)) => (2, why),
    };
    eprintln!("firstcome-api: {why}");
    ExitCode::from(code)
}

/// Returns the output of a command.
async fn act(client: &Client, args: &CouponArgs) -> Result<String, CommandFailure> {
    let patch = async |id: &Id, body: Value| {
        let changed = client.send(Method::PATCH, &path(*id), &body).await?;
        Ok(shown(&changed))
    };
    let json = args.api.json;
    match &args.command {
        CouponCommand::Create(create) => {
            let key = create.idempotency_key.as_deref();
            let header = key.map(|key| ("idempotency-key", key));
            let made = client
                .send_with(Method::POST, "/v1/coupons", &create.body(), header)
                .await?;
            Ok(shown(&made))
        }
        CouponCommand::List { state } => {
            let state = state.as_deref().map(encoded);
            let state = state.map(|state| format!("&state={state}"));
            let first = format!("/v1/coupons?limit=1000{}", state.unwrap_or_default());
            let pages = client.pages(first).await?;
            let all: Vec<Value> = pages
                .into_iter()
                .filter_map(|page| page.as_array().cloned())
                .flatten()
                .collect();
            if json {
                return Ok(format!("{}\n", Value::Array(all)));
            }
            Ok(all.iter().map(line).collect())
        }
        CouponCommand::Show(id) => Ok(shown(&client.get(&path(*id)).await?)),
        CouponCommand::Pause(id) => patch(id, json!({"paused": true})).await,
        CouponCommand::Resume(id) => patch(id, json!({"paused": false})).await,
        CouponCommand::Raise { id, quantity } => raise(client, *id, *quantity).await,
        CouponCommand::Close { id, yes } => close(client, *id, *yes).await,
        CouponCommand::Revoke(revoke) => {
            let by = revoke.by.as_ref().or(args.api.operator.as_ref());
            let why =
                || CommandFailure::NotAsked("say who decided it: give --by, or --operator".into());
            let body = json!({
                "reason": revoke.reason, "by": by.ok_or_else(why)?, "drop_id": revoke.drop,
                "may_claim_again": revoke.may_claim_again,
            });
            let path = format!(
                "{}/people/{}/revoke",
                path(revoke.id),
                encoded(&revoke.user)
            );
            Ok(shown(&client.send(Method::POST, &path, &body).await?))
        }
        CouponCommand::Allow {
            id,
            what: AllowWhat {
                only: Some(whom), ..
            },
        } => {
            let allow = (whom != "everybody").then_some(whom);
            patch(id, json!({ "allow": allow })).await
        }
        CouponCommand::Allow { id, what } => allow::run(client, json, &path(*id), what).await,
    }
}

fn path(id: Id) -> String {
    format!("/v1/coupons/{}", id.id)
}

fn shown(answer: &Value) -> String {
    format!("{answer:#}\n")
}

/// Formats a coupon of the list as one line; the name, which may be long, is last.
fn line(coupon: &Value) -> String {
    let drop = match &coupon["current_drop"] {
        Value::Null => &coupon["next_drop"],
        current => current,
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let left = match &drop["remaining"] {
        Value::Null => "?".to_owned(),
        remaining => remaining.to_string(),
    };
    format!(
        "{:>16}  {:<9}  {:>8} of {:<8}  {:<20}  {}\n",
        coupon["id"].to_string(),
        text(&drop["state"]),
        left,
        drop["quantity"].to_string(),
        text(&drop["opens_at"]),
        text(&coupon["name"])
    )
}

/// Refuses a lower quantity, because slots that were given are promised.
async fn raise(client: &Client, id: Id, quantity: u32) -> Result<String, CommandFailure> {
    let path = path(id);
    let coupon = client.get(&path).await?;
    let now = coupon["quantity"].as_u64().unwrap_or_default();
    if u64::from(quantity) < now {
        return Err(CommandFailure::Refused(format!(
            "it gives out {now} already; give a larger number than that"
        )));
    }
    // Send the revision, so that the change fails if another operator has changed the coupon since.
    let revision = format!("\"{}\"", coupon["revision"]);
    let header = Some((IF_MATCH.as_str(), revision.as_str()));
    let body = json!({ "quantity": quantity });
    let changed = client.send_with(Method::PATCH, &path, &body, header);
    Ok(shown(&changed.await?))
}

/// Closes the open drop, which cannot be undone. Without `yes`, only describes it.
async fn close(client: &Client, id: Id, yes: bool) -> Result<String, CommandFailure> {
    if yes {
        let body = json!({"close_now": true});
        return Ok(shown(&client.send(Method::PATCH, &path(id), &body).await?));
    }
    let coupon = client.get(&path(id)).await?;
    let drop = &coupon["current_drop"];
    let is_open = matches!(drop["state"].as_str(), Some("open" | "sold_out" | "paused"));
    Err(CommandFailure::Refused(if is_open {
        format!(
            "this would close drop {} of coupon {} ({} left) for good, and its waiting list ends: repeat it with --yes",
            drop["id"], coupon["name"], drop["remaining"]
        )
    } else {
        "no drop is open, so there is nothing to close; `coupon pause` keeps the next one from admitting anybody".into()
    }))
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
