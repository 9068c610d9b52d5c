//! Explains one user's history with a coupon, in chronological order, and the current state.
//! Support uses it to answer "it said yes and I have nothing". It reads MySQL and Redis only. Facts
//! that are no longer known are listed, not guessed.

mod gather;
mod verdict;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::Utc;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::http::views::Story;
use firstcome_shared::mysql::DbError;
use firstcome_shared::redis::RedisError;

use self::verdict::{Question, Verdict};
use crate::args::ExplainArgs;
use crate::stores::Stores;

/// Returns a user's history with the state in one drop or in the whole coupon, or `None` if the
/// coupon does not exist.
pub async fn explain(
    stores: &Stores,
    coupon: CouponId,
    drop: Option<DropId>,
    user: &UserId,
) -> Result<Option<Story>, DbError> {
    let Some((coupon, drops)) = stores.db.coupon(coupon).await? else {
        return Ok(None);
    };
    let mut known = gather::gather(stores, &coupon, &drops, user).await?;
    let question = Question {
        drop,
        drops: drops.iter().map(|drop| drop.id).collect(),
        last: last_opened(&drops),
        whole_coupon: coupon.once_per == OncePer::Coupon,
    };
    let Verdict {
        holds,
        conclusion,
        drop,
        slot,
    } = verdict::verdict(&known, &question);
    known.happenings.sort_by_key(|h| (h.at.is_none(), h.at));
    Ok(Some(Story {
        coupon_id: coupon.id,
        coupon_name: coupon.settings.name,
        user_id: user.to_string(),
        holds,
        conclusion,
        drop_id: drop,
        slot,
        happenings: known.happenings,
        no_longer_known: known.no_longer_known,
        trace_ids: known.traces,
    }))
}

/// All users known on a slot.
#[derive(Default)]
pub(crate) struct OnSlot {
    pub(crate) users: BTreeSet<UserId>,
    /// Why Redis could not be read.
    not_asked: Option<RedisError>,
}

impl OnSlot {
    /// Returns a sentence if nobody is known on the slot.
    pub(crate) fn nobody(&self, drop: DropId, slot: i64) -> Option<String> {
        let but = self.not_asked.as_ref();
        let but = but.map_or("", |_| ", but Redis does not answer right now");
        let nobody = || format!("nobody is known on slot {slot} of drop {drop}{but}");
        self.users.is_empty().then(nobody)
    }
}

/// Returns every user who has a row, an admission in Redis or a dead letter for a slot of a drop.
pub(crate) async fn on_slot(
    stores: &Stores,
    coupon: CouponId,
    drop: DropId,
    slot: i64,
) -> Result<OnSlot, DbError> {
    let Stores { db, redis, .. } = stores;
    let mut found = OnSlot::default();
    if let Ok(slot) = slot.try_into() {
        let row = db.row_on_slot(drop, slot).await?;
        let user = row.map(|row| UserId::from_store(row.user_id));
        found.users.extend(user);
    }
    found
        .users
        .extend(db.people_of_dead_letters_on(drop, slot).await?);
    let keys = redis.keys(coupon, drop);
    match redis.page(&keys, slot, Some(slot)).await {
        Ok(page) => (found.users).extend(page.users.into_iter().map(|holder| holder.user)),
        Err(error) => found.not_asked = Some(error),
    }
    Ok(found)
}

/// Returns the drop that opened last; `drops` are in order of opening.
pub(crate) fn last_opened(drops: &[Drop]) -> Option<DropId> {
    let now = Utc::now();
    let opened = drops.iter().rfind(|drop| drop.opens_at <= now);
    opened.map(|drop| drop.id)
}

/// Runs `firstcome-reconciler explain`.
pub async fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let stores = args.stores.handles()?;
    let id = CouponId(args.coupon);
    let Some((_, drops)) = stores.db.coupon(id).await? else {
        bail!("there is no coupon {id}")
    };
    let drop = args.drop.map(DropId);
    let has_drop = |id| drops.iter().any(|drop| drop.id == id);
    anyhow::ensure!(drop.is_none_or(has_drop), "the coupon has no such drop");
    let users = match (&args.user, args.slot) {
        (Some(user), _) => BTreeSet::from([user.parse().context("--user")?]),
        (None, Some(slot)) => {
            let drop = drop.or_else(|| last_opened(&drops));
            let drop = drop.context("no drop of the coupon has opened; name one by --drop")?;
            let found = on_slot(&stores, id, drop, slot).await?;
            if let Some(error) = &found.not_asked {
                eprintln!("Redis cannot be asked right now: {error}");
            }
            if let Some(why) = found.nobody(drop, slot) {
                bail!(why);
            }
            found.users
        }
        (None, None) => bail!("give --user or --slot"),
    };
    for user in users {
        let story = explain(&stores, id, drop, &user).await?;
        let story = story.with_context(|| format!("there is no coupon {id}"))?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&story)?);
        } else {
            print(&story);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(story: &Story) {
    let Story {
        user_id,
        coupon_id,
        coupon_name,
        ..
    } = story;
    println!("{user_id} and coupon {coupon_id} ({coupon_name})\n");
    for one in &story.happenings {
        let at = one
            .at
            .map(|at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        let at = at.unwrap_or_else(|| "time not known".to_owned());
        println!("{at:<23}  {:<10}  {}", one.source, one.what);
    }
    if story.happenings.is_empty() {
        println!("nothing is known");
    }
    for gone in &story.no_longer_known {
        println!("\nno longer known: {gone}");
    }
    if !story.trace_ids.is_empty() {
        println!("\ntrace: {}", story.trace_ids.join(", "));
    }
    println!("\nnow: {}", story.conclusion);
}
