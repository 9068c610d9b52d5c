//! One person's whole story with one coupon, in order of time, and what holds now. It answers "it
//! said yes and I have nothing", and says which part is no longer known rather than guess.

mod gather;
mod verdict;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::redis::RedisError;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::args::ExplainArgs;
use crate::stores::Stores;
use crate::terminal::{hanging, width};
use verdict::Question;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Happening {
    /// When; `None` where that is not known.
    pub at: Option<DateTime<Utc>>,
    /// Where it is written: `redis`, `kafka`, `mysql`, `backup`, `reconciler`.
    pub source: &'static str,
    /// What happened.
    pub what: String,
}

/// What holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// A row: they have it.
    Issued,
    /// Admitted, the row is still to come.
    Accepted,
    /// On the waiting list.
    Waiting,
    /// They were promised one, and it could not be kept.
    Broken,
    /// It was given back or revoked.
    Revoked,
    /// A claim of theirs is a dead letter and needs a person.
    Failed,
    /// No claim is known.
    None,
    /// Something could not be asked, so nothing can be said for sure.
    Unknown,
}

/// One person's story with one coupon.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Story {
    /// The coupon.
    pub coupon_id: CouponId,
    /// Its name.
    pub coupon_name: String,
    /// The person, in full: only operators see this.
    pub user_id: String,
    /// What holds now.
    pub holds: Holds,
    /// The same in a sentence, with what to do where something is to be done.
    pub conclusion: String,
    /// The drop it is about, where there is one.
    pub drop_id: Option<DropId>,
    /// The slot, where there is one.
    pub slot: Option<i64>,
    /// Everything known, oldest first; what has no time comes last.
    pub happenings: Vec<Happening>,
    /// What is no longer known, or could not be asked.
    pub no_longer_known: Vec<String>,
}

/// A person's story, and what holds in one drop of the coupon or altogether; `None` where there is
/// no such coupon.
pub async fn explain(
    stores: &Stores,
    coupon: CouponId,
    drop: Option<DropId>,
    user: &UserId,
) -> anyhow::Result<Option<Story>> {
    let Some((coupon, drops)) = stores.db.coupon(coupon).await? else { return Ok(None) };
    let known = gather::gather(stores, &coupon, &drops, user).await?;
    let question = Question { drop, last: last_opened(&drops), whole_coupon: coupon.once_per == OncePer::Coupon };
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
    }))
}

/// Who is known on a slot.
pub(crate) struct OnSlot {
    pub(crate) drop: DropId,
    pub(crate) people: BTreeSet<UserId>,
    /// Why Redis could not be asked.
    pub(crate) not_asked: Option<RedisError>,
}

/// Everybody known on a slot of a drop, or of the last drop that has opened; `None` where none has.
pub(crate) async fn on_slot(
    stores: &Stores,
    (coupon, drops): (&Coupon, &[Drop]),
    drop: Option<DropId>,
    slot: i64,
) -> anyhow::Result<Option<OnSlot>> {
    let Some(drop) = drop.or_else(|| last_opened(drops)) else { return Ok(None) };
    gather::people_on(stores, coupon, drop, slot).await.map(Some)
}

/// `firstcome-reconciler explain`.
pub async fn run(args: ExplainArgs, _stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let stores = args.stores.handles()?;
    let (id, drop) = (CouponId(args.coupon), args.drop.map(DropId));
    let Some((coupon, drops)) = stores.db.coupon(id).await? else { bail!("there is no coupon {id}") };
    anyhow::ensure!(drop.is_none_or(|id| drops.iter().any(|d| d.id == id)), "the coupon has no such drop");
    let people = match (&args.user, args.slot) {
        (Some(user), _) => BTreeSet::from([user.parse().context("--user")?]),
        (None, Some(slot)) => {
            let known = on_slot(&stores, (&coupon, &drops), drop, slot).await?;
            let OnSlot { drop, people, not_asked } =
                known.context("no drop of the coupon has opened; name one by --drop")?;
            if let Some(error) = not_asked {
                eprintln!("Redis cannot be asked right now: {error}");
            }
            anyhow::ensure!(!people.is_empty(), "nobody is known on slot {slot} of drop {drop}");
            people
        }
        (None, None) => bail!("give --user or --slot"),
    };
    for user in people {
        let Some(story) = explain(&stores, id, drop, &user).await? else { bail!("there is no coupon {id}") };
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
    drops.iter().filter(|drop| drop.opens_at <= now).max_by_key(|drop| drop.opens_at).map(|drop| drop.id)
}

fn print(story: &Story) {
    let width = width();
    println!("{} and coupon {} ({})\n", story.user_id, story.coupon_id, story.coupon_name);
    for happening in &story.happenings {
        let at = happening
            .at
            .map_or_else(|| "time not known".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        println!("{}", hanging(&format!("{at:<23}  {:<10}  ", happening.source), &happening.what, width));
    }
    if story.happenings.is_empty() {
        println!("nothing is known");
    }
    for gone in &story.no_longer_known {
        println!("\n{}", hanging("no longer known: ", gone, width));
    }
    println!("\n{}", hanging("now: ", &story.conclusion, width));
}
