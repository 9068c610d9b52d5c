//! Explains one user's history with a coupon, in chronological order, and the current state.
//! Support uses it to answer "it said yes and I have nothing". It reads MySQL and Redis only. Facts
//! that are no longer known are listed, not guessed.

mod gather;
mod verdict;

use std::process::ExitCode;

use anyhow::Context as _;
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::http::views::Story;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;

use self::verdict::{Question, Verdict};
use crate::args::ExplainArgs;

/// Returns a user's history with the state in one drop or in the whole coupon, or `None` if the
/// coupon does not exist.
pub async fn explain(
    db: &Db,
    redis: &Redis,
    coupon: CouponId,
    drop: Option<DropId>,
    user: &UserId,
) -> Result<Option<Story>, DbError> {
    let Some((coupon, drops)) = db.coupon(coupon).await? else {
        return Ok(None);
    };
    let mut known = gather::gather(db, redis, &coupon, &drops, user).await?;
    let question = Question {
        drop,
        drops: drops.iter().map(|drop| drop.id).collect(),
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
    }))
}

/// Runs `firstcome-reconciler explain`.
pub async fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let db = Db::new(&args.mysql.settings()?)?;
    let timeout = args.mysql.store_timeout();
    let redis = Redis::new(&args.redis.settings(timeout, &args.mysql.tls)?)?;
    let id = CouponId(args.coupon);
    let user = args.user.parse().context("--user")?;
    let drop = args.drop.map(DropId);
    let story = explain(&db, &redis, id, drop, &user)
        .await?
        .with_context(|| format!("there is no coupon {id}"))?;
    if args.json {
        firstcome_shared::say!("{}", serde_json::to_string_pretty(&story)?);
    } else {
        print(&story);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(story: &Story) {
    let user = &story.user_id;
    let id = story.coupon_id;
    let name = &story.coupon_name;
    firstcome_shared::say!("{user} and coupon {id} ({name})\n");
    for one in &story.happenings {
        let time = one
            .at
            .map(|at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        let at = time.unwrap_or_else(|| "time not known".to_owned());
        firstcome_shared::say!("{at:<23}  {:<10}  {}", one.source, one.what);
    }
    if story.happenings.is_empty() {
        firstcome_shared::say!("nothing is known");
    }
    for gone in &story.no_longer_known {
        firstcome_shared::say!("\nno longer known: {gone}");
    }
    firstcome_shared::say!("\nnow: {}", story.conclusion);
}
