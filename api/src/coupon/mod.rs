//! `firstcome-api coupon …`: lets operators show and change coupons in a hurry, through the routes
//! of the API.

mod client;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
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
    /// List coupons
    List,
    /// Show a coupon
    Show {
        /// Id of the coupon, as `list` shows it
        coupon: i64,
    },
    /// Stop admission for now
    Pause {
        /// Id of the coupon, as `list` shows it
        coupon: i64,
    },
    /// Resume admission
    Resume {
        /// Id of the coupon, as `list` shows it
        coupon: i64,
    },
    /// Raise the quantity of the drops that are not closed, and of later ones. While no drop is
    /// open, also lower it
    Raise {
        /// Id of the coupon, as `list` shows it
        coupon: i64,
        /// The new quantity of each drop, not the difference
        quantity: u32,
    },
    /// Close the open drop, or a coupon that has not opened, immediately and permanently
    Close {
        /// Id of the coupon, as `list` shows it
        coupon: i64,
        /// Close it; without this flag, the command only shows the coupon
        #[arg(long)]
        yes: bool,
    },
}

struct Output {
    answer: Value,
    /// Why the command only showed what it would change.
    not_done: Option<&'static str>,
}

/// Returns exit code 0 on success, 1 if the API refused or nothing was done, and 2 after any other
/// error, such as an API that could not be reached.
pub async fn run(args: CouponArgs) -> ExitCode {
    match act(&args).await {
        Ok(Output { answer, not_done }) => {
            firstcome_shared::say!("{answer:#}");
            match not_done {
                Some(why) => {
                    firstcome_shared::complain!("{why}");
                    ExitCode::FAILURE
                }
                None => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            firstcome_shared::complain!("firstcome-api: {error:#}");
            ExitCode::from(if error.is::<Refused>() { 1 } else { 2 })
        }
    }
}

async fn act(args: &CouponArgs) -> anyhow::Result<Output> {
    let client = Client::new(&args.api)?;
    let show = async |coupon| client.get(&format!("/v1/coupons/{coupon}")).await;
    let change = async |coupon, change| client.change(coupon, None, &change).await;
    let mut not_done = None;
    let answer = match args.command {
        CouponCommand::List => list(&client).await?,
        CouponCommand::Show { coupon } => show(coupon).await?,
        CouponCommand::Pause { coupon } => change(coupon, json!({"paused": true})).await?,
        CouponCommand::Resume { coupon } => change(coupon, json!({"paused": false})).await?,
        CouponCommand::Raise { coupon, quantity } => {
            let shown = show(coupon).await?;
            refuse_lower(&shown, quantity)?;
            // The change fails if another operator has changed the coupon since.
            let only = Some(&shown["revision"]);
            let change = json!({ "quantity": quantity });
            client.change(coupon, only, &change).await?
        }
        CouponCommand::Close { coupon, yes: true } => {
            change(coupon, json!({"close_now": true})).await?
        }
        CouponCommand::Close { coupon, yes: false } => {
            not_done = Some(
                "This would be closed for good, and its waiting list ends: repeat it with --yes",
            );
            show(coupon).await?
        }
    };
    Ok(Output { answer, not_done })
}

/// Refuses a quantity that is not higher while a drop is open. Operators can lower it then on the
/// operations page.
fn refuse_lower(coupon: &Value, quantity: u32) -> anyhow::Result<()> {
    let current = &coupon["current_drop"];
    let state = current["state"].as_str();
    let is_open = matches!(state, Some("open" | "sold_out" | "paused"));
    let quantities = [coupon, current].map(|it| it["quantity"].as_u64().unwrap_or_default());
    let now = quantities[0].max(quantities[1]);
    if is_open && now >= quantity.into() {
        let why = format!(
            "its quantity is {now} already, and it is open: give a larger number. The operations \
            page lowers it, as far as slots are not given out"
        );
        bail!(Refused(why));
    }
    Ok(())
}

async fn list(client: &Client<'_>) -> anyhow::Result<Value> {
    let mut coupons = Vec::new();
    let mut path = "/v1/coupons?limit=1000".to_owned();
    while let Value::Array(page) = client.get(&path).await?
        && let Some(last) = page.last()
    {
        path = format!("/v1/coupons?limit=1000&after={}", last["id"]);
        coupons.extend(page);
    }
    Ok(Value::Array(coupons))
}
