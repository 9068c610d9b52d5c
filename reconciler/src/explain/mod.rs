//! Explains one user's history with a coupon, in chronological order, and the current state.
//! Support uses it to answer "it said yes and I have nothing". Facts that are no longer known are
//! listed, not guessed.

mod gather;
mod verdict;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::http::views::Story;
use firstcome_shared::redis::RedisError;
use tokio_util::sync::CancellationToken;

use crate::args::ExplainArgs;
use crate::stores::Stores;
use crate::terminal::{hanging, width};
use verdict::Question;

/// All users known on a slot.
pub(crate) struct OnSlot {
    pub(crate) drop: DropId,
    pub(crate) people: BTreeSet<UserId>,
    /// Why Redis could not be read.
    pub(crate) not_asked: Option<RedisError>,
}

/// Returns a user's history with the state in one drop or in the whole coupon, or `None` if the
/// coupon does not exist.
pub async fn explain(
    stores: &Stores,
    coupon: CouponId,
    drop: Option<DropId>,
    user: &UserId,
) -> anyhow::Result<Option<Story>> {
    let Some((coupon, drops)) = stores.db.coupon(coupon).await? else {
        return Ok(None);
    };
    let known = gather::gather(stores, &coupon, &drops, user).await?;
    let question = Question {
        drop,
        last: last_opened(&drops),
        whole_coupon: coupon.once_per == OncePer::Coupon,
    };
    let (holds, conclusion, drop_id, slot) = verdict::verdict(&known, question);
    let mut happenings = known.happenings;
    happenings.sort_by_key(|h| (h.at.is_none(), h.at));
    Ok(Some(Story {
        coupon_id: coupon.id,
        coupon_name: coupon.name,
        user_id: user.to_string(),
        holds,
        conclusion,
        drop_id,
        slot,
        happenings,
        no_longer_known: known.no_longer_known,
        trace_ids: known.traces,
    }))
}

/// Returns all users known on a slot of a drop; by default, of the last drop that has opened.
/// Returns `None` if no drop has opened.
pub(crate) async fn on_slot(
    stores: &Stores,
    coupon: &Coupon,
    drops: &[Drop],
    drop: Option<DropId>,
    slot: i64,
) -> anyhow::Result<Option<OnSlot>> {
    let Some(drop) = drop.or_else(|| last_opened(drops)) else {
        return Ok(None);
    };
    gather::people_on(stores, coupon, drop, slot)
        .await
        .map(Some)
}

/// Runs `firstcome-reconciler explain`.
pub async fn run(args: ExplainArgs, _stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let stores = args.stores.handles()?;
    let id = CouponId(args.coupon);
    let drop = args.drop.map(DropId);
    let Some((coupon, drops)) = stores.db.coupon(id).await? else {
        bail!("there is no coupon {id}")
    };
    anyhow::ensure!(
        drop.is_none_or(|id| drops.iter().any(|d| d.id == id)),
        "the coupon has no such drop"
    );
    let people = match (&args.user, args.slot) {
        (Some(user), _) => BTreeSet::from([user.parse().context("--user")?]),
        (None, Some(slot)) => {
            let known = on_slot(&stores, &coupon, &drops, drop, slot).await?;
            let OnSlot {
                drop,
                people,
                not_asked,
            } = known.context("no drop of the coupon has opened; name one by --drop")?;
            if let Some(error) = not_asked {
                eprintln!("Redis cannot be asked right now: {error}");
            }
            anyhow::ensure!(
                !people.is_empty(),
                "nobody is known on slot {slot} of drop {drop}"
            );
            people
        }
        (None, None) => bail!("give --user or --slot"),
    };
    for user in people {
        let Some(story) = explain(&stores, id, drop, &user).await? else {
            bail!("there is no coupon {id}")
        };
        if args.json {
            println!("{}", serde_json::to_string_pretty(&story)?);
        } else {
            print(&story);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn last_opened(drops: &[Drop]) -> Option<DropId> {
    let now = Utc::now();
    drops
        .iter()
        .filter(|drop| drop.opens_at <= now)
        .max_by_key(|drop| drop.opens_at)
        .map(|drop| drop.id)
}

fn print(story: &Story) {
    let width = width();
    println!(
        "{} and coupon {} ({})\n",
        story.user_id, story.coupon_id, story.coupon_name
    );
    for happening in &story.happenings {
        let at = happening.at.map_or_else(
            || "time not known".to_owned(),
            |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        );
        println!(
            "{}",
            hanging(
                &format!("{at:<23}  {:<10}  ", happening.source),
                width,
                &happening.what
            )
        );
    }
    if story.happenings.is_empty() {
        println!("nothing is known");
    }
    for gone in &story.no_longer_known {
        println!("\n{}", hanging("no longer known: ", width, gone));
    }
    if !story.trace_ids.is_empty() {
        println!(
            "\n{}",
            hanging("trace: ", width, &story.trace_ids.join(", "))
        );
    }
    println!("\n{}", hanging("now: ", width, &story.conclusion));
}
