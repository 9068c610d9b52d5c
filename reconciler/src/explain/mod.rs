//! One person's whole story with one coupon, in order of time, and what holds now. It answers "it
//! said yes and I have nothing", and says which part is no longer known rather than guess.

mod gather;
mod verdict;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::args::ExplainArgs;
use crate::stores::Stores;

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

/// A person's story; `None` where there is no such coupon.
pub async fn explain(stores: &Stores, coupon: CouponId, user: &UserId) -> anyhow::Result<Option<Story>> {
    let Some((coupon, drops)) = stores.db.coupon(coupon).await? else { return Ok(None) };
    let known = gather::gather(stores, &coupon, &drops, user).await?;
    let (holds, conclusion, drop_id, slot) = verdict::verdict(&known);
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

/// `firstcome-reconciler explain`.
pub async fn run(args: ExplainArgs, _stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let user: UserId = args.user.parse().context("--user")?;
    let stores = args.reconcile.stores()?;
    let Some(story) = explain(&stores, CouponId(args.coupon), &user).await? else {
        bail!("there is no coupon {}", args.coupon)
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&story)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} and coupon {} ({})\n", story.user_id, story.coupon_id, story.coupon_name);
    for happening in &story.happenings {
        let at = happening
            .at
            .map_or_else(|| "time not known".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        println!("{at:<23}  {:<10}  {}", happening.source, happening.what);
    }
    if story.happenings.is_empty() {
        println!("nothing is known");
    }
    for gone in &story.no_longer_known {
        println!("\nno longer known: {gone}");
    }
    println!("\nnow: {}", story.conclusion);
    Ok(ExitCode::SUCCESS)
}
