//! `firstcome-api coupon …`: commands for operators, which use the routes of the API.

mod allow;
mod client;
mod edit;
mod openings;
mod output;
mod table;

use std::process::ExitCode;

use axum::http::Method;
use chrono::{NaiveDate, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use self::allow::AllowWhat;
use self::client::{ApiArgs, Client, CommandFailure};
use self::edit::EditArgs;
use self::output::print;
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
    /// Show a coupon with its next ten openings
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
    /// Change its name, its waiting list, or when it closes and opens
    Edit {
        #[command(flatten)]
        id: Id,
        #[command(flatten)]
        what: EditArgs,
    },
    /// Close the open drop immediately and permanently
    Close {
        #[command(flatten)]
        id: Id,
        /// Close it; without this flag, the command only shows what it would close
        #[arg(long)]
        yes: bool,
    },
    /// List the holders
    Winners {
        #[command(flatten)]
        id: Id,
        /// Only holders in this drop
        #[arg(long, value_name = "ID")]
        drop: Option<i64>,
        /// Print the API's CSV
        #[arg(long)]
        csv: bool,
    },
    /// Revoke a user's coupon; its slot goes to the next user on the waiting list
    Revoke(RevokeArgs),
    /// Show or change a coupon's allow list
    Allow(AllowArgs),
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

#[derive(Debug, Clone, Args)]
struct AllowArgs {
    #[command(flatten)]
    id: Id,
    #[command(flatten)]
    what: AllowWhat,
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
    --time-zone Asia/Seoul --opens 15:00 --closes 18:00 --first-day 2026-12-01

With --preview the command shows the next ten openings and creates nothing.";

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
    /// Only show the next ten openings, without creating the coupon or calling the API
    #[arg(long)]
    preview: bool,
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
        let kind = if self.time_zone.is_some() {
            "daily"
        } else {
            "once"
        };
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
        let mut body = json!({
            "name": self.name, "quantity": self.quantity, "once_per": once_per, "waiting_list": self.waiting_list,
            "schedule": schedule,
        });
        if let Some(allow) = &self.allow {
            body["allow"] = json!(allow);
        }
        body
    }
}

/// Exits 0 on success, 1 if the API refused, 2 if the API could not be reached.
pub async fn run(args: CouponArgs) -> ExitCode {
    let done = match Client::new(&args.api) {
        Ok(client) => act(&client, &args).await,
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) | Err(CommandFailure::OutputClosed) => ExitCode::SUCCESS,
        Err(CommandFailure::Refused(why)) => fail(1, &why),
        Err(CommandFailure::NotAsked(why)) => fail(2, &why),
    }
}

fn fail(code: u8, why: &str) -> ExitCode {
    eprintln!("firstcome-api: {why}");
    ExitCode::from(code)
}

async fn act(client: &Client, args: &CouponArgs) -> Result<(), CommandFailure> {
    let json = args.api.json;
    let change = async |id: Id, body: Value| {
        let coupon = client.ops(Method::PATCH, &path(id), &body, None).await?;
        show(json, &coupon, false)
    };
    match &args.command {
        CouponCommand::Create(create) if create.preview => {
            let preview = openings::preview(&create.body(), Utc::now(), json);
            print(&preview.map_err(CommandFailure::Refused)?)
        }
        CouponCommand::Create(create) => {
            let key = create.idempotency_key.as_deref();
            let coupon = client
                .ops(Method::POST, "/v1/coupons", &create.body(), key)
                .await?;
            show(json, &coupon, true)
        }
        CouponCommand::List { state } => list(client, json, state.as_deref()).await,
        CouponCommand::Show(id) => show(json, &client.get(&path(*id)).await?.0, true),
        CouponCommand::Pause(id) => change(*id, json!({"paused": true})).await,
        CouponCommand::Resume(id) => change(*id, json!({"paused": false})).await,
        CouponCommand::Raise { id, quantity } => raise(client, json, *id, *quantity).await,
        CouponCommand::Edit { id, what } => change(*id, what.body()).await,
        CouponCommand::Close { id, yes } => edit::close(client, json, *id, *yes).await,
        CouponCommand::Winners { id, drop, csv } => winners(client, json, *id, *drop, *csv).await,
        CouponCommand::Revoke(revoke) => {
            let by = revoke.by.as_ref().or(args.api.operator.as_ref());
            let why =
                || CommandFailure::NotAsked("say who decided it: give --by, or --operator".into());
            self::revoke(client, json, revoke, by.ok_or_else(why)?).await
        }
        CouponCommand::Allow(AllowArgs {
            id,
            what: AllowWhat {
                only: Some(whom), ..
            },
        }) => {
            let allow = if whom == "everybody" {
                Value::Null
            } else {
                json!(whom)
            };
            change(*id, json!({ "allow": allow })).await
        }
        CouponCommand::Allow(AllowArgs { id, what }) => {
            allow::run(client, json, &path(*id), what).await
        }
    }
}

fn path(id: Id) -> String {
    format!("/v1/coupons/{}", id.id)
}

fn show(json: bool, coupon: &Value, with_openings: bool) -> Result<(), CommandFailure> {
    if json {
        return print(&format!("{coupon}\n"));
    }
    let openings = if with_openings {
        openings::next_ten(&coupon["schedule"], Utc::now())
    } else {
        String::new()
    };
    print(&(table::coupon(coupon) + &openings))
}

/// Refuses a lower quantity, because slots that were given are promised.
async fn raise(client: &Client, json: bool, id: Id, quantity: u32) -> Result<(), CommandFailure> {
    let (coupon, _) = client.get(&path(id)).await?;
    let now = coupon["quantity"].as_u64().unwrap_or_default();
    if u64::from(quantity) < now {
        return Err(CommandFailure::Refused(format!(
            "it gives out {now} already; give a larger number than that"
        )));
    }
    // Send the revision, so that the change fails if another operator has changed the coupon since.
    let revision = coupon["revision"].as_u64();
    let changed = client
        .change_if(&path(id), &json!({"quantity": quantity}), revision)
        .await?;
    show(json, &changed, false)
}

async fn list(client: &Client, json: bool, state: Option<&str>) -> Result<(), CommandFailure> {
    let state = state
        .map(|state| format!("&state={}", encoded(state)))
        .unwrap_or_default();
    let mut next = Some(format!("/v1/coupons?limit=1000{state}"));
    let mut all = Vec::new();
    while let Some(path) = next {
        let (page, link) = client.get(&path).await?;
        all.extend(page.as_array().cloned().unwrap_or_default());
        next = link;
    }
    print(&if json {
        format!("{}\n", Value::Array(all))
    } else {
        table::coupons(&all)
    })
}

/// Prints page by page, because there may be a million holders.
async fn winners(
    client: &Client,
    json: bool,
    id: Id,
    drop: Option<i64>,
    csv: bool,
) -> Result<(), CommandFailure> {
    let drop = drop
        .map(|drop| format!("drop_id={drop}&"))
        .unwrap_or_default();
    let mut next = Some(format!("{}/issued?{drop}limit=2000", path(id)));
    if csv {
        let path = format!("{}/issued?{}", path(id), drop.trim_end_matches('&'));
        return client.copy_csv(&path, print).await;
    }
    let mut of = None;
    while let Some(path) = next {
        let (page, link) = client.get_ops(&path).await?;
        let rows = page["issued"]
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice);
        let lines = || {
            rows.iter()
                .flat_map(|row| [row.to_string(), "\n".to_owned()])
                .collect()
        };
        let text = if json {
            lines()
        } else {
            table::winners(rows, &mut of)
        };
        print(&text)?;
        next = link;
    }
    if of.is_none() && !json {
        print("nobody holds one yet\n")
    } else {
        Ok(())
    }
}

async fn revoke(
    client: &Client,
    json: bool,
    args: &RevokeArgs,
    by: &str,
) -> Result<(), CommandFailure> {
    let RevokeArgs {
        id,
        user,
        reason,
        drop,
        may_claim_again,
        ..
    } = args;
    let mut body = json!({"reason": reason, "by": by, "may_claim_again": may_claim_again});
    if let Some(drop) = drop {
        body["drop_id"] = json!(drop);
    }
    let path = format!("{}/people/{}/revoke", path(*id), encoded(user));
    let revoked = client.ops(Method::POST, &path, &body, None).await?;
    if json {
        return print(&format!("{revoked}\n"));
    }
    let place = match revoked["slot"].as_u64() {
        Some(slot) => format!(
            "slot {slot} of drop {}, which goes to the next",
            revoked["drop_id"]
        ),
        None => format!("a place of drop {}", revoked["drop_id"]),
    };
    print(&format!("revoked: {place}\n"))
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
