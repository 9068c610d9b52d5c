//! Posts webhook events when a drop opens and when it is sold out.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use firstcome_shared::StoreError;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::DropId;
use firstcome_shared::redis::refusing::unless_missed;
use tokio_util::sync::CancellationToken;

use crate::context::{Stores, sleep};
use crate::notify::{DropAtMoment, DropMoment, Notifier};

const EVERY: Duration = Duration::from_secs(5);

/// A drop that opened longer ago was seen by another daemon, or by this one before it restarted.
const NEWLY: TimeDelta = TimeDelta::minutes(10);

/// Looks at open drops until stopped.
pub(super) async fn watch(stores: Stores, notifier: Notifier, stop: CancellationToken) {
    if !notifier.has_webhooks() {
        return stop.cancelled().await;
    }
    let mut posted = HashSet::new();
    loop {
        if let Err(error) = look(&stores, &notifier, &mut posted).await {
            tracing::debug!(%error, "drops that open could not be looked at; it is repeated soon");
        }
        if sleep(EVERY, &stop).await.is_err() {
            return;
        }
    }
}

async fn look(
    stores: &Stores,
    notifier: &Notifier,
    posted: &mut HashSet<(DropId, DropMoment)>,
) -> Result<(), StoreError> {
    let now = Utc::now();
    let catalogue = stores.db.catalogue().await?;
    let open: Vec<(&Coupon, &Drop)> = catalogue
        .iter()
        .flat_map(|(coupon, drops)| drops.iter().map(move |drop| (coupon, drop)))
        .filter(|(_, drop)| drop.is_open_at(now))
        .collect();
    let keys: Vec<_> = open
        .iter()
        .map(|(coupon, drop)| stores.redis.keys(coupon.id, drop.id))
        .collect();
    let states = stores.redis.drop_states(&keys).await;
    for ((coupon, drop), state) in open.iter().zip(states) {
        let Some(state) = unless_missed(state)? else {
            continue;
        };
        let given = i64::from(drop.quantity);
        let is_sold_out = state.free == 0 && state.count.is_some_and(|count| count >= given);
        let moments = [
            (DropMoment::Opened, now - drop.opens_at < NEWLY),
            (DropMoment::SoldOut, is_sold_out),
        ];
        for (moment, _) in moments.into_iter().filter(|(_, is_now)| *is_now) {
            if posted.contains(&(drop.id, moment)) {
                continue;
            }
            notifier
                .drop_moment(&DropAtMoment {
                    moment,
                    coupon_id: coupon.id,
                    coupon_name: coupon.settings.name.clone(),
                    drop_id: drop.id,
                    quantity: drop.quantity,
                })
                .await?;
            posted.insert((drop.id, moment));
        }
    }
    // Sealed drops do not come again.
    posted.retain(|(id, _)| open.iter().any(|(_, drop)| drop.id == *id));
    Ok(())
}
